"""Extract eGeMAPSv02 functionals, duration and quality flags of every clip of a corpus.

    python features.py ravdess=/data/RAVDESS -o features.parquet --workers 8
    python features.py /data/my-database -o features.parquet --feature-set captions

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

from paraclap.cli.features import main

if __name__ == "__main__":
    sys.exit(paraclap.cli.run(main, "features.py"))
