"""Extract the eGeMAPSv02 functionals, duration and quality flags of every clip of a corpus.

    python features.py ravdess=/data/RAVDESS -o features.parquet
    python features.py /data/my-database -o features.parquet --feature-set captions --workers 8
    python features.py /data/my-database -o features.parquet --backend dask --scheduler tcp://n1:8786
    python features.py /data/my-database -o features.parquet --shard 3/100

The output has one row per clip on the index ``file``, ``start``, ``end``: the labels of the corpus
table, ``quality``, the functionals under openSMILE's names (Eyben et al., IEEE Trans. Affective
Computing 7(2), 2016), and ``Duration`` [s]. Functionals that are undefined, such as the pitch of an
unvoiced clip, are NaN. ``quality`` holds flags, e.g. ``resampled:44100;clipped:0.0120;unvoiced``,
or is empty.

Clips that cannot be measured are skipped and listed with the reason in ``features.errors.csv``;
clips with equal samples are listed in ``features.duplicates.csv``. The exit code is 1 if more than
--max-reject of the clips failed, or all of them, and 75 after SIGTERM or SIGUSR1.

The corpus is divided into chunks, each a file in ``features.parts/``. The same command continues an
interrupted run, measures changed files again, and writes the same bytes for any number of workers
and any backend. --shard measures some of the chunks without merging; run the command without it to
merge.
"""

import argparse

from paraclap.acoustics.feature_sets import FEATURE_SETS
from paraclap.audio.segments import MAX_SECONDS
from paraclap.cli.options import number, output_file, workers
from paraclap.cores import usable_cores
from paraclap.corpora import SOURCE_FORMS
from paraclap.corpora.options import add_table_options
from paraclap.files import refuse_overwriting
from paraclap.signals import stopping

BACKENDS = ("local", "dask", "ray")
CLIP_SECONDS = 600.0
"""Default time limit of a clip [s]; ten minutes of audio take about 15 s."""


def _shard(text: str) -> tuple[int, int]:
    """Return (i, n) of a shard ``i/n``, counted from 1."""
    shard, slash, total = text.partition("/")
    if not (slash and shard.isdecimal() and total.isdecimal() and 1 <= int(shard) <= int(total)):
        raise argparse.ArgumentTypeError(f"{text} must be i/n with i from 1 to n")
    return int(shard), int(total)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, count = parser.add_argument, number(1, 1e6, int)
    sets = "; ".join(f"{name}: {chosen.about}" for name, chosen in FEATURE_SETS.items())
    add("source", metavar="SOURCE", help=SOURCE_FORMS)
    add_table_options(parser)
    add("-o", "--output", required=True, type=output_file(".parquet"), metavar="FILE.parquet")
    add("--feature-set", choices=list(FEATURE_SETS), default="egemaps", help=sets)
    processes = "processes; auto = as many as cores (%(default)s)"
    add("--workers", type=workers(1, usable_cores), default="auto", help=processes)
    backends = 'where chunks are measured; dask and ray need pip install "paraclap[cluster]"'
    add("--backend", choices=BACKENDS, default="local", help=f"{backends} (%(default)s)")
    add("--scheduler", metavar="ADDRESS", help="of a running Dask or Ray cluster, instead of a new")
    add("--shard", type=_shard, metavar="i/n", help="measure every n-th chunk from the i-th only")
    sizes = "approximate number of clips per chunk; by default 16 to 128, by size of the corpus"
    add("--chunk", type=count, metavar="CLIPS", help=sizes)
    split = "cut clips longer than 600 s into equal windows of at most this length, one row each"
    long = f"{split}; without it, such clips are rejected as too_long"
    add("--split-long", type=number(1, MAX_SECONDS, float), metavar="SECONDS", help=long)
    limit = "time limit of a clip (%(default)g)"
    add(
        "--timeout",
        type=number(0.1, 1e6, float),
        default=CLIP_SECONDS,
        metavar="SECONDS",
        help=limit,
    )
    share = "exit code 1 if a larger share of the clips failed (%(default)g)"
    add("--max-reject", type=number(0, 1, float), default=0.01, metavar="SHARE", help=share)
    options = parser.parse_args(arguments)
    if options.scheduler and options.backend == "local":
        parser.error("--scheduler needs --backend dask or ray")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Write the features of a corpus and return the exit code."""
    with stopping("stopped, repeat the same command to continue"):
        return _extract(parse_arguments(arguments))


def _extract(arguments: argparse.Namespace) -> int:
    options = vars(arguments)
    # Imported here because pandas, pyarrow and audformat take a second.
    from paraclap.acoustics.features import FeatureSettings, print_summary, write_features
    from paraclap.acoustics.worker_pool import stop_workers
    from paraclap.corpora.table import read_corpus

    source, max_reject = options.pop("source"), options.pop("max_reject")
    table = read_corpus(source, options.pop("root"), options.pop("columns"))
    refuse_overwriting(options["output"], [source])
    try:
        summary = write_features(table, FeatureSettings(**options))
    finally:
        stop_workers()
    if summary is None:
        return 0
    print_summary(summary, len(table), options["output"])
    return 1 if summary.failed > max_reject * len(table) or not summary.measured else 0
