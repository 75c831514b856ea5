"""Speed of template_creation.py on generated features, against plain loops over the rows.

    python -m benchmarks.captions
    python -m benchmarks.captions --rows 1000000 --rounds 5
    python -m benchmarks.captions --large 10000000

The plain loops collect the phrases with pandas' iterrows on the first --plain-rows rows and write
them as one indented JSON file per row, as the script published with the paper does, or as the lines
of one JSON file. Their time excludes reading the table and fitting the edges, that of
template_creation.py includes both; they iterate over the columns of the captions only. All texts
must be equal. --large measures template_creation.py alone, in a process of its own, with its peak
memory.
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
from collections.abc import Callable, Iterator, Sequence
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
FILES, LINES = "one JSON file per row", "one file of JSON lines"
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


def plain_rows(features: Path, rows: int) -> Callable[[], Iterator[tuple[str, list, list]]]:
    """Read the table and fit the edges; return the loop that yields file, captions, descriptors."""
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

    def loop() -> Iterator[tuple[str, list, list]]:
        for (file, *_), row in table.iterrows():
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
            yield file, captions, belongs

    return loop


def write_files(loop: Callable[[], Iterator[tuple[str, list, list]]], folder: Path) -> None:
    """Write one JSON file per row, as the published script does."""
    folder.mkdir(exist_ok=True)
    for file, captions, _ in loop():
        with (folder / f"{os.path.basename(file)}.json").open("w") as stream:
            json.dump(captions, stream, indent=2)


def write_lines(loop: Callable[[], Iterator[tuple[str, list, list]]], path: Path) -> None:
    """Write one JSON line per row to one file."""
    with path.open("w") as stream:
        for _, captions, belongs in loop():
            line = {"captions": captions, "caption_descriptors": belongs}
            stream.write(json.dumps(line) + "\n")


def check_equal(lines: Path, files: Path, output: Path) -> int:
    """Compare the rows of both plain loops with template_creation.py's; return their number.

    Raises:
        RuntimeError: if a row differs.
        ValueError: if template_creation.py wrote fewer rows.
    """
    expected = [json.loads(line) for line in lines.read_text().splitlines()]
    names = ["file", "captions", "caption_descriptors"]
    batches = pq.ParquetFile(output).iter_batches(columns=names)
    ours = (row for batch in batches for row in batch.to_pylist())
    ours = itertools.islice(ours, len(expected))
    for number, (row, other) in enumerate(zip(expected, ours, strict=True)):
        name = os.path.basename(other.pop("file"))
        alone = json.loads((files / f"{name}.json").read_text())
        if row != other or alone != other["captions"]:
            raise RuntimeError(f"row {number} of {output} differs from the plain loop")
    return len(expected)


def compare(rows: int, count: int, rounds: int) -> str:
    """Run all in turns, the plain loops on `count` rows; return a table of rows/s and ratios."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        features, output = folder / "features.parquet", folder / "captions.parquet"
        lines, files = folder / "plain.jsonl", folder / "plain"
        write_features(features, rows)
        loop = plain_rows(features, count)
        variants = {
            FILES: partial(write_files, loop, files),
            LINES: partial(write_lines, loop, lines),
            "ours": partial(template_creation.main, [str(features), "-o", str(output)]),
        }
        with contextlib.redirect_stdout(sys.stderr):
            runs = alternate(variants, rounds)
        about = f"texts of {check_equal(lines, files, output)} rows are equal"
    cells = []
    for name in (FILES, LINES):
        for clock in ("wall", "cpu"):
            plain = np.array([count / getattr(run, clock) for run in runs[name]])
            ours = np.array([rows / getattr(run, clock) for run in runs["ours"]])
            speeds = (f"{median(plain):,.0f}", f"{median(ours):,.0f}")
            cells.append((name, clock, *speeds, spread(ours / plain)))
    speeds = (f"plain, {count} rows: rows/s", f"ours, {rows} rows: rows/s")
    return f"{about}\n\n{markdown_table(('plain loop', 'time', *speeds, 'ratio'), cells)}"


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
    add("--plain-rows", type=int, default=5_000, help="of the plain loops (%(default)s)")
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
