"""Feature tables as one stream: several tables, splits, filters, batches, duplicates."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from paraclap.captions.sources import BATCH, INDEX
from paraclap.captions.tables import row_hashes
from paraclap.captions.templates import LEVELS, InputError
from small_corpora import caption, make_corpora, make_corpus, run, stream, write


def test_speakers_are_compared_as_text(features, tmp_path):
    options = ["--validation-speakers", "02", "--test-speakers", "01,03"]
    assert run(features, "-o", tmp_path / "captions.parquet", *options) == 0
    split = pd.read_parquet(tmp_path / "captions.parquet")
    found = dict(zip(split["speaker"], split["split"], strict=True))
    expected = dict.fromkeys(["04", "05", "06"], "train")
    assert found == {"01": "test", "02": "dev", "03": "test", **expected}


def test_invalid_splits_raise():
    for change, test, message in (
        ({}, ["1"], "no speaker '1', found 01, 02"),
        ({}, ["03", "02"], "02 are both"),
        ({"speaker": None}, ["01"], "column 'speaker' without missing"),
    ):
        table = make_corpus().assign(**change)
        with pytest.raises(InputError, match=message):
            stream(table, speakers={"dev": ["02"], "test": test})


def test_several_tables_get_a_corpus_column(tmp_path):
    one, two = make_corpora(tmp_path)  # with the same names of files
    output = tmp_path / "out" / "captions.parquet"
    assert run(one, two, "-o", output) == 0
    captions = pd.read_parquet(output)
    assert list(captions["corpus"]) == ["one"] * 40 + ["two"] * 40
    assert set(captions["intensity_level"][:40]) <= {"low", "normal"}
    about = json.loads(pq.read_schema(output).metadata[b"paraclap"])
    assert about["corpora"]["two"]["root"] == "/data/two"
    assert run(one, two, "-o", output, "--edges-by", "corpus") == 0
    captions = pd.read_parquet(output)
    for part in (captions[:40], captions[40:]):
        assert part["intensity_level"].value_counts()[["low", "high"]].tolist() == [12, 12]
    assert 'intensity is high within the corpus "two"' in captions["captions"][40:].explode().array


def test_folder_of_tables_equals_one_table(tmp_path):
    table, folder = make_corpus(90), tmp_path / "features"
    folder.mkdir()
    for part in range(3):
        rows = table.iloc[30 * part : 30 * part + 30]
        write(rows.drop(columns=["note"] if part == 1 else []), folder / f"part-{part}.parquet")
    output = tmp_path / "captions.parquet"
    assert run(folder, "-o", output) == 0
    captions = pd.read_parquet(output)
    assert captions["note"].isna().sum() == 30
    assert run(write(table, tmp_path / "f.parquet"), "-o", output) == 0
    pd.testing.assert_series_equal(captions["captions"], pd.read_parquet(output)["captions"])
    assert run(folder, "-o", folder / "captions.parquet") == 1
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty", "-o", output) == 1


def test_missing_column_keeps_rows_of_a_filter_and_raises_for_a_split(tmp_path, capsys):
    one, two = tmp_path / "one.parquet", tmp_path / "two.parquet"
    write(make_corpus(40), one)
    write(make_corpus(40).drop(columns=["emotion", "speaker"]), two)
    output = tmp_path / "captions.parquet"
    assert run(one, two, "-o", output, "--filter-emotions", "sad") == 0
    assert pd.read_parquet(output)["corpus"].value_counts().to_dict() == {"two": 40, "one": 30}
    assert run(one, two, "-o", output, "--test-speakers", "01") == 1
    assert "column 'speaker' without missing values" in capsys.readouterr().err


def test_types_without_a_common_type_raise():
    with pytest.raises(InputError, match="'gender' is int64 in table, large_string before"):
        stream(make_corpus(), make_corpus().assign(gender=1))


def test_captions_do_not_depend_on_the_batch_size(tmp_path, monkeypatch):
    table = make_corpus(100)
    table.iloc[3, table.columns.get_loc("gender")] = None
    features, tables = write(table, tmp_path / "f.parquet"), []
    for size in (BATCH, 7):
        for module in ("sources", "writer"):
            monkeypatch.setattr(f"paraclap.captions.{module}.BATCH", size)
        output = tmp_path / f"{size}.parquet"
        options = ["--edges-by", "gender", "--filter-emotions", "sad", "--test-speakers", "01"]
        assert run(features, "-o", output, *options) == 0
        tables.append(pd.read_parquet(output))
        assert pq.ParquetFile(output).metadata.num_row_groups == -(-100 // size)
    pd.testing.assert_frame_equal(*tables)
    assert list(tables[1]["pitch_level"].cat.categories) == list(LEVELS)


def test_duplicate_rows_raise(tmp_path, capsys):
    one, _ = make_corpora(tmp_path)
    assert run(one, one, "-o", tmp_path / "out" / "captions.parquet") == 1
    assert "contain a row twice: file a/00000.wav" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    table = make_corpus(40)
    later = table.reset_index().assign(start=pd.Timedelta(1, "s")).set_index([*INDEX])
    assert len(caption(pd.concat([table, later]), {})) == 80  # another segment of a file


def test_hashes_of_texts_differ_and_do_not_depend_on_their_neighbours(monkeypatch):
    texts = ["", "a", "b", "ab", "ba", "a\0", "é", "x" * 300, "clip_1.wav", "clip_2.wav", "", None]
    monkeypatch.setattr("paraclap.captions.tables.HASHED", 5)
    whole = row_hashes(pa.record_batch({"file": pa.array(texts), "corpus": ["c"] * len(texts)}))
    assert whole.dtype == np.uint64
    assert len(set(whole.tolist())) == len(texts) - 2  # both "" and None are compared as rows
    for first, text in enumerate(texts):
        rows = pa.record_batch({"file": pa.array(texts), "corpus": ["c"] * len(texts)})
        assert row_hashes(rows.slice(first, 1)) == whole[first], text


def test_rows_with_equal_hashes_are_compared(monkeypatch):
    table = make_corpus(40)

    def equal(batch):
        return np.zeros(len(batch), np.uint64)

    monkeypatch.setattr("paraclap.captions.tables.row_hashes", equal)
    assert len(caption(table, {})) == 40
    with pytest.raises(InputError, match="a/00007.wav"):
        caption(pd.concat([table, table.iloc[7:8]]), {})


def test_texts_read_as_dictionaries_give_the_same_captions(tmp_path, monkeypatch, capsys):
    one, two = make_corpora(tmp_path)
    table = pd.read_parquet(two)  # as ordered categories, with one that no row has
    table["emotion"] = pd.Categorical(table["emotion"], [*table["emotion"].unique(), "bored"], True)
    table.to_parquet(two)
    tables, printed = [], []
    for size in (0, 16384):
        monkeypatch.setattr("paraclap.captions.sources.DICTIONARY_BYTES", size)
        output = tmp_path / "out" / f"{size}.parquet"
        assert run(one, two, "-o", output, "--filter-emotions", "anger") == 0
        tables.append(pq.read_table(output))
        printed.append(capsys.readouterr().out.partition("wrote")[0])
    assert printed[0] == printed[1]
    assert tables[0].equals(tables[1])
    assert tables[0].schema.equals(tables[1].schema, check_metadata=True)
    assert tables[0].schema.field("emotion").type == pa.large_string()
