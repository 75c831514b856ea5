"""Write the recordings of a corpus with their labels and captions as tar files (shards).

    python -m paraclap.shards ravdess=/data/RAVDESS -o /data/shards
    python -m paraclap.shards captions.parquet --root /data/RAVDESS -o /data/shards

The folder is a source for all commands, and has the layout of WebDataset for other programs. Audio
files are copied as they are. The exit code is 1 if some of them cannot be read, which are skipped.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from paraclap.cli import run
from paraclap.corpora import SOURCE_FORMS
from paraclap.corpora.options import add_table_options

MEGABYTE = 10**6


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the shards of a source and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="SOURCE", help=SOURCE_FORMS)
    add_table_options(parser)
    add = parser.add_argument
    add("-o", "--output", required=True, type=Path, help="folder of the shards, a new one")
    add("--megabytes", type=float, default=256.0, help="size of a shard (%(default)g)")
    options = parser.parse_args(arguments)
    if not options.megabytes > 0:
        parser.error(f"--megabytes {options.megabytes:g}, expected a positive number")
    # pandas and audformat take a second to import: after the arguments are checked.
    from paraclap.audio.shards import shards_of
    from paraclap.corpora.shards import write_shards
    from paraclap.corpora.table import read_corpus

    table = read_corpus(options.source, options.root, options.columns)
    faults = write_shards(table, options.output, round(options.megabytes * MEGABYTE))
    count = table.index.unique("file").size - len(faults)
    print(f"{count} recordings in {len(shards_of(options.output))} shards in {options.output}")
    for file, message in faults.items():
        print(f"{file} is left out: {message}", file=sys.stderr)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(run(main, "shards"))
