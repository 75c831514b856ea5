r"""Reading what corpora are made of: file names, label files, tables and audformat databases.

Every function returns a plain DataFrame with a column ``file`` (relative to the root, with ``/``).
None of them knows a corpus; `catalogue.py` says how each one is read with them::

    read_files(root, r"(?P<speaker>\d+)_(?P<emotion>[A-Z])", codes={"emotion": {"A": "anger"}})

What is left out is told by a warning with a count and an example: audio that is named otherwise,
audio without a label, labels without audio, and copies. No audio is opened here.
"""

import codecs
import csv
import io
import os
import posixpath
import re
import string
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path, PurePosixPath

import audformat
import pandas as pd
import soundfile
import yaml

from paraclap.errors import ParaCLAPError

TEXT_COLUMNS = ("emotion", "speaker", "gender", "split", "fold", "language")
NUMBER_COLUMNS = ("arousal", "valence", "dominance", "age")
INDEX_COLUMNS = ("file", "start", "end")

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

SEPARATORS = ",;\t"
"""Separators of table files; the one that the first line has most of counts."""
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

DECIMAL_COMMA = r"^\s*(-?\d+),(\d+)\s*$"

Codes = Mapping[str, str | None]
"""Code -> label; None: no label."""


class CorpusError(ParaCLAPError, ValueError):
    """A source, a table or a label that is not what it should be."""


class Lenient(dict):
    """Codes of which others may occur: kept as they are, or without a label."""

    def __init__(self, codes: Codes, keep: bool) -> None:
        super().__init__(codes)
        self.keep = keep

    def __contains__(self, code: object) -> bool:
        """Know every code."""
        return True

    def __missing__(self, code: str) -> str | None:
        """Label of a code that is not listed."""
        return code if self.keep else None


def tell(root: Path, count: int, what: str, examples: Iterable[str]) -> None:
    """Warn of something that was left out, unless its count is 0."""
    if count:
        warnings.warn(f"{root}: {count} {what}, e.g. {next(iter(examples))}", stacklevel=3)


# --- Finding audio -------------------------------------------------------------------------------


@cache
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
        relative = Path(folder).relative_to(root).as_posix()
        found += [
            posixpath.normpath(posixpath.join(relative, name))
            for name in files
            if not name.startswith(".") and posixpath.splitext(name)[1][1:].lower() in suffixes
        ]
    for name in found:
        if not name.isprintable() and any("\udc80" <= letter <= "\udcff" for letter in name):
            raise CorpusError(f"{root}: the name {os.fsencode(name)!r} is not UTF-8, rename it")
    return sorted(found)


def _recordings(root: Path, keys: Mapping[str, object], prefer: str | None) -> list[str]:
    """Return one file for each recording.

    Copies are files of one name and size in several folders, as unpacked archives often have; the
    one in the fewest folders stays.

    Args:
        root: folder of the files
        keys: file -> what identifies its recording
        prefer: regular expression; of two files of one recording, the one it is found in stays

    Raises:
        CorpusError: if one recording is there under two suffixes, or in copies that differ
    """
    groups: dict[object, list[str]] = {}
    for file, key in keys.items():
        groups.setdefault(key, []).append(file)
    kept, copies, replaced = [], [], []
    for files in groups.values():
        preferred = [file for file in files if prefer and re.search(prefer, file)]
        if len(files) > 1 and len(preferred) == 1:
            replaced += [file for file in files if file not in preferred]
            files = preferred
        files = sorted(files, key=lambda file: (file.count("/"), file))
        first, others = files[0], files[1:]
        for other in others:
            same_name = posixpath.basename(first) == posixpath.basename(other)
            if not same_name or os.path.getsize(root / first) != os.path.getsize(root / other):
                raise CorpusError(
                    f"{root}: {first} and {other} are the same recording; keep one of them"
                )
        kept.append(first)
        copies += others
    tell(root, len(copies), "audio files are copies in another folder and are left out", copies)
    tell(root, len(replaced), "audio files have a corrected version and are left out", replaced)
    return sorted(kept)


def read_folder(root: Path) -> pd.DataFrame:
    """Return one row (file) for each audio file below ``root``.

    Raises:
        CorpusError: if one recording is there under two suffixes
    """
    files = find_audio(root)
    _recordings(root, {file: posixpath.splitext(file)[0] for file in files}, None)
    others = find_audio(root, frozenset(CONVERTIBLE_SUFFIXES))
    tell(root, len(others), "files need ffmpeg to convert them and are left out", others)
    return pd.DataFrame({"file": files}, dtype="str")


