"""Captions tables in memory: the rows that pandas reads, in a fraction of the memory."""

import pickle

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from paraclap.corpora import CorpusError
from paraclap.corpora.validation import INDEX_COLUMNS
from paraclap.data import tables
from paraclap.data.tables import Lists, read_caption_table, refuse_repeated
from small_corpora import make_corpus, run, write

COLUMNS = ["captions", "caption_descriptors"]


@pytest.fixture
def written(tmp_path):
    """Captions of a small corpus, some of whose rows have other numbers of phrases."""
    table = make_corpus(300)
    table.loc[table.index[::7], "emotion"] = None
    output = tmp_path / "captions.parquet"
    assert run(write(table, tmp_path / "f.parquet"), "-o", output) == 0
    return output


def as_lists(column):
    return [list(row) for row in column]


@pytest.mark.parametrize("rows", [7, 16384])
def test_rows_and_subsets_equal_those_of_pandas(written, monkeypatch, rows):
    monkeypatch.setattr(tables, "ROWS", rows)
    table, expected = read_caption_table(written, COLUMNS), pd.read_parquet(written)
    pd.testing.assert_frame_equal(table.drop(columns=COLUMNS), expected.drop(columns=COLUMNS))
    assert list(table) == list(expected)
    men = table["gender"] == "male"
    for part, same in ((table, expected), (table[men], expected[men.to_numpy()]), (table[:0],) * 2):
        for name in COLUMNS:
            lists = Lists(part[name])
            assert list(lists) == as_lists(same[name]) == list(Lists(same[name]))
            assert lists.texts() == sorted({text for row in same[name] for text in row})
            assert list(pickle.loads(pickle.dumps(lists))) == list(lists)


def test_other_list_types_empty_and_missing_lists_are_read(tmp_path):
    path = tmp_path / "captions.parquet"
    rows = [["a", "b"], [], None, ["b"], ["c"] * 3]
    for kind in (pa.list_(pa.string()), pa.large_list(pa.large_string())):
        pq.write_table(pa.table({"captions": pa.array(rows, kind), "file": list("abcde")}), path)
        table = read_caption_table(path, ["captions"])
        assert list(Lists(table["captions"])) == [row or [] for row in rows]
        assert table["captions"].list.len().isna().tolist() == [row is None for row in rows]


def test_more_texts_than_fit_one_byte(tmp_path):
    rows = [[f"text {row}", f"text {row + 1}"] for row in range(1000)]
    table = pd.DataFrame({"captions": rows, "file": [f"{row}.wav" for row in range(1000)]})
    table.to_parquet(tmp_path / "t.parquet", row_group_size=100)
    lists = Lists(read_caption_table(tmp_path / "t.parquet", ["captions"])["captions"])
    assert list(lists) == rows and len(lists.texts()) == 1001


def test_row_outside_is_refused(written):
    lists = Lists(read_caption_table(written, COLUMNS)["captions"])
    assert len(lists) == 300
    for row in (-1, 300):
        with pytest.raises(IndexError, match=f"row {row} of 300"):
            lists[row]


def test_a_phrase_takes_one_byte(written):
    table = read_caption_table(written, COLUMNS)
    for name in COLUMNS:
        phrases = sum(map(len, Lists(table[name])))
        texts = sum(len(text) + 8 for text in Lists(table[name]).texts())
        assert table[name].array.nbytes < phrases + 8 * len(table) + texts


@pytest.mark.parametrize("kept", [["file", "start", "end"], ["file"]])
def test_clips_may_be_columns(written, tmp_path, kept):
    rows = pd.read_parquet(written).reset_index()
    rows.drop(columns=set(INDEX_COLUMNS) - set(kept)).to_parquet(tmp_path / "columns.parquet")
    table, expected = (
        read_caption_table(p, COLUMNS) for p in (tmp_path / "columns.parquet", written)
    )
    assert table.index.tolist() == expected.index.tolist()
    assert list(table) == list(expected)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"captions": "pitch is high"}, "column captions holds .*string, expected lists of texts"),
        ({"captions": 1}, "column captions holds int64, expected lists of texts"),
        ({"file": None}, "no column file"),
    ],
)
def test_other_tables_are_refused_in_one_sentence(written, tmp_path, change, message):
    rows = pd.read_parquet(written).reset_index()
    rows = rows.drop(columns="file") if change == {"file": None} else rows.assign(**change)
    rows.to_parquet(tmp_path / "odd.parquet")
    with pytest.raises(CorpusError, match=message):
        read_caption_table(tmp_path / "odd.parquet", COLUMNS)


def test_a_clip_with_two_rows_is_refused(written):
    table = read_caption_table(written, COLUMNS)
    refuse_repeated(table, written)
    with pytest.raises(CorpusError, match="00003.wav from 0 s occurs twice"):
        refuse_repeated(table.iloc[[0, 3, 3]], written)
