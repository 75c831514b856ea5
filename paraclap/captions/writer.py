"""Captions of feature tables: the phrases of all levels and labels, row by row, as parquet."""

import base64
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from paraclap.captions.edges import FIVE_QUANTILES, Edges, edges_beside, edges_to_dict, read_edges
from paraclap.captions.levels import (
    Groups,
    LevelCoder,
    check_edges,
    columns_of,
    comparisons_by,
    fit_edges,
    given_levels,
)
from paraclap.captions.sources import BATCH, INDEX, LabelEncoder, is_text
from paraclap.captions.statistics import Statistics, warn_of_labels
from paraclap.captions.tables import Features, check_unique
from paraclap.captions.templates import (
    Comparison,
    Descriptor,
    InputError,
    compared,
    level_descriptors,
    phrases_of,
    select_descriptors,
    templates_to_dict,
)
from paraclap.files import atomic_write

TEXTS = ("captions", "caption_descriptors")  # columns with a list of texts per row
WRITTEN = 1 << 20  # values of a column that are encoded at once; lists have many per row
TEXT_LIST = pa.list_(pa.field("element", pa.string(), nullable=False))
# lists of texts as indices, which are built and written faster
CODED_LIST = pa.list_(pa.field("element", pa.dictionary(pa.int32(), pa.string()), nullable=False))


class PhraseTable:
    """Numbers of the phrases for each value of one descriptor, by the code of the value."""

    def __init__(self, numbers: dict[str, int]) -> None:
        """Start without values.

        Args:
            numbers: phrase -> number, shared by all descriptors; new phrases are entered
        """
        self._numbers = numbers
        self._rows: list[list[int]] = []
        self._table: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, phrases: Iterable[str]) -> None:
        """Enter the phrases for the next code."""
        self._rows.append([self._numbers.setdefault(p, len(self._numbers)) for p in phrases])
        self._table = None

    def take(self, codes: np.ndarray) -> np.ndarray:
        """Return the numbers for each code (rows, longest), padded with -1."""
        if self._table is None:
            longest = max([1, *map(len, self._rows)])
            rows = [row + [-1] * (longest - len(row)) for row in [*self._rows, []]]
            self._table = np.array(rows, np.int32)
        return self._table.take(codes, axis=0)  # code -1 refers to the last, empty row


