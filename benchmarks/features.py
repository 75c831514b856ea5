"""Speed of features.py compared with opensmile's own ``Smile(...).process_files``.

    python -m benchmarks.features /data/RAVDESS --files 240 --rounds 3
    python -m benchmarks.features --growth 50000

Every variant runs in a process of its own. Start-up (imports and the first clip, 1 to 3 s) is
excluded: in each round, each variant also measures a single file, whose time is subtracted. "per
core" is the ratio of CPU time to that of opensmile with one worker, "wall time" the ratio to the
fastest opensmile; median and range over the rounds. Values are compared bit by bit.

--growth measures the command on generated WAV files of 0.3 s, on a tenth of them and on all: peak
memory of the main process and of the largest worker (on Linux), and CPU time per clip, start-up
included.
"outside openSMILE" is the share of it not spent in openSMILE, whose time per clip is that of
`Extractor.measure` on 500 of the files in the process of the benchmark.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
import soundfile

from benchmarks.report import command_line, parse, report
from benchmarks.timing import Run, alternate, markdown_table, spread
from paraclap.acoustics import egemaps
from paraclap.audio import SAMPLING_RATE

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
        multiprocessing=processes == "processes",
    )
    smile.process_files(pd.read_csv(table)["path"].tolist()).to_parquet(output)
"""
"""Extraction with opensmile alone."""
MEASURED = """
import resource
import sys
sys.path.insert(0, sys.argv.pop(1))
from benchmarks.memory import process_memory
from paraclap.acoustics.worker_pool import Worker
from paraclap.cli import features

peaks = [0.0]
stop = Worker.stop

def measured_stop(worker, patience=0.0):
    peaks.append(process_memory("VmHWM", worker.process.pid))
    stop(worker, patience)

if __name__ == "__main__":
    Worker.stop = measured_stop
    code = features.main(sys.argv[1:])
    found = {resource.RUSAGE_SELF: process_memory("VmHWM"), resource.RUSAGE_CHILDREN: max(peaks)}
    for who, memory in found.items():
        usage = resource.getrusage(who)
        print(memory, usage.ru_utime + usage.ru_stime)
    sys.exit(code)
"""
"""features.py, whose last two lines are memory [bytes] and CPU time [s] of itself
and of its workers."""
MIB = 2**20
SHORT, SAMPLED = 0.3, 500  # length of generated clips [s], and how many openSMILE alone measures
Variant = tuple[str, int]
"""Name and number of workers."""


def command(variant: Variant, table: Path, output: Path) -> list[str]:
    """Return the command of a variant."""
    name, workers = variant
    if name.startswith("opensmile"):
        kind = name.rpartition(" ")[2]
        return [sys.executable, "-c", OPENSMILE, str(table), str(output), str(workers), kind]
    options = ["--feature-set", name, "--workers", str(workers)]
    return [
        sys.executable,
        str(REPOSITORY / "features.py"),
        str(table),
        "-o",
        str(output),
        *options,
    ]


def output_of(variant: Variant, table: Path) -> Path:
    """Return the file that a variant writes for a table."""
    return table.with_name(f"{table.stem} {variant[0]} {variant[1]}.parquet")


def extract(variant: Variant, table: Path, output: Path) -> None:
    """Run a variant without earlier output."""
    for path in [*output.with_suffix(".parts").glob("*"), output]:
        path.unlink(missing_ok=True)
    subprocess.run(command(variant, table, output), check=True, capture_output=True)


def compare(output: Path, reference: Path) -> str:
    """Return how the values of a variant differ from those of opensmile."""
    found, expected = pd.read_parquet(output), pd.read_parquet(reference)
    names = [name for name in expected if name in found]
    ours = found[names].to_numpy(np.float32)
    theirs = expected[names].to_numpy(np.float32)
    same = ours.view(np.int32) == theirs.view(np.int32)
    undefined = np.isnan(ours) & np.isin(theirs, (0, -201))
    deviations = np.array(["stddev" in name for name in names])
    wrong = int((~same & ~undefined & ~(np.isnan(ours) & deviations)).sum())
    summary = f"{len(names)} columns, {same.size} values: {wrong} differ"
    return summary + (f", {int(np.isnan(ours).sum())} undefined" if np.isnan(ours).any() else "")


