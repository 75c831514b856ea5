r"""Turn measured speech into words: eGeMAPS features -> low/normal/high levels -> pseudo-captions.

    python preprocessing/template_creation.py --preview 5
    python preprocessing/template_creation.py features.parquet -o captions.parquet --plot edges.png
    python preprocessing/template_creation.py features.parquet -o captions.parquet \
        --descriptors pitch,intensity,emotion --filter-emotions "no agreement",other \
        --validation-speakers 17,18 --test-speakers 21,22,23,24
    python preprocessing/template_creation.py ravdess.parquet emodb.parquet -o captions.parquet \
        --edges-by gender,corpus --templates paraclap extended
    python preprocessing/template_creation.py other.parquet -o other_captions.parquet \
        --edges captions.edges.json
    python preprocessing/template_creation.py --dump-templates > my.yaml
    python preprocessing/template_creation.py features.parquet -o out.parquet --templates my.yaml

A measured descriptor (pitch, intensity, ...) is "low" at or below the 0.3 quantile of the training
rows, "high" at or above the 0.7 quantile and "normal" between. A label (emotion, gender) is worded
as it stands. What is undefined -- NaN, voice measures of an unvoiced clip, a column that does not
vary -- gets no phrase.

With --edges-by the quantiles are those of each group, and the phrases say so: "pitch is high for a
woman". Durations are never compared like that, ratings within a corpus only (`edges_by` in the
templates). Where the group is unknown or has fewer than 10 values, there is no phrase.

The input is one or several tables of features.py, or folders of such tables: index file/start/end,
label columns, eGeMAPSv02 functionals under openSMILE's names and Duration in seconds. If there is
a column `split`, the edges are fitted on its "train" rows, else on all rows. Several tables get a
column `corpus`, unless they have one. A row that stands twice (same file, start, end and corpus)
is refused.

The output holds, per row: the label columns, one column <descriptor>_level each, `captions` (every
phrase that holds, the first wording of a descriptor before its paraphrases) and
`caption_descriptors` (the descriptor of each phrase). The edges go beside it as <stem>.edges.json;
they, the templates and the metadata of the input are also in the file's metadata.

Tables of any length are read in batches. Edges are exact: one column at a time is held, so memory
grows by some 20 bytes per row, whatever the number of columns (10 million rows: about 0.5 GB).
"""

import argparse
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from paraclap.captions.caption_files import write_captions
from paraclap.captions.captions import Captioner, captions_of, measured, select_descriptors
from paraclap.captions.edges import QUANTILES, check_edges, fit_edges
from paraclap.captions.edges_file import parse_edges
from paraclap.captions.feature_tables import Features, example_part, open_parts
from paraclap.captions.input_errors import InputError, read_text
from paraclap.captions.phrases import Comparison
from paraclap.captions.picture import PICTURES, plot
from paraclap.captions.summary import summarise, with_preview
from paraclap.captions.survey import survey
from paraclap.captions.templates import Descriptor, dump_templates, read_templates


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("features", type=Path, nargs="*", help="features.parquet, or folders of such files")
    add("-o", "--output", type=Path, help="captions.parquet to write")
    add("--edges", type=Path, help="edges fitted before (captions.edges.json) instead of new ones")
    add("--edges-by", type=_names, default=[], help="comma-separated columns to compare within")
    add("--templates", nargs="+", default=["paraclap"], metavar="NAME",
        help="tables of descriptors and phrases: paraclap (the default), extended, or YAML files; "
        "later ones replace earlier ones")  # fmt: skip
    add("--dump-templates", action="store_true", help="print these tables as such YAML, and stop")
    add("--descriptors", type=_names, help="comma-separated, in the order of the phrases")
    add("--filter-emotions", type=_names, default=[], help="comma-separated emotions to drop")
    add("--validation-speakers", type=_names, default=[], help="comma-separated, get split dev")
    add("--test-speakers", type=_names, default=[], help="comma-separated, get split test")
    add("--quantiles", type=float, nargs=2, metavar=("LOW", "HIGH"), help="default: 0.3 0.7")
    add("--plot", type=Path, metavar="FILE.png", help="draw distributions, edges and emotions")
    add("--preview", type=int, default=0, metavar="N", help="print N rows with their captions")
    return parser