class Captioner:
    """Captions of feature tables, batch by batch.

    Attributes:
        features: feature tables.
        groups: groups of rows that edges are fitted within.
        selected: descriptors in the order of their phrases.
        descriptors: all templates.
        edges: descriptor name -> edges.
        schema: of the captions table.
        statistics: of the rows captioned so far.
    """

    def __init__(
        self,
        features: Features,
        groups: Groups,
        selected: Sequence[Descriptor],
        descriptors: Sequence[Descriptor],
        edges: Mapping[str, Edges],
    ) -> None:
        """Prepare the phrases.

        Raises:
            InputError: if the features already contain a column of the captions table
        """
        self.features, self.groups, self.edges = features, groups, edges
        self.selected, self.descriptors = selected, descriptors
        self.statistics = Statistics()
        self._levels = LevelCoder(features, groups, level_descriptors(selected, descriptors), edges)
        self._coded = [d for d in selected if d.kind != "label"]
        self._labels = {d.name: LabelEncoder() for d in selected if d.kind == "label"}
        self._emotion = Comparison("emotion", descriptors)
        self._emotions, self._splits = LabelEncoder(self._emotion.group), LabelEncoder()
        self.schema = _captions_schema(features, self._coded)
        self._numbers: dict[str, int] = {}
        self._phrases = {d.name: PhraseTable(self._numbers) for d in selected}
        for descriptor in self._coded:
            self._add_phrases(descriptor)

    def _add_phrases(self, descriptor: Descriptor) -> None:
        """Enter the phrases for every group and value of a level or a rule."""
        by = self._levels.by(descriptor)
        comparisons = [Comparison(column, self.descriptors) for column in by]
        for group in self.groups.names(by):
            for value in descriptor.values:
                phrases = compared(phrases_of(descriptor, value), group, comparisons)
                self._phrases[descriptor.name].add(phrases)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the captions of all rows in their order; labels and phrases as dictionaries."""
        measured = [c for d in self._levels.levels for c in columns_of(self.features, d)]
        columns = [*self.features.labels, *INDEX, *measured]
        for batch in self.features.batches(columns, "captions"):
            yield self._caption(batch)

    def _caption(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        rows = slice(self.statistics.rows, self.statistics.rows + len(batch))
        codes = self._levels.codes(batch, rows, [d for d in self._coded if d.kind == "rule"])
        for descriptor in self.selected:
            if descriptor.kind == "label":
                codes[descriptor.name] = self._label_codes(batch, descriptor)
        self._count(batch, codes)
        self.statistics.doubtful.update(self._levels.doubtful(batch))
        levels = [_as_levels(codes[d.name], d.values) for d in self._coded]
        columns = [batch.column(name) for name in self.features.labels] + levels
        columns += [batch.column(name) for name in INDEX] + self._texts(rows, codes)
        return pa.RecordBatch.from_arrays(columns, self.schema.names)

    def _label_codes(self, batch: pa.RecordBatch, descriptor: Descriptor) -> np.ndarray:
        encoder, phrases = self._labels[descriptor.name], self._phrases[descriptor.name]
        codes = encoder.encode(batch.column(descriptor.column))
        for label in encoder.labels[len(phrases) :]:
            phrases.add(phrases_of(descriptor, label))
        return codes

    def _count(self, batch: pa.RecordBatch, codes: Mapping[str, np.ndarray]) -> None:
        emotions = np.full(len(batch), -1, np.int32)
        if self._emotion.column in self.features.labels:
            emotions = self._emotions.encode(batch.column(self._emotion.column))
        self.statistics.emotions = self._emotions.labels
        for d in self.selected:
            if d.kind == "label":  # not by emotion: memory would grow with the square of labels
                self.statistics.count(d.name, codes[d.name], self._labels[d.name].labels)
            else:
                self.statistics.count(d.name, codes[d.name], [*d.values], emotions)
        if "split" in self.features.labels:
            splits = self._splits.encode(batch.column("split"))
            self.statistics.count("split", splits, self._splits.labels)

    def _texts(self, rows: slice, codes: Mapping[str, np.ndarray]) -> list[pa.Array]:
        """Return the lists of phrases and of their descriptors, in the order of these."""
        blocks = [np.zeros((rows.stop - rows.start, 0), np.int32)]
        for d in self.selected:
            blocks.append(self._phrases[d.name].take(self._places(rows, d, codes[d.name])))
        names = [descriptor.name for descriptor in self.selected]
        owners = np.repeat(np.arange(len(names), dtype=np.int32), [b.shape[1] for b in blocks[1:]])
        numbers = np.concatenate(blocks, axis=1)
        present = numbers >= 0
        lengths = present.sum(axis=1, dtype=np.int32)
        first = np.concatenate([block[:, :1] for block in blocks], axis=1)
        self.statistics.count_phrases(lengths, first)
        return [
            _as_lists(lengths, numbers[present], list(self._numbers)),
            _as_lists(lengths, np.broadcast_to(owners, numbers.shape)[present], names),
        ]

    def _places(self, rows: slice, descriptor: Descriptor, codes: np.ndarray) -> np.ndarray:
        """Return the places of each row's phrases: by group, then by value; -1 for none."""
        by = () if descriptor.kind == "label" else self._levels.by(descriptor)
        if not by:
            return codes
        groups = self.groups.codes(rows, by)
        places = groups * len(descriptor.values) + codes
        return np.where((groups < 0) | (codes < 0), -1, places)


def _captions_schema(features: Features, coded: Iterable[Descriptor]) -> pa.Schema:
    """Return the columns: labels, levels and rules, index, texts."""
    columns = [d.output_column for d in coded]
    if taken := [name for name in [*columns, *TEXTS] if name in features.labels]:
        raise InputError(
            f"the table has {', '.join(taken)} as captions tables have, expected a features table"
        )
    level = pa.dictionary(pa.int8(), pa.large_string(), True)
    return pa.schema(
        [features.schema.field(name) for name in features.labels]
        + [(name, level) for name in columns]
        + [features.schema.field(name) for name in INDEX]
        + [pa.field(name, TEXT_LIST, nullable=False) for name in TEXTS]
    )


def _as_lists(lengths: np.ndarray, indices: np.ndarray, texts: Sequence[str]) -> pa.Array:
    """Return lists of texts with the given lengths (rows,), from the indices of the texts."""
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    coded = pa.DictionaryArray.from_arrays(pa.array(indices), pa.array(texts, pa.string()))
    return pa.ListArray.from_arrays(pa.array(offsets), coded, CODED_LIST)


def _as_levels(codes: np.ndarray, values: Sequence[str]) -> pa.Array:
    """Return ordered categories, missing where the code is -1."""
    indices = pa.array(codes.astype(np.int8), mask=codes < 0)
    return pa.DictionaryArray.from_arrays(
        indices, pa.array(values, pa.large_string()), ordered=True
    )


