r"""Pseudo-captions of speech: eGeMAPS features -> levels (low, normal, high) -> phrases.

    python preprocessing/template_creation.py --preview 5
    python preprocessing/template_creation.py features.parquet -o captions.parquet --plot edges.png
    python preprocessing/template_creation.py features.parquet -o captions.parquet \
        --descriptors pitch,intensity,emotion --filter-emotions other,surprise --labelled-only \
        --validation-speakers 17,18 --test-speakers 21,22,23,24
    python preprocessing/template_creation.py ravdess.parquet emodb.parquet -o captions.parquet \
        --edges-by gender,corpus --templates paraclap extended
    python preprocessing/template_creation.py features.parquet -o captions.parquet \
        --templates paraclap five_levels
    python preprocessing/template_creation.py other.parquet -o other_captions.parquet \
        --edges captions.edges.json
    python preprocessing/template_creation.py features.parquet -o captions.parquet \
        --rewrite "python my_model.py --temperature 0.7" --rewrite-seeds 1 2 3
    python preprocessing/template_creation.py --dump-templates > my.yaml
    python preprocessing/template_creation.py features.parquet -o out.parquet --templates my.yaml

A measured descriptor (pitch, intensity, ...) is "low" at or below the 0.3 quantile of the training
rows, "high" at or above the 0.7 quantile and "normal" between; with --templates paraclap
five_levels also "very low" and "very high" (0.1 and 0.9 quantile). Labels (emotion, gender) are put
into phrases directly. Undefined values get no phrase: NaN, voice measures of an unvoiced clip,
constant columns, and values that the flags in the column `quality` make doubtful.

--edges-by fits the quantiles within groups, and the phrases name the group: "pitch is high for a
woman". Durations are never compared within groups, ratings only within a corpus (`edges_by` in the
templates). Rows without a group, and groups with fewer than 10 values, get no phrase.

Input: one or several tables of features.py, or folders of such tables, with index file/start/end,
label columns, eGeMAPSv02 functionals under openSMILE's names and Duration in seconds. Labels are
normalised as by features.py. With a column `split`, edges are fitted to its "train" rows, otherwise
to all rows. Several tables get a column `corpus`, unless they have one. Duplicate rows (same file,
start, end and corpus) are an error.

Output, per row: the label columns, one column <descriptor>_level each, `captions` (all phrases, the
first wording of a descriptor before its paraphrases) and `caption_descriptors` (the descriptor of
each phrase). The edges are written beside it as <stem>.edges.json; edges, templates and the
metadata of the input are also stored in the metadata of the file.

--rewrite COMMAND adds wordings from a program, such as a language model on this machine. It reads
one phrase a line on its standard input and writes one rewrite a line, empty for none, in UTF-8. It
is started without a shell for up to 64 phrases at a time, with the seed in the environment variable
PARACLAP_SEED. A rewrite is used if it has the words of its level or label, or those of another
wording of it, and neither negates it nor mentions another one. Answers are kept in
<stem>.rewrites.jsonl: after an interruption the same command goes on where it stopped, and later it
gives the same captions without the program.

Tables of any length are processed in batches. Edges are exact, with one column in memory at a time,
so memory grows by about 20 bytes per row for any number of columns (10 million rows: 0.5 GB).
"""

import argparse
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from paraclap.captions.edges import FIVE_QUANTILES, NAMES
from paraclap.captions.plot import plot
from paraclap.captions.program import split_command
from paraclap.captions.rewrites import Rewriting, with_rewrites
from paraclap.captions.sources import INDEX, example_source, open_sources
from paraclap.captions.tables import Features
from paraclap.captions.templates import (
    Descriptor,
    InputError,
    dump_templates,
    read_templates,
    select_descriptors,
)
from paraclap.captions.writer import (
    Captioner,
    edges_beside,
    make_parent,
    prepare_captioner,
    write_captions,
)
from paraclap.cli.options import path_of
from paraclap.corpora.features_labels import normalised
from paraclap.files import refuse_overwriting
from paraclap.style import FORMATS

