"""Shards: recordings in tar files, found by an index and read in any order.

    path = find_member("/data/shards", "Actor_01/a.wav")  # /data/shards/x-000000.tar/Actor_01/a.wav
    with Member(locate(path)) as handle: ...

A folder of shards has the layout of WebDataset: the members ``KEY.wav`` (or another audio suffix),
``KEY.json`` (labels) and ``KEY.txt`` (a caption) are one sample, where the key ends before the
first dot of the name. A recording has the name of its member, or that in ``file`` of its JSON.
``index.parquet`` beside the shards has place and labels of each recording; it is written when the
folder is first read, and again when a shard has changed.
"""

import contextlib
import functools
import hashlib
import io
import json
import os
import posixpath
import re
import tarfile
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from paraclap.audio import AUDIO_SUFFIXES, CONVERTIBLE_SUFFIXES, AudioError
from paraclap.files import atomic_write
from paraclap.locks import lock
from paraclap.parquet import open_parquet

INDEX = "index.parquet"
SUFFIX = ".tar"
SUFFIXES = AUDIO_SUFFIXES | CONVERTIBLE_SUFFIXES
SAMPLE = pa.schema(
    [
        ("file", pa.string()),
        ("shard", pa.int32()),
        ("first", pa.int64()),
        ("size", pa.int64()),
        ("json", pa.string()),
        ("text", pa.string()),
    ]
)
LONGEST_TEXT = 2**20  # bytes of the JSON or text of a recording
BLOCK = 2**20  # bytes read at once


class State(NamedTuple):
    """Name, size [bytes] and modification time [ns] of a shard when it was indexed."""

    name: str
    size: int
    mtime: int


def shards_of(folder: str | Path) -> list[str]:
    """Return the names of the shards of a folder, none if it has audio or folders beside them."""
    names = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                suffix = os.path.splitext(entry.name)[1].lower()
                if entry.name.startswith("."):
                    continue
                if entry.is_dir() or suffix[1:] in SUFFIXES:
                    return []
                if suffix == SUFFIX:
                    names.append(entry.name)
    except OSError:  # reported when it is read
        return []
    return sorted(names)


# --- Index ---------------------------------------------------------------------------------------


