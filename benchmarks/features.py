"""Speed of features.py compared with opensmile's own ``Smile(...).process_files``.

    python -m benchmarks.features /data/RAVDESS --files 240 --rounds 3

Every method runs as a separate process, in turns, so that other load affects all of them. Processor
time is that of the process and its children; wall time shows the gain of several workers. Start-up
(imports and the first clip, 1 to 3 s) is excluded: in each round, each method also measures a
single file, whose time is subtracted. Ratios are computed within a round; median, minimum and
maximum are reported. The values of all methods are compared bit by bit.

The default folder is RAVDESS in the folder of the environment variable PARACLAP_DATA.
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
OPENSMILE = """
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
"""Extraction with opensmile alone."""


@dataclass(frozen=True)
class Method:
    """An extraction method: name, number of workers, command and output."""

    name: str
    workers: int
    command: tuple[str, ...]
    output: Path


@dataclass
class Time:
    """Processor and wall seconds of one run."""

    processor: float
    wall: float


def methods(table: Path, folder: Path, workers: int) -> list[Method]:
    """Return all methods for a table, opensmile first."""
    script = folder / "process_files.py"
    script.write_text(OPENSMILE)
    reference = [("", 1, 0), (", threads", workers, 0), (", processes", workers, 1)]
    commands = [
        (f"opensmile{name}", n, (script, table, "OUT", n, parallel))
        for name, n, parallel in reference
    ]
    for feature_set in ("egemaps", "captions-extended", "captions"):
        for n in (1, workers):
            options = ("--feature-set", feature_set, "--workers", n)
            command = (REPOSITORY / "features.py", table, "-o", "OUT", *options)
            commands.append((feature_set, n, command))
    found = []
    for name, n, command in commands:
        output = folder / f"{table.stem} {name} {n}.parquet"
        words = (str(output) if word == "OUT" else str(word) for word in command)
        found.append(Method(name, n, tuple(words), output))
    return found


def run(method: Method) -> Time:
    """Run a method without earlier output and return its times."""
    for path in [*method.output.with_suffix(".parts").glob("*"), method.output]:
        path.unlink(missing_ok=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    subprocess.run([sys.executable, *method.command], check=True, capture_output=True)
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Time(processor, wall)


def compare(output: Path, reference: Path) -> str:
    """Return how the values of a method differ from those of opensmile."""
    found, expected = pd.read_parquet(output), pd.read_parquet(reference)
    names = [name for name in expected if name in found]
    ours = found[names].to_numpy(np.float32)
    theirs = expected[names].to_numpy(np.float32)
    same = ours.view(np.int32) == theirs.view(np.int32)
    undefined = np.isnan(ours) & np.isin(theirs, (0, -201))
    spread = np.array(["stddev" in name for name in names])
    wrong = int((~same & ~undefined & ~(np.isnan(ours) & spread)).sum())
    summary = f"{len(names)} columns, {same.size} values: {wrong} differ"
    return summary + (f", {int(np.isnan(ours).sum())} undefined" if np.isnan(ours).any() else "")


def choose(folder: Path, count: int, where: Path) -> tuple[Path, Path, float]:
    """Return a table of files, a table of the first one, and the duration of the others [s].

    The files are spread evenly over the folder. They must be mono at 16 kHz, because opensmile
    reads the first channel only and does not resample.
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
        compared = methods(table, where, options.workers)
        starting = methods(start, where, options.workers)
        rounds = [
            [(run(method), run(first)) for method, first in zip(compared, starting, strict=True)]
            for _ in range(options.rounds)
        ]
        print(f"{options.files} files, {seconds:.0f} s of audio, {options.rounds} rounds")
        report(compared, rounds, seconds)


def spread(ratios: np.ndarray) -> str:
    """Return median, minimum and maximum of the ratios of all rounds."""
    return f"{np.median(ratios):.2f}x ({ratios.min():.2f}-{ratios.max():.2f})"


def report(compared: list[Method], rounds: list[list[tuple[Time, Time]]], seconds: float) -> None:
    """Print a row per method, with ratios to opensmile and to its own single worker.

    Args:
        compared: the methods, opensmile first
        rounds: for each round and method, the times for all files and for one file
        seconds: duration of all files but that one [s]
    """
    times = np.array(
        [[[(t.processor, t.wall) for t in pair] for pair in one] for one in rounds]
    )  # (rounds, methods, all or one file, processor or wall)
    load, wall = np.moveaxis(times[:, :, 0] - times[:, :, 1], 2, 0)  # (rounds, methods) each
    is_reference = [method.name.startswith("opensmile") for method in compared]
    best = wall[:, is_reference].min(axis=1)
    single = {m.name: place for place, m in enumerate(compared) if m.workers == 1}
    head = ("method", "workers", "start", "audio s per processor s", "per core")
    head += ("wall, to best opensmile", "scaling", "values")
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for place, method in enumerate(compared):
        alone = wall[:, single.get(method.name, 0)]
        print(
            f"| {method.name} | {method.workers} | {np.median(times[:, place, 1, 0]):.1f} s "
            f"| {np.median(seconds / load[:, place]):.0f} "
            f"| {spread(load[:, 0] / load[:, place])} | {spread(best / wall[:, place])} "
            f"| {spread(alone / wall[:, place])} | {compare(method.output, compared[0].output)} |"
        )


if __name__ == "__main__":
    main()
