"""Descriptors whose values the quality flags of a clip make doubtful."""

import functools
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from paraclap.captions.sources import encode
from paraclap.captions.templates import Descriptor

QUALITY = "quality"  # column with flags such as "clipped:0.0120;mixed:2"

LEVEL = ("equivalentSoundLevel_dBp", "loudness_sma3_amean")
DYNAMICS = ("loudness_sma3_stddevNorm",)
RATE = ("loudnessPeaksPerSec",)
SEGMENTS = ("MeanVoicedSegmentLengthSec", "MeanUnvoicedSegmentLength")
PITCH, PITCH_VARIATION = (f"F0semitoneFrom27.5Hz_sma3nz_{name}" for name in ("amean", "stddevNorm"))
SHIMMER = "shimmerLocaldB_sma3nz_amean"
PERTURBATION = ("jitterLocal_sma3nz_amean", SHIMMER)
TILT = ("alphaRatioV_sma3nz_amean", "hammarbergIndexV_sma3nz_amean")
FIRST_HARMONIC = "logRelF0-H1-H2_sma3nz_amean"
SPECTRUM = ("HNRdBACF_sma3nz_amean", *TILT)
VOICE = (*SEGMENTS, PITCH, PITCH_VARIATION, *PERTURBATION, *SPECTRUM, FIRST_HARMONIC)


@dataclass(frozen=True)
class Doubt:
    """Columns of a features table that a flag makes doubtful.

    Attributes:
        flag: its name.
        columns: doubtful measures.
        above: smallest number in the flag, such as the share of clipped samples.
    """

    flag: str
    columns: tuple[str, ...]
    above: float = 0.0


DOUBTS = (
    Doubt("silent", (*LEVEL, *DYNAMICS, *RATE, *VOICE)),
    Doubt("unvoiced", VOICE),
    Doubt("antiphase", (*LEVEL, *(column for column in VOICE if column != PITCH))),
    Doubt("offset", (*LEVEL, *DYNAMICS, *SEGMENTS, *PERTURBATION, *SPECTRUM)),
    Doubt("offset", (PITCH_VARIATION, *RATE, FIRST_HARMONIC), above=0.03),
    Doubt("clipped", (*DYNAMICS, *RATE, SHIMMER), above=0.01),
    Doubt("clipped", (*LEVEL, SEGMENTS[1], PERTURBATION[0], *TILT, FIRST_HARMONIC), above=0.05),
    Doubt("truncated", ("Duration",)),
)
"""Measured on 60 clips each of RAVDESS and EmoDB: at least a tenth of the clips with the fault get
another level of these measures (docs/corpora.md). What is left of a truncated clip is described."""


def doubtful(batch: pa.RecordBatch, descriptor: Descriptor) -> np.ndarray:
    """Return for which rows the flags make a measured descriptor doubtful (rows,)."""
    if QUALITY not in batch.schema.names:
        return np.zeros(len(batch), bool)
    codes, texts = encode(batch.column(QUALITY))
    found = [descriptor.column in _doubtful_columns(str(text)) for text in texts]
    return np.array([*found, False])[codes]


@functools.lru_cache(maxsize=100_000)
def _doubtful_columns(text: str) -> frozenset[str]:
    """Return the columns that a text of flags makes doubtful."""
    columns: set[str] = set()
    for flag in text.split(";"):
        name, _, number = flag.strip().partition(":")
        for doubt in DOUBTS:
            if doubt.flag == name and (not doubt.above or abs(_number(number)) >= doubt.above):
                columns.update(doubt.columns)
    return frozenset(columns)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
