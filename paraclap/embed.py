"""Embed the clips of a corpus, or of a folder, into a table; see paraclap/cli/embed.py.

python -m paraclap.embed recordings/ -o embeddings.parquet
"""

import sys

from paraclap.cli import run
from paraclap.cli.embed import main

if __name__ == "__main__":
    sys.exit(run(main, "paraclap.embed"))
