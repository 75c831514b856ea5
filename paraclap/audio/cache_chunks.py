"""Chunks of a waveform cache: files of 16-bit samples of many recordings, each with an index.

A chunk is written under a temporary name and renamed when complete. On opening, an index is checked
by its hash, and samples by their size, or by their hash if their modification time differs. Damaged
chunks are removed with a warning. Other files in the folder are left alone.
"""

import hashlib
import io
import os
import re
import uuid
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from paraclap.audio import AudioError
from paraclap.audio.conditioning import CONDITIONING
from paraclap.audio.containers import read_duration
from paraclap.audio.reading import read_in_blocks
from paraclap.errors import ParaCLAPError
from paraclap.files import file_sha256, remove_leftovers, write_bytes

FORMAT = b"paraclap pack 1, " + CONDITIONING.encode()
"""Format and conditioning of a chunk; chunks of others are not read."""
SCALE = 32768
"""Integer of full scale."""
SAMPLES, INDEX = ".i16", ".index"
OWN_NAMES = rf"[0-9a-f]{{64}}({SAMPLES}|{INDEX})"
"""Regular expression of the names of our files."""
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


class Place(NamedTuple):
    """Place of the samples of a file in a waveform cache; a row of an index."""

    chunk: str  # name of the file of samples
    first: int
    samples: int
    seconds: float
    flags: str


class ChunkWriter:
    """A chunk that is being written under a temporary name.

    Attributes:
        entries: SHA-256 of a file -> place of its samples.
        size: of the samples so far [bytes].
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: dict[bytes, Place] = {}
        self.size = 0
        self._temporary = folder / f".chunk.{uuid.uuid4().hex}.tmp"
        self._handle = self._temporary.open("wb")
        self._digest = hashlib.sha256()

    def add(self, path: Path, content: bytes) -> None:
        """Add the samples of a file with this SHA-256.

        Raises:
            AudioError: if the file cannot be read; the chunk is then unchanged.
        """
        size, digest = self.size, self._digest.copy()
        try:
            report = read_in_blocks(path, self._write)
            seconds = read_duration(path)
        except AudioError:
            self.size, self._digest = size, digest
            self._handle.seek(size)
            self._handle.truncate()
            raise
        samples, flags = (self.size - size) // 2, " ".join(report.flags())
        self.entries[content] = Place("", size // 2, samples, seconds, flags)

    def _write(self, waveform: np.ndarray) -> None:
        with np.errstate(invalid="ignore"):  # NaN is refused at the end of the file
            content = np.rint(waveform * SCALE).astype("<i2").tobytes()
        self._handle.write(content)
        self._digest.update(content)
        self.size += len(content)

    def close(self) -> dict[bytes, Place]:
        """Complete the chunk; returns the places of its files."""
        if not self.entries:
            self.discard()
            return {}
        self._handle.flush()
        os.fsync(self._handle.fileno())
        mtime = os.fstat(self._handle.fileno()).st_mtime_ns
        self._handle.close()
        name = self._digest.hexdigest() + SAMPLES
        self._temporary.replace(self.folder / name)
        rows = [{"content": key, **place._asdict()} for key, place in self.entries.items()]
        metadata = {"format": FORMAT, "samples": name, "size": str(self.size), "mtime": str(mtime)}
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, PLACES.with_metadata(metadata)), buffer)
        index = hashlib.sha256(buffer.getvalue()).hexdigest() + INDEX
        write_bytes(self.folder / index, buffer.getvalue())
        return {key: place._replace(chunk=name) for key, place in self.entries.items()}

    def discard(self) -> None:
        """Remove the temporary file, unless the chunk is complete."""
        self._temporary.unlink(missing_ok=True)
        self._handle.close()  # fails again on a full disk


def open_chunks(folder: Path, repair: bool = True) -> dict[bytes, Place]:
    """Return the places of all files in a cache; damaged chunks are left out with a warning.

    To `repair`, they and files of killed processes are removed; the caller then holds the lock.
    """
    if repair:
        remove_leftovers(folder)
    own = [path for path in sorted(folder.iterdir()) if re.fullmatch(OWN_NAMES, path.name)]
    places: dict[bytes, Place] = {}
    used = set()
    for path in (path for path in own if path.suffix == INDEX):
        try:
            table = _read_index(path)
            used.add(_check_samples(folder, table.schema.metadata))
        except WaveformCacheError as error:
            warnings.warn(f"{error}: its files are cached again", stacklevel=3)
            if repair:
                path.unlink()
            continue
        chunk = table.schema.metadata[b"samples"].decode()
        places |= {row.pop("content"): Place(chunk, **row) for row in table.to_pylist()}
    for path in own:
        if repair and path.suffix == SAMPLES and path.name not in used:
            path.unlink()
    return places


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
    name = metadata[b"samples"].decode()
    if not re.fullmatch(OWN_NAMES, name):
        raise WaveformCacheError(f"{folder}: an index names {name!r} as its samples")
    path = folder / name
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