# --- Reading file names --------------------------------------------------------------------------


def read_files(
    root: Path,
    pattern: str,
    columns: Mapping[str, str] | None = None,
    codes: Mapping[str, Codes] | None = None,
    labels: Callable[[Path], pd.DataFrame] | None = None,
    labels_needed: bool = True,
    other_part: str | None = None,
    prefer: str | None = None,
) -> pd.DataFrame:
    r"""Return one row for each recording, with labels from its name and from label files.

    A name that ``pattern`` matches gives one *field* for each named group. Fields of label files
    are joined to them by the fields that both have. Every field is a column, but ``clip``.

    Args:
        root: folder of the corpus
        pattern: regular expression for the whole path below ``root``, without suffix
        columns: further columns: their text, with fields in braces, e.g. ``"Ses{session}{gender}"``
        codes: column -> code -> label, for columns whose text is a code
        labels: gives a table of fields. A field ``clip`` may hold a path or suffix: both are cut
        labels_needed: leave out recordings without a row in ``labels``
        other_part: regular expression for audio of the same corpus that is not wanted, untold
        prefer: see `_recordings`

    Raises:
        CorpusError: if a code is unknown, or label files contradict each other
    """
    files = find_audio(root)
    matches = {file: re.fullmatch(pattern, posixpath.splitext(file)[0]) for file in files}
    names = {file: match.groupdict() for file, match in matches.items() if match}
    strays = [
        file
        for file, match in matches.items()
        if not match and not (other_part and re.search(other_part, file))
    ]
    if names:
        what = "audio files are not named as the corpus names them and are left out"
        tell(root, len(strays), what, strays)
    kept = _recordings(root, {file: tuple(f.values()) for file, f in names.items()}, prefer)
    fields = pd.DataFrame([{"file": file, **names[file]} for file in kept], dtype="str")
    if labels is not None and len(fields):
        fields = _join_labels(fields, labels(root), labels_needed, root)
    own = {name: f"{{{name}}}" for name in fields.columns.difference(["file", "clip"], sort=False)}
    return _columns_of(fields, {**own, **(columns or {})}, codes or {}, root)


def _join_labels(
    fields: pd.DataFrame, labels: pd.DataFrame, needed: bool, root: Path
) -> pd.DataFrame:
    """Return the fields of names with those of label files; tells what has no counterpart."""
    if needed and labels.empty:
        return fields.iloc[:0]
    if "clip" in labels:
        labels = labels.assign(clip=labels["clip"].map(_stem, na_action="ignore"))
    labels = labels.drop_duplicates()
    keys = [column for column in fields if column in labels]
    twice = labels[labels.duplicated(keys, keep=False)]
    if needed and len(twice):
        example = _key_texts(twice, keys)[0]
        raise CorpusError(f"{root}: label files contradict each other about {example}")
    what = "lines of label files contradict each other and are left out"
    tell(root, len(twice), what, _key_texts(twice, keys))
    labels = labels.drop(twice.index)
    joined = fields.merge(labels, on=keys, how="outer" if needed else "left", indicator="source")
    sources = joined.pop("source")
    if needed:
        missing, unlabelled = joined[sources == "right_only"], joined[sources == "left_only"]
        tell(root, len(missing), "labelled clips have no audio", _key_texts(missing, keys))
        what = "audio files have no label and are left out"
        tell(root, len(unlabelled), what, unlabelled["file"])
        joined = joined[sources == "both"]
    return joined.sort_values("file", ignore_index=True)


def _key_texts(rows: pd.DataFrame, keys: Sequence[str]) -> list[str]:
    """Return the values that rows are joined by as texts."""
    return [" ".join(map(str, row)) for row in rows[keys].fillna("?").to_numpy()]


def _stem(path: str) -> str:
    """Return a file name without folder and without the suffix of an audio format."""
    name = posixpath.basename(str(path).replace("\\", "/"))
    stem, suffix = posixpath.splitext(name)
    return stem if suffix[1:].lower() in audio_suffixes() else name


