r"""Train ParaCLAP on captions and audio, and write a run folder.

    python train.py configs/small.yaml data.root=/data/RAVDESS data.captions=captions.parquet \
        output=runs/small
    python train.py configs/paraclap.yaml data.root=/data/MSP-Podcast optim.lr=1e-4
    torchrun --nproc-per-node=4 train.py configs/paraclap.yaml data.root=/data/MSP-Podcast
    python train.py configs/finetune.yaml model.start=runs/small data.captions=my.csv \
        output=runs/mine

The first argument may be a YAML file (default: configs/paraclap.yaml); `key=value` arguments
override it. All keys are in docs/configuration.md. The run folder receives config.yaml, summary.md
(data, scores, time and memory), metrics.jsonl, TensorBoard events, checkpoints/ (everything to
resume), and the models best/ (by `train.criterion`) and last/, both ready for evaluate.py. The same
command resumes a stopped run (`train.resume=auto`) and gives the same weights as an uninterrupted
run. SIGTERM, SIGUSR1 and Ctrl-C save a checkpoint first; exit code 75 requests that a scheduler
requeue the command.
`train.max_steps=2` is a dry run: it trains and validates, and prints memory use and the expected
duration of the whole run.
"""

import sys
from collections.abc import Sequence

from paraclap.signals import stopping


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    with stopping("stopped; the same command continues"):  # until the first step
        return _train(arguments)


def _train(arguments: Sequence[str]) -> int:
    from paraclap.training.config import check_paths, read_settings

    settings = read_settings(arguments)
    check_paths(settings)
    # torch takes seconds to import: after the settings are checked.
    from paraclap.distributed import device_named, processes
    from paraclap.training.checkpoint import SUMMARY
    from paraclap.training.loop import train

    with processes(device_named(settings.train.device), settings.train.timeout):
        trainer = train(settings)
        output = trainer.output
        print(f"models in {output / 'best'} and {output / 'last'}, summary in {output / SUMMARY}")
    return 0
