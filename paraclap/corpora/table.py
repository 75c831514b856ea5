"""From a source to a corpus table, and from its labels to scored classes.

    table = read_corpus("ravdess=/data/RAVDESS")
    classes = scored_classes(table, "emotion")

A *source*, as given on the command line, is one of ::

    ravdess=/data/RAVDESS    a corpus of CORPORA and its folder
    /data/my-database        an audformat database (contains db.yaml)
    /data/mine/labels.csv    a .csv, .tsv, .parquet or .jsonl table (file or file_name) beside its
                             audio; with `root`, anywhere
    mine=/data/labels.csv    the same with a name; also for an audformat database
    /data/shards             a folder of tar files in the layout of WebDataset
    /data/recordings         a folder of audio without labels

A corpus table is on audformat's segmented index: ``file`` (relative to the root, with ``/``),
``start`` and ``end`` (timedelta; NaT for the end of the file). Columns are any of emotion, speaker,
gender, split, fold, language (text), arousal, valence, dominance, age (numbers), and others.
``table.attrs`` holds ``name``, ``root`` and ``corpus`` (key of CORPORA or None). Audio is not read.
"""

import contextlib
import difflib
import glob
import math
import os
import posixpath
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from paraclap.audio.shards import shards_of
from paraclap.corpora import SOURCE_FORMS, CorpusError
from paraclap.corpora.audio_files import read_folder
from paraclap.corpora.catalogue import CORPORA, Corpus
from paraclap.corpora.databases import read_database
from paraclap.corpora.labels import normalise_column
from paraclap.corpora.shards import read_shards
from paraclap.corpora.table_files import SPREADSHEETS, TABLE_SUFFIXES, read_file_table
from paraclap.corpora.validation import corpus_table, refuse_lists

LOW, MIDDLE, HIGH = "low", "middle", "high"
"""Classes of numeric labels, by tertiles."""

MEANT_NAMES = {
    **dict.fromkeys(("label", "labels", "class", "category", "emotionlabel"), "emotion"),
    **dict.fromkeys(("spkid", "spkrid", "speakerid", "actorid", "subjectid"), "speaker"),
    **{"splitset": "split", "starttime": "start", "endtime": "end"},
}
"""Other name of a column, without blanks, in lower case -> the column."""
MEANT_WORDS = {
    word: column
    for column, words in {
        "emotion": "emotion emotions emo",
        "gender": "gender genders sex",
        "speaker": "speaker speakers spk spkr actor subject",
        "split": "split subset partition",
        "language": "language lang",
        "start": "start begin onset",
        "end": "end stop offset duration",
        "arousal": "arousal",
        "valence": "valence",
        "dominance": "dominance",
    }.items()
    for word in words.split()
}
"""Word within the name of a column, in lower case -> the column."""
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
LARGEST_EXACT = 2**53  # of the integers in 64-bit floating point
FILES_COMPARED = 50
"""Files of a folder whose names are compared with those of known corpora."""

CLIP_COLUMNS = ("name", "root", "file", "start", "end")
LABEL = "label."
"""First part of the names of the labels beside them."""


# --- From a source to its table ------------------------------------------------------------------


def split_source(text: str) -> tuple[str | None, Path]:
    """Return the name (or None) and the path of a source; ``~`` is expanded.

    Raises:
        CorpusError: if ``NAME=ROOT`` has neither a name of CORPORA nor a path of a table or folder
    """
    name, equals, root = text.partition("=")
    if not equals or not re.fullmatch(r"[\w-]+", name) or Path(text).exists():
        return None, Path(text).expanduser()
    path = Path(root).expanduser()
    near = difflib.get_close_matches(name, CORPORA, n=1)
    is_own = _is_table(path) or path.is_dir() and not near or (path / "db.yaml").is_file()
    is_own = is_own or bool(shards_of(path))
    if name not in CORPORA and not is_own:
        hint = f"; did you mean {near[0]}?" if near else ""
        raise CorpusError(
            f"{name} is not a known corpus, expected one of {', '.join(CORPORA)}{hint}"
        )
    return name, path


def _is_table(path: Path) -> bool:
    return path.suffix.lower() in TABLE_SUFFIXES and not path.is_dir()


