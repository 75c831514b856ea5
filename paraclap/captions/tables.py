"""Feature tables as one stream of record batches, regardless of their number and length."""

import functools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
from tqdm import tqdm

from paraclap.captions.sources import (
    INDEX,
    LabelEncoder,
    Source,
    decoded,
    encode,
    is_text,
    metadata_of,
    recoded,
    value_type,
)
from paraclap.captions.templates import InputError, emotion_noun

FEATURE_PATTERN = re.compile(
    r".+_sma3(nz)?_.+|loudnessPeaksPerSec|VoicedSegmentsPerSec|Duration|equivalentSoundLevel_dBp"
    r"|(Mean|Stddev)(Voiced|Unvoiced)SegmentLength(Sec)?|__index_level_\d+__"
)
HASHED = 4096  # texts that are hashed at once, so that all their bytes stay in the CPU cache


class Features:
    """Feature tables as one stream of record batches, the same on every pass.

    Attributes:
        schema: columns of the stream, without metadata.
        metadata: of the stored tables.
        rows: number of stored rows, before any are dropped.
        dropped: emotion, None for rows without one -> number of dropped rows.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        speakers: Mapping[str, Sequence[str]] | None = None,
        dropped_emotions: Sequence[str] = (),
        labelled_only: bool = False,
        training: np.ndarray | None = None,
    ) -> None:
        """Join sources.

        Args:
            sources: tables; columns that a table lacks are missing in its rows
            speakers: split -> its speakers; all others get the split "train"
            dropped_emotions: emotions whose rows are left out, with their synonyms
            labelled_only: leave out rows without an emotion
            training: which rows edges are fitted to; None for those of the split "train"

        Raises:
            InputError: if types of a column differ, the column for splits or emotions is absent,
                a speaker is missing or unknown, no row has a dropped emotion, or no row is left
        """
        self.sources = list(sources)
        self._training = training
        self.rows = sum(source.rows for source in sources)
        self.metadata = _joined_metadata(sources)
        self.schema = _joined_schema(sources)
        if len(sources) > 1 and "corpus" not in self.schema.names:
            self.schema = self.schema.append(pa.field("corpus", pa.large_string()))
        self._splits: dict[str, str] = {}
        self.dropped: dict[str | None, int] = {}
        self._dropped_keys: set[str | None] = set()
        if speakers and any(speakers.values()):
            self._splits = _splits_by_speaker(self, speakers)
            new = pa.field("split", pa.large_string())
            place = self.schema.get_field_index("split")
            self.schema = self.schema.append(new) if place < 0 else self.schema.set(place, new)
        if dropped_emotions or labelled_only:
            wanted = [*dropped_emotions, *([None] if labelled_only else [])]
            self.dropped = _count_dropped(self, wanted)
            self._dropped_keys = set(map(_emotion_key, wanted))
            if not self.count():
                found = ", ".join(f"{name or 'no label'} {n}" for name, n in self.dropped.items())
                raise InputError(f"no row is left of {self.rows}, dropped: {found}")

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
        if self._training is not None:
            return self._training
        if not self.splits:
            return np.ones(self.rows, bool)
        encoder, found = LabelEncoder(lambda split: "train" if split == "train" else None), []
        for batch in self.batches(["split"]):
            found.append(encoder.encode(batch.column("split")) >= 0)
        return np.concatenate(found)

    def count(self) -> int:
        """Return the number of rows that are not dropped."""
        return self.rows - sum(self.dropped.values())

    def distinct(self, column: str) -> list:
        """Return the distinct values of a column in the order of their occurrence."""
        encoder = LabelEncoder()
        for batch in self.batches([column]):
            encoder.encode(batch.column(column))
        return encoder.labels

    def batches(self, columns: Iterable[str], title: str | None = None) -> Iterator[pa.RecordBatch]:
        """Yield all rows with the given columns, those of labels as dictionaries.

        Args:
            columns: names
            title: of a progress bar on a terminal, None for no bar
        """
        columns = list(dict.fromkeys(columns))
        needed = {*columns}
        needed |= {"speaker"} if self._splits else set()
        needed |= {"emotion"} if self._dropped_keys else set()
        hidden = None if title else True
        with tqdm(total=self.rows, unit="row", desc=title, unit_scale=True, disable=hidden) as bar:
            for source in self.sources:
                stored = [name for name in source.schema.names if name in needed] or [INDEX[0]]
                for batch in source.read(stored):
                    arrays = [self._column(source, batch, name) for name in columns]
                    rows = pa.RecordBatch.from_arrays(arrays, columns)
                    yield rows.filter(self._kept(source, batch)) if self._dropped_keys else rows
                    bar.update(len(batch))

    def _column(self, source: Source, batch: pa.RecordBatch, name: str) -> pa.Array:
        kind = self.schema.field(name).type
        if name not in INDEX and is_text(kind):
            kind = pa.dictionary(pa.int32(), kind)
        if name == "split" and self._splits:
            codes, speakers = encode(self._column(source, batch, "speaker"))
            splits = [self._splits.get(str(speaker), "train") for speaker in speakers]
            return pa.array(splits).take(pa.array(codes)).cast(kind)
        if name in source.schema.names:
            column = batch.column(name)
            try:
                return column if column.type == kind else recoded(column, kind)
            except pa.ArrowInvalid as error:  # e.g. integers beyond 2^53 as floats
                message = f"column {name!r} of {source.where} cannot be read as {kind}: {error}"
                raise InputError(message) from error
        if name == "corpus":
            return pa.repeat(source.corpus, len(batch)).cast(kind)
        return pa.nulls(len(batch), kind)

    def _kept(self, source: Source, batch: pa.RecordBatch) -> pa.Array:
        codes, emotions = encode(self._column(source, batch, "emotion"))
        kept = [_emotion_key(emotion) not in self._dropped_keys for emotion in [*emotions, None]]
        return pa.array(np.array(kept)[codes])


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


def _emotion_key(emotion: object) -> str | None:
    """Return the form in which emotions are compared, None for a missing one."""
    return None if emotion is None or emotion != emotion else emotion_noun(emotion)


def _count_dropped(features: Features, emotions: Sequence[str | None]) -> dict[str | None, int]:
    """Return emotion -> number of rows with it; None counts the rows without one.

    Raises:
        InputError: if no row has one of the emotions
    """
    if "emotion" not in features.schema.names:
        raise InputError("rows are selected by a column 'emotion', which the features lack")
    counts: Counter[str | None] = Counter()
    spelled: dict[str | None, str] = {}
    for batch in features.batches(["emotion"]):
        codes, labels = encode(batch.column("emotion"))
        found = np.bincount(codes + 1, minlength=len(labels) + 1).tolist()
        for label, count in zip([None, *labels], found, strict=True):
            counts[_emotion_key(label)] += count
            spelled.setdefault(_emotion_key(label), str(label))
    for emotion in emotions:
        if emotion is not None and not counts[_emotion_key(emotion)]:
            listed = ", ".join(sorted(spelled[key] for key in counts if key is not None))
            raise InputError(
                f"no row has the emotion {emotion!r}, found {listed or 'none'}; "
                f"{counts[None]} rows without a label are dropped by --labelled-only"
            )
    named = {_emotion_key(emotion): emotion for emotion in reversed(emotions)}
    return {emotion: counts[key] for key, emotion in reversed(named.items())}


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
    about = {source.corpus: metadata_of(source.schema) for source in sources}
    return {b"paraclap": json.dumps({"corpora": about}).encode()}


def check_unique(features: Features) -> None:
    """Raise an InputError if two rows have the same file, start, end and corpus.

    Hashes are compared first, and the rows themselves only where these are equal.
    """
    identity = [*INDEX, *(["corpus"] if "corpus" in features.schema.names else [])]
    found = [row_hashes(batch) for batch in features.batches(identity, "index")]
    hashes = np.sort(np.concatenate([np.empty(0, np.uint64), *found]))
    suspects = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    seen: set[tuple] = set()
    for batch in features.batches(identity) if len(suspects) else ():
        rows = batch.filter(pa.array(np.isin(row_hashes(batch), suspects)))
        for row in rows.to_pylist():
            key = tuple(row.values())
            if key in seen:
                listed = ", ".join(f"{name} {value}" for name, value in row.items())
                raise InputError(f"the features contain a row twice: {listed}")
            seen.add(key)


def row_hashes(batch: pa.RecordBatch) -> np.ndarray:
    """Return a 64-bit hash of each row (rows,), the same in every batch."""
    others = batch.drop_columns([INDEX[0]]).to_pandas()
    hashes = pd.util.hash_pandas_object(others, index=False).to_numpy()
    files = decoded(batch.column(INDEX[0])).cast(pa.large_string())
    pieces = [files.slice(first, HASHED) for first in range(0, len(files), HASHED)]
    return hashes + np.concatenate([np.empty(0, np.uint64), *map(text_hashes, pieces)])


def text_hashes(texts: pa.LargeStringArray) -> np.ndarray:
    """Return a 64-bit hash of each text (rows,), three times as fast as pandas.

    It is the sum of the bytes of UTF-8, each times a random number that depends on its place.
    """
    _, offsets, values = texts.buffers()
    offsets = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    first, lengths = offsets[:-1] - offsets[0], np.diff(offsets)
    places = np.arange(offsets[-1] - offsets[0]) - np.repeat(first, lengths)
    weighted = np.random.PCG64(0).random_raw(int(lengths.max(initial=0)))[places]
    # plus 1, so that a zero byte at the end counts
    weighted *= np.frombuffer(values or b"", np.uint8)[offsets[0] : offsets[-1]] + np.uint8(1)
    sums = np.add.reduceat(np.append(weighted, np.uint64(0)), first)
    return np.where(lengths, sums, np.uint64(0))
