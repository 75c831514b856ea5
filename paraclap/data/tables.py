"""Captions tables in memory: each text is stored once, and rows as numbers of texts.

    table = read_caption_table("captions.parquet", ["captions", "caption_descriptors"])
    captions = Lists(table["captions"])
    captions[7]  # ["pitch is high", ...]

A row of 26 phrases takes 60 bytes, as a list of Python strings 2 kB.
"""

import bisect
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 16384  # of a batch while reading
LISTS = pa.list_(pa.dictionary(pa.int32(), pa.string()))


def read_caption_table(path: str | Path, lists: Sequence[str]) -> pd.DataFrame:
    """Read a Parquet table; columns of lists of texts stay in Arrow, dictionary-encoded.

    Args:
        path: of the table.
        lists: names of these columns, which become the last ones.
    """
    with pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True) as file:
        others = [name for name in file.schema_arrow.names if name not in lists]
        columns = {name: _read_lists(file, name) for name in lists}
    table = pd.read_parquet(path, columns=others, page_checksum_verification=True)
    for name, column in columns.items():
        table[name] = pd.Series(pd.array(column, dtype=pd.ArrowDtype(column.type)), table.index)
    return table


def _read_lists(file: pq.ParquetFile, name: str) -> pa.ChunkedArray:
    """Return a column of lists of texts, with the smallest integer type for its texts."""
    batches = file.iter_batches(ROWS, columns=[name])
    column = pa.chunked_array([batch.column(0).cast(LISTS) for batch in batches], LISTS)
    column = column.unify_dictionaries()
    texts = max((len(chunk.values.dictionary) for chunk in column.chunks), default=1)
    kind = pa.from_numpy_dtype(np.min_scalar_type(max(texts - 1, 0)))
    return column.cast(pa.list_(pa.dictionary(kind, pa.string())))


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
        for first, (offsets, indices, texts) in zip(self._firsts, self._parts, strict=False):
            numbers, found = np.unique(indices[offsets[0] : offsets[-1]], return_index=True)
            rows = np.searchsorted(offsets, found + offsets[0], side="right") - 1
            inside = found + offsets[0] - offsets[rows]
            for number, row, place in zip(numbers, rows, inside, strict=True):
                places.setdefault(texts[number], (first + int(row), int(place)))
        return places
