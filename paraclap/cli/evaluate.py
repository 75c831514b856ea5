r"""Evaluate a trained model zero-shot on labelled corpora.

    python evaluate.py runs/small ravdess=/data/RAVDESS --speakers 21,22,23,24 -o results
    python evaluate.py runs/small emodb=/data/emodb --prompts word sentence ensemble mine.yaml
    python evaluate.py runs/demo data/synthetic --split test --targets emotion gender --closed-set
    python evaluate.py runs/small emodb=/data/emodb --baseline results/other -o results/small
    python evaluate.py runs/small emodb=/data/emodb --retrieval emodb_captions.parquet
    python evaluate.py runs/paraclap iemocap=/data/IEMOCAP ravdess=/data/RAVDESS \
        --protocol paper --reference
    torchrun --nproc-per-node=4 evaluate.py runs/paraclap iemocap=/data/IEMOCAP

Each class has a text prompt or several, whose embeddings are averaged; a clip is assigned to the
class with the highest cosine similarity. Nothing is fitted to the evaluated corpus (but see
--adapt). SOURCE is NAME=ROOT of a known corpus, an audformat database, a table beside its audio, or
a folder. With a YAML file of `class: prompt` lines, classes without a prompt are excluded and
counted.

The test split is scored if a SOURCE has one, or the captions table that --split-from names for each
SOURCE; otherwise all clips are. The scores state how many clips and speakers the model was trained
or validated on; --unseen leaves these out.

--targets names the columns of labels. A numeric label (arousal, valence, dominance, age) has two
opposed prompts ("the speaker is calm", "the speaker is aroused"): UAR and AUC compare the lowest
with the highest third of the values, Spearman's correlation uses all of them. --protocol paper
evaluates the part of each corpus, the prompts and the mean over sessions as in the paper;
--reference adds the published scores.

--retrieval retrieves clips by caption and captions by clip, and requires a captions table of
preprocessing/template_creation.py, or a table with a column `caption` or `captions`, for each
SOURCE, in the same order; labels are not required. --closed-set fits logistic regression to the
audio embeddings, and to eGeMAPS features of the same clips, cross-validated over speakers: high
scores with a low zero-shot UAR point to the prompts, not to the audio encoder. The features are
measured, or read from the tables of features.py that --features gives for each SOURCE. --adapt mean
adds scores after adaptation without labels: the mean embedding of all selected clips of a SOURCE,
with or without a label, is subtracted from each.
--baseline compares the scores with those in another output folder, on the same clips, as
`python -m paraclap.compare` does, and also writes compare.md, compare.csv, compare.pdf and
compare.png.

Output, with NAME = the corpus, the target unless it is the emotion, and the prompt set if there are
several: scores.yaml (all scores, prompts and the selection), scores.md (tables), NAME.csv (truth,
prediction, confidence, the cosine of each class and the speaker of every clip; with --adapt, also
adapted_prediction), NAME.confusion.png and NAME.calibration.png (--format pdf or svg). UAR is the
mean recall of the classes that occur (chance: one over their number). Its 95 % interval is
bootstrapped over speakers, and is coarse for a handful of speakers. Clip embeddings are cached by
model and file content, so further evaluations take seconds.

--engine selects how embeddings are computed; all engines agree up to rounding: eager, compile, or
onnx, for which MODEL is a folder written by `models.py export`. --precision bf16 is less precise.
"""

import argparse
import dataclasses
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from paraclap.cli.options import (
    batch_seconds,
    number,
    path_of,
    renamed,
    with_default_model,
    workers,
)
from paraclap.cores import loader_workers
from paraclap.corpora.options import add_table_options
from paraclap.evaluation.prompt_sets import PROMPT_SETS, PUBLISHED
from paraclap.files import OutputError, default_cache, make_folder, refuse_overwriting, safe_name
from paraclap.model.sources import ENGINES, PRECISIONS, check_source, find_model
from paraclap.settings import BATCH_SECONDS, TrainSettings
from paraclap.style import FORMATS

if TYPE_CHECKING:
    from paraclap.evaluation.evaluated import Evaluated
    from paraclap.evaluation.tasks import Source

