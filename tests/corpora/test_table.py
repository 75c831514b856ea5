import os
from pathlib import Path

import audformat
import numpy as np
import pandas as pd
import pytest

from corpus_files import message_of, touch, write
from paraclap.corpora import CorpusError
from paraclap.corpora.catalogue import CORPORA, Corpus
from paraclap.corpora.labels import NUMBER_COLUMNS
from paraclap.corpora.table import read_corpus, scored_classes, split_source

DATA = Path(os.environ.get("PARACLAP_DATA", Path(__file__).resolve().parents[2] / "../shared/data"))
RAVDESS_NOUNS = {
    "neutral": "neutral",
    "calm": "calm",
    "happy": "happiness",
    "sad": "sadness",
    "angry": "anger",
    "fearful": "fear",
    "disgust": "disgust",
    "surprised": "surprise",
}
pytestmark = pytest.mark.filterwarnings("ignore:.*expected ")


def files_of(table: pd.DataFrame) -> list[str]:
    return list(table.index.get_level_values("file"))


# --- The corpora known by name -------------------------------------------------------------------


@pytest.mark.parametrize("name, clips", [("ravdess", 1440), ("emodb", 535)])
def test_real_corpus_has_its_published_size_and_labels(name, clips):
    if not (DATA / name).is_dir():
        pytest.skip(f"{DATA / name} does not exist (set PARACLAP_DATA)")
    table = read_corpus(f"{name}={DATA / name}")
    expected = pd.read_csv(DATA / f"{name}.csv", dtype=str, keep_default_na=False)
    assert len(table) == clips
    assert files_of(table) == sorted(expected["file"])
    expected = expected.set_index("file").loc[files_of(table)]
    if name == "ravdess":  # the labels of the corpus are adjectives
        table["emotion"] = table["emotion"].map(RAVDESS_NOUNS)
    shared = table.columns.intersection(expected.columns)
    assert {"emotion", "speaker", "gender", "language", "text_id"} <= set(shared)
    for column in shared:
        kind = "float64" if column in NUMBER_COLUMNS else "str"
        found, wanted = (frame[column].astype(kind).tolist() for frame in (table, expected))
        assert found == wanted, column


def test_wrong_root_is_an_error_with_expected_and_found_files(tmp_path):
    touch(tmp_path, "speech/readme.txt")
    for source in (f"ravdess={tmp_path}", f"ravdess={tmp_path}/none"):
        message = message_of(source)
        assert str(tmp_path) in message and "Actor_01/03-01" in message
    assert "found: speech" in message_of(f"emodb={tmp_path}")


def test_unknown_code_in_a_name_is_an_error(tmp_path):
    touch(tmp_path, "Actor_01/03-01-09-02-02-01-01.wav")
    assert "'09'" in message_of(f"ravdess={tmp_path}")


def test_same_recording_twice_is_an_error(tmp_path):
    touch(tmp_path, "wav/03a01Fa.wav", "wav/03a01Fa.flac")
    assert "same recording" in message_of(f"emodb={tmp_path}")
    assert "same recording" in message_of(tmp_path)


def test_other_files_and_missing_clips_give_a_warning(tmp_path):
    touch(tmp_path, "wav/03a01Fa.wav", "wav/noise.wav")
    with pytest.warns(UserWarning, match=r"1 audio files .*noise\.wav"):
        read_corpus(f"emodb={tmp_path}")
    with pytest.warns(UserWarning, match="contains 1 clips .* expected 535"):
        read_corpus(f"emodb={tmp_path}")


def test_unknown_corpus_is_an_error_with_the_nearest_name():
    message = message_of("ravdes=/data")
    assert "emodb, urdu" in message and "did you mean ravdess?" in message


def test_path_may_contain_an_equals_sign(tmp_path, monkeypatch):
    assert split_source("/data/run=1/audio") == (None, Path("/data/run=1/audio"))
    monkeypatch.chdir(touch(tmp_path, "run=1/a.wav"))
    assert split_source("run=1") == (None, Path("run=1"))
    assert split_source("emodb=/a=b") == ("emodb", Path("/a=b"))


# --- Folders and tables --------------------------------------------------------------------------


def test_audio_that_must_be_converted_gives_a_warning(tmp_path):
    touch(tmp_path, "a.wav", "b.m4a")
    with pytest.warns(UserWarning, match=r"ffmpeg .* b\.m4a"):
        assert files_of(read_corpus(tmp_path)) == ["a.wav"]


def test_csv_is_text_except_for_number_columns(tmp_path):
    touch(tmp_path, "a/001.wav", "a/é, $(id).wav")
    text = "\ufefffile_name,speaker,emotion,arousal,code\na/001.wav,001,fear,0.5,007\n"
    table = read_corpus(write(tmp_path, "labels.csv", text + '"a/é, $(id).wav",,None,,nan\n'))
    assert files_of(table) == ["a/001.wav", "a/é, $(id).wav"]
    assert table["speaker"].tolist()[0] == "001" and table["speaker"].isna().tolist()[1]
    assert table["emotion"].isna().tolist() == [False, True] and table["code"].tolist() == [
        "007",
        "nan",
    ]
    assert table["arousal"].dtype == float and table["arousal"].isna().tolist() == [False, True]
    assert table.attrs == {"name": "labels", "root": str(tmp_path), "corpus": None}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_segments_are_seconds_or_timedeltas(tmp_path, suffix):
    touch(tmp_path, "a.wav")
    rows = {"file": ["a.wav"] * 3, "start": ["", "0.1", "0 days 00:00:02"], "end": ["", "2", "3.5"]}
    frame = pd.DataFrame(rows)
    if suffix == ".csv":
        frame.to_csv(tmp_path / "t.csv", index=False)
    else:
        frame = frame.assign(start=[0, 0.1, 2.0], end=pd.to_timedelta([None, "2s", "3.5s"]))
        frame.to_parquet(tmp_path / "t.parquet")
    index = read_corpus(tmp_path / f"t{suffix}").index
    expected = audformat.segmented_index(
        ["a.wav"] * 3, ["0s", "100ms", "2s"], [pd.NaT, pd.Timedelta("2s"), pd.Timedelta("3.5s")]
    )
    pd.testing.assert_index_equal(index, expected)