def read_index(folder: str | Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the index of a folder of shards, which is written first unless it is up to date.

    Args:
        folder: of the shards.
        columns: of the table; None = all.

    Returns:
        A row for each recording, sorted by name: `file`, `shard` (number), `first` and `size`
        [bytes], `json` and `text` of the other members of its sample, or None. The metadata
        `shards` has a `State` of each shard.

    Raises:
        AudioError: if a shard is damaged, or has members with unsafe or repeated names.
    """
    path = Path(folder, INDEX)
    states = [_state(os.path.join(folder, name)) for name in shards_of(folder)]
    metadata = {b"shards": json.dumps(states).encode()}
    if (table := _stored(path, metadata, columns)) is not None:
        return table
    if error := _faults.get((str(folder), *states)):
        raise error
    if not os.access(folder, os.W_OK):
        warnings.warn(f"{folder} may not be written: its index is not kept", stacklevel=3)
        table = _indexed(folder, states).replace_schema_metadata(metadata)
        return table.select(columns or SAMPLE.names)
    with lock(folder, wait=True):
        if (table := _stored(path, metadata, columns)) is not None:  # by another process
            return table
        table = _indexed(folder, states)
        with atomic_write(path) as temporary:
            pq.write_table(table.replace_schema_metadata(metadata), temporary)
    return table.replace_schema_metadata(metadata).select(columns or SAMPLE.names)


def _state(path: str) -> State:
    try:
        status = os.stat(path)
    except OSError as error:
        raise AudioError("shard", f"{path} cannot be read: {error.strerror}") from error
    return State(os.path.basename(path), status.st_size, status.st_mtime_ns)


def _stored(
    path: Path, metadata: Mapping[bytes, bytes], columns: Sequence[str] | None
) -> pa.Table | None:
    """Return the stored index if it is one of these shards in their present state."""
    try:
        with open_parquet(path) as file:
            schema = file.schema_arrow
            if schema.metadata == metadata and schema.equals(SAMPLE):
                return file.read(columns)
    except (OSError, pa.ArrowException):  # missing or damaged
        pass
    return None


_faults: dict[tuple[str | State, ...], AudioError] = {}
"""Errors of folders and states of their shards, which are not read again for each recording."""


def _indexed(folder: str | Path, states: Sequence[State]) -> pa.Table:
    """Return the index of shards, read from the headers of their members."""
    try:
        rows = _all_recordings(folder, states)
    except AudioError as error:
        _faults[str(folder), *states] = error
        raise
    columns = zip(*sorted(rows), strict=True)
    return pa.table([pa.array(c, t) for c, t in zip(columns, SAMPLE.types, strict=True)], SAMPLE)


def _all_recordings(folder: str | Path, states: Sequence[State]) -> list[tuple]:
    known: dict[str, int] = {}
    rows = []
    for number, state in enumerate(tqdm(states, "index", unit="shard", disable=None)):
        path = os.path.join(folder, state.name)
        for file, *sample in _recordings(path):
            if file in known:
                other = os.path.join(folder, states[known[file]].name)
                raise AudioError("shard", f"{path} and {other} both contain {file}")
            known[file] = number
            rows.append((file, number, *sample))
    if not rows:
        raise AudioError("shard", f"the shards of {folder} contain no audio")
    return rows


def _recordings(path: str) -> Iterator[tuple[str, int, int, str | None, str | None]]:
    """Yield name, first byte, size, JSON and text of the recordings of a shard."""
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    try:
        with open(path, "rb") as handle, tarfile.open(fileobj=handle, mode="r:") as tar:
            for member in tar:
                name = _checked_name(member, path)
                if member.isdir():
                    continue
                stem, _, suffix = posixpath.basename(name).partition(".")
                key = posixpath.join(posixpath.dirname(name), stem)
                suffix = suffix.lower()
                kind = "audio" if suffix in SUFFIXES else suffix
                if kind in samples.setdefault(key, {}):
                    raise AudioError("shard", f"{path} has two members {key} with {kind}")
                samples[key][kind] = member
            _check_end(handle, tar.offset, path)
            for members in samples.values():
                if (audio := members.get("audio")) is not None:
                    texts = [_text(handle, members.get(kind), path) for kind in ("json", "txt")]
                    name = _recording_name(texts[0], _checked_name(audio, path), path)
                    yield (name, audio.offset_data, audio.size, *texts)
    except (tarfile.TarError, EOFError) as error:
        raise AudioError("shard", f"{path} is truncated, or no tar file: {error}") from error
    except OSError as error:
        raise AudioError("shard", f"{path} cannot be read: {error.strerror or error}") from error


def _checked_name(member: tarfile.TarInfo, path: str) -> str:
    """Return the normalised name of a file or folder inside of the shard; others are refused."""
    name = member.name
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise AudioError("shard", f"{path}: member {name!r} is a link or device, expected a file")
    return _safe(name, path)


def _safe(name: str, path: str) -> str:
    """Return a normalised name; those that leave the folder or are not UTF-8 are refused."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise AudioError("shard", f"{path}: member {name!r} is not UTF-8") from None
    if re.search(r"^/|(?:^|/)\.\.(?:/|$)|\\|\0", name):
        raise AudioError("shard", f"{path}: member {name!r} leaves the folder of its shard")
    return posixpath.normpath(name)


def _check_end(handle: io.BufferedReader, position: int, path: str) -> None:
    """Refuse a shard in which anything but zeros follows its last member, or nothing."""
    handle.seek(position)
    block = handle.read(BLOCK)
    is_ended = bool(block)
    while block and is_ended:
        is_ended = not block.strip(b"\0")
        block = handle.read(BLOCK)
    if not is_ended:
        raise AudioError("shard", f"{path} is truncated or damaged after {position} bytes")


def _text(handle: io.BufferedReader, member: tarfile.TarInfo | None, path: str) -> str | None:
    if member is None:
        return None
    if member.size > LONGEST_TEXT:
        raise AudioError("shard", f"{path}: {member.name} has {member.size} bytes, expected a text")
    handle.seek(member.offset_data)
    try:
        return handle.read(member.size).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise AudioError("shard", f"{path}: {member.name} is not UTF-8") from error


def _recording_name(labels: str | None, name: str, path: str) -> str:
    """Return the name of a recording: ``file`` in its JSON, or that of its member."""
    try:
        content = json.loads(labels or "{}")
    except (ValueError, RecursionError) as error:
        raise AudioError("shard", f"{path}: the JSON of {name} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise AudioError("shard", f"{path}: the JSON of {name} is no object")
    file = content.get("file")
    return _safe(file, path) if isinstance(file, str) and file else name


# --- Reading -------------------------------------------------------------------------------------


class Places:
    """Shard, first byte and size of each recording of a folder; 28 bytes of memory for each."""

    def __init__(self, folder: str) -> None:
        table = read_index(folder, ["file", "shard", "first", "size"])
        self.states = [State(*state) for state in json.loads(table.schema.metadata[b"shards"])]
        keys = np.array([name_key(file) for file in table["file"].to_pylist()], np.uint64)
        order = np.argsort(keys)
        self._keys = keys[order]
        self._places = [table[name].to_numpy()[order] for name in ("shard", "first", "size")]
        if len(np.unique(keys)) < len(keys):
            raise AudioError("shard", f"{folder}: two names have the same hash: rename one of them")

    def find(self, file: str) -> tuple[int, int, int] | None:
        """Return number of the shard, first byte and size of a recording."""
        key = np.uint64(name_key(file))
        row = int(np.searchsorted(self._keys, key))
        if row == len(self._keys) or self._keys[row] != key:
            return None
        return tuple(int(values[row]) for values in self._places)


def name_key(file: str) -> int:
    """Return a 64-bit hash of a file name."""
    return int.from_bytes(hashlib.blake2b(os.fsencode(file), digest_size=8).digest(), "little")


def find_member(root: str | Path, file: str) -> Path | None:
    """Return the path of a recording in a folder of shards, below its shard; None if not there."""
    places = _places(os.fspath(root))
    found = None if places is None else places.find(file)
    return None if found is None else Path(root, places.states[found[0]].name, file)


def shard_numbers(root: str | Path, files: Iterable[str]) -> np.ndarray:
    """Return the number of the shard of each recording, 0 for all of a root without shards."""
    places = _places(os.path.realpath(root))
    found = [places and places.find(file) for file in files]
    return np.array([place[0] if place else 0 for place in found], np.int64)


def _places(folder: str) -> Places | None:
    try:
        return _loaded(folder, os.stat(folder).st_mtime_ns)
    except OSError:
        return None


@functools.lru_cache(maxsize=16)
def _loaded(folder: str, mtime: int) -> Places | None:
    """Return the places of a folder, None without shards; `mtime` changes with its names."""
    return Places(folder) if shards_of(folder) else None


class Shard(io.FileIO):
    """An open shard; closed with the last reference to it."""

    def __del__(self) -> None:
        """Close the file."""
        self.close()


class Place(NamedTuple):
    """The bytes of a recording in an open shard; `state` changes when the shard is written to."""

    path: str
    handle: Shard
    first: int
    size: int
    state: tuple[int, ...]  # size and modification time [ns] first, as of files


def locate(path: str | Path) -> Place | None:
    """Return where a path below a shard is found; None for any other path.

    Raises:
        AudioError: if the shard was written to since it was indexed.
        OSError: if it cannot be opened.
    """
    text = os.fspath(path)
    for found in re.finditer(r"\.tar/", text, re.IGNORECASE):
        shard, file = text[: found.end() - 1], text[found.end() :]
        folder, name = os.path.split(shard)
        places = _places(folder)
        place = None if places is None else places.find(file)
        if place is None or places.states[place[0]].name != name:
            continue
        number, first, size = place
        handle = _opened(shard, places.states[number])
        status = os.fstat(handle.fileno())
        if (status.st_size, status.st_mtime_ns) != places.states[number][1:]:
            raise AudioError("shard", f"{shard} was written to while it was read: start again")
        state = (size, status.st_mtime_ns, status.st_ino, status.st_dev, first)
        return Place(text, handle, first, size, state)
    return None


@functools.lru_cache(maxsize=64)
def _opened(shard: str, state: State) -> Shard:
    """Return an open shard, another one after it was replaced, when its `state` differs."""
    return Shard(shard)


class Member(io.FileIO):
    """A copy of a recording in memory: decoders expect a descriptor of a whole file.

    Its memory is used again for the next recording, because new pages take most of the time.
    """

    def __init__(self, place: Place) -> None:
        super().__init__(_nameless(), "r+b", closefd=False)
        self.state, done = place.state, 0
        while done < place.size:
            count = min(BLOCK, place.size - done)
            block = os.pread(place.handle.fileno(), count, place.first + done)
            if not block:
                raise AudioError("truncated", f"{place.path}: its shard ends before it")
            done += os.pwrite(self.fileno(), block, done)
        self.truncate(place.size)
        self.seek(0)

    def close(self) -> None:
        """Close the file, or keep its memory for another."""
        if not self.closed:
            descriptor, size = self.fileno(), os.fstat(self.fileno()).st_size
            super().close()
            _spare.append(descriptor) if size <= LARGEST_SPARE else os.close(descriptor)


LARGEST_SPARE = 2**24  # bytes; larger memory is not kept
_spare: list[int] = []
"""Descriptors of files without a name that are not in use."""
os.register_at_fork(after_in_child=_spare.clear)  # the parent writes into them


def _nameless() -> int:
    """Return the descriptor of a file without a name, in memory where the system can."""
    with contextlib.suppress(IndexError):
        return _spare.pop()
    if hasattr(os, "memfd_create"):
        return os.memfd_create("member")
    with tempfile.TemporaryFile() as handle:
        return os.dup(handle.fileno())
