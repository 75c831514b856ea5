"""Train and test a recipe by cross-validation over speakers; see paraclap/cli/crossval.py.

python -m paraclap.crossval configs/whisper.yaml data.root=/data/RAVDESS folds=5
"""

import sys

from paraclap.cli import run
from paraclap.cli.crossval import main

if __name__ == "__main__":
    sys.exit(run(main, "paraclap.crossval"))
