"""An index of clips: their embeddings in files, a table of what they are, exact search.

    update_index(folder, paraclap, "runs/small", read_clips(["recordings/"]))
    index = ClipIndex(folder)
    places, cosines = index.search(paraclap.embed_text(["a calm voice"]), count=10)

The folder holds

    index.json      the model, and fingerprints of its two sides
    chunks/*.npy    embeddings (n, D) in float16, unit length; *.keys.npy the keys (n, 32)
    clips.parquet   name, root, file, start, end [s] of each clip, and where its embedding is

Files of embeddings are only ever added, each whole and named by its content, and removed when no
clip needs them; so whoever is interrupted goes on from there. A key is that of the embedding cache:
content of the file, limits of the segment, conditioning. A file that was renamed or copied is not
embedded again, one that was changed is. Whether a file was changed is told by its size and time of
modification, as make and git do. float16 moves a cosine by less than 1e-3.

Letters: n clips, K queries, D embedding size.
"""

import hashlib
import json
import math
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
from paraclap.errors import ParaCLAPError
from paraclap.evaluation.embed import DIGEST_BYTES, audio_fingerprint, clip_key, text_fingerprint
from paraclap.files import atomic_write, write_text
from paraclap.inference.api import ParaCLAP

FORMAT = 1
PRECISION = np.float16
WRITTEN_ROWS = 4096
"""Embeddings that are written at a time: what a kill may cost."""
CHUNK_ROWS = 65_536
"""Embeddings in a file once the index is tidy."""
BLOCK_ROWS = 4096
"""Rows that are multiplied at a time by each thread."""
TABLE, ABOUT, CHUNKS = "clips.parquet", "index.json", "chunks"

Place = tuple[str, int]  # found by key in hexadecimal: pandas strips zeros off the end of bytes
"""Name of a file of embeddings, and a row in it."""


class ClipIndexError(ParaCLAPError, ValueError):
    """An index that is absent, unfinished, or of another model."""


@dataclass
class Update:
    """What an update did.

    Attributes:
        clips: in the index now.
        embedded: of them, embedded just now.
        removed: no longer among the sources.
        failures: name of a clip -> why it could not be read.
    """

    clips: int = 0
    embedded: int = 0
    removed: int = 0
    failures: dict[str, str] = field(default_factory=dict)


def fingerprints(paraclap: ParaCLAP) -> dict[str, str]:
    """Name both sides of a model by what they compute."""
    parts = paraclap.model, paraclap.processor
    return {"audio": audio_fingerprint(*parts), "text": text_fingerprint(*parts)}


# --- Writing -------------------------------------------------------------------------------------


def update_index(folder: str | Path, paraclap: ParaCLAP, model: str, clips: pd.DataFrame) -> Update:
    """Make an index hold exactly these clips; only what is new or changed is embedded.

    Args:
        folder: of the index, new or old.
        paraclap: the model.
        model: where it was loaded from, for later queries.
        clips: table of `corpora.read_clips`.

    Raises:
        ClipIndexError: if the index is of another model.
    """
    folder = Path(folder)
    (folder / CHUNKS).mkdir(parents=True, exist_ok=True)
    marks = fingerprints(paraclap)
    if (folder / ABOUT).is_file():
        check_model(folder, marks)
    about = {"format": FORMAT, "model": model, "fingerprints": marks}
    write_text(folder / ABOUT, json.dumps(about, indent=2) + "\n")
    old = pd.read_parquet(folder / TABLE) if (folder / TABLE).is_file() else None
    update = Update()
    table = _keyed(clips, old, update)
    stored = _stored_places(folder)
    _embed_missing(folder, paraclap, table, stored, update)
    table = table[table["key"].isin(stored)].reset_index(drop=True)
    doomed = _tidy(folder, set(table["key"]), stored)
    places = [stored[key] for key in table["key"]]
    table["chunk"] = [chunk for chunk, _ in places]
    table["row"] = [row for _, row in places]
    _write_table(folder / TABLE, table)
    for name in doomed:  # after the table that no longer needs them
        for path in _chunk_paths(folder, name):
            path.unlink(missing_ok=True)
    columns = ["root", "file", "start", "end"]
    if old is not None:
        now = pd.MultiIndex.from_frame(table[columns])
        update.removed = int((~pd.MultiIndex.from_frame(old[columns]).isin(now)).sum())
    update.clips = len(table)
    return update


