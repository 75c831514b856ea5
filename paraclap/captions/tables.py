"""Feature tables as one stream of record batches, regardless of their number and length."""

import functools
import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from paraclap.captions.templates import Descriptor, InputError, label_key

INDEX = ("file", "start", "end")
BATCH = 32768  # rows per batch, and per row group of the output
FEATURE_PATTERN = re.compile(
    r".+_sma3(nz)?_.+|loudnessPeaksPerSec|VoicedSegmentsPerSec|Duration|equivalentSoundLevel_dBp"
    r"|(Mean|Stddev)(Voiced|Unvoiced)SegmentLength(Sec)?|__index_level_\d+__"
)


@dataclass(frozen=True)
class Source:
    """One feature table.

    Attributes:
        where: path or name, for messages.
        corpus: name of the corpus.
        schema: of the stored columns.
        rows: number of rows.
        read: returns record batches with the given columns.
    """

    where: str
    corpus: str
    schema: pa.Schema
    rows: int
    read: Callable[[list[str]], Iterable[pa.RecordBatch]]

    def __post_init__(self) -> None:
        lacking = [name for name in INDEX if name not in self.schema.names]
        if lacking:
            raise InputError(f"{self.where} lacks {', '.join(lacking)}, as index level or column")


def open_table(table: pa.Table, where: str = "table") -> Source:
    """Return the source of a table in memory.

    Raises:
        InputError: if the table lacks a part of the index
    """

    def read(columns: list[str]) -> list[pa.RecordBatch]:
        return table.select(columns).to_batches(max_chunksize=BATCH)

    return Source(where, _corpus_name(table.schema, where), table.schema, len(table), read)


