"""Compare results of evaluate.py, see `paraclap.cli.compare`."""

import sys

from paraclap.cli import run
from paraclap.cli.compare import main

if __name__ == "__main__":
    sys.exit(run(main, "compare"))