def prepare_captioner(
    features: Features,
    descriptors: Sequence[Descriptor],
    names: Sequence[str] | None = None,
    edges_by: Sequence[str] = (),
    quantiles: tuple[float, ...] = FIVE_QUANTILES,
    edges_path: Path | None = None,
) -> Captioner:
    """Return the captioner of feature tables, with edges fitted to them or read from a file.

    Args:
        features: tables
        descriptors: templates
        names: of the selected descriptors; None for all defaults with a column
        edges_by: columns to compare within
        quantiles: of the edges, see `fit_edges`
        edges_path: file of edges that replaces the fit, with its own columns to compare within

    Raises:
        InputError: if the features are invalid or do not fit the options
    """
    check_unique(features)
    selected = select_descriptors(descriptors, features.schema.names, names)
    levels = level_descriptors(selected, descriptors)
    if edges_path:
        stored = read_edges(edges_path, descriptors)
        edges = {d.name: stored[d.name] for d in levels if d.name in stored}
        edges_by = [column for fitted in edges.values() for column in fitted.by]
    comparisons = comparisons_by(edges_by, features, descriptors)
    groups = Groups(features, comparisons)
    if edges_path:
        check_edges(edges, groups, given_levels(features, levels), levels, edges_path)
    else:
        edges = fit_edges(features, groups, levels, comparisons, quantiles)
    for column, missing in groups.missing.items():
        if missing:
            message = f"{missing} rows have no {column} and no phrase compared by it"
            warnings.warn(message, stacklevel=2)
    return Captioner(features, groups, selected, descriptors, edges)


def write_captions(
    captioner: Captioner, path: Path, batches: Iterable[pa.RecordBatch] | None = None
) -> None:
    """Write captions as parquet, and edges as <stem>.edges.json beside, each completely or not.

    The parquet file also stores edges, templates and the metadata of the features.

    Args:
        captioner: of the features
        path: of the parquet file
        batches: of the captioner, if they pass through another function first

    Raises:
        InputError, OutputError: if a file cannot be written; an existing file is kept
    """
    edges = edges_to_dict(captioner.edges)
    metadata = {
        **captioner.features.metadata,
        b"pandas": _pandas_metadata(captioner.schema),
        b"edges": json.dumps(edges).encode(),
        b"templates": json.dumps(templates_to_dict(captioner.descriptors)).encode(),
    }
    make_parent(path)
    with atomic_write(path) as part, atomic_write(edges_beside(path)) as beside:
        beside.write_text(json.dumps(edges, indent=2) + "\n", encoding="utf-8")
        _write_parquet(batches or captioner.batches(), captioner.schema, part, metadata)
    warn_of_labels(captioner.selected, captioner.statistics)


def make_parent(path: Path) -> None:
    """Create the folder of a file; an OSError becomes an InputError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path.parent} cannot be created: {error.strerror}") from error


def _write_parquet(
    batches: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    path: Path,
    metadata: Mapping[bytes, bytes],
) -> None:
    lists = [field.name for field in schema if pa.types.is_list(field.type)]
    # the stored schema is `schema`, although phrases and labels are written from dictionaries
    stored = schema.with_metadata(metadata).serialize().to_pybytes()
    coded = pa.schema([f.with_type(_coded(f)) for f in schema])
    options = {
        "store_schema": False,
        # file names hardly repeat, and their dictionary costs as much as all other columns
        "use_dictionary": [
            f"{name}.list.element" if name in lists else name
            for name in schema.names
            if name not in INDEX
        ],
        # statistics of levels and phrases are useless, and cost half of the time
        "write_statistics": [*INDEX],
        "write_batch_size": WRITTEN,
        "write_page_checksum": True,
    }
    with pq.ParquetWriter(path, coded, **options) as writer, ThreadPoolExecutor(1) as pool:
        written = pool.submit(lambda: None)
        for batch in batches:  # the next batch is prepared while one is written
            written.result()
            written = pool.submit(writer.write_batch, batch.cast(coded), BATCH)
        written.result()
        writer.add_key_value_metadata({**metadata, b"ARROW:schema": base64.b64encode(stored)})


def _coded(field: pa.Field) -> pa.DataType:
    """Return the type from which a column is written."""
    if pa.types.is_list(field.type):
        return CODED_LIST
    if field.name not in INDEX and is_text(field.type):
        return pa.dictionary(pa.int32(), field.type)
    return field.type


def _pandas_metadata(schema: pa.Schema) -> bytes:
    """Return the metadata with which pandas restores index and types of such a table."""
    plain = pa.schema([field for field in schema if not pa.types.is_list(field.type)])
    frame = plain.empty_table().to_pandas().set_index(list(INDEX))
    return pa.Table.from_pandas(frame).schema.metadata[b"pandas"]
