from pathlib import Path

import pandas as pd
import pytest

from corpus_files import touch, warnings_of, write
from paraclap.corpora import CorpusError
from paraclap.corpora.audio_files import find_audio, read_files
from paraclap.corpora.label_files import read_label_files


def test_files_of_all_formats_of_libsndfile_are_found(tmp_path):
    found = ["a.wav", "b/c.FLAC", "d.mp3", "e.ogg", "f.opus", "g.aiff", "h.aif", "i.w64", "j.caf"]
    touch(tmp_path, *found, "notes.txt", ".hidden.wav", "__MACOSX/a.wav", "wav")
    assert find_audio(tmp_path) == (sorted(found), [])


NAME = r"(?P<speaker>s\d)_(?P<emotion>[a-z])"
LETTERS = {"emotion": {"a": "anger", "n": "neutral", "x": None}}


def test_named_groups_become_columns_and_codes_labels(tmp_path):
    touch(tmp_path, "s1_a.wav", "deep/er/s2_x.FLAC", "s3_n.mp3")
    columns = {"language": "en", "id": "{speaker}-{emotion}"}
    rows, warned = warnings_of(read_files, tmp_path, NAME, columns, LETTERS)
    assert rows.iloc[[1, 2]].to_dict("records") == [
        dict(file="s1_a.wav", speaker="s1", emotion="anger", language="en", id="s1-a"),
        dict(file="s3_n.mp3", speaker="s3", emotion="neutral", language="en", id="s3-n"),
    ]  # fmt: skip
    assert rows["emotion"].isna().tolist() == [True, False, False] and not warned


def test_column_is_missing_if_one_of_its_fields_is_missing(tmp_path):
    touch(tmp_path, "s1.wav", "s2_b.wav")
    rows = read_files(tmp_path, r"(?P<speaker>s\d)(?:_(?P<take>\w))?", {"id": "{speaker}{take}"})
    assert rows["id"].isna().tolist() == [True, False] and rows["id"][1] == "s2b"


def test_unknown_code_is_an_error_unless_codes_are_open(tmp_path):
    touch(tmp_path, "s1_a.wav", "s1_q.wav")
    with pytest.raises(CorpusError, match=r"s1_q\.wav has the unknown code 'q' .*'a', 'n', 'x'"):
        read_files(tmp_path, NAME, codes=LETTERS)
    kept = read_files(tmp_path, NAME, codes={"emotion": {"a": "anger", "*": "*"}})
    dropped = read_files(tmp_path, NAME, codes={"emotion": {"a": "anger", "*": None}})
    assert kept["emotion"].tolist() == ["anger", "q"]
    assert dropped["emotion"].isna().tolist() == [False, True]


def test_other_names_are_skipped_with_a_warning_and_other_parts_without(tmp_path):
    touch(tmp_path, "s1_a.wav", "noise.wav", "song/s1.wav")
    rows, warned = warnings_of(read_files, tmp_path, NAME, codes=LETTERS, other_part="^song/")
    assert rows["file"].tolist() == ["s1_a.wav"]
    (warning,) = warned
    assert "1 audio files do not have a name of this corpus" in warning and "noise.wav" in warning


def test_copy_in_a_deeper_folder_is_skipped_with_a_warning(tmp_path):
    touch(tmp_path, "x/y/s1_a.wav", "x/s1_a.wav", "x/s2_a.wav")
    rows, warned = warnings_of(read_files, tmp_path, NAME, codes=LETTERS)
    assert rows["file"].tolist() == ["x/s1_a.wav", "x/s2_a.wav"]
    assert (
        len(warned) == 1 and "1 audio files are copies" in warned[0] and "x/y/s1_a.wav" in warned[0]
    )


@pytest.mark.parametrize("other", ["s1_a.flac", "deep/s1_a.wav"])
def test_two_versions_of_a_recording_are_an_error(tmp_path, other):
    touch(tmp_path, "s1_a.wav")
    write(tmp_path, other, "not the same")
    with pytest.raises(CorpusError, match="same recording; keep one"):
        read_files(tmp_path, NAME, codes=LETTERS)


def test_preferred_version_replaces_the_other(tmp_path):
    touch(tmp_path, "s1_a.wav", "fixed/s1_a.flac")
    rows, warned = warnings_of(read_files, tmp_path, NAME, codes=LETTERS, prefer="fixed/")
    assert rows["file"].tolist() == ["fixed/s1_a.flac"]
    assert len(warned) == 1 and "corrected version" in warned[0]


# --- Joined with label files ---------------------------------------------------------------------

CLIP = r"(?P<clip>[^/]+)"
COLUMNS = {"File": "clip", "Class": "emotion", "Age": "age"}


