"""Captions tables in memory: each text is stored once, and rows as numbers of texts.

    table = read_caption_table("captions.parquet", ["captions", "caption_descriptors"])
    captions = Lists(table["captions"])
    captions[7]  # ["pitch is high", ...]

A row of 26 phrases takes 60 bytes, as a list of Python strings 2 kB.
"""

import bisect
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 16384  # of a batch while reading


def read_caption_table(path: str | Path, lists: Sequence[str]) -> pd.DataFrame:
    """Read a Parquet table; columns of lists of texts stay in Arrow, dictionary-encoded.

    Args:
        path: of the table.
        lists: names of these columns, which become the last ones.
    """
    with pq.ParquetFile(path) as file:
        others = [name for name in file.schema_arrow.names if name not in lists]
    table = pd.read_parquet(path, columns=others)
    for name in lists:
        column = _read_lists(path, name)
        table[name] = pd.Series(pd.array(column, dtype=pd.ArrowDtype(column.type)), table.index)
    return table


def _read_lists(path: str | Path, name: str) -> pa.ChunkedArray:
    """Return a column of lists of texts, with the smallest integer type for its texts."""
    numbers: dict[str, int] = {}
    read: list[tuple[np.ndarray, np.ndarray, np.ndarray | None]] = []
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(ROWS, columns=[name]):
            lists = batch.column(name)
            offsets, indices, texts = _parts(lists)
            known = [numbers.setdefault(text, len(numbers)) for text in texts]
            kind = np.min_scalar_type(max(len(numbers) - 1, 0))
            indices = np.array(known, kind)[indices[offsets[0] : offsets[-1]]]
            missing = lists.is_null().to_numpy(zero_copy_only=False) if lists.null_count else None
            read.append((offsets - offsets[0], indices, missing))
    kind = np.min_scalar_type(max(len(numbers) - 1, 0))
    texts = pa.array(list(numbers), pa.string())
    chunks = []
    while read:  # frees each batch once it is converted
        offsets, indices, missing = read.pop()
        values = pa.DictionaryArray.from_arrays(pa.array(indices.astype(kind, copy=False)), texts)
        mask = None if missing is None else pa.array(missing)
        chunks.append(pa.ListArray.from_arrays(pa.array(offsets), values, mask=mask))
    dictionary = pa.dictionary(pa.from_numpy_dtype(kind), pa.string())
    return pa.chunked_array(chunks[::-1], pa.list_(dictionary))


def _parts(lists: pa.ListArray) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return offsets (rows + 1,), numbers of the texts, and the texts."""
    values = lists.values
    if not pa.types.is_dictionary(values.type):
        values = values.dictionary_encode()
    return lists.offsets.to_numpy(), values.indices.to_numpy(), values.dictionary.to_pylist()


def _chunks(column: pd.Series) -> list[pa.ListArray]:
    """Return the Arrow chunks of a column of lists of texts; Python lists are converted."""
    found = pa.array(column, pa.list_(pa.string())) if column.dtype == object else column.array
    found = found if isinstance(found, pa.Array) else found.__arrow_array__()
    return found.chunks if isinstance(found, pa.ChunkedArray) else [found]


class Lists(Sequence):
    """Lists of texts of a column, decoded on access without copying the column."""

    def __init__(self, column: pd.Series) -> None:
        chunks = _chunks(column)
        self._parts = [_parts(chunk) for chunk in chunks]
        self._firsts = np.cumsum([0, *map(len, chunks)]).tolist()

    def __len__(self) -> int:
        return self._firsts[-1]

    def __getitem__(self, row: int) -> list[str]:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        place = bisect.bisect_right(self._firsts, row) - 1
        offsets, indices, texts = self._parts[place]
        first, last = offsets[row - self._firsts[place] :][:2].tolist()
        return [texts[number] for number in indices[first:last].tolist()]

    def __iter__(self) -> Iterator[list[str]]:
        return (self[row] for row in range(len(self)))

    def texts(self) -> list[str]:
        """Return the distinct texts, sorted."""
        found: set[str] = set()
        for offsets, indices, texts in self._parts:
            occurring = np.unique(indices[offsets[0] : offsets[-1]])
            found.update(texts[number] for number in occurring.tolist())
        return sorted(found)