def check_model(folder: Path, marks: dict[str, str]) -> None:
    """Refuse a model that did not make the index.

    Raises:
        ClipIndexError: naming the side that differs.
    """
    stored = _about(folder)["fingerprints"]
    other = [side for side in stored if stored[side] != marks[side]]
    if other:
        raise ClipIndexError(
            f"{folder} was made by another model: its {' and '.join(other)} side is"
            f" {stored[other[0]][:12]}, that of this one {marks[other[0]][:12]}; index the"
            " clips with this model into another folder"
        )


def _about(folder: Path) -> dict:
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ClipIndexError(f"{folder} is no index, expected {ABOUT} in it") from error
    if about["format"] != FORMAT:
        raise ClipIndexError(f"{folder} has format {about['format']}, expected {FORMAT}")
    return about


def _keyed(clips: pd.DataFrame, old: pd.DataFrame | None, update: Update) -> pd.DataFrame:
    """Return the clips whose files can be opened, with size, time of modification and keys."""
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
    columns = [*clips.columns, "size", "modified", "content", "key"]
    return pd.DataFrame(rows, columns=columns)


def _embed_missing(
    folder: Path,
    paraclap: ParaCLAP,
    table: pd.DataFrame,
    stored: dict[str, Place],
    update: Update,
) -> None:
    """Embed each clip whose key is not stored yet, and store it."""
    missing = table[~table["key"].isin(stored)].drop_duplicates("key")
    places = missing[["root", "file", "start", "end"]].itertuples(index=False, name=None)
    keys: list[str] = []
    rows: list[np.ndarray] = []
    heard = zip(missing["key"], missing["name"], paraclap.embed_clips(places), strict=True)
    for key, name, item in tqdm(heard, "embedding", len(missing), unit="clip", disable=None):
        if isinstance(item, AudioError):
            update.failures[name] = str(item)
            continue
        keys.append(key)
        rows.append(item)
        if len(rows) == WRITTEN_ROWS:
            stored |= _write_chunk(folder, keys, np.array(rows))
            keys, rows = [], []
        update.embedded += 1
    if rows:
        stored |= _write_chunk(folder, keys, np.array(rows))


def _write_chunk(folder: Path, keys: Sequence[str], rows: np.ndarray) -> dict[str, Place]:
    """Write embeddings (n, D) with their keys, whole or not at all; returns where they are."""
    rows = np.ascontiguousarray(rows, PRECISION)
    table = np.frombuffer(bytes.fromhex("".join(keys)), np.uint8).reshape(-1, DIGEST_BYTES)
    name = _content_name(table, rows)
    embeddings, names = _chunk_paths(folder, name)
    for path, content in ((names, table), (embeddings, rows)):  # rows last: they complete it
        with atomic_write(path) as temporary, temporary.open("wb") as stream:
            np.save(stream, content, allow_pickle=False)
    return {key: (name, row) for row, key in enumerate(keys)}


def _content_name(keys: np.ndarray, rows: np.ndarray) -> str:
    return hashlib.sha256(keys.tobytes() + rows.tobytes()).hexdigest()[:32]


def _chunk_paths(folder: Path, name: str) -> tuple[Path, Path]:
    """Return the files of embeddings and of keys."""
    return folder / CHUNKS / f"{name}.npy", folder / CHUNKS / f"{name}.keys.npy"


def _stored_places(folder: Path) -> dict[str, Place]:
    """Return key -> place of every embedding in whole files; damaged ones are told and removed."""
    places: dict[str, Place] = {}
    for path in sorted((folder / CHUNKS).glob("*.keys.npy")):
        name = path.name.removesuffix(".keys.npy")
        embeddings, _ = _chunk_paths(folder, name)
        if not embeddings.is_file():
            path.unlink()  # a kill came between the two
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


def _tidy(folder: Path, needed: set[str], stored: dict[str, Place]) -> list[str]:
    """Copy what is needed out of small and half-empty files; returns those to be removed."""
    wanted: dict[str, list[tuple[int, str]]] = {}
    for key, (name, row) in stored.items():
        rows = wanted.setdefault(name, [])
        if key in needed:
            rows.append((row, key))
    sizes = {name: len(np.load(_chunk_paths(folder, name)[1], mmap_mode="r")) for name in wanted}
    untidy = [name for name, rows in wanted.items() if 2 * len(rows) < max(sizes[name], CHUNK_ROWS)]
    small_and_full = [name for name in untidy if len(wanted[name]) == sizes[name]]
    if len(untidy) == len(small_and_full) == 1:
        return []  # the one file that is not full yet
    keys: list[str] = []
    rows: list[np.ndarray] = []
    for name in untidy:
        embeddings = np.load(_chunk_paths(folder, name)[0], mmap_mode="r")
        for row, key in sorted(wanted[name]):
            keys.append(key)
            rows.append(embeddings[row])
            if len(rows) == CHUNK_ROWS:
                stored |= _write_chunk(folder, keys, np.array(rows))
                keys, rows = [], []
    if rows:
        stored |= _write_chunk(folder, keys, np.array(rows))
    kept = {stored[key][0] for key in needed}
    return [name for name in untidy if name not in kept]


