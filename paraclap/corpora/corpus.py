"""Description of a corpus: how it is read, and how the paper scores it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd


@dataclass(frozen=True)
class Corpus:
    """Description of a corpus."""

    name: str
    title: str
    reader: Callable[[Path], pd.DataFrame]
    expected: str
    """Layout below the root, for error messages."""
    clips: int | None
    """Number of labelled recordings in the published corpus; None if it varies by release."""
    classes: Mapping[str, str | None]
    """Label of the corpus -> scored class; None if it is not scored."""
    published: Mapping[str, str]
    """Class -> prompt of the paper."""
    licence: str
    citation: str = field(repr=False)
    language: str = ""
    """ISO 639-1 code; several are separated by commas, and the reader returns one per clip."""
    speakers: int | None = None
    """Number of speakers in the published corpus; None if unknown or varying."""
    target: str = "emotion"
    """Column of the labels."""
    part: Mapping[str, str] = field(default_factory=dict)
    """Column -> value of the rows that the paper evaluates; empty for all rows."""
    averaged_over: str | None = None
    """Column over whose values the paper averages the UAR; None for the UAR of all rows."""
    printed: Mapping[str, float] = field(default_factory=dict)
    """System -> published zero-shot UAR."""


SYSTEMS = ("CLAP", "Pengi", "ParaCLAP", "SmoothCLAP")
ANYWHERE = r"(?:.*/)?"
"""Start of a pattern: folders above are ignored, because unpacked archives differ in them."""


def scored_labels(labels: str) -> dict[str, dict[str, str]]:
    """Return the fields of a corpus whose labels are both its classes and its prompts."""
    itself = {label: label for label in labels.split(", ")}
    return {"classes": itself, "published": itself}


def printed_scores(*scores: float) -> dict[str, float]:
    """Return the published UARs by system, in the order of `SYSTEMS`."""
    return dict(zip(SYSTEMS, scores, strict=True))
