"""Sources of features: tables in memory and in parquet files, read in batches, and label codes."""

import functools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from paraclap.captions.templates import Descriptor, InputError
from paraclap.files import reading_parquet
from paraclap.parquet import open_parquet

INDEX = ("file", "start", "end")
BATCH = 32768  # rows per batch, and per row group of the output
FEATURES = "a table of features.py"
DICTIONARY_BYTES = 16384  # largest stored dictionary of texts that is not expanded


@dataclass(frozen=True)
class Source:
    """One feature table.

    Attributes:
        where: path or name, for messages.
        corpus: name of the corpus.
        schema: of the stored columns.
        rows: number of rows.
        read: returns record batches with the given columns; texts may be dictionary-encoded.
    """

    where: str
    corpus: str
    schema: pa.Schema
    rows: int
    read: Callable[[list[str]], Iterable[pa.RecordBatch]]

    def __post_init__(self) -> None:
        lacking = [name for name in INDEX if name not in self.schema.names]
        if lacking:
            raise InputError(f"{self.where} lacks {', '.join(lacking)}, as index level or column")
        names = self.schema.names
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(f"{self.where} has the column {twice[0]} twice")
        for name, kind in zip(names, self.schema.types, strict=True) if self.rows else ():
            is_file, is_time = name == INDEX[0], name in INDEX[1:]
            wrong = is_file and not is_text(value_type(kind))
            # pandas has timestamps where all values are missing
            wrong |= is_time and not (pa.types.is_temporal(kind) or pa.types.is_null(kind))
            if wrong or kind in (pa.string_view(), pa.binary_view()):
                expected = "durations" if is_time else "texts"
                raise InputError(f"{self.where}: {name} holds {kind}, expected {expected}")


def open_table(table: pa.Table, where: str = "table") -> Source:
    """Return the source of a table in memory.

    Raises:
        InputError: if the table lacks a part of the index
    """

    def read(columns: list[str]) -> list[pa.RecordBatch]:
        return table.select(columns).to_batches(max_chunksize=BATCH)

    return Source(where, _corpus_name(table.schema, where), table.schema, len(table), read)


