"""Figure of edges and levels."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from paraclap.captions.plot import level_proportions
from paraclap.captions.templates import LEVELS
from small_corpora import INTENSITY, captioner_of, fit, make_corpus, run


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
