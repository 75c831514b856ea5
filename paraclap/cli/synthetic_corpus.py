"""Generate a small corpus of emotional, speech-like clips from a voice model.

    python preprocessing/synthetic_corpus.py -o data/synthetic
    python preprocessing/synthetic_corpus.py -o data/toy --speakers 6 --clips-per-emotion 2 --seed 1
    python preprocessing/synthetic_corpus.py -o data/synthetic --force

The output is an audformat database: db.yaml, the tables emotion.train, emotion.dev and emotion.test
(speakers disjoint, both genders in each) as CSV, and 16 kHz 16-bit mono WAV files below audio/. The
same arguments give the same bytes for any number of workers.
"""

import argparse

from paraclap.cli.options import path_of
from paraclap.cores import usable_cores


def main(arguments: list[str] | None = None) -> int:
    """Write the corpus and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("-o", "--output", dest="root", type=path_of, required=True, help="folder to create")
    add("--speakers", type=int, default=16, help="at least 6 (%(default)s)")
    add("--clips-per-emotion", type=int, default=8, help="per speaker (%(default)s)")
    add("--seed", type=int, default=0, help="(%(default)s)")
    add("--workers", type=int, default=usable_cores(), help="processes (%(default)s)")
    add("--force", action="store_true", help="replace an existing folder")
    options = parser.parse_args(arguments)
    from paraclap.corpora.synthetic import write_corpus  # scipy and audformat take a second

    written = write_corpus(**vars(options))
    print(f"{options.root}: {'written' if written else 'already exists'}")
    return 0
