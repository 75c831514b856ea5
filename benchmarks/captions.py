"""Speed of template_creation.py on generated features, against a plain loop over the rows.

    python -m benchmarks.captions
    python -m benchmarks.captions --rows 1000000 --rounds 5
    python -m benchmarks.captions --large 10000000

The plain loop collects the phrases with pandas' iterrows on the first --plain-rows rows and writes
them as JSON lines; its time excludes reading the table and fitting the edges, that of
template_creation.py includes both. Their texts must be equal. --large measures template_creation.py
alone, in a process of its own, with its peak memory.
"""

import contextlib
import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.report import command_line, parse, report
from benchmarks.timing import alternate, markdown_table, spread
from paraclap.captions.edges import QUANTILES
from paraclap.captions.sources import INDEX
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
            "emotion": np.array(EMOTIONS, object)[generator.integers(8, size=rows)],
            "gender": np.where(speakers % 2, "female", "male"),
            "speaker": [f"{speaker:03d}" for speaker in speakers],
            "split": np.where(speakers % 10, "train", "test"),
        },
        index=pd.MultiIndex.from_arrays(
            [files, np.zeros(rows, "m8[us]"), np.full(rows, "NaT", "m8[us]")], names=INDEX
        ),
    )
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
    with pq.ParquetWriter(path, generate(0, 1).schema) as writer:
        for first in range(0, rows, CHUNK):
            writer.write_table(generate(first, min(CHUNK, rows - first)))


def plain_loop(features: Path, rows: int, output: Path) -> Callable[[], None]:
    """Read the table and fit the edges; return the loop that writes the captions."""
    whole = pd.read_parquet(features)
    selected = [d for d in default_descriptors() if d.default and d.column in whole]
    training = whole[whole["split"] == "train"]
    edges = {
        d.name: np.quantile(training[d.column].dropna().astype(float), QUANTILES)
        for d in selected
        if d.kind == "level"
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

    def loop() -> None:
        with output.open("w") as file:
            for _, row in table.iterrows():
                captions, belongs = [], []
                for name, column in columns.items():
                    value = row[column]
                    if name in edges:
                        if np.isnan(value):
                            continue
                        low, high = edges[name]
                        value = "low" if value <= low else "high" if value >= high else "normal"
                    captions += phrases[name][value]
                    belongs += [name] * len(phrases[name][value])
                line = {"captions": captions, "caption_descriptors": belongs}
                file.write(json.dumps(line) + "\n")

    return loop


def check_equal(written: Path, output: Path) -> int:
    """Compare the rows of the plain loop with those of template_creation.py; return their number.

    Raises:
        RuntimeError: if a row differs.
        ValueError: if template_creation.py wrote fewer rows.
    """
    expected = [json.loads(line) for line in written.read_text().splitlines()]
    batches = pq.ParquetFile(output).iter_batches(columns=["captions", "caption_descriptors"])
    ours = (row for batch in batches for row in batch.to_pylist())
    ours = itertools.islice(ours, len(expected))
    for number, (row, other) in enumerate(zip(expected, ours, strict=True)):
        if row != other:
            raise RuntimeError(f"row {number} of {output} differs from the plain loop")
    return len(expected)


def compare(rows: int, plain_rows: int, rounds: int) -> str:
    """Run both in turns; return a table of rows/s and their ratio."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        features, output = folder / "features.parquet", folder / "captions.parquet"
        written = folder / "plain.jsonl"
        write_features(features, rows)
        command = [str(features), "-o", str(output)]
        variants = {
            "plain": plain_loop(features, plain_rows, written),
            "ours": partial(template_creation.main, command),
        }
        with contextlib.redirect_stdout(sys.stderr):
            runs = alternate(variants, rounds)
        about = f"texts of {check_equal(written, output)} rows are equal"
    cells = []
    for clock in ("wall", "cpu"):
        plain = np.array([plain_rows / getattr(run, clock) for run in runs["plain"]])
        ours = np.array([rows / getattr(run, clock) for run in runs["ours"]])
        cells.append((clock, f"{median(plain):,.0f}", f"{median(ours):,.0f}", spread(ours / plain)))
    head = ("time", f"plain, {plain_rows} rows: rows/s", f"ours, {rows} rows: rows/s", "ratio")
    return f"{about}\n\n{markdown_table(head, cells)}"


def measure_large(rows: int) -> str:
    """Return rows/s and peak memory of template_creation.py in its own process."""
    with tempfile.TemporaryDirectory() as temporary:
        features, output = Path(temporary, "features.parquet"), Path(temporary, "captions.parquet")
        # in its own process: the peak memory of a process starts at that of its parent
        generating = multiprocessing.get_context("spawn").Process(
            target=write_features, args=(features, rows)
        )
        generating.start()
        generating.join()
        start = time.perf_counter()
        command = [sys.executable, SCRIPT, features, "-o", output]
        _, status, usage = os.wait4(subprocess.Popen(command).pid, 0)
        seconds = time.perf_counter() - start
        if status:
            raise RuntimeError(f"template_creation.py failed on {features}")
        peak = usage.ru_maxrss / (MIB if sys.platform == "darwin" else 1024)  # bytes or KiB
        speed, size = f"{rows / seconds:,.0f}", f"{output.stat().st_size / MIB:,.0f}"
        head = ("rows", "rows/s", "peak memory [MiB]", "captions [MiB]")
        return markdown_table(head, [(rows, speed, f"{peak:,.0f}", size)])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = command_line(__doc__, __spec__.name)
    add = parser.add_argument
    add("--rows", type=int, default=100_000, help="of the table (%(default)s)")
    add("--plain-rows", type=int, default=5_000, help="of the plain loop (%(default)s)")
    add("--rounds", type=int, default=3, help="(%(default)s)")
    add("--large", type=int, metavar="ROWS", help="measure template_creation.py alone")
    options = parse(parser, arguments)
    if options.large:
        report(f"Captions, {options.large} rows alone", measure_large(options.large), options)
    else:
        text = compare(options.rows, options.plain_rows, options.rounds)
        report(f"Captions, {options.rows} rows", text, options)


if __name__ == "__main__":
    main()
