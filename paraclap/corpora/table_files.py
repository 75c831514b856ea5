"""Tables of files and labels: CSV, TSV, Parquet and JSON lines."""

import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa

from paraclap.corpora import CorpusError
from paraclap.corpora.caption_rows import CAPTION_COLUMNS
from paraclap.corpora.label_files import parse_table, read_text
from paraclap.corpora.labels import LABEL_COLUMNS, NUMBER_COLUMNS
from paraclap.files import reading_parquet
from paraclap.parquet import open_parquet

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl")
FILE_NAMES = ("file_name", "filename")
"""Other names of the column of files."""
USUAL_COLUMNS = ("file", "start", "end", *CAPTION_COLUMNS, *LABEL_COLUMNS, *NUMBER_COLUMNS)
SPREADSHEETS = (".xlsx", ".xls", ".ods")


def read_table(path: Path) -> pd.DataFrame:
    """Return a table, from CSV and TSV with all values as text; a named index becomes columns.

    Raises:
        CorpusError: if it cannot be parsed, has a column twice, or its encoding is neither UTF-8
            nor UTF-16
    """
    try:
        if path.suffix.lower() == ".parquet":
            return _read_parquet(path)
        text = read_text(path)
        return _parse_lines(text) if path.suffix.lower() == ".jsonl" else parse_table(text)
    except CorpusError:
        raise
    except OSError as error:
        raise CorpusError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # of parsers and encodings
        hint = ""
        if path.read_bytes()[:2] == b"PK":
            hint = " (a spreadsheet? save it as CSV)"
        elif isinstance(error, UnicodeDecodeError):
            hint = " (another encoding? save it as CSV in UTF-8)"
        raise CorpusError(f"{path} cannot be read as a table: {error}{hint}") from error


def _read_parquet(path: Path) -> pd.DataFrame:
    """Return a Parquet table; integers in columns of labels are exact, as text."""
    with (
        reading_parquet(path, CorpusError, "a table of files and labels"),
        open_parquet(path) as file,
    ):
        names = file.schema_arrow.names
        _refuse_twice(names, path)
        table = file.read()
    frame = table.to_pandas()
    frame = frame.reset_index() if any(frame.index.names) else frame
    for name in frame.columns.intersection(LABEL_COLUMNS):
        if pa.types.is_integer(table.schema.field(name).type):  # missing values make them floats
            frame[name] = table[name].cast(pa.string()).to_pandas().to_numpy()
    return frame


def _parse_lines(text: str) -> pd.DataFrame:
    """Return the table of JSON lines, one object per row."""
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is not a JSON object")
            rows.append(row)
    return pd.DataFrame(rows)


def _refuse_twice(names: list[str], path: Path) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CorpusError(f"{path}: the column {twice[0]} occurs twice")


def read_file_table(path: Path, renamed: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Return a table with a column ``file`` (in the file also ``file_name``); case does not matter.

    Args:
        path: of the table
        renamed: column -> its name in the file

    Raises:
        CorpusError: if it cannot be parsed, lacks the file or a renamed column, or has both names
    """
    return named_columns(read_table(path), path, renamed)


def named_columns(
    frame: pd.DataFrame, path: Path, renamed: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Return a table with the usual names of its columns, see `read_file_table`."""
    frame = frame.rename(columns=lambda name: str(name).strip())
    columns = list(frame.columns)
    for new, old in (renamed or {}).items():
        if old not in columns:
            raise CorpusError(f"{path} has no column {old}, its columns are {', '.join(columns)}")
        if new in columns:
            raise CorpusError(f"{path} has a column {new}, {old} cannot be renamed to it")
    frame = frame.rename(columns={old: new for new, old in (renamed or {}).items()})
    for column in frame.columns:
        if column.casefold() in (*USUAL_COLUMNS, *FILE_NAMES):  # "Emotion"
            frame = frame.rename(columns={column: column.casefold()})
    _refuse_twice(list(frame.columns), path)
    if others := [name for name in FILE_NAMES if name in frame and "file" not in frame]:
        frame = frame.rename(columns={others[0]: "file"})
    if "file" not in frame:
        raise CorpusError(
            f"{path} has columns {', '.join(columns)}, expected one called file or file_name"
            " (--column file=NAME renames one)"
        )
    return frame
