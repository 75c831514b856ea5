"""Tables of features as one stream: several of them, splits, filters, batches."""

import json

import pandas as pd
import pyarrow.parquet as pq
import pytest

from paraclap.captions.feature_tables import BATCH
from paraclap.captions.input_errors import InputError
from paraclap.captions.survey import survey
from paraclap.captions.templates import LEVELS
from small_corpora import make_corpora, make_corpus, run, stream, write


def test_speakers_are_compared_as_text(features, tmp_path):
    options = ["--validation-speakers", "02", "--test-speakers", "01,03"]
    assert run(features, "-o", tmp_path / "captions.parquet", *options) == 0
    split = pd.read_parquet(tmp_path / "captions.parquet")
    found = dict(zip(split["speaker"], split["split"], strict=True))
    expected = dict.fromkeys(["04", "05", "06"], "train")
    assert found == {"01": "test", "02": "dev", "03": "test", **expected}


def test_impossible_splits_are_refused():
    for change, test, message in (
        ({}, ["1"], "no speaker '1', found 01, 02"),
        ({}, ["03", "02"], "02 are both"),
        ({"speaker": None}, ["01"], "column 'speaker' without missing"),
    ):
        table = make_corpus().assign(**change)
        with pytest.raises(InputError, match=message):
            survey(stream(table, speakers={"dev": ["02"], "test": test}), [])
            stream(table, speakers={"dev": ["02"], "test": test}).check_names()


def test_filtered_emotions_are_gone_and_others_stay(tmp_path, capsys):
    table = make_corpus()
    table.iloc[0, table.columns.get_loc("emotion")] = None
    features, output = write(table, tmp_path / "f.parquet"), tmp_path / "captions.parquet"
    assert run(features, "-o", output, "--filter-emotions", "No_agreement,joy") == 0
    assert "no row has emotion 'joy'" in capsys.readouterr().err
    left = pd.read_parquet(output)
    assert left["emotion"].value_counts(dropna=False)["neutral"] == 15
    assert len(left) == 45 and left["emotion"].isna().sum() == 1


def test_several_tables_are_told_apart_by_their_corpus(tmp_path):
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


def test_folder_of_tables_is_one_table(tmp_path):
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


def test_table_without_the_named_column_keeps_its_rows_or_is_refused(tmp_path, capsys):
    one, two = tmp_path / "one.parquet", tmp_path / "two.parquet"
    write(make_corpus(40), one)
    write(make_corpus(40).drop(columns=["emotion", "speaker"]), two)
    output = tmp_path / "captions.parquet"
    assert run(one, two, "-o", output, "--filter-emotions", "sad") == 0
    assert pd.read_parquet(output)["corpus"].value_counts().to_dict() == {"two": 40, "one": 30}
    assert run(one, two, "-o", output, "--test-speakers", "01") == 1
    assert "column 'speaker' without missing values" in capsys.readouterr().err


def test_types_that_do_not_fit_together_are_refused():
    with pytest.raises(InputError, match="'gender' is int64 in table, large_string before"):
        stream(make_corpus(), make_corpus().assign(gender=1))


def test_size_of_batches_changes_nothing(tmp_path, monkeypatch):
    table = make_corpus(100)
    table.iloc[3, table.columns.get_loc("gender")] = None
    features, tables = write(table, tmp_path / "f.parquet"), []
    for size in (BATCH, 7):
        for room in ("feature_tables", "caption_files"):
            monkeypatch.setattr(f"paraclap.captions.{room}.BATCH", size)
        output = tmp_path / f"{size}.parquet"
        options = ["--edges-by", "gender", "--filter-emotions", "sad", "--test-speakers", "01"]
        assert run(features, "-o", output, *options) == 0
        tables.append(pd.read_parquet(output))
        assert pq.ParquetFile(output).metadata.num_row_groups == -(-100 // size)
    pd.testing.assert_frame_equal(*tables)
    assert list(tables[1]["pitch_level"].cat.categories) == list(LEVELS)
