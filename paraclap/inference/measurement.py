"""Measured levels of a clip: features, levels by the edges of a training corpus, phrases.

The edges between levels, three or five, were fitted to a training corpus. Levels in dB in
particular depend on the recording conditions of that corpus.
"""

import functools
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from paraclap.acoustics import egemaps
from paraclap.acoustics.chunks import DURATION
from paraclap.acoustics.extraction import measure
from paraclap.captions.edges import Edges, level_codes, read_edges
from paraclap.captions.levels import VOICING_COLUMN, defined_values
from paraclap.captions.templates import (
    FIVE_LEVELS,
    Comparison,
    Descriptor,
    Group,
    compared,
    default_descriptors,
)
from paraclap.errors import ParaCLAPError
from paraclap.files import reading_parquet
from paraclap.parquet import open_parquet

TRAINING = "train"
"""Split of a features table that edges are fitted to."""
MORE_DIGITS = 6
"""Digits that `distinct_digits` adds at most."""
_measuring = threading.Lock()
"""The one openSMILE instance is not thread-safe."""


class MeasurementError(ParaCLAPError, ValueError):
    """Edges or a features table that cannot be used to describe a clip."""


@functools.cache
def _extractor() -> egemaps.Extractor:
    return egemaps.Extractor("captions")


def _descriptors(five_levels: Collection[str] = ()) -> list[Descriptor]:
    """Return the descriptors of the default templates that can be measured on a single clip.

    Those named in `five_levels` have five levels, the others three.
    """
    measurable = {*_extractor().names, DURATION}
    pairs = zip(default_descriptors(), default_descriptors(five_levels=True), strict=True)
    descriptors = [five if three.name in five_levels else three for three, five in pairs]
    return [d for d in descriptors if d.kind == "level" and d.column in measurable]


