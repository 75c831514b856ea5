"""Measure a corpus: eGeMAPSv02 functionals, duration and quality of every clip, as a parquet file.

    python features.py ravdess=/data/RAVDESS -o features.parquet
    python features.py /data/my-database -o features.parquet --feature-set captions --workers 8
    python features.py /data/my-database -o features.parquet --backend dask --scheduler tcp://n1:8786
    python features.py /data/my-database -o features.parquet --shard 3/100

The file has a row for each clip on the index ``file``, ``start``, ``end``: the labels of the corpus
table, ``quality``, the functionals under openSMILE's own names (Eyben et al., IEEE Trans. Affective
Computing 7(2), 2016), and ``Duration`` [s]. A functional that openSMILE cannot define is NaN.
``quality`` holds flags, e.g. ``resampled:44100;clipped:0.0120;unvoiced``, or is empty.

Clips that could not be measured are left out and listed, with the reason, in
``features.errors.csv`` beside it; clips with equal samples in ``features.duplicates.csv``. The exit
code is 1 if more than --max-reject of the clips failed, or all of them.

Work is cut into parts, each a file in ``features.parts/``. The same command goes on where it was
stopped, measures again what changed, and writes the same bytes for any number of workers, backend
and order. --shard computes some of the parts and does not merge; the command without it does.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from paraclap.acoustics import chunks as parts
from paraclap.acoustics import egemaps, extraction, worker_pool
from paraclap.acoustics.merge import (
    BACKENDS,
    CLUSTER_HINT,
    QUALITY,
    Summary,
    _outcomes,
    beside,
    merge,
    write_listing,
)
from paraclap.audio import SAMPLING_RATE
from paraclap.audio.segments import MAX_SECONDS
from paraclap.corpora import table as corpora

CLIP_SECONDS = 600.0
"""Time after which a clip counts as hanging [s]; ten minutes of sound take about 15 s."""


# --- Command line --------------------------------------------------------------------------------


def _output_path(text: str) -> Path:
    """Return the path of the feature file to write."""
    path = Path(text)
    if path.suffix != ".parquet":
        raise argparse.ArgumentTypeError(f"{text} must end in .parquet")
    return path


def _count(text: str) -> int:
    """Return a whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} must be a whole number from 1")
    return int(text)


def _shard(text: str) -> tuple[int, int]:
    """Return (i, n) of a shard ``i/n``, counted from 1."""
    shard, slash, total = text.partition("/")
    if not (slash and shard.isdecimal() and total.isdecimal() and 1 <= int(shard) <= int(total)):
        raise argparse.ArgumentTypeError(f"{text} must be i/n with i from 1 to n")
    return int(shard), int(total)


