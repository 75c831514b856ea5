"""List the known corpora, or report on sources before extracting features.

    python -m paraclap.corpora
    python -m paraclap.corpora ravdess=/data/RAVDESS

A report has the clips, hours, labels, speakers and audio formats of a source, and its problems:
unreadable or duplicate files, short clips, segments beyond the end. The exit code is 1 if a source
cannot be read or has unusable clips.
"""

import argparse
import sys
import warnings
from collections.abc import Sequence

from paraclap.cli import run
from paraclap.corpora import SOURCE_FORMS, CorpusError
from paraclap.corpora.options import add_table_options


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the list or the reports and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help=SOURCE_FORMS)
    add_table_options(parser)
    options = parser.parse_args(arguments)
    # pandas and audformat take a second to import: after the arguments are checked.
    from paraclap.corpora.check import describe, find_problems, list_corpora, read_headers
    from paraclap.corpora.table import read_corpus

    if not options.sources:
        print("\n".join(list_corpora()))
    failed = False
    for source in options.sources:
        try:
            with warnings.catch_warnings(record=True, action="always") as caught:
                table = read_corpus(source, options.root, options.columns)
        except CorpusError as error:
            print(f"{source}: {error}", file=sys.stderr)
            failed = True
            continue
        headers = read_headers(table, progress=sys.stderr.isatty())
        problems, is_broken = find_problems(table, headers)
        failed |= is_broken
        problems = [str(warning.message) for warning in caught] + problems
        print("\n".join(describe(table, headers)))
        print("\n".join(f"  problem      {problem}" for problem in problems or ["none found"]))
    return int(failed)


if __name__ == "__main__":
    sys.exit(run(main, "corpora"))