def _columns_of(
    fields: pd.DataFrame, columns: Mapping[str, str], codes: Mapping[str, Codes], root: Path
) -> pd.DataFrame:
    """Return ``file`` and the columns; those without any value are left out."""
    if fields.empty:
        return fields
    rows = fields[["file"]].copy()
    for column, text in columns.items():
        values = _fill(text, fields)
        if column in codes:
            known = codes[column]
            unknown = [value not in known for value in values.dropna()]
            if any(unknown):
                row = values.dropna().index[unknown][0]
                raise CorpusError(
                    f"{root}: {fields['file'][row]} holds the unknown code {values[row]!r} for"
                    f" {column}, expected one of {sorted(known)}"
                )
            values = values.map(lambda value, known=known: known[value], na_action="ignore")
        if values.notna().any():
            is_number = pd.api.types.is_numeric_dtype(values)
            rows[column] = values if is_number else values.astype("str")
    return rows


def _fill(text: str, fields: pd.DataFrame) -> pd.Series:
    """Return a text with its fields filled in, for each row; missing where a field is."""
    names = [name for _, name, _, _ in string.Formatter().parse(text) if name]
    if text == f"{{{''.join(names)}}}":
        return fields[names[0]]
    filled = [text.format(**row) for row in fields[["file", *names]].to_dict("records")]
    return pd.Series(filled, fields.index, dtype="str").mask(fields[names].isna().any(axis=1))


# --- Reading label files -------------------------------------------------------------------------


