"""Writing and updating an index of clips, see index.py.

Files of embeddings are append-only: each is written atomically, named by its content, and removed
when no clip needs it, so an interrupted update continues where it stopped. The key of an embedding
is that of the embedding cache: content of the file, limits of the segment, conditioning. Renamed
and copied files are not embedded again; changed files are, recognised by size and modification time
as in make and git.
"""

import hashlib
import itertools
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from paraclap.audio import AudioError
from paraclap.audio.paths import hash_audio, resolve_inside
from paraclap.evaluation.embedding_cache import DIGEST_BYTES, clip_key
from paraclap.files import atomic_write, make_folder, write_text
from paraclap.inference.api import Embedder
from paraclap.inference.index import (
    ABOUT,
    CHUNKS,
    FORMAT,
    TABLE,
    check_model,
    chunk_paths,
    read_table,
)

PRECISION = np.float16
WRITTEN_ROWS = 4096
"""Embeddings written at a time: the most that an interruption loses."""
CHUNK_ROWS = 65_536
"""Embeddings in a full file."""

Place = tuple[str, int]
"""Name of a file of embeddings, and a row in it."""


@dataclass
class Update:
    """Counts of an update.

    Attributes:
        clips: in the index.
        embedded: embedded by this update.
        removed: no longer among the sources.
        failures: name of an unreadable clip -> reason.
    """

    clips: int = 0
    embedded: int = 0
    removed: int = 0
    failures: dict[str, str] = field(default_factory=dict)


def update_index(folder: str | Path, embedder: Embedder, model: str, clips: pd.DataFrame) -> Update:
    """Make an index hold exactly these clips; only new and changed ones are embedded.

    The folder may be new; `model` is the source of the model, for later queries, and `clips` a
    table of `read_clips`.

    Raises:
        ClipIndexError: if the index was made with another model, or cannot be read.
        OutputError: if it cannot be written.
    """
    folder = make_folder(Path(folder, CHUNKS)).parent
    fingerprints = embedder.fingerprints()
    if (folder / ABOUT).is_file():
        check_model(folder, fingerprints)
    about = {"format": FORMAT, "model": model, "fingerprints": fingerprints}
    write_text(folder / ABOUT, json.dumps(about, indent=2) + "\n")
    old = read_table(folder) if (folder / TABLE).is_file() else None
    update = Update()
    table = _with_keys(clips, old, update)
    stored = _stored_places(folder)
    _embed_missing(folder, embedder, table, stored, update)
    table = table[table["key"].isin(stored)].reset_index(drop=True)
    obsolete = _merge_files(folder, set(table["key"]), stored)
    places = [stored[key] for key in table["key"]]
    table["chunk"] = [chunk for chunk, _ in places]
    table["row"] = [row for _, row in places]
    _write_table(folder / TABLE, table)
    for name in obsolete:  # only after the table was written without them
        for path in chunk_paths(folder, name):
            path.unlink(missing_ok=True)
    columns = ["root", "file", "start", "end"]
    if old is not None:
        now = pd.MultiIndex.from_frame(table[columns])
        update.removed = int((~pd.MultiIndex.from_frame(old[columns]).isin(now)).sum())
    update.clips = len(table)
    return update


def _with_keys(clips: pd.DataFrame, old: pd.DataFrame | None, update: Update) -> pd.DataFrame:
    """Return the clips whose files can be read, with size, modification time and keys."""
    known: dict[tuple, str] = {}
    if old is not None:
        columns = ("root", "file", "size", "modified")
        known = dict(zip(zip(*(old[c] for c in columns), strict=True), old["content"], strict=True))
    files = list(dict.fromkeys(zip(clips["root"], clips["file"], strict=True)))

    def identify(place: tuple[str, str]) -> tuple[int, int, str] | AudioError:
        try:
            path = resolve_inside(*place)
            status = os.stat(path) if path.exists() else None
            mark = (status.st_size, status.st_mtime_ns) if status else (-1, -1)
            return (*mark, known.get((*place, *mark)) or hash_audio(path))
        except AudioError as error:
            return error

    with ThreadPoolExecutor() as pool:
        found = dict(zip(files, pool.map(identify, files), strict=True))
    rows = []
    for clip in clips.itertuples(index=False):
        state = found[clip.root, clip.file]
        if isinstance(state, AudioError):
            update.failures[clip.name] = str(state)
        else:
            rows.append((*clip, *state, clip_key(state[2], clip.start, clip.end).hex()))
    # keys are hexadecimal because pandas strips zeros off the end of bytes
    columns = [*clips.columns, "size", "modified", "content", "key"]
    return pd.DataFrame(rows, columns=columns)