def open_file(path: Path) -> Source:
    """Return the source of a parquet file.

    Raises:
        InputError: if the file is absent, unreadable, or lacks a part of the index
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist")

    def read(columns: list[str]) -> Iterator[pa.RecordBatch]:
        # buffers read ahead would stay in memory until the file is closed
        with (
            reading_parquet(path, InputError, FEATURES),
            open_parquet(path, pre_buffer=False, read_dictionary=repeated) as file,
        ):
            yield from file.iter_batches(BATCH, columns=columns)

    with reading_parquet(path, InputError, FEATURES), open_parquet(path) as file:
        schema, rows = file.schema_arrow, file.metadata.num_rows
        repeated = _repeated_texts(file)
    return Source(str(path), _corpus_name(schema, path.stem), schema, rows, read)


def _repeated_texts(file: pq.ParquetFile) -> list[str]:
    """Return the columns of few different texts, which are read and encoded faster as dictionaries.

    A batch ends where the dictionary changes, so files of small row groups are left out.
    """
    about, schema = file.metadata, file.schema_arrow
    if about.num_row_groups > 1 and about.num_rows < about.num_row_groups * BATCH // 2:
        return []
    texts = {field.name for field in schema if is_text(field.type)} - {INDEX[0]}
    groups = [about.row_group(number) for number in range(about.num_row_groups)]
    return [
        column.path
        for place, column in enumerate(file.schema)
        if column.path in texts
        and all(_dictionary_bytes(group.column(place)) <= DICTIONARY_BYTES for group in groups)
    ]


def _dictionary_bytes(column: pq.ColumnChunkMetaData) -> float:
    """Return the stored size of the dictionary of a column."""
    if not column.has_dictionary_page:
        return math.inf
    return column.data_page_offset - column.dictionary_page_offset


def open_sources(paths: Sequence[Path]) -> list[Source]:
    """Return the sources of files and of folders of files, those of a folder sorted by name.

    Raises:
        InputError: if a path does not exist, cannot be read, or lacks a part of the index
    """
    files: list[Path] = []
    for path in paths:
        inside = sorted(path.glob("[!._]*.parquet"))
        if path.is_dir() and not inside:
            raise InputError(f"{path} holds no .parquet file")
        files += inside if path.is_dir() else [path]
    return [open_file(path) for path in files]


def example_source(descriptors: Iterable[Descriptor], rows: int = 100) -> Source:
    """Return random values and labels in the form of a feature table, for a preview."""
    generator = np.random.default_rng(0)
    files = [f"example/{row:03d}.wav" for row in range(rows)]
    index = pd.MultiIndex.from_product([files, [pd.Timedelta(0)], [pd.NaT]], names=INDEX)
    table = pd.DataFrame(index=index)
    for descriptor in descriptors:
        if descriptor.kind == "label":
            values = generator.choice([*descriptor.forms, "example"], rows)
        elif descriptor.kind == "level":
            values = generator.normal(size=rows)
        else:
            continue
        table[descriptor.column] = values
    return open_table(pa.Table.from_pandas(table), "example")


def metadata_of(schema: pa.Schema) -> dict[str, Any]:
    """Return the metadata that features.py stored; {} in tables of other programs."""
    try:
        about = json.loads((schema.metadata or {}).get(b"paraclap", b"{}"))
    except (ValueError, RecursionError):
        return {}
    return about if isinstance(about, dict) else {}


def _corpus_name(schema: pa.Schema, otherwise: str) -> str:
    """Return the name of the corpus in the metadata of features.py."""
    about = metadata_of(schema)
    return str(about.get("corpus") or about.get("name") or otherwise)


def is_text(kind: pa.DataType) -> bool:
    """Return whether values are texts, not in a dictionary."""
    return kind in (pa.string(), pa.large_string())


def value_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of the values, also for a dictionary."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def decoded(column: pa.Array) -> pa.Array:
    """Return a column without a dictionary."""
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def recoded(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return a column as another type; dictionaries of texts keep their codes if this has them."""
    if pa.types.is_dictionary(column.type) and not (
        pa.types.is_dictionary(kind) and is_text(column.type.value_type)
    ):
        column = column.dictionary_decode()
    return column.cast(kind)


def encode(column: pa.Array) -> tuple[np.ndarray, list]:
    """Return the codes of a column (rows,), -1 where missing, and the values they refer to."""
    if pa.types.is_nested(column.type):
        raise InputError(f"a column of labels holds {column.type}, expected one label per row")
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        try:
            column = column.cast(pa.large_string())
        except pa.ArrowInvalid as error:
            message = "a column of labels holds bytes, expected text in UTF-8"
            raise InputError(message) from error
    if not pa.types.is_dictionary(column.type):
        column = pc.dictionary_encode(column)
    codes = column.indices.cast(pa.int32()).fill_null(-1).to_numpy(zero_copy_only=False)
    return codes, column.dictionary.to_pylist()


class LabelEncoder:
    """Codes of labels, consistent over the batches of a column."""

    def __init__(self, key: Callable[[Any], Any] = lambda value: value) -> None:
        """Start without labels.

        Args:
            key: maps a value to its label, None for missing
        """
        self._key = functools.cache(key)
        self._codes: dict[Any, int] = {}

    @property
    def labels(self) -> list:
        """Labels in the order of their codes."""
        return list(self._codes)

    def encode(self, column: pa.Array) -> np.ndarray:
        """Return the codes of a column (rows,), -1 where missing; new labels get new codes."""
        found, values = encode(column)
        codes = [-1] * (len(values) + 1)  # the last entry belongs to code -1
        for place in np.flatnonzero(np.bincount(found + 1)[1:]).tolist():  # those that rows have
            value = values[place]
            label = None if value is None or value != value else self._key(value)
            if label is not None:
                codes[place] = self._codes.setdefault(label, len(self._codes))
        return np.array(codes, np.int32)[found]