def _write_table(path: Path, table: pd.DataFrame) -> None:
    with atomic_write(path) as temporary:
        table.to_parquet(temporary, index=False)


# --- Reading -------------------------------------------------------------------------------------


class ClipIndex:
    """An index that is open for queries; its embeddings stay on disk, mapped into memory.

    Attributes:
        folder: of the index.
        model: where the model was loaded from that made it.
        clips: table of the clips (n rows).
        chunk_names: of the files of embeddings.
        rows: where the embedding of each clip is, if the files are put one after the other (n,).
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.model: str = _about(self.folder)["model"]
        if not (self.folder / TABLE).is_file():
            raise ClipIndexError(f"{self.folder} is unfinished, give its index command again")
        self.clips = pd.read_parquet(self.folder / TABLE)
        self.chunk_names: list[str] = self.clips["chunk"].unique().tolist()
        self._chunks = [
            np.load(_chunk_paths(self.folder, name)[0], mmap_mode="r") for name in self.chunk_names
        ]
        self._starts = np.cumsum([0, *map(len, self._chunks)])
        first = dict(zip(self.chunk_names, self._starts[:-1], strict=True))
        self.rows = (self.clips["chunk"].map(first) + self.clips["row"]).to_numpy(np.int64)

    def __len__(self) -> int:
        return len(self.clips)

    def check(self, paraclap: ParaCLAP) -> None:
        """Refuse a model that did not make this index: its texts lie in another space.

        Raises:
            ClipIndexError: naming the side that differs.
        """
        check_model(self.folder, fingerprints(paraclap))

    def search(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the nearest clips of each query, exactly.

        Args:
            queries: embeddings (K, D).
            count: of clips for each query.

        Returns:
            Rows of `clips` (K, count) and their cosines (K, count), the largest first; of equal
            ones the earlier clip first. `count` is at most the number of clips.
        """
        cosines = self._cosines(np.asarray(queries, np.float32))[self.rows]
        count = min(count, len(cosines))
        found = np.empty((cosines.shape[1], count), np.int64)
        for query, values in enumerate(cosines.T):
            least = np.partition(values, len(values) - count)[len(values) - count] if count else 0
            candidates = np.flatnonzero(values >= least)
            order = np.argsort(-values[candidates], kind="stable")[:count]
            found[query] = candidates[order]
        return found, np.take_along_axis(cosines.T, found, axis=1)

    def embeddings(self, clips: np.ndarray) -> np.ndarray:
        """Embeddings (m, D) of some clips, given by their rows (m,) in `clips`; float32."""
        places = self.rows[clips]
        chunks = np.searchsorted(self._starts, places, side="right") - 1
        found = np.empty((len(places), self._chunks[0].shape[1]), np.float32)
        for chunk in np.unique(chunks):
            here = chunks == chunk
            found[here] = self._chunks[chunk][places[here] - self._starts[chunk]]
        return found

    def _cosines(self, queries: np.ndarray) -> np.ndarray:
        """Cosines of every stored embedding (rows, K), a block of rows at a time."""
        cosines = np.empty((sum(map(len, self._chunks)), len(queries)), np.float32)

        def multiply(block: tuple[int, np.ndarray]) -> None:
            start, rows = block
            cosines[start : start + len(rows)] = rows.astype(np.float32) @ queries.T

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(multiply, self._blocks()):
                pass
        return cosines

    def _blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        start = 0
        for chunk in self._chunks:
            for first in range(0, len(chunk), BLOCK_ROWS):
                yield start + first, chunk[first : first + BLOCK_ROWS]
            start += len(chunk)

    def seconds(self, row: int) -> tuple[float, float | None]:
        """Limits of a clip [s]; None is the end of its file."""
        start, end = self.clips.loc[row, ["start", "end"]]
        return float(start), None if math.isnan(end) else float(end)
