"""Compare results of evaluate.py on the same clips; see paraclap/cli/compare.py.

python -m paraclap.compare results/baseline results/mine
"""

import sys

from paraclap.cli import run
from paraclap.cli.compare import main

if __name__ == "__main__":
    sys.exit(run(main, "paraclap.compare"))
