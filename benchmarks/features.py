"""How fast features are measured: features.py and the plain way, side by side in one run.

    python -m benchmarks.features /data/RAVDESS --files 240 --rounds 3

The plain way is ``Smile(...).process_files`` with its own workers. Each way is a process of its own
and they take turns, so that what else the machine does falls on all. Processor seconds are those of
the whole tree of processes, parent and children; wall time says what workers add. Starting (imports
and the first clip, 1 to 3 s) is left out on both sides: in each round, each way also measures one
file, and that is taken off. Ratios are formed within a round; their median is what to quote, with
the lowest and the highest. The values of every way are compared bit for bit.

Without a folder, RAVDESS in the folder that PARACLAP_DATA names is measured.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile

REPOSITORY = Path(__file__).resolve().parent.parent
PLAIN = """
import sys
import opensmile
import pandas as pd

if __name__ == "__main__":
    table, output, workers, processes = sys.argv[1:]
    smile = opensmile.Smile(
        feature_set=opensmile.FeatureSet.eGeMAPSv02,
        feature_level=opensmile.FeatureLevel.Functionals,
        num_workers=int(workers),
        multiprocessing=bool(int(processes)),
    )
    smile.process_files(pd.read_csv(table)["path"].tolist()).to_parquet(output)
"""
"""The plain way, as a user of opensmile writes it."""


@dataclass(frozen=True)
class Way:
    """One way to measure: its name, its workers, its command, and what it writes."""

    name: str
    workers: int
    command: tuple[str, ...]
    output: Path


@dataclass
class Time:
    """Processor and wall seconds of one run."""

    processor: float
    wall: float


def ways(table: Path, folder: Path, workers: int) -> list[Way]:
    """Return every way to measure a table, the plain one first."""
    script = folder / "plain.py"
    script.write_text(PLAIN)
    plain = (("plain", 1, 0), ("plain, threads", workers, 0), ("plain, processes", workers, 1))
    commands = [(name, n, (script, table, "OUT", n, parallel)) for name, n, parallel in plain]
    for feature_set in ("egemaps", "captions-extended", "captions"):
        for n in (1, workers):
            options = ("--feature-set", feature_set, "--workers", n)
            command = (REPOSITORY / "features.py", table, "-o", "OUT", *options)
            commands.append((feature_set, n, command))
    found = []
    for name, n, command in commands:
        output = folder / f"{table.stem} {name} {n}.parquet"
        words = (str(output) if word == "OUT" else str(word) for word in command)
        found.append(Way(name, n, tuple(words), output))
    return found


def run(way: Way) -> Time:
    """Run a way from nothing and return what it took."""
    for path in [*way.output.with_suffix(".parts").glob("*"), way.output]:
        path.unlink(missing_ok=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    subprocess.run([sys.executable, *way.command], check=True, capture_output=True)
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Time(processor, wall)


def compare(output: Path, reference: Path) -> str:
    """Return how the values of a way differ from those of the plain way."""
    found, plain = pd.read_parquet(output), pd.read_parquet(reference)
    names = [name for name in plain if name in found]
    ours = found[names].to_numpy(np.float32)
    theirs = plain[names].to_numpy(np.float32)
    same = ours.view(np.int32) == theirs.view(np.int32)
    undefined = np.isnan(ours) & np.isin(theirs, (0, -201))
    spread = np.array(["stddev" in name for name in names])
    wrong = int((~same & ~undefined & ~(np.isnan(ours) & spread)).sum())
    told = f"{len(names)} columns, {same.size} values: {wrong} differ"
    return told + (f", {int(np.isnan(ours).sum())} undefined" if np.isnan(ours).any() else "")


def choose(folder: Path, count: int, where: Path) -> tuple[Path, Path, float]:
    """Return a table of files of a folder, one of the first of them, and the sound in between [s].

    They are spread evenly, and must be mono at 16 kHz to be compared: opensmile reads the first
    channel and never resamples.
    """
    paths = sorted(p for s in ("wav", "flac") for p in folder.rglob(f"*.{s}"))
    chosen = paths[:: max(1, len(paths) // count)][:count]
    infos = [soundfile.info(path) for path in chosen]
    for path, info in zip(chosen, infos, strict=True):
        if (info.samplerate, info.channels) != (16_000, 1):
            sys.exit(f"{path} has {info.channels} channels at {info.samplerate} Hz, not 1 at 16000")
    if len(chosen) < 2:
        sys.exit(f"{folder} holds {len(chosen)} WAV or FLAC files, expected at least 2")
    rows = pd.DataFrame({"file": [f"{n:05}{path.suffix}" for n, path in enumerate(chosen)]})
    rows["path"] = [str(where / file) for file in rows["file"]]
    for path, copy in zip(chosen, rows["path"], strict=True):
        shutil.copyfile(path, copy)
    tables = {where / "all.csv": rows, where / "start.csv": rows[:1]}
    for table, part in tables.items():
        part.to_csv(table, index=False)
    return *tables, sum(info.duration for info in infos[1:])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(os.environ.get("PARACLAP_DATA", REPOSITORY.parent / "shared" / "data"))
    parser.add_argument("folder", type=Path, nargs="?", default=default / "ravdess")
    parser.add_argument("--files", type=int, default=240)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        where = Path(name)
        table, start, seconds = choose(options.folder, options.files, where)
        compared = ways(table, where, options.workers)
        starting = ways(start, where, options.workers)
        rounds = [
            [(run(way), run(first)) for way, first in zip(compared, starting, strict=True)]
            for _ in range(options.rounds)
        ]
        print(f"{options.files} files, {seconds:.0f} s of sound, {options.rounds} rounds")
        report(compared, rounds, seconds)


def spread(ratios: np.ndarray) -> str:
    """Return the median of the ratios of all rounds, and the lowest and highest."""
    return f"{np.median(ratios):.2f}x ({ratios.min():.2f}-{ratios.max():.2f})"


def report(compared: list[Way], rounds: list[list[tuple[Time, Time]]], seconds: float) -> None:
    """Print a row for each way, with ratios to the plain one and to its own single worker.

    Args:
        compared: the ways, the plain one first
        rounds: for each round and way, the time for all files and for one
        seconds: sound in all files but that one [s]
    """
    times = np.array(
        [[[(t.processor, t.wall) for t in pair] for pair in one] for one in rounds]
    )  # (rounds, ways, all or one file, processor or wall)
    load, wall = np.moveaxis(times[:, :, 0] - times[:, :, 1], 2, 0)  # (rounds, ways) each
    is_plain = [way.name.startswith("plain") for way in compared]
    best = wall[:, is_plain].min(axis=1)
    single = {way.name: place for place, way in enumerate(compared) if way.workers == 1}
    head = ("way", "workers", "start", "sound s per processor s", "per core")
    head += ("wall, to best plain", "scaling", "values")
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for place, way in enumerate(compared):
        alone = wall[:, single.get(way.name, 0)]
        print(
            f"| {way.name} | {way.workers} | {np.median(times[:, place, 1, 0]):.1f} s "
            f"| {np.median(seconds / load[:, place]):.0f} "
            f"| {spread(load[:, 0] / load[:, place])} | {spread(best / wall[:, place])} "
            f"| {spread(alone / wall[:, place])} | {compare(way.output, compared[0].output)} |"
        )


if __name__ == "__main__":
    main()