def _number(low: float, high: float) -> Callable[[str], float]:
    """Return a reader of numbers in a range."""

    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text} is no number") from error
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"{text} must be from {low:g} to {high:g}")
        return number

    return read


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    sets = "; ".join(f"{name}: {chosen.about}" for name, chosen in egemaps.FEATURE_SETS.items())
    add("source", metavar="SOURCE", help=corpora.SOURCE_FORMS)
    add("-o", "--output", required=True, type=_output_path, metavar="FILE.parquet")
    add("--feature-set", choices=list(egemaps.FEATURE_SETS), default="egemaps", help=sets)
    add("--workers", type=_count, default=os.cpu_count(), help="processes (%(default)s)")
    add(
        "--backend",
        choices=list(BACKENDS),
        default="local",
        help="who runs the parts; dask and ray need requirements-cluster.txt (%(default)s)",
    )
    add(
        "--scheduler", metavar="ADDRESS", help="join this Dask or Ray cluster instead of making one"
    )
    add(
        "--shard", type=_shard, metavar="i/n", help="only every n-th part from the i-th; no merging"
    )
    add(
        "--chunk",
        type=_count,
        metavar="CLIPS",
        help="clips of a part, about; by default 16 to 128, by the size of the corpus",
    )
    add(
        "--split-long",
        type=_number(1, MAX_SECONDS),
        metavar="SECONDS",
        help="cut what is longer than 600 s into rows of equal length, at most so long; without "
        "it, such clips are refused as too_long",
    )
    add(
        "--timeout",
        type=_number(0.1, 1e6),
        default=CLIP_SECONDS,
        metavar="SECONDS",
        help="longest time for a clip (%(default)g)",
    )
    add(
        "--max-reject",
        type=_number(0, 1),
        default=0.01,
        metavar="SHARE",
        help="exit code 1 if more than this share of the clips failed (%(default)g)",
    )
    return parser.parse_args(arguments)  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Measure a corpus as the command line says and return the exit code."""
    table = corpora.read_corpus(options.source)
    names = [QUALITY, *worker_pool.feature_names(options.feature_set), parts.DURATION]
    clashes = table.columns.intersection(names)
    if len(clashes):
        raise corpora.CorpusError(f"the table has columns {list(clashes)}, which are features")
    folder = beside(options.output, "parts")
    folder.mkdir(parents=True, exist_ok=True)
    job = parts.Job(
        root=str(Path(table.attrs["root"]).absolute()),
        folder=str(folder.absolute()),
        feature_set=options.feature_set,
        longest=options.split_long,
        timeout=options.timeout,
        versions=extraction.versions(),
    )
    chunks = parts.chunks(table.index.get_level_values("file").tolist(), options.chunk)
    shard, total = options.shard or (1, 1)
    outcomes = _outcomes(job, table, chunks[shard - 1 :: total], options)
    print(
        f"{folder}: {sum(o.measured for o in outcomes)} parts measured, "
        f"{sum(not o.measured for o in outcomes)} were there"
    )
    if options.shard:
        return 0
    paths = [outcome.path for outcome in outcomes]
    summary = merge(table, chunks, paths, options.output, _about(table, options))
    parts.remove_others(Path(job.folder), set(paths))
    write_listing(summary.errors, beside(options.output, "errors.csv"))
    write_listing(summary.duplicates, beside(options.output, "duplicates.csv"))
    return _report(options, summary, len(table), sum(outcome.failed for outcome in outcomes))


def _about(table: pd.DataFrame, options: argparse.Namespace) -> dict[str, Any]:
    """Return what the metadata of the merged file says; nothing that differs between two runs."""
    return {
        **{key: table.attrs.get(key) for key in ("name", "root", "corpus")},
        "feature_set": options.feature_set,
        "derived_from": "eGeMAPSv02 functionals",
        "sampling_rate": SAMPLING_RATE,
        "split_long": options.split_long,
        **extraction.versions(),
    }


def _report(options: argparse.Namespace, summary: Summary, clips: int, failed: int) -> int:
    """Tell what was written and what is missing, and return the exit code."""
    print(f"{options.output}: {clips - failed} of {clips} clips, {summary.measured} rows")
    if len(summary.duplicates):
        twins = summary.duplicates
        leaks = 0
        if "split" in twins:
            leaks = int(twins.groupby("digest")["split"].transform("nunique").gt(1).sum())
        print(
            f"{len(twins)} clips have the same samples as another, {leaks} of them one in another "
            f"split, see {beside(options.output, 'duplicates.csv')}",
            file=sys.stderr,
        )
    if len(summary.errors):
        reasons = ", ".join(
            f"{count} {error}" for error, count in summary.errors["error"].value_counts().items()
        )
        print(
            f"{len(summary.errors)} rows could not be measured ({reasons}), "
            f"see {beside(options.output, 'errors.csv')}; the others are written",
            file=sys.stderr,
        )
    return 1 if failed > options.max_reject * clips or not summary.measured else 0


def main(arguments: list[str] | None = None) -> int:
    """Measure a corpus and return the exit code."""
    options = parse_arguments(arguments)
    try:
        return run(options)
    except ModuleNotFoundError as error:
        print(f"features.py: {error}; --backend {options.backend}: {CLUSTER_HINT}", file=sys.stderr)
    except (corpora.CorpusError, parts.PartError, worker_pool.ChildError, OSError) as error:
        print(f"features.py: {error}", file=sys.stderr)
    finally:
        worker_pool.stop_children()
    return 1
