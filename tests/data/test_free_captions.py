"""Free captions: tables of one's own in every form, and what becomes of their faults."""

import json
import warnings

import audformat
import pandas as pd
import pytest

from corpus_files import touch
from paraclap.corpora import CorpusError
from paraclap.data import free_captions
from paraclap.data.captions import FREE, ClipPhrases, caption_texts
from paraclap.data.free_captions import is_own_table, read_any_captions
from paraclap.data.label_captions import caption_table, with_captions
from paraclap.settings import CorpusSettings, DataSettings, Settings
from paraclap.training.tables import read_tables

LIST = ["She shouts", "An angry woman"]
ROWS = {"a.wav": LIST, "b.wav": ["a calm man"]}


@pytest.fixture
def folder(tmp_path):
    return touch(tmp_path, "a.wav", "b.wav", "c.wav")


def stored(folder, form):
    """Write the captions `ROWS` in a form; returns the path of the table."""
    path = folder / f"my.{form.split()[0]}"
    rows = pd.DataFrame([(f, t) for f, texts in ROWS.items() for t in texts])
    rows = rows.set_axis(["file", "caption"], axis=1)
    lists = pd.DataFrame({"file_name": list(ROWS), "captions": list(ROWS.values())})
    if form == "csv":
        rows.rename(columns=str.title).to_csv(path, index=False)
    elif form == "csv of lists":
        lists.assign(captions=lists["captions"].map(json.dumps)).to_csv(path, index=False)
    elif form == "tsv":
        rows.to_csv(path, sep="\t", index=False)
    elif form == "jsonl":
        lists.to_json(path, orient="records", lines=True)
    elif form == "parquet":
        lists.rename(columns={"file_name": "file"}).to_parquet(path)
    else:
        path = folder / "audformat"
        database = audformat.Database("mine")
        database.schemes["text"] = audformat.Scheme("str")
        for number in range(2):
            rows = [(file, texts[number]) for file, texts in ROWS.items() if number < len(texts)]
            index = audformat.filewise_index([file for file, _ in rows])
            table = database[f"part{number}"] = audformat.Table(index)
            table["caption"] = audformat.Column(scheme_id="text")
            table["caption"].set([text for _, text in rows])
        database.save(path, storage_format="csv")
        touch(path, *ROWS)
    return path


@pytest.mark.parametrize("form", ["csv", "csv of lists", "tsv", "jsonl", "parquet", "audformat"])
def test_every_form_of_a_table_has_the_same_captions(folder, form):
    path = stored(folder, form)
    assert is_own_table(path)
    table = read_any_captions(path)
    assert list(table.index.get_level_values("file")) == list(ROWS)
    assert list(ClipPhrases(table)) == [{FREE: texts} for texts in ROWS.values()]
    assert list(caption_texts(table)) == [text for texts in ROWS.values() for text in texts]
    root = caption_table(path, folder / "run" / "captions.parquet", root=folder)
    assert root == str(path if form == "audformat" else folder)
    written = read_any_captions(folder / "run" / "captions.parquet")
    assert list(ClipPhrases(written)) == list(ClipPhrases(table))


def test_labels_of_a_table_with_captions_become_phrases(folder):
    path = folder / "my.csv"
    path.write_text("file,caption,emotion\na.wav,She shouts,anger\nb.wav,,sadness\nc.wav,Hm,\n")
    with pytest.warns(UserWarning, match=r"my: 1 clips have no caption, or .*, e\.g\. b\.wav"):
        caption_table(path, folder / "captions.parquet")
    first, second, third = ClipPhrases(pd.read_parquet(folder / "captions.parquet"))
    assert first[FREE] == ["She shouts"] and "emotion is anger" in first["emotion"]
    assert "emotion is sadness" in second["emotion"] and FREE not in second
    assert third == {FREE: ["Hm"]}


def test_captions_table_with_captions_of_ones_own_has_both(folder):
    table = pd.DataFrame(
        {
            "file": ["a.wav", "b.wav", "c.wav"],
            "caption": ["She shouts", None, "Hm"],
            "captions": [["pitch is low"], ["pitch is high", "emotion is fear"], []],
            "caption_descriptors": [["pitch"], ["pitch", "emotion"], []],
        }
    )
    table.to_parquet(folder / "both.parquet")
    settings = Settings(output=str(folder / "run"))
    settings.data = DataSettings(
        root=str(folder), captions=str(folder / "both.parquet"), validation_speakers=0
    )
    with pytest.warns(UserWarning, match=r"1 clips have no caption, or an empty one, e\.g\. b"):
        train, _ = read_tables(with_captions(settings))
    assert list(ClipPhrases(train)) == [
        {"pitch": ["pitch is low"], FREE: ["She shouts"]},
        {"pitch": ["pitch is high"], "emotion": ["emotion is fear"]},
        {FREE: ["Hm"]},
    ]


