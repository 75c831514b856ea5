import os
from pathlib import Path

import audformat
import numpy as np
import pandas as pd
import pytest

import corpora

DATA = Path(
    os.environ.get("PARACLAP_DATA", Path(corpora.__file__).resolve().parent / "../shared/data")
)
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


def write_csv(root: Path, text: str) -> Path:
    path = root / "labels.csv"
    path.write_text(text, encoding="utf-8")
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
        kind = "float64" if column in corpora.NUMBER_COLUMNS else "str"
        found, wanted = (frame[column].astype(kind).tolist() for frame in (table, expected))
        assert found == wanted, column


def test_ravdess_names_tell_the_labels_and_song_is_left_out(tmp_path):
    touch(tmp_path, "Actor_01/03-01-05-02-02-01-01.wav", "Actor_01/03-02-05-02-02-01-01.wav")
    touch(tmp_path, "Actor_24/03-01-02-01-01-02-24.flac", "Actor_24/._03-01-02-01-01-02-24.flac")
    table = corpora.read_corpus(f"ravdess={tmp_path}")
    assert table.reset_index(drop=True).to_dict("records") == [
        {
            "emotion": "angry",
            "speaker": "01",
            "gender": "male",
            "language": "en",
            "intensity": "strong",
            "text_id": "2",
            "repetition": "1",
        },
        {
            "emotion": "calm",
            "speaker": "24",
            "gender": "female",
            "language": "en",
            "intensity": "normal",
            "text_id": "1",
            "repetition": "2",
        },
    ]
    assert table.attrs == {"name": "ravdess", "root": str(tmp_path), "corpus": "ravdess"}


@pytest.mark.parametrize("folder", ["", "wav/"])
def test_emodb_is_read_from_either_layout(tmp_path, folder):
    touch(tmp_path, f"{folder}03a01Fa.wav", f"{folder}16b10Lb.flac")
    table = corpora.read_corpus(f"emodb={tmp_path}")
    columns = ["emotion", "speaker", "gender", "text_id"]
    assert table[columns].to_numpy().tolist() == [
        ["happiness", "03", "male", "a01"],
        ["boredom", "16", "female", "b10"],
    ]


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
    assert "'emodb', 'ravdess'" in message and "did you mean ravdess?" in message


def test_equals_sign_in_a_path_is_no_corpus_name(tmp_path, monkeypatch):
    assert corpora.split_source("/data/run=1/audio") == (None, Path("/data/run=1/audio"))
    monkeypatch.chdir(touch(tmp_path, "run=1/a.wav"))
    assert corpora.split_source("run=1") == (None, Path("run=1"))
    assert corpora.split_source("emodb=/a=b") == ("emodb", Path("/a=b"))


# --- Folders and tables --------------------------------------------------------------------------


def test_every_suffix_of_libsndfile_is_found_and_nothing_else(tmp_path):
    found = ["a.wav", "b/c.FLAC", "d.mp3", "e.ogg", "f.opus", "g.aiff", "h.aif", "i.w64", "j.caf"]
    touch(tmp_path, *found, "notes.txt", ".hidden.wav", "__MACOSX/a.wav", "wav")
    assert corpora.find_audio(tmp_path) == sorted(found)


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
    "duplicate": ("file\na.wav\na.wav\n", "twice"),
    "duplicate in disguise": ("file\na.wav\n./a.wav\n", "twice"),
    "negative start": ("file,start,end\na.wav,-1,2\n", "negative or empty"),
    "reversed": ("file,start,end\na.wav,2,1\n", "negative or empty"),
    "empty segment": ("file,start,end\na.wav,1,1\n", "negative or empty"),
    "no time": ("file,start\na.wav,soon\n", "neither seconds"),
    "no number": ("file,valence\na.wav,high\n", "valence must hold numbers"),
    "no rows": ("file\n", "no rows"),
    "no audio": ("file\nz.wav\n", "none of the first files"),
    "nothing": ("", "cannot be read"),
}


@pytest.mark.parametrize("text, part", BAD_TABLES.values(), ids=BAD_TABLES.keys())
def test_bad_table_is_refused_with_its_reason(tmp_path, text, part):
    touch(tmp_path, "a.wav")
    assert part in message_of(write_csv(tmp_path, text))


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
    assert "none of the first files" in message_of(root)


# --- Classes -------------------------------------------------------------------------------------


def labelled(corpus: str | None = None, **columns: list) -> pd.DataFrame:
    count = len(next(iter(columns.values())))
    index = audformat.segmented_index([f"{number}.wav" for number in range(count)])
    table = pd.DataFrame(columns, index=index)
    table.attrs = {"name": corpus or "mine", "root": "/", "corpus": corpus}
    return table


@pytest.mark.parametrize("corpus", corpora.CORPORA.values(), ids=lambda corpus: corpus.name)
def test_every_class_of_a_corpus_has_a_published_query_of_its_own(corpus):
    assert set(corpus.published) == {c for c in corpus.classes.values() if c is not None}
    assert len(set(corpus.published.values())) == len(corpus.published)


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
