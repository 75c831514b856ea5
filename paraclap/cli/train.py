r"""Train ParaCLAP: captions and audio in, a run folder out.

    python train.py configs/small.yaml data.root=/data/RAVDESS data.captions=captions.parquet \
        output=runs/small
    python train.py configs/paraclap.yaml data.root=/data/MSP-Podcast optim.lr=1e-4
    torchrun --nproc-per-node=4 train.py configs/paraclap.yaml data.root=/data/MSP-Podcast
    python train.py configs/finetune.yaml model.start=runs/small data.captions=my.csv \
        output=runs/mine

The first argument may be a YAML file (default configs/paraclap.yaml); `key=value` arguments go over
it. Every key is a field of `Settings` (settings.py), `ModelSettings` (models.py) or
`CaptionSettings` (datasets.py). The run folder receives config.yaml, metrics.jsonl, TensorBoard
events (`train.loggers`: also wandb, mlflow), checkpoints/ (everything to resume), best/ (by
validation UAR) and last/, both ready for evaluate.py. The same command again resumes an interrupted
run (`train.resume=auto`) and gives the same weights as a run that was never interrupted.
`train.dry_run=true` takes a step and a validation, tells memory and time, and keeps nothing.
"""

import sys
from collections.abc import Sequence

from paraclap.distributed import device_named, processes
from paraclap.settings import Settings
from paraclap.signals import Stopped
from paraclap.training.config import read_settings
from paraclap.training.loop import (
    train,
)
from paraclap.training.rehearsal import dry_run


def _train_or_rehearse(settings: Settings) -> None:
    if settings.train.dry_run:
        dry_run(settings)
        return
    run = train(settings)
    best = f"best validation UAR {run.best:.3f}, " if run.best >= 0 else ""
    print(f"{best}models in {run.output / 'best'} and {run.output / 'last'}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    settings = read_settings(arguments)
    try:
        with processes(device_named(settings.train.device), settings.train.timeout):
            _train_or_rehearse(settings)
    except Stopped as stopped:
        print(f"train.py: {stopped}", file=sys.stderr)
        return stopped.code
    return 0