GROUPS_SHOWN = 6  # groups of edges in a line of the summary
LABELS_SHOWN = 20  # labels in a line of the summary


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("features", type=path_of, nargs="*", help="features.parquet, or folders of such files")
    add("-o", "--output", type=path_of, help="captions.parquet to write")
    add("--edges", type=path_of, help="file of edges (captions.edges.json) instead of fitting them")
    add("--edges-by", type=_names, default=[], help="comma-separated columns to compare within")
    add("--templates", nargs="+", default=["paraclap"], metavar="NAME",
        help="tables of descriptors and phrases: paraclap (default), extended, published, or YAML "
        "files; later tables replace descriptors of earlier ones, and five_levels adds phrases "
        "to those of paraclap")  # fmt: skip
    add("--dump-templates", action="store_true", help="print these tables as YAML, and exit")
    add("--descriptors", type=_names, help="comma-separated, in the order of the phrases")
    add("--filter-emotions", type=_names, default=[], help="comma-separated emotions to drop")
    add("--labelled-only", action="store_true", help="drop rows without an emotion")
    add("--validation-speakers", type=_names, default=[], help="comma-separated, for split dev")
    add("--test-speakers", type=_names, default=[], help="comma-separated, for split test")
    add("--quantiles", type=float, nargs="+", metavar="QUANTILE",
        help="of the edges: 2, or 4 for five levels, of which three levels have the middle ones "
        "(default: 0.1 0.3 0.7 0.9)")  # fmt: skip
    add(
        "--plot",
        type=path_of,
        metavar="FILE.png",
        help="draw distributions, edges and emotions",
    )
    add("--rewrite", metavar="COMMAND", help="program that adds wordings, see above")
    add("--rewrite-seeds", type=int, nargs="+", default=[0], metavar="SEED",
        help="each gives one rewrite of each phrase (default: 0)")  # fmt: skip
    add("--rewrite-timeout", type=float, default=600.0, metavar="SECONDS",
        help="for 64 phrases (default: %(default)g)")  # fmt: skip
    add("--preview", type=int, default=0, metavar="N", help="print N rows with their captions")
    return parser


def _check_arguments(arguments: argparse.Namespace) -> None:
    paths, output, preview_rows = arguments.features, arguments.output, arguments.preview
    quantiles = [0, *(arguments.quantiles or FIVE_QUANTILES), 1]
    if quantiles != sorted(set(quantiles)) or len(quantiles) - 2 not in NAMES:
        found = ", ".join(map(str, arguments.quantiles))
        raise InputError(f"quantiles are {found}, expected 2 or 4, ascending from 0 to 1")
    if arguments.edges and (arguments.quantiles or arguments.edges_by):
        raise InputError("--edges excludes --edges-by and --quantiles, which the file defines")
    wanted = output or arguments.plot
    if preview_rows < 0 or not (paths if wanted else preview_rows):
        raise InputError("expected a features table and -o captions.parquet, or --preview N")
    if arguments.rewrite is not None:
        split_command(arguments.rewrite)
        if not output or not arguments.rewrite_timeout > 0:
            raise InputError("--rewrite requires -o captions.parquet, and a positive timeout")
    if output and output.suffix != ".parquet":
        raise InputError(f"-o is {output}, expected a name ending in .parquet")
    _keep_inputs(arguments)
    if arguments.plot and arguments.plot.suffix[1:] not in FORMATS:
        suffixes = ", ".join(f".{name}" for name in FORMATS)
        raise InputError(f"--plot is {arguments.plot}, expected one of {suffixes}")


def _keep_inputs(arguments: argparse.Namespace) -> None:
    """Raise an error if an output would replace an input, or join the features in a folder."""
    written = [arguments.plot] if arguments.plot else []
    if arguments.output:
        written += [arguments.output, edges_beside(arguments.output)]
        written += [_rewrites_beside(arguments.output)] if arguments.rewrite else []
        if arguments.output.resolve().parent in {path.resolve() for path in arguments.features}:
            raise InputError(
                f"{arguments.output} would replace or join the features, give another output"
            )
    for path in written:
        refuse_overwriting(
            path, [*arguments.features, *([arguments.edges] if arguments.edges else [])]
        )


def run(arguments: argparse.Namespace) -> None:
    """Write, preview and plot captions as the arguments define.

    Raises:
        InputError: if arguments or files are invalid
    """
    start = time.perf_counter()
    templates = read_templates(arguments.templates)
    if arguments.dump_templates:
        print(dump_templates(templates), end="")
        return
    _check_arguments(arguments)
    if not arguments.features:
        print("No features given: captions of random example values.")
    features = Features(
        [normalised(source) for source in open_sources(arguments.features)]
        or [example_source(templates)],
        {"dev": arguments.validation_speakers, "test": arguments.test_speakers},
        arguments.filter_emotions,
        arguments.labelled_only,
    )
    if not features.rows:
        raise InputError(f"{', '.join(map(str, arguments.features))} has no rows")
    if arguments.rewrite:
        templates = _rewritten(templates, features, arguments)
    captioner = prepare_captioner(
        features,
        templates,
        arguments.descriptors,
        arguments.edges_by,
        tuple(arguments.quantiles or FIVE_QUANTILES),
        arguments.edges,
    )
    batches = captioner.batches()
    if arguments.preview:
        batches = with_preview(batches, features.count(), arguments.preview)
    if arguments.output:
        write_captions(captioner, arguments.output, batches)
    else:
        for _ in batches:
            pass
    seconds = time.perf_counter() - start
    if arguments.features:
        print(summary(captioner))
    if arguments.plot:
        plot(captioner, arguments.plot)
        print(f"wrote {arguments.plot}")
    if arguments.output:
        print(f"wrote {arguments.output}: {captioner.statistics.rows / seconds:,.0f} rows/s")


