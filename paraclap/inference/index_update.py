"""Writing and updating an index of clips, see index.py.

Files of embeddings are append-only: each is written atomically, named by its content, and removed
when no clip needs it, so an interrupted update continues where it stopped. The key of an embedding
is that of the embedding cache: content of the file, limits of the segment, conditioning. Renamed
and copied files are not embedded again; changed files are, recognised by size and modification time
as in make and git.
"""

import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from paraclap.audio import AudioError
from paraclap.audio.paths import hash_audio, is_audio_file, resolve_inside
from paraclap.evaluation.embedding_cache import clip_key
from paraclap.files import (
    atomic_write,
    file_sha256,
    make_folder,
    remove_leftovers,
    write_bytes,
    write_text,
)
from paraclap.inference.api import Embedder
from paraclap.inference.index import (
    ABOUT,
    CHUNK_NAME,
    CHUNKS,
    FORMAT,
    TABLE,
    Chunk,
    ClipIndexError,
    check_model,
    chunk_paths,
    claim_index,
    file_mark,
    read_about,
    read_chunk,
    read_table,
)
from paraclap.locks import lock
from paraclap.progress import with_progress

PRECISION = np.float16
WRITTEN_ROWS = 256
"""Embeddings written at a time: the most that a kill loses; Ctrl-C and SIGTERM lose none."""
CHUNK_ROWS = 65_536
"""Embeddings in a full file."""

Row = tuple[str, str, np.ndarray]
"""Key, quality flags and embedding (D,) of a clip."""


class Place(NamedTuple):
    """A stored embedding: the name of its file, the row in it, and the quality flags."""

    chunk: str
    row: int
    quality: str


@dataclass
class Update:
    """Counts of an update.

    Attributes:
        clips: in the index.
        embedded: embedded by this update.
        removed: no longer among the sources.
        repeated: among the sources more than once.
        failures: name of an unreadable clip -> reason.
    """

    clips: int = 0
    embedded: int = 0
    removed: int = 0
    repeated: int = 0
    failures: dict[str, str] = field(default_factory=dict)


def update_index(folder: str | Path, embedder: Embedder, model: str, clips: pd.DataFrame) -> Update:
    """Make an index hold exactly these clips; only new and changed ones are embedded.

    The folder may be new; `model` is the source of the model, for later queries, and `clips` a
    table of `read_clips`.

    Raises:
        ClipIndexError: if the index was made with another model, or cannot be read.
        OutputError: if it cannot be written, or another process writes to it.
    """
    folder = claim_index(folder)
    with lock(folder):
        make_folder(folder / CHUNKS)
        remove_leftovers(folder)
        remove_leftovers(folder / CHUNKS)
        fingerprints = embedder.fingerprints()
        if (folder / ABOUT).is_file():
            check_model(folder, fingerprints)
        about = {"format": FORMAT, "model": model, "fingerprints": fingerprints}
        if not (folder / ABOUT).is_file():
            _write_about(folder, about)
        return _update(folder, embedder, clips, about)


def _write_about(folder: Path, about: dict[str, Any]) -> None:
    write_text(folder / ABOUT, json.dumps(about, indent=2) + "\n")


def write_clips(
    folder: Path, table: pd.DataFrame, about: dict[str, Any], replaced: Sequence[str] = ()
) -> None:
    """Write the table of clips, after index.json with its hash and that of the replaced table."""
    content = table.to_parquet(index=False)
    _write_about(folder, about | {"tables": [*replaced, hashlib.sha256(content).hexdigest()]})
    write_bytes(folder / TABLE, content)


