"""Experiments on real corpora (`python -m experiments.NAME`); never imported by the package."""

import sys
from pathlib import Path

from paraclap.cores import let_threads_sleep

# To the end of the path, so that third-party code finds Hugging Face's `datasets`, not datasets.py.
ROOT = str(Path(__file__).resolve().parents[1])
sys.path[:] = [*(folder for folder in sys.path if folder not in ("", ROOT)), ROOT]

let_threads_sleep()  # before torch is imported
