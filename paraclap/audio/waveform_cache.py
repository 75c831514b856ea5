"""The waveforms of a corpus as 16 kHz 16-bit samples in a few memory-mapped files.

    recordings = cache_waveforms("/scratch/cache", "/data/RAVDESS", files)  # CachedWaveforms
    waveform = recordings.crop("Actor_01/03-01-05-01-01-01-01.wav", None, None, 5.0, place=0.5)

Each file is decoded and resampled once; reading a crop is then a single copy, whatever the format
and the rate of the file. Samples equal those of `read_audio`: bit for bit if the file has 16 bits,
one channel and 16 kHz, otherwise rounded to 16 bits (by at most 1/65536).

A cache is a folder, which several corpora may share::

    <sha256>.i16        samples of many files, one after the other
    <sha256>.index      Parquet: content, place, length, rate and flags of each; names its samples
    names.parquet       path, size, modification time and SHA-256 of each cached file

Samples are found by the SHA-256 of the bytes of their file. That hash is kept with size and
modification time, so a changed file is cached again and a moved one is not. Chunks are only added,
each renamed when complete: a killed run loses at most one, and no process reads half of one.
"""

import fcntl
import hashlib
import io
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from paraclap.audio import SAMPLING_RATE, AudioError
from paraclap.audio.cache_chunks import (
    SCALE,
    ChunkWriter,
    Place,
    WaveformCacheError,
    open_chunks,
)
from paraclap.audio.conditioning import CONDITIONING
from paraclap.audio.containers import read_duration
from paraclap.audio.paths import hash_audio, resolve_inside
from paraclap.audio.segments import Position, check_length, crop_limits, frame_range
from paraclap.files import write_bytes

CHUNK_BYTES = 2**30
"""Size from which a chunk is completed (9.3 h of speech)."""
NAMES, LOCK = "names.parquet", "lock"
KNOWN = pa.schema(
    [
        ("path", pa.binary()),  # absolute; names need not be UTF-8
        ("size", pa.int64()),
        ("mtime", pa.int64()),  # [ns]
        ("content", pa.binary(32)),
    ]
)


class CachedWaveforms:
    """The recordings of a corpus, read from a waveform cache as `Files` reads them from files.

    A file takes about a hundred bytes of memory, which forked workers share.

    Attributes:
        folder: of the cache.
        conditioning: description of the conditioning of the samples.
    """

    conditioning = f"{CONDITIONING}, rounded to 16 bits"

    def __init__(self, folder: Path, places: Mapping[str, tuple[bytes, Place]]) -> None:
        """Store the places of files in arrays.

        Args:
            folder: of the cache.
            places: file -> SHA-256 of its bytes, and place of its samples.
        """
        self.folder = folder
        files = sorted(places, key=_key)
        found = [places[file][1] for file in files]
        self._keys = np.array([_key(file) for file in files], dtype=np.uint64)
        self._contents = np.array([list(places[f][0]) for f in files], np.uint8).reshape(-1, 32)
        self._firsts = np.array([place.first for place in found], dtype=np.int64)
        self._samples = np.array([place.samples for place in found], dtype=np.int64)
        self._seconds = np.array([place.seconds for place in found], dtype=np.float64)
        self._chunk_names, self._chunks = _coded(place.chunk for place in found)
        self._flag_texts, self._flags = _coded(place.flags for place in found)
        self._maps: dict[int, np.ndarray] = {}
        if len(np.unique(self._keys)) < len(files):
            raise WaveformCacheError("two file names have the same hash: rename one of them")

    def __getstate__(self) -> dict[str, object]:
        """Leave out the memory maps: each process opens its own."""
        return {**vars(self), "_maps": {}}

    def seconds(self, file: str) -> float:
        """Return the duration of a file [s]."""
        return float(self._seconds[self._row(file)])

    def read(self, file: str, start: Position = None, end: Position = None) -> np.ndarray:
        """Return a segment as waveform (T,) float32.

        Raises:
            AudioError: as `read_audio`.
        """
        return self._cut(file, self._row(file), start, end)

    def crop(
        self, file: str, start: Position, end: Position, seconds: float, place: float
    ) -> np.ndarray:
        """Return a crop of a segment as waveform (T,) float32, see `read_crop`.

        Raises:
            AudioError: as `read_crop`.
        """
        row = self._row(file)
        return self._cut(
            file, row, *crop_limits(start, end, float(self._seconds[row]), seconds, place)
        )

    def hash(self, file: str) -> str:
        """Return the SHA-256 of the bytes of a file."""
        return self._contents[self._row(file)].tobytes().hex()

    def flags(self, file: str) -> list[str]:
        """Return the flags of the conditioning of a file, see `Report.flags`."""
        return self._flag_texts[self._flags[self._row(file)]].split()

    def _row(self, file: str) -> int:
        key = _key(file)
        row = int(np.searchsorted(self._keys, key))
        if row == len(self._keys) or self._keys[row] != key:
            raise WaveformCacheError(f"{file} is not among the files cached in {self.folder}")
        return row

    def _cut(self, file: str, row: int, start: Position, end: Position) -> np.ndarray:
        seconds, samples = float(self._seconds[row]), int(self._samples[row])
        first, last = frame_range(file, start, end, seconds, samples, SAMPLING_RATE)
        check_length(file, last - first, SAMPLING_RATE)
        begin = int(self._firsts[row])
        waveform = self._map(int(self._chunks[row]))[begin + first : begin + last]
        waveform = waveform.astype(np.float32)
        waveform *= np.float32(1 / SCALE)
        return waveform

    def _map(self, chunk: int) -> np.ndarray:
        """Return a chunk as memory map, opened on first use."""
        if chunk not in self._maps:
            mapped = np.memmap(self.folder / self._chunk_names[chunk], dtype="<i2", mode="r")
            self._maps[chunk] = mapped.view(np.ndarray)  # slices are cheaper than of a memmap
        return self._maps[chunk]


