"""readers.py: audio, file names, label files, tables and databases of any corpus."""

import warnings
from functools import partial
from pathlib import Path

import audformat
import pandas as pd
import pytest

from paraclap.corpora import readers
from paraclap.corpora import table as corpora
from paraclap.corpora.readers import CorpusError, Lenient, read_files, read_label_files


def touch(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def write(root: Path, file: str, text: str | bytes) -> Path:
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    return root / file


def message_of(source: object) -> str:
    with pytest.raises(CorpusError) as caught:
        corpora.read_corpus(source)
    return str(caught.value)


def told_by(function, *arguments, **options) -> tuple[pd.DataFrame, list[str]]:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        result = function(*arguments, **options)
    return result, [str(w.message) for w in told]


# --- Audio and file names ------------------------------------------------------------------------


def test_every_suffix_of_libsndfile_is_found_and_nothing_else(tmp_path):
    found = ["a.wav", "b/c.FLAC", "d.mp3", "e.ogg", "f.opus", "g.aiff", "h.aif", "i.w64", "j.caf"]
    touch(tmp_path, *found, "notes.txt", ".hidden.wav", "__MACOSX/a.wav", "wav")
    assert readers.find_audio(tmp_path) == sorted(found)


NAME = r"(?:.*/)?(?P<speaker>s\d)_(?P<emotion>[a-z])"
LETTERS = {"emotion": {"a": "anger", "n": "neutral", "x": None}}


def test_groups_of_the_pattern_are_columns_and_codes_their_labels(tmp_path):
    touch(tmp_path, "s1_a.wav", "deep/er/s2_x.FLAC", "s3_n.mp3")
    columns = {"language": "en", "id": "{speaker}-{emotion}"}
    rows, told = told_by(read_files, tmp_path, NAME, columns, LETTERS)
    assert rows.iloc[[1, 2]].to_dict("records") == [
        dict(file="s1_a.wav", speaker="s1", emotion="anger", language="en", id="s1-a"),
        dict(file="s3_n.mp3", speaker="s3", emotion="neutral", language="en", id="s3-n"),
    ]  # fmt: skip
    assert rows["emotion"].isna().tolist() == [True, False, False] and not told


def test_column_is_missing_where_one_of_its_fields_is(tmp_path):
    touch(tmp_path, "s1.wav", "s2_b.wav")
    rows = read_files(tmp_path, r"(?P<speaker>s\d)(?:_(?P<take>\w))?", {"id": "{speaker}{take}"})
    assert rows["id"].isna().tolist() == [True, False] and rows["id"][1] == "s2b"


def test_unknown_code_names_the_file_and_the_known_ones(tmp_path):
    touch(tmp_path, "s1_a.wav", "s1_q.wav")
    with pytest.raises(CorpusError, match=r"s1_q\.wav holds the unknown code 'q' .*'a', 'n', 'x'"):
        read_files(tmp_path, NAME, codes=LETTERS)
    kept = read_files(tmp_path, NAME, codes={"emotion": Lenient({"a": "anger"}, keep=True)})
    dropped = read_files(tmp_path, NAME, codes={"emotion": Lenient({"a": "anger"}, keep=False)})
    assert kept["emotion"].tolist() == ["anger", "q"]
    assert dropped["emotion"].isna().tolist() == [False, True]


def test_strays_are_told_and_another_part_is_not(tmp_path):
    touch(tmp_path, "s1_a.wav", "noise.wav", "song/s1.wav")
    rows, told = told_by(read_files, tmp_path, NAME, codes=LETTERS, other_part="^song/")
    assert rows["file"].tolist() == ["s1_a.wav"]
    assert len(told) == 1 and "1 audio files are not named" in told[0] and "noise.wav" in told[0]


def test_copy_in_a_deeper_folder_is_left_out_and_told(tmp_path):
    touch(tmp_path, "x/y/s1_a.wav", "x/s1_a.wav", "x/s2_a.wav")
    rows, told = told_by(read_files, tmp_path, NAME, codes=LETTERS)
    assert rows["file"].tolist() == ["x/s1_a.wav", "x/s2_a.wav"]
    assert len(told) == 1 and "1 audio files are copies" in told[0] and "x/y/s1_a.wav" in told[0]


@pytest.mark.parametrize("other", ["s1_a.flac", "deep/s1_a.wav"])
def test_two_versions_of_a_recording_are_an_error(tmp_path, other):
    touch(tmp_path, "s1_a.wav")
    write(tmp_path, other, "not the same")
    with pytest.raises(CorpusError, match="same recording; keep one"):
        read_files(tmp_path, NAME, codes=LETTERS)


def test_preferred_version_replaces_the_other(tmp_path):
    touch(tmp_path, "s1_a.wav", "fixed/s1_a.flac")
    rows, told = told_by(read_files, tmp_path, NAME, codes=LETTERS, prefer="fixed/")
    assert rows["file"].tolist() == ["fixed/s1_a.flac"]
    assert len(told) == 1 and "corrected version" in told[0]


# --- Label files ---------------------------------------------------------------------------------

CLIP = r"(?:.*/)?(?P<clip>[^/]+)"
COLUMNS = {"File": "clip", "Class": "emotion", "Age": "age"}


def labels_of(root: Path, text: str | bytes, **options) -> pd.DataFrame:
    write(root, "labels.csv", text)
    return read_label_files(root, ["none/*.csv", "*.csv"], **{"columns": COLUMNS, **options})


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_label_file_of_any_separator_encoding_and_newline(tmp_path, separator, encoding, newline):
    lines = [
        ["Age", "File ", "Class"],
        ["7", " a.wav", "freudig, müde" if separator == ";" else "ä"],
    ]
    text = newline.join(map(separator.join, lines)) + newline
    (row,) = labels_of(tmp_path, text.encode(encoding)).to_dict("records")
    assert row == {"clip": "a.wav", "emotion": lines[1][2], "age": "7"}


def test_encoding_is_chosen_by_the_path_where_the_text_does_not_tell(tmp_path):
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


def test_label_file_without_a_column_is_an_error_that_lists_what_is_there(tmp_path):
    with pytest.raises(CorpusError, match=r"columns \['File', 'Klasse'\], expected also .*Class"):
        labels_of(tmp_path, "File,Klasse\na,b\n")
    rows = labels_of(tmp_path, "File,Class\na,b\n", optional=["Age"])
    assert rows["age"].isna().all() and rows["emotion"].tolist() == ["b"]


@pytest.mark.parametrize(
    "text", ["", 'File,Class\na,"b\n', "File,Class\na,b,c,d\nb,c\na,b,c,d,e\n"]
)
def test_label_file_that_is_no_table_is_an_error_that_names_it(tmp_path, text):
    with pytest.raises(CorpusError, match=r"labels\.csv cannot be read as a table"):
        labels_of(tmp_path, text)


def read_labelled(root: Path, text: str, **options) -> tuple[pd.DataFrame, list[str]]:
    labels = partial(labels_of, text=text, optional=["Age"])
    return told_by(read_files, root, CLIP, labels=labels, **options)


def test_labels_without_audio_and_audio_without_labels_are_told(tmp_path):
    touch(tmp_path, "wav/a.wav", "wav/b.WAV", "wav/c.wav")
    text = "File,Class\nAudios\\a.wav,anger\n/x/b,\nd.wav,fear\n,joy\n"
    rows, told = read_labelled(tmp_path, text)
    assert rows["file"].tolist() == ["wav/a.wav", "wav/b.WAV"]
    assert rows["emotion"][0] == "anger" and pd.isna(rows["emotion"][1])
    assert [message.partition(": ")[2] for message in told] == [
        "2 labelled clips have no audio, e.g. d",
        "1 audio files have no label and are left out, e.g. wav/c.wav",
    ]


def test_labels_that_are_not_needed_leave_audio_in(tmp_path):
    touch(tmp_path, "a.wav", "c.wav")
    rows, told = read_labelled(tmp_path, "File,Class\na,anger\nd,fear\n", labels_needed=False)
    assert rows["file"].tolist() == ["a.wav", "c.wav"] and not told
    (tmp_path / "labels.csv").unlink()
    labels = partial(read_label_files, globs=["*.csv"], columns=COLUMNS)
    rows = read_files(tmp_path, CLIP, labels=labels, labels_needed=False)
    assert rows.columns.tolist() == ["file"] and len(rows) == 2
    assert read_files(tmp_path, CLIP, labels=labels).empty


def test_label_files_that_contradict_each_other_are_an_error_or_told(tmp_path):
    touch(tmp_path, "a.wav", "b.wav")
    text = "File,Class\na,anger\na.wav,fear\nb,joy\nb,joy\n"
    with pytest.raises(CorpusError, match="contradict each other about a"):
        read_labelled(tmp_path, text)
    rows, told = read_labelled(tmp_path, text, labels_needed=False)
    assert rows["emotion"].isna().tolist() == [True, False]
    assert len(told) == 1 and "2 lines of label files contradict each other" in told[0]


# --- audformat databases -------------------------------------------------------------------------


def save_database(root: Path, *, fields_in_table: bool = False, storage: str = "csv") -> Path:
    """Write a database of six files by two speakers: three tables with a split each."""
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
    table = corpora.read_corpus(root)
    assert table.attrs == {"name": "synthetic", "root": str(tmp_path), "corpus": None}
    table = table.droplevel(["start", "end"]).sort_index()
    assert table["split"].tolist() == ["train", "dev", "test"] * 2
    assert table["speaker"].tolist() == ["s1"] * 3 + ["s2"] * 3
    assert table["gender"].tolist() == ["female"] * 3 + ["male"] * 3
    assert table["age"].astype(int).tolist() == [30] * 3 + [40] * 3
    assert table["emotion"].tolist()[:3] == ["anger"] * 3 and table["emotion"][3:].isna().all()
    assert table["arousal"].tolist()[:3] == [0.25] * 3


def test_segments_get_the_values_of_their_file(tmp_path):
    root = save_database(tmp_path)
    database = audformat.Database.load(str(root))
    index = audformat.segmented_index(["audio/s1/0.wav"] * 2, ["0s", "1s"], ["1s", "2s"])
    database["parts"] = audformat.Table(index)
    database["parts"]["text"] = audformat.Column()
    database["parts"]["text"].set(["one", "two"])
    database.save(str(root))
    table = corpora.read_corpus(root)
    assert len(table) == 7, "a file that has segments is no row of its own"
    parts = table.loc["audio/s1/0.wav"]
    assert parts["text"].tolist() == ["one", "two"] and parts["gender"].tolist() == ["female"] * 2


def test_split_id_tells_apart_splits_of_one_type(tmp_path):
    root = save_database(tmp_path)
    header = (root / "db.yaml").read_text()
    (root / "db.yaml").write_text(header.replace("type: dev", "type: test"))
    assert set(corpora.read_corpus(root)["split"]) == {"train", "dev", "test"}


def test_contradicting_tables_are_an_error(tmp_path):
    root = save_database(tmp_path)
    path = root / "db.emotion.test.csv"
    path.write_text(path.read_text() + "audio/s1/0.wav,anger,s2,\n")
    assert "contradict each other" in message_of(root)


def test_pickles_and_yaml_tags_are_never_run(tmp_path):
    root = save_database(tmp_path / "pickled", storage="pkl")
    assert "save it again as CSV" in message_of(root)
    root = save_database(tmp_path / "tagged")
    marker = tmp_path / "marker"
    with (root / "db.yaml").open("a") as header:
        header.write(f"evil: !!python/object/apply:os.mkdir [{marker}]\n")
    assert "no audformat header" in message_of(root)
    assert not marker.exists()


def test_database_without_its_audio_is_an_error(tmp_path):
    root = save_database(tmp_path)
    for path in (root / "audio").rglob("*.wav"):
        path.unlink()
    assert "none of the files" in message_of(root)


def test_tables_of_a_database_can_be_chosen(tmp_path):
    root = save_database(tmp_path)
    rows = readers.read_database(root, tables=r"test$", split_pattern=r"emotion\.(\w+)")
    assert len(rows) == 2 and set(rows["split"]) == {"test"}
    with pytest.raises(CorpusError, match="no tables that match nothing"):
        readers.read_database(root, tables="nothing")
