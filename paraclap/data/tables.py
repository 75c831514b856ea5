"""Captions tables in memory: each text is stored once, and rows as numbers of texts.

    table = read_caption_table("captions.parquet", ["captions", "caption_descriptors"])
    captions = Lists(table["captions"])
    captions[7]  # ["pitch is high", ...]

A row of 26 phrases takes 60 bytes, as a list of Python strings 2 kB.
"""

import bisect
from collections.abc import Sequence
from pathlib import Path

import audformat
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from paraclap.corpora import CorpusError
from paraclap.corpora.validation import INDEX_COLUMNS, timedeltas
from paraclap.files import reading_parquet
from paraclap.parquet import open_parquet

PHRASE_COLUMNS = ["captions", "caption_descriptors"]
ROWS = 16384  # of a batch while reading
LISTS = pa.list_(pa.dictionary(pa.int32(), pa.string()))


def read_caption_table(path: str | Path, lists: Sequence[str]) -> pd.DataFrame:
    """Read a Parquet table; columns of lists of texts stay in Arrow, dictionary-encoded.

    Args:
        path: of the table.
        lists: names of these columns, which become the last ones.

    Returns:
        The table on the index `file`, `start`, `end`, which may also be stored as columns.

    Raises:
        CorpusError: if it cannot be read, or lacks the column `file` or lists of texts.
    """
    with reading_parquet(path, CorpusError, "a captions table"):
        with open_parquet(path, pre_buffer=False) as file:
            others = [name for name in file.schema_arrow.names if name not in lists]
            columns = {name: _read_lists(file, name) for name in lists}
        table = pd.read_parquet(path, columns=others, page_checksum_verification=True)
    for name, column in columns.items():
        table[name] = pd.Series(pd.array(column, dtype=pd.ArrowDtype(column.type)), table.index)
    return on_clips(table, path)


def on_clips(table: pd.DataFrame, path: str | Path) -> pd.DataFrame:
    """Return a table on the index `file`, `start`, `end`, which may be stored as columns.

    Raises:
        CorpusError: if it has no column `file`.
    """
    if list(table.index.names) == list(INDEX_COLUMNS):
        return table
    if any(table.index.names):
        table = table.reset_index()
    if "file" not in table:
        raise CorpusError(f"{path} has no column file, expected file, start and end")
    positions = [timedeltas(table, column) for column in INDEX_COLUMNS[1:]]
    index = audformat.segmented_index(table["file"].astype("str"), *positions)
    return table.drop(columns=[*INDEX_COLUMNS], errors="ignore").set_axis(index)


def refuse_repeated(table: pd.DataFrame, path: str | Path) -> None:
    """Raise `CorpusError` if a clip has several rows, with different captions or splits."""
    if table.index.has_duplicates:
        file, start, _ = table.index[table.index.duplicated()][0]
        raise CorpusError(f"{path}: {file} from {start.total_seconds():g} s occurs twice")


def _read_lists(file: pq.ParquetFile, name: str) -> pa.ChunkedArray:
    """Return a column of lists of texts, with the smallest integer type for its texts."""
    found = file.schema_arrow.field(name).type
    values = found.value_type if pa.types.is_list(found) or pa.types.is_large_list(found) else None
    if values is None or not _is_text(values):
        raise ValueError(f"column {name} holds {found}, expected lists of texts")
    batches = file.iter_batches(ROWS, columns=[name])
    column = pa.chunked_array([batch.column(0).cast(LISTS) for batch in batches], LISTS)
    column = column.unify_dictionaries()
    texts = max((len(chunk.values.dictionary) for chunk in column.chunks), default=1)
    kind = pa.from_numpy_dtype(np.min_scalar_type(max(texts - 1, 0)))
    return column.cast(pa.list_(pa.dictionary(kind, pa.string())))


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)


class Lists(Sequence):
    """Lists of texts of a column, decoded on access without copying the column."""

    def __init__(self, column: pd.Series) -> None:
        found = pa.chunked_array(pa.array(column, LISTS if column.dtype == object else None))
        if not pa.types.is_dictionary(found.type.value_type):
            found = found.cast(LISTS)
        self._parts = [
            (c.offsets.to_numpy(), c.values.indices.to_numpy(), c.values.dictionary.to_pylist())
            for c in found.chunks
        ]
        self._firsts = np.cumsum([0, *map(len, found.chunks)]).tolist()

    def __len__(self) -> int:
        return self._firsts[-1]

    def __getitem__(self, row: int) -> list[str]:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        part = bisect.bisect_right(self._firsts, row) - 1
        offsets, indices, texts = self._parts[part]
        first, last = offsets[row - self._firsts[part] :][:2].tolist()
        return [texts[number] for number in indices[first:last].tolist()]

    def texts(self) -> list[str]:
        """Return the distinct texts, sorted."""
        found: set[str] = set()
        for offsets, indices, texts in self._parts:
            occurring = np.unique(indices[offsets[0] : offsets[-1]])
            found.update(texts[number] for number in occurring.tolist())
        return sorted(found)

    def first_places(self) -> dict[str, tuple[int, int]]:
        """Return the distinct texts with the first row that has each, and its place in the row."""
        places: dict[str, tuple[int, int]] = {}
        for first, (offsets, indices, texts) in zip(self._firsts[:-1], self._parts, strict=True):
            numbers, found = np.unique(indices[offsets[0] : offsets[-1]], return_index=True)
            rows = np.searchsorted(offsets, found + offsets[0], side="right") - 1
            inside = found + offsets[0] - offsets[rows]
            for number, row, place in zip(numbers, rows, inside, strict=True):
                places.setdefault(texts[number], (first + int(row), int(place)))
        return places