def test_corpora_with_templates_captions_and_labels_are_mixed(folder):
    (folder / "labels.csv").write_text("file,emotion\na.wav,anger\n")
    (folder / "free.csv").write_text("file,caption\na.wav,She shouts\nb.wav,Hm\n")
    caption_table(folder / "labels.csv", folder / "templates.parquet")
    corpora = {
        "labels": CorpusSettings(captions=str(folder / "labels.csv")),
        "free": CorpusSettings(captions=str(folder / "free.csv")),
        "templates": CorpusSettings(str(folder), str(folder / "templates.parquet")),
    }
    data = DataSettings(corpora=corpora, validation_speakers=0)
    train, _ = read_tables(with_captions(Settings(output=str(folder / "run"), data=data)))
    found = dict(zip(train.index.get_level_values("file"), ClipPhrases(train), strict=True))
    assert {file: set(phrases) for file, phrases in found.items()} == {
        "labels/a.wav": {"emotion"},
        "free/a.wav": {FREE},
        "free/b.wav": {FREE},
        "templates/a.wav": {"emotion"},
    }


LONG = "x " * free_captions.LONGEST


@pytest.mark.parametrize(
    "rows, expected, warned",
    [
        ("a.wav,  \na.wav,Hm\n", {"a.wav": ["Hm"]}, "1 clips have no caption, or an empty one"),
        (f"a.wav,{LONG}\nb.wav,Hm\n", {"a.wav": [], "b.wav": ["Hm"]}, "a caption of over 5000"),
        ("a.wav,Hm\na.wav, hm  \n", {"a.wav": ["hm"]}, None),
        ("a.wav,[laughs] hi\n", {"a.wav": ["[laughs] hi"]}, None),
        ("a.wav,caf\u0065\u0301\n", {"a.wav": ["caf\u00e9"]}, None),
    ],
)
def test_faults_of_captions_are_counted_and_named(folder, rows, expected, warned):
    (folder / "my.csv").write_text(f"file,caption\n{rows}", encoding="utf-8")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        table = read_any_captions(folder / "my.csv")
    assert [str(w.message) for w in caught if warned is None or warned not in str(w.message)] == []
    assert len(caught) == (warned is not None)
    files = table.index.get_level_values("file")
    assert dict(zip(files, map(list, table["captions"]), strict=True)) == expected


def test_segments_and_rows_that_contradict_each_other(folder):
    (folder / "my.csv").write_text(
        "file,start,end,caption,split,emotion,note\n"
        "a.wav,0,1,one,train,anger,x\n./a.wav,0,1,two,validation,Angry,y\n"
        "a.wav,1,2,three,train,fear,z\n"
        "b.wav,,,four,dev,fear,\nb.wav,,,five,test,joy,\n"
    )
    settings = Settings(output=str(folder / "run"))
    settings.data.captions = str(folder / "my.csv")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        captioned = with_captions(settings)
    texts = [str(w.message) for w in caught]
    assert any("differ in split (2, such as a.wav); such a clip is used in" in t for t in texts)
    assert any("differ in emotion (1, such as b.wav); missing there" in t for t in texts)
    table = pd.read_parquet(captioned.data.captions)
    assert table["split"].tolist() == ["dev", "train", "test"]
    assert table["emotion"].fillna("").tolist() == ["anger", "fear", ""]
    assert [p[FREE] for p in ClipPhrases(table)] == [["one", "two"], ["three"], ["four", "five"]]


@pytest.mark.parametrize(
    "rows, message",
    [
        ([{"file": "a.wav", "caption": 5}], "a caption of a.wav is 5.*, expected a text"),
        ([{"file": "a.wav", "caption": {"en": "Hm"}}], "a caption of a.wav is {'en': 'Hm'}"),
        ([{"file": "a.wav", "captions": "['Hm' 'Ha']"}], "expected a text or a JSON list"),
        ([{"file": "a.wav", "text": "Hm"}], "has the columns text, expected a column 'caption'"),
    ],
)
def test_values_that_are_no_texts_are_refused_by_name(folder, rows, message):
    (folder / "my.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(CorpusError, match=message):
        read_any_captions(folder / "my.jsonl")
