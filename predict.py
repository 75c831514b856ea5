"""Score recordings against free-text prompts.

    python predict.py runs/small clip.wav --prompts angry calm bored
    python predict.py runs/small meeting.flac --windows 3 --hop 1 --prompts angry calm

`--help` lists all options and describes the columns.
"""

import os
import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parent)
sys.path.insert(0, ROOT)
import paraclap.cli  # this clone's package, also where another version is installed

# To the end of the path, so that third-party code finds Hugging Face's `datasets`, not datasets.py.
sys.path[:] = [*(p for p in sys.path if os.path.realpath(p) != ROOT), ROOT]

from paraclap.cli.predict import main

if __name__ == "__main__":
    sys.exit(paraclap.cli.run(main, "predict.py"))
