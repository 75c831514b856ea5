"""Edges between the levels low, normal and high, and their file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paraclap.captions.templates import Descriptor, Group, InputError
from paraclap.files import reading

QUANTILES = (0.3, 0.7)  # as in the paper (Jing et al., ParaCLAP, Interspeech 2024)
FORMAT = 2


@dataclass(frozen=True)
class Bounds:
    """Edges of "normal", in the unit of the column."""

    low: float  # at or below is "low"
    high: float  # at or above is "high"
    n: int  # number of defined values that the edges were fitted to


@dataclass(frozen=True)
class Edges:
    """Bounds of one descriptor for each group of rows."""

    column: str
    groups: dict[Group, Bounds]
    by: tuple[str, ...] = ()  # label columns that define the groups
    quantiles: tuple[float, float] = QUANTILES


def edges_to_dict(edges: Mapping[str, Edges]) -> dict[str, Any]:
    """Return edges as plain mappings; exact numbers as their shortest decimal text."""
    entries = {
        name: {
            "column": fitted.column,
            "quantiles": [repr(float(quantile)) for quantile in fitted.quantiles],
            "by": list(fitted.by),
            "groups": [
                {"group": list(group), "low": repr(b.low), "high": repr(b.high), "n": b.n}
                for group, b in fitted.groups.items()
            ],
        }
        for name, fitted in edges.items()
    }
    return {"format": FORMAT, "descriptors": entries}


def parse_edges(text: str | bytes, descriptors: Sequence[Descriptor]) -> dict[str, Edges]:
    """Return the edges in the JSON of `edges_to_dict`, bit-identical to the fitted ones.

    Raises:
        InputError: if the text has another form, or a descriptor is unknown or of another column
    """
    try:
        content = json.loads(text)
        if content["format"] != FORMAT:
            raise InputError(f"edges of format {content['format']}, expected {FORMAT}")
        edges = {name: _as_edges(entry) for name, entry in content["descriptors"].items()}
    except InputError:
        raise
    except (
        AttributeError,
        KeyError,
        OverflowError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        expected = "expected the captions.edges.json of template_creation.py"
        raise InputError(f"not a file of edges, {expected}") from error
    columns = {descriptor.name: descriptor.column for descriptor in descriptors}
    for name, fitted in edges.items():
        if name not in columns:
            raise InputError(f"edges of unknown descriptor {name!r}, expected {', '.join(columns)}")
        if fitted.column != columns[name]:
            raise InputError(
                f"edges of {name!r} are of column {fitted.column!r}, expected {columns[name]!r}"
            )
        for group, bounds in fitted.groups.items():
            if not -np.inf < bounds.low < bounds.high < np.inf or len(group) != len(fitted.by):
                raise InputError(
                    f"edges of {name!r} are {bounds.low} and {bounds.high} for {list(group)} of "
                    f"{list(fitted.by)}, expected finite numbers, low below high"
                )
    return edges


def _as_edges(entry: Mapping[str, Any]) -> Edges:
    """Return the edges of one descriptor."""
    groups = {
        _texts(part["group"]): Bounds(float(part["low"]), float(part["high"]), int(part["n"]))
        for part in entry["groups"]
    }
    low, high = map(float, entry["quantiles"])
    return Edges(entry["column"], groups, _texts(entry["by"]), (low, high))


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"{values!r}, expected a list of texts")
    return tuple(values)


def read_edges(path: Path, descriptors: Sequence[Descriptor]) -> dict[str, Edges]:
    """Return the edges in a file of `edges_to_dict`.

    Raises:
        InputError: if the file cannot be read or parsed
    """
    with reading(path, InputError):
        content = path.read_bytes()
    try:
        return parse_edges(content, descriptors)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