BAD_TABLES = {
    "traversal": ("file\na.wav\n../b.wav\n", "leaves"),
    "hidden traversal": ("file\na.wav\nb/../../c.wav\n", "leaves"),
    "absolute": ("file\n/etc/hosts\n", "leaves"),
    "drive": ("file\nC:\\a.wav\n", "leaves"),
    "no file column": ("path;label\na.wav;x\n", "file or file_name"),
    "missing name": ("file,emotion\n,anger\n", "without a file"),
    "another encoding": ("file\na.wav\né.wav\n".encode("latin-1"), "cannot be read"),
    "duplicate": ("file\na.wav\na.wav\n", "twice"),
    "duplicate in disguise": ("file\na.wav\n./a.wav\n", "twice"),
    "negative start": ("file,start,end\na.wav,-1,2\n", "negative or empty"),
    "reversed": ("file,start,end\na.wav,2,1\n", "negative or empty"),
    "empty segment": ("file,start,end\na.wav,1,1\n", "negative or empty"),
    "no time": ("file,start\na.wav,soon\n", "neither seconds"),
    "no number": ("file,valence\na.wav,high\n", "valence must hold numbers"),
    "no rows": ("file\n", "no rows"),
    "no audio": ("file\nz.wav\n", "none of the files"),
    "nothing": ("", "cannot be read"),
}


@pytest.mark.parametrize("text, part", BAD_TABLES.values(), ids=BAD_TABLES.keys())
def test_invalid_table_is_an_error_with_the_reason(tmp_path, text, part):
    touch(tmp_path, "a.wav")
    assert part in message_of(write(tmp_path, "labels.csv", text))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_separator_and_encoding_of_a_table_do_not_matter(tmp_path, separator, encoding):
    touch(tmp_path, "a, b;.wav", "é.wav")
    name = "a, b;.wav" if separator == "\t" else '"a, b;.wav"'
    lines = [["file", "speaker", "arousal"], [name, "01", '"1,5"'], ["é.wav", "Zoë", "-2.25"]]
    lines[1][2] = "1,5" if separator != "," else '"1,5"'
    path = tmp_path / "labels.tsv"
    path.write_bytes("\r\n".join(map(separator.join, lines)).encode(encoding))
    table = read_corpus(path)
    assert files_of(table) == ["a, b;.wav", "é.wav"]
    assert table["speaker"].tolist() == ["01", "Zoë"] and table["arousal"].tolist() == [1.5, -2.25]


def test_unreadable_table_is_an_error(tmp_path, monkeypatch):
    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    write(tmp_path, "labels.csv", "file\na.wav\n")
    monkeypatch.setattr(Path, "read_bytes", denied)
    message = message_of(tmp_path / "labels.csv")
    assert message.endswith("labels.csv cannot be read: Permission denied")


def test_missing_files_of_a_table_are_kept_with_a_warning(tmp_path):
    touch(tmp_path, "a.wav")
    (tmp_path / "link.wav").symlink_to("nowhere.wav")
    path = write(
        tmp_path, "labels.csv", "file,start\na.wav,0\nb.wav,0\nb.wav,1\nc.wav,0\nlink.wav,0\n"
    )
    with pytest.warns(UserWarning, match=r"2 files of the table do not exist, e\.g\. b\.wav"):
        found = files_of(read_corpus(path))
    assert found == ["a.wav", "b.wav", "b.wav", "c.wav", "link.wav"]


# --- Classes -------------------------------------------------------------------------------------


def labelled(corpus: str | None = None, **columns: list) -> pd.DataFrame:
    count = len(next(iter(columns.values())))
    index = audformat.segmented_index([f"{number}.wav" for number in range(count)])
    table = pd.DataFrame(columns, index=index)
    table.attrs = {"name": corpus or "mine", "root": "/", "corpus": corpus}
    return table


def test_labels_are_merged_or_not_scored_and_unknown_ones_are_an_error(monkeypatch):
    changed = {"happy": "joy", "surprised": "joy", "calm": None}
    classes = {**CORPORA["ravdess"].classes, **changed}
    toy = Corpus("toy", "", reader=None, expected="", classes=classes, published={"joy": "joy"})
    monkeypatch.setitem(CORPORA, "toy", toy)
    table = labelled("toy", emotion=["happy", "surprised", "calm", "sad", np.nan])
    scored = scored_classes(table)
    assert scored.tolist()[:2] == ["joy", "joy"] and scored.tolist()[3] == "sad"
    assert scored.isna().tolist() == [False, False, True, False, True]
    with pytest.raises(CorpusError, match="hapy"):
        scored_classes(labelled("toy", emotion=["hapy"]))


def test_numeric_labels_are_divided_by_tertiles():
    values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, np.nan]
    classes = scored_classes(labelled(arousal=values), "arousal")
    assert classes.tolist()[:6] == ["low", "low", "middle", "middle", "high", "high"]
    assert pd.isna(classes.iloc[6])


def test_target_without_classes_is_an_error():
    table = labelled(emotion=["sad"] * 3, arousal=[0.5] * 3)
    with pytest.raises(CorpusError, match="no likability"):
        scored_classes(table, "likability")
    with pytest.raises(CorpusError, match="tertiles of arousal are both 0.5"):
        scored_classes(table, "arousal")
