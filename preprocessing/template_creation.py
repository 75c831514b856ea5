"""Write pseudo-captions from acoustic features and labels.

    python preprocessing/template_creation.py features.parquet -o captions.parquet
    python preprocessing/template_creation.py --preview 5

`--help` lists all options and describes levels, edges and the columns written.
"""

import os
import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parent.parent)
sys.path.insert(0, ROOT)
import paraclap.cli  # this clone's package, also where another version is installed

# To the end of the path, so that third-party code finds Hugging Face's `datasets`, not datasets.py.
sys.path[:] = [*(p for p in sys.path if os.path.realpath(p) != ROOT), ROOT]

from paraclap.cli.template_creation import main

if __name__ == "__main__":
    sys.exit(paraclap.cli.run(main, "template_creation.py"))
