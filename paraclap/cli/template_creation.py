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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from paraclap.captions.program import split_command
from paraclap.captions.templates import (
    Descriptor,
    InputError,
    dump_templates,
    read_templates,
    select_descriptors,
)
from paraclap.cli.options import path_of
from paraclap.files import refuse_overwriting
from paraclap.style import FORMATS

if TYPE_CHECKING:
    from paraclap.captions.tables import Features

PUBLISHED = "published"
"""Templates and caption style of the published code."""


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
    add("--preview", type=int, default=0, metavar="N",
        help="print N rows: first wordings, paraphrases, and a caption as training draws it with "
        "default settings (templates published: captions.style=published)")  # fmt: skip
    return parser


def _check_arguments(arguments: argparse.Namespace) -> None:
    from paraclap.captions.edges import FIVE_QUANTILES, NAMES

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
    from paraclap.captions.edges import edges_beside

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
    # pandas and pyarrow take a second to import: after the arguments are checked.
    from paraclap.captions.edges import FIVE_QUANTILES
    from paraclap.captions.plot import plot
    from paraclap.captions.sources import example_source, open_sources
    from paraclap.captions.summary import summary, with_preview
    from paraclap.captions.tables import Features
    from paraclap.captions.writer import prepare_captioner, write_captions
    from paraclap.corpora.features_labels import normalised

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
        draw = _drawing(arguments.templates)
        batches = with_preview(batches, features.count(), arguments.preview, draw)
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


def _drawing(templates: Sequence[str]) -> Callable[[Mapping[str, Sequence[str]]], str]:
    """Return a function that draws captions as training does: with the style of the templates."""
    import numpy as np

    from paraclap.data.captions import draw_caption  # imports torch, which takes seconds
    from paraclap.settings import CaptionSettings

    settings = CaptionSettings(style="published") if PUBLISHED in templates else CaptionSettings()
    rng = np.random.default_rng(0)
    return lambda phrases: draw_caption(phrases, settings, rng).text


def _rewrites_beside(captions: Path) -> Path:
    return captions.with_name(f"{captions.stem}.rewrites.jsonl")


def _rewritten(
    templates: tuple[Descriptor, ...], features: "Features", arguments: argparse.Namespace
) -> tuple[Descriptor, ...]:
    """Return templates with the rewrites of all phrases that the captions can have."""
    from paraclap.captions.rewrites import Rewriting, with_rewrites
    from paraclap.captions.writer import make_parent

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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Raises:
        InputError: if arguments or files are invalid
    """
    run(_parser().parse_args(arguments))
    return 0
