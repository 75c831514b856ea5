"""An index of clips: their embeddings on disk, a table of the clips, and exact search.

    update_index(folder, paraclap, "runs/small", read_clips(["recordings/"]))  # index_update.py
    index = ClipIndex(folder)
    rows, cosines = index.search(paraclap.embed_text(["a calm voice"]), count=10)

Files, where float16 changes a cosine by less than 1e-3:

    index.json      the model, and fingerprints of its audio and text side
    chunks/*.npy    embeddings (n, D) in float16, unit length; *.keys.npy: their keys (n, 32)
    clips.parquet   name, root, file, start, end [s] of each clip, and the place of its embedding

Letters: n clips, m some of them, K queries, D embedding size. Importable without torch.
"""

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from paraclap.errors import ParaCLAPError
from paraclap.files import reading

FORMAT = 1
TABLE, ABOUT, CHUNKS = "clips.parquet", "index.json", "chunks"
BLOCK_ROWS = 4096
"""Rows that each thread multiplies at a time."""


class ClipIndexError(ParaCLAPError, ValueError):
    """An index that is missing, unfinished, damaged, or of another model."""


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
        raise ClipIndexError(f"{folder} has format {found}, expected {FORMAT}")
    return about


def read_table(folder: Path) -> pd.DataFrame:
    """Return the table of clips.

    Raises:
        ClipIndexError: if it cannot be read.
    """
    with reading(folder / TABLE, ClipIndexError):
        return pd.read_parquet(folder / TABLE)


def chunk_paths(folder: Path, name: str) -> tuple[Path, Path]:
    """Return the files of embeddings and of keys."""
    return folder / CHUNKS / f"{name}.npy", folder / CHUNKS / f"{name}.keys.npy"


def check_model(folder: Path, found: dict[str, str]) -> None:
    """Check that the model of these fingerprints made an index; others are not comparable.

    Raises:
        ClipIndexError: naming the side that differs.
    """
    stored = read_about(folder)["fingerprints"]
    differing = [side for side in stored if stored[side] != found[side]]
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
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.model: str = read_about(self.folder)["model"]
        if not (self.folder / TABLE).is_file():
            raise ClipIndexError(f"{self.folder} is unfinished, run its index command again")
        self.clips = read_table(self.folder)
        self.chunk_names: list[str] = self.clips["chunk"].unique().tolist()
        self._chunks = []
        for name in self.chunk_names:
            path, _ = chunk_paths(self.folder, name)
            try:
                self._chunks.append(np.load(path, mmap_mode="r"))
            except (OSError, ValueError) as error:
                raise ClipIndexError(
                    f"{path} cannot be read: run the index command again"
                ) from error
        self._starts = np.cumsum([0, *map(len, self._chunks)])
        first = dict(zip(self.chunk_names, self._starts[:-1], strict=True))
        self.rows = (self.clips["chunk"].map(first) + self.clips["row"]).to_numpy(np.int64)

    def __len__(self) -> int:
        return len(self.clips)

    def search(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the nearest clips of each query (K, D), by exact search.

        Returns:
            Rows of `clips` (K, count) and their cosines (K, count), in descending order; equal ones
            in the order of the clips. `count` is limited to the number of clips.
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
        """Return the embeddings (m, D), float32, of the clips in some rows (m,) of `clips`."""
        places = self.rows[clips]
        chunks = np.searchsorted(self._starts, places, side="right") - 1
        found = np.empty((len(places), self._chunks[0].shape[1]), np.float32)
        for chunk in np.unique(chunks):
            here = chunks == chunk
            found[here] = self._chunks[chunk][places[here] - self._starts[chunk]]
        return found

    def _cosines(self, queries: np.ndarray) -> np.ndarray:
        """Return the cosines of all stored embeddings (rows, K), computed in blocks of rows."""
        cosines = np.empty((self._starts[-1], len(queries)), np.float32)

        def multiply(block: tuple[int, np.ndarray]) -> None:
            start, rows = block
            cosines[start : start + len(rows)] = rows.astype(np.float32) @ queries.T

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(multiply, self._blocks()):
                pass
        return cosines

    def _blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        for start, chunk in zip(self._starts[:-1], self._chunks, strict=True):
            for first in range(0, len(chunk), BLOCK_ROWS):
                yield start + first, chunk[first : first + BLOCK_ROWS]
