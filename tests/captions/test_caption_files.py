"""Captions and edges come back from files as they were written."""

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from paraclap.captions.feature_tables import INDEX
from paraclap.captions.templates import LEVELS
from small_corpora import fit, make_corpus, run, write


def test_files_repeat_to_the_byte_and_nothing_else_is_left(features, tmp_path):
    names, contents = ["captions.edges.json", "captions.parquet"], []
    for folder in (tmp_path / "one", tmp_path / "two"):
        assert run(features, "-o", folder / "captions.parquet") == 0
        assert sorted(path.name for path in folder.iterdir()) == names
        contents.append([(folder / name).read_bytes() for name in names])
    assert contents[0] == contents[1]


def test_60000_rows_repeat_to_the_byte_and_shuffled_ones_row_by_row(tmp_path):
    table, files = make_corpus(60_000), []
    orders = [table, table, table.sample(frac=1, random_state=1)]
    for number, rows in enumerate(orders):
        output = tmp_path / str(number) / "captions.parquet"
        features = write(rows, tmp_path / f"features{number}.parquet")
        assert run(features, "-o", output, "--test-speakers", "01") == 0
        files.append([output.read_bytes(), output.with_name("captions.edges.json").read_bytes()])
    assert files[0] == files[1] and files[0][0] != files[2][0]
    assert json.loads(files[0][1]) == json.loads(files[2][1])
    first, shuffled = (
        pq.read_table(tmp_path / name / "captions.parquet").sort_by("file") for name in "02"
    )
    assert first.equals(shuffled)


def test_files_carry_index_labels_levels_and_metadata(features, tmp_path):
    table, output = make_corpus(), tmp_path / "captions.parquet"
    columns = write(table.reset_index(), tmp_path / "columns.parquet")
    stored = pq.read_table(features)
    metadata = {**stored.schema.metadata, b"opensmile": b'{"version": "2.6.0"}'}
    pq.write_table(stored.replace_schema_metadata(metadata), features)
    assert run(features, "-o", output, "--test-speakers", "05,06") == 0
    captions = pd.read_parquet(output)
    assert run(columns, "-o", output, "--test-speakers", "05,06") == 0
    pd.testing.assert_frame_equal(pd.read_parquet(output), captions)
    assert run(features, "-o", output, "--test-speakers", "05,06") == 0
    assert captions.index.equals(table.index) and captions.index.names == list(INDEX)
    pd.testing.assert_frame_equal(captions[["note", "speaker"]], table[["note", "speaker"]])
    assert set(captions["split"]) == {"train", "test"}
    assert list(captions["pitch_level"].cat.categories) == list(LEVELS)
    metadata = pq.read_schema(output).metadata
    assert metadata[b"opensmile"] == b'{"version": "2.6.0"}'
    beside = json.loads((tmp_path / "captions.edges.json").read_text())
    assert json.loads(metadata[b"edges"]) == beside
    assert "emotion" in json.loads(metadata[b"templates"])


def test_failed_write_leaves_the_previous_file_whole(features, tmp_path, monkeypatch):
    output = tmp_path / "captions.parquet"
    assert run(features, "-o", output) == 0
    before = output.read_bytes()

    edges = (tmp_path / "captions.edges.json").read_bytes()

    def fail(writer, batch, size):
        raise OSError("disk is full")

    monkeypatch.setattr(pq.ParquetWriter, "write_batch", fail)
    assert run(features, "-o", output, "--descriptors", "pitch") == 1
    assert output.read_bytes() == before
    assert (tmp_path / "captions.edges.json").read_bytes() == edges
    assert not list(tmp_path.glob(".*"))


def test_other_columns_pass_through_as_they_are(tmp_path):
    table = make_corpus(30)
    table["quality"] = ["clipped", None, "ok; truncated"] * 10
    table["fold"], table["sure"] = np.arange(30), [True, False, None] * 10
    table["kind"] = pd.Categorical(["b", "a", None] * 10, ["c", "b", "a"], ordered=True)
    output = tmp_path / "captions.parquet"
    assert run(write(table, tmp_path / "f.parquet"), "-o", output) == 0
    names = ["quality", "fold", "sure", "kind"]
    pd.testing.assert_frame_equal(pd.read_parquet(output)[names], table[names])


def test_table_without_rows_still_becomes_a_file(features, tmp_path):
    output = tmp_path / "captions.parquet"
    with pytest.warns(UserWarning):
        fit(make_corpus().iloc[:0])
    assert run(write(make_corpus().iloc[:0], features), "-o", output, "--preview", 2) == 0
    assert str(pq.read_schema(output).field("captions").type) == "list<element: string not null>"