def _embed_missing(
    folder: Path,
    embedder: Embedder,
    table: pd.DataFrame,
    stored: dict[str, Place],
    update: Update,
) -> None:
    """Embed and store the clips whose keys are not stored."""
    missing = table[~table["key"].isin(stored)].drop_duplicates("key")
    places = missing[["root", "file", "start", "end"]].itertuples(index=False, name=None)
    items = zip(missing["key"], missing["name"], embedder.embed_clips(places), strict=True)

    def embedded() -> Iterator[tuple[str, np.ndarray]]:
        for key, name, item in tqdm(items, "embedding", len(missing), unit="clip", disable=None):
            if isinstance(item, AudioError):
                update.failures[name] = str(item)
            else:
                update.embedded += 1
                yield key, item

    _write_chunks(folder, embedded(), WRITTEN_ROWS, stored)


def _write_chunks(
    folder: Path, pairs: Iterator[tuple[str, np.ndarray]], size: int, stored: dict[str, Place]
) -> None:
    """Write keys with their embeddings (D,) in files of `size` rows, and add their places."""
    while batch := list(itertools.islice(pairs, size)):
        keys, rows = zip(*batch, strict=True)
        stored |= _write_chunk(folder, keys, np.array(rows))


def _write_chunk(folder: Path, keys: Sequence[str], rows: np.ndarray) -> dict[str, Place]:
    """Write embeddings (n, D) and their keys atomically; returns their places."""
    rows = np.ascontiguousarray(rows, PRECISION)
    table = np.frombuffer(bytes.fromhex("".join(keys)), np.uint8).reshape(-1, DIGEST_BYTES)
    name = _content_name(table, rows)
    embeddings, names = chunk_paths(folder, name)
    for path, content in ((names, table), (embeddings, rows)):  # rows last: they complete the pair
        with atomic_write(path) as temporary, temporary.open("wb") as stream:
            np.save(stream, content, allow_pickle=False)
    return {key: (name, row) for row, key in enumerate(keys)}


def _content_name(keys: np.ndarray, rows: np.ndarray) -> str:
    return hashlib.sha256(keys.tobytes() + rows.tobytes()).hexdigest()[:32]


def _stored_places(folder: Path) -> dict[str, Place]:
    """Return key -> place of every stored embedding; damaged files are removed with a warning."""
    places: dict[str, Place] = {}
    for path in sorted((folder / CHUNKS).glob("*.keys.npy")):
        name = path.name.removesuffix(".keys.npy")
        embeddings, _ = chunk_paths(folder, name)
        if not embeddings.is_file():
            path.unlink()  # interrupted between the two
            continue
        try:
            keys, rows = np.load(path), np.load(embeddings)
            is_whole = len(keys) == len(rows) and _content_name(keys, rows) == name
        except (ValueError, EOFError, OSError):
            is_whole = False
        if not is_whole:
            warnings.warn(f"{embeddings} is damaged, its clips are embedded again", stacklevel=3)
            embeddings.unlink()
            path.unlink()
            continue
        places |= {key.tobytes().hex(): (name, row) for row, key in enumerate(keys)}
    return places


def _merge_files(folder: Path, needed: set[str], stored: dict[str, Place]) -> list[str]:
    """Merge small and half-empty files into new ones; returns the files to remove."""
    wanted: dict[str, list[tuple[int, str]]] = {}
    for key, (name, row) in stored.items():
        rows = wanted.setdefault(name, [])
        if key in needed:
            rows.append((row, key))
    sizes = {name: len(np.load(chunk_paths(folder, name)[1], mmap_mode="r")) for name in wanted}
    sparse = [name for name, rows in wanted.items() if 2 * len(rows) < max(sizes[name], CHUNK_ROWS)]
    small_and_full = [name for name in sparse if len(wanted[name]) == sizes[name]]
    if len(sparse) == len(small_and_full) == 1:
        return []  # the only file, not full yet

    def kept_rows() -> Iterator[tuple[str, np.ndarray]]:
        for name in sparse:
            embeddings = np.load(chunk_paths(folder, name)[0], mmap_mode="r")
            for row, key in sorted(wanted[name]):
                yield key, embeddings[row]

    _write_chunks(folder, kept_rows(), CHUNK_ROWS, stored)
    kept = {stored[key][0] for key in needed}
    return [name for name in sparse if name not in kept]


def _write_table(path: Path, table: pd.DataFrame) -> None:
    with atomic_write(path) as temporary:
        table.to_parquet(temporary, index=False)