def _update(folder: Path, embedder: Embedder, clips: pd.DataFrame, about: dict[str, Any]) -> Update:
    """Embed what is missing, and write the table and its hash; returns counts."""
    old = _old_table(folder)
    update = Update()
    table = _with_keys(clips, old, update)
    stored = _stored_places(folder)
    _embed_missing(folder, embedder, table, stored, update)
    table = table[table["key"].isin(stored)].reset_index(drop=True)
    obsolete = _merge_files(folder, set(table["key"]), stored)
    for column in Place._fields:
        table[column] = [getattr(stored[key], column) for key in table["key"]]
    replaced = [] if old is None else [file_sha256(folder / TABLE)]
    write_clips(folder, table, about, replaced)
    for name in obsolete:  # only after the table was written without them
        for path in chunk_paths(folder, name):
            path.unlink(missing_ok=True)
    if old is not None:
        columns = ["root", "file", "start", "end"]
        now = pd.MultiIndex.from_frame(table[columns])
        update.removed = int((~pd.MultiIndex.from_frame(old[columns]).isin(now)).sum())
    update.clips = len(table)
    return update


def remove_deleted(folder: str | Path) -> Update:
    """Remove the clips from an index whose files no longer exist; needs no model.

    Raises:
        ClipIndexError: if it is no index or is damaged, or if the root of clips is missing, which
            may be a disk that is not mounted.
        OutputError: if it cannot be written, or another process writes to it.
    """
    folder = Path(folder)
    read_about(folder)  # a lock leaves a file
    with lock(folder):
        table = read_table(folder)
        roots = table["root"].unique()
        if absent := [root for root in roots if not Path(root).is_dir()]:
            raise ClipIndexError(
                f"{absent[0]}, of which {folder} was made, is missing, perhaps a disk that is not"
                " mounted: nothing is removed; to index other sources, run its index command"
            )
        files = table[["root", "file"]].drop_duplicates()
        exists = [_exists(*place) for place in files.itertuples(index=False, name=None)]
        kept = table.merge(files[exists], on=["root", "file"])
        if len(kept) < len(table):
            about = {name: value for name, value in read_about(folder).items() if name != "tables"}
            write_clips(folder, kept, about, [file_sha256(folder / TABLE)])
        return Update(clips=len(kept), removed=len(table) - len(kept))


def _exists(root: str, file: str) -> bool:
    """Return whether a recording exists, even if it cannot be read."""
    try:
        return is_audio_file(resolve_inside(root, file))
    except AudioError as error:
        return error.reason != "missing"


def _old_table(folder: Path) -> pd.DataFrame | None:
    """Return the table of the previous update; None if there is none, or if it is damaged."""
    if not (folder / TABLE).is_file():
        return None
    try:
        return read_table(folder)
    except ClipIndexError as error:
        warnings.warn(f"{error}; it is written again", stacklevel=4)
        return None


def _with_keys(clips: pd.DataFrame, old: pd.DataFrame | None, update: Update) -> pd.DataFrame:
    """Return the clips whose files can be read, once each, with mark, content and key."""
    known: dict[tuple, str] = {}
    if old is not None:
        columns = ("root", "file", "sampled", "modified")
        known = dict(zip(zip(*(old[c] for c in columns), strict=True), old["content"], strict=True))
    files = list(dict.fromkeys(zip(clips["root"], clips["file"], strict=True)))

    def identify(place: tuple[str, str]) -> tuple[str, str, int, str] | AudioError:
        try:
            path = resolve_inside(*place)
            mark = file_mark(path)
            return (str(path), *mark, known.get((*place, *mark)) or hash_audio(path))
        except AudioError as error:
            return error

    with ThreadPoolExecutor() as pool:
        found = dict(zip(files, pool.map(identify, files), strict=True))
    rows = []
    for clip in clips.itertuples(index=False):
        state = found[clip.root, clip.file]
        if isinstance(state, AudioError):
            update.failures[clip.name] = str(state)
        elif not _is_utf8(clip.name + clip.root):
            update.failures[clip.name] = "the name is not UTF-8, rename the file"
        else:
            rows.append((*clip, *state, clip_key(state[-1], clip.start, clip.end).hex()))
    columns = [*clips.columns, "path", "sampled", "modified", "content", "key"]
    table = pd.DataFrame(rows, columns=columns)
    once = table.drop_duplicates(["path", "start", "end"], ignore_index=True)
    update.repeated = len(table) - len(once)
    return once.drop(columns="path")


