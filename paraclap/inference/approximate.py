"""Approximate search in an index of millions of clips; requires faiss.

    build(ClipIndex("index"))                           # search.py index ... --approximate
    rows, cosines = ApproximateIndex(ClipIndex("index")).search(queries, count=10)

Clips are assigned to lists by the nearest of sqrt(n) centroids (k-means), and stored there as codes
of one bit per dimension (Gao and Long, "RaBitQ: quantizing high-dimensional vectors with a
theoretical error bound for approximate nearest neighbor search", SIGMOD 2024). A query compares the
codes in one of `PROBED` lists, and re-ranks the best candidates with the embeddings of the index.
So the returned cosines are those of the exact search, but clips may be missed.

The file `approximate-*.faiss` in the folder of the index is named by the hash of its clips, so an
outdated one is never searched. Its own hash stands in a file beside it.

Letters: n clips, K queries, D embedding size.
"""

import hashlib
import math
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np

from paraclap.errors import MissingPackageError
from paraclap.files import OutputError, atomic_write, file_sha256, write_text
from paraclap.inference.index import ClipIndex, ClipIndexError
from paraclap.locks import lock

FEWEST = 20_000
"""Smallest number of clips for an approximate index; exact search of fewer takes milliseconds."""
PROBED = 4
"""One of this many lists is searched."""
CANDIDATES = 20
"""Candidates that are re-ranked for each clip to return ..."""
FEWEST_CANDIDATES = 1_000
"""... and at least."""
FITTED = 40
"""Clips per list that centroids are fitted to."""
ADDED = 16_384
"""Clips added at a time."""


def _faiss() -> ModuleType:
    try:
        return import_module("faiss")
    except ImportError as error:
        raise MissingPackageError("faiss", "search") from error


def approximate_path(index: ClipIndex) -> Path:
    """Return the path of the approximate index of exactly these clips."""
    mark = hashlib.sha256("".join(index.chunk_names).encode() + index.rows.tobytes())
    return index.folder / f"approximate-{mark.hexdigest()[:16]}.faiss"


def build(index: ClipIndex) -> str:
    """Write the approximate index of an index of clips, and remove outdated ones.

    Returns:
        A message; with fewer than `FEWEST` clips nothing is written.

    Raises:
        MissingPackageError: if faiss is not installed.
        OutputError: if it cannot be written, or another process writes to the index.
    """
    faiss = _faiss()
    path = approximate_path(index)
    with lock(index.folder):
        for other in set(index.folder.glob("approximate-*")) - {path, _hash_path(path)}:
            other.unlink()
        if len(index) < FEWEST:
            return (
                f"{len(index)} clips are searched exactly, which is as fast: an approximate index"
                f" requires {FEWEST}"
            )
        if not _is_whole(path):
            _write(faiss, index, path)
    return f"approximate index in {path}"


def _hash_path(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _is_whole(path: Path) -> bool:
    """Return whether the file exists and has the hash that stands beside it."""
    try:
        return _hash_path(path).read_text(encoding="utf-8") == file_sha256(path)
    except (OSError, ValueError):
        return False


def _write(faiss: ModuleType, index: ClipIndex, path: Path) -> None:
    """Write the approximate index of all clips, and its hash."""
    found = _fit(faiss, index)
    for first in range(0, len(index), ADDED):
        found.add(index.embeddings(np.arange(first, min(first + ADDED, len(index)))))
    with atomic_write(path) as temporary:
        try:
            faiss.write_index(found, str(temporary))
        except RuntimeError as error:  # of its C++ streams, such as a full disk
            raise OutputError(f"{path} cannot be written; is the disk full?") from error
    write_text(_hash_path(path), file_sha256(path))


def _fit(faiss: ModuleType, index: ClipIndex) -> object:
    """Fit centroids and codes to a sample of the clips."""
    lists = round(math.sqrt(len(index)))
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(index), min(len(index), max(FITTED * lists, FEWEST)), replace=False)
    sample = index.embeddings(np.sort(chosen))
    kind = f"IVF{lists},RaBitQ"
    found = faiss.index_factory(sample.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
    found.train(sample)
    return found


def is_prepared(folder: Path) -> bool:
    """Return whether a folder has an approximate index, possibly an outdated one."""
    return any(folder.glob("approximate-*.faiss"))


class ApproximateIndex:
    """The approximate index of an index of clips, with the same `search`.

    Attributes:
        index: of the clips.
        clips: table of the clips (n rows).
    """

    def __init__(self, index: ClipIndex) -> None:
        path = approximate_path(index)
        if not path.is_file():
            raise ClipIndexError(
                f"{index.folder} has no approximate index of its clips, build it with --approximate"
            )
        if not _is_whole(path):
            raise ClipIndexError(f"{path} is damaged: build it again with --approximate")
        self.index, self.clips = index, index.clips
        faiss = _faiss()
        # memory-mapped: only the searched lists are read
        self._found = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
        self._found.nprobe = -(-self._found.nlist // PROBED)

    def __len__(self) -> int:
        return len(self.index)

    def search(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return clips near each query, as `ClipIndex.search`, but possibly not the nearest."""
        queries = np.ascontiguousarray(queries, np.float32)
        count = min(count, len(self))
        wanted = min(max(CANDIDATES * count, FEWEST_CANDIDATES), len(self))
        _, candidates = self._found.search(queries, wanted)
        if (candidates[:, :count] < 0).any():
            return self.index.search(queries, count)  # the searched lists hold fewer clips
        found = np.empty((len(queries), count), np.int64)
        cosines = np.empty((len(queries), count), np.float32)
        for place, (query, near) in enumerate(zip(queries, candidates, strict=True)):
            near = np.sort(near[near >= 0])
            values = self.index.embeddings(near) @ query
            order = np.argsort(-values, kind="stable")[:count]
            found[place], cosines[place] = near[order], values[order]
        return found, cosines
