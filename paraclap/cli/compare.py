"""Compare results of evaluate.py: paired differences of the UAR with intervals over speakers.

    python -m paraclap.compare results/baseline results/mine
    python -m paraclap.compare paper=results/a ours=results/b results/c -o comparison
    python -m paraclap.compare results/baseline results/mine --common

RESULTS are output folders of evaluate.py or of paraclap.crossval, FOLDER or NAME=FOLDER with a name
for table and figure; the first is the baseline, from whose UAR those of the others differ. Corpora
(with their target and prompt set) are paired by name, clips by file, start and end. Results of
other clips are refused, or with --common, only the clips that all results have are compared;
results with other labels are refused in any case, and other prompts are named in a warning. Several
corpora also have the mean of their differences.

The table is printed as Markdown. -o also writes compare.md, compare.csv, and a forest plot of the
differences as compare.pdf and compare.png.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from paraclap.cli.options import path_of
from paraclap.files import make_folder, refuse_overwriting


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("results", nargs="+", metavar="RESULTS", help="the baseline, and others")
    add("-o", "--output", type=path_of, help="folder of table and figures")
    add("--common", action="store_true", help="compare the clips that all results have")
    options = parser.parse_args(arguments)
    if len(options.results) < 2:
        parser.error(f"expected at least two RESULTS, got {options.results[0]}")
    from paraclap.evaluation.evaluated import read_all

    results = read_all(options.results)
    # scipy and matplotlib take a second to import: after the folders are found.
    from paraclap.evaluation.compare import FILES, compare
    from paraclap.evaluation.comparison_page import comparison_page, write_comparison

    if options.output is not None:
        folder: Path = make_folder(options.output)
        for name in FILES:
            refuse_overwriting(folder / name, [f for r in results for f in r.files()])
    rows = compare(results, options.common)
    print(comparison_page(rows, results), end="")
    if options.output is not None:
        write_comparison(rows, results, folder)
        print(f"\nwritten to {folder}")
    return 0
