"""Labels of features tables are normalised in batches as in one table."""

import pandas as pd
import pytest

from paraclap.corpora.labels import normalise_labels
from small_corpora import make_corpus, run, write


def respelled(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with other spellings of the labels in every third row."""
    emotion = table["emotion"].replace("no agreement", None)
    table = table.assign(emotion=emotion, split=["train", "train", "dev", "test"] * 15)
    third = [row % 3 == 0 for row in range(len(table))]
    words = {"sad": "Sadness ", "anger": "ANGRY", "neutral": " neutral"}
    return table.assign(
        emotion=emotion.mask(third, emotion.map(words).fillna("n/a")),
        gender=table["gender"].mask(third, table["gender"].map({"female": "F", "male": "Mann"})),
        speaker=table["speaker"].mask(third, table["speaker"] + " "),
        split=table["split"].mask(third, table["split"].str.title()),
    )


@pytest.mark.parametrize("batch", [7, 32768])
@pytest.mark.parametrize("corpora", [1, 2])
def test_captions_of_respelled_labels_are_those_of_normalised_ones(
    tmp_path, monkeypatch, capsys, batch, corpora
):
    monkeypatch.setattr("paraclap.captions.sources.BATCH", batch)
    table, outputs = respelled(make_corpus()), []
    if corpora == 2:
        table["corpus"] = ["one", "two"] * 30
    clean = normalise_labels(table, report=False)
    for name, part in (("respelled", table), ("clean", clean)):
        outputs.append(tmp_path / f"{name}.parquet")
        features = write(part, tmp_path / f"{name}_features.parquet")
        assert run(features, "-o", outputs[-1], "--edges-by", "gender") == 0
        assert ("labels normalised: " in capsys.readouterr().err) == (name == "respelled")
    found, expected = map(pd.read_parquet, outputs)
    pd.testing.assert_frame_equal(found, expected)
    assert set(found["gender"]) == {"female", "male"} and found["speaker"].nunique() == 6
    edges = [path.with_name(f"{path.stem}.edges.json").read_bytes() for path in outputs]
    assert edges[0] == edges[1]


def test_names_of_parts_of_a_split_are_kept(tmp_path):
    names = ["Train", "Development", "test1", "test2", "test 2", "train"]
    features = write(make_corpus(60).assign(split=names * 10), tmp_path / "f.parquet")
    assert run(features, "-o", tmp_path / "c.parquet") == 0
    captions = pd.read_parquet(tmp_path / "c.parquet")
    assert captions["split"].value_counts().to_dict() == {"test": 30, "train": 20, "dev": 10}
    assert captions["original_split"].iloc[:5].tolist() == [*map(str.lower, names[:5])]
