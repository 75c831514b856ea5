"""Evaluate a trained model zero-shot: UAR with speaker-clustered intervals for each corpus.

    python evaluate.py runs/small ravdess=/data/RAVDESS --speakers 21,22,23,24 -o results
    python evaluate.py runs/paraclap iemocap=/data/IEMOCAP --protocol paper --reference

`--help` lists all options and describes the files written.
"""

import os
import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parent)
sys.path.insert(0, ROOT)
import paraclap.cli  # this clone's package, also where another version is installed

# To the end of the path, so that third-party code finds Hugging Face's `datasets`, not datasets.py.
sys.path[:] = [*(p for p in sys.path if os.path.realpath(p) != ROOT), ROOT]

from paraclap.cli.evaluate import main

if __name__ == "__main__":
    sys.exit(paraclap.cli.run(main, "evaluate.py"))
