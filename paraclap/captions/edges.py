"""Edges between low, normal and high: exact quantiles, of all training rows or within groups."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from paraclap.captions.columns import decoded, is_number
from paraclap.captions.feature_tables import Features, shown
from paraclap.captions.input_errors import InputError
from paraclap.captions.phrases import Comparison, Group
from paraclap.captions.survey import Survey
from paraclap.captions.templates import Descriptor

QUANTILES = (0.3, 0.7)  # as in the paper (Jing et al., ParaCLAP, Interspeech 2024)
MINIMUM = 10  # fewer defined values than this give no edges


@dataclass(frozen=True)
class Bounds:
    """What is "normal", in the unit of the column."""

    low: float  # at or below is "low"
    high: float  # at or above is "high"
    n: int  # number of defined values that were used


@dataclass(frozen=True)
class Edges:
    """Bounds of one descriptor for each group of rows that is compared within itself."""

    column: str  # that was measured
    groups: dict[Group, Bounds]
    by: tuple[str, ...] = ()  # label columns that make the groups
    quantiles: tuple[float, float] = QUANTILES  # that the bounds are


def measured_values(
    batch: pa.RecordBatch, descriptor: Descriptor, unvoiced: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Values of a level descriptor as float64 (rows,), and which of them are undefined (rows,).

    Args:
        batch: with its column
        descriptor: of a level
        unvoiced: which rows have no voice (rows,), if that is known

    Raises:
        InputError: if the column does not hold numbers
    """
    column = decoded(batch.column(descriptor.column))
    if not is_number(column.type) and column.null_count < len(column):
        found = column.drop_null()[0].as_py()
        raise InputError(f"column {descriptor.column!r} holds {found!r}, expected numbers")
    values = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    undefined = ~np.isfinite(values)
    if descriptor.voiced:
        undefined |= values == 0
        if unvoiced is not None:
            undefined |= unvoiced
    return values, undefined


class Grouping:
    """Which group each row belongs to, when rows are compared within the labels of some columns.

    Attributes:
        by: the columns.
        groups: every combination of their labels; only () without any column.
    """

    def __init__(self, found: Survey, by: Sequence[str]) -> None:
        self.by = tuple(by)
        self._columns = [found.groups[column] for column in by]
        self.groups: list[Group] = [()]
        for _, names in self._columns:
            self.groups = [(*group, name) for group in self.groups for name in names]

    def codes(self, rows: slice) -> np.ndarray:
        """Places in `groups` (rows,), -1 where a label is missing."""
        codes = np.zeros(rows.stop - rows.start, np.int32)
        missing = np.zeros(len(codes), bool)
        for column, names in self._columns:
            codes = codes * len(names) + column[rows]
            missing |= column[rows] < 0
        codes[missing] = -1
        return codes

    def occurring(self, codes: np.ndarray) -> list[int]:
        """Places of the groups that rows are in; without columns, also when there are no rows."""
        return np.unique(codes[codes >= 0]).tolist() if self.by else [0]


def training_values(features: Features, found: Survey, descriptor: Descriptor) -> np.ndarray:
    """Values of a level descriptor (rows,), NaN where undefined or not of the training part."""
    values, done = np.empty(found.rows), 0
    for batch in shown(features, [descriptor.column], descriptor.name):
        rows = slice(done, done + len(batch))
        measured, undefined = measured_values(batch, descriptor, found.unvoiced_in(rows))
        values[rows] = np.where(undefined, np.nan, measured)
        done = rows.stop
    if found.training is not None:
        values[~found.training] = np.nan
    return values


def grouped_values(
    features: Features, found: Survey, descriptor: Descriptor, by: Sequence[str]
) -> dict[Group, np.ndarray]:
    """Defined training values of a level descriptor in each group that has rows."""
    values = training_values(features, found, descriptor)
    if not by:
        return {(): values[~np.isnan(values)]}
    grouping = Grouping(found, by)
    codes = grouping.codes(slice(0, found.rows))
    places = grouping.occurring(codes)
    defined = ~np.isnan(values) & (codes >= 0)
    values, codes = values[defined], codes[defined]
    order = np.argsort(codes, kind="stable")
    values, codes = values[order], codes[order]
    firsts, lasts = (np.searchsorted(codes, places, side) for side in ("left", "right"))
    return {
        grouping.groups[place]: values[first:last]
        for place, first, last in zip(places, firsts, lasts, strict=True)
    }


def fit_edges(
    features: Features,
    found: Survey,
    descriptors: Sequence[Descriptor],
    comparisons: Sequence[Comparison] = (),
    quantiles: tuple[float, float] = QUANTILES,
) -> dict[str, Edges]:
    """Exact quantiles of each level descriptor over the defined values of the training rows.

    A descriptor gets no edges in a group, and a warning is given, if fewer than `MINIMUM` values
    are defined there or if both edges are equal. Levels that the table gives itself need none.

    Args:
        features: tables
        found: by the survey of these tables
        descriptors: of levels
        comparisons: columns to compare within, as far as a descriptor allows it
        quantiles: that the edges are

    Returns:
        descriptor name -> edges; they do not depend on the order of the rows

    Raises:
        InputError: if there are splits but no "train", or if a column does not hold numbers
    """
    if found.training is None:
        splits = ", ".join(sorted(map(repr, found.splits)))
        raise InputError(f"no row has split 'train' (found {splits}), so reuse --edges")
    edges = {}
    for descriptor in descriptors:
        if descriptor.column in found.given:
            continue
        by = tuple(c.column for c in comparisons if {"*", c.column} & {*descriptor.edges_by})
        groups, lacking = {}, {}
        for group, values in grouped_values(features, found, descriptor, by).items():
            low = high = np.nan
            if len(values) >= MINIMUM:
                low, high = np.quantile(values, quantiles, overwrite_input=True).tolist()
            if low < high:
                groups[group] = Bounds(low, high, len(values))
            else:
                lacking[group] = len(values)
        if lacking:
            numbers = ", ".join(dict.fromkeys(map(str, lacking.values())))
            column = f"column {descriptor.column!r} has {numbers} defined training values"
            _warn(descriptor, lacking, f"{column}, expected at least {MINIMUM} that vary")
        if groups:
            edges[descriptor.name] = Edges(descriptor.column, groups, by, quantiles)
    return edges


def _warn(descriptor: Descriptor, groups: Iterable[Group], problem: str) -> None:
    """Say in which groups, if not everywhere, a descriptor gets no phrase."""
    names = [", ".join(group) for group in groups if group]
    listed = "; ".join(names[:5]) + (f" and {len(names) - 5} others" if len(names) > 5 else "")
    where = f" for {listed}" if names else ""
    warnings.warn(f"{descriptor.name} gets no phrase{where}: {problem}", stacklevel=3)


def check_edges(
    edges: Mapping[str, Edges], found: Survey, descriptors: Sequence[Descriptor], source: Path
) -> None:
    """Warn of descriptors and groups that edges from a file do not cover."""
    for descriptor in descriptors:
        fitted = edges.get(descriptor.name)
        if fitted is None and descriptor.column not in found.given:
            _warn(descriptor, [()], f"{source} has no edges for it")
        elif fitted is not None:
            grouping = Grouping(found, fitted.by)
            places = grouping.occurring(grouping.codes(slice(0, found.rows)))
            groups = [grouping.groups[place] for place in places]
            lacking = [group for group in groups if group not in fitted.groups]
            if lacking:
                _warn(descriptor, lacking, f"{source} has no edges for them")