def choose(folder: Path, count: int, copies: Path) -> pd.DataFrame:
    """Copy files that are spread evenly over a folder; return `file`, `path` and `seconds`.

    They must be mono at 16 kHz: opensmile reads the first channel only and does not resample.
    """
    paths = sorted(p for s in ("wav", "flac") for p in folder.rglob(f"*.{s}"))
    rows = []
    for number, path in enumerate(paths[:: max(1, len(paths) // count)][:count]):
        info = soundfile.info(path)
        if (info.samplerate, info.channels) != (16_000, 1):
            sys.exit(f"{path} has {info.channels} channels at {info.samplerate} Hz, not 1 at 16000")
        copy = copies / f"{number:05}{path.suffix}"
        shutil.copyfile(path, copy)
        rows.append({"file": copy.name, "path": str(copy), "seconds": info.duration})
    if len(rows) < 2:
        sys.exit(f"{folder} holds {len(rows)} WAV or FLAC files, expected at least 2")
    return pd.DataFrame(rows)


def write_clips(folder: Path, count: int) -> None:
    """Write short voiced clips, which all differ."""
    generator = np.random.default_rng(0)
    times = np.arange(round(SHORT * SAMPLING_RATE)) / SAMPLING_RATE
    for number in range(count):
        pitch, noise = generator.uniform(80, 300), generator.standard_normal(len(times))
        phases = 2 * np.pi * pitch * np.outer(np.arange(1, 11), times)
        waveform = np.sin(phases).sum(axis=0) / 20 + 0.01 * noise
        path = folder / f"{number // 1000:03}" / f"{number:06}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, waveform, SAMPLING_RATE)


def opensmile_seconds(folder: Path, feature_set: str) -> float:
    """Return the CPU time of openSMILE per clip of a folder [s]."""
    extractor, paths = egemaps.Extractor(feature_set), sorted(folder.rglob("*.wav"))[:SAMPLED]
    clips = [soundfile.read(path, dtype="int16")[0] for path in paths]
    extractor.measure(clips[0])
    start = time.thread_time()
    for clip in clips:
        extractor.measure(clip)
    return (time.thread_time() - start) / len(clips)


def growth(count: int, workers: int) -> str:
    """Return a table of memory and CPU time by number of clips and feature set."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for clips in (max(1, count // 10), count):
            write_clips(folder := Path(name, str(clips)), clips)
            for feature_set in ("egemaps", "captions"):
                output = Path(name, f"{clips} {feature_set}.parquet")
                options = ["-o", output, "--feature-set", feature_set, "--workers", str(workers)]
                words = [sys.executable, "-c", MEASURED, REPOSITORY, folder, *options]
                found = subprocess.run(words, check=True, capture_output=True, text=True).stdout
                (main, own), (worker, other) = (
                    map(float, line.split()) for line in found.splitlines()[-2:]
                )
                spent, inside = (own + other) / clips, opensmile_seconds(folder, feature_set)
                memory = (f"{main / MIB:.0f}", f"{worker / MIB:.0f}")
                times = (f"{1000 * spent:.2f}", f"{1000 * own / clips:.2f}", f"{1000 * inside:.2f}")
                rows.append((feature_set, clips, *memory, *times, f"{1 - inside / spent:.0%}"))
    head = ("main [MiB]", "worker [MiB]", "CPU ms per clip", "of main", "of openSMILE")
    return markdown_table(("feature set", "clips", *head, "outside openSMILE"), rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = command_line(__doc__, __spec__.name)
    parser.add_argument("folder", type=Path, nargs="?", help="WAV or FLAC, 16 kHz, mono")
    parser.add_argument("--growth", type=int, metavar="CLIPS", help="generated clips instead")
    parser.add_argument("--files", type=int, default=240, help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="(%(default)s)")
    options = parse(parser, arguments)
    n = options.workers
    if options.growth:
        text = growth(options.growth, n)
        return report(f"Features, {options.growth} short clips", f"{n} workers\n\n{text}", options)
    if not options.folder:
        parser.error("expected a folder or --growth CLIPS")
    reference = ("opensmile", 1)
    variants = [reference, ("opensmile, threads", n), ("opensmile, processes", n)]
    for feature_set in ("egemaps", "captions-extended", "captions"):
        variants += [(feature_set, 1), (feature_set, n)]
    with tempfile.TemporaryDirectory() as name:
        copies = Path(name)
        files = choose(options.folder, options.files, copies)
        calls = {}
        for part, rows in (("start", files[:1]), ("all", files)):
            rows.to_csv(table := copies / f"{part}.csv", index=False)
            for variant in variants:
                calls[variant, part] = partial(extract, variant, table, output_of(variant, table))
        runs = alternate(calls, options.rounds)
        expected = output_of(reference, table)
        values = {variant: compare(output_of(variant, table), expected) for variant in variants}
    seconds = files["seconds"][1:].sum()
    about = f"{len(files)} files, {seconds:.0f} s of audio, {options.rounds} rounds"
    report("Features", f"{about}\n\n{table_of(runs, variants, seconds, values)}", options)


def table_of(
    runs: dict[tuple[Variant, str], list[Run]],
    variants: Sequence[Variant],
    seconds: float,
    values: dict[Variant, str],
) -> str:
    """Return a row per variant; the first one is the reference of the CPU time."""
    cpu, wall = (
        {
            variant: np.array([getattr(run, clock) for run in runs[variant, "all"]])
            - [getattr(run, clock) for run in runs[variant, "start"]]
            for variant in variants
        }
        for clock in ("cpu", "wall")
    )
    best = np.min([wall[v] for v in variants if v[0].startswith("opensmile")], axis=0)
    rows = []
    for variant in variants:
        start = f"{median(run.wall for run in runs[variant, 'start']):.1f} s"
        speed = f"{median(seconds / cpu[variant]):.0f}"
        ratios = (spread(cpu[variants[0]] / cpu[variant]), spread(best / wall[variant]))
        rows.append((*variant, start, speed, *ratios, values[variant]))
    head = ("variant", "workers", "start", "audio s per CPU s", "per core", "wall time", "values")
    return markdown_table(head, rows)


if __name__ == "__main__":
    main()
