"""Description of a clip: its measured levels beside those that the model predicts."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from paraclap.evaluation.prompt_sets import class_prompts
from paraclap.inference.classifier import ZeroShotClassifier
from paraclap.inference.measurement import distinct_digits, level_phrases, measured_levels

EMOTIONS = (
    "neutral, amused, angry, bored, calm, confused, contemptuous, disgusted, excited, fearful, "
    "frustrated, happy, pleasantly surprised, proud, relieved, sad, surprised"
)
LABELS = {"emotion": tuple(EMOTIONS.split(", ")), "gender": ("female", "male")}
"""Targets that are predicted besides the measured descriptors -> classes, unless recorded."""


@dataclass(frozen=True)
class Description:
    """Measured and predicted levels of a clip.

    Attributes:
        table: index `descriptor`; `value`, `unit`, `low`, `high`, `level`, `phrase` of
            `measured_levels` (missing for emotion and gender), `prediction` (level or label with
            the highest cosine), `confidence` (its probability: softmax over the levels or labels),
            and `trained` (False if no caption of the training describes the predicted level or
            label).
        caption: phrases of the measured levels.
        quality: flags that question the result, joined by `;`; often empty.
    """

    table: pd.DataFrame
    caption: str
    quality: str = ""

    def __str__(self) -> str:
        """Return the caption, and a line for each descriptor."""
        lines = [f"measured: {self.caption or 'no descriptor is defined'}"]
        if self.quality:
            lines.append(f"  check the recording: {self.quality}")
        for name, row in self.table.iterrows():
            measured = "not measured"
            if not pd.isna(row["low"]):
                low, high = row["low"], row["high"]
                digits = distinct_digits(row["value"], (low, high), _significant, 4)
                level = "undefined" if pd.isna(row["value"]) else f"{row['value']:.{digits}g}"
                bounds = f"normal {low:.{digits}g} to {high:.{digits}g} {row['unit']}"
                measured = f"{row['level'] or ''} {level} ({bounds})".strip()
            predicted = f"model: {row['prediction']} {row['confidence']:.2f}"
            predicted += "" if row["trained"] else " (not trained)"
            lines.append(f"  {name:<16}{measured:<72} {predicted}")
        return "\n".join(lines)


def _significant(number: float, digits: int) -> float:
    """Round to significant digits."""
    return float(f"{number:.{digits}g}")


def descriptor_prompts(
    trained: Mapping[str, Mapping[str, object]] | None = None,
) -> dict[str, dict[str, tuple[str, ...]]]:
    """Return descriptor -> level or label -> prompts.

    `trained` holds the classes that the model was trained on, see `trained_attributes`; None = not
    recorded. A model that was not trained on a target has the classes of `LABELS`; there are
    three levels, or five if it was trained on five.
    """
    labels = {}
    for target, default in LABELS.items():
        known = tuple((trained or {}).get(target, ()))
        classes = known if len(known) > 1 else default
        labels[target] = {name: class_prompts(name, target, "ensemble") for name in classes}
    return level_phrases(trained) | labels


def describe(
    waveform: np.ndarray,
    embedding: np.ndarray,
    classifiers: Mapping[str, ZeroShotClassifier],
    edges: str | Path,
    labels: Mapping[str, str] | None = None,
) -> Description:
    """Describe a clip by its waveform (T,) at 16 kHz and its embedding (1, D).

    The classifiers are those of the `descriptor_prompts`; for the rest see `ParaCLAP.describe`.
    """
    measured = measured_levels(waveform, edges, labels)
    names = [name for name in classifiers if name in measured.index or name in LABELS]
    predictions = [classifiers[name](embedding).iloc[0] for name in names]
    table = measured.reindex(pd.Index(names, name="descriptor"))
    table["prediction"] = [row["prediction"] for row in predictions]
    table["confidence"] = [row["confidence"] for row in predictions]
    table["trained"] = [
        row["prediction"] not in classifiers[name].untrained
        for name, row in zip(names, predictions, strict=True)
    ]
    return Description(table, " and ".join(measured["phrase"].dropna()))
