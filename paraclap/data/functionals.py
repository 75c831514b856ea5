"""Functionals of features.py as the input of an audio tower: rows of clips, mean and deviation.

Such a tower (`model.audio.config: {model_type: egemaps}`) trains in seconds on a CPU. A feature
table is read instead of audio; afterwards the model measures waveforms by itself, with the same
values (see smile.py), so that evaluate.py and predict.py treat it like any other.
"""

from pathlib import Path

import pandas as pd
import torch

from paraclap.acoustics.egemaps import Extractor, undefined_rules
from paraclap.model.build import Functionals


def read_functionals(path: str | Path) -> pd.DataFrame:
    """Functionals (rows, F) of all clips of a table, in openSMILE's order.

    Args:
        path: table of features.py, of any feature set.

    Raises:
        ValueError: if the table is missing or has no functionals.
    """
    if not Path(path).is_file():
        raise ValueError(f"data.features: there is no table {path}; features.py writes it")
    table = pd.read_parquet(path)
    names = [name for name in Extractor("egemaps").names if name in table]
    if not names:
        raise ValueError(f"{path} has no functionals of eGeMAPSv02, expected those of features.py")
    return table[names]


def functionals_of(table: pd.DataFrame, clips: pd.Index) -> pd.DataFrame:
    """Rows of clips (file, start, end) in a table of functionals.

    Raises:
        ValueError: if it lacks a clip.
    """
    lacking = clips.difference(table.index)
    if len(lacking):
        raise ValueError(
            f"data.features: {len(lacking)} of {len(clips)} clips have no functionals, as "
            f"{lacking[0][0]}"
        )
    return table.loc[clips]


def standards(training: pd.DataFrame) -> Functionals:
    """What a tower has to know of its training clips; undefined values are left out."""
    names = list(training.columns)
    return Functionals(
        names,
        torch.tensor(training.mean().to_numpy(), dtype=torch.float32),
        torch.tensor(training.std(ddof=0).to_numpy(), dtype=torch.float32),
        undefined_rules(names),
    )