def _is_utf8(name: str) -> bool:
    """Return whether a name can be written to a table; other names hold surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


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

    def embedded() -> Iterator[Row]:
        for key, name, item in with_progress(items, len(missing), "embedding", "clip"):
            if isinstance(item, AudioError):
                update.failures[name] = str(item)
            else:
                update.embedded += 1
                yield key, item.quality, item.embedding

    _write_chunks(folder, embedded(), WRITTEN_ROWS, stored)


def _write_chunks(folder: Path, rows: Iterator[Row], size: int, stored: dict[str, Place]) -> None:
    """Write keys, quality and embeddings (D,) in files of `size` rows, and add their places.

    If the rows end with an exception, those before it are written.
    """
    batch: list[Row] = []

    def write() -> None:
        keys, quality, embeddings = zip(*batch, strict=True)
        batch.clear()
        chunk = Chunk(keys, quality, np.ascontiguousarray(embeddings, PRECISION))
        write_chunk(folder, chunk)
        stored.update(_places(chunk.content_name(), chunk))

    try:
        for row in rows:
            batch.append(row)
            if len(batch) == size:
                write()
    finally:
        if batch:
            write()


def write_chunk(folder: Path, chunk: Chunk) -> None:
    """Write both files of a chunk atomically; embeddings last, which complete the pair."""
    embeddings, clips = chunk_paths(folder, chunk.content_name())
    table = pd.DataFrame({"key": chunk.keys, "quality": chunk.quality}, dtype="str")
    write_table(clips, table)
    with atomic_write(embeddings) as temporary, temporary.open("wb") as stream:
        np.save(stream, chunk.rows, allow_pickle=False)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table atomically, with checksums of its pages."""
    with atomic_write(path) as temporary:
        table.to_parquet(temporary, index=False, write_page_checksum=True)


def _places(name: str, chunk: Chunk) -> dict[str, Place]:
    """Return the place of each embedding of a chunk by its key."""
    pairs = enumerate(zip(chunk.keys, chunk.quality, strict=True))
    return {key: Place(name, row, quality) for row, (key, quality) in pairs}


def _stored_places(folder: Path) -> dict[str, Place]:
    """Return key -> place of every stored embedding; damaged files are removed with a warning."""
    places: dict[str, Place] = {}
    names = {path.name.partition(".")[0] for path in (folder / CHUNKS).iterdir()}
    for name in sorted(filter(CHUNK_NAME.fullmatch, names)):
        embeddings, clips = chunk_paths(folder, name)
        try:
            places |= _places(name, read_chunk(folder, name))
        except ClipIndexError:
            if embeddings.exists():  # otherwise interrupted between the two
                found = f"{embeddings} is damaged, its clips are embedded again"
                warnings.warn(found, stacklevel=5)
            embeddings.unlink(missing_ok=True)
            clips.unlink(missing_ok=True)
    return places


def _merge_files(folder: Path, needed: set[str], stored: dict[str, Place]) -> list[str]:
    """Merge small and half-empty files into new ones; returns the files to remove."""
    files = sorted(p for p in (folder / CHUNKS).glob("*.npy") if CHUNK_NAME.fullmatch(p.stem))
    sizes = {path.stem: len(np.load(path, mmap_mode="r")) for path in files}
    wanted: dict[str, list[tuple[int, str]]] = {name: [] for name in sizes}
    for key, place in stored.items():
        if key in needed:
            wanted[place.chunk].append((place.row, key))
    sparse = [name for name, rows in wanted.items() if 2 * len(rows) < max(sizes[name], CHUNK_ROWS)]
    small_and_full = [name for name in sparse if len(wanted[name]) == sizes[name]]
    if len(sparse) == len(small_and_full) == 1:
        return []  # the only file, not full yet

    def kept_rows() -> Iterator[Row]:
        for name in sparse:
            embeddings = np.load(chunk_paths(folder, name)[0], mmap_mode="r")
            for row, key in sorted(wanted[name]):
                yield key, stored[key].quality, embeddings[row]

    _write_chunks(folder, kept_rows(), CHUNK_ROWS, stored)
    kept = {stored[key].chunk for key in needed}
    return [name for name in sparse if name not in kept]
