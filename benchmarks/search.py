"""Exact and approximate search among generated clips.

    python -m benchmarks.search
    python -m benchmarks.search --clips 100000 --dimensions 256 --queries 20 --spread flat
    python -m benchmarks.search --folder /data/scratch/index    # kept, and used again

Embeddings are unit vectors. With --spread voices they resemble those of recordings: clusters around
some thousand voices in a space of 64 dimensions, plus noise; queries are drawn in the same way.
With --spread flat they are isotropic: the worst case for approximate search, since no clip is much
nearer than others. The first query, which reads from disk, is listed separately. Memory is "own" of
the process, or "mapped": pages of files that the system may reclaim.
"""

import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.memory import process_memory
from benchmarks.report import command_line, parse, report
from benchmarks.timing import markdown_table
from paraclap.inference import approximate, index_update
from paraclap.inference.approximate import ApproximateIndex
from paraclap.inference.index import ABOUT, CHUNKS, FORMAT, SIDES, Chunk, ClipIndex

VOICES, DIRECTIONS = 4_000, 64
NOISE = 0.15  # relative norm
COUNT = 10
MIB = 2**20
MEMORY = {"own": "RssAnon", "mapped": "RssFile"}


def generate(rows: int, dimensions: int, spread: str, seed: Sequence[int]) -> np.ndarray:
    """Return unit vectors (rows, dimensions) in float32."""
    fixed, rng = np.random.default_rng(0), np.random.default_rng(seed)
    noise = rng.standard_normal((rows, dimensions), np.float32)
    if spread == "voices":
        directions = fixed.standard_normal((DIRECTIONS, dimensions), np.float32)
        voices = fixed.standard_normal((VOICES, DIRECTIONS), np.float32)
        clips = 0.5 * rng.standard_normal((rows, DIRECTIONS), np.float32)
        clips += voices[rng.integers(VOICES, size=rows)]
        clean = clips @ directions
        length = np.linalg.norm(clean, axis=1) / np.linalg.norm(noise, axis=1)
        noise = clean + NOISE * length[:, None] * noise
    return noise / np.linalg.norm(noise, axis=1, keepdims=True)


def write_index(folder: Path, clips: int, dimensions: int, spread: str) -> None:
    """Write an index of generated clips."""
    (folder / CHUNKS).mkdir(parents=True)
    tables = []
    for first in range(0, clips, index_update.CHUNK_ROWS):
        numbers = range(first, min(first + index_update.CHUNK_ROWS, clips))
        rows = generate(len(numbers), dimensions, spread, [1, first])
        keys = [f"{number:064x}" for number in numbers]
        chunk = Chunk(keys, [""] * len(keys), rows.astype(index_update.PRECISION))
        index_update.write_chunk(folder, chunk)
        names = [f"{number:08d}.wav" for number in numbers]
        columns = {"name": names, "root": str(folder), "file": names, "start": 0.0, "end": np.nan}
        columns |= {"quality": "", "sampled": "", "modified": 0, "content": "", "key": keys}
        place = {"chunk": chunk.content_name(), "row": range(len(keys))}
        tables.append(pd.DataFrame({**columns, **place}))
    fingerprints = dict.fromkeys(SIDES, "generated")
    about = {"format": FORMAT, "model": "generated", "fingerprints": fingerprints}
    index_update.write_clips(folder, pd.concat(tables, ignore_index=True), about)


def search(folder: Path, kind: str, queries: np.ndarray) -> dict[str, Any]:
    """Search one query at a time; returns seconds of each, rows found, and memory used [MiB]."""
    before = {name: process_memory(key) for name, key in MEMORY.items()}
    index = ClipIndex(folder)
    index = ApproximateIndex(index) if kind == "approximate" else index
    seconds, found = [], []
    for query in queries:
        start = time.perf_counter()
        rows, _ = index.search(query[None], COUNT)
        seconds.append(time.perf_counter() - start)
        found.append(rows[0])
    used = {name: (process_memory(key) - before[name]) / MIB for name, key in MEMORY.items()}
    return {"seconds": seconds, "rows": np.array(found), **used}


def recall(found: np.ndarray, exact: np.ndarray) -> float:
    """Return the share of exact results (K, count) among the found ones (K, count)."""
    hits = [len(set(f) & set(e)) for f, e in zip(found.tolist(), exact.tolist(), strict=True)]
    return sum(hits) / exact.size


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = command_line(__doc__, __spec__.name)
    parser.add_argument("--clips", type=int, default=1_000_000, help="(%(default)s)")
    parser.add_argument("--dimensions", type=int, default=768, help="(%(default)s)")
    parser.add_argument("--queries", type=int, default=50, help="(%(default)s)")
    parser.add_argument("--spread", choices=("voices", "flat"), default="voices")
    parser.add_argument("--folder", type=Path, help="where the index is kept")
    options = parse(parser, arguments)
    if options.clips < approximate.FEWEST:
        parser.error(f"--clips {options.clips}, expected at least {approximate.FEWEST}")
    queries = generate(options.queries, options.dimensions, options.spread, [2])
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary, "index")
        if not (folder / ABOUT).is_file():
            write_index(folder, options.clips, options.dimensions, options.spread)
        start = time.perf_counter()
        print(approximate.build(ClipIndex(folder)))
        size = sum(path.stat().st_size for path in folder.glob("approximate-*.faiss")) / MIB
        about = (
            f"{options.clips} clips, built in {time.perf_counter() - start:.0f} s, {size:.0f} MiB"
        )
        found = {}
        for kind in ("exact", "approximate"):  # each in a process of its own, for its memory
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                found[kind] = pool.apply(search, (folder, kind, queries))
    rows = []
    for kind, measured in found.items():
        first, *others = measured["seconds"]
        times = (f"{seconds:.4f}" for seconds in (first, np.median(others), max(others)))
        memory = (f"{measured[name]:.0f}" for name in MEMORY)
        share = f"{recall(measured['rows'], found['exact']['rows']):.1%}"
        rows.append((kind, *times, *memory, share))
    head = ("search", "first query [s]", "median [s]", "maximum [s]", "own [MiB]", "mapped [MiB]")
    table = markdown_table((*head, f"recall of the {COUNT} nearest"), rows)
    report("Search", f"{about}\n\n{table}", options)


if __name__ == "__main__":
    main()
