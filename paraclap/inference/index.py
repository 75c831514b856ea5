"""An index of clips: their embeddings on disk, a table of the clips, and exact search.

    update_index(folder, paraclap, "runs/small", read_clips(["recordings/"]))  # index_update.py
    index = ClipIndex(folder)
    rows, cosines = index.search(paraclap.embed_text(["a calm voice"]), count=10)

Files, where float16 changes a cosine by less than 1e-3:

    index.json              the model, fingerprints of its audio and text side, and the SHA-256 of
                            clips.parquet, also of the one before, if an update was interrupted
    chunks/*.npy            embeddings (n, D) in float16, unit length
    chunks/*.clips.parquet  their keys and quality flags
    clips.parquet           name, root, file, start, end [s], quality, size and time of the file of
                            each clip, the place of its embedding, and labels (`label.speaker`)

Files of embeddings are named by the hash of their content, which is checked before a search.

Letters: n clips, m some of them, K queries, D embedding size. Importable without torch.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from paraclap.audio import AudioError
from paraclap.audio.paths import mark_of
from paraclap.errors import ParaCLAPError
from paraclap.evaluation.adaptation import Reference
from paraclap.files import claim_folder, file_sha256, reading, reading_parquet

FORMAT = 2
TABLE, ABOUT, CHUNKS = "clips.parquet", "index.json", "chunks"
SIDES = ("audio", "text")
CHUNK_NAME = re.compile("[0-9a-f]{32}")
LENGTH_TOLERANCE = 0.01
"""Largest difference of the length of a stored embedding from 1."""
BLOCK_ROWS = 4096
"""Rows that each thread multiplies at a time."""


class ClipIndexError(ParaCLAPError, ValueError):
    """An index that is missing, unfinished, damaged, or of another model."""


def file_mark(path: str | Path) -> tuple[str, int]:
    """Return sampled hash and modification time [ns] of a file, by which changes are recognised."""
    try:
        return mark_of(path)
    except (OSError, AudioError):
        return "", -1  # reading it will raise the reason


def read_about(folder: Path) -> dict:
    """Return the content of index.json.

    Raises:
        ClipIndexError: if the folder holds no index, or one of another format.
    """
    path = folder / ABOUT
    if not path.is_file():
        raise ClipIndexError(f"{folder} is not an index: it has no {ABOUT}")
    with reading(path, ClipIndexError):
        about = json.loads(path.read_text(encoding="utf-8"))
    found = about.get("format") if isinstance(about, dict) else None
    if found != FORMAT:
        raise ClipIndexError(
            f"{folder} has format {found}, expected {FORMAT}: make the index again in a new folder"
        )
    prints = about.get("fingerprints")
    known = isinstance(prints, dict) and all(isinstance(prints.get(side), str) for side in SIDES)
    if not (known and isinstance(about.get("model"), str)):
        raise ClipIndexError(f"{path} is damaged: it does not name the model and its fingerprints")
    return about


def read_table(folder: Path) -> pd.DataFrame:
    """Return the table of clips.

    Raises:
        ClipIndexError: if it is missing, is not that of index.json, or names other files than
            chunks.
    """
    path, tables = folder / TABLE, read_about(folder).get("tables")
    if not isinstance(tables, list) or not path.is_file():
        raise ClipIndexError(f"{folder} is unfinished, run its index command again")
    with reading_parquet(path, ClipIndexError, "the table of an index"):
        if file_sha256(path) not in tables:
            raise ClipIndexError(f"{path} was changed or is damaged: run the index command again")
        table = pd.read_parquet(path)
    for name in table["chunk"].unique():
        if not (isinstance(name, str) and CHUNK_NAME.fullmatch(name)):
            raise ClipIndexError(f"{path} is damaged: {name!r} is no name of a file of embeddings")
    return table


def claim_index(folder: str | Path) -> Path:
    """Create the folder of an index, or return it if it is empty or holds an index.

    Raises:
        ClipIndexError: if its index has another format.
        OutputError: if it holds other files, or cannot be created.
    """
    folder = claim_folder(folder, "index", "|".join(map(re.escape, (ABOUT, TABLE, CHUNKS))))
    if (folder / ABOUT).is_file():
        read_about(folder)
    return folder


class Chunk(NamedTuple):
    """A file of embeddings: the keys and quality flags of its n clips, and embeddings (n, D)."""

    keys: Sequence[str]
    quality: Sequence[str]
    rows: np.ndarray

    def content_name(self) -> str:
        """Return the hash of the content as a name."""
        digest = hashlib.sha256("\n".join([*self.keys, *self.quality]).encode())
        digest.update(np.ascontiguousarray(self.rows))
        return digest.hexdigest()[:32]


def chunk_paths(folder: Path, name: str) -> tuple[Path, Path]:
    """Return the files of embeddings, and of keys and quality flags."""
    return folder / CHUNKS / f"{name}.npy", folder / CHUNKS / f"{name}.clips.parquet"


def read_chunk(folder: Path, name: str) -> Chunk:
    """Return a file of embeddings, memory-mapped, whose content has the hash of its name.

    Raises:
        ClipIndexError: if it cannot be read or is damaged.
    """
    embeddings, clips = chunk_paths(folder, name)
    rows = _mapped(embeddings)
    try:
        table = pd.read_parquet(clips, columns=["key", "quality"], page_checksum_verification=True)
    except (OSError, ValueError) as error:
        raise _damaged(clips) from error
    chunk = Chunk(table["key"].astype(str).tolist(), table["quality"].astype(str).tolist(), rows)
    if chunk.content_name() != name:
        raise _damaged(embeddings)
    return chunk


def _mapped(path: Path) -> np.ndarray:
    """Return a file of embeddings (n, D), memory-mapped and not checked."""
    try:
        rows = np.load(path, mmap_mode="r")
    except (OSError, EOFError, ValueError) as error:
        raise _damaged(path) from error
    if rows.ndim != 2 or rows.dtype != np.float16:
        raise _damaged(path)
    return rows


def _damaged(path: Path) -> ClipIndexError:
    return ClipIndexError(f"{path} is missing or damaged: run the index command again")


def check_model(folder: Path, found: dict[str, str]) -> None:
    """Check that the model of these fingerprints made an index; others are not comparable.

    Raises:
        ClipIndexError: naming the side that differs.
    """
    stored = read_about(folder)["fingerprints"]
    differing = [side for side in SIDES if stored[side] != found[side]]
    if differing:
        side = differing[0]
        raise ClipIndexError(
            f"{folder} was made with another model: its {' and '.join(differing)} side is"
            f" {stored[side][:12]}, that of this one {found[side][:12]}; use another folder for"
            " this model"
        )


class ClipIndex:
    """An index opened for queries; its embeddings are memory-mapped.

    Attributes:
        folder: of the index.
        model: source of the model that made it.
        clips: table of the clips (n rows).
        chunk_names: of the files of embeddings.
        rows: position of the embedding of each clip in the concatenated files (n,).
        reference: relative to which clips are compared with queries; None = as stored.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.reference: Reference | None = None
        self.model: str = read_about(self.folder)["model"]
        self.clips = read_table(self.folder)
        if self.clips.empty:
            raise ClipIndexError(f"{self.folder} holds no clips: none could be read")
        self.chunk_names: list[str] = self.clips["chunk"].unique().tolist()
        self._chunks = [_mapped(chunk_paths(self.folder, name)[0]) for name in self.chunk_names]
        self._are_checked = False
        sizes = dict(zip(self.chunk_names, map(len, self._chunks), strict=True))
        inside = self.clips["row"].between(0, self.clips["chunk"].map(sizes), inclusive="left")
        if not inside.all() or len({chunk.shape[1] for chunk in self._chunks}) > 1:
            raise _damaged(self.folder / TABLE)
        self._starts = np.cumsum([0, *map(len, self._chunks)])
        first = dict(zip(self.chunk_names, self._starts[:-1], strict=True))
        self.rows = (self.clips["chunk"].map(first) + self.clips["row"]).to_numpy(np.int64)

    def __len__(self) -> int:
        return len(self.clips)

    def search(
        self, queries: np.ndarray, count: int, among: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the nearest clips of each query (K, D), by exact search.

        Args:
            queries: (K, D).
            count: clips per query.
            among: rows of `clips` that are compared, ascending (m,); None = all.

        Returns:
            Rows of `clips` (K, count) and their cosines (K, count), in descending order; equal ones
            in the order of the clips. `count` is limited to the number of compared clips.

        Raises:
            ClipIndexError: if a file of embeddings is damaged.
        """
        self.check_embeddings()
        among = np.arange(len(self)) if among is None else among
        cosines = self._cosines(np.asarray(queries, np.float32))[self.rows[among]]
        count = min(count, len(cosines))
        found = np.empty((cosines.shape[1], count), np.int64)
        for query, values in enumerate(cosines.T):
            least = np.partition(values, len(values) - count)[len(values) - count] if count else 0
            candidates = np.flatnonzero(values >= least)
            order = np.argsort(-values[candidates], kind="stable")[:count]
            found[query] = candidates[order]
        return among[found], np.take_along_axis(cosines.T, found, axis=1)

    def embeddings(self, clips: np.ndarray) -> np.ndarray:
        """Return the embeddings (m, D), float32, of the clips in some rows (m,) of `clips`.

        Raises:
            ClipIndexError: if one of them does not have unit length. Hashes are not checked, which
                would read all files.
        """
        places = self.rows[clips]
        chunks = np.searchsorted(self._starts, places, side="right") - 1
        found = np.empty((len(places), self._chunks[0].shape[1]), np.float32)
        for chunk in np.unique(chunks):
            here = chunks == chunk
            found[here] = self._chunks[chunk][places[here] - self._starts[chunk]]
        if not (np.abs(np.linalg.norm(found, axis=1) - 1) < LENGTH_TOLERANCE).all():
            raise _damaged(self.folder / CHUNKS)
        return found

    def check_embeddings(self) -> None:
        """Check the hashes of the files of embeddings, once.

        Raises:
            ClipIndexError: naming a damaged one.
        """
        if not self._are_checked:
            with ThreadPoolExecutor() as pool:
                for _ in pool.map(lambda name: read_chunk(self.folder, name), self.chunk_names):
                    pass
            self._are_checked = True

    def _cosines(self, queries: np.ndarray) -> np.ndarray:
        """Return the cosines of all stored embeddings (rows, K), computed in blocks of rows."""
        cosines = np.empty((self._starts[-1], len(queries)), np.float32)

        def multiply(block: tuple[int, np.ndarray]) -> None:
            start, rows = block
            rows = rows.astype(np.float32)
            if self.reference is not None:
                rows = self.reference.centred(rows)
            cosines[start : start + len(rows)] = rows @ queries.T

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(multiply, self._blocks()):
                pass
        return cosines

    def _blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        for start, chunk in zip(self._starts[:-1], self._chunks, strict=True):
            for first in range(0, len(chunk), BLOCK_ROWS):
                yield start + first, chunk[first : first + BLOCK_ROWS]
