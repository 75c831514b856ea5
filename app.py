"""Serve a web page for a trained model on this machine.

    python app.py runs/small --edges captions.edges.json

`--help` lists all options.
"""

import os
import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parent)
sys.path.insert(0, ROOT)
import paraclap.cli  # this clone's package, also where another version is installed

# To the end of the path, so that third-party code finds Hugging Face's `datasets`, not datasets.py.
sys.path[:] = [*(p for p in sys.path if os.path.realpath(p) != ROOT), ROOT]

from paraclap.cli.app import main

if __name__ == "__main__":
    sys.exit(paraclap.cli.run(main, "app.py"))
