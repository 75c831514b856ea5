"""What can be measured about a clip, in words: features, levels, phrases, a pseudo-caption.

    rows = measured_levels(waveform, "captions.edges.json")  # one row per descriptor
    wordings_of_levels()["pitch"]["high"]                    # ("pitch is high", ...)

The only room that knows how features.py measures and how preprocessing/template_creation.py words.
The edges between low, normal and high are those that were fitted to a training corpus: what is
normal there may not be normal elsewhere, of level (dB) least of all.
"""

import functools
from pathlib import Path

import numpy as np
import pandas as pd

import smile
from extraction import measure
from parts import DURATION
from preprocessing.captioning.edges import Bounds
from preprocessing.captioning.edges_file import parse_edges
from preprocessing.captioning.templates import LEVELS, Descriptor, default_descriptors


@functools.cache
def _extractor() -> smile.Extractor:
    return smile.Extractor("captions")


def _descriptors() -> list[Descriptor]:
    """Descriptors of the default templates that one clip tells by itself."""
    measurable = {*_extractor().names, DURATION}
    return [d for d in default_descriptors() if d.kind == "level" and d.column in measurable]


def measured_levels(waveform: np.ndarray, edges: str | Path) -> pd.DataFrame:
    """Measure a clip, and say for each descriptor with edges what level it has.

    Args:
        waveform: (T,) at 16 kHz
        edges: ``captions.edges.json`` of template_creation.py, fitted without ``--edges-by``

    Returns:
        index ``descriptor``; ``value``, ``unit``, ``low`` and ``high`` (the edges, in that unit),
        ``level`` and ``phrase``, both missing where the value is undefined (an unvoiced clip)

    Raises:
        AudioError: if the clip cannot be measured
        ValueError: if the file does not hold edges, or such of groups that the clip is not known
            to belong to
    """
    descriptors = default_descriptors()
    fitted = parse_edges(Path(edges).read_text(encoding="utf-8"), descriptors)
    grouped = sorted({column for entry in fitted.values() for column in entry.by})
    if grouped:
        raise ValueError(f"{edges} holds edges by {', '.join(grouped)}, expected them of everyone")
    record = measure(_extractor(), waveform)
    values = dict(zip(_extractor().names, record.values.tolist(), strict=True))
    values[DURATION] = record.seconds
    rows = [
        _level_row(descriptor, values[descriptor.column], fitted[descriptor.name].groups[()])
        for descriptor in _descriptors()
        if descriptor.name in fitted
    ]
    columns = ["descriptor", "value", "unit", "low", "high", "level", "phrase"]
    return pd.DataFrame(rows, columns=columns).set_index("descriptor")


def _level_row(descriptor: Descriptor, value: float, bounds: Bounds) -> dict[str, object]:
    level = None
    if not np.isnan(value):
        level = "low" if value <= bounds.low else "high" if value >= bounds.high else "normal"
    return {
        "descriptor": descriptor.name,
        "value": value,
        "unit": descriptor.unit,
        "low": bounds.low,
        "high": bounds.high,
        "level": level,
        "phrase": None if level is None else descriptor.phrases[level][0],
    }


def wordings_of_levels() -> dict[str, dict[str, tuple[str, ...]]]:
    """Return descriptor -> level -> its wordings, of everything that can be measured."""
    return {d.name: {level: d.phrases[level] for level in LEVELS} for d in _descriptors()}
