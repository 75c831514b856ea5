r"""Train and test a recipe by cross-validation over speakers, each of whom is tested once.

    python -m paraclap.crossval configs/whisper.yaml data.root=/data/RAVDESS \
        data.captions=captions.parquet folds=5 output=runs/folds
    python -m paraclap.crossval configs/whisper.yaml data.root=/data/emodb \
        data.captions=emodb.csv folds=speakers output=runs/emodb format=pdf

The arguments are those of train.py, and `folds`: a number of folds with similar proportions of the
classes (5), `speakers` for one fold per speaker, or a column of the table in `data.captions`, such
as `session`, whose values are the folds. `data.validation_speakers` of the training speakers of
each fold choose its checkpoint; a column `split` of the table is not used. The training part of
every fold has all classes of `train.target`, or the command stops. `format` is that of the figures
(png, pdf or svg); the same command with another one writes those of finished folds again.

Output, in the form of evaluate.py: scores.yaml, scores.md (with the UAR of each fold), NAME.csv and
figures of the predictions of all folds, for `python -m paraclap.compare` as well. Intervals are
over speakers. Folders fold_1, fold_2, ... have the run and scores of each fold; its weights are
removed. The same command resumes an interrupted fold and does not run finished ones again.
"""

import shlex
import sys
from collections.abc import Sequence

from paraclap.settings import SettingsError
from paraclap.signals import stopping
from paraclap.style import FORMATS

FOLDS, FORMAT = "folds", "format"
DEFAULTS = {FOLDS: "5", FORMAT: "png"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    with stopping("stopped; the same command continues"):
        return _cross_validate(arguments)


def _cross_validate(arguments: Sequence[str]) -> int:
    from paraclap.training.config import check_paths, read_settings

    given = [text for text in arguments if text.partition("=")[0] in DEFAULTS]
    values = DEFAULTS | {text.partition("=")[0]: text.partition("=")[2] for text in given}
    folds, figure_format = values[FOLDS], values[FORMAT]
    if not folds or folds.isdecimal() and int(folds) < 2:
        raise SettingsError(
            f"folds is {folds or 'empty'}, expected at least 2, `speakers`, or a column"
        )
    if figure_format not in FORMATS:
        raise SettingsError(f"format is {figure_format}, expected png, pdf or svg")
    others = [text for text in arguments if text not in given]
    settings = read_settings(others)
    check_paths(settings)
    # torch takes seconds to import: after the settings are checked.
    from paraclap.distributed import device_named, processes, rank
    from paraclap.training.crossval import cross_validate

    with processes(device_named(settings.train.device), settings.train.timeout):
        recipe = [text for text in arguments if text.partition("=")[0] not in ("output", FORMAT)]
        cross_validate(settings, folds, shlex.join(recipe), figure_format)
        if rank() == 0:
            print(f"scores of all folds written to {settings.output}")
    return 0