FIXED_BY_PROTOCOL = ("targets", "prompts", "split", "split_from", "speakers")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parse(arguments)
    if options.engine == "onnx":
        check_source(options.model)
    from paraclap.data.trained_on import load
    from paraclap.evaluation.tasks import Selection, read_sources

    columns, record = {"split": options.split, "speaker": options.speakers}, load(options.model)
    selection = Selection(columns, options.split_from, record, options.unseen)
    what = options.sources, options.targets, options.prompts, selection, options.retrieval
    tables = {"root": options.root, "columns": options.columns}
    sources = read_sources(*what, as_published=options.protocol is not None, **tables)
    sources = _with_features(sources, options.features)
    baseline = _prepare_output(options, sources)
    if options.cache is None:
        warnings.warn("embedding cache: there is no home folder; not used", stacklevel=1)
    # torch and transformers take seconds to import: after arguments and corpora are checked.
    from paraclap.distributed import device_named, processes, rank
    from paraclap.evaluation.encoded import open_cache
    from paraclap.evaluation.report import write_report
    from paraclap.evaluation.run import evaluate
    from paraclap.model.engines import load_engine
    from paraclap.model.hashes import weights_hash

    runs_on_cpu = options.device == "auto" and options.engine == "onnx"
    device = device_named("cpu" if runs_on_cpu else options.device)
    with processes(device, options.timeout):
        parts = load_engine(options.model, options.engine, options.precision, str(device))
        results = evaluate(
            *parts,
            sources,
            options.output,
            closed_set=options.closed_set,
            adapt=options.adapt is not None,
            figure_format=options.format,
            waveform_cache=options.waveform_cache,
            batch_seconds=options.batch_seconds,
            workers=options.workers,
            cache=open_cache(options.cache, *parts) if options.cache else None,
        )
        if rank() == 0:
            about = {
                "model": str(options.model),
                "weights": weights_hash(find_model(options.model)),
                "protocol": options.protocol,
                "prompt_set": options.prompts[0] if len(options.prompts) == 1 else options.prompts,
                "split": options.split,
                "speakers": options.speakers,
                "split_from": options.split_from and [str(path) for path in options.split_from],
                "unseen": options.unseen or None,
                "training_corpora": list(record.corpora),
            }
            write_report(results, about, options.output, options.reference)
            if baseline is not None:
                _compare(baseline, options.output)
            print(f"prompts: {', '.join(options.prompts)}; written to {options.output}")
    return 0


def _with_features(sources: "list[Source]", paths: Sequence[Path] | None) -> "list[Source]":
    """Return sources with the functionals of their labelled clips in tables of features.py."""
    if paths is None:
        return sources
    from paraclap.data.functionals import functionals_of, read_functionals

    found = []
    for source, path in zip(sources, paths, strict=True):
        labelled = source.table.index[source.is_labelled()]
        functionals = functionals_of(read_functionals(path), labelled, f"--features {path}")
        found.append(dataclasses.replace(source, functionals=functionals))
    return found


def _prepare_output(options: argparse.Namespace, sources: "list[Source]") -> "Evaluated | None":
    """Create the output folder; the files to be written there must not be those that are read.

    Returns:
        The results to compare with, of which the clips are those that will be scored.
    """
    from paraclap.evaluation.compare import FILES, check_baseline
    from paraclap.evaluation.evaluated import read_results
    from paraclap.evaluation.tasks import scored_labels

    baseline = None if options.baseline is None else read_results(options.baseline)
    tables = (options.retrieval, options.split_from, options.features)
    read = [*options.prompts, *(path for paths in tables for path in paths or [])]
    for source in options.sources:
        path = Path(source.rpartition("=")[2]).expanduser()
        read += [source, path, *path.glob("db*")]
    written = ["scores.yaml", "scores.md"]
    if baseline is not None:
        tasks = [(source.table, task) for source in sources for task in source.tasks]
        check_baseline(baseline, {task.name: scored_labels(table, task) for table, task in tasks})
        read += [baseline.folder / "scores.yaml", *baseline.files()]
        written += FILES
    figures = [f".{kind}.{options.format}" for kind in ("confusion", "calibration")]
    stems = [safe_name(task.name) for source in sources for task in source.tasks]
    names = [f"{stem}{suffix}" for stem in stems for suffix in (".csv", *figures)]
    if repeated := sorted(set(names) & set(written)):
        raise OutputError(
            f"{repeated[0]} would hold both predictions and the comparison with --baseline; name "
            "the source differently, as in NAME=FOLDER"
        )
    folder = make_folder(options.output)
    for name in (*names, *written):
        refuse_overwriting(folder / name, read)
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{folder} cannot be written: permission denied")
    return baseline