def _rewrites_beside(captions: Path) -> Path:
    return captions.with_name(f"{captions.stem}.rewrites.jsonl")


def _rewritten(
    templates: tuple[Descriptor, ...], features: Features, arguments: argparse.Namespace
) -> tuple[Descriptor, ...]:
    """Return templates with the rewrites of all phrases that the captions can have."""
    selected = select_descriptors(templates, features.schema.names, arguments.descriptors)
    columns = {d.column for d in selected if d.kind == "label"}
    labels = {column: features.distinct(column) for column in sorted(columns)}
    make_parent(arguments.output)
    rewriting = Rewriting(
        arguments.rewrite,
        _rewrites_beside(arguments.output),
        tuple(arguments.rewrite_seeds),
        arguments.rewrite_timeout,
    )
    templates, found = with_rewrites(selected, templates, labels, rewriting)
    print(found)
    return templates


def with_preview(
    batches: Iterable[pa.RecordBatch], rows: int, wanted: int
) -> Iterator[pa.RecordBatch]:
    """Yield batches unchanged, then print some of their rows, spread evenly over the table.

    Prints the file, the first wordings, and their paraphrases.

    Args:
        batches: of captions
        rows: number of rows in all batches
        wanted: number of rows to print
    """
    places = np.linspace(0, rows - 1, min(wanted, rows)).astype(int)
    lines, done = [], 0
    for batch in batches:
        for place in places[(places >= done) & (places < done + len(batch))] - done:
            row = batch.select([INDEX[0], "caption_descriptors", "captions"]).slice(place, 1)
            file, names, phrases = row.to_pylist()[0].values()
            wordings: dict[str, list[str]] = {}
            for name, phrase in zip(names, phrases, strict=True):
                wordings.setdefault(name, []).append(phrase)
            lines.append(file)
            for title, chosen in (("first wordings:", 0), ("paraphrased:", -1)):
                text = " and ".join(group[chosen] for group in wordings.values())
                lines.append(f"  {title:15} {text or '(no phrase)'}")
        done += len(batch)
        yield batch
    print("\n".join(lines))


def summary(captioner: Captioner) -> str:
    """Return the counts of levels and labels, and the edges with their units, as text."""
    counted = captioner.statistics
    lines = [
        f"{counted.rows} rows, {counted.empty} without any phrase; "
        f"{counted.phrases / max(counted.rows, 1):.1f} phrases a row, "
        f"{counted.different} different sets of phrases"
    ]
    if dropped := captioner.features.dropped:
        found = [f"{emotion or 'without an emotion'} {n}" for emotion, n in dropped.items()]
        lines.append(f"rows dropped: {', '.join(found)}")
    if doubtful := {name: n for name, n in counted.doubtful.items() if n}:
        found = ", ".join(f"{name} {n}" for name, n in doubtful.items())
        lines.append(f"values left out because of quality flags: {found}")
    known = {descriptor.name: descriptor for descriptor in captioner.selected}
    for name in ("split", *known):
        if name not in counted.counts:
            continue
        missing, *found = counted.counts[name].sum(axis=0).tolist()
        pairs = list(zip(counted.values[name], found, strict=True))
        if name not in known or not known[name].values:
            pairs.sort(key=lambda pair: str(pair[0]))
        pairs = [(value, n) for value, n in [*pairs, ("undefined", missing)] if n]
        hidden = len(pairs) - LABELS_SHOWN
        more = f" and {hidden} more" if hidden > 0 else ""
        if more:
            pairs.sort(key=lambda pair: -pair[1])
        listed = ", ".join(f"{value} {n}" for value, n in pairs[:LABELS_SHOWN])
        lines.append(f"{name:18} {listed}{more}")
        if name in captioner.edges:
            bounds = [
                f"{' '.join(['normal', *group])}: {b.low:.5g} to {b.high:.5g}"
                for group, b in captioner.edges[name].groups.items()
            ]
            hidden = len(bounds) - GROUPS_SHOWN
            more = f" and {hidden} more groups" if hidden > 0 else ""
            lines[-1] += f"; {', '.join(bounds[:GROUPS_SHOWN])}{more} {known[name].unit}"
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Raises:
        InputError: if arguments or files are invalid
    """
    run(_parser().parse_args(arguments))
    return 0
