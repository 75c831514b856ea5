"""The picture shows what the captions say."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from paraclap.captions.captions import Captioner, captions_of
from paraclap.captions.picture import shares_of
from paraclap.captions.survey import survey
from paraclap.captions.templates import LEVELS
from small_corpora import EXTENDED, INTENSITY, fit, make_corpus, run, stream


def test_shares_in_the_picture_are_those_of_the_captions():
    table = make_corpus(200)
    table[INTENSITY.column] += np.where(table["emotion"] == "sad", 0.2, 0).astype(np.float32)
    features = stream(table)
    chosen = [INTENSITY]
    found = survey(features, chosen)
    captioner = Captioner(features, found, chosen, EXTENDED, fit(table, chosen))
    frame = pa.Table.from_batches(list(captions_of(features, captioner))).to_pandas()
    shares, emotions, columns = shares_of(captioner)
    assert emotions == ["all rows", "anger", "neutral", "sadness"]
    assert columns == [("intensity", level) for level in LEVELS]
    levels = frame["intensity_level"].astype(str)
    expected = pd.crosstab(frame["emotion"], levels, normalize="index")[list(LEVELS)]
    np.testing.assert_allclose(shares[1:], expected.loc[["anger", "neutral", "sad"]])
    np.testing.assert_allclose(shares[0], [0.3, 0.4, 0.3], atol=0.01)


@pytest.mark.parametrize("options", ["", "--edges-by gender"])
def test_picture_is_drawn(features, tmp_path, options):
    picture = tmp_path / "new" / "edges.png"
    assert run(features, "--plot", picture, *options.split()) == 0
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 10_000
    assert [path.name for path in picture.parent.iterdir()] == ["edges.png"]
    assert run(features, "--plot", tmp_path / "edges.txt") == 1
    assert run(features, "--plot", tmp_path / "b.png", "--descriptors", "emotion") == 1
    assert not (tmp_path / "b.png").exists()
