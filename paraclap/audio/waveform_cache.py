"""The waveforms of a corpus as 16 kHz 16-bit samples in a few memory-mapped files.

    recordings = cache_waveforms("/scratch/cache", "/data/RAVDESS", files)  # CachedWaveforms
    waveform = recordings.crop("Actor_01/03-01-05-01-01-01-01.wav", None, None, 5.0, place=0.5)

Each file is decoded and resampled once; reading a crop is then a single copy, whatever the format
and the rate of the file. Samples equal those of `read_audio`: bit for bit if the file has 16 bits,
one channel and 16 kHz, otherwise rounded to 16 bits (by at most 1/65536).

A cache is a folder, which several corpora may share::

    <sha256>.i16        samples of many files, one after the other
    <sha256>.index      Parquet: SHA-256, place, duration and flags of each file
    names.parquet       path, modification time, sampled hash and SHA-256 of each cached file

Samples are found by the SHA-256 of the bytes of their file. That hash is kept with modification
time and `sampled_hash`, so a changed file is cached again and a moved one is not. Chunks are only
added, each renamed when complete: a killed run loses at most one, and no process reads half of one.
"""

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from paraclap.audio import SAMPLING_RATE, AudioError
from paraclap.audio.cache_chunks import (
    OWN_NAMES,
    SCALE,
    ChunkWriter,
    Place,
    WaveformCacheError,
    open_chunks,
)
from paraclap.audio.conditioning import CONDITIONING
from paraclap.audio.containers import read_duration
from paraclap.audio.paths import hash_audio, mark_of, resolve_inside
from paraclap.audio.segments import Position, crop_limits, frame_range
from paraclap.audio.shards import name_key
from paraclap.errors import ParaCLAPError
from paraclap.files import OutputError, atomic_write, claim_folder
from paraclap.locks import lock
from paraclap.progress import with_progress

CHUNK_BYTES = 2**30
"""Size from which a chunk is completed (9.3 h of speech)."""
NAMES = "names.parquet"
KNOWN = pa.schema(
    [
        ("path", pa.binary()),  # absolute; names need not be UTF-8
        ("mtime", pa.int64()),  # [ns]
        ("sampled", pa.string()),
        ("content", pa.binary(32)),
    ]
)
ROW = np.dtype(
    [("content", "V32"), ("chunk", "i4"), ("first", "i8"), ("samples", "i8"), ("seconds", "f8")]
)


class CachedWaveforms:
    """The recordings of a corpus, read from a waveform cache as `Files` reads them from files.

    A file takes about a hundred bytes of memory, which forked workers share.

    Attributes:
        folder: of the cache.
        conditioning: description of the conditioning of the samples.
        in_memory: whether reading decodes nothing.
    """

    conditioning = f"{CONDITIONING}, rounded to 16 bits"
    in_memory = True

    def __init__(self, folder: Path, places: Mapping[str, tuple[bytes, Place]]) -> None:
        """Store the SHA-256 and the place of each file in arrays."""
        self.folder = folder
        self._chunks = sorted({place.chunk for _, place in places.values()})
        numbers = {chunk: number for number, chunk in enumerate(self._chunks)}
        rows = sorted(
            (name_key(file), content, numbers[place.chunk], *place[1:4])
            for file, (content, place) in places.items()
        )
        self._keys = np.array([key for key, *_ in rows], np.uint64)
        self._rows = np.array([tuple(row) for _, *row in rows], ROW)
        self._maps: dict[int, np.ndarray] = {}
        if len(np.unique(self._keys)) < len(rows):
            raise WaveformCacheError("two file names have the same hash: rename one of them")

    def __getstate__(self) -> dict[str, object]:
        """Leave out the memory maps: each process opens its own."""
        return {**vars(self), "_maps": {}}

    def seconds(self, file: str) -> float:
        """Return the duration of a file [s]."""
        return float(self._row(file)["seconds"])

    def read(self, file: str, start: Position = None, end: Position = None) -> np.ndarray:
        """Return a segment as waveform (T,) float32, see `read_audio`."""
        _, chunk, begin, samples, seconds = self._row(file).item()
        first, last = frame_range(file, start, end, seconds, samples, SAMPLING_RATE)
        waveform = self._map(chunk)[begin + first : begin + last].astype(np.float32)
        waveform *= np.float32(1 / SCALE)
        return waveform

    def crop(
        self, file: str, start: Position, end: Position, seconds: float, place: float
    ) -> np.ndarray:
        """Return a crop of a segment as waveform (T,) float32, see `read_crop`."""
        return self.read(file, *crop_limits(start, end, self.seconds(file), seconds, place))

    def hash(self, file: str) -> str:
        """Return the SHA-256 of the bytes of a file."""
        return self._row(file)["content"].tobytes().hex()

    def _row(self, file: str) -> np.void:
        key = name_key(file)
        row = int(np.searchsorted(self._keys, np.uint64(key)))
        if row == len(self._keys) or self._keys[row] != key:
            raise WaveformCacheError(f"{file} is not among the files cached in {self.folder}")
        return self._rows[row]

    def _map(self, chunk: int) -> np.ndarray:
        """Return a chunk as memory map, opened on first use."""
        if chunk not in self._maps:
            mapped = np.memmap(self.folder / self._chunks[chunk], dtype="<i2", mode="r")
            self._maps[chunk] = mapped.view(np.ndarray)  # slices are cheaper than of a memmap
        return self._maps[chunk]