def read_corpus(
    source: str | Path,
    root: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Return the corpus table of a source.

    Args:
        source: see the docstring of this module
        root: folder of the audio of a table file; None for the folder of the table
        columns: column -> its name in a table file

    Raises:
        CorpusError: if the source has none of the known forms, is missing or unreadable, or if its
            table has duplicates, impossible segments, or files outside of the root
    """
    try:
        return _read_source(str(source), root, columns)
    except OSError as error:
        file = error.filename or source
        raise CorpusError(f"{file} cannot be read: {error.strerror or error}") from error


def _read_source(
    source: str, root: str | Path | None, columns: Mapping[str, str] | None
) -> pd.DataFrame:
    name, path = split_source(source)
    path = path.absolute()
    if _is_table(path) and path.exists():
        folder = path.parent if root is None else Path(root).expanduser().absolute()
        rows = read_file_table(path, columns)
        _warn_ignored(rows, path)
        return corpus_table(rows, folder, name or path.stem)
    if path.suffix.lower() in SPREADSHEETS:
        raise CorpusError(f"{path} is a spreadsheet, save it as CSV (UTF-8)")
    is_sharded = bool(shards_of(path))
    if root not in (None, str(path), path) or columns and not is_sharded:
        warnings.warn(f"{source} is no table, --root and --column do not apply", stacklevel=4)
    if is_sharded:
        rows = read_shards(path, columns)
        return corpus_table(rows, path, name or path.name, name if name in CORPORA else None)
    if name in CORPORA:
        return _read_known(CORPORA[name], path)
    if path.is_file() or not path.exists():
        what = "is a file of another kind" if path.is_file() else "does not exist"
        raise CorpusError(f"{path} {what}, expected {SOURCE_FORMS}")
    if (path / "db.yaml").is_file():
        rows = read_database(path)
        return corpus_table(rows, path, name or rows.attrs["name"])
    rows = read_folder(path)
    if rows.empty:
        raise CorpusError(f"{path} contains neither db.yaml nor audio; found: {_contents(path)}")
    if known := _known_names(rows["file"], path):
        message = f"{path} is read without labels; {known}={path} reads those of {known}"
        warnings.warn(message, stacklevel=4)
    return corpus_table(rows, path, name or path.name)


def _warn_ignored(rows: pd.DataFrame, path: Path) -> None:
    """Warn of columns that may hold a label or a position under another name."""
    hints = []
    for column in map(str, rows):
        words = [word.lower() for word in WORD.findall(column)]
        found = [MEANT_NAMES.get(re.sub(r"\W|_", "", column).casefold())]
        found += [MEANT_WORDS.get(word) for word in reversed(words)]  # "speaker_gender": gender
        meant = next((name for name in found if name and name not in rows), None)
        unit = " in seconds" if meant in ("start", "end") else ""
        if "duration" not in words and meant:
            hints.append(f"{column} (--column {meant}={column}, if it is the {meant}{unit})")
        elif meant and "start" in rows:
            hints.append(f"{column} (expected a column end, start + {column})")
    if hints:
        warnings.warn(f"{path}: unused columns {', '.join(hints)}", stacklevel=4)


def _known_names(files: pd.Series, root: Path) -> str | None:
    """Return the known corpus whose files have such names and whose labels are there, if any."""
    stems = [posixpath.splitext(file)[0] for file in files[:FILES_COMPARED]]
    for corpus in CORPORA.values():
        pattern = rf"(?:.*/)?{corpus.reader.keywords['pattern']}"
        if all(re.fullmatch(pattern, stem) for stem in stems):
            with warnings.catch_warnings(action="ignore"), contextlib.suppress(CorpusError):
                if len(corpus.reader(root)):
                    return corpus.name
    return None


def read_clips(
    arguments: Iterable[str],
    root: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    labels: bool = False,
) -> pd.DataFrame:
    """Return the clips of files, glob patterns and sources, one row per clip.

    Named files need not exist; errors are reported when they are read.

    Args:
        arguments: audio files, patterns (``**`` for any folders), or sources
        root: see `read_corpus`
        columns: see `read_corpus`
        labels: also return the columns of the sources, as ``label.NAME``

    Returns:
        ``name`` (as given, or below the given folder), ``root``, ``file`` (relative to the root),
        ``start`` and ``end`` [s] (NaN for the end of the file); labels are numbers if those of all
        sources are, and texts otherwise

    Raises:
        CorpusError: if a source cannot be read, or a pattern has no match
    """
    clips: list[tuple] = []
    found: list[pd.DataFrame] = []
    for argument in arguments:
        pattern, matches = os.path.expanduser(argument), [argument]
        if not os.path.lexists(pattern) and glob.has_magic(pattern):
            matches = sorted(glob.glob(pattern, recursive=True))
            if not matches:
                raise CorpusError(f"{argument} matches nothing")
        for match in matches:
            rows, table = _read_clips_of(match, root, columns)
            clips += rows
            found.append(table)
    kinds = (object, object, object, float, float)  # objects because names need not be UTF-8
    values = zip(*clips, strict=True) if clips else [()] * len(kinds)
    series = zip(CLIP_COLUMNS, values, kinds, strict=True)
    table = pd.DataFrame({name: pd.Series(value, dtype=kind) for name, value, kind in series})
    return table.join(_joined_labels(found)) if labels and found else table


def _joined_labels(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the labels of several tables, in which a column may have different kinds."""
    joined = pd.concat(tables, ignore_index=True)
    for name, values in joined.items():
        if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
            joined[name] = values.astype("str")
    return joined.add_prefix(LABEL)


def is_source(argument: str) -> bool:
    """Return whether an argument is a source of `read_corpus`, and no audio file."""
    path = Path(argument).expanduser()
    is_table = path.suffix.lower() in (*TABLE_SUFFIXES, *SPREADSHEETS)
    return is_table or path.is_dir() or ("=" in argument and not os.path.lexists(path))


def _read_clips_of(
    argument: str, root: str | Path | None, columns: Mapping[str, str] | None
) -> tuple[list[tuple], pd.DataFrame]:
    """Return the clips of one file or source, and their labels, without nested ones."""
    path = Path(argument).expanduser()
    if is_source(argument):
        table = read_corpus(argument, root, columns)
        root = table.attrs["root"]
        shown = path if path.is_dir() else Path(os.path.relpath(root))
        rows = [
            (str(shown / file), root, file, start.total_seconds(), end.total_seconds())
            for file, start, end in table.index
        ]
        nested = [c for c in table if table[c].map(pd.api.types.is_list_like).any()]
        return rows, table.drop(columns=nested).reset_index(drop=True)
    target = Path(os.path.realpath(path))  # links may lead anywhere for a file named by the user
    place = (argument, str(target.parent), target.name, 0.0, math.nan)
    return [place], pd.DataFrame(index=[0])


def _read_known(corpus: Corpus, root: Path) -> pd.DataFrame:
    """Return the table of a corpus of CORPORA."""
    rows = corpus.reader(root) if root.is_dir() else pd.DataFrame()
    if rows.empty:
        raise CorpusError(
            f"{root} is not the folder of {corpus.title}: expected {corpus.expected};"
            f" found: {_contents(root)}"
        )
    if corpus.language and "language" not in rows:
        rows["language"] = corpus.language
    if corpus.clips and len(rows) != corpus.clips:
        warnings.warn(
            f"{root} contains {len(rows)} clips of {corpus.title}, expected {corpus.clips}",
            stacklevel=3,
        )
    return corpus_table(rows, root, corpus.name, corpus.name)


def _contents(root: Path) -> str:
    """Return the first names in a folder, for error messages."""
    if not root.is_dir():
        return "a file" if root.exists() else "nothing"
    names = sorted(os.listdir(root))
    return (
        ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        or "nothing"
    )


# --- From labels to classes ----------------------------------------------------------------------


def scored_classes(table: pd.DataFrame, target: str = "emotion") -> pd.Series:
    """Return the class of each row; NaN if the label is missing or not scored.

    Numeric labels are divided by the tertiles of the table: `low` up to the first, `high` from the
    second, `middle` in between.

    Args:
        table: corpus table
        target: column of the labels

    Raises:
        CorpusError: if the column is missing, both tertiles of its numbers are equal, its numbers
            are beyond 2^53, or it has a label unknown to the corpus
    """
    if target not in table:
        raise CorpusError(f"the table has no {target}, its columns are {', '.join(table.columns)}")
    labels = table[target]
    if pd.api.types.is_numeric_dtype(labels) and labels.notna().any():
        return _tertiles(labels)
    corpus = CORPORA.get(table.attrs.get("corpus"))
    if corpus is None or target != corpus.target:
        refuse_lists(labels, table.attrs.get("name", "the table"))
        return normalise_column(labels)[0]
    unknown = sorted(set(labels.dropna()) - set(corpus.classes))
    if unknown:
        raise CorpusError(f"{corpus.name}: unknown labels {', '.join(unknown)} in {target}")
    return labels.map(corpus.classes).astype("str")


def _tertiles(values: pd.Series) -> pd.Series:
    """Return low, middle or high for each number; NaN stays missing."""
    if values.astype("float64").abs().max() > LARGEST_EXACT:
        raise CorpusError(
            f"{values.name} has numbers beyond 2^53, which are not exact, expected smaller ones or"
            " texts"
        )
    first, second = values.quantile([1 / 3, 2 / 3])
    if not first < second:
        raise CorpusError(f"the tertiles of {values.name} are both {first}, expected two values")
    classes = pd.Series(MIDDLE, index=values.index, dtype="str")
    return classes.mask(values <= first, LOW).mask(values >= second, HIGH).mask(values.isna())
