"""Validation of corpus tables: paths, segments, duplicates, types of columns; see `table`."""

import functools
import os
import posixpath
import warnings
from collections.abc import Iterable
from pathlib import Path

import audformat
import numpy as np
import pandas as pd

from paraclap.audio.shards import find_member
from paraclap.corpora import CorpusError
from paraclap.corpora.caption_rows import caption_columns, one_row_per_clip
from paraclap.corpora.labels import (
    LABEL_COLUMNS,
    NUMBER_COLUMNS,
    is_no_label,
    normalise_labels,
)

INDEX_COLUMNS = ("file", "start", "end")
DECIMAL_COMMA = r"^\s*(-?\d+|.*\d:\d\d),(\d+)\s*$"
CODES = (99, 999, 9999)
"""Numbers that, with either sign and far from all others, often stand for missing values."""
ROOT_HINT = "; the folder of the audio is set by --root, or by data.root of train.py"


def warn_skipped(root: Path, count: int, what: str, examples: Iterable[str]) -> None:
    """Warn about skipped items, unless their number is 0."""
    if count:
        warnings.warn(f"{root}: {count} {what}, e.g. {next(iter(examples))}", stacklevel=3)


def corpus_table(
    rows: pd.DataFrame, root: Path, name: str, corpus: str | None = None
) -> pd.DataFrame:
    """Return rows (file, optional start and end, labels) as a validated corpus table.

    Rows of missing files are kept with a warning; they are reported when the files are read.

    Args:
        rows: table with a column ``file``
        root: folder of the files
        name: of the table
        corpus: key of `CORPORA`, or None

    Returns:
        The table; ``attrs`` holds ``name``, ``root`` and ``corpus``. If a clip with a ``caption``
        has several rows, ``caption`` is a list of those of each clip.

    Raises:
        CorpusError: if there are no rows, files outside of the root, impossible segments or
            duplicate rows
    """
    if rows.empty:
        raise CorpusError(f"{name}: the table of {root} has no rows")
    files = _check_files(rows["file"], root)
    _check_presence(files, root)
    starts, ends = timedeltas(rows, "start"), timedeltas(rows, "end")
    wrong = (starts < pd.Timedelta(0)) | (ends <= starts)
    if wrong.any():
        row = wrong.idxmax()
        raise CorpusError(
            f"{name}: segment {starts[row]} to {ends[row]} of {files[row]} is negative or empty"
        )
    index = audformat.segmented_index(files, starts, ends)
    if index.has_duplicates and not caption_columns(rows.columns):
        raise CorpusError(f"{name}: {index[index.duplicated()][0]} occurs twice in the table")
    table = rows.drop(columns=list(INDEX_COLUMNS), errors="ignore").set_axis(index)
    for column in table.columns:
        table[column] = typed(table[column], name)
    table = normalise_labels(table, name, report=corpus is None)
    if index.has_duplicates:
        table = one_row_per_clip(table, name)
    _warn_of_codes(table, name)
    table.attrs = {"name": name, "root": str(root), "corpus": corpus}
    return table


def _warn_of_codes(table: pd.DataFrame, name: str) -> None:
    """Warn of numbers that may be codes for missing values: negative ages, -999 and the like."""
    found = []
    for column in table.columns.intersection(NUMBER_COLUMNS):
        values = table[column].dropna()
        is_code = values.abs().isin(CODES)
        is_code &= values.abs() > 2 * values[~is_code].abs().max()
        if column == "age":
            is_code |= values < 0
        counts = values[is_code].value_counts()
        found += [f"{column} {value:g} ({count})" for value, count in counts.items()]
    if found:
        warnings.warn(
            f"{name}: these numbers are used as they are, leave them empty if they stand for "
            f"missing values: {', '.join(found)}",
            stacklevel=3,
        )


def _check_files(files: pd.Series, root: Path) -> pd.Series:
    """Return normalised paths relative to the root; all must be inside of it."""
    if files.isna().any():
        raise CorpusError(f"{root}: the table has rows without a file")
    refuse_lists(files, str(root))
    files = _relative(files.astype("str"), str(root))
    leaves = files.str.contains(r"^/|^[A-Za-z]:[\\/]|(?:^|[/\\])\.\.(?:[/\\]|$)|\x00", regex=True)
    if leaves.any():
        raise CorpusError(
            f"{files[leaves].iloc[0]!r} leaves {root}, expected a path inside of it{ROOT_HINT}"
        )
    return files.map(posixpath.normpath)


