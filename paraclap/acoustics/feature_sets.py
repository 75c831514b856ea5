"""Feature sets: parts of the component graph of eGeMAPSv02, described in feature_sets.yaml."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from paraclap.files import parse_yaml


@dataclass(frozen=True)
class FeatureSet:
    """One line for ``--help``, and component -> key -> value that replaces eGeMAPSv02's."""

    about: str
    changes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


_TEXT = Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
FEATURE_SETS = {name: FeatureSet(**entry) for name, entry in parse_yaml(_TEXT).items()}
"""Feature sets by name."""
