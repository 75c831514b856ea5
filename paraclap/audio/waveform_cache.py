"""A corpus packed for training: 16 kHz int16 samples of many files in few, memory-mapped ones.

    recordings = cache_waveforms("/scratch/pack", "/data/RAVDESS", files)  # CachedWaveforms
    waveform = recordings.crop("Actor_01/03-01-05-01-01-01-01.wav", None, None, 5.0, place=0.5)

Reading a crop is one copy, whatever the format and the rate of the file were. Each file is decoded
and resampled once, by audio.py. What is read are the samples of `audio.read_audio`, bit for bit
where the file has 16 bits, one channel and 16 kHz, elsewhere rounded to 16 bits (by at most
1/65536).

A pack is a folder, which corpora may share::

    <sha256>.i16        samples of many files, one after the other
    <sha256>.index      Parquet: content, place, length, rate and flags of each; names its samples
    names.parquet       path, size, time of change and SHA-256 of each file that was packed

Samples are found by the SHA-256 of the bytes of their file, and that hash is remembered by size and
time of change, so that a changed file is packed anew and one that was moved is not. Parts are only
ever added, each renamed into place when whole: what a killed run had finished is kept, and no
process sees half a part. Each part is checked on opening: the index by its hash, the samples by
their size, and by their hash if they were written to since. A damaged part is told and made again.
"""

import fcntl
import hashlib
import io
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from paraclap.audio.reading import (
    CONDITIONING,
    SAMPLING_RATE,
    AudioError,
    Position,
    check_length,
    crop_limits,
    frame_range,
    hash_file,
    read_duration,
    read_in_blocks,
    resolve_inside,
)
from paraclap.errors import ParaCLAPError
from paraclap.files import write_bytes

PART_BYTES = 2**30
"""A part that has reached this size is closed (9.3 h of speech); a killed run loses at most one."""
FORMAT = b"paraclap pack 1, " + CONDITIONING.encode()
"""What a part holds; one of another format or conditioning is not read."""
SCALE = 32768
"""Integer of full scale."""
SAMPLES, INDEX, NAMES, LOCK = ".i16", ".index", "names.parquet", "lock"
PLACES = pa.schema(
    [
        ("content", pa.binary(32)),  # SHA-256 of the file
        ("first", pa.int64()),  # sample
        ("samples", pa.int64()),
        ("seconds", pa.float64()),  # duration of the file, as its header tells
        ("flags", pa.string()),  # of its conditioning, see audio.Report
    ]
)
KNOWN = pa.schema(
    [
        ("path", pa.binary()),  # absolute; names need not be UTF-8
        ("size", pa.int64()),
        ("mtime", pa.int64()),  # [ns]
        ("content", pa.binary(32)),
    ]
)


class WaveformCacheError(ParaCLAPError, RuntimeError):
    """A pack that cannot be read or made."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the samples of a file are, and what the file was."""

    part: str
    """Name of the file of samples."""
    first: int
    samples: int
    seconds: float
    """Duration of the file as its header tells [s]."""
    flags: str