def read_label_files(
    root: Path,
    globs: Sequence[str],
    columns: Mapping[str, str] | None = None,
    optional: Sequence[str] = (),
    line: str | None = None,
    path_fields: str | None = None,
    encodings: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    r"""Return the fields of label files as text, one row for each row or line; empty is missing.

    Args:
        root: folder of the corpus
        globs: where the files are, below the root; the first that finds any counts
        columns: column of the files -> field; for files with a header, of any separator
        optional: columns that a file may lack
        line: for files without header, a regular expression for a line with a named group for each
            field; other lines are comments
        path_fields: regular expression with groups that the path of a file gives to all its rows
        encodings: glob -> encoding of files that are neither UTF-8 nor UTF-16 with a byte order
            mark; other such files are cp1252

    Returns:
        A table without rows if there are no such files.

    Raises:
        CorpusError: if a file is no table, or lacks one of the columns
    """
    found = (sorted(root.glob(pattern)) for pattern in globs)
    paths = [p for p in next(filter(None, found), []) if not p.name.startswith(".")]
    tables = []
    for path in paths:
        file = path.relative_to(root).as_posix()
        chosen = [e for glob, e in (encodings or {}).items() if PurePosixPath(file).match(glob)]
        text = read_text(path, chosen[0] if chosen else "cp1252")
        if line:
            matches = (re.fullmatch(line, row.strip()) for row in text.splitlines())
            table = pd.DataFrame([match.groupdict() for match in matches if match], dtype="str")
        else:
            table = _pick_columns(text, columns or {}, optional, path)
        match = re.search(path_fields, file) if path_fields else None
        tables.append(table.assign(**(match.groupdict() if match else {})))
    names = [*(columns or {}).values(), *re.compile(line or "").groupindex]
    return pd.concat([pd.DataFrame(columns=names, dtype="str"), *tables], ignore_index=True)


def _pick_columns(
    text: str, columns: Mapping[str, str], optional: Sequence[str], path: Path
) -> pd.DataFrame:
    """Return the named columns of a label file under the names of their fields, without blanks."""
    try:
        table = parse_table(text).rename(columns=str.strip)
    except ValueError as error:
        raise CorpusError(f"{path} cannot be read as a table: {error}") from error
    missing = [column for column in columns if column not in table and column not in optional]
    if missing:
        raise CorpusError(f"{path} has columns {list(table.columns)}, expected also {missing}")
    table = table.reindex(columns=list(columns)).rename(columns=columns).astype("str")
    table = table.apply(lambda column: column.str.strip())
    return table.mask(table == "")


def read_text(path: Path, fallback: str | None = None) -> str:
    """Return the text of a file in UTF-8, in UTF-16 with a byte order mark, or else in fallback.

    Args:
        path: file
        fallback: encoding where the text is not UTF-8; None: that is an error

    Raises:
        UnicodeDecodeError: if it is in another encoding; a ValueError
    """
    content = path.read_bytes()
    for mark, encoding in BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return content.decode(encoding)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        if fallback is None:
            raise
    return content.decode(fallback, errors="replace")


def parse_table(text: str) -> pd.DataFrame:
    """Return separated text as a table of text: `001`, `NA` and `None` stay, empty is missing.

    The separator is that of SEPARATORS which the first line has most of. Quotes have no meaning in
    text separated by tabs.
    """
    header = text.lstrip().partition("\n")[0]
    separator = max(SEPARATORS, key=header.count)
    table = pd.read_csv(
        io.StringIO(text),
        sep=separator,
        dtype=str,
        keep_default_na=False,
        quoting=csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL,
    )
    return table.mask(table == "")


# --- Reading tables and audformat databases ------------------------------------------------------


def _read_csv(path: Path) -> pd.DataFrame:
    """Return a table file as text; other encodings than UTF-8 and UTF-16 are an error."""
    return parse_table(read_text(path))


def _read_parquet(path: Path) -> pd.DataFrame:
    """Return a parquet file with its index, if it is named, as columns."""
    frame = pd.read_parquet(path)
    return frame.reset_index() if any(frame.index.names) else frame


TABLE_READERS = {".csv": _read_csv, ".tsv": _read_csv, ".parquet": _read_parquet}


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


def read_database(root: Path, tables: str = "", split_pattern: str | None = None) -> pd.DataFrame:
    """Return the file tables of an audformat database as one, with split and label fields.

    Fields of labels (``speaker: {s1: {gender: female, age: 30}}``, also from misc tables) become
    columns. Values for whole files are given to each segment of the file. ``split`` is the type of
    a table's split (train, dev, test), or its id where several splits share a type. Pickled tables
    are never read, and YAML tags are refused: both could run code.

    Args:
        root: folder that holds ``db.yaml``
        tables: regular expression that is found in the names of the tables to be read
        split_pattern: regular expression whose group is the split, where the name of a table holds
            it

    Raises:
        CorpusError: if header or tables are damaged or missing, or tables contradict each other
    """
    try:
        header = yaml.safe_load((root / "db.yaml").read_text(encoding="utf-8"))
        database = audformat.Database.load_header_from_yaml(header)
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise CorpusError(f"{root / 'db.yaml'} is no audformat header: {error}") from error
    names = [name for name in database.tables if re.search(tables, name)]
    if not names:
        wanted = f" that match {tables}" if tables else ""
        raise CorpusError(f"{root / 'db.yaml'} lists no tables{wanted}, expected at least one")
    frames = []
    for name in names:
        match = re.search(split_pattern, name) if split_pattern else None
        frame = _database_table(database, root, name)
        frames.append(frame.assign(split=match[1]) if match else frame)
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


# --- From rows to a checked table ----------------------------------------------------------------


def corpus_table(
    rows: pd.DataFrame, root: Path, name: str, corpus: str | None = None
) -> pd.DataFrame:
    """Return rows (file, optional start and end, labels) as checked corpus table.

    Rows of files that are not there stay, and are told: who reads them says so of each.

    Args:
        rows: column ``file`` and any others
        root: folder of the files
        name: of the table
        corpus: key of CORPORA, or None

    Raises:
        CorpusError: if there are no rows, or if files leave the root, segments are impossible or
            rows occur twice
    """
    if rows.empty:
        raise CorpusError(f"{name}: the table of {root} has no rows")
    files = _check_files(rows["file"], root)
    _check_presence(files, root)
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
    return files.map(posixpath.normpath)


def _check_presence(files: pd.Series, root: Path) -> None:
    """Tell of files that are not there; if none is, the root is another one."""
    absent = [f for f in files.unique() if not os.path.lexists(os.path.join(root, f))]
    if len(absent) == files.nunique():
        raise CorpusError(f"{root} holds none of the files of its table, e.g. {absent[0]}")
    tell(root, len(absent), "files of the table are not there", absent)


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
            if pd.api.types.is_string_dtype(values):
                values = values.str.replace(DECIMAL_COMMA, r"\1.\2", regex=True)
            return pd.to_numeric(values).astype("float64")
    except ValueError as error:
        raise CorpusError(f"{name}: {values.name} must hold numbers: {error}") from error
    if values.name in TEXT_COLUMNS or isinstance(values.dtype, pd.CategoricalDtype):
        if pd.api.types.is_float_dtype(values):  # whole numbers beside missing ones: 7, not 7.0
            values = values.convert_dtypes()
        return values.astype("str")
    return values