def _compare(baseline: "Evaluated", output: Path) -> None:
    """Print and write the comparison of new results with the baseline."""
    from paraclap.evaluation.compare import compare
    from paraclap.evaluation.comparison_page import (
        comparison_notes,
        comparison_table,
        write_comparison,
    )
    from paraclap.evaluation.evaluated import read_all

    results = read_all([baseline.folder, output])
    rows = compare(results)
    for line in (comparison_table(rows).to_string(index=False), *comparison_notes(rows, results)):
        print(line)
    write_comparison(rows, results, output)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    model = "run folder, model folder, or Hub name (the installed model)"
    add("model", nargs="?", metavar="MODEL", help=model)
    add("sources", nargs="*", metavar="SOURCE", help="corpora, e.g. ravdess=/data/RAVDESS")
    add_table_options(parser)
    add("-o", "--output", type=path_of, default=Path("results"), help="output folder (%(default)s)")
    add("--format", choices=FORMATS, default="png", help="of the figures (%(default)s)")
    add("--prompts", nargs="+", metavar="SET", help=f"{', '.join(PROMPT_SETS)}, or YAML files")
    add("--targets", nargs="+", metavar="COLUMN", help="columns of labels (emotion)")
    add("--split", type=_comma_list, help="only these splits (test, if there is one)")
    add(
        "--split-from",
        nargs="+",
        type=path_of,
        metavar="CAPTIONS",
        help="table with the splits of each SOURCE",
    )
    add("--unseen", action="store_true", help="leave out clips and speakers of the training")
    add("--speakers", type=_comma_list, help="only these speakers, e.g. 21,22,23,24")
    add("--protocol", choices=("paper",), help="rows, target and prompts as published")
    add("--reference", action="store_true", help="add the published scores")
    tables = "captions table of each SOURCE"
    add("--retrieval", nargs="+", type=path_of, metavar="CAPTIONS", help=tables)
    fitted = "also fit logistic regression to embeddings and eGeMAPS features"
    add("--closed-set", action="store_true", help=fitted)
    features = "table of features.py of each SOURCE, for --closed-set"
    add("--features", nargs="+", type=path_of, metavar="TABLE", help=features)
    add("--adapt", choices=("mean",), help="also score embeddings minus the mean of their SOURCE")
    add("--baseline", type=path_of, metavar="RESULTS", help="output folder to compare with")
    add("--cache", type=path_of, default=default_cache(), help="embedding cache (%(default)s)")
    add("--no-cache", dest="cache", action="store_const", const=False, help="embed all clips anew")
    add("--waveform-cache", type=path_of, help="folder of a waveform cache to read, or to write")
    seconds = "padded audio per batch [s]"
    add("--batch-seconds", type=batch_seconds, default=BATCH_SECONDS, help=seconds)
    readers = "processes that read audio, threads with --waveform-cache; auto = as many as cores"
    add("--workers", type=workers(0, loader_workers), default=0, help=f"{readers} (%(default)s)")
    add("--engine", choices=ENGINES, default="eager", help="how embeddings are computed")
    add("--precision", choices=PRECISIONS, default="fp32", help="of the encoders (%(default)s)")
    add("--device", default="auto", help="cpu, cuda, cuda:1; default: a GPU if available")
    timeout = "maximum wait for another process [s]"
    add("--timeout", type=number(0.1, 1e6), default=TrainSettings().timeout, help=timeout)
    add("--queries", type=renamed("--prompts"), help=argparse.SUPPRESS)
    add("--probe", nargs="?", const="", type=renamed("--closed-set"), help=argparse.SUPPRESS)
    add("--packed", type=renamed("--waveform-cache"), help=argparse.SUPPRESS)
    options = parser.parse_intermixed_args(arguments)
    if options.engine != "onnx":  # exports are no models
        options.model, options.sources = with_default_model(
            "evaluate.py", options.model, options.sources
        )
    if not options.sources:
        parser.error("the following arguments are required: SOURCE")
    fixed = [
        f"--{name.replace('_', '-')}"
        for name in FIXED_BY_PROTOCOL
        if getattr(options, name) is not None
    ]
    if options.protocol and fixed:
        parser.error(f"--protocol {options.protocol} cannot be combined with {', '.join(fixed)}")
    options.prompts = options.prompts or [PUBLISHED]
    options.targets = options.targets or ["emotion"]
    if options.features and not options.closed_set:
        parser.error("--features requires --closed-set")
    for name in ("retrieval", "split_from", "features"):
        tables = getattr(options, name)
        if tables and len(tables) != len(options.sources):
            sources = f"{len(options.sources)} sources ({', '.join(options.sources)})"
            parser.error(f"--{name.replace('_', '-')} has {len(tables)} tables for {sources}")
    return options


def _comma_list(text: str) -> list[str]:
    return [value.strip() for value in text.split(",") if value.strip()]
