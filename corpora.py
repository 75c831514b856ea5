"""What a corpus is: readers that bring speech and its labels into one table, and queries as data.

A *source*, as given on every command line, is one of ::

    ravdess=/data/RAVDESS    a corpus of CORPORA and the folder it was unpacked to
    /data/my-database        an audformat database (holds db.yaml)
    /data/mine/labels.csv    a .csv or .parquet table beside its audio (column file or file_name)
    /data/recordings         a plain folder of audio, without labels

`read_corpus` returns a table on audformat's segmented index: ``file`` (relative to the root, with
``/``), ``start`` and ``end`` (timedelta; an ``end`` of NaT means the end of the file). Columns are
any of emotion, speaker, gender, split, fold, language (text), arousal, valence, dominance
(numbers); others are kept. ``table.attrs`` holds ``name``, ``root`` and ``corpus`` (key of CORPORA
or None). No audio is opened here.
"""

import difflib
import os
import posixpath
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import audformat
import pandas as pd
import soundfile
import yaml

TEXT_COLUMNS = ("emotion", "speaker", "gender", "split", "fold", "language")
NUMBER_COLUMNS = ("arousal", "valence", "dominance")
INDEX_COLUMNS = ("file", "start", "end")
SOURCE_FORMS = "NAME=ROOT, a folder with db.yaml, a .csv or .parquet table, or a folder of audio"

FORMAT_SUFFIXES = {
    "AIFF": ("aiff", "aif", "aifc"),
    "AU": ("au", "snd"),
    "AVR": ("avr",),
    "CAF": ("caf",),
    "FLAC": ("flac",),
    "IRCAM": ("sf",),
    "MP3": ("mp3",),
    "NIST": ("nist", "sph"),
    "OGG": ("ogg", "oga", "opus"),
    "PAF": ("paf",),
    "PVF": ("pvf",),
    "RF64": ("rf64",),
    "SVX": ("iff", "svx"),
    "VOC": ("voc",),
    "W64": ("w64",),
    "WAV": ("wav", "wave"),
}
"""libsndfile's formats that hold recordings, with the suffixes they are met under."""
CONVERTIBLE_SUFFIXES = ("m4a", "mp4", "aac", "wma", "webm", "mkv", "amr", "3gp")
"""Sound that libsndfile does not decode."""


class CorpusError(ValueError):
    """A source, a table or a label that is not what it should be."""


# --- Queries: what is asked about each class -----------------------------------------------------

EMOTION_FORMS = (
    # adjective, then the other forms that corpora use for the same label
    ("amused", "amusement"),
    ("angry", "anger"),
    ("bored", "boredom"),
    ("calm", "calmness"),
    ("confused", "confusion"),
    ("contemptuous", "contempt"),
    ("disgusted", "disgust"),
    ("emphatic",),
    ("excited", "excitement"),
    ("fearful", "fear"),
    ("frustrated", "frustration"),
    ("happy", "happiness", "joy"),
    ("neutral", "neutrality"),
    ("pleasantly surprised", "pleasant surprise"),
    ("proud", "pride"),
    ("relieved", "relief"),
    ("sad", "sadness"),
    ("surprised", "surprise"),
)
ADJECTIVES = {form: forms[0] for forms in EMOTION_FORMS for form in forms}


def _bare(label: str, target: str) -> str:
    """Return the label itself, as the paper asks for most corpora."""
    return label


def _sentence(label: str, target: str) -> str:
    """Return a sentence that is grammatical for any label."""
    adjective = ADJECTIVES.get(label.lower()) if target == "emotion" else None
    if adjective:
        return f"the speaker sounds {adjective}"
    return f"the {target} of the speaker is {label}"


QUERY_FORMS = {"published": _bare, "sentence": _sentence}

TARGET_QUERIES = {
    "gender": {
        "published": {"female": "female", "male": "male"},
        "sentence": {"female": "the speaker is female", "male": "the speaker is male"},
    },
}
"""Target -> query set -> class -> query, for targets whose classes are the same everywhere."""


def _emotion_queries(*classes: str) -> dict[str, dict[str, str]]:
    """Return every query set for emotion classes whose labels stand in EMOTION_FORMS."""
    return {name: {c: form(c, "emotion") for c in classes} for name, form in QUERY_FORMS.items()}


# --- Reading a folder ----------------------------------------------------------------------------


