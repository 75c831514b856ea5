import os
from pathlib import Path

import audformat
import numpy as np
import pandas as pd
import pytest
import soundfile

from paraclap.corpora import __main__ as corpora_main
from paraclap.corpora import check, readers
from paraclap.corpora import table as corpora

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
pytestmark = pytest.mark.filterwarnings("ignore:.*published are")


def touch(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def write_csv(root: Path, text: str | bytes) -> Path:
    path = root / "labels.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def message_of(source: object) -> str:
    with pytest.raises(corpora.CorpusError) as caught:
        corpora.read_corpus(source)
    return str(caught.value)


def files_of(table: pd.DataFrame) -> list[str]:
    return list(table.index.get_level_values("file"))


# --- The corpora known by name -------------------------------------------------------------------


@pytest.mark.parametrize("name, clips", [("ravdess", 1440), ("emodb", 535)])
def test_real_corpus_has_its_published_size_and_labels(name, clips):
    if not (DATA / name).is_dir():
        pytest.skip(f"{DATA / name} is not there (set PARACLAP_DATA)")
    table = corpora.read_corpus(f"{name}={DATA / name}")
    expected = pd.read_csv(DATA / f"{name}.csv", dtype=str, keep_default_na=False)
    assert len(table) == clips
    assert files_of(table) == sorted(expected["file"])
    expected = expected.set_index("file").loc[files_of(table)]
    if name == "ravdess":  # the table has nouns, the corpus calls them otherwise
        table["emotion"] = table["emotion"].map(RAVDESS_NOUNS)
    shared = table.columns.intersection(expected.columns)
    assert {"emotion", "speaker", "gender", "language", "text_id"} <= set(shared)
    for column in shared:
        kind = "float64" if column in readers.NUMBER_COLUMNS else "str"
        found, wanted = (frame[column].astype(kind).tolist() for frame in (table, expected))
        assert found == wanted, column


def test_wrong_root_names_what_was_expected_and_found(tmp_path):
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


def test_strays_and_missing_clips_are_told(tmp_path):
    touch(tmp_path, "wav/03a01Fa.wav", "wav/noise.wav")
    with pytest.warns(UserWarning, match=r"1 audio files .*noise\.wav"):
        corpora.read_corpus(f"emodb={tmp_path}")
    with pytest.warns(UserWarning, match="holds 1 clips .* published are 535"):
        corpora.read_corpus(f"emodb={tmp_path}")


def test_unknown_name_lists_the_known_ones():
    message = message_of("ravdes=/data")
    assert "'emodb', 'emovo'" in message and "did you mean ravdess?" in message


def test_equals_sign_in_a_path_is_no_corpus_name(tmp_path, monkeypatch):
    assert corpora.split_source("/data/run=1/audio") == (None, Path("/data/run=1/audio"))
    monkeypatch.chdir(touch(tmp_path, "run=1/a.wav"))
    assert corpora.split_source("run=1") == (None, Path("run=1"))
    assert corpora.split_source("emodb=/a=b") == ("emodb", Path("/a=b"))


# --- Folders and tables --------------------------------------------------------------------------


def test_sound_that_needs_converting_is_told(tmp_path):
    touch(tmp_path, "a.wav", "b.m4a")
    with pytest.warns(UserWarning, match=r"ffmpeg .* b\.m4a"):
        assert files_of(corpora.read_corpus(tmp_path)) == ["a.wav"]


def test_csv_keeps_text_and_converts_only_the_known_numbers(tmp_path):
    touch(tmp_path, "a/001.wav", "a/é, $(id).wav")
    text = "\ufefffile_name,speaker,emotion,arousal,code\na/001.wav,001,NA,0.5,007\n"
    table = corpora.read_corpus(write_csv(tmp_path, text + '"a/é, $(id).wav",,None,,nan\n'))
    assert files_of(table) == ["a/001.wav", "a/é, $(id).wav"]
    assert table["speaker"].tolist()[0] == "001" and table["speaker"].isna().tolist()[1]
    assert table["emotion"].tolist() == ["NA", "None"] and table["code"].tolist() == ["007", "nan"]
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
    index = corpora.read_corpus(tmp_path / f"t{suffix}").index
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
def test_bad_table_is_refused_with_its_reason(tmp_path, text, part):
    touch(tmp_path, "a.wav")
    assert part in message_of(write_csv(tmp_path, text))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_separator_and_encoding_of_a_table_do_not_matter(tmp_path, separator, encoding):
    touch(tmp_path, "a, b;.wav", "é.wav")
    name = "a, b;.wav" if separator == "\t" else '"a, b;.wav"'
    lines = [["file", "speaker", "arousal"], [name, "01", '"1,5"'], ["é.wav", "Zoë", "-2.25"]]
    lines[1][2] = "1,5" if separator != "," else '"1,5"'
    path = tmp_path / "labels.tsv"
    path.write_bytes("\r\n".join(map(separator.join, lines)).encode(encoding))
    table = corpora.read_corpus(path)
    assert files_of(table) == ["a, b;.wav", "é.wav"]
    assert table["speaker"].tolist() == ["01", "Zoë"] and table["arousal"].tolist() == [1.5, -2.25]


def test_listed_files_that_are_not_there_are_told_and_stay_for_who_reads_them(tmp_path):
    touch(tmp_path, "a.wav")
    (tmp_path / "link.wav").symlink_to("nowhere.wav")
    path = write_csv(tmp_path, "file,start\na.wav,0\nb.wav,0\nb.wav,1\nc.wav,0\nlink.wav,0\n")
    with pytest.warns(UserWarning, match=r"2 files of the table are not there, e\.g\. b\.wav"):
        found = files_of(corpora.read_corpus(path))
    assert found == ["a.wav", "b.wav", "b.wav", "c.wav", "link.wav"]


# --- Classes -------------------------------------------------------------------------------------


def labelled(corpus: str | None = None, **columns: list) -> pd.DataFrame:
    count = len(next(iter(columns.values())))
    index = audformat.segmented_index([f"{number}.wav" for number in range(count)])
    table = pd.DataFrame(columns, index=index)
    table.attrs = {"name": corpus or "mine", "root": "/", "corpus": corpus}
    return table


def test_labels_are_merged_dropped_and_unknown_ones_refused(monkeypatch):
    changed = {"happy": "joy", "surprised": "joy", "calm": None}
    classes = {**corpora.CORPORA["ravdess"].classes, **changed}
    monkeypatch.setitem(corpora.CORPORA, "toy", corpora.Corpus(
        "toy", "", None, "", 0, classes, {"joy": "joy"}, "", ""
    ))  # fmt: skip
    table = labelled("toy", emotion=["happy", "surprised", "calm", "sad", np.nan])
    scored = corpora.scored_classes(table)
    assert scored.tolist()[:2] == ["joy", "joy"] and scored.tolist()[3] == "sad"
    assert scored.isna().tolist() == [False, False, True, False, True]
    with pytest.raises(corpora.CorpusError, match="hapy"):
        corpora.scored_classes(labelled("toy", emotion=["hapy"]))


def test_numbers_are_classed_by_tertiles():
    values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, np.nan]
    classes = corpora.scored_classes(labelled(arousal=values), "arousal")
    assert classes.tolist()[:6] == ["low", "low", "middle", "middle", "high", "high"]
    assert pd.isna(classes.iloc[6])


