"""Validation of corpus tables: paths, segments, duplicates, types of columns.

A corpus table is on audformat's segmented index: ``file`` (relative to the root, with ``/``),
``start`` and ``end`` (timedelta; NaT for the end of the file).
"""

import os
import posixpath
from pathlib import Path

import audformat
import pandas as pd

from paraclap.corpora import CorpusError
from paraclap.corpora.audio_files import warn_skipped
from paraclap.corpora.labels import typed

INDEX_COLUMNS = ("file", "start", "end")


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
        The table; ``attrs`` holds ``name``, ``root`` and ``corpus``.

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
    if index.has_duplicates:
        raise CorpusError(f"{name}: {index[index.duplicated()][0]} occurs twice in the table")
    table = rows.drop(columns=list(INDEX_COLUMNS), errors="ignore").set_axis(index)
    for column in table.columns:
        table[column] = typed(table[column], name)
    table.attrs = {"name": name, "root": str(root), "corpus": corpus}
    return table


def _check_files(files: pd.Series, root: Path) -> pd.Series:
    """Return normalised paths; all must be relative and inside the root."""
    if files.isna().any():
        raise CorpusError(f"{root}: the table has rows without a file")
    files = files.astype("str")
    leaves = files.str.contains(r"^/|^[A-Za-z]:[\\/]|(?:^|[/\\])\.\.(?:[/\\]|$)|\x00", regex=True)
    if leaves.any():
        raise CorpusError(f"{files[leaves].iloc[0]!r} leaves {root}, expected a path inside of it")
    return files.map(posixpath.normpath)


def _check_presence(files: pd.Series, root: Path) -> None:
    """Warn about missing files; if all are missing, the root must be wrong."""
    absent = [f for f in files.unique() if not os.path.lexists(os.path.join(root, f))]
    if len(absent) == files.nunique():
        raise CorpusError(f"{root} contains none of the files of its table, e.g. {absent[0]}")
    warn_skipped(root, len(absent), "files of the table do not exist", absent)


def timedeltas(rows: pd.DataFrame, column: str) -> pd.Series:
    """Return seconds or timedeltas as timedelta64[ns]; by default, starts are 0 and ends NaT."""
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
