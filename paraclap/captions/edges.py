"""Edges between levels, and their file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paraclap.captions.templates import FIVE_LEVELS, LEVELS, Descriptor, Group, InputError
from paraclap.files import reading

QUANTILES = (0.3, 0.7)  # as in the paper (Jing et al., ParaCLAP, Interspeech 2024)
FIVE_QUANTILES = (0.1, *QUANTILES, 0.9)
FORMAT = 2
NAMES = {
    len(levels) - 1: tuple(level for level in levels if level != "normal")
    for levels in (LEVELS, FIVE_LEVELS)
}
"""Number of edges -> their names in the file, those of the levels that begin or end at them."""


@dataclass(frozen=True)
class Bounds:
    """Edges of one group of rows, ascending, in the unit of the column.

    A value at or below an edge of the lower half, or at or above one of the upper half, has the
    level beyond.
    """

    edges: tuple[float, ...]  # 2 for three levels, 4 for five
    n: int  # number of defined values that the edges were fitted to

    @property
    def low(self) -> float:
        """Lower edge of "normal"."""
        return self.edges[len(self.edges) // 2 - 1]

    @property
    def high(self) -> float:
        """Upper edge of "normal"."""
        return self.edges[len(self.edges) // 2]


@dataclass(frozen=True)
class Edges:
    """Bounds of one descriptor for each group of rows."""

    column: str
    groups: dict[Group, Bounds]
    by: tuple[str, ...] = ()  # label columns that define the groups
    quantiles: tuple[float, ...] = QUANTILES


def level_codes(values: np.ndarray, edges: Sequence[np.ndarray | float]) -> np.ndarray:
    """Return the place of each value among the levels between edges, 0 for the lowest (rows,)."""
    middle = len(edges) // 2
    beyond = [values > edge for edge in edges[:middle]]
    beyond += [values >= edge for edge in edges[middle:]]
    return np.sum(beyond, axis=0, dtype=np.int8)


def edges_beside(captions: Path) -> Path:
    """Return the path of the edges beside a captions table."""
    return captions.with_name(f"{captions.stem}.edges.json")


def edges_to_dict(edges: Mapping[str, Edges]) -> dict[str, Any]:
    """Return edges as plain mappings; exact numbers as their shortest decimal text."""
    entries = {
        name: {
            "column": fitted.column,
            "quantiles": [repr(float(quantile)) for quantile in fitted.quantiles],
            "by": list(fitted.by),
            "groups": [
                {
                    "group": list(group),
                    **dict(zip(NAMES[len(b.edges)], map(repr, b.edges), strict=True)),
                    "n": b.n,
                }
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
            finite = np.isfinite(bounds.edges).all() and bounds.low < bounds.high
            if (
                not finite
                or [*bounds.edges] != sorted(bounds.edges)
                or len(group) != len(fitted.by)
            ):
                raise InputError(
                    f"edges of {name!r} are {' and '.join(map(str, bounds.edges))} for "
                    f"{list(group)} of {list(fitted.by)}, expected finite numbers, low below high"
                )
    return edges


def _as_edges(entry: Mapping[str, Any]) -> Edges:
    """Return the edges of one descriptor."""
    quantiles = tuple(map(float, entry["quantiles"]))
    names = NAMES[len(quantiles)]
    groups = {
        _texts(part["group"]): Bounds(tuple(float(part[name]) for name in names), int(part["n"]))
        for part in entry["groups"]
    }
    return Edges(entry["column"], groups, _texts(entry["by"]), quantiles)


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