class CachedWaveforms:
    """The recordings of a corpus, read from a pack as `audio.Files` reads them from their files.

    A file costs it about a hundred bytes of memory, and none of its worker processes a copy.

    Attributes:
        folder: of the pack
        conditioning: what was done to the samples of a file
    """

    conditioning = f"{CONDITIONING}, rounded to 16 bits"

    def __init__(self, folder: Path, places: Mapping[str, tuple[bytes, Place]]) -> None:
        """Remember where files are.

        Args:
            folder: of the pack
            places: file -> SHA-256 of its bytes, and where its samples are
        """
        self.folder = folder
        files = sorted(places, key=_key)
        found = [places[file][1] for file in files]
        self._keys = np.array([_key(file) for file in files], dtype=np.uint64)
        self._contents = np.array([list(places[f][0]) for f in files], np.uint8).reshape(-1, 32)
        self._firsts = np.array([place.first for place in found], dtype=np.int64)
        self._samples = np.array([place.samples for place in found], dtype=np.int64)
        self._seconds = np.array([place.seconds for place in found], dtype=np.float64)
        self._part_names, self._parts = _coded(place.part for place in found)
        self._flag_texts, self._flags = _coded(place.flags for place in found)
        self._maps: dict[int, np.ndarray] = {}
        if len(np.unique(self._keys)) < len(files):
            raise WaveformCacheError("two names of files have the same hash: rename one of them")

    def __getstate__(self) -> dict[str, object]:
        """Leave the maps out: a worker process opens its own."""
        return {**vars(self), "_maps": {}}

    def seconds(self, file: str) -> float:
        """Return the duration of a file [s]."""
        return float(self._seconds[self._row(file)])

    def read(self, file: str, start: Position = None, end: Position = None) -> np.ndarray:
        """Return a segment as waveform (T,) float32.

        Raises:
            AudioError: as `audio.read_audio`
        """
        return self._cut(file, self._row(file), start, end)

    def crop(
        self, file: str, start: Position, end: Position, seconds: float, place: float
    ) -> np.ndarray:
        """Return a part of a segment as waveform (T,) float32, see `audio.read_crop`.

        Raises:
            AudioError: as `audio.read_crop`
        """
        row = self._row(file)
        return self._cut(
            file, row, *crop_limits(start, end, float(self._seconds[row]), seconds, place)
        )

    def hash(self, file: str) -> str:
        """Return the SHA-256 of the bytes of a file."""
        return self._contents[self._row(file)].tobytes().hex()

    def flags(self, file: str) -> list[str]:
        """Return what the conditioning of a file had to tell, see `audio.Report.flags`."""
        return self._flag_texts[self._flags[self._row(file)]].split()

    def _row(self, file: str) -> int:
        key = _key(file)
        row = int(np.searchsorted(self._keys, key))
        if row == len(self._keys) or self._keys[row] != key:
            raise WaveformCacheError(f"{file} was not asked for when {self.folder} was packed")
        return row

    def _cut(self, file: str, row: int, start: Position, end: Position) -> np.ndarray:
        seconds, samples = float(self._seconds[row]), int(self._samples[row])
        first, last = frame_range(file, start, end, seconds, samples, SAMPLING_RATE)
        check_length(file, last - first, SAMPLING_RATE)
        begin = int(self._firsts[row])
        waveform = self._map(int(self._parts[row]))[begin + first : begin + last]
        waveform = waveform.astype(np.float32)
        waveform *= np.float32(1 / SCALE)
        return waveform

    def _map(self, part: int) -> np.ndarray:
        """Map a part into memory; what is not read costs none."""
        if part not in self._maps:
            mapped = np.memmap(self.folder / self._part_names[part], dtype="<i2", mode="r")
            self._maps[part] = mapped.view(np.ndarray)  # slices of it cost less
        return self._maps[part]