def audio_suffixes() -> frozenset[str]:
    """Return the lower-case suffixes, without dot, that the installed libsndfile reads."""
    available = soundfile.available_formats()
    return frozenset(
        s for name, suffixes in FORMAT_SUFFIXES.items() if name in available for s in suffixes
    )


def find_audio(root: str | Path, suffixes: frozenset[str] | None = None) -> list[str]:
    """Return the audio files below ``root``, relative to it with ``/``, sorted.

    Hidden files and the ``__MACOSX`` folders of ZIP archives are left out.

    Args:
        root: folder to search
        suffixes: lower-case suffixes without dot; None means all that libsndfile reads
    """
    suffixes = audio_suffixes() if suffixes is None else suffixes
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        relative = Path(folder).relative_to(root)
        found += [
            (relative / name).as_posix()
            for name in files
            if not name.startswith(".") and Path(name).suffix[1:].lower() in suffixes
        ]
    for name in found:
        if not name.isprintable() and any("\udc80" <= letter <= "\udcff" for letter in name):
            raise CorpusError(f"{root}: the name {os.fsencode(name)!r} is not UTF-8, rename it")
    return sorted(found)


def _refuse_twins(keys: Mapping[str, object]) -> None:
    """Raise if two files (keys) are the same recording (values), as x.wav and x.flac are."""
    first: dict[object, str] = {}
    for file, key in keys.items():
        if key in first:
            raise CorpusError(f"{first[key]} and {file} are the same recording; keep one of them")
        first[key] = file


def read_folder(root: Path) -> pd.DataFrame:
    """Return one row (file) for each audio file below ``root``.

    Raises:
        CorpusError: if one recording is there under two suffixes
    """
    files = find_audio(root)
    _refuse_twins({file: posixpath.splitext(file)[0] for file in files})
    others = find_audio(root, frozenset(CONVERTIBLE_SUFFIXES))
    if others:
        warnings.warn(
            f"{root}: {len(others)} files need ffmpeg to convert them and are left out,"
            f" e.g. {others[0]}",
            stacklevel=2,
        )
    return pd.DataFrame({"file": files}, dtype="str")


def read_file_names(
    root: Path,
    pattern: str,
    labels: Callable[[dict[str, str]], dict | None],
) -> pd.DataFrame:
    """Return one row for each audio file whose name tells its labels.

    Args:
        root: folder of the corpus
        pattern: regular expression for the whole path below ``root``, without suffix, with a named
            group for each field
        labels: turns the fields of one name into its labels; None leaves the file out

    Raises:
        CorpusError: if a name holds an unknown code, or if two files are the same recording
    """
    files = find_audio(root)
    matches = {file: re.fullmatch(pattern, posixpath.splitext(file)[0]) for file in files}
    fields = {file: match.groupdict() for file, match in matches.items() if match}
    _refuse_twins({file: tuple(values.values()) for file, values in fields.items()})
    strays = [file for file, match in matches.items() if not match]
    if strays and fields:
        warnings.warn(
            f"{root}: {len(strays)} audio files are not named as the corpus names them and are"
            f" left out, e.g. {strays[0]}",
            stacklevel=2,
        )
    rows = []
    for file, values in fields.items():
        try:
            row = labels(values)
        except KeyError as error:
            raise CorpusError(f"{root}: {file} holds the unknown code {error}") from error
        if row is not None:
            rows.append({"file": file, **row})
    return pd.DataFrame(rows)


# --- Reading tables and audformat databases ------------------------------------------------------


def _read_csv(path: Path) -> pd.DataFrame:
    """Return a CSV file as text: `001`, `NA` and `None` stay what they are, empty is missing."""
    frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    return frame.mask(frame == "")


def _read_parquet(path: Path) -> pd.DataFrame:
    """Return a parquet file with its index, if it is named, as columns."""
    frame = pd.read_parquet(path)
    return frame.reset_index() if any(frame.index.names) else frame


TABLE_READERS = {".csv": _read_csv, ".parquet": _read_parquet}


def read_table(path: Path) -> pd.DataFrame:
    """Return a CSV or parquet table with a column ``file``.

    Raises:
        CorpusError: if it cannot be parsed, or has neither ``file`` nor ``file_name``
    """
    try:
        frame = TABLE_READERS[path.suffix.lower()](path)
    except ValueError as error:  # parser, encoding and Arrow errors are ValueErrors
        raise CorpusError(f"{path} cannot be read as a table: {error}") from error
    if "file" not in frame and "file_name" in frame:
        frame = frame.rename(columns={"file_name": "file"})
    if "file" not in frame:
        raise CorpusError(
            f"{path} has columns {list(frame.columns)}, expected one called file or file_name"
        )
    return frame


