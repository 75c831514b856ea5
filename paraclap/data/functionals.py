"""Functionals of features.py as the input of an audio tower.

Such a tower (`model.audio.config: {model_type: egemaps}`) trains in seconds on a CPU, from a
feature table instead of audio. The trained model measures waveforms itself, with the same values
(see `paraclap.acoustics.egemaps`), so evaluation and prediction treat it like any other model.

Letters: F functionals.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from paraclap.acoustics.egemaps import Extractor, undefined_rules
from paraclap.audio import SAMPLING_RATE
from paraclap.audio.recordings import Recordings
from paraclap.corpora.validation import INDEX_COLUMNS
from paraclap.errors import ParaCLAPError
from paraclap.files import reading_parquet
from paraclap.model.build import Functionals
from paraclap.model.modeling_paraclap import FunctionalsFeatureExtractor
from paraclap.parquet import open_parquet
from paraclap.progress import with_progress


class FunctionalsError(ParaCLAPError, ValueError):
    """A feature table that cannot be used as input of a model."""


def read_functionals(path: str | Path) -> pd.DataFrame:
    """Return the functionals (rows, F) of all clips of a table of features.py.

    Raises:
        FunctionalsError: if the table cannot be read or has no functionals.
    """
    with (
        reading_parquet(path, FunctionalsError, "a table of features.py"),
        open_parquet(path) as file,
    ):
        table = file.read().to_pandas()
    names = [name for name in Extractor("egemaps").names if name in table]
    if not names:
        raise FunctionalsError(
            f"{path} has no functionals of eGeMAPSv02, expected a table of features.py"
        )
    if list(table.index.names) != list(INDEX_COLUMNS) or not table.index.is_unique:
        raise FunctionalsError(f"{path} does not have one row for each file, start and end")
    for name in names:
        if not pd.api.types.is_float_dtype(table[name]) or np.isinf(table[name]).any():
            kind = table[name].dtype
            raise FunctionalsError(
                f"{path}: {name} ({kind}) holds other values than finite numbers"
            )
    return table[names]


def functionals_of(
    table: pd.DataFrame, clips: pd.Index, option: str = "data.features"
) -> pd.DataFrame:
    """Return the rows of clips (file, start, end) in a table of functionals.

    Args:
        table: of functionals.
        clips: whose rows are returned.
        option: that gave the table, for the message.

    Raises:
        FunctionalsError: if a clip is missing.
    """
    missing = clips.difference(table.index)
    if len(missing):
        raise FunctionalsError(
            f"{option}: {len(missing)} of {len(clips)} clips have no functionals, e.g. "
            f"{missing[0][0]}"
        )
    return table.loc[clips]


def measured_functionals(
    extractor: FunctionalsFeatureExtractor, recordings: Recordings, clips: pd.MultiIndex
) -> pd.DataFrame:
    """Return the functionals of clips (file, start, end), measured as a trained model does.

    Raises:
        AudioError: if a clip cannot be read.
        FunctionalsError: if a clip is too short.
    """
    rows = []
    for clip in with_progress(clips, len(clips), "functionals", "clip"):
        waveform = recordings.read(*clip)
        try:
            values = extractor(waveform, sampling_rate=SAMPLING_RATE)["input_values"][0]
        except ValueError as error:
            raise FunctionalsError(f"{clip[0]} cannot be measured: {error}") from error
        rows.append(values)
    return pd.DataFrame(np.stack(rows), clips, extractor.names)


def standards(training: pd.DataFrame) -> Functionals:
    """Return names, means and standard deviations of training clips, without undefined values."""
    names = list(training.columns)
    return Functionals(
        names,
        torch.tensor(training.mean().to_numpy(), dtype=torch.float32),
        torch.tensor(training.std(ddof=0).to_numpy(), dtype=torch.float32),
        undefined_rules(names),
    )
