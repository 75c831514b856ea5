"""Parquet files whose damage is noticed: checksums of pages, and a footer that agrees with itself.

with open_parquet(path) as file:
    table = file.read()
"""

import base64
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from paraclap.files import OutputError

ARROW_SCHEMA = b"ARROW:schema"
EMBEDDINGS = b"paraclap.embeddings"
"""Entry of the metadata of tables of embeddings."""
LISTINGS = ("errors.csv", "quality.csv")
"""Endings of the files beside a table of embeddings."""


def open_parquet(path: str | Path, **options: Any) -> pq.ParquetFile:
    """Open a Parquet file; wrong checksums of its pages are errors of reading them.

    The footer has no checksum, but Arrow stores names and metadata in it twice.

    Args:
        path: of the file
        options: of `pyarrow.parquet.ParquetFile`

    Raises:
        ArrowInvalid: if it is no Parquet file, or its names or metadata differ from their copy
        OSError: if it cannot be read
    """
    file = pq.ParquetFile(path, page_checksum_verification=True, **options)
    if not _agrees(file):
        file.close()
        raise pa.ArrowInvalid("its footer is damaged")
    return file


def _agrees(file: pq.ParquetFile) -> bool:
    metadata = dict(file.metadata.metadata or {})
    schema = metadata.pop(ARROW_SCHEMA, None)
    if schema is None:  # of another program
        return True
    try:
        copy = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(schema)))
        copied = copy.metadata or {}
        same = all(copied.get(key, value) == value for key, value in metadata.items())
        return same and copy.names == file.schema_arrow.names
    except (ValueError, OSError):  # of base64, UTF-8 and Arrow
        return False


def check_kind(path: Path, key: bytes, kind: str) -> None:
    """Check that a file that would be replaced is a table of the same kind.

    Args:
        path: of the file, which need not exist
        key: entry of the metadata of such tables
        kind: their name, for the message

    Raises:
        OutputError: if it exists and is something else
    """
    if not path.exists():
        return
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowInvalid):
        metadata = {}
    if key not in metadata:
        raise OutputError(f"{path} exists and is no {kind}, expected another output")
