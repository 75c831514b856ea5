r"""Train ParaCLAP: captions and audio in, a run folder out.

    python train.py configs/small.yaml data.root=/data/RAVDESS data.captions=captions.parquet
    python train.py configs/finetune.yaml model.start=runs/small data.captions=my.csv
    torchrun --nproc-per-node=4 train.py configs/paraclap.yaml data.root=/data/MSP-Podcast

Configuration files lie in configs/, all keys are in docs/configuration.md; `--help` describes the
run folder, resuming and signals.
"""

import os
import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parent)
sys.path.insert(0, ROOT)
import paraclap.cli  # this clone's package, also where another version is installed

# To the end of the path, so that third-party code finds Hugging Face's `datasets`, not datasets.py.
sys.path[:] = [*(p for p in sys.path if os.path.realpath(p) != ROOT), ROOT]

from paraclap.cli.train import main

if __name__ == "__main__":
    sys.exit(paraclap.cli.run(main, "train.py"))
