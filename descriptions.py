"""What can be measured about a clip, in words: features, levels, phrases, a pseudo-caption.

    rows = measured_levels(waveform, "captions.edges.json")  # one row per descriptor
    wordings_of_levels()["pitch"]["high"]                    # ("pitch is high", ...)

The only room that knows how features.py measures and how preprocessing/template_creation.py words.
The edges between low, normal and high are those that were fitted to a training corpus: what is
normal there may not be normal elsewhere, of level (dB) least of all.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from features import feature_names, measure
from preprocessing import template_creation

LEVELS = template_creation.LEVELS


def measured_levels(waveform: np.ndarray, edges: str | Path) -> pd.DataFrame:
    """Measure a clip, and say for each descriptor with edges what level it has.

    Args:
        waveform: (T,) at 16 kHz
        edges: ``captions.edges.json`` of template_creation.py

    Returns:
        index ``descriptor``; ``value``, ``unit``, ``low`` and ``high`` (the edges, in that unit),
        ``level`` and ``phrase``, both missing where the value is undefined (an unvoiced clip)

    Raises:
        AudioError: if the clip cannot be measured
        ValueError: if the file does not hold edges
    """
    fitted = template_creation.parse_edges(Path(edges).read_text(encoding="utf-8"))
    features = pd.DataFrame([measure(waveform)], columns=feature_names())
    descriptors = [
        d for d in template_creation.DESCRIPTORS if d.name in fitted and d.column in features
    ]
    levels = template_creation.to_levels(features, fitted, descriptors)
    rows = []
    for descriptor in descriptors:
        level = levels[descriptor.output_column].iloc[0]
        is_defined = not pd.isna(level)
        bounds = fitted[descriptor.name]
        rows.append(
            {
                "descriptor": descriptor.name,
                "value": features[descriptor.column].iloc[0] if is_defined else np.nan,
                "unit": descriptor.unit,
                "low": bounds.low,
                "high": bounds.high,
                "level": level if is_defined else None,
                "phrase": descriptor.phrases[level][0] if is_defined else None,
            }
        )
    columns = ["descriptor", "value", "unit", "low", "high", "level", "phrase"]
    return pd.DataFrame(rows, columns=columns).set_index("descriptor")


def wordings_of_levels() -> dict[str, dict[str, tuple[str, ...]]]:
    """Return descriptor -> level -> its wordings, of everything that can be measured."""
    measurable = set(feature_names())
    return {
        descriptor.name: {level: descriptor.phrases[level] for level in LEVELS}
        for descriptor in template_creation.DESCRIPTORS
        if descriptor.column in measurable
    }