def _key(file: str) -> np.uint64:
    """Return a 64-bit hash of a file name."""
    digest = hashlib.blake2b(os.fsencode(file), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


def _coded(texts: Iterable[str]) -> tuple[list[str], np.ndarray]:
    """Return the distinct texts, and for each text its number among them."""
    numbers: dict[str, int] = {}
    codes = [numbers.setdefault(text, len(numbers)) for text in texts]
    return list(numbers), np.array(codes, dtype=np.int32)


# --- Building ------------------------------------------------------------------------------------


def cache_waveforms(
    folder: str | Path, root: str | Path, files: Iterable[str], progress: bool = True
) -> CachedWaveforms:
    """Return the recordings of `files`; those missing in the cache are added first.

    If two processes cache the same files at once, one of them waits for the other.

    Args:
        folder: of the cache, created if it does not exist.
        root: of the corpus.
        files: names relative to `root`.
        progress: show a progress bar.

    Raises:
        AudioError: if files cannot be read, after all others were cached.
        WaveformCacheError: if the cache cannot be written, or a file changes meanwhile.
    """
    folder = Path(folder)
    paths = {file: resolve_inside(root, file) for file in dict.fromkeys(files)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            places, known = open_chunks(folder), _read_names(folder)
            missing = [p for p in paths.values() if not _is_cached(p, known, places)]
            if missing:
                _add(folder, missing, known, places, progress)
    except OSError as error:
        raise WaveformCacheError(f"waveform cache {folder}: {error}") from error
    contents = {file: known[os.fsencode(path)].content for file, path in paths.items()}
    return CachedWaveforms(
        folder, {f: (content, places[content]) for f, content in contents.items()}
    )


@dataclass(frozen=True)
class _Version:
    """State of a file when it was hashed; `mtime` in ns, `content` its SHA-256."""

    size: int
    mtime: int
    content: bytes

    def is_of(self, path: Path) -> bool:
        """Return whether the file has not been written to since."""
        try:
            status = os.stat(path)
        except FileNotFoundError:
            return False
        return (status.st_size, status.st_mtime_ns) == (self.size, self.mtime)


def _is_cached(path: Path, known: Mapping[bytes, _Version], places: Mapping[bytes, Place]) -> bool:
    version = known.get(os.fsencode(path))
    return version is not None and version.content in places and version.is_of(path)


def _add(
    folder: Path,
    paths: Sequence[Path],
    known: dict[bytes, _Version],
    places: dict[bytes, Place],
    progress: bool,
) -> None:
    """Hash files and cache those with new content; updates `known` and `places`.

    Raises:
        AudioError: naming the first of the files that cannot be read.
        WaveformCacheError: if a file changes meanwhile.
    """
    faults: list[AudioError] = []
    writer = ChunkWriter(folder)
    versions: dict[bytes, _Version] = {}
    try:
        for path in tqdm(paths, "cache", unit="file", mininterval=1, disable=not progress):
            try:
                version = _hash(path)
                if version.content not in places and version.content not in writer.entries:
                    writer.add(path, version.content)
                    _check_unchanged(path, version)
            except AudioError as error:
                faults.append(error)
                continue
            versions[os.fsencode(path)] = version
            if writer.size >= CHUNK_BYTES:
                places |= writer.close()
                known |= versions
                _write_names(folder, known)
                writer, versions = ChunkWriter(folder), {}
        places |= writer.close()
        known |= versions
        _write_names(folder, known)
    finally:
        writer.discard()
    if faults:
        raise AudioError(
            faults[0].reason, f"{len(faults)} of {len(paths)} files cannot be cached: {faults[0]}"
        )


def _hash(path: Path) -> _Version:
    """Return the version of a file.

    Raises:
        AudioError: if it cannot be read.
        WaveformCacheError: if it changes meanwhile.
    """
    read_duration(path)  # raises the reason if the file is not audio
    status = path.stat()
    version = _Version(status.st_size, status.st_mtime_ns, bytes.fromhex(hash_audio(path)))
    _check_unchanged(path, version)
    return version


def _check_unchanged(path: Path, version: _Version) -> None:
    if not version.is_of(path):
        raise WaveformCacheError(f"{path} was modified while it was cached")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from adding to a cache."""
    with (folder / LOCK).open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that adds to the waveform cache {folder}")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


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
    columns = [table[name].to_pylist() for name in KNOWN.names]
    return {name: _Version(*version) for name, *version in zip(*columns, strict=True)}


def _write_names(folder: Path, known: Mapping[bytes, _Version]) -> None:
    rows = {"path": list(known)} | {
        column: [getattr(version, column) for version in known.values()]
        for column in KNOWN.names[1:]
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(rows, KNOWN), buffer)
    write_bytes(folder / NAMES, buffer.getvalue())