def _key(file: str) -> np.uint64:
    """Return the name of a file as number."""
    digest = hashlib.blake2b(os.fsencode(file), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


def _coded(texts: Iterable[str]) -> tuple[list[str], np.ndarray]:
    """Return the different texts, and the number of each text among them."""
    numbers: dict[str, int] = {}
    codes = [numbers.setdefault(text, len(numbers)) for text in texts]
    return list(numbers), np.array(codes, dtype=np.int32)


# --- Building ------------------------------------------------------------------------------------


def cache_waveforms(
    folder: str | Path, root: str | Path, files: Iterable[str], progress: bool = True
) -> CachedWaveforms:
    """Return the recordings of `files`; those that the pack lacks are added to it first.

    Two processes may be told to pack the same at once: one of them does it.

    Args:
        folder: of the pack, made if it is not there
        root: of the corpus
        files: names relative to `root`
        progress: show a bar while packing

    Raises:
        AudioError: if files cannot be read, when all others are packed
        WaveformCacheError: if the pack cannot be written, or a file is changed meanwhile
    """
    folder = Path(folder)
    paths = {file: resolve_inside(root, file) for file in dict.fromkeys(files)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            places, known = _open_parts(folder), _read_names(folder)
            missing = [p for p in paths.values() if not _is_packed(p, known, places)]
            if missing:
                _add(folder, missing, known, places, progress)
    except OSError as error:
        raise WaveformCacheError(f"the pack {folder} cannot be used: {error}") from error
    contents = {file: known[os.fsencode(path)].content for file, path in paths.items()}
    return CachedWaveforms(
        folder, {f: (content, places[content]) for f, content in contents.items()}
    )


@dataclass(frozen=True)
class _Version:
    """A file as it was when it was hashed."""

    size: int
    mtime: int
    content: bytes

    def is_of(self, path: Path) -> bool:
        """Tell whether the file has not been written to since."""
        try:
            status = os.stat(path)
        except FileNotFoundError:
            return False
        return (status.st_size, status.st_mtime_ns) == (self.size, self.mtime)


def _is_packed(path: Path, known: Mapping[bytes, _Version], places: Mapping[bytes, Place]) -> bool:
    version = known.get(os.fsencode(path))
    return version is not None and version.content in places and version.is_of(path)


def _add(
    folder: Path,
    paths: Sequence[Path],
    known: dict[bytes, _Version],
    places: dict[bytes, Place],
    progress: bool,
) -> None:
    """Hash files, and pack those whose content is new; `known` and `places` are added to.

    Raises:
        AudioError: naming the first of the files that cannot be read
    """
    faults: list[AudioError] = []
    writer = _PartWriter(folder)
    versions: dict[bytes, _Version] = {}
    try:
        for path in tqdm(paths, "pack", unit="file", mininterval=1, disable=not progress):
            try:
                version = _hash(path)
                if version.content not in places and version.content not in writer.entries:
                    writer.add(path, version)
            except AudioError as error:
                faults.append(error)
                continue
            versions[os.fsencode(path)] = version
            if writer.size >= PART_BYTES:
                places |= writer.close()
                known |= versions
                _write_names(folder, known)
                writer, versions = _PartWriter(folder), {}
        places |= writer.close()
        known |= versions
        _write_names(folder, known)
    finally:
        writer.discard()
    if faults:
        raise AudioError(
            faults[0].reason, f"{len(faults)} of {len(paths)} files cannot be packed: {faults[0]}"
        )


def _hash(path: Path) -> _Version:
    """Return the version of a file.

    Raises:
        AudioError: if it cannot be read
        WaveformCacheError: if it was changed meanwhile
    """
    read_duration(path)  # tells what is no sound, and why
    status = path.stat()
    content = bytes.fromhex(hash_file(path))
    version = _Version(status.st_size, status.st_mtime_ns, content)
    _check_unchanged(path, version)
    return version


def _check_unchanged(path: Path, version: _Version) -> None:
    if not version.is_of(path):
        raise WaveformCacheError(f"{path} is written to while it is packed")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from adding to a pack."""
    with (folder / LOCK).open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{folder} is being packed by another process: waiting")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@dataclass
class _PartWriter:
    """A part that is being written, under a temporary name.

    Attributes:
        folder: of the pack
        entries: content -> place of each file of the part
        size: of the samples so far [bytes]
    """

    folder: Path
    entries: dict[bytes, Place] = field(default_factory=dict)
    size: int = 0

    def __post_init__(self) -> None:
        self.temporary = self.folder / f".{os.getpid()}{SAMPLES}.tmp"
        self.handle: BinaryIO = self.temporary.open("wb")
        self.digest = hashlib.sha256()

    def add(self, path: Path, version: _Version) -> None:
        """Add the samples of a file; if it cannot be read, the part is as it was.

        Raises:
            AudioError: if it cannot be read
            WaveformCacheError: if it was changed since it was hashed
        """
        size, digest = self.size, self.digest.copy()
        try:
            report = read_in_blocks(path, self._write)
        except AudioError:
            self.size, self.digest = size, digest
            self.handle.seek(size)
            self.handle.truncate()
            raise
        _check_unchanged(path, version)
        seconds, flags = read_duration(path), " ".join(report.flags())
        self.entries[version.content] = Place(
            "", size // 2, (self.size - size) // 2, seconds, flags
        )

    def _write(self, waveform: np.ndarray) -> None:
        with np.errstate(invalid="ignore"):  # of samples that are refused when all are read
            content = np.rint(waveform * SCALE).astype("<i2").tobytes()
        self.handle.write(content)
        self.digest.update(content)
        self.size += len(content)

    def close(self) -> dict[bytes, Place]:
        """Put the part into the pack; returns where its files are."""
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
        about = {
            b"format": FORMAT,
            b"samples": name.encode(),
            b"size": b"%d" % self.size,
            b"mtime": b"%d" % mtime,
        }
        table = pa.table(rows, PLACES).replace_schema_metadata(about)
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        index = hashlib.sha256(buffer.getvalue()).hexdigest() + INDEX
        write_bytes(self.folder / index, buffer.getvalue())
        return _places_of(table)

    def discard(self) -> None:
        """Remove what was not put into the pack."""
        self.temporary.unlink(missing_ok=True)
        self.handle.close()  # on a full disk this may fail once more


# --- Opening -------------------------------------------------------------------------------------


def _places_of(table: pa.Table) -> dict[bytes, Place]:
    part = table.schema.metadata[b"samples"].decode()
    columns = [table[name].to_pylist() for name in PLACES.names]
    return {content: Place(part, *place) for content, *place in zip(*columns, strict=True)}


def _open_parts(folder: Path) -> dict[bytes, Place]:
    """Return where the files of a pack are; what is damaged is told and removed.

    The caller holds the lock, so what is unfinished was left behind by a killed process.
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
            warnings.warn(f"{error}: its files are packed again", stacklevel=3)
            path.unlink()
            continue
        places |= _places_of(table)
    for path in folder.glob(f"*{SAMPLES}"):
        if path.name not in used:
            path.unlink()
    return places


def _read_index(path: Path) -> pa.Table:
    """Return the index of a part.

    Raises:
        WaveformCacheError: if it is damaged, or of another format
    """
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != path.stem:
        raise WaveformCacheError(f"{path} does not have the hash of its name")
    table = pq.read_table(io.BytesIO(content))
    found = (table.schema.metadata or {}).get(b"format")
    if found != FORMAT:
        raise WaveformCacheError(f"{path} is of format {found}, expected {FORMAT}")
    return table


def _check_samples(folder: Path, about: Mapping[bytes, bytes]) -> str:
    """Return the name of the samples of an index if they are as they were written.

    Raises:
        WaveformCacheError: if they are not
    """
    path = folder / about[b"samples"].decode()
    size, mtime = int(about[b"size"]), int(about[b"mtime"])
    if not path.exists():
        raise WaveformCacheError(f"{path} is missing")
    if path.stat().st_size != size:
        raise WaveformCacheError(f"{path} has {path.stat().st_size} bytes, expected {size}")
    if path.stat().st_mtime_ns == mtime:
        return path.name
    if hash_file(path) != path.stem:
        raise WaveformCacheError(f"{path} does not have the hash of its name")
    with suppress(PermissionError):  # of a pack of someone else, which is hashed each time
        os.utime(path, ns=(mtime, mtime))  # it was copied: the next opening need not hash it
    return path.name


def _read_names(folder: Path) -> dict[bytes, _Version]:
    """Return path -> version of the files that were hashed; nothing if that is damaged.

    It only saves hashing.
    """
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
