"""List the known corpora, or check copies of them.

python -m paraclap.corpora
python -m paraclap.corpora ravdess=/data/RAVDESS
"""

import argparse
import sys
import warnings
from collections.abc import Sequence

from paraclap.corpora.check import (
    describe,
    find_problems,
    list_corpora,
    read_headers,
)
from paraclap.corpora.readers import (
    CorpusError,
)
from paraclap.corpora.table import (
    SOURCE_FORMS,
    read_corpus,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help=SOURCE_FORMS)
    parser.add_argument("--workers", type=int, default=4, help="threads that read headers")
    options = parser.parse_args(arguments)
    if not options.sources:
        print("\n".join(list_corpora()))
    failed = False
    for source in options.sources:
        try:
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                table = read_corpus(source)
        except (CorpusError, OSError) as error:
            print(f"{source}: {error}", file=sys.stderr)
            failed = True
            continue
        headers = read_headers(table, options.workers, progress=sys.stderr.isatty())
        problems, is_broken = find_problems(table, headers, [str(w.message) for w in told])
        failed |= is_broken
        print("\n".join(describe(table, headers)))
        print("\n".join(f"  problem      {problem}" for problem in problems or ["none found"]))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
