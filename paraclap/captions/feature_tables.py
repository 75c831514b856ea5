"""Tables of features as one stream of record batches, however many and however long they are."""

import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from paraclap.captions.columns import Numbering, as_type, encode, is_text, stored_type, value_type
from paraclap.captions.input_errors import InputError
from paraclap.captions.templates import Descriptor, label_key

INDEX = ("file", "start", "end")
BATCH = 32768  # rows of a batch, and of a row group of the output
FEATURE_PATTERN = re.compile(
    r".+_sma3(nz)?_.+|loudnessPeaksPerSec|VoicedSegmentsPerSec|Duration|equivalentSoundLevel_dBp"
    r"|(Mean|Stddev)(Voiced|Unvoiced)SegmentLength(Sec)?|__index_level_\d+__"
)


@dataclass(frozen=True)
class Part:
    """One stored table of features.

    Attributes:
        where: it is, for messages.
        corpus: its name.
        schema: columns as a reader shall see them.
        rows: their number.
        read: gives record batches with the columns named.
    """

    where: str
    corpus: str
    schema: pa.Schema
    rows: int
    read: Callable[[list[str]], Iterable[pa.RecordBatch]]


def open_table(table: pa.Table, where: str = "table") -> Part:
    """Part of a table in memory."""
    return _checked(
        Part(
            where,
            _corpus_name(table.schema, where),
            table.schema,
            len(table),
            lambda columns: table.select(columns).to_batches(max_chunksize=BATCH),
        )
    )


def open_file(path: Path) -> Part:
    """Part of a parquet file.

    Raises:
        InputError: if the file is absent, unreadable, or lacks a part of the index
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist")
    try:
        with pq.ParquetFile(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
    except pa.ArrowException as error:
        raise InputError(f"{path} is not a readable parquet file: {error}") from error

    def read(columns: list[str]) -> Iterator[pa.RecordBatch]:
        # texts with few values are fastest as the dictionaries that they are stored as; buffers
        # read ahead would be kept until the file is closed
        texts = [name for name in columns if name != INDEX[0] and is_text(schema.field(name).type)]
        try:
            with pq.ParquetFile(path, read_dictionary=texts, pre_buffer=False) as file:
                yield from file.iter_batches(BATCH, columns=columns)
        except pa.ArrowException as error:
            raise InputError(f"{path} is not a readable parquet file: {error}") from error

    return _checked(Part(str(path), _corpus_name(schema, path.stem), schema, rows, read))


def open_parts(paths: Sequence[Path]) -> list[Part]:
    """Parts of files and of folders of files, those of a folder in the order of their names.

    Raises:
        InputError: if one does not exist, cannot be read, or lacks a part of the index
    """
    files: list[Path] = []
    for path in paths:
        inside = sorted(path.glob("[!._]*.parquet"))
        if path.is_dir() and not inside:
            raise InputError(f"{path} holds no .parquet file")
        files += inside if path.is_dir() else [path]
    return [open_file(path) for path in files]


def _checked(part: Part) -> Part:
    lacking = [name for name in INDEX if name not in part.schema.names]
    if lacking:
        raise InputError(f"{part.where} lacks {', '.join(lacking)}, as an index level or a column")
    return part


def _corpus_name(schema: pa.Schema, otherwise: str) -> str:
    """Name of the corpus in the metadata of features.py."""
    about = json.loads((schema.metadata or {}).get(b"paraclap", b"{}"))
    return str(about.get("corpus") or about.get("name") or otherwise)


class Features:
    """Stored tables of features as one stream of record batches, the same on every pass.

    Attributes:
        schema: columns of the stream as a reader shall see them, without metadata.
        metadata: of the stored tables.
        rows: stored rows, before emotions are dropped.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        speakers: Mapping[str, Sequence[str]] | None = None,
        dropped_emotions: Sequence[str] = (),
    ) -> None:
        """Join parts.

        Args:
            parts: tables with the same types of columns; where one lacks a column, it is missing
            speakers: split -> speakers that are put there; all others into "train"
            dropped_emotions: rows of these are left out (see `label_key`); those without stay

        Raises:
            InputError: if types differ, or a column needed for the splits or emotions is lacking
        """
        self.parts = list(parts)
        self.rows = sum(part.rows for part in parts)
        self.metadata = _joined_metadata(parts)
        self.schema = _joined_schema(parts)
        if len(parts) > 1 and "corpus" not in self.schema.names:
            self.schema = self.schema.append(pa.field("corpus", pa.large_string()))
        self._splits: dict[str, str] = {}
        if speakers and any(speakers.values()):
            self._assign(speakers)
        self._dropped = {label_key(emotion): emotion for emotion in dropped_emotions}
        if self._dropped and "emotion" not in self.schema.names:
            raise InputError("filtering emotions needs a column 'emotion'")

    def _assign(self, speakers: Mapping[str, Sequence[str]]) -> None:
        """Replace the column `split` by one that follows from the speakers, compared as text."""
        if "speaker" not in self.schema.names:
            raise InputError("a split by speaker needs a column 'speaker' without missing values")
        for split, names in speakers.items():
            for name in names:
                if self._splits.setdefault(name, split) != split:
                    raise InputError(f"speakers {name} are both in validation and in test")
        new = pa.field("split", pa.large_string())
        place = self.schema.get_field_index("split")
        self.schema = self.schema.append(new) if place < 0 else self.schema.set(place, new)

    @property
    def labels(self) -> list[str]:
        """Columns that are neither index nor features."""
        names = [name for name in self.schema.names if name not in INDEX]
        return [name for name in names if not FEATURE_PATTERN.fullmatch(name)]

    def batches(self, columns: Iterable[str]) -> Iterator[pa.RecordBatch]:
        """Yield the rows with these columns; texts may be dictionaries of texts.

        Raises:
            InputError: if a speaker is missing
        """
        columns = list(dict.fromkeys(columns))
        needed = {*columns}
        needed |= {"speaker"} if self._splits else set()
        needed |= {"emotion"} if self._dropped else set()
        for part in self.parts:
            stored = [name for name in part.schema.names if name in needed] or [INDEX[0]]
            for batch in part.read(stored):
                found = [self._column(part, batch, name) for name in columns]
                whole = pa.RecordBatch.from_arrays(found, columns)
                yield whole.filter(self._kept(part, batch)) if self._dropped else whole

    def _column(self, part: Part, batch: pa.RecordBatch, name: str) -> pa.Array:
        kind = self.schema.field(name).type
        if name == "split" and self._splits:
            return self._split(part, batch)
        if name in part.schema.names:
            return as_type(batch.column(name), kind)
        if name == "corpus":
            value = pa.array([part.corpus], kind)
            codes = pa.array(np.zeros(len(batch), np.int32))
            return pa.DictionaryArray.from_arrays(codes, value)
        return pa.nulls(len(batch), stored_type(kind))

    def _split(self, part: Part, batch: pa.RecordBatch) -> pa.Array:
        codes, speakers = encode(self._column(part, batch, "speaker"))
        if (codes < 0).any():
            raise InputError("a split by speaker needs a column 'speaker' without missing values")
        splits = [self._splits.get(str(speaker), "train") for speaker in speakers]
        return pa.array(splits, pa.large_string()).take(pa.array(codes)).dictionary_encode()

    def _kept(self, part: Part, batch: pa.RecordBatch) -> pa.Array:
        codes, emotions = encode(self._column(part, batch, "emotion"))
        kept = [label_key(emotion) not in self._dropped for emotion in emotions]
        return pa.array(np.array([*kept, True])[codes])

    def check_names(self) -> None:
        """Look through the labels for the speakers and emotions that were named.

        Raises:
            InputError: if a speaker is unknown, or if no row is left without the emotions
        """
        columns = {"speaker": Numbering(str)} if self._splits else {}
        columns |= {"emotion": Numbering(label_key)} if self._dropped else {}
        speakers, emotions = (columns.get(name, Numbering()) for name in ("speaker", "emotion"))
        left = 0
        for part in self.parts if columns else ():
            for batch in part.read([c for c in columns if c in part.schema.names] or [INDEX[0]]):
                for name, numbering in columns.items():
                    numbering.of(self._column(part, batch, name))
                left += self._kept(part, batch).true_count if self._dropped else 0
        unknown = [repr(name) for name in self._splits if name not in speakers.values]
        if unknown:
            found = ", ".join(sorted(speakers.values))
            raise InputError(f"no speaker {', '.join(unknown)}, found {found}")
        for key, emotion in self._dropped.items():
            if key not in emotions.values:
                warnings.warn(f"no row has emotion {emotion!r}", stacklevel=2)
        if self._dropped and not left:
            dropped = ", ".join(self._dropped.values())
            raise InputError(f"no row is left without the emotions {dropped}")