def _relative(files: pd.Series, root: str) -> pd.Series:
    """Return absolute paths inside the root, also through symbolic links, as relative ones."""
    bases = dict.fromkeys([os.path.normpath(root), os.path.realpath(root)])

    @functools.cache
    def below_root(folder: str) -> str:
        for place in (folder, os.path.realpath(folder)):
            for base in bases:
                if Path(place).is_relative_to(base):
                    return os.path.relpath(place, base)
        return folder

    def relative(file: str) -> str:
        folder, name = posixpath.split(posixpath.normpath(file))
        return posixpath.join(below_root(folder), name)

    is_absolute = files.str.startswith("/") & ~files.str.contains("\0", regex=False)
    if not is_absolute.any():
        return files
    return files.where(~is_absolute, files[is_absolute].map(relative))


def _check_presence(files: pd.Series, root: Path) -> None:
    """Warn about missing files; if all are missing, the root must be wrong."""
    absent = [f for f in files.unique() if not os.path.lexists(os.path.join(root, f))]
    absent = [file for file in absent if find_member(root, file) is None]
    if len(absent) == files.nunique():
        raise CorpusError(
            f"{root} contains none of the files of its table, e.g. {absent[0]}{ROOT_HINT}"
        )
    warn_skipped(root, len(absent), "files of the table do not exist", absent)


def timedeltas(rows: pd.DataFrame, column: str) -> pd.Series:
    """Return positions as timedelta64[ns]; by default, starts are 0 and ends NaT.

    Numbers are seconds. Texts are seconds or times (00:00:04.500), with a decimal point or comma.
    """
    default = pd.Timedelta(0) if column == "start" else pd.NaT
    if column not in rows:
        return pd.Series(default, index=rows.index, dtype="timedelta64[ns]")
    values = rows[column]
    try:
        if pd.api.types.is_numeric_dtype(values):
            values = pd.to_timedelta((values * 1e9).round(), unit="ns")
        elif not pd.api.types.is_timedelta64_dtype(values):
            values = _parse_times(values.astype("str"))
    except (ValueError, TypeError, OverflowError) as error:
        raise CorpusError(f"{column} is neither seconds nor a timedelta: {error}") from error
    return values.astype("timedelta64[ns]").fillna(default)


def _parse_times(texts: pd.Series) -> pd.Series:
    texts = texts.str.replace(DECIMAL_COMMA, r"\1.\2", regex=True)
    seconds = pd.to_numeric(texts, errors="coerce")
    times = texts.where(seconds.isna())
    commas = times.str.contains(",", regex=False, na=False)
    if commas.any():  # pandas ignores them
        raise ValueError(times[commas].iloc[0])
    return pd.to_timedelta((seconds * 1e9).round(), unit="ns").fillna(pd.to_timedelta(times))


def typed(values: pd.Series, name: str) -> pd.Series:
    """Return a column as text or float64 if its name requires it, otherwise unchanged.

    Args:
        values: column of a table
        name: of the table, for error messages

    Raises:
        CorpusError: if a column of `NUMBER_COLUMNS` does not hold numbers, or labels are lists
    """
    try:
        if values.name in NUMBER_COLUMNS:
            if pd.api.types.is_string_dtype(values):
                values = values.mask(values.notna() & values.map(is_no_label))
                values = values.str.replace(DECIMAL_COMMA, r"\1.\2", regex=True)
            return pd.to_numeric(values).astype("float64")
    except (ValueError, TypeError) as error:
        raise CorpusError(f"{name}: {values.name} must hold numbers: {error}") from error
    if values.name in LABEL_COLUMNS or isinstance(values.dtype, pd.CategoricalDtype):
        refuse_lists(values, name)
        if pd.api.types.is_float_dtype(values):  # integers with missing values: 7, not 7.0
            values = values.convert_dtypes()
        return values.astype("str")
    return values


def refuse_lists(values: pd.Series, name: str) -> None:
    """Raise `CorpusError` if a column holds lists, mappings or bytes instead of one text per row.

    Bytes in UTF-8 are texts.
    """
    if values.dtype != "object":
        return
    nested = values.map(lambda value: isinstance(value, list | tuple | dict | np.ndarray))
    if nested.any():
        found = values[nested].iloc[0]
        raise CorpusError(f"{name}: {values.name} holds {found}, expected one label per row")
    try:
        values.astype("str")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{name}: {values.name} holds {error.object}, expected text in UTF-8"
        ) from error
