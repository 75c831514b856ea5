"""Speed of template_creation.py on generated features, against a plain loop over the rows.

    python -m benchmarks.captions
    python -m benchmarks.captions --rows 1000000 --plain-rows 20000 --repeat 5
    TMPDIR=/dev/shm python -m benchmarks.captions
    python -m benchmarks.captions --large 10000000

The plain loop uses pandas' iterrows on the first --plain-rows rows, collects the phrases and writes
one JSON file per row; its time excludes reading the table and fitting the edges. The time of
template_creation.py includes both. The two run in turns, and their texts must be equal. The last
lines are ratios of rows/s, as the median over the turns and the range: by wall-clock time, where
template_creation.py may use two cores, and by CPU time, which depends less on other programs.

On ext4, creating files takes ten times as long within minutes after many others were deleted, for
example by an earlier run. TMPDIR=/dev/shm avoids this.

--large measures template_creation.py alone, in its own process, with its peak memory.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from paraclap.captions.levels import QUANTILES
from paraclap.captions.tables import INDEX
from paraclap.captions.templates import LEVELS, default_descriptors, phrases_of
from paraclap.cli import template_creation

EMOTIONS = ("anger", "boredom", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
CHUNK = 500_000  # rows generated at a time
UNVOICED = 0.1  # share of clips
SPEAKERS = 200
MEANS = {"Duration": 3.0, "equivalentSoundLevel_dBp": -30.0}  # others are about 1
MIB = 2**20
SCRIPT = Path(__file__).parents[1] / "preprocessing" / "template_creation.py"


def generate(first: int, rows: int) -> pa.Table:
    """Return rows of a feature table, a function of `first` and `rows` alone."""
    generator = np.random.default_rng([first, rows])
    numbers = np.arange(first, first + rows)
    speakers = generator.integers(SPEAKERS, size=rows)
    files = [f"speaker_{s:03d}/clip_{n:09d}.wav" for s, n in zip(speakers, numbers, strict=True)]
    table = pd.DataFrame(
        {
            "emotion": pd.Categorical.from_codes(generator.integers(8, size=rows), EMOTIONS),
            "gender": np.where(speakers % 2, "female", "male"),
            "speaker": [f"{speaker:03d}" for speaker in speakers],
            "split": np.where(speakers % 10, "train", "test"),
        },
        index=pd.MultiIndex.from_arrays(
            [files, np.zeros(rows, "m8[us]"), np.full(rows, "NaT", "m8[us]")], names=INDEX
        ),
    ).astype({"emotion": "str"})
    voiced = generator.random(rows) >= UNVOICED
    for descriptor in default_descriptors():
        ratings = ("arousal", "valence", "dominance")
        if descriptor.kind == "level" and descriptor.name not in ratings:
            values = MEANS.get(descriptor.column, 1.0) + 0.3 * generator.standard_normal(rows)
            values[~voiced & descriptor.voiced] = np.nan
            table[descriptor.column] = values.astype(np.float32)
    return pa.Table.from_pandas(table)


def write_features(path: Path, rows: int) -> None:
    """Write a generated feature table in chunks, so that it may be large."""
    firsts = range(0, rows, CHUNK)
    with pq.ParquetWriter(path, generate(0, 1).schema) as writer:
        for first in firsts:
            writer.write_table(generate(first, min(CHUNK, rows - first)))


def plain(
    table: pd.DataFrame,
    edges: dict[str, tuple[float, float]],
    phrases: dict[str, dict[str, tuple[str, ...]]],
    columns: dict[str, str],
    folder: Path,
) -> None:
    """Write the captions of each row as one JSON file, in a plain loop.

    Args:
        table: features, undefined values NaN
        edges: descriptor -> low and high
        phrases: descriptor -> level or label -> wordings
        columns: descriptor -> column
        folder: to write to
    """
    for number, (_, row) in enumerate(table.iterrows()):
        captions, belongs = [], []
        for name, column in columns.items():
            value = row[column]
            if name in edges:
                if np.isnan(value):
                    continue
                low, high = edges[name]
                value = "low" if value <= low else "high" if value >= high else "normal"
            for phrase in phrases[name][value]:
                captions.append(phrase)
                belongs.append(name)
        with open(folder / f"{number:09d}.json", "w") as file:
            json.dump({"captions": captions, "caption_descriptors": belongs}, file)


def rates(rows: int, work: Callable[[], None]) -> tuple[float, float]:
    """Return the rows per second of wall-clock time and of CPU time."""
    start = time.perf_counter(), time.process_time()
    work()
    return rows / (time.perf_counter() - start[0]), rows / (time.process_time() - start[1])


def time_plain(features: Path, rows: int, folder: Path) -> tuple[float, float]:
    """Return the rates of the plain loop, without reading the table and fitting edges."""
    selected = [d for d in default_descriptors() if d.default]
    whole = pd.read_parquet(features)
    selected = [d for d in selected if d.column in whole]
    training = whole[whole["split"] == "train"]
    measured = [d for d in selected if d.kind == "level"]
    edges = {
        d.name: tuple(np.quantile(training[d.column].dropna().astype(float), QUANTILES))
        for d in measured
    }
    phrases = {
        d.name: {
            value: phrases_of(d, value)
            for value in (LEVELS if d.kind == "level" else whole[d.column].unique())
        }
        for d in selected
    }
    columns = {d.name: d.column for d in selected}
    table = whole[[*columns.values()]].head(rows)
    table.index = table.index.remove_unused_levels()  # iterrows would look at those of all rows
    del whole, training
    return rates(len(table), lambda: plain(table, edges, phrases, columns, folder))


def time_ours(features: Path, rows: int, output: Path) -> tuple[float, float]:
    """Return the rates of the whole command in this process."""
    return rates(rows, lambda: template_creation.main([str(features), "-o", str(output)]))


def check_equal(output: Path, folder: Path) -> int:
    """Return the number of rows, all of which have equal texts in both outputs.

    Raises:
        RuntimeError: if a row differs
        ValueError: if template_creation.py wrote fewer rows
    """
    names = ["captions", "caption_descriptors"]
    written = sorted(folder.iterdir())
    batches = pq.ParquetFile(output).iter_batches(columns=names)
    ours = (row for batch in batches for row in batch.to_pylist())
    for path, row in zip(written, itertools.islice(ours, len(written)), strict=True):
        if json.loads(path.read_text()) != row:
            raise RuntimeError(f"{path.name} differs from its row in {output}")
    return len(written)


def compare(rows: int, plain_rows: int, repeat: int) -> tuple[np.ndarray, int]:
    """Return rows/s (turns, plain or ours, wall or CPU), and the number of equal texts."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        features, output = folder / "features.parquet", folder / "captions.parquet"
        write_features(features, rows)
        speeds = []
        for turn in range(repeat):
            files = folder / f"plain{turn}"
            files.mkdir()
            pair = time_plain(features, plain_rows, files), time_ours(features, rows, output)
            speeds.append(pair)
            print(f"turn {turn + 1}: plain {pair[0][0]:,.0f}, ours {pair[1][0]:,.0f} rows/s")
        equal = check_equal(output, files)
    return np.array(speeds), equal