LABELS = {"globs": ["*.csv"], "columns": COLUMNS, "optional": ["Age"]}


def read_labelled(root: Path, text: str, **options) -> tuple[pd.DataFrame, list[str]]:
    write(root, "labels.csv", text)
    return warnings_of(read_files, root, CLIP, labels=LABELS, **options)


def test_labels_without_audio_and_audio_without_labels_are_skipped_with_a_warning(tmp_path):
    touch(tmp_path, "wav/a.wav", "wav/b.WAV", "wav/c.wav")
    text = "File,Class\nAudios\\a.wav,anger\n/x/b,\nd.wav,fear\n,joy\n"
    rows, warned = read_labelled(tmp_path, text)
    assert rows["file"].tolist() == ["wav/a.wav", "wav/b.WAV"]
    assert rows["emotion"][0] == "anger" and pd.isna(rows["emotion"][1])
    assert [message.partition(": ")[2] for message in warned] == [
        "2 labelled clips have no audio, e.g. d",
        "1 audio files have no label and are skipped, e.g. wav/c.wav",
    ]


def test_audio_without_optional_labels_is_kept(tmp_path):
    touch(tmp_path, "a.wav", "c.wav")
    rows, warned = read_labelled(tmp_path, "File,Class\na,anger\nd,fear\n", labels_needed=False)
    assert rows["file"].tolist() == ["a.wav", "c.wav"] and not warned
    (tmp_path / "labels.csv").unlink()
    rows = read_files(tmp_path, CLIP, labels=LABELS, labels_needed=False)
    assert rows.columns.tolist() == ["file"] and len(rows) == 2
    assert read_files(tmp_path, CLIP, labels=LABELS).empty


def test_contradictory_labels_are_an_error_or_skipped_with_a_warning(tmp_path):
    touch(tmp_path, "a.wav", "b.wav")
    text = "File,Class\na,anger\na.wav,fear\nb,joy\nb,joy\n"
    with pytest.raises(CorpusError, match="different labels for a"):
        read_labelled(tmp_path, text)
    rows, warned = read_labelled(tmp_path, text, labels_needed=False)
    assert rows["emotion"].isna().tolist() == [True, False]
    assert len(warned) == 1 and "2 lines of label files are contradictory" in warned[0]


# --- Label files ---------------------------------------------------------------------------------


def labels_of(root: Path, text: str | bytes, **options) -> pd.DataFrame:
    write(root, "labels.csv", text)
    return read_label_files(root, ["none/*.csv", "*.csv"], **{"columns": COLUMNS, **options})


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_separator_and_encoding_of_a_label_file_do_not_matter(tmp_path, separator, encoding):
    lines = [
        ["Age", "File ", "Class"],
        ["7", " a.wav", "freudig, müde" if separator == ";" else "ä"],
    ]
    text = "\r\n".join(map(separator.join, lines))
    (row,) = labels_of(tmp_path, text.encode(encoding)).to_dict("records")
    assert row == {"clip": "a.wav", "emotion": lines[1][2], "age": "7"}


def test_encoding_can_depend_on_the_path(tmp_path):
    text = "a\t我没事\n"
    write(tmp_path, "zh/1.txt", text.encode("gb18030"))
    write(tmp_path, "en/2.txt", "b\tIt’s\n".encode("cp1252"))
    rows = read_label_files(
        tmp_path,
        ["*/*.txt"],
        line=r"(?P<clip>\w)\t(?P<text>.*)",
        path_fields=r"(?P<language>..)/\d\.txt",
        encodings={"zh/*": "gb18030"},
    )
    assert rows.to_dict("records") == [
        {"clip": "b", "text": "It’s", "language": "en"},
        {"clip": "a", "text": "我没事", "language": "zh"},
    ]


def test_missing_column_of_a_label_file_is_an_error(tmp_path):
    with pytest.raises(CorpusError, match=r"columns \['File', 'Klasse'\], expected also .*Class"):
        labels_of(tmp_path, "File,Klasse\na,b\n")
    rows = labels_of(tmp_path, "File,Class\na,b\n", optional=["Age"])
    assert rows["age"].isna().all() and rows["emotion"].tolist() == ["b"]


@pytest.mark.parametrize(
    "text", ["", 'File,Class\na,"b\n', "File,Class\na,b,c,d\nb,c\na,b,c,d,e\n"]
)
def test_label_file_that_is_not_a_table_is_an_error(tmp_path, text):
    with pytest.raises(CorpusError, match=r"labels\.csv cannot be read as a table"):
        labels_of(tmp_path, text)
