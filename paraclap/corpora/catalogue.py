"""Corpora that are known by name: `CORPORA`, described in catalogue.yaml."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pandas as pd

from paraclap.corpora.audio_files import read_files
from paraclap.files import parse_yaml


@dataclass(frozen=True)
class Corpus:
    """Description of a corpus: how it is read, and how the paper scores it."""

    name: str
    title: str
    reader: Callable[[Path], pd.DataFrame]
    expected: str
    """Layout below the root, for error messages."""
    classes: Mapping[str, str | None]
    """Label of the corpus -> scored class; None if it is not scored."""
    published: Mapping[str, str]
    """Class -> prompt of the paper; for other corpora the label, as in the paper on MSP-Podcast."""
    licence: str = ""
    citation: str = field(default="", repr=False)
    clips: int | None = None
    """Number of labelled recordings in the published corpus; None if it varies by release."""
    speakers: int | None = None
    """Number of speakers in the published corpus; None if unknown or varying."""
    language: str = ""
    """ISO 639-1 code; several are separated by commas, and the reader returns one per clip."""
    target: str = "emotion"
    """Column of the labels."""
    part: Mapping[str, str] = field(default_factory=dict)
    """Column -> value of the rows that the paper evaluates; empty for all rows."""
    averaged_over: str | None = None
    """Column over whose values the paper averages the UAR; None for the UAR of all rows."""
    printed: Mapping[str, float] = field(default_factory=dict)
    """System -> published zero-shot UAR."""


def _read_catalogue() -> dict[str, Corpus]:
    text = Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
    corpora = {}
    for name, entry in parse_yaml(text).items():
        if isinstance(entry["classes"], list):
            entry["classes"] = entry["published"] = {label: label for label in entry["classes"]}
        reader = partial(read_files, **entry.pop("files"))
        corpora[name] = Corpus(name=name, reader=reader, **entry)
    return corpora


CORPORA = _read_catalogue()
"""Name on the command line -> corpus."""
