"""Normalised labels of features tables of any length, see `labels`."""

import dataclasses
import warnings
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from paraclap.captions.sources import Source, encode
from paraclap.corpora.labels import (
    LABEL_COLUMNS,
    ORIGINAL_SPLIT,
    Changes,
    describe_changes,
    has_parts,
    label_form,
    label_mapping,
)

Label = tuple[str | None, str | None]
"""Corpus, None if the table has no such column, and label, None if missing."""
Mapped = dict[Label, str | None]
"""Label -> normalised label."""


def normalised(source: Source) -> Source:
    """Return a source with normalised labels; warns of changes in one line.

    Each corpus of a table keeps its own words for an emotion.
    """
    columns = [column for column in LABEL_COLUMNS if column in source.schema.names]
    counts = {column: _count(source, column) for column in columns}
    mapped = {column: _map(column, found) for column, found in counts.items()}
    changes = {column: _changes(mapped[column], found) for column, found in counts.items()}
    made = {column: column for column in columns if changes[column]}  # new column -> stored one
    if not made:
        return source
    warnings.warn(f"{source.where}: {describe_changes(changes)}", stacklevel=2)
    if has_parts(changes.get("split", Counter())) and ORIGINAL_SPLIT not in source.schema.names:
        mapped[ORIGINAL_SPLIT] = {key: key[1] and label_form(key[1]) for key in mapped["split"]}
        made[ORIGINAL_SPLIT] = "split"

    def read(names: list[str]) -> Iterator[pa.RecordBatch]:
        needed = {made.get(name, name) for name in names}
        needed |= {"corpus"} if any(name in made for name in names) else set()
        for batch in source.read([name for name in source.schema.names if name in needed]):
            arrays = [
                _column(batch, made[name], mapped[name]) if name in made else batch.column(name)
                for name in names
            ]
            yield pa.RecordBatch.from_arrays(arrays, names)

    return dataclasses.replace(source, schema=_schema(source.schema, made), read=read)


def _schema(schema: pa.Schema, columns: dict[str, str]) -> pa.Schema:
    """Return a schema with texts in some columns, of which new ones come last."""
    for name in columns:
        field, place = pa.field(name, pa.large_string()), schema.get_field_index(name)
        schema = schema.append(field) if place < 0 else schema.set(place, field)
    return schema


def _labels(batch: pa.RecordBatch, column: str) -> tuple[np.ndarray, list[Label]]:
    """Return the codes of a label column (rows,), and the labels that they refer to."""
    codes, labels = encode(batch.column(column))
    texts = [None, *(None if label != label else str(label) for label in labels)]
    if "corpus" not in batch.schema.names:
        return codes + 1, [(None, text) for text in texts]
    parts, corpora = encode(batch.column("corpus"))
    corpora = [None if corpus != corpus else corpus for corpus in corpora]
    pairs, codes = np.unique((parts + 1) * len(texts) + codes + 1, return_inverse=True)
    places = [divmod(pair, len(texts)) for pair in pairs.tolist()]
    return codes, [([None, *corpora][part], texts[place]) for part, place in places]


def _count(source: Source, column: str) -> Counter[Label]:
    """Return the number of rows with each label."""
    counts: Counter[Label] = Counter()
    names = [name for name in source.schema.names if name in (column, "corpus")]
    for batch in source.read(names):
        codes, labels = _labels(batch, column)
        found = np.bincount(codes, minlength=len(labels)).tolist()
        for label, count in zip(labels, found, strict=True):
            counts[label] += count
    return +counts  # without labels of a dictionary that no row has


def _map(column: str, counts: Counter[Label]) -> Mapped:
    """Return the normalised form of every label."""
    mapped: Mapped = dict.fromkeys(counts)
    for corpus in {corpus for corpus, _ in counts}:
        known = {label: n for (c, label), n in counts.items() if c == corpus and label is not None}
        mapped |= {(corpus, old): new for old, new in label_mapping(column, known).items()}
    return mapped


def _changes(mapped: Mapped, counts: Counter[Label]) -> Changes:
    changes: Changes = Counter()
    for (corpus, label), new in mapped.items():
        if label is not None and label != new:
            changes[label, new] += counts[corpus, label]
    return changes


def _column(batch: pa.RecordBatch, column: str, mapped: Mapped) -> pa.Array:
    codes, labels = _labels(batch, column)
    texts = [mapped.get(label) for label in labels]  # no row has those that are not mapped
    return pa.array(texts, pa.large_string()).take(pa.array(codes))
