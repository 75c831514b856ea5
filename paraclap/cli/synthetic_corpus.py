"""Write a small corpus of emotional, speech-like clips made by a source-filter voice model.

No recording is used. Glottal pulses with jitter and shimmer, plus breath noise, pass through the
formants of a vocal tract; syllables, unvoiced consonants and pauses give rhythm. Speakers differ in
sex, pitch, vocal-tract length, rate, loudness and voice quality, and six emotions change the
prosody as the literature on vocal expression describes. Classes overlap: clips differ in how
strongly they express their emotion.

    python preprocessing/synthetic_corpus.py -o data/synthetic
    python preprocessing/synthetic_corpus.py -o data/toy --speakers 6 --clips-per-emotion 2 --seed 1
    python -m preprocessing.synthetic_corpus -o data/synthetic --force

The output is an audformat database: db.yaml, the tables emotion.train, emotion.dev and emotion.test
(speakers disjoint, both sexes in each) as CSV, and 16 kHz 16-bit mono WAV files below audio/. The
same arguments give the same bytes, however many workers make them.
"""

# Shapes: T samples, N block edges, each BLOCK samples apart, C glottal cycles, F formants.

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from paraclap.corpora.synthetic import (
    write_corpus,
)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return 0 if the corpus is there, else 1."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("-o", "--output", dest="root", type=Path, required=True, help="folder to be made")
    add("--speakers", type=int, default=16, help="at least 6 (default: 16)")
    add("--clips-per-emotion", type=int, default=8, help="per speaker (default: 8)")
    add("--seed", type=int, default=0, help="default: 0")
    add("--workers", type=int, default=os.cpu_count() or 1, help="default: one per core")
    add("--force", action="store_true", help="replace the folder if it exists")
    options = parser.parse_args(arguments)
    try:
        written = write_corpus(**vars(options))
    except (FileExistsError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.root}: {'written' if written else 'already there'}")
    return 0
