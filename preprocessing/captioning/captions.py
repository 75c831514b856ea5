"""Levels and captions of record batches."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from .columns import Numbering, encode
from .edges import VOICING_COLUMN, Edges, Grouping, measured_values
from .feature_tables import INDEX, Features, shown
from .hashing import mixed
from .input_errors import InputError
from .phrases import Comparison, compared, phrases_of
from .survey import Survey
from .templates import LEVELS, VALUES, Descriptor


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
        self._table = np.full((1, 0), -1, np.int32)

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, phrases: Iterable[str]) -> None:
        """Enter the phrases of the value with the next code."""
        self._rows.append([self._numbers.setdefault(p, len(self._numbers)) for p in phrases])

    def of(self, codes: np.ndarray) -> np.ndarray:
        """Numbers of the phrases (rows, longest), filled up with -1; none for code -1."""
        if len(self._table) != len(self._rows) + 1:
            longest = max(map(len, self._rows), default=0)
            rows = [row + [-1] * (longest - len(row)) for row in [*self._rows, []]]
            # half the bytes where they do, as this is what most of the time goes into
            kind = np.int16 if len(self._numbers) < 2**15 else np.int32
            self._table = np.array(rows, kind)
        return self._table.take(codes, axis=0, mode="wrap")


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
        new = [d.output_column for d in told] + ["captions", "caption_descriptors"]
        taken = [name for name in new if name in self._labels]
        if taken:
            raise InputError(f"the table already holds {', '.join(taken)}, expected features")
        names = features.schema.names
        voicing = [VOICING_COLUMN] if VOICING_COLUMN in names else []
        self.columns = [*self._labels, *INDEX, *(d.column for d in self.levels), *voicing]
        level, texts = pa.dictionary(pa.int8(), pa.large_string(), True), pa.list_(pa.string())
        self.schema = pa.schema(
            [features.schema.field(name) for name in self._labels]
            + [(d.output_column, level) for d in told]
            + [features.schema.field(name) for name in INDEX]
            + [("captions", texts), ("caption_descriptors", texts)]
        )
        self._numbers: dict[str, int] = {}
        self._wordings = {d.name: Wordings(self._numbers) for d in selected}
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
        values, undefined = measured_values(batch, descriptor)
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
        blocks, owners = [np.zeros((count, 0), np.int16)], []
        for place, descriptor in enumerate(self.selected):
            block = self._wordings[descriptor.name].of(self._among(codes, descriptor, rows))
            blocks.append(block)
            owners += [place] * block.shape[1]
        numbers = np.concatenate(blocks, axis=1)
        said = numbers >= 0
        offsets = np.zeros(count + 1, np.int32)
        np.cumsum(said.sum(axis=1), out=offsets[1:])
        self.silent += int((offsets[1:] == offsets[:-1]).sum())
        self.spoken += int(offsets[-1])
        hashes = np.zeros(count, np.uint64)
        for block in blocks[1:]:
            if block.shape[1]:
                hashes = mixed(hashes, block[:, 0].astype(np.uint64))
        self._hashes[rows] = hashes
        names = [descriptor.name for descriptor in self.selected]
        owners = np.broadcast_to(np.array(owners, np.int16), numbers.shape)
        return [
            pa.ListArray.from_arrays(
                pa.array(offsets),
                pa.DictionaryArray.from_arrays(
                    pa.array(chosen[said].astype(np.int32)), pa.array(texts, pa.string())
                ),
            )
            for chosen, texts in ((numbers, list(self._numbers)), (owners, names))
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