def test_targets_that_cannot_be_scored_are_named():
    table = labelled(emotion=["sad"] * 3, arousal=[0.5] * 3)
    with pytest.raises(corpora.CorpusError, match="no likability"):
        corpora.scored_classes(table, "likability")
    with pytest.raises(corpora.CorpusError, match="tertiles of arousal are both 0.5"):
        corpora.scored_classes(table, "arousal")


# --- What is in a corpus -------------------------------------------------------------------------


def write_sound(path: Path, seconds: float, rate: int = 16_000, channels: int = 1, **kind: str):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(path.name))
    samples = 0.1 * rng.standard_normal((round(seconds * rate), channels))
    soundfile.write(path, samples, rate, format=kind.pop("format", "WAV"), **kind)
    return path


@pytest.fixture
def tess(tmp_path):
    """Eight files as TESS has them: AIFF under .wav, other rates, stereo; all can be read."""
    write_sound(tmp_path / "OAF_back_angry.wav", 1.5, 24_414)
    write_sound(tmp_path / "OA_bite_neutral.wav", 2.0, 24_414)
    write_sound(tmp_path / "YAF_germ_angry.wav", 1.0, 96_000, 2, subtype="PCM_24")
    write_sound(tmp_path / "YAF_neat_fear.wav", 2.5, 44_100, format="AIFF")
    write_sound(tmp_path / "YAF_tip_ps.wav", 0.05, 24_414)
    twin = write_sound(tmp_path / "YAF_said_sad.wav", 3.0, 24_414)
    (tmp_path / "YAF_told_sad.wav").write_bytes(twin.read_bytes())
    write_sound(tmp_path / "sub" / "YAF_raid_happy.wav", 2.0, 24_414)
    return tmp_path


def lines_of(capsys) -> dict[str, list[str]]:
    """Return first word -> the rest of the printed lines that begin so."""
    lines: dict[str, list[str]] = {}
    for line in capsys.readouterr().out.splitlines():
        word, _, rest = line.strip().partition(" ")
        lines.setdefault(word, []).append(rest.strip())
    return lines