def read_database(root: Path) -> pd.DataFrame:
    """Return all file tables of an audformat database as one, with split and label fields.

    Fields of labels (``speaker: {s1: {gender: female, age: 30}}``, also from misc tables) become
    columns. Values for whole files are given to each segment of the file. ``split`` is the type of
    a table's split (train, dev, test), or its id where several splits share a type. Pickled tables
    are never read, and YAML tags are refused: both could run code.

    Raises:
        CorpusError: if header or tables are damaged or missing, or tables contradict each other
    """
    try:
        header = yaml.safe_load((root / "db.yaml").read_text(encoding="utf-8"))
        database = audformat.Database.load_header_from_yaml(header)
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise CorpusError(f"{root / 'db.yaml'} is no audformat header: {error}") from error
    if not database.tables:
        raise CorpusError(f"{root / 'db.yaml'} lists no tables, expected at least one")
    frames = [_database_table(database, root, name) for name in database.tables]
    rows = _spread_over_segments(_merge_rows(pd.concat(frames, ignore_index=True), root))
    rows.attrs["name"] = database.name
    return rows


def _table_file(root: Path, name: str) -> Path:
    """Return the path of a database's table, in a format that cannot run code."""
    for suffix in (".parquet", ".csv"):
        path = root / f"db.{name}{suffix}"
        if path.is_file():
            return path
    hint = " (a .pkl file is not read: save it again as CSV or parquet)"
    raise CorpusError(f"{root}: table {name} has neither db.{name}.csv nor .parquet{hint}")


def _database_table(database: audformat.Database, root: Path, name: str) -> pd.DataFrame:
    """Return one table of a database with start, end, label fields and split as columns."""
    table = database.tables[name]
    path = _table_file(root, name)
    frame = read_table(path)
    if frame.duplicated([c for c in INDEX_COLUMNS if c in frame]).any():
        raise CorpusError(f"{path} has rows that occur twice")
    for column in frame.columns:
        frame[column] = _typed(frame[column], name)
    frame = frame.assign(start=_timedeltas(frame, "start"), end=_timedeltas(frame, "end"))
    for column_id, column in table.columns.items():
        if column_id in frame and column.scheme_id:
            fields = _label_fields(database, root, column.scheme_id)
            keys = frame[column_id].astype("str")
            for field_name, values in fields.items():
                new = field_name if field_name not in frame else f"{column_id}.{field_name}"
                frame[new] = keys.map(values)
    if table.split_id:
        frame["split"] = _split_name(database, table.split_id)
    return frame


def _label_fields(
    database: audformat.Database, root: Path, scheme_id: str
) -> dict[str, dict[str, object]]:
    """Return field -> label -> value for a scheme whose labels carry fields, else nothing."""
    labels = database.schemes[scheme_id].labels
    if isinstance(labels, str):
        frame = TABLE_READERS[(path := _table_file(root, labels)).suffix](path)
        level = next(iter(database.misc_tables[labels].levels))
        labels = frame.astype({level: "str"}).set_index(level).to_dict("index")
    if not isinstance(labels, dict):
        return {}
    fields: dict[str, dict[str, object]] = {}
    for label, values in labels.items():
        for name, value in (values if isinstance(values, dict) else {}).items():
            fields.setdefault(name, {})[str(label)] = value
    return fields


def _split_name(database: audformat.Database, split_id: str) -> str:
    """Return the type of a split, or its id where another split has the same type."""
    kind = database.splits[split_id].type
    shared = sum(split.type == kind for split in database.splits.values()) > 1
    return split_id if shared or kind is None else str(kind)


def _merge_rows(rows: pd.DataFrame, root: Path) -> pd.DataFrame:
    """Return one row for each segment, with the labels that several tables have for it."""
    groups = rows.groupby(list(INDEX_COLUMNS), sort=False, dropna=False)
    clashes = groups.nunique() > 1
    if clashes.to_numpy().any():
        column = clashes.any().idxmax()
        file = clashes.index[clashes[column]][0][0]
        raise CorpusError(f"{root}: tables contradict each other in {column} of {file}")
    return groups.first().reset_index()


