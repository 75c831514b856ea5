"""Levels of measured descriptors: edges as exact quantiles of the training rows.

A value is "low" at or below the lower edge, "high" at or above the upper edge, else "normal"; with
five levels also "very low" and "very high". Edges are fitted to all training rows or within groups
of rows.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from paraclap.captions.edges import FIVE_QUANTILES, Bounds, Edges, level_codes
from paraclap.captions.quality import QUALITY, doubtful
from paraclap.captions.sources import LabelEncoder, decoded, encode, value_type
from paraclap.captions.tables import Features
from paraclap.captions.templates import Comparison, Descriptor, Group, InputError

MINIMUM = 10  # fewest defined values that edges are fitted to
# openSMILE writes 0.0 here when no frame of the clip is voiced
VOICING_COLUMN = "F0semitoneFrom27.5Hz_sma3nz_amean"


def is_number(kind: pa.DataType) -> bool:
    """Return whether values are numbers or truth values."""
    checks = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal)
    return any(check(kind) for check in checks)


def defined_values(batch: pa.RecordBatch, descriptor: Descriptor) -> np.ndarray:
    """Return the values of a level descriptor as float64 (rows,), NaN where undefined.

    Undefined are infinite values, those that the quality flags make doubtful and, for voiced
    descriptors, zeros and all values of clips that are unvoiced by `VOICING_COLUMN`. Without the
    columns of flags and of voicing, these are not considered.

    Raises:
        InputError: if the column does not hold numbers
    """
    return np.where(doubtful(batch, descriptor), np.nan, measured_values(batch, descriptor))


def measured_values(batch: pa.RecordBatch, descriptor: Descriptor) -> np.ndarray:
    """Return the values of `defined_values`, including doubtful ones (rows,)."""
    values = _floats(batch, descriptor.column)
    undefined = ~np.isfinite(values)
    if descriptor.voiced:
        undefined |= values == 0
        if VOICING_COLUMN in batch.schema.names:
            voicing = _floats(batch, VOICING_COLUMN)
            undefined |= (voicing == 0) | np.isnan(voicing)
    return np.where(undefined, np.nan, values)


def _floats(batch: pa.RecordBatch, name: str) -> np.ndarray:
    column = decoded(batch.column(name))
    if not is_number(column.type) and column.null_count < len(column):
        found = column.drop_null()[0].as_py()
        raise InputError(f"column {name!r} holds {found!r}, expected numbers")
    return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def columns_of(features: Features, descriptor: Descriptor) -> list[str]:
    """Return the columns that `defined_values` reads."""
    others = [QUALITY, *([VOICING_COLUMN] if descriptor.voiced else [])]
    return [descriptor.column, *(name for name in others if name in features.schema.names)]


def given_levels(features: Features, descriptors: Iterable[Descriptor]) -> frozenset[str]:
    """Return the columns of level descriptors that hold the levels themselves.

    Raises:
        InputError: if such a column holds another text
    """
    found = set()
    for descriptor in (d for d in descriptors if d.kind == "level"):
        name, levels = descriptor.column, descriptor.values
        if is_number(value_type(features.schema.field(name).type)):
            continue
        values = features.distinct(name)
        if odd := [value for value in values if value not in levels]:
            expected = f"numbers or only {'/'.join(levels)}"
            raise InputError(f"column {name!r} holds {odd[0]!r}, expected {expected}")
        found |= {name} if values else set()
    return frozenset(found)


class Groups:
    """Groups of rows with equal labels in some columns.

    Attributes:
        missing: column -> number of rows without a label.
    """

    def __init__(self, features: Features, comparisons: Iterable[Comparison]) -> None:
        encoders = {c.column: LabelEncoder(c.group) for c in comparisons}
        codes = {column: [np.empty(0, np.int32)] for column in encoders}
        for batch in features.batches(encoders, "groups") if encoders else ():
            for column, encoder in encoders.items():
                codes[column].append(encoder.encode(batch.column(column)))
        self._codes = {column: np.concatenate(found) for column, found in codes.items()}
        self._labels = {column: encoder.labels for column, encoder in encoders.items()}
        self._known: dict[tuple[str, ...], tuple[np.ndarray, list[Group]]] = {}
        self.missing = {column: int((found < 0).sum()) for column, found in self._codes.items()}

    def names(self, by: Sequence[str]) -> list[Group]:
        """Return the combinations of labels that rows have, sorted; only () without columns."""
        return self._combinations(tuple(by))[1] if by else [()]

    def codes(self, rows: slice, by: Sequence[str]) -> np.ndarray:
        """Return the place of some rows in `names` (rows,), -1 where a label is missing.

        Args:
            rows: of all features
            by: at least one column
        """
        joint = self._joint_codes(rows, by)
        places = np.searchsorted(self._combinations(tuple(by))[0], joint)
        return np.where(joint < 0, -1, places).astype(np.int32)

    def _joint_codes(self, rows: slice, by: Sequence[str]) -> np.ndarray:
        """Return a number for each combination of labels (rows,), -1 where one is missing."""
        columns = [self._codes[column][rows] for column in by]
        joint = np.zeros(len(columns[0]), np.int64)
        for column, codes in zip(by, columns, strict=True):
            joint = joint * len(self._labels[column]) + codes
        joint[np.any([codes < 0 for codes in columns], axis=0)] = -1
        return joint

    def _combinations(self, by: tuple[str, ...]) -> tuple[np.ndarray, list[Group]]:
        """Return the numbers of the combinations that rows have, sorted, and their labels."""
        if by not in self._known:
            self._known[by] = self._find_combinations(by)
        return self._known[by]

    def _find_combinations(self, by: Sequence[str]) -> tuple[np.ndarray, list[Group]]:
        found = np.unique(self._joint_codes(slice(None), by))
        found = rest = found[found >= 0]
        labels: list[list[str]] = []
        for column in reversed(by):
            rest, places = np.divmod(rest, len(self._labels[column]))
            labels.insert(0, [self._labels[column][place] for place in places.tolist()])
        return found, list(zip(*labels, strict=True))


def comparisons_by(
    columns: Iterable[str], features: Features, templates: Sequence[Descriptor]
) -> list[Comparison]:
    """Return the comparisons within columns.

    Raises:
        InputError: if the features lack a column, or no descriptor is compared within it
    """
    columns = list(dict.fromkeys(columns))
    for column in columns:
        if column not in features.labels:
            raise InputError(f"edges by {column!r} need that column, found {features.labels}")
        if not any({"*", column} & {*d.edges_by} for d in templates if d.kind == "level"):
            raise InputError(f"no descriptor of the templates is compared by {column!r}")
    return [Comparison(column, templates) for column in columns]


def training_values(
    features: Features, groups: Groups, descriptor: Descriptor, by: Sequence[str]
) -> dict[Group, np.ndarray]:
    """Return the defined values of the training rows in each group that has rows."""
    values, places, done = [np.empty(0)], [np.empty(0, np.int32)], 0
    for batch in features.batches(columns_of(features, descriptor), descriptor.name):
        rows = slice(done, done + len(batch))
        defined, done = defined_values(batch, descriptor), rows.stop
        kept = features.training[rows] & ~np.isnan(defined)
        if by:
            codes = groups.codes(rows, by)
            kept &= codes >= 0
            places.append(codes[kept])
        values.append(defined[kept])
    joined = np.concatenate(values)
    if not by:
        return {(): joined}
    codes = np.concatenate(places)
    order = np.argsort(codes, kind="stable")
    joined, codes = joined[order], codes[order]
    names = groups.names(by)
    limits = np.searchsorted(codes, np.arange(len(names) + 1)).tolist()
    return {
        group: joined[first:last]
        for group, first, last in zip(names, limits[:-1], limits[1:], strict=True)
    }


def fit_edges(
    features: Features,
    groups: Groups,
    descriptors: Sequence[Descriptor],
    comparisons: Sequence[Comparison] = (),
    quantiles: tuple[float, ...] = FIVE_QUANTILES,
) -> dict[str, Edges]:
    """Return the exact quantiles of each level descriptor over its defined training values.

    A descriptor gets no edges in a group, with a warning, if fewer than `MINIMUM` values are
    defined there or both edges are equal. Columns of levels need no edges.

    Args:
        features: tables
        groups: of the columns of `comparisons`
        descriptors: of levels
        comparisons: columns to compare within, where `edges_by` of a descriptor allows it
        quantiles: of the edges, 2 or 4; the middle ones are those of three levels

    Returns:
        descriptor name -> edges; independent of the order of the rows

    Raises:
        InputError: if there are splits but no "train", a column does not hold numbers, or five
            levels have 2 quantiles
    """
    if features.splits and not features.training.any():
        found = ", ".join(sorted(map(repr, features.splits)))
        raise InputError(f"no row has split 'train' (found {found}), so reuse --edges")
    given = given_levels(features, descriptors)
    edges = {}
    for descriptor in descriptors:
        if descriptor.column in given:
            continue
        by = tuple(c.column for c in comparisons if {"*", c.column} & {*descriptor.edges_by})
        wanted = _quantiles_of(descriptor, quantiles)
        fitted, lacking = {}, {}
        for group, values in training_values(features, groups, descriptor, by).items():
            found = [np.nan] * len(wanted)
            if len(values) >= MINIMUM:
                found = np.quantile(values, wanted, overwrite_input=True).tolist()
            bounds = Bounds(tuple(found), len(values))
            if bounds.low < bounds.high:
                fitted[group] = bounds
            else:
                lacking[group] = len(values)
        if lacking:
            numbers = ", ".join(dict.fromkeys(map(str, lacking.values())))
            column = f"column {descriptor.column!r} has {numbers} defined training values"
            _warn(descriptor, lacking, f"{column}, expected at least {MINIMUM} that vary")
        if fitted:
            edges[descriptor.name] = Edges(descriptor.column, fitted, by, wanted)
    return edges


def _quantiles_of(descriptor: Descriptor, quantiles: tuple[float, ...]) -> tuple[float, ...]:
    """Return the quantiles of the edges between the levels of a descriptor."""
    needed = len(descriptor.values) - 1
    if needed > len(quantiles):
        raise InputError(
            f"{descriptor.name} has the levels {', '.join(descriptor.values)}, expected {needed} "
            f"quantiles, got {len(quantiles)}"
        )
    surplus = (len(quantiles) - needed) // 2
    return quantiles[surplus : len(quantiles) - surplus]


class LevelCoder:
    """Codes of the levels and rules of record batches.

    Attributes:
        levels: level descriptors.
    """

    def __init__(
        self,
        features: Features,
        groups: Groups,
        levels: Sequence[Descriptor],
        edges: Mapping[str, Edges],
    ) -> None:
        self.levels, self._groups, self._edges = levels, groups, edges
        self._given = given_levels(features, levels)
        self._bounds = {name: self._bounds_of(fitted) for name, fitted in edges.items()}

    def _bounds_of(self, edges: Edges) -> np.ndarray:
        """Return the edges of each group, NaN for none (edges, groups + 1)."""
        bounds = [edges.groups.get(group) for group in self._groups.names(edges.by)]
        undefined = (np.nan,) * len(edges.quantiles)
        return np.array([b.edges if b else undefined for b in [*bounds, None]]).T

    def by(self, descriptor: Descriptor) -> tuple[str, ...]:
        """Return the columns within which a level, or the levels of a rule, are compared."""
        edges = [self._edges.get(name) for name in descriptor.rule or [descriptor.name]]
        return tuple(dict.fromkeys(c for fitted in edges if fitted for c in fitted.by))

    def codes(
        self, batch: pa.RecordBatch, rows: slice, rules: Iterable[Descriptor]
    ) -> dict[str, np.ndarray]:
        """Return the places in `Descriptor.values` (rows,) by descriptor, -1 where undefined.

        Args:
            batch: of features
            rows: of all features, that the batch holds
            rules: descriptors of rules
        """
        codes = {d.name: self._level(batch, rows, d) for d in self.levels}
        levels = {d.name: d.values for d in self.levels}
        return codes | {rule.name: _rule_codes(rule, codes, levels) for rule in rules}

    def doubtful(self, batch: pa.RecordBatch) -> dict[str, int]:
        """Return the number of measured but doubtful values of each level descriptor."""
        counts = {}
        for descriptor in self.levels:
            rows = doubtful(batch, descriptor)
            if rows.any() and descriptor.column not in self._given:
                rows &= ~np.isnan(measured_values(batch, descriptor))
            counts[descriptor.name] = int(rows.sum())
        return counts

    def _level(self, batch: pa.RecordBatch, rows: slice, descriptor: Descriptor) -> np.ndarray:
        if descriptor.column in self._given:
            codes, levels = encode(batch.column(descriptor.column))
            places = {level: place for place, level in enumerate(descriptor.values)}
            return np.array([*(places.get(level, -1) for level in levels), -1], np.int8)[codes]
        if descriptor.name not in self._edges:
            return np.full(len(batch), -1, np.int8)
        values = defined_values(batch, descriptor)
        by = self._edges[descriptor.name].by
        places = self._groups.codes(rows, by) if by else 0
        edges = [edge[places] for edge in self._bounds[descriptor.name]]
        codes = level_codes(values, edges)
        codes[np.isnan(values) | np.isnan(edges[0])] = -1
        return codes


def _rule_codes(
    rule: Descriptor, codes: Mapping[str, np.ndarray], levels: Mapping[str, Sequence[str]]
) -> np.ndarray:
    """Return the place in PRESENCE of each row; -1 where a part is undefined.

    The levels of a rule include those beyond: "low" includes "very low".
    """
    parts = [codes[name] for name in rule.rule]
    allowed = [
        [level.removeprefix("very ") in wanted for level in levels[name]]
        for name, wanted in rule.rule.items()
    ]
    holds = [np.array(a)[part] for a, part in zip(allowed, parts, strict=True)]
    undefined = np.any([part < 0 for part in parts], axis=0)
    return np.where(undefined, -1, np.all(holds, axis=0)).astype(np.int8)


def check_edges(
    edges: Mapping[str, Edges],
    groups: Groups,
    given: frozenset[str],
    descriptors: Sequence[Descriptor],
    source: Path,
) -> None:
    """Warn of descriptors and groups that lack edges in a file.

    Raises:
        InputError: if edges are between another number of levels than the descriptor has
    """
    for descriptor in descriptors:
        fitted = edges.get(descriptor.name)
        if fitted and len(fitted.quantiles) != len(descriptor.values) - 1:
            raise InputError(
                f"{source}: edges of {descriptor.name!r} are between "
                f"{len(fitted.quantiles) + 1} levels, and the templates have "
                f"{len(descriptor.values)}; add five_levels to --templates, or leave it out"
            )
        if fitted is None and descriptor.column not in given:
            _warn(descriptor, [()], f"{source} has no edges for it")
        elif fitted is not None:
            lacking = [g for g in groups.names(fitted.by) if g not in fitted.groups]
            if lacking:
                _warn(descriptor, lacking, f"{source} has no edges for them")


def _warn(descriptor: Descriptor, groups: Iterable[Group], problem: str) -> None:
    names = [", ".join(group) for group in groups if group]
    listed = "; ".join(names[:5]) + (f" and {len(names) - 5} others" if len(names) > 5 else "")
    where = f" for {listed}" if names else ""
    warnings.warn(f"{descriptor.name} gets no phrase{where}: {problem}", stacklevel=3)
