"""Figure of edges and levels."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from matplotlib.collections import LineCollection
from matplotlib.text import Text

from paraclap.captions import plot as plot_module
from paraclap.captions.plot import level_proportions
from paraclap.captions.templates import LEVELS
from small_corpora import INTENSITY, PITCH, captioner_of, fit, make_corpus, run


def test_proportions_in_the_figure_equal_those_of_the_captions():
    table = make_corpus(200)
    table[INTENSITY.column] += np.where(table["emotion"] == "sad", 0.2, 0).astype(np.float32)
    captioner = captioner_of(table, fit(table, [INTENSITY]), [INTENSITY])
    frame = pa.Table.from_batches(list(captioner.batches())).to_pandas()
    proportions, emotions, columns = level_proportions(captioner)
    assert emotions == ["all rows", "anger", "neutral", "sadness"]
    assert columns == [("intensity", level) for level in LEVELS]
    levels = frame["intensity_level"].astype(str)
    expected = pd.crosstab(frame["emotion"], levels, normalize="index")[list(LEVELS)]
    np.testing.assert_allclose(proportions[1:], expected.loc[["anger", "neutral", "sad"]])
    np.testing.assert_allclose(proportions[0], [0.3, 0.4, 0.3], atol=0.01)


@pytest.mark.parametrize("options", ["", "--edges-by gender"])
def test_figure_is_written(features, tmp_path, options):
    figure = tmp_path / "new" / "edges.png"
    assert run(features, "--plot", figure, *options.split()) == 0
    assert figure.read_bytes().startswith(b"\x89PNG") and figure.stat().st_size > 10_000
    assert [path.name for path in figure.parent.iterdir()] == ["edges.png"]
    assert run(features, "--plot", tmp_path / "edges.txt") == 1
    assert run(features, "--plot", tmp_path / "b.png", "--descriptors", "emotion") == 1
    assert not (tmp_path / "b.png").exists()


def test_edges_are_drawn_over_the_training_clips_in_hertz(tmp_path, monkeypatch):
    table = make_corpus(200)
    table["split"] = ["train"] * 150 + ["test"] * (len(table) - 150)
    captioner = captioner_of(table, fit(table, [PITCH]), [PITCH])
    list(captioner.batches())  # counts the levels
    drawn = []
    monkeypatch.setattr(plot_module, "write_figure", lambda figure, path: drawn.append(figure))
    plot_module.plot(captioner, tmp_path / "edges.pdf")
    upper, lower = drawn[0].subfigs
    (axes,) = upper.axes
    assert "150 training clips" in upper.get_suptitle() and axes.get_xlabel() == "Hz"
    bounds = captioner.edges["pitch"].groups[()]
    expected = [27.5 * 2 ** (edge / 12) for edge in (bounds.low, bounds.high)]
    lines = [c for c in axes.collections if isinstance(c, LineCollection)]
    assert [line.get_segments()[0][0, 0] for line in lines] == pytest.approx(expected)
    assert axes.get_title() == "pitch, normal: {:.3g} to {:.3g}".format(*expected)
    sizes = [text.get_fontsize() for text in drawn[0].findobj(Text) if text.get_text()]
    assert min(sizes) >= 7