def _spread_over_segments(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows where values for a whole file are given to its segments, if it has any."""
    is_whole = rows["end"].isna() & (rows["start"] == pd.Timedelta(0))
    if is_whole.all() or not is_whole.any():
        return rows
    parts, whole = rows[~is_whole].copy(), rows[is_whole].set_index("file")
    for column in whole.columns.difference(INDEX_COLUMNS):
        parts[column] = parts[column].fillna(parts["file"].map(whole[column]))
    kept = whole[~whole.index.isin(parts["file"])].reset_index()
    return pd.concat([kept, parts], ignore_index=True)[rows.columns]


# --- The corpora known by name -------------------------------------------------------------------


@dataclass(frozen=True)
class Corpus:
    """One corpus as data: how it is read, which classes are scored and how they are asked for."""

    name: str
    title: str
    reader: Callable[[Path], pd.DataFrame]
    expected: str
    """Layout below the root, for the message about a wrong one."""
    clips: int
    """Number of recordings in the published corpus."""
    classes: Mapping[str, str | None]
    """Native emotion label -> class; two labels may share one, None drops the label."""
    queries: Mapping[str, Mapping[str, str]]
    """Query set -> class -> query."""
    licence: str
    reference: str = field(repr=False)


RAVDESS_EMOTIONS = {
    "01": "neutral",
    "02": "calm",
    "03": "happy",
    "04": "sad",
    "05": "angry",
    "06": "fearful",
    "07": "disgust",
    "08": "surprised",
}
RAVDESS_INTENSITIES = {"01": "normal", "02": "strong"}
RAVDESS_NAME = (
    r"Actor_\d\d/(?P<modality>\d\d)-(?P<channel>\d\d)-(?P<emotion>\d\d)-(?P<intensity>\d\d)"
    r"-(?P<statement>\d\d)-(?P<repetition>\d\d)-(?P<actor>\d\d)"
)
RAVDESS_SONG = "02"


def _ravdess_labels(name: dict[str, str]) -> dict | None:
    """Return the labels of a RAVDESS name; song is left out."""
    if name["channel"] == RAVDESS_SONG:
        return None
    return {
        "emotion": RAVDESS_EMOTIONS[name["emotion"]],
        "speaker": name["actor"],
        "gender": "male" if int(name["actor"]) % 2 else "female",
        "language": "en",
        "intensity": RAVDESS_INTENSITIES[name["intensity"]],
        "text_id": str(int(name["statement"])),
        "repetition": str(int(name["repetition"])),
    }


EMODB_EMOTIONS = {
    "W": "anger",
    "L": "boredom",
    "E": "disgust",
    "A": "fear",
    "F": "happiness",
    "T": "sadness",
    "N": "neutral",
}
EMODB_SPEAKERS = {
    # speaker: gender, age
    "03": ("male", 31),
    "08": ("female", 34),
    "09": ("female", 21),
    "10": ("male", 32),
    "11": ("male", 26),
    "12": ("male", 30),
    "13": ("female", 32),
    "14": ("female", 35),
    "15": ("male", 25),
    "16": ("female", 31),
}
EMODB_NAME = r"(?:wav/)?(?P<speaker>\d\d)(?P<text>[ab]\d\d)(?P<emotion>[A-Z])(?P<version>[a-z]?)"


def _emodb_labels(name: dict[str, str]) -> dict:
    """Return the labels of an EmoDB name."""
    gender, age = EMODB_SPEAKERS[name["speaker"]]
    return {
        "emotion": EMODB_EMOTIONS[name["emotion"]],
        "speaker": name["speaker"],
        "gender": gender,
        "language": "de",
        "text_id": name["text"],
        "age": age,
    }


CORPORA = {
    corpus.name: corpus
    for corpus in (
        Corpus(
            name="ravdess",
            title="RAVDESS, speech",
            reader=partial(read_file_names, pattern=RAVDESS_NAME, labels=_ravdess_labels),
            expected="Actor_01/03-01-01-01-01-01-01.wav (or .flac, ...) to Actor_24/",
            clips=1440,
            classes={label: label for label in RAVDESS_EMOTIONS.values()},
            queries=_emotion_queries(*RAVDESS_EMOTIONS.values()),
            licence="CC BY-NC-SA 4.0",
            reference="Livingstone and Russo, PLoS ONE 13(5), 2018",
        ),
        Corpus(
            name="emodb",
            title="Berlin Database of Emotional Speech",
            reader=partial(read_file_names, pattern=EMODB_NAME, labels=_emodb_labels),
            expected="wav/03a01Fa.wav (or .flac, ...), or the same files directly in the folder",
            clips=535,
            classes={label: label for label in EMODB_EMOTIONS.values()},
            # Not in the paper: `published` is the noun, as the paper asks of MSP-Podcast.
            queries=_emotion_queries(*EMODB_EMOTIONS.values()),
            licence="CC0 1.0 (release of audEERING)",
            reference="Burkhardt et al., Interspeech 2005",
        ),
    )
}


# --- From a source to its table ------------------------------------------------------------------


def split_source(text: str) -> tuple[str | None, Path]:
    """Return the corpus name, or None, and the path of a source; ``~`` is expanded.

    Raises:
        CorpusError: if the name of ``NAME=ROOT`` is not in CORPORA
    """
    name, equals, root = text.partition("=")
    if not equals or not re.fullmatch(r"[\w-]+", name) or Path(text).exists():
        return None, Path(text).expanduser()
    if name not in CORPORA:
        near = difflib.get_close_matches(name, CORPORA, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise CorpusError(f"{name} is no known corpus, expected one of {sorted(CORPORA)}{hint}")
    return name, Path(root).expanduser()


def read_corpus(source: str | Path) -> pd.DataFrame:
    """Return the table of a source (see the head of this file) on audformat's segmented index.

    Raises:
        CorpusError: if the source is none of the known forms or not where it should be, or if its
            table has duplicates, impossible segments, or files that leave the root
    """
    corpus, path = split_source(str(source))
    path = path.absolute()
    if corpus:
        return _read_known(CORPORA[corpus], path)
    if path.suffix.lower() in TABLE_READERS and path.is_file():
        return _finish(read_table(path), path.parent, path.stem)
    if not path.is_dir():
        raise CorpusError(f"{path} is not there, expected {SOURCE_FORMS}")
    if (path / "db.yaml").is_file():
        rows = read_database(path)
        return _finish(rows, path, rows.attrs["name"])
    rows = read_folder(path)
    if rows.empty:
        raise CorpusError(f"{path} holds no db.yaml and no audio; found: {_contents(path)}")
    return _finish(rows, path, path.name)


def _read_known(corpus: Corpus, root: Path) -> pd.DataFrame:
    """Return the table of a corpus of CORPORA."""
    rows = corpus.reader(root) if root.is_dir() else pd.DataFrame()
    if rows.empty:
        raise CorpusError(
            f"{root} is not the folder of {corpus.title}: expected {corpus.expected};"
            f" found: {_contents(root)}"
        )
    if len(rows) != corpus.clips:
        warnings.warn(
            f"{root} holds {len(rows)} clips of {corpus.title}, published are {corpus.clips}",
            stacklevel=3,
        )
    return _finish(rows, root, corpus.name, corpus.name)


def _contents(root: Path) -> str:
    """Return the first few names in a folder, for a message."""
    if not root.is_dir():
        return "a file" if root.exists() else "nothing"
    names = sorted(os.listdir(root))
    return (
        ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        or "nothing"
    )


def _finish(rows: pd.DataFrame, root: Path, name: str, corpus: str | None = None) -> pd.DataFrame:
    """Return rows (file, optional start and end, labels) as checked corpus table."""
    if rows.empty:
        raise CorpusError(f"{name}: the table of {root} has no rows")
    files = _check_files(rows["file"], root)
    starts, ends = _timedeltas(rows, "start"), _timedeltas(rows, "end")
    wrong = (starts < pd.Timedelta(0)) | (ends <= starts)
    if wrong.any():
        row = wrong.idxmax()
        raise CorpusError(
            f"{name}: segment {starts[row]} to {ends[row]} of {files[row]} is negative or empty"
        )
    index = audformat.segmented_index(files, starts, ends)
    if index.has_duplicates:
        raise CorpusError(f"{name}: {index[index.duplicated()][0]} occurs twice in the table")
    table = rows.drop(columns=list(INDEX_COLUMNS), errors="ignore").set_axis(index)
    for column in table.columns:
        table[column] = _typed(table[column], name)
    table.attrs = {"name": name, "root": str(root), "corpus": corpus}
    return table


def _check_files(files: pd.Series, root: Path) -> pd.Series:
    """Return file names in plain form; all must be relative, stay inside the root and be UTF-8."""
    if files.isna().any():
        raise CorpusError(f"{root}: the table has rows without a file")
    files = files.astype("str")
    leaves = files.str.contains(r"^/|^[A-Za-z]:[\\/]|(?:^|[/\\])\.\.(?:[/\\]|$)|\x00", regex=True)
    if leaves.any():
        raise CorpusError(f"{files[leaves].iloc[0]!r} leaves {root}, expected a path inside of it")
    files = files.map(posixpath.normpath)
    if not any((root / file).exists() for file in files[:100]):
        raise CorpusError(
            f"{root} holds none of the first files of its table, e.g. {files.iloc[0]}"
        )
    return files


def _timedeltas(rows: pd.DataFrame, column: str) -> pd.Series:
    """Return a column of seconds or timedeltas as timedelta64[ns]; absent: start 0, end NaT."""
    default = pd.Timedelta(0) if column == "start" else pd.NaT
    if column not in rows:
        return pd.Series(default, index=rows.index, dtype="timedelta64[ns]")
    values = rows[column]
    try:
        if not pd.api.types.is_timedelta64_dtype(values):
            seconds = pd.to_numeric(values, errors="coerce")
            texts = pd.to_timedelta(values.where(seconds.isna()))
            values = pd.to_timedelta((seconds * 1e9).round(), unit="ns").fillna(texts)
    except ValueError as error:
        raise CorpusError(f"{column} is neither seconds nor a timedelta: {error}") from error
    return values.astype("timedelta64[ns]").fillna(default)


def _typed(values: pd.Series, name: str) -> pd.Series:
    """Return a label column as text or numbers, whichever its name asks for."""
    try:
        if values.name in NUMBER_COLUMNS:
            return pd.to_numeric(values).astype("float64")
    except ValueError as error:
        raise CorpusError(f"{name}: {values.name} must hold numbers: {error}") from error
    if values.name in TEXT_COLUMNS or isinstance(values.dtype, pd.CategoricalDtype):
        if pd.api.types.is_float_dtype(values):  # whole numbers beside missing ones: 7, not 7.0
            values = values.convert_dtypes()
        return values.astype("str")
    return values


# --- From a table to what is scored --------------------------------------------------------------


def scored_classes(table: pd.DataFrame, target: str = "emotion") -> pd.Series:
    """Return the class of each row; NaN where the label is missing or not scored.

    Args:
        table: corpus table
        target: column that holds the labels

    Raises:
        CorpusError: if the column is absent, holds numbers, or has a label that the corpus lacks
    """
    if target not in table:
        raise CorpusError(f"the table has no {target}, its columns are {list(table.columns)}")
    labels = table[target]
    if pd.api.types.is_numeric_dtype(labels) and labels.notna().any():
        raise CorpusError(f"{target} holds numbers, expected classes")
    corpus = CORPORA.get(table.attrs.get("corpus"))
    if corpus is None or target != "emotion":
        return labels.astype("str")
    unknown = sorted(set(labels.dropna()) - set(corpus.classes))
    if unknown:
        raise CorpusError(f"{corpus.name}: unknown labels {unknown} in {target}")
    return labels.map(corpus.classes).astype("str")


def queries_for(
    table: pd.DataFrame, target: str = "emotion", query_set: str = "published"
) -> dict[str, str]:
    """Return class -> query.

    A corpus of CORPORA, and a target of TARGET_QUERIES, bring all of their classes, even such that
    no row has; for everything else the classes of the table are asked for, in sorted order.

    Raises:
        CorpusError: if the query set is not known
    """
    corpus = CORPORA.get(table.attrs.get("corpus"))
    known = corpus.queries if corpus and target == "emotion" else TARGET_QUERIES.get(target, {})
    if query_set not in {**QUERY_FORMS, **known}:
        raise CorpusError(
            f"{query_set} is no query set, expected one of {sorted({**QUERY_FORMS, **known})}"
        )
    queries = dict(known.get(query_set, {}))
    for label in sorted(scored_classes(table, target).dropna().unique()):
        queries.setdefault(label, QUERY_FORMS.get(query_set, _bare)(label, target))
    return queries


def load_queries(path: str | Path) -> dict[str, str]:
    """Return class -> query from a YAML file with one ``class: query`` on each line.

    Raises:
        CorpusError: if it is not such a file
    """
    try:
        queries = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path} is not YAML: {error}") from error
    if not isinstance(queries, dict) or not queries:
        raise CorpusError(f"{path} holds {type(queries).__name__}, expected lines `class: query`")
    for label, query in queries.items():
        if not isinstance(label, str) or not isinstance(query, str) or not query.strip():
            raise CorpusError(f"{path}: {label!r}: {query!r} must both be text (use quotes)")
    return queries
