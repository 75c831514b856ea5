"""Hashes of rows, many at once: equal for equal rows, and hardly ever for others."""

import functools
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from paraclap.captions.columns import decoded

HASHED = 4096  # texts hashed at once
HASH_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2**64


@functools.cache
def _powers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Powers 0 to count - 1 of HASH_BASE and of its inverse, modulo 2**64."""
    bases = np.array([[HASH_BASE], [pow(HASH_BASE, -1, 2**64)]], np.uint64)
    factors = np.repeat(bases, count, axis=1)
    factors[:, 0] = 1
    first, second = np.cumprod(factors, axis=1, dtype=np.uint64)
    return first, second


def hash_texts(column: pa.Array) -> np.ndarray:
    """Polynomial hash modulo 2**64 of each text's bytes (rows,), many texts at once."""
    column = decoded(column).cast(pa.large_string()).fill_null("")
    _, ends, content = column.buffers()
    ends = np.frombuffer(ends, np.int64)[column.offset : column.offset + len(column) + 1]
    content = np.frombuffer(content or b"", np.uint8)
    hashes = np.empty(len(column), np.uint64)
    for row in range(0, len(column), HASHED):
        limits = ends[row : row + HASHED + 1] - ends[row]
        octets = content[ends[row] :][: limits[-1]].astype(np.uint64)
        powers, inverse = _powers(1 << int(limits[-1]).bit_length())
        sums = np.zeros(len(octets) + 1, np.uint64)
        np.cumsum(powers[: len(octets)] * (octets + np.uint64(1)), out=sums[1:])
        sums = sums[limits]
        hashes[row : row + HASHED] = (sums[1:] - sums[:-1]) * inverse[limits[:-1]]
    return hashes


def hash_rows(batch: pa.RecordBatch, identity: Sequence[str]) -> np.ndarray:
    """Numbers (rows,) that are equal for rows of equal identity, and hardly ever for others."""
    hashes = np.zeros(len(batch), np.uint64)
    for name in identity:
        column = batch.column(name)
        if pa.types.is_duration(column.type) or pa.types.is_integer(column.type):
            new = column.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
        elif pa.types.is_floating(column.type):
            new = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
        elif pa.types.is_null(column.type):
            new = np.zeros(len(batch), np.int64)
        else:
            new = hash_texts(column)
        hashes = mixed(hashes, new.view(np.uint64))
    return hashes


def mixed(hashes: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Hashes of rows (rows,) with one more value each, modulo 2**64."""
    return (hashes ^ (hashes >> np.uint64(31))) * np.uint64(HASH_BASE) + values


def scattered(hashes: np.ndarray) -> np.ndarray:
    """Hashes (rows,) so far apart that sums of them are as different as they are themselves."""
    for _ in range(2):
        hashes = hashes ^ (hashes >> np.uint64(31))
        hashes = hashes * np.uint64(HASH_BASE)
    return hashes ^ (hashes >> np.uint64(31))
