"""Embed the clips of a corpus, or of a folder of recordings, into a table.

    python -m paraclap.embed recordings/ -o embeddings.parquet            # the installed model
    python -m paraclap.embed runs/small ravdess=/data/RAVDESS -o embeddings.parquet
    python -m paraclap.embed runs/small segments.csv --root recordings/ -o embeddings.parquet
    python -m paraclap.embed meetings/ --windows 3 --hop 1 -o windows.parquet

SOURCE is NAME=ROOT of a known corpus, an audformat database, a table beside its audio, a folder of
audio, or of shards. The output has one row per clip on audformat's segmented index (``file``
relative to the root, ``start``, ``end``), and one float column per dimension, "0", "1", ...; rows
have unit length. Labels are joined by the index.

Clips that cannot be read, or are longer than the input of the encoder, are skipped and listed with
the reason in ``embeddings.errors.csv``; silent and unvoiced clips are embedded, and listed in
``embeddings.quality.csv``. The exit code is 1 if a clip was skipped, and 75 after SIGTERM or
SIGUSR1. --windows SECONDS embeds the windows of longer clips, one row each: they start every --hop
seconds, and a last one ends with the clip.

Clips are embedded in chunks, each a file in ``embeddings.parts/``, so memory does not grow with
their number. The same command continues an interrupted run, embeds changed files again, and writes
the same bytes. If the speech encoder was not trained, as in the installed model, it shares its
cache with evaluate.py.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from paraclap.audio.segments import WindowError
from paraclap.cli.options import batch_seconds, number, output_file, path_of, with_default_model
from paraclap.corpora import SOURCE_FORMS
from paraclap.corpora.options import add_table_options
from paraclap.files import default_cache, make_folder, refuse_overwriting
from paraclap.inference.limits import check_windows
from paraclap.model.sources import ENGINES, PRECISIONS, check_source, find_model
from paraclap.settings import BATCH_SECONDS
from paraclap.signals import stopping


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the embeddings of a source and return the exit code."""
    with stopping("stopped, repeat the same command to continue"):
        return _embed(_parse(arguments))


def _embed(options: argparse.Namespace) -> int:
    if options.engine == "onnx":
        check_source(options.model)
    from paraclap.acoustics.merge import beside
    from paraclap.corpora.table import read_corpus, split_source
    from paraclap.parquet import EMBEDDINGS, LISTINGS, check_kind

    table = read_corpus(options.source, options.root, options.columns)
    for path in (options.output, *map(partial(beside, options.output), LISTINGS)):
        refuse_overwriting(path, [split_source(options.source)[1]])
    make_folder(options.output.parent)
    check_kind(options.output, EMBEDDINGS, "table of embeddings")
    # torch and transformers take seconds to import: after arguments and corpus are checked.
    from paraclap.distributed import device_named
    from paraclap.evaluation.encoded import open_cache
    from paraclap.inference.embeddings import cut_into_windows, write_embeddings
    from paraclap.model.engines import load_engine
    from paraclap.model.hashes import weights_hash

    runs_on_cpu = options.device == "auto" and options.engine == "onnx"
    device = device_named("cpu" if runs_on_cpu else options.device)
    parts = load_engine(options.model, options.engine, options.precision, str(device))
    if options.windows is not None:
        table = cut_into_windows(table, options.windows, options.hop)
    about = {
        "weights": weights_hash(find_model(options.model)),
        "engine": options.engine,
        "precision": options.precision,
    }
    summary = write_embeddings(
        *parts,
        table,
        options.output,
        about,
        cache=open_cache(options.cache, *parts) if options.cache else None,
        batch_seconds=options.batch_seconds,
        workers=options.workers,
    )
    print(f"{options.output}: {summary.rows:,} clips, {summary.dimensions} dimensions")
    if summary.quality:
        counts = ", ".join(f"{count} {flag}" for flag, count in summary.quality.most_common())
        listed = f"see {options.output.stem}.quality.csv"
        print(f"paraclap.embed: check the recordings: {counts}; {listed}", file=sys.stderr)
    if summary.failures:
        found = f"{summary.failures} clips were skipped; see {options.output.stem}.errors.csv"
        print(f"paraclap.embed: {found}", file=sys.stderr)
    return int(summary.failures > 0)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    model = "run folder, model folder, or Hub name (the installed model)"
    add("model", nargs="?", metavar="MODEL", help=model)
    add("source", nargs="?", metavar="SOURCE", help=SOURCE_FORMS)
    add_table_options(parser)
    add("-o", "--output", required=True, type=output_file(".parquet"), metavar="FILE.parquet")
    add("--windows", type=float, metavar="SECONDS", help="embed windows of this length")
    add("--hop", type=float, metavar="SECONDS", help="from window to window (window length)")
    add("--cache", type=path_of, default=default_cache(), help="embedding cache (%(default)s)")
    add("--no-cache", dest="cache", action="store_const", const=False, help="do not use it")
    seconds = "padded audio per batch [s]"
    add("--batch-seconds", type=batch_seconds, default=BATCH_SECONDS, help=seconds)
    add("--workers", type=number(0, 1024, int), default=0, help="processes that read audio")
    add("--engine", choices=ENGINES, default="eager", help="how embeddings are computed")
    add("--precision", choices=PRECISIONS, default="fp32", help="of the encoders (%(default)s)")
    add("--device", default="auto", help="cpu, cuda, cuda:1; default: a GPU if available")
    options = parser.parse_args(arguments)
    sources = [options.source] if options.source else []
    if options.engine != "onnx":  # exports are no models
        options.model, sources = with_default_model("paraclap.embed", options.model, sources)
    if len(sources) != 1:
        parser.error("the following arguments are required: SOURCE")
    (options.source,) = sources
    if options.hop is not None and options.windows is None:
        parser.error("--hop requires --windows")
    if options.windows is not None:
        try:
            hop = options.windows if options.hop is None else options.hop
            check_windows(options.windows, hop)
        except WindowError as error:
            parser.error(f"--windows and --hop: {error}")
    return options