# --- Building ------------------------------------------------------------------------------------


class _Version(NamedTuple):
    """State of a file when it was hashed; `mtime` in ns, `content` its SHA-256."""

    sampled: str
    mtime: int
    content: bytes

    def is_of(self, path: Path) -> bool:
        """Return whether the file has not been written to since."""
        try:
            return self[:2] == mark_of(path)
        except OSError:  # reported when it is read
            return False


def cache_waveforms(folder: str | Path, root: str | Path, files: Iterable[str]) -> CachedWaveforms:
    """Return the recordings of `files`; those missing in the cache are added first.

    If two processes cache the same files at once, one of them waits for the other.

    Args:
        folder: of the cache, created if it does not exist.
        root: of the corpus.
        files: names relative to `root`.

    Raises:
        AudioError: if files cannot be read, after all others were cached.
        OutputError: if the folder cannot be written, or is none of ours and not empty.
        WaveformCacheError: if the cache cannot be written, or a file changes meanwhile.
    """
    folder = claim_folder(folder, "waveform cache", OWN_NAMES)
    paths = {file: resolve_inside(root, file) for file in dict.fromkeys(files)}
    try:
        writable = os.access(folder, os.W_OK)  # else another user's, which may be complete
        with lock(folder, wait=True) if writable else nullcontext():
            places, known = open_chunks(folder, repair=writable), _read_names(folder)

            def is_cached(path: Path) -> bool:
                version = known.get(os.fsencode(path))
                return version is not None and version.content in places and version.is_of(path)

            missing = [path for path in paths.values() if not is_cached(path)]
            if missing and not writable:
                count = f"{len(missing)} of {len(paths)}"
                raise OutputError(f"{folder} may not be written, and {count} files are not in it")
            if missing:
                _add(folder, missing, known, places)
    except ParaCLAPError:
        raise
    except OSError as error:
        raise WaveformCacheError(f"waveform cache {folder}: {error.strerror or error}") from error
    contents = {file: known[os.fsencode(path)].content for file, path in paths.items()}
    return CachedWaveforms(
        folder, {file: (content, places[content]) for file, content in contents.items()}
    )


def _add(
    folder: Path,
    paths: Sequence[Path],
    known: dict[bytes, _Version],
    places: dict[bytes, Place],
) -> None:
    """Hash files and cache those with new content; updates `known` and `places`.

    Raises:
        AudioError: naming the first of the files that cannot be read.
        WaveformCacheError: if a file changes meanwhile.
    """
    faults: list[AudioError] = []
    writer = ChunkWriter(folder)
    try:
        for path in with_progress(paths, len(paths), "cache", "file"):
            try:
                read_duration(path)  # raises the reason if the file is not audio
                mark = mark_of(path)
                content = bytes.fromhex(hash_audio(path))
                if content not in places and content not in writer.entries:
                    writer.add(path, content)
            except AudioError as error:
                faults.append(error)
                continue
            version = _Version(*mark, content)
            if not version.is_of(path):
                raise WaveformCacheError(f"{path} was modified while it was cached")
            known[os.fsencode(path)] = version
            if writer.size >= CHUNK_BYTES:
                places |= writer.close()
                _write_names(folder, known)
                writer = ChunkWriter(folder)
        places |= writer.close()
        if places:
            _write_names(folder, known)
    finally:
        writer.discard()
    if faults:
        raise AudioError(
            faults[0].reason, f"{len(faults)} of {len(paths)} files cannot be cached: {faults[0]}"
        )


def _read_names(folder: Path) -> dict[bytes, _Version]:
    """Return path -> version of the cached files; empty, with a warning, if damaged."""
    path = folder / NAMES
    if not path.exists():
        return {}
    try:
        table = pq.read_table(path, schema=KNOWN)
    except pa.ArrowException as error:
        warnings.warn(f"{path} is damaged ({error}): files are hashed again", stacklevel=3)
        return {}
    return {row.pop("path"): _Version(**row) for row in table.to_pylist()}


def _write_names(folder: Path, known: Mapping[bytes, _Version]) -> None:
    rows = [{"path": path, **version._asdict()} for path, version in known.items()]
    with atomic_write(folder / NAMES) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, KNOWN), temporary)