def open_file(path: Path) -> Source:
    """Return the source of a parquet file.

    Raises:
        InputError: if the file is absent, unreadable, or lacks a part of the index
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist")

    def read(columns: list[str]) -> Iterator[pa.RecordBatch]:
        try:
            # buffers read ahead would stay in memory until the file is closed
            with pq.ParquetFile(path, pre_buffer=False) as file:
                yield from file.iter_batches(BATCH, columns=columns)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path} is not a readable parquet file: {error}") from error

    try:
        with pq.ParquetFile(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is not a readable parquet file: {error}") from error
    return Source(str(path), _corpus_name(schema, path.stem), schema, rows, read)


def open_sources(paths: Sequence[Path]) -> list[Source]:
    """Return the sources of files and of folders of files, those of a folder sorted by name.

    Raises:
        InputError: if a path does not exist, cannot be read, or lacks a part of the index
    """
    files: list[Path] = []
    for path in paths:
        inside = sorted(path.glob("[!._]*.parquet"))
        if path.is_dir() and not inside:
            raise InputError(f"{path} holds no .parquet file")
        files += inside if path.is_dir() else [path]
    return [open_file(path) for path in files]


def example_source(descriptors: Iterable[Descriptor], rows: int = 100) -> Source:
    """Return random values and labels in the form of a feature table, for a preview."""
    generator = np.random.default_rng(0)
    files = [f"example/{row:03d}.wav" for row in range(rows)]
    index = pd.MultiIndex.from_product([files, [pd.Timedelta(0)], [pd.NaT]], names=INDEX)
    table = pd.DataFrame(index=index)
    for descriptor in descriptors:
        if descriptor.kind == "label":
            values = generator.choice([*descriptor.forms, "example"], rows)
        elif descriptor.kind == "level":
            values = generator.normal(size=rows)
        else:
            continue
        table[descriptor.column] = values
    return open_table(pa.Table.from_pandas(table), "example")


def _corpus_name(schema: pa.Schema, otherwise: str) -> str:
    """Return the name of the corpus in the metadata of features.py."""
    about = json.loads((schema.metadata or {}).get(b"paraclap", b"{}"))
    return str(about.get("corpus") or about.get("name") or otherwise)


class Features:
    """Feature tables as one stream of record batches, the same on every pass.

    Attributes:
        schema: columns of the stream, without metadata.
        metadata: of the stored tables.
        rows: number of stored rows, before emotions are dropped.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        speakers: Mapping[str, Sequence[str]] | None = None,
        dropped_emotions: Sequence[str] = (),
    ) -> None:
        """Join sources.

        Args:
            sources: tables; columns that a table lacks are missing in its rows
            speakers: split -> its speakers; all others get the split "train"
            dropped_emotions: emotions whose rows are left out, compared by `label_key`

        Raises:
            InputError: if types of a column differ, the column for splits or emotions is absent,
                a speaker is missing or unknown, or no row is left
        """
        self.sources = list(sources)
        self.rows = sum(source.rows for source in sources)
        self.metadata = _joined_metadata(sources)
        self.schema = _joined_schema(sources)
        if len(sources) > 1 and "corpus" not in self.schema.names:
            self.schema = self.schema.append(pa.field("corpus", pa.large_string()))
        self._splits: dict[str, str] = {}
        self._dropped: dict[str, str] = {}
        if speakers and any(speakers.values()):
            self._splits = _splits_by_speaker(self, speakers)
            new = pa.field("split", pa.large_string())
            place = self.schema.get_field_index("split")
            self.schema = self.schema.append(new) if place < 0 else self.schema.set(place, new)
        if dropped_emotions:
            self._dropped = _emotions_by_key(self, dropped_emotions)
            if not self.count():
                dropped = ", ".join(dropped_emotions)
                raise InputError(f"no row is left without the emotions {dropped}")

    @property
    def labels(self) -> list[str]:
        """Columns that are neither index nor features."""
        names = [name for name in self.schema.names if name not in INDEX]
        return [name for name in names if not FEATURE_PATTERN.fullmatch(name)]

    @functools.cached_property
    def splits(self) -> list:
        """Labels in the column "split", if there is one."""
        return self.distinct("split") if "split" in self.schema.names else []

    @functools.cached_property
    def training(self) -> np.ndarray:
        """Which rows edges are fitted to: those with split "train", or all without splits."""
        if not self.splits:
            return np.ones(self.rows, bool)
        encoder, found = LabelEncoder(lambda split: "train" if split == "train" else None), []
        for batch in self.batches(["split"]):
            found.append(encoder.encode(batch.column("split")) >= 0)
        return np.concatenate(found)

    def count(self) -> int:
        """Return the number of rows without those of dropped emotions."""
        return sum(map(len, self.batches([INDEX[1]]))) if self._dropped else self.rows

    def distinct(self, column: str) -> list:
        """Return the distinct values of a column in the order of their occurrence."""
        encoder = LabelEncoder()
        for batch in self.batches([column]):
            encoder.encode(batch.column(column))
        return encoder.labels

    def batches(self, columns: Iterable[str], title: str | None = None) -> Iterator[pa.RecordBatch]:
        """Yield all rows with the given columns.

        Args:
            columns: names
            title: of a progress bar on a terminal, None for no bar
        """
        columns = list(dict.fromkeys(columns))
        needed = {*columns}
        needed |= {"speaker"} if self._splits else set()
        needed |= {"emotion"} if self._dropped else set()
        hidden = None if title else True
        with tqdm(total=self.rows, unit="row", desc=title, unit_scale=True, disable=hidden) as bar:
            for source in self.sources:
                stored = [name for name in source.schema.names if name in needed] or [INDEX[0]]
                for batch in source.read(stored):
                    arrays = [self._column(source, batch, name) for name in columns]
                    rows = pa.RecordBatch.from_arrays(arrays, columns)
                    yield rows.filter(self._kept(source, batch)) if self._dropped else rows
                    bar.update(len(batch))

    def _column(self, source: Source, batch: pa.RecordBatch, name: str) -> pa.Array:
        kind = self.schema.field(name).type
        if name == "split" and self._splits:
            codes, speakers = encode(self._column(source, batch, "speaker"))
            splits = [self._splits.get(str(speaker), "train") for speaker in speakers]
            return pa.array(splits, kind).take(pa.array(codes))
        if name in source.schema.names:
            column = batch.column(name)
            return column if column.type == kind else decoded(column).cast(kind)
        if name == "corpus":
            return pa.repeat(source.corpus, len(batch)).cast(kind)
        return pa.nulls(len(batch), kind)

    def _kept(self, source: Source, batch: pa.RecordBatch) -> pa.Array:
        codes, emotions = encode(self._column(source, batch, "emotion"))
        kept = [label_key(emotion) not in self._dropped for emotion in emotions]
        return pa.array(np.array([*kept, True])[codes])