def _joined_schema(parts: Sequence[Part]) -> pa.Schema:
    """Columns of all parts, in the order in which they first stand.

    Raises:
        InputError: if two parts have types for a column that no type holds both of
    """
    kinds: dict[str, pa.DataType] = {}
    for part in parts:
        for new in part.schema.remove_metadata():
            known = kinds.get(new.name, new.type)
            if known != new.type:
                known, other = value_type(known), value_type(new.type)
                pair = [pa.schema([(new.name, kind)]) for kind in (known, other)]
                try:
                    known = pa.unify_schemas(pair, promote_options="permissive").field(0).type
                except pa.ArrowException as error:
                    raise InputError(
                        f"column {new.name!r} is {other} in {part.where}, {known} before"
                    ) from error
            kinds[new.name] = known
    return pa.schema(list(kinds.items()))


def _joined_metadata(parts: Sequence[Part]) -> dict[bytes, bytes]:
    """Metadata of one part as it is; of several, what each says of its corpus."""
    found = [dict(part.schema.metadata or {}) for part in parts]
    for metadata in found:
        metadata.pop(b"pandas", None)
    if len(parts) == 1:
        return found[0]
    about = {
        part.corpus: json.loads(metadata.get(b"paraclap", b"{}"))
        for part, metadata in zip(parts, found, strict=True)
    }
    return {b"paraclap": json.dumps({"corpora": about}).encode()}


def example_part(descriptors: Iterable[Descriptor], rows: int = 100) -> Part:
    """Random values and labels in the form of features.parquet, for a preview without a corpus."""
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


def shown(features: Features, columns: Iterable[str], what: str) -> Iterator[pa.RecordBatch]:
    """Batches, with a bar and a rate where a person looks."""
    with tqdm(total=features.rows, unit="row", desc=what, unit_scale=True, disable=None) as bar:
        for batch in features.batches(columns):
            yield batch
            bar.update(len(batch))
