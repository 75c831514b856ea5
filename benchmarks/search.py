"""Exact and approximate search among a million generated clips.

    python -m benchmarks.search
    python -m benchmarks.search --clips 100000 --dimensions 256 --queries 20 --spread flat
    python -m benchmarks.search --folder /data/scratch/index    # kept, and used again

Embeddings are unit vectors. With --spread voices they resemble those of recordings: clusters around
some thousand voices in a space of 64 dimensions, plus noise; queries are drawn in the same way.
With --spread flat they are isotropic: the worst case for approximate search, since no clip is much
nearer than others. The output is the time of single queries (median and maximum; the first one,
which reads from disk, separately), the recall of the exact results, and memory: "own" of the
process, "mapped" pages of files that the system may reclaim.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from paraclap.inference import approximate, index_files, index_update
from paraclap.inference.approximate import ApproximateIndex, recall
from paraclap.inference.index import ClipIndex

VOICES, DIRECTIONS = 4_000, 64
OFF = {"voices": 0.15, "flat": None}  # relative norm of the noise
COUNT = 10


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
        noise = clean + OFF[spread] * length[:, None] * noise
    return noise / np.linalg.norm(noise, axis=1, keepdims=True)


def write_index(folder: Path, clips: int, dimensions: int, spread: str) -> None:
    """Write an index of generated clips."""
    (folder / index_files.CHUNKS).mkdir(parents=True)
    tables = []
    for first in range(0, clips, index_update.CHUNK_ROWS):
        numbers = range(first, min(first + index_update.CHUNK_ROWS, clips))
        rows = generate(len(numbers), dimensions, spread, [1, first])
        keys = [f"{number:064x}" for number in numbers]
        places = index_update._write_chunk(folder, keys, rows).values()
        names = [f"{number:08d}.wav" for number in numbers]
        columns = {"name": names, "root": str(folder), "file": names, "start": 0.0, "end": np.nan}
        chunks, places = zip(*places, strict=True)
        tables.append(pd.DataFrame({**columns, "chunk": chunks, "row": places}))
    index_update._write_table(folder / index_files.TABLE, pd.concat(tables, ignore_index=True))
    about = {"format": index_files.FORMAT, "model": "generated", "fingerprints": {}}
    (folder / index_files.ABOUT).write_text(json.dumps(about))


def memory() -> dict[str, float]:
    """Return the memory of this process [MiB]."""
    status = Path("/proc/self/status").read_text()
    kib = {line.split(":")[0]: line.split()[1] for line in status.splitlines() if "kB" in line}
    return {name: int(kib[key]) / 1024 for name, key in (("own", "RssAnon"), ("mapped", "RssFile"))}


def search(folder: Path, kind: str, queries: np.ndarray) -> dict[str, Any]:
    """Search one query at a time; returns seconds of each, rows found, and memory used [MiB]."""
    before = memory()
    index = ClipIndex(folder)
    index = ApproximateIndex(index) if kind == "approximate" else index
    seconds, found = [], []
    for query in queries:
        start = time.perf_counter()
        rows, _ = index.search(query[None], COUNT)
        seconds.append(time.perf_counter() - start)
        found.append(rows[0])
    taken = {name: value - before[name] for name, value in memory().items()}
    return {"seconds": seconds, "rows": np.array(found), **taken}


def report(folder: Path, options: argparse.Namespace) -> Iterator[str]:
    """Yield the lines of the report."""
    queries = generate(options.queries, options.dimensions, options.spread, [2])
    start = time.perf_counter()
    yield approximate.build(ClipIndex(folder))
    made = time.perf_counter() - start
    size = sum(path.stat().st_size for path in folder.glob("approximate-*.faiss"))
    yield f"built in {made:.0f} s, {size / 2**20:.0f} MiB"
    answers = {}
    for kind in ("exact", "approximate"):
        # in a separate process, to measure its memory
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            answers[kind] = pool.apply(search, (folder, kind, queries))
        first, *others = answers[kind]["seconds"]
        yield (
            f"{kind:12} first {first:.3f} s, then {np.median(others):.4f} s, at most"
            f" {max(others):.4f} s; memory own {answers[kind]['own']:.0f} MiB,"
            f" mapped {answers[kind]['mapped']:.0f} MiB"
        )
    share = recall(answers["approximate"]["rows"], answers["exact"]["rows"])
    yield f"recall of the {COUNT} nearest clips of {len(queries)} queries: {share:.1%}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=1_000_000)
    parser.add_argument("--dimensions", type=int, default=768)
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--spread", choices=sorted(OFF), default="voices")
    parser.add_argument("--folder", type=Path, help="where the index is kept")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary, "index")
        if not (folder / index_files.ABOUT).is_file():
            write_index(folder, options.clips, options.dimensions, options.spread)
        print(f"{options.clips} clips of {options.dimensions} dimensions, {options.spread}")
        for line in report(folder, options):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
