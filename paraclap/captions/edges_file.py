"""Edges as JSON, bit for bit as they were fitted."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from paraclap.captions.edges import Bounds, Edges
from paraclap.captions.input_errors import InputError
from paraclap.captions.templates import Descriptor

EDGES_FORMAT = 2  # 1 had no groups, and is still read


def edges_to_dict(edges: Mapping[str, Edges]) -> dict[str, Any]:
    """Edges as plain mappings, numbers that have to be exact as the shortest decimal text."""
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
    return {"format": EDGES_FORMAT, "descriptors": entries}


def _as_edges(entry: Mapping[str, Any]) -> Edges:
    """Edges of one descriptor from format 2."""
    groups = {
        tuple(part["group"]): Bounds(float(part["low"]), float(part["high"]), part["n"])
        for part in entry["groups"]
    }
    quantiles = tuple(map(float, entry["quantiles"]))
    known = {"column": entry["column"], "groups": groups, "by": tuple(entry["by"])}
    if entry.keys() - known - {"quantiles"}:
        raise ValueError(f"unknown {sorted(entry.keys() - known - {'quantiles'})}")
    return Edges(**known, quantiles=quantiles)


def _from_format_1(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Edges of one descriptor from the format without groups, in format 2."""
    bounds = {name: entry[name] for name in ("low", "high", "n")}
    rest = {name: value for name, value in entry.items() if name not in bounds}
    return {**rest, "by": [], "groups": [{"group": [], **bounds}]}


EDGES_READERS: dict[int, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {
    1: _from_format_1,
    EDGES_FORMAT: dict,
}


def parse_edges(text: str, descriptors: Sequence[Descriptor]) -> dict[str, Edges]:
    """Edges from the JSON of `edges_to_dict`, bit for bit as they were fitted.

    Raises:
        InputError: if the form is another one, or a descriptor is unknown or of another column
    """
    try:
        content = json.loads(text)
        if content["format"] not in EDGES_READERS:
            raise ValueError(f"format is {content['format']!r}, expected 1 or {EDGES_FORMAT}")
        convert = EDGES_READERS[content["format"]]
        edges = {n: _as_edges(convert(entry)) for n, entry in content["descriptors"].items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"no edges of this program ({error!r})") from error
    columns = {descriptor.name: descriptor.column for descriptor in descriptors}
    for name, fitted in edges.items():
        if name not in columns:
            raise InputError(f"edges of unknown descriptor {name!r}, expected {', '.join(columns)}")
        bounds = fitted.groups.values()
        finite = all(-np.inf < b.low < b.high < np.inf for b in bounds)
        whole = all(len(group) == len(fitted.by) for group in fitted.groups)
        if fitted.column != columns[name] or not finite or not whole:
            expected = f"column {columns[name]!r} and finite bounds, low below high"
            raise InputError(f"edges of {name!r} are {fitted}, expected {expected}")
    return edges
