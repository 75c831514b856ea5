"""Generate a corpus of emotional, speech-like clips.

    python preprocessing/synthetic_corpus.py -o demo/corpus

`--help` lists all options.
"""

import os
import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parent.parent)
sys.path.insert(0, ROOT)
import paraclap.cli  # this clone's package, also where another version is installed

# To the end of the path, so that third-party code finds Hugging Face's `datasets`, not datasets.py.
sys.path[:] = [*(p for p in sys.path if os.path.realpath(p) != ROOT), ROOT]

from paraclap.cli.synthetic_corpus import main

if __name__ == "__main__":
    sys.exit(paraclap.cli.run(main, "synthetic_corpus.py"))
