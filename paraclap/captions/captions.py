"""Levels and captions of record batches."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from paraclap.captions.columns import Numbering, encode
from paraclap.captions.edges import Edges, Grouping, measured_values
from paraclap.captions.feature_tables import INDEX, Features, shown
from paraclap.captions.hashing import mixed, scattered
from paraclap.captions.input_errors import InputError
from paraclap.captions.phrases import Comparison, compared, phrases_of
from paraclap.captions.survey import Survey
from paraclap.captions.templates import LEVELS, VALUES, Descriptor

TEXTS = ("captions", "caption_descriptors")  # columns with a list of texts for each row
JOINT = 4096  # most combinations of values whose phrases are looked up at once


def texts_type(values: pa.DataType | None = None) -> pa.DataType:
    """Type of lists of texts, none of which is missing; by default as indices of known texts.

    What is never missing needs no bitmaps, and is written faster.
    """
    values = pa.dictionary(pa.int32(), pa.string()) if values is None else values
    return pa.list_(pa.field("element", values, nullable=False))


def select_descriptors(
    features: Features, names: Sequence[str] | None, descriptors: Sequence[Descriptor]
) -> tuple[Descriptor, ...]:
    """Descriptors by name, in the order given; None for all defaults that the table has.

    Raises:
        InputError: if a name is unknown or given twice, or if the table lacks its column
    """
    known = {descriptor.name: descriptor for descriptor in descriptors}
    lacking = {
        d.name: next((c for c in columns if c not in features.schema.names), None)
        for d in descriptors
        for columns in [[known[part].column for part in d.rule] or [d.column]]
    }
    if names is None:
        return tuple(d for d in descriptors if d.default and lacking[d.name] is None)
    for name in names:
        if name not in known:
            raise InputError(f"unknown descriptor {name!r}, expected some of {', '.join(known)}")
        if lacking[name] is not None:
            raise InputError(f"descriptor {name!r} needs column {lacking[name]!r}")
    if len(set(names)) < len(names):
        raise InputError(f"a descriptor is named twice in {', '.join(names)}")
    return tuple(known[name] for name in names)


def measured(
    selected: Sequence[Descriptor], descriptors: Sequence[Descriptor]
) -> tuple[Descriptor, ...]:
    """Levels among the selected descriptors, and those that their rules need."""
    known = {descriptor.name: descriptor for descriptor in descriptors}
    names = [name for d in selected for name in (d.rule or [d.name])]
    return tuple(known[n] for n in dict.fromkeys(names) if known[n].kind == "level")


class Wordings:
    """Numbers of the phrases for each value of one descriptor, by the codes of the values."""

    def __init__(self, numbers: dict[str, int]) -> None:
        """Start without values.

        Args:
            numbers: phrase -> number, for all descriptors; new phrases are entered
        """
        self._numbers = numbers
        self._rows: list[list[int]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, phrases: Iterable[str]) -> None:
        """Enter the phrases of the value with the next code."""
        self._rows.append([self._numbers.setdefault(p, len(self._numbers)) for p in phrases])

    def table(self) -> np.ndarray:
        """Numbers for each code from -1 on (values + 1, longest), filled up with -1."""
        longest = max(map(len, self._rows), default=0)
        rows = [row + [-1] * (longest - len(row)) for row in [[], *self._rows]]
        return np.array(rows, np.int32).reshape(len(rows), longest)


class JointWordings:
    """Numbers of the phrases for each combination of the values of some descriptors.

    Looking up a few wide rows costs a third of looking up many narrow ones.

    Attributes:
        names: of the descriptors.
        owners: names of the descriptors that the columns of `numbers` belong to.
        numbers: of the phrases (combinations, longest), filled up with -1.
        lengths: number of phrases (combinations,).
        hashes: numbers that are equal where the first wordings are (combinations,).
    """

    def __init__(self, tables: Mapping[str, np.ndarray]) -> None:
        """Join the tables of descriptors (name -> values + 1, longest)."""
        self.names = list(tables)
        self.owners = [name for name, table in tables.items() for _ in range(table.shape[1])]
        self._sizes = [len(table) for table in tables.values()]
        numbers, hashes = np.zeros((1, 0), np.int32), np.zeros(1, np.uint64)
        for table in tables.values():
            before, count = len(numbers), len(table)
            new = np.tile(table, (before, 1))
            numbers = np.hstack([np.repeat(numbers, count, axis=0), new])
            hashes = np.repeat(hashes, count)
            if table.shape[1]:
                hashes = mixed(hashes, new[:, 0].astype(np.uint64))
        self.numbers, self.hashes = numbers, scattered(hashes)
        self.lengths = (numbers >= 0).sum(axis=1, dtype=np.int32)

    def places(self, codes: Mapping[str, np.ndarray]) -> np.ndarray:
        """Combination of each row (rows,), from the codes of the descriptors, -1 for undefined."""
        places: Any = 0
        for name, size in zip(self.names, self._sizes, strict=True):
            places = places * size + codes[name].astype(np.intp) + 1
        return places


def join_wordings(wordings: Mapping[str, Wordings]) -> list[JointWordings]:
    """All descriptors in their order, as many together as have at most `JOINT` combinations."""
    joined: list[dict[str, np.ndarray]] = []
    combinations = np.inf
    for name, words in wordings.items():
        table = words.table()
        combinations *= len(table)
        if combinations > JOINT:
            joined.append({})
            combinations = len(table)
        joined[-1][name] = table
    return [JointWordings(tables) for tables in joined]


class Captioner:
    """Levels and captions of record batches, and how often each value occurred.

    Attributes:
        schema: of the captions, as a reader shall see them.
        columns: of the features that have to be in a batch.
        counts: descriptor, or "split" -> (emotions + 1, values + 1), number of rows with an emotion
            and a value, those without either first.
        emotions: names of the emotions, in the order of the rows of `counts`.
        silent: number of rows without any phrase.
        spoken: number of phrases.
        different: number of rows with different sets of phrases.
    """

    def __init__(
        self,
        features: Features,
        found: Survey,
        selected: Sequence[Descriptor],
        descriptors: Sequence[Descriptor],
        edges: Mapping[str, Edges],
    ) -> None:
        """Prepare the words.

        Raises:
            InputError: if the table already holds a column of the captions
        """
        self.selected, self.levels = selected, measured(selected, descriptors)
        self._found, self._edges = found, edges
        self._labels = features.labels
        told = [d for d in selected if d.kind != "label"]
        new = [d.output_column for d in told] + [*TEXTS]
        taken = [name for name in new if name in self._labels]
        if taken:
            raise InputError(f"the table already holds {', '.join(taken)}, expected features")
        self.columns = [*self._labels, *INDEX, *(d.column for d in self.levels)]
        level = pa.dictionary(pa.int8(), pa.large_string(), True)
        self.schema = pa.schema(
            [features.schema.field(name) for name in self._labels]
            + [(d.output_column, level) for d in told]
            + [features.schema.field(name) for name in INDEX]
            + [pa.field(name, texts_type(pa.string()), nullable=False) for name in TEXTS]
        )
        self._numbers: dict[str, int] = {}
        self._wordings = {d.name: Wordings(self._numbers) for d in selected}
        self._joint: list[JointWordings] = []
        self._joint_sizes: list[int] | None = None
        self._numberings = {d.name: Numbering() for d in selected if d.kind == "label"}
        self._splits = Numbering()
        self._groupings = {}
        for descriptor in [*self.levels, *told]:
            parts = [
                edges[name] for name in (descriptor.rule or [descriptor.name]) if name in edges
            ]
            by = dict.fromkeys(column for part in parts for column in part.by)
            self._groupings[descriptor.name] = Grouping(found, tuple(by))
        for descriptor in told:
            self._word(descriptor, descriptors)
        self._bounds = {name: self._bounds_of(name) for name in edges}
        self._emotion = Comparison("emotion", descriptors)
        self._emotions = Numbering(self._emotion.group)
        self.counts: dict[str, np.ndarray] = {}
        self._hashes = np.empty(found.rows, np.uint64)
        self._done = self.silent = self.spoken = 0

    def _word(self, descriptor: Descriptor, descriptors: Sequence[Descriptor]) -> None:
        """Enter the phrases of every group and value."""
        grouping = self._groupings[descriptor.name]
        comparisons = [Comparison(column, descriptors) for column in grouping.by]
        for group in grouping.groups:
            for value in VALUES[descriptor.kind]:
                phrases = compared(phrases_of(descriptor, value), group, comparisons)
                self._wordings[descriptor.name].add(phrases)

    def _bounds_of(self, name: str) -> np.ndarray:
        """Low and high edge of each group, NaN where there are none, (2, groups + 1)."""
        known = self._edges[name].groups
        bounds = [known.get(group) for group in self._groupings[name].groups]
        pairs = [(b.low, b.high) if b else (np.nan, np.nan) for b in [*bounds, None]]
        return np.array(pairs).T

    @property
    def emotions(self) -> list[str]:
        """Names of the emotions that occurred."""
        return self._emotions.values

    @property
    def different(self) -> int:
        """Number of different sets of phrases."""
        hashes = self._hashes[: self._done]
        hashes.sort()  # in place, as they may be many; their order says nothing
        return int((hashes[1:] != hashes[:-1]).sum()) + bool(len(hashes))

    def values(self, name: str) -> list:
        """Values of a descriptor, or of "split", in the order of `counts`."""
        if name == "split":
            return self._splits.values
        kinds = {d.name: d.kind for d in self.selected}
        fixed = VALUES[kinds[name]]
        return list(fixed) or self._numberings[name].values

    def level_codes(self, batch: pa.RecordBatch, descriptor: Descriptor, rows: slice) -> np.ndarray:
        """Place in LEVELS of each row: 0 <= low edge, 2 >= high edge, 1 between, -1 undefined."""
        if descriptor.column in self._found.given:
            codes, levels = encode(batch.column(descriptor.column))
            places = [-1 if level is None else LEVELS.index(level) for level in levels]
            return np.array([*places, -1], np.int8)[codes]
        if descriptor.name not in self._edges:
            return np.full(len(batch), -1, np.int8)
        unvoiced = self._found.unvoiced_in(rows)
        values, undefined = measured_values(batch, descriptor, unvoiced)
        grouping = self._groupings[descriptor.name]
        places = grouping.codes(rows) if grouping.by else 0
        low, high = (bounds[places] for bounds in self._bounds[descriptor.name])
        codes = (values > low).view(np.int8) + (values >= high).view(np.int8)
        codes[undefined | np.isnan(low)] = -1
        return codes

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Captions of the next rows; texts and phrases as dictionaries of texts."""
        rows = slice(self._done, self._done + len(batch))
        codes = {d.name: self.level_codes(batch, d, rows) for d in self.levels}
        for descriptor in self.selected:
            if descriptor.kind == "rule":
                codes[descriptor.name] = _rule_codes(descriptor, codes)
            elif descriptor.kind == "label":
                codes[descriptor.name] = self._label_codes(batch, descriptor)
        emotions = np.full(len(batch), -1, np.int32)
        if self._emotion.column in self._labels:
            emotions = self._emotions.of(batch.column(self._emotion.column))
        self._count(emotions, {d.name: codes[d.name] for d in self.selected})
        if "split" in self._labels:
            self._count(emotions, {"split": self._splits.of(batch.column("split"))})
        columns = [batch.column(name) for name in self._labels]
        for descriptor in self.selected:
            if descriptor.kind != "label":
                columns.append(_as_levels(codes[descriptor.name], VALUES[descriptor.kind]))
        columns += [batch.column(name) for name in INDEX]
        columns += self._texts(codes, rows)
        self._done = rows.stop
        return pa.RecordBatch.from_arrays(columns, self.schema.names)

    def _label_codes(self, batch: pa.RecordBatch, descriptor: Descriptor) -> np.ndarray:
        numbering, wordings = self._numberings[descriptor.name], self._wordings[descriptor.name]
        codes = numbering.of(batch.column(descriptor.column))
        for value in numbering.values[len(wordings) :]:
            wordings.add(phrases_of(descriptor, value))
        return codes

    def _count(self, emotions: np.ndarray, codes: Mapping[str, np.ndarray]) -> None:
        height = len(self._emotions.values) + 1
        for name, column in codes.items():
            width = len(self.values(name)) + 1
            pairs = (emotions + 1) * width + column + 1
            counts = np.bincount(pairs, minlength=height * width).reshape(height, width)
            known = self.counts.get(name, counts[:0])
            counts[: known.shape[0], : known.shape[1]] += known
            self.counts[name] = counts

    def _texts(self, codes: Mapping[str, np.ndarray], rows: slice) -> list[pa.Array]:
        """Lists of all phrases that hold and of their descriptors, in the order of these."""
        count = rows.stop - rows.start
        among = {d.name: self._among(codes, d, rows) for d in self.selected}
        sizes = [len(wordings) for wordings in self._wordings.values()]
        if sizes != self._joint_sizes:
            self._joint, self._joint_sizes = join_wordings(self._wordings), sizes
        blocks, owners = [np.zeros((count, 0), np.int32)], []
        lengths, hashes = np.zeros(count, np.int32), np.zeros(count, np.uint64)
        for joint in self._joint:
            places = joint.places(among)
            blocks.append(joint.numbers.take(places, axis=0))
            owners += joint.owners
            lengths += joint.lengths.take(places)
            hashes = mixed(hashes, joint.hashes.take(places))
        self._hashes[rows] = hashes
        self.silent += int((lengths == 0).sum())
        offsets = np.zeros(count + 1, np.int32)
        np.cumsum(lengths, out=offsets[1:])
        self.spoken += int(offsets[-1])
        numbers = np.concatenate(blocks, axis=1)
        said = numbers >= 0
        names = [descriptor.name for descriptor in self.selected]
        owners = np.array([names.index(name) for name in owners], np.int32)
        return [
            pa.ListArray.from_arrays(
                pa.array(offsets),
                pa.DictionaryArray.from_arrays(
                    pa.array(chosen[said]), pa.array(texts, pa.string())
                ),
                texts_type(),
            )
            for chosen, texts in (
                (numbers, list(self._numbers)),
                (np.broadcast_to(owners, numbers.shape), names),
            )
        ]

    def _among(
        self, codes: Mapping[str, np.ndarray], descriptor: Descriptor, rows: slice
    ) -> np.ndarray:
        """Places of each row in the wordings: those of its group, then its value; -1 for none."""
        values = codes[descriptor.name]
        if descriptor.kind == "label" or not self._groupings[descriptor.name].by:
            return values
        groups = self._groupings[descriptor.name].codes(rows)
        places = groups * len(VALUES[descriptor.kind]) + values
        return np.where((groups < 0) | (values < 0), -1, places)


def _rule_codes(descriptor: Descriptor, codes: Mapping[str, np.ndarray]) -> np.ndarray:
    """Place in PRESENCE of each row; -1 where a part is undefined."""
    parts = [codes[name] for name in descriptor.rule]
    allowed = [[level in levels for level in LEVELS] for levels in descriptor.rule.values()]
    holds = [np.array(a)[part] for a, part in zip(allowed, parts, strict=True)]
    undefined = np.any([part < 0 for part in parts], axis=0)
    return np.where(undefined, -1, np.all(holds, axis=0)).astype(np.int8)


def _as_levels(codes: np.ndarray, values: Sequence[str]) -> pa.Array:
    """Ordered categories, missing where the code is -1."""
    indices = pa.array(codes.astype(np.int8), mask=codes < 0)
    return pa.DictionaryArray.from_arrays(
        indices, pa.array(values, pa.large_string()), ordered=True
    )


def captions_of(features: Features, captioner: Captioner) -> Iterator[pa.RecordBatch]:
    """Captions of all rows, batch by batch; rows keep their order."""
    for batch in shown(features, captioner.columns, "captions"):
        yield captioner(batch)