def _check_arguments(arguments: argparse.Namespace) -> None:
    paths, output, preview_rows = arguments.features, arguments.output, arguments.preview
    low, high = arguments.quantiles or QUANTILES
    if not 0 < low < high < 1:
        raise InputError(f"quantiles are {low} and {high}, expected 0 < low < high < 1")
    if arguments.edges and (arguments.quantiles or arguments.edges_by):
        raise InputError("give --edges or how to fit them: edges of a file have their own groups")
    wanted = output or arguments.plot
    if preview_rows < 0 or not (paths if wanted else preview_rows):
        raise InputError("give a features table and -o captions.parquet, or --preview N to look")
    inputs = {path.resolve() for path in paths}
    if output and (output.resolve() in inputs or output.resolve().parent in inputs):
        raise InputError(f"{output} would replace or join the features, give another output")
    if arguments.plot and arguments.plot.suffix not in PICTURES:
        raise InputError(f"{arguments.plot} is no picture, expected one of {', '.join(PICTURES)}")


def _comparisons(
    columns: Sequence[str], features: Features, templates: Sequence[Descriptor]
) -> list[Comparison]:
    """Groups to compare within.

    Raises:
        InputError: if the features lack a column, or no descriptor is compared within it
    """
    for column in columns:
        if column not in features.labels:
            raise InputError(f"edges by {column!r} need that column, found {features.labels}")
        if not any({"*", column} & {*d.edges_by} for d in templates if d.kind == "level"):
            raise InputError(f"no descriptor of the templates is compared by {column!r}")
    return [Comparison(column, templates) for column in dict.fromkeys(columns)]


def run(arguments: argparse.Namespace) -> None:
    """Do what the command line asks for.

    Raises:
        InputError: if something given does not fit
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
        open_parts(arguments.features) or [example_part(templates)],
        {"dev": arguments.validation_speakers, "test": arguments.test_speakers},
        arguments.filter_emotions,
    )
    features.check_names()
    selected = select_descriptors(features, arguments.descriptors, templates)
    levels = measured(selected, templates)
    if arguments.edges:
        stored = read_text(arguments.edges, lambda text: parse_edges(text, templates))
        edges = {d.name: stored[d.name] for d in levels if d.name in stored}
        by = [column for fitted in edges.values() for column in fitted.by]
        found = survey(features, levels, _comparisons(by, features, templates))
        check_edges(edges, found, levels, arguments.edges)
    else:
        comparisons = _comparisons(arguments.edges_by, features, templates)
        found = survey(features, levels, comparisons)
        quantiles = tuple(arguments.quantiles or QUANTILES)
        edges = fit_edges(features, found, levels, comparisons, quantiles)
    for column, (codes, _) in found.groups.items():
        if (codes < 0).any():
            warnings.warn(
                f"{(codes < 0).sum()} rows have no {column} and no phrase compared by it",
                stacklevel=2,
            )
    captioner = Captioner(features, found, selected, templates, edges)
    batches = captions_of(features, captioner)
    if arguments.preview:
        batches = with_preview(batches, found.rows, arguments.preview)
    if arguments.output:
        metadata = features.metadata
        write_captions(batches, captioner.schema, arguments.output, edges, templates, metadata)
    else:
        for _ in batches:
            pass
    seconds = time.perf_counter() - start
    if arguments.features:
        print(summarise(captioner, edges, found.rows))
    if arguments.plot:
        plot(features, found, captioner, edges, arguments.plot)
        print(f"wrote {arguments.plot}")
    if arguments.output:
        print(f"wrote {arguments.output}: {found.rows / seconds:,.0f} rows/s")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 0 only if everything asked for was done."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
        try:
            run(_parser(__doc__).parse_args(arguments))
        except (InputError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    return 0
