"""Rows that stand twice are found, whatever their hashes."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from paraclap.captions.feature_tables import INDEX
from paraclap.captions.hashing import hash_texts
from paraclap.captions.input_errors import InputError
from small_corpora import caption, make_corpora, make_corpus, run


def test_row_that_stands_twice_is_refused(tmp_path, capsys):
    one, _ = make_corpora(tmp_path)
    assert run(one, one, "-o", tmp_path / "out" / "captions.parquet") == 1
    assert "stands twice in the features: file a/00000.wav" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    table = make_corpus(40)
    later = table.reset_index().assign(start=pd.Timedelta(1, "s")).set_index([*INDEX])
    assert len(caption(pd.concat([table, later]), {})) == 80  # another segment of a file


def test_equal_hashes_of_different_rows_are_looked_at_again(monkeypatch):
    table = make_corpus(40)
    equal = lambda batch, _: np.zeros(len(batch), np.uint64)  # noqa: E731
    monkeypatch.setattr("paraclap.captions.survey.hash_rows", equal)
    assert len(caption(table, {})) == 40
    with pytest.raises(InputError, match="a/00007.wav"):
        caption(pd.concat([table, table.iloc[7:8]]), {})


def test_hashes_tell_names_of_files_apart():
    names = [f"a/{row:05d}.wav" for row in range(20_000)] + ["", "a", "b", "ab", "ba", "\0", "ü"]
    hashes = hash_texts(pa.array(names).slice(5))
    assert len(set(hashes.tolist())) == len(names) - 5
    assert (hash_texts(pa.array(names[5:]).dictionary_encode()) == hashes).all()
