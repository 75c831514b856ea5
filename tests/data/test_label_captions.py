"""Captions of a table of labels."""

import pandas as pd
import pytest

from paraclap.captions.templates import default_descriptors, phrases_of
from paraclap.corpora import CorpusError
from paraclap.data.label_captions import caption_table, with_captions
from paraclap.settings import CorpusSettings, DataSettings, Settings
from paraclap.training.config import check_paths
from paraclap.training.tables import read_tables


@pytest.fixture
def labels(tmp_path):
    """A table of the emotions of six files, which need not be audio."""
    rows = [f"clip{number}.wav,{['angry', 'weary of it'][number % 2]}" for number in range(6)]
    for number in range(6):
        (tmp_path / f"clip{number}.wav").touch()
    (tmp_path / "my.csv").write_text("\n".join(["file,emotion", *rows]) + "\n")
    return tmp_path / "my.csv"


def test_captions_equal_those_of_template_creation(labels, tmp_path):
    root = caption_table(labels, tmp_path / "out" / "captions.parquet")
    assert root == str(tmp_path)
    table = pd.read_parquet(tmp_path / "out" / "captions.parquet")
    emotion = {d.name: d for d in default_descriptors()}["emotion"]
    for label, phrases in zip(table["emotion"], table["captions"], strict=True):
        assert tuple(phrases) == phrases_of(emotion, label)
    assert "the speaker sounds angry" in table["captions"].iloc[0]
    assert {name for row in table["caption_descriptors"] for name in row} == {"emotion"}
    assert list(table.index.get_level_values("file")) == [f"clip{n}.wav" for n in range(6)]


def test_each_corpus_may_have_a_table_of_labels(labels, tmp_path):
    captions = tmp_path / "b.parquet"
    caption_table(labels, captions)
    corpora = {
        "a": CorpusSettings(captions=str(labels)),
        "b": CorpusSettings(root=str(tmp_path), captions=str(captions)),
    }
    data = DataSettings(corpora=corpora, validation_speakers=0)
    settings = Settings(output=str(tmp_path / "run"), data=data)
    settings.model.audio.config = {"model_type": "wav2vec2"}
    check_paths(settings)
    settings = with_captions(settings)
    assert settings.data.corpora == {
        "a": CorpusSettings(str(tmp_path), str(tmp_path / "run" / "captions.a.parquet")),
        "b": corpora["b"],
    }
    train, _ = read_tables(settings)
    assert train["corpus"].value_counts().to_dict() == {"a": 6, "b": 6}
    first, second = (train[train["corpus"] == name]["captions"].map(list) for name in "ab")
    assert first.tolist() == second.tolist()


def test_custom_templates_and_another_audio_folder(labels, tmp_path):
    words = "mood: {column: mood, kind: label, phrases: {'?': ['in a {label} mood']}}\n"
    (tmp_path / "words.yaml").write_text(words)
    (tmp_path / "tables").mkdir()
    table = tmp_path / "tables" / "moods.tsv"
    table.write_text("file\tmood\nclip0.wav\tfoul\nclip1.wav\tsunny\n")
    captions = tmp_path / "captions.parquet"
    root = caption_table(table, captions, [str(tmp_path / "words.yaml")], tmp_path)
    assert root == str(tmp_path)
    written = pd.read_parquet(captions)["captions"]
    assert [list(row) for row in written] == [["in a foul mood"], ["in a sunny mood"]]


def test_table_without_columns_of_the_templates_is_refused(labels, tmp_path):
    labels.write_text("file,mood\nclip0.wav,foul\n")
    with pytest.raises(CorpusError, match=r"\['mood'\].*expected 'caption' or some of .*'emotion'"):
        caption_table(labels, tmp_path / "captions.parquet")