def test_report_counts_clips_hours_labels_and_formats(tess, capsys):
    assert corpora_main.main([f"tess={tess}"]) == 0
    lines = lines_of(capsys)
    assert lines["clips"] == ["8 of 2800 published"]
    seconds = 1.5 + 2 + 1 + 2.5 + 0.05 + 3 + 3 + 2
    assert lines["speech"] == [
        f"{seconds / 3600:.2f} h; a clip lasts 0.05 to 3.00 s, median 2.00 s"
    ]
    assert lines["emotion"] == [
        "angry 2, fear 1, happy 1, neutral 1, pleasant surprise 1, sadness 2"
    ]
    assert lines["speaker"] == ["2 of 2 published: OAF 2, YAF 6"]
    assert lines["gender"] == ["female 8"] and lines["language"] == ["en 8"]
    assert sorted(lines["audio"][0].split(", ")) == [
        "1 AIFF PCM_16 44.1 kHz 1 ch",
        "1 WAV PCM_24 96 kHz 2 ch",
        "6 WAV PCM_16 24.414 kHz 1 ch",
    ]
    assert lines["licence"] == ["CC BY-NC-ND 4.0"]
    assert "ParaCLAP 0.170" in lines["paper"][0]
    problems = lines["problem"]
    assert len(problems) == 3 and "8 clips of Toronto" in problems[0]
    assert problems[1] == "clips below 0.1 s: 1, e.g. YAF_tip_ps.wav"
    assert problems[2] == (
        "recordings under several names: 1, e.g. YAF_said_sad.wav and YAF_told_sad.wav"
    )


def test_report_fails_for_files_that_cannot_be_read_and_says_why(tess, capsys):
    (tess / "OAF_page_sad.wav").write_text("<!DOCTYPE html><title>404</title>")
    (tess / "OAF_half_sad.wav").write_bytes((tess / "OAF_back_angry.wav").read_bytes()[:9000])
    (tess / "OAF_none_sad.wav").symlink_to("nowhere.wav")
    assert corpora_main.main([f"tess={tess}"]) == 1
    lines = lines_of(capsys)
    assert lines["clips"] == ["11 of 2800 published"]
    problems = " | ".join(lines["problem"])
    expected = {"html": "page", "truncated": "half", "dangling_link": "none"}
    for reason, file in expected.items():
        assert (
            f"files that cannot be read ({reason}): 1, e.g. {tess}/OAF_{file}_sad.wav" in problems
        )


def test_report_of_a_corpus_without_any_readable_file(tmp_path, capsys):
    touch(tmp_path, "YAF_food_ps.wav")
    assert corpora_main.main([f"tess={tmp_path}"]) == 1
    lines = lines_of(capsys)
    assert "speech" not in lines and "(empty): 1" in lines["problem"][1]


def test_report_takes_every_source_and_goes_on_after_a_bad_one(tess, tmp_path, capsys):
    text = "file,start,end,emotion\nOAF_back_angry.wav,0.5,1,anger\nOAF_back_angry.wav,1,,\n"
    path = write_csv(tess, text)
    assert corpora_main.main([str(tess / "none"), str(path), str(tess)]) == 1
    captured = capsys.readouterr()
    assert "none is not there" in captured.err
    assert "labels: a source without an entry in CORPORA" in captured.out
    assert "emotion      anger 1, missing 1" in captured.out
    assert "a clip lasts 0.50 to 0.50 s" in captured.out
    assert corpora_main.main([str(path)]) == 0
    write_csv(tess, "file,start,end\nOAF_back_angry.wav,1,4\nOAF_back_angry.wav,2,\n")
    capsys.readouterr()
    assert corpora_main.main([str(path)]) == 1
    assert "segments that end after their file: 2" in capsys.readouterr().out


def test_labels_are_reported_with_the_class_they_are_scored_as():
    corpus = corpora.CORPORA["iemocap"]
    labels = pd.Series(["excitement", "neutral", "frustration", "excitement", np.nan])
    assert check.describe_values(labels, corpus.classes) == (
        "excitement -> happy 2, frustration (not scored) 1, neutral 1, missing 1"
    )
    assert check.describe_values(pd.Series(range(100))) == "100 values"
    assert check.scored_part(corpus).startswith("all clips, mean over sessions; UAR CLAP 0.353")


def test_equal_files_are_found_by_content_alone(tmp_path):
    contents = {"a": b"1" * 70_000, "b": b"1" * 69_999 + b"2", "c": b"1" * 70_000, "d": b"1"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    assert check.equal_files(tmp_path, contents) == [["a", "c"]]
    assert check.equal_files(tmp_path, ["a", "b", "d"]) == []


def test_every_known_corpus_is_listed(capsys):
    assert corpora_main.main([]) == 0
    header, rule, *rows = capsys.readouterr().out.splitlines()
    assert [row.split("`")[1] for row in rows] == list(corpora.CORPORA)
    assert len({line.count("|") for line in (header, rule, *rows)}) == 1
