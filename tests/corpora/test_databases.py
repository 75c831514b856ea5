from pathlib import Path

import audformat
import pandas as pd
import pytest

from corpus_files import message_of, touch
from paraclap.corpora import CorpusError
from paraclap.corpora.databases import read_database
from paraclap.corpora.table import read_corpus


def save_database(root: Path, *, fields_in_table: bool = False, storage: str = "csv") -> Path:
    """Write a database of six files by two speakers, with one table per split."""
    files = [f"audio/s{number % 2 + 1}/{number}.wav" for number in range(6)]
    touch(root, *files)
    database = audformat.Database("synthetic")
    speakers = {"s1": {"gender": "female", "age": 30}, "s2": {"gender": "male", "age": 40}}
    if fields_in_table:
        index = pd.Index(speakers, name="speaker", dtype="string")
        database["people"] = audformat.MiscTable(index)
        for field in ("gender", "age"):
            database["people"][field] = audformat.Column()
            database["people"][field].set([person[field] for person in speakers.values()])
    database.schemes["speaker"] = audformat.Scheme(
        "str", labels="people" if fields_in_table else speakers
    )
    database.schemes["emotion"] = audformat.Scheme(labels=["anger", "sadness"])
    database.schemes["arousal"] = audformat.Scheme("float")
    for split, part in {"train": files[:2], "dev": files[2:4], "test": files[4:]}.items():
        database.splits[split] = audformat.Split(split)
        table = audformat.Table(audformat.filewise_index(part), split_id=split)
        database[f"emotion.{split}"] = table
        for name, values in {
            "emotion": ["anger", None],
            "speaker": ["s1", "s2"],
            "arousal": [0.25, None],
        }.items():
            table[name] = audformat.Column(scheme_id=name)
            table[name].set(values)
    database.save(str(root), storage_format=storage)
    return root


@pytest.mark.parametrize("storage", ["csv", "parquet"])
@pytest.mark.parametrize("fields_in_table", [False, True])
def test_database_tables_are_merged_with_splits_and_label_fields(
    tmp_path, fields_in_table, storage
):
    root = save_database(tmp_path, fields_in_table=fields_in_table, storage=storage)
    table = read_corpus(root)
    assert table.attrs == {"name": "synthetic", "root": str(tmp_path), "corpus": None}
    table = table.droplevel(["start", "end"]).sort_index()
    assert table["split"].tolist() == ["train", "dev", "test"] * 2
    assert table["speaker"].tolist() == ["s1"] * 3 + ["s2"] * 3
    assert table["gender"].tolist() == ["female"] * 3 + ["male"] * 3
    assert table["age"].astype(int).tolist() == [30] * 3 + [40] * 3
    assert table["emotion"].tolist()[:3] == ["anger"] * 3 and table["emotion"][3:].isna().all()
    assert table["arousal"].tolist()[:3] == [0.25] * 3


def test_values_of_a_file_are_copied_to_its_segments(tmp_path):
    root = save_database(tmp_path)
    database = audformat.Database.load(str(root))
    index = audformat.segmented_index(["audio/s1/0.wav"] * 2, ["0s", "1s"], ["1s", "2s"])
    database["parts"] = audformat.Table(index)
    database["parts"]["text"] = audformat.Column()
    database["parts"]["text"].set(["one", "two"])
    database.save(str(root))
    table = read_corpus(root)
    assert len(table) == 7, "a file with segments must not have a row of its own"
    parts = table.loc["audio/s1/0.wav"]
    assert parts["text"].tolist() == ["one", "two"] and parts["gender"].tolist() == ["female"] * 2


def test_splits_of_one_type_are_named_by_id(tmp_path):
    root = save_database(tmp_path)
    header = (root / "db.yaml").read_text()
    (root / "db.yaml").write_text(header.replace("type: dev", "type: test"))
    assert set(read_corpus(root)["split"]) == {"train", "dev", "test"}


def test_contradictory_tables_are_an_error(tmp_path):
    root = save_database(tmp_path)
    path = root / "db.emotion.test.csv"
    path.write_text(path.read_text() + "audio/s1/0.wav,anger,s2,\n")
    assert "different values of speaker for audio/s1/0.wav" in message_of(root)


def test_pickles_and_yaml_tags_are_never_run(tmp_path):
    root = save_database(tmp_path / "pickled", storage="pkl")
    assert "save the table as CSV" in message_of(root)
    root = save_database(tmp_path / "tagged")
    marker = tmp_path / "marker"
    with (root / "db.yaml").open("a") as header:
        header.write(f"evil: !!python/object/apply:os.mkdir [{marker}]\n")
    assert "tag" in message_of(root)
    assert not marker.exists()


def test_database_without_its_audio_is_an_error(tmp_path):
    root = save_database(tmp_path)
    for path in (root / "audio").rglob("*.wav"):
        path.unlink()
    assert "none of the files" in message_of(root)


def test_tables_of_a_database_can_be_selected(tmp_path):
    root = save_database(tmp_path)
    rows = read_database(root, tables=r"test$", split_pattern=r"emotion\.(\w+)")
    assert len(rows) == 2 and set(rows["split"]) == {"test"}
    with pytest.raises(CorpusError, match="no tables that match nothing"):
        read_database(root, tables="nothing")
