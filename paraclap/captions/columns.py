"""Columns of Arrow tables: their kinds, and their values as numbers."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa


def is_text(kind: pa.DataType) -> bool:
    """Whether values are texts; False for dictionaries of texts."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def is_number(kind: pa.DataType) -> bool:
    """Whether values are numbers or truth values."""
    checks = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal)
    return any(check(kind) for check in checks)


def value_type(kind: pa.DataType) -> pa.DataType:
    """Type of the values, also of those of a dictionary."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def decoded(column: pa.Array) -> pa.Array:
    """Column without a dictionary."""
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def as_type(column: pa.Array, wanted: pa.DataType) -> pa.Array:
    """Column of the type wanted; a text becomes a dictionary of texts if it was one."""
    if column.type == wanted:
        return column
    if not pa.types.is_dictionary(column.type):
        column = column.cast(value_type(wanted))
        return column.dictionary_encode() if pa.types.is_dictionary(wanted) else column
    kind = wanted if pa.types.is_dictionary(wanted) else stored_type(wanted)
    if not pa.types.is_dictionary(kind):
        return decoded(column).cast(kind)
    indices, values = column.indices.cast(kind.index_type), column.dictionary.cast(kind.value_type)
    return pa.DictionaryArray.from_arrays(indices, values, ordered=kind.ordered)


def stored_type(kind: pa.DataType) -> pa.DataType:
    """Type that a column is written from; texts as dictionaries, which costs half the time."""
    return pa.dictionary(pa.int32(), kind) if is_text(kind) else kind


def encode(column: pa.Array) -> tuple[np.ndarray, list]:
    """Codes of a column's values (rows,), -1 where missing, and the values that they stand for."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    codes = column.indices.cast(pa.int32()).fill_null(-1).to_numpy(zero_copy_only=False)
    return codes, column.dictionary.to_pylist()


class Numbering:
    """Numbers for the values of a column, the same ones in every batch."""

    def __init__(self, key: Callable[[Any], Any] = lambda value: value) -> None:
        """Start without values.

        Args:
            key: what a value is counted as, None for missing
        """
        self._key = functools.cache(key)
        self._numbers: dict[Any, int] = {}

    @property
    def values(self) -> list:
        """Keys of the values, in the order of their numbers."""
        return list(self._numbers)

    def of(self, column: pa.Array) -> np.ndarray:
        """Numbers of a column's values (rows,), -1 where missing."""
        codes, values = encode(column)
        numbers = [-1] * (len(values) + 1)  # the last one is that of code -1
        for code, value in enumerate(values):
            key = None if value is None or value != value else self._key(value)
            if key is not None:
                numbers[code] = self._numbers.setdefault(key, len(self._numbers))
        return np.array(numbers, np.int32)[codes]