def measured_levels(
    waveform: np.ndarray,
    edges: str | Path | None = None,
    labels: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Measure a clip, and return the level of each descriptor.

    Args:
        waveform: (T,) at 16 kHz.
        edges: `captions.edges.json` of template_creation.py; None = values without levels.
        labels: of the clip, column -> label, for edges that were fitted with `--edges-by`.

    Returns:
        Index `descriptor`; `value`, `unit`, `low` and `high` (the edges, in that unit), `below` and
        `above` (share of the training clips that are low, and high), `level` and `phrase`, both
        missing where the value is undefined (an unvoiced clip).

    Raises:
        AudioError: if the clip cannot be measured.
        MeasurementError: if the edges are by group, and the labels do not give a known group.
        InputError: if the file holds no edges.
    """
    fitted = {} if edges is None else read_edges(Path(edges), default_descriptors())
    groups = {name: _group(edges, entry, labels or {}) for name, entry in fitted.items()}
    with _measuring:
        record = measure(_extractor(), waveform)
    values = dict(zip(_extractor().names, record.values.tolist(), strict=True))
    values[DURATION] = record.seconds
    rows = []
    five_levels = [name for name, entry in fitted.items() if len(entry.quantiles) > 2]
    for descriptor in _descriptors(five_levels):
        value, name = values[descriptor.column], descriptor.name
        if name in fitted:
            rows.append(_level_row(descriptor, value, fitted[name], groups[name]))
        elif edges is None and descriptor.default:
            rows.append({"descriptor": name, "value": value, "unit": descriptor.unit})
    columns = ["descriptor", "value", "unit", "low", "high", "below", "above", "level", "phrase"]
    return pd.DataFrame(rows, columns=columns).set_index("descriptor")


def _comparison(column: str) -> Comparison:
    return Comparison(column, default_descriptors())


def _group(path: str | Path, fitted: Edges, labels: Mapping[str, str]) -> Group:
    """Return the group of a clip by its labels; () for edges without groups."""
    missing = [column for column in fitted.by if column not in labels]
    if missing:
        raise MeasurementError(
            f"{path} holds edges by {', '.join(missing)}: the {missing[0]} of the clip is required"
        )
    group = tuple(_comparison(column).group(labels[column]) for column in fitted.by)
    if group not in fitted.groups:
        given = ", ".join(f"{column} {labels[column]!r}" for column in fitted.by)
        known = "; ".join(", ".join(group) for group in fitted.groups)
        raise MeasurementError(f"{path} holds no edges for {given}, expected {known}")
    return group


def check_labels(edges: str | Path, labels: Mapping[str, str]) -> None:
    """Check that edges were fitted by the columns of labels, and for this group.

    Raises:
        MeasurementError: if they were not.
        InputError: if the file holds no edges.
    """
    fitted = read_edges(Path(edges), default_descriptors())
    columns = dict.fromkeys(column for entry in fitted.values() for column in entry.by)
    if unknown := [column for column in labels if column not in columns]:
        found = f"by {', '.join(columns)}" if columns else "for all clips together"
        raise MeasurementError(
            f"{edges} holds edges that were fitted {found}, not by {', '.join(unknown)}"
        )
    for entry in fitted.values():
        _group(edges, entry, labels)


def groups_of_edges(edges: str | Path) -> dict[str, tuple[str, ...]]:
    """Return column -> groups that edges were fitted by; empty without groups.

    Raises:
        InputError: if the file holds no edges
    """
    found: dict[str, dict[str, None]] = {}
    for fitted in read_edges(Path(edges), default_descriptors()).values():
        for place, column in enumerate(fitted.by):
            found.setdefault(column, {}).update({group[place]: None for group in fitted.groups})
    return {column: tuple(names) for column, names in found.items()}


def check_reference(edges: str | Path, features: str | Path | None) -> None:
    """Check that a file holds edges, and that a features table has their columns.

    Raises:
        MeasurementError: if the table cannot be used.
        InputError: if the file holds no edges.
    """
    fitted = read_edges(Path(edges), default_descriptors())
    if features is not None:
        columns = {d.column for d in default_descriptors() if d.name in fitted}
        _read_columns(features, columns, voiced=False)


def reference_values(
    features: str | Path, edges: str | Path, labels: Mapping[str, str] | None = None
) -> dict[str, np.ndarray]:
    """Return descriptor -> the defined values of the training clips, ascending.

    `features` is the table of features.py that the edges were fitted to. Only training clips of the
    group of `labels`, and descriptors with edges, are used.

    Raises:
        MeasurementError: if the table cannot be used, or as in `measured_levels`
        InputError: if the file holds no edges
    """
    fitted = read_edges(Path(edges), default_descriptors())
    found = {}
    for descriptor in _descriptors():
        if descriptor.name not in fitted:
            continue
        entry = fitted[descriptor.name]
        group = _group(edges, entry, labels or {})
        batch = _read_columns(features, {descriptor.column, *entry.by}, descriptor.voiced)
        values = defined_values(batch, descriptor)
        kept = ~np.isnan(values)
        for column, name in zip(entry.by, group, strict=True):
            comparison = _comparison(column)
            kept &= [comparison.group(label) == name for label in batch.column(column).to_pylist()]
        found[descriptor.name] = np.sort(values[kept])
    return found


def _read_columns(path: str | Path, columns: set[str], voiced: bool) -> pa.RecordBatch:
    """Return columns of the training rows, and the column that marks voiced clips, if present."""
    wanted = columns | {"split"} | ({VOICING_COLUMN} if voiced else set())
    with (
        reading_parquet(path, MeasurementError, "a table of features.py"),
        open_parquet(path) as file,
    ):
        known = set(file.schema_arrow.names)
        table = file.read(columns=sorted(wanted & known))
    if absent := columns - known:
        raise MeasurementError(
            f"{path} has no column {', '.join(sorted(absent))}, expected a features table"
        )
    if "split" in known:
        table = table.filter(pc.equal(table["split"].cast(pa.string()), TRAINING))
    if not len(table):
        raise MeasurementError(f"{path} has no training clips, expected a features table")
    return table.combine_chunks().to_batches()[0]


def _level_row(
    descriptor: Descriptor, value: float, fitted: Edges, group: Group
) -> dict[str, object]:
    bounds = fitted.groups[group]
    level = phrase = None
    if not np.isnan(value):
        level = descriptor.values[level_codes(value, bounds.edges)]
        comparisons = [_comparison(column) for column in fitted.by]
        phrase = compared(descriptor.phrases[level], group, comparisons)[0]
    return {
        "descriptor": descriptor.name,
        "value": value,
        "unit": descriptor.unit,
        "low": bounds.low,
        "high": bounds.high,
        "below": fitted.quantiles[len(fitted.quantiles) // 2 - 1],
        "above": 1 - fitted.quantiles[len(fitted.quantiles) // 2],
        "level": level,
        "phrase": phrase,
    }


def distinct_digits(
    value: float, bounds: Sequence[float], rounded: Callable[[float, int], float], digits: int
) -> int:
    """Return the fewest digits, from `digits` on, that keep a value on its side of each bound.

    Otherwise "high" could stand beside 199 Hz and a normal range up to 199 Hz.
    """
    for count in range(digits, digits + MORE_DIGITS):
        shown, *near = (rounded(number, count) for number in (value, *bounds))
        if all(np.sign(shown - n) == np.sign(value - b) for n, b in zip(near, bounds, strict=True)):
            return count
    return digits


def level_phrases(
    trained: Mapping[str, Collection[str]] | None = None,
) -> dict[str, dict[str, tuple[str, ...]]]:
    """Return descriptor -> level -> phrases, for all descriptors that can be measured.

    A descriptor has five levels if those of `trained`, descriptor -> levels, are five.
    """
    five_levels = [name for name, levels in (trained or {}).items() if {*FIVE_LEVELS} <= {*levels}]
    return {
        d.name: {level: d.phrases[level] for level in d.values} for d in _descriptors(five_levels)
    }
