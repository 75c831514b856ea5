"""Chunks of a waveform cache: files of 16-bit samples of many recordings, each with an index.

A chunk is written under a temporary name and renamed when complete. On opening, an index is checked
by its hash, and samples by their size, or by their hash if their modification time differs. Damaged
chunks are removed with a warning.
"""

import hashlib
import io
import os
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from paraclap.audio import AudioError
from paraclap.audio.conditioning import CONDITIONING
from paraclap.audio.containers import read_duration
from paraclap.audio.reading import read_in_blocks
from paraclap.errors import ParaCLAPError
from paraclap.files import file_sha256, write_bytes

FORMAT = b"paraclap pack 1, " + CONDITIONING.encode()
"""Format and conditioning of a chunk; chunks of others are not read."""
SCALE = 32768
"""Integer of full scale."""
SAMPLES, INDEX = ".i16", ".index"
PLACES = pa.schema(
    [
        ("content", pa.binary(32)),  # SHA-256 of the file
        ("first", pa.int64()),  # sample
        ("samples", pa.int64()),
        ("seconds", pa.float64()),  # duration of the file, from its header
        ("flags", pa.string()),  # of its conditioning, see `Report.flags`
    ]
)


class WaveformCacheError(ParaCLAPError, RuntimeError):
    """A waveform cache that cannot be read or written."""


@dataclass(frozen=True, slots=True)
class Place:
    """Place of the samples of a file in a waveform cache.

    Attributes:
        chunk: name of the file of samples.
        first: number of the first sample in it.
        samples: number of samples.
        seconds: duration of the file, from its header [s].
        flags: of its conditioning, separated by spaces.
    """

    chunk: str
    first: int
    samples: int
    seconds: float
    flags: str


@dataclass
class ChunkWriter:
    """A chunk that is being written under a temporary name.

    Attributes:
        folder: of the cache.
        entries: SHA-256 of a file -> place of its samples.
        size: of the samples so far [bytes].
    """

    folder: Path
    entries: dict[bytes, Place] = field(default_factory=dict)
    size: int = 0

    def __post_init__(self) -> None:
        self.temporary = self.folder / f".{os.getpid()}{SAMPLES}.tmp"
        self.handle: BinaryIO = self.temporary.open("wb")
        self.digest = hashlib.sha256()

    def add(self, path: Path, content: bytes) -> None:
        """Add the samples of a file with this SHA-256.

        Raises:
            AudioError: if the file cannot be read; the chunk is then unchanged.
        """
        size, digest = self.size, self.digest.copy()
        try:
            report = read_in_blocks(path, self._write)
            seconds = read_duration(path)
        except AudioError:
            self.size, self.digest = size, digest
            self.handle.seek(size)
            self.handle.truncate()
            raise
        samples, flags = (self.size - size) // 2, " ".join(report.flags())
        self.entries[content] = Place("", size // 2, samples, seconds, flags)

    def _write(self, waveform: np.ndarray) -> None:
        with np.errstate(invalid="ignore"):  # NaN is refused at the end of the file
            content = np.rint(waveform * SCALE).astype("<i2").tobytes()
        self.handle.write(content)
        self.digest.update(content)
        self.size += len(content)

    def close(self) -> dict[bytes, Place]:
        """Complete the chunk; returns the places of its files."""
        if not self.entries:
            self.discard()
            return {}
        self.handle.flush()
        os.fsync(self.handle.fileno())
        mtime = os.fstat(self.handle.fileno()).st_mtime_ns
        self.handle.close()
        name = self.digest.hexdigest() + SAMPLES
        self.temporary.replace(self.folder / name)
        rows = {"content": list(self.entries)} | {
            column: [getattr(place, column) for place in self.entries.values()]
            for column in PLACES.names[1:]
        }
        metadata = {
            b"format": FORMAT,
            b"samples": name.encode(),
            b"size": b"%d" % self.size,
            b"mtime": b"%d" % mtime,
        }
        table = pa.table(rows, PLACES).replace_schema_metadata(metadata)
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        index = hashlib.sha256(buffer.getvalue()).hexdigest() + INDEX
        write_bytes(self.folder / index, buffer.getvalue())
        return _places_of(table)

    def discard(self) -> None:
        """Remove the temporary file, unless the chunk is complete."""
        self.temporary.unlink(missing_ok=True)
        self.handle.close()  # fails again on a full disk


def open_chunks(folder: Path) -> dict[bytes, Place]:
    """Return the places of all files in a cache; damaged chunks are removed with a warning.

    The caller holds the lock, so temporary files were left behind by a killed process.
    """
    for left in folder.glob(".*.tmp"):
        left.unlink()
    places: dict[bytes, Place] = {}
    used = set()
    for path in sorted(folder.glob(f"*{INDEX}")):
        try:
            table = _read_index(path)
            used.add(_check_samples(folder, table.schema.metadata))
        except WaveformCacheError as error:
            warnings.warn(f"{error}: its files are cached again", stacklevel=3)
            path.unlink()
            continue
        places |= _places_of(table)
    for path in folder.glob(f"*{SAMPLES}"):
        if path.name not in used:
            path.unlink()
    return places


def _places_of(table: pa.Table) -> dict[bytes, Place]:
    chunk = table.schema.metadata[b"samples"].decode()
    columns = [table[name].to_pylist() for name in PLACES.names]
    return {content: Place(chunk, *place) for content, *place in zip(*columns, strict=True)}


def _read_index(path: Path) -> pa.Table:
    """Return the index of a chunk.

    Raises:
        WaveformCacheError: if it is damaged, or of another format.
    """
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != path.stem:
        raise WaveformCacheError(f"{path} does not have the hash of its name")
    table = pq.read_table(io.BytesIO(content))
    found = (table.schema.metadata or {}).get(b"format")
    if found != FORMAT:
        raise WaveformCacheError(f"{path} is of format {found}, expected {FORMAT}")
    return table


def _check_samples(folder: Path, metadata: Mapping[bytes, bytes]) -> str:
    """Return the name of the samples of an index if they are intact.

    Raises:
        WaveformCacheError: if they are missing or damaged.
    """
    path = folder / metadata[b"samples"].decode()
    size, mtime = int(metadata[b"size"]), int(metadata[b"mtime"])
    if not path.exists():
        raise WaveformCacheError(f"{path} is missing")
    if path.stat().st_size != size:
        raise WaveformCacheError(f"{path} has {path.stat().st_size} bytes, expected {size}")
    if path.stat().st_mtime_ns == mtime:
        return path.name
    if file_sha256(path) != path.stem:
        raise WaveformCacheError(f"{path} does not have the hash of its name")
    with suppress(PermissionError):  # another user's cache, hashed on each opening
        os.utime(path, ns=(mtime, mtime))  # a copy: later openings need not hash it
    return path.name
