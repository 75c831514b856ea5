"""Approximate search of an index of clips, for millions of them; needs faiss.

    build(ClipIndex("index"))                           # search.py index ... --approximate
    rows, cosines = ApproximateIndex(ClipIndex("index")).search(queries, count=10)

Clips are sorted into lists by the nearest of sqrt(n) centres (k-means), and kept there as codes of
one bit for each dimension (Gao and Long, "RaBitQ: quantizing high-dimensional vectors with a
theoretical error bound for approximate nearest neighbor search", SIGMOD 2024). A query looks into
one list in `PROBED` and compares codes; the best of these are compared again, exactly, with the
embeddings of the index. So a cosine that is returned is that of the exact search, but a clip may be
missed: `recall` says how many of the exact answers are found.

The file `approximate-*.faiss` in the folder of the index is named by the clips that it was made
for; another one is never searched.

Letters: n clips, K queries, D embedding size.
"""

import hashlib
import math
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np

from paraclap.files import atomic_write
from paraclap.inference.index import ClipIndex, ClipIndexError

FEWEST = 20_000
"""Clips that an approximate index is made for; fewer are compared exactly in milliseconds."""
PROBED = 4
"""One list in so many is looked into."""
CANDIDATES = 20
"""Clips that are compared exactly, for each one that is asked for ..."""
FEWEST_CANDIDATES = 1_000
"""... but so many at least."""
FITTED = 40
"""Clips for each list that its centre is fitted to."""
ADDED = 16_384
"""Clips that are added at a time."""


def _faiss() -> ModuleType:
    try:
        return import_module("faiss")
    except ImportError as error:
        raise ImportError("faiss is missing: pip install -r requirements-search.txt") from error


def approximate_path(index: ClipIndex) -> Path:
    """Where the approximate index of exactly these clips is, or would be."""
    mark = hashlib.sha256()
    for name in index.chunk_names:
        mark.update(name.encode())
    mark.update(index.rows.tobytes())
    return index.folder / f"approximate-{mark.hexdigest()[:16]}.faiss"


def build(index: ClipIndex) -> str:
    """Write the approximate index of an index of clips; those of other clips are removed.

    Returns:
        What was done: where there are few clips, nothing.

    Raises:
        ImportError: if faiss is missing.
    """
    faiss = _faiss()
    path = approximate_path(index)
    for other in set(index.folder.glob("approximate-*.faiss")) - {path}:
        other.unlink()
    if len(index) < FEWEST:
        return (
            f"{len(index)} clips are searched exactly, and as fast: an approximate index is made of"
            f" {FEWEST} or more"
        )
    if not path.is_file():
        found = _fit(faiss, index)
        for first in range(0, len(index), ADDED):
            found.add(index.embeddings(np.arange(first, min(first + ADDED, len(index)))))
        with atomic_write(path) as temporary:
            faiss.write_index(found, str(temporary))
    return f"approximate index in {path}"


def _fit(faiss: ModuleType, index: ClipIndex) -> object:
    """Fit centres and codes to some of the clips."""
    lists = round(math.sqrt(len(index)))
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(index), min(len(index), max(FITTED * lists, FEWEST)), replace=False)
    sample = index.embeddings(np.sort(chosen))
    kind = f"IVF{lists},RaBitQ"
    found = faiss.index_factory(sample.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
    found.train(sample)
    return found


def is_prepared(folder: Path) -> bool:
    """Whether an index has been given an approximate one, of these clips or earlier ones."""
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
                f"{index.folder} has no approximate index of its clips, make it with --approximate"
            )
        self.index, self.clips = index, index.clips
        faiss = _faiss()
        # lists are read where they are looked into, not as a whole
        self._found = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
        self._found.nprobe = -(-self._found.nlist // PROBED)

    def __len__(self) -> int:
        return len(self.index)

    def search(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Find clips near each query, as `ClipIndex.search`, which misses none."""
        queries = np.ascontiguousarray(queries, np.float32)
        count = min(count, len(self))
        wanted = min(max(CANDIDATES * count, FEWEST_CANDIDATES), len(self))
        _, candidates = self._found.search(queries, wanted)
        if (candidates[:, :count] < 0).any():
            return self.index.search(queries, count)  # more was asked for than lists hold
        found = np.empty((len(queries), count), np.int64)
        cosines = np.empty((len(queries), count), np.float32)
        for place, (query, near) in enumerate(zip(queries, candidates, strict=True)):
            near = np.sort(near[near >= 0])
            values = self.index.embeddings(near) @ query
            order = np.argsort(-values, kind="stable")[:count]
            found[place], cosines[place] = near[order], values[order]
        return found, cosines


def recall(found: np.ndarray, exact: np.ndarray) -> float:
    """Share of the exact answers (K, count) that are among those found (K, count)."""
    hits = [len(set(f) & set(e)) for f, e in zip(found.tolist(), exact.tolist(), strict=True)]
    return sum(hits) / exact.size
