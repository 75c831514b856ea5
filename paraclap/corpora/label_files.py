"""Label files of corpora: tables of any separator and encoding, and lines of text."""

import codecs
import csv
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from paraclap.corpora import CorpusError

SEPARATORS = ",;\t"
"""Possible separators of table files; the most frequent one in the first line is used."""
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_label_files(
    root: Path,
    globs: Sequence[str],
    columns: Mapping[str, str] | None = None,
    optional: Sequence[str] = (),
    line: str | None = None,
    path_fields: str | None = None,
    encodings: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    r"""Return the fields of label files as text, one row per line; empty fields are missing.

    Args:
        root: folder of the corpus
        globs: patterns of the files below the root; the first with any match is used
        columns: column of the files -> field; for files with a header
        optional: columns that may be absent
        line: for files without header, a regular expression with a named group for each field;
            lines without a match are comments
        path_fields: regular expression whose named groups in the path of a file are fields of all
            its rows
        encodings: glob -> encoding of files that are neither UTF-8 nor UTF-16 with a byte order
            mark; the default is cp1252

    Returns:
        The table; without rows if no file exists.

    Raises:
        CorpusError: if a file is not a table, or lacks a column
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
    """Return the columns of a label file under the names of their fields, stripped of blanks."""
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
    """Return the text of a file in UTF-8, UTF-16 with a byte order mark, or the fallback encoding.

    Args:
        path: file
        fallback: encoding of other files; None raises an error

    Raises:
        UnicodeDecodeError: if the encoding is another one and there is no fallback
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
    """Return separated text as a table of text: `001`, `NA` and `None` are kept, "" is missing.

    The separator is the one of `SEPARATORS` that is most frequent in the first line. In text
    separated by tabs, quotes are ordinary characters. A separator at the end of lines is ignored.

    Raises:
        ValueError: if a column occurs twice, or a row has more fields than the header
    """
    header = text.lstrip().partition("\n")[0]
    separator = max(SEPARATORS, key=header.count)
    quoting = csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL
    names = next(csv.reader([header.rstrip("\r")], delimiter=separator, quoting=quoting), [])
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise ValueError(f"the column {twice[0]} occurs twice")
    options = {"sep": separator, "quoting": quoting}
    try:
        table = _read_csv(text, **options)
    except pd.errors.ParserWarning:  # rows are longer than the header
        names = [*_read_csv(text, nrows=0, **options).columns, "after the last"]
        table = _read_csv(text, names=names, header=0, **options)
        longer = table.pop(names[-1]) != ""
        if longer.any():
            row = table.loc[longer.idxmax()].iloc[0]
            raise ValueError(f"the row of {row} has more fields than the header") from None
    table = table.mask(table == "")
    unnamed = [name for name in table if str(name).startswith("Unnamed: ")]
    return table.drop(columns=[name for name in unnamed if table[name].isna().all()])


def _read_csv(text: str, **options: Any) -> pd.DataFrame:
    """Return separated text as a table of text; warnings of the parser are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        source = io.StringIO(text)
        return pd.read_csv(source, dtype=str, keep_default_na=False, index_col=False, **options)