def _splits_by_speaker(features: Features, speakers: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return speaker -> split; speakers are compared as text."""
    splits: dict[str, str] = {}
    for split, names in speakers.items():
        for name in names:
            if splits.setdefault(name, split) != split:
                raise InputError(f"speakers {name} are both in validation and in test")
    encoder, complete = LabelEncoder(str), "speaker" in features.schema.names
    for batch in features.batches(["speaker"]) if complete else ():
        complete &= bool((encoder.encode(batch.column("speaker")) >= 0).all())
    if not complete:
        raise InputError("a split by speaker needs a column 'speaker' without missing values")
    if unknown := [repr(name) for name in splits if name not in encoder.labels]:
        found = ", ".join(sorted(encoder.labels))
        raise InputError(f"no speaker {', '.join(unknown)}, found {found}")
    return splits


def _emotions_by_key(features: Features, emotions: Sequence[str]) -> dict[str, str]:
    """Return label key -> emotion, with a warning for emotions that no row has."""
    if "emotion" not in features.schema.names:
        raise InputError("filtering emotions needs a column 'emotion'")
    found = {label_key(emotion) for emotion in features.distinct("emotion")}
    keys = {label_key(emotion): emotion for emotion in emotions}
    for key, emotion in keys.items():
        if key not in found:
            warnings.warn(f"no row has emotion {emotion!r}", stacklevel=4)
    return keys


def _joined_schema(sources: Sequence[Source]) -> pa.Schema:
    """Return the columns of all sources in the order of their occurrence.

    Raises:
        InputError: if the types of a column have no common type
    """
    kinds: dict[str, pa.DataType] = {}
    for source in sources:
        for new in source.schema.remove_metadata():
            known = kinds.get(new.name, new.type)
            if known != new.type:
                known, other = value_type(known), value_type(new.type)
                pair = [pa.schema([(new.name, kind)]) for kind in (known, other)]
                try:
                    known = pa.unify_schemas(pair, promote_options="permissive").field(0).type
                except pa.ArrowException as error:
                    raise InputError(
                        f"column {new.name!r} is {other} in {source.where}, {known} before"
                    ) from error
            kinds[new.name] = known
    return pa.schema(list(kinds.items()))


def _joined_metadata(sources: Sequence[Source]) -> dict[bytes, bytes]:
    """Return the metadata of one source unchanged, of several a mapping of their corpora."""
    found = [dict(source.schema.metadata or {}) for source in sources]
    for metadata in found:
        metadata.pop(b"pandas", None)
    if len(sources) == 1:
        return found[0]
    about = {
        source.corpus: json.loads(metadata.get(b"paraclap", b"{}"))
        for source, metadata in zip(sources, found, strict=True)
    }
    return {b"paraclap": json.dumps({"corpora": about}).encode()}


def check_unique(features: Features) -> None:
    """Raise an InputError if two rows have the same file, start, end and corpus.

    Hashes are compared first, and the rows themselves only where these are equal.
    """
    identity = [*INDEX, *(["corpus"] if "corpus" in features.schema.names else [])]
    found = [row_hashes(batch.to_pandas()) for batch in features.batches(identity, "index")]
    hashes = np.sort(np.concatenate([np.empty(0, np.uint64), *found]))
    suspects = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    seen: set[tuple] = set()
    for batch in features.batches(identity) if len(suspects) else ():
        rows = batch.filter(pa.array(np.isin(row_hashes(batch.to_pandas()), suspects)))
        for row in rows.to_pylist():
            key = tuple(row.values())
            if key in seen:
                listed = ", ".join(f"{name} {value}" for name, value in row.items())
                raise InputError(f"the features contain a row twice: {listed}")
            seen.add(key)


def row_hashes(table: pd.DataFrame) -> np.ndarray:
    """Return a 64-bit hash of each row (rows,), the same in every batch."""
    return pd.util.hash_pandas_object(table, index=False, categorize=False).to_numpy()


def value_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of the values, also for a dictionary."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def decoded(column: pa.Array) -> pa.Array:
    """Return a column without a dictionary."""
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def encode(column: pa.Array) -> tuple[np.ndarray, list]:
    """Return the codes of a column (rows,), -1 where missing, and the values they refer to."""
    if not pa.types.is_dictionary(column.type):
        column = pc.dictionary_encode(column)
    codes = column.indices.cast(pa.int32()).fill_null(-1).to_numpy(zero_copy_only=False)
    return codes, column.dictionary.to_pylist()


class LabelEncoder:
    """Codes of labels, consistent over the batches of a column."""

    def __init__(self, key: Callable[[Any], Any] = lambda value: value) -> None:
        """Start without labels.

        Args:
            key: maps a value to its label, None for missing
        """
        self._key = functools.cache(key)
        self._codes: dict[Any, int] = {}

    @property
    def labels(self) -> list:
        """Labels in the order of their codes."""
        return list(self._codes)

    def encode(self, column: pa.Array) -> np.ndarray:
        """Return the codes of a column (rows,), -1 where missing; new labels get new codes."""
        found, values = encode(column)
        codes = [-1] * (len(values) + 1)  # the last entry belongs to code -1
        for place, value in enumerate(values):
            label = None if value is None or value != value else self._key(value)
            if label is not None:
                codes[place] = self._codes.setdefault(label, len(self._codes))
        return np.array(codes, np.int32)[found]