def report(speeds: np.ndarray, equal: int, options: argparse.Namespace) -> None:
    """Print the medians and ratios of `compare`."""
    print(f"texts of {equal} of {equal} rows are equal")
    for clock, name in enumerate(("rows/s", "rows/s of CPU time")):
        theirs, ours = speeds[..., clock].T
        ratios = ours / theirs
        print(
            f"{name}: plain {np.median(theirs):,.0f} ({options.plain_rows} rows), ours "
            f"{np.median(ours):,.0f} ({options.rows} rows), "
            f"ratio {np.median(ratios):.0f} ({ratios.min():.0f} to {ratios.max():.0f})"
        )


def measure_large(rows: int, options: Sequence[str]) -> None:
    """Print rows/s and peak memory of template_creation.py in its own process."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        features, output = folder / "features.parquet", folder / "captions.parquet"
        # in its own process: the peak memory of a process starts at that of its parent
        generating = multiprocessing.get_context("spawn").Process(
            target=write_features, args=(features, rows)
        )
        generating.start()
        generating.join()
        print(f"{features.name}: {rows} rows, {features.stat().st_size / MIB:,.0f} MiB")
        start = time.perf_counter()
        command = [sys.executable, SCRIPT, features, "-o", output, *options]
        _, status, usage = os.wait4(subprocess.Popen(command).pid, 0)
        seconds = time.perf_counter() - start
        if status:
            raise RuntimeError(f"template_creation.py failed on {features}")
        peak = usage.ru_maxrss / (MIB if sys.platform == "darwin" else 1024)  # bytes or KiB
        groups = pq.ParquetFile(output).metadata.num_row_groups
        size = output.stat().st_size / MIB
        print(f"{output.name}: {groups} row groups, {size:,.0f} MiB")
        print(f"{rows / seconds:,.0f} rows/s, peak memory {peak:,.0f} MiB")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rows", type=int, default=100_000, help="of the table (%(default)s)")
    add("--plain-rows", type=int, default=5_000, help="of the plain loop (%(default)s)")
    add("--repeat", type=int, default=3, help="turns (%(default)s)")
    add("--large", type=int, metavar="ROWS", help="measure template_creation.py alone")
    add("--options", nargs=argparse.REMAINDER, default=[], help="for template_creation.py, last")
    options = parser.parse_args(arguments)
    if options.large:
        measure_large(options.large, options.options)
        return
    speeds, equal = compare(options.rows, options.plain_rows, options.repeat)
    report(speeds, equal, options)


if __name__ == "__main__":
    main()
