r"""Turn measured speech into words: eGeMAPS features -> low/normal/high levels -> pseudo-captions.

    python preprocessing/template_creation.py --preview 5
    python preprocessing/template_creation.py features.parquet -o captions.parquet --plot edges.png
    python preprocessing/template_creation.py features.parquet -o captions.parquet \
        --descriptors pitch,intensity,emotion --filter-emotions "no agreement",other \
        --validation-speakers 17,18 --test-speakers 21,22,23,24
    python preprocessing/template_creation.py ravdess.parquet emodb.parquet -o captions.parquet \
        --edges-by gender,corpus --templates paraclap extended
    python preprocessing/template_creation.py other.parquet -o other_captions.parquet \
        --edges captions.edges.json
    python preprocessing/template_creation.py --dump-templates > my.yaml
    python preprocessing/template_creation.py features.parquet -o out.parquet --templates my.yaml

A measured descriptor (pitch, intensity, ...) is "low" at or below the 0.3 quantile of the training
rows, "high" at or above the 0.7 quantile and "normal" between. A label (emotion, gender) is worded
as it stands. What is undefined -- NaN, voice measures of an unvoiced clip, a column that does not
vary -- gets no phrase.

With --edges-by the quantiles are those of each group, and the phrases say so: "pitch is high for a
woman". Durations are never compared like that, ratings within a corpus only (`edges_by` in the
templates). Where the group is unknown or has fewer than 10 values, there is no phrase.

The input is one or several tables of features.py, or folders of such tables: index file/start/end,
label columns, eGeMAPSv02 functionals under openSMILE's names and Duration in seconds. If there is
a column `split`, the edges are fitted on its "train" rows, else on all rows. Several tables get a
column `corpus`, unless they have one. A row that stands twice (same file, start, end and corpus)
is refused.

The output holds, per row: the label columns, one column <descriptor>_level each, `captions` (every
phrase that holds, the first wording of a descriptor before its paraphrases) and
`caption_descriptors` (the descriptor of each phrase). The edges go beside it as <stem>.edges.json;
they, the templates and the metadata of the input are also in the file's metadata.

Tables of any length are read in batches. Edges are exact: one column at a time is held, so memory
grows by some 20 bytes per row, whatever the number of columns (10 million rows: about 0.5 GB).
"""

import argparse
import base64
import contextlib
import functools
import json
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_origin

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from tqdm import tqdm

INDEX = ("file", "start", "end")
LEVELS = ("low", "normal", "high")
PRESENCE = ("absent", "present")  # values of a rule
LISTED, UNLISTED = "*", "?"  # phrase keys: labels with known forms, any other label
QUANTILES = (0.3, 0.7)  # as in the paper (Jing et al., ParaCLAP, Interspeech 2024)
MINIMUM = 10  # fewer defined values than this give no edges
EDGES_FORMAT = 2  # 1 had no groups, and is still read
TEMPLATES = Path(__file__).parent / "templates"
BATCH = 32768  # rows of a batch, and of a row group of the output
HASHED = 4096  # texts hashed at once
PICTURES = (".png", ".pdf", ".svg")
HISTOGRAMS = 4  # in a row of the picture
LINES = 6  # most groups drawn in one histogram
EMOTIONS_SHOWN = 40
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C where it was built, 10 times as fast
HASH_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2**64

# openSMILE writes 0.0 here when no frame of the clip is voiced
VOICING_COLUMN = "F0semitoneFrom27.5Hz_sma3nz_amean"
FEATURE_PATTERN = re.compile(
    r".+_sma3(nz)?_.+|loudnessPeaksPerSec|VoicedSegmentsPerSec|Duration|equivalentSoundLevel_dBp"
    r"|(Mean|Stddev)(Voiced|Unvoiced)SegmentLength(Sec)?|__index_level_\d+__"
)
# ends of phrases compared within a label column whose templates have none
COMPARISONS = (
    'within {column} "{label}"', 'by the standards of {column} "{label}"',
    'compared with other clips of {column} "{label}"',
)  # fmt: skip


class InputError(ValueError):
    """A mistake in what the user gave, told in one sentence."""


@dataclass(frozen=True)
class Descriptor:
    """One thing that a caption can say about a clip, and the words for it.

    templates/paraclap.yaml says what the fields mean.
    """

    name: str  # in options and in `caption_descriptors`
    column: str
    kind: str  # one of VALUES
    phrases: dict[str, tuple[str, ...]]
    unit: str = ""
    voiced: bool = False
    default: bool = True
    edges_by: tuple[str, ...] = ("*",)
    forms: dict[str, dict[str, str]] = field(default_factory=dict)
    no_label: tuple[str, ...] = ()
    comparisons: dict[str, tuple[str, ...]] = field(default_factory=dict)
    rule: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def output_column(self) -> str:
        """Column of the captions table that holds the level or the label."""
        return self.column if self.kind == "label" else f"{self.name}_level"


VALUES = {"level": LEVELS, "rule": PRESENCE, "label": ()}  # kind -> values that it can take
Group = tuple[str, ...]  # one label for each column that edges are fitted by, () for all rows


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


# --- Templates -----------------------------------------------------------------------------------


def read_templates(names: Sequence[str]) -> tuple[Descriptor, ...]:
    """Descriptors of tables, each a name in templates/ or a path; later ones replace earlier ones.

    Raises:
        InputError: if a table does not fit, or a rule names what is no level descriptor
    """
    found: dict[str, Descriptor] = {}
    for name in names:
        known = TEMPLATES / f"{name}.yaml"
        path = known if known.is_file() else Path(name)
        found |= {descriptor.name: descriptor for descriptor in _read_text(path, parse_templates)}
    for descriptor in found.values():
        for part in descriptor.rule:
            if part not in found or found[part].kind != "level":
                raise InputError(
                    f"{descriptor.name}: its rule needs level descriptor {part!r}, "
                    f"which {', '.join(names)} lacks; give its templates before"
                )
    return tuple(found.values())


@functools.cache
def default_descriptors() -> tuple[Descriptor, ...]:
    """Descriptors of the paper."""
    return read_templates(["paraclap"])


def templates_to_dict(descriptors: Iterable[Descriptor]) -> dict[str, dict]:
    """Templates as plain mappings, without the fields that are at their default."""
    blank = asdict(Descriptor("", "", "", {}))
    return {
        descriptor.name: {
            key: value
            for key, value in asdict(descriptor).items()
            if key != "name" and value != blank[key]
        }
        for descriptor in descriptors
    }


def dump_templates(descriptors: Iterable[Descriptor]) -> str:
    """Templates as YAML that `--templates` reads."""
    options = {"sort_keys": False, "allow_unicode": True, "width": 100, "default_flow_style": None}
    plain = json.loads(json.dumps(templates_to_dict(descriptors)))  # tuples become lists
    return yaml.safe_dump(plain, **options)


def parse_templates(text: str) -> tuple[Descriptor, ...]:
    """Descriptors of a YAML text in the form of templates/paraclap.yaml, in its order.

    Raises:
        InputError: if the text has another form, naming the descriptor
    """
    try:
        entries = LOADER(text).get_single_data()
    except yaml.YAMLError as error:
        raise InputError(f"not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(entries, dict) or not entries:
        raise InputError("expected a mapping of descriptor names to their fields")
    types = {part.name: part.type for part in fields(Descriptor)}
    descriptors = []
    for name, entry in entries.items():
        entry = {**_convert(entry, dict, f"{name}"), "name": name}
        source = {"rule": {"rule"}}.get(str(entry.get("kind")), {"column"})
        odd = (entry.keys() - types) | ({"kind", "phrases", *source} - entry.keys())
        if odd:
            found = ", ".join(sorted(map(repr, odd)))
            raise InputError(f"{name}: {found} unknown or lacking, expected {', '.join(types)}")
        values = {key: _convert(value, types[key], name) for key, value in entry.items()}
        descriptors.append(Descriptor(**{"column": "", **values}))
        _check_words(descriptors[-1])
    return tuple(descriptors)


def _convert(value: object, wanted: Any, where: str) -> Any:
    """A value of YAML as the type that a field is annotated with; lists become tuples."""
    kind, parts = get_origin(wanted) or wanted, get_args(wanted)
    if not isinstance(value, list if kind is tuple else kind):
        names = {bool: "true or false", dict: "a mapping", str: "a text (in quotes)"}
        raise InputError(f"{where}: {value!r}, expected {names.get(kind, 'a list of texts')}")
    if kind is tuple:
        return tuple(_convert(item, parts[0], where) for item in value)
    if kind is dict and parts:
        return {
            _convert(key, parts[0], where): _convert(item, parts[1], f"{where}: {key}")
            for key, item in value.items()
        }
    return value


def _check_words(descriptor: Descriptor) -> None:
    """Known values, whole forms, and no placeholder but those that get filled."""
    name, kind = descriptor.name, descriptor.kind
    if kind not in VALUES:
        raise InputError(f"{name}: kind is {kind!r}, expected one of {', '.join(VALUES)}")
    told = {"level": LEVELS, "rule": PRESENCE[1:]}.get(kind)
    if told and set(descriptor.phrases) != set(told):
        raise InputError(f"{name}: phrases of {list(descriptor.phrases)}, expected {list(told)}")
    for part, levels in descriptor.rule.items():
        if not levels or not set(levels) <= set(LEVELS):
            raise InputError(f"{name}: rule of {part!r} is {levels}, expected some of {LEVELS}")
    for label, form in descriptor.forms.items():
        if set(form) != {"noun", "adjective"}:
            raise InputError(f"{name}: forms of {label!r} are {form}, expected noun and adjective")
    listed = {LISTED, *map(label_key, descriptor.forms)}
    for key, wordings in [*descriptor.phrases.items(), *descriptor.comparisons.items()]:
        forms = ["{noun}", "{adjective}"] if label_key(key) in listed else []
        allowed = ["{label}", *forms] if kind == "label" else []
        for wording in wordings:
            rest = re.sub("|".join(allowed), "", wording)
            if not wording.strip() or set(rest) & set("{}"):
                expected = ", ".join(allowed) or "none"
                raise InputError(f"{name}: phrase {wording!r}, expected placeholders: {expected}")


# --- Words ---------------------------------------------------------------------------------------


def label_key(label: object) -> str:
    """Form in which labels are compared: "No_Agreement" and "no agreement" are one."""
    return " ".join(str(label).replace("_", " ").split()).casefold()


def _as_quoted(label: object) -> str:
    """A label on one line and without the sign that it will be quoted with."""
    return " ".join(str(label).split()).replace('"', "'")


def _form(descriptor: Descriptor, label: object) -> dict[str, str] | None:
    """Noun and adjective of a label, if it has known ones."""
    forms = {label_key(known): form for known, form in descriptor.forms.items()}
    return forms.get(label_key(label))


def _says_nothing(descriptor: Descriptor, label: object) -> bool:
    return label_key(label) in map(label_key, descriptor.no_label)


def _word(
    phrases: Mapping[str, tuple[str, ...]], descriptor: Descriptor, label: object
) -> tuple[str, ...]:
    """Phrases for a label: its own ones, else those for labels with or without known forms."""
    form = _form(descriptor, label)
    own = {label_key(key): wordings for key, wordings in phrases.items()}
    general = own.pop(LISTED, ()), own.pop(UNLISTED, ())
    words = {"label": _as_quoted(label), **(form or {})}
    return tuple(w.format(**words) for w in own.get(label_key(label), general[form is None]))


def phrases_of(descriptor: Descriptor, value: object) -> tuple[str, ...]:
    """Wordings of a level or a label, the first one first; none if it is one of `no_label`."""
    if _says_nothing(descriptor, value):
        return ()
    return _word(descriptor.phrases, descriptor, value)


class Comparison:
    """Groups of rows with one label in a column, and the words for being compared within one.

    Labels that are worded alike ("f" and "female") are one group.
    """

    def __init__(self, column: str, descriptors: Iterable[Descriptor]) -> None:
        self.column = column
        worded = (d for d in descriptors if d.kind == "label" and d.column == column)
        self.descriptor = next(worded, None)

    def group(self, label: object) -> str | None:
        """Name of the group of a label: its noun, or itself; None if it says nothing."""
        if label is None or label != label or not _as_quoted(label):
            return None
        if self.descriptor is None:
            return _as_quoted(label)
        if _says_nothing(self.descriptor, label):
            return None
        form = _form(self.descriptor, label)
        return form["noun"] if form else _as_quoted(label)

    def wordings(self, group: str) -> tuple[str, ...]:
        """Ends of phrases that compare within a group, the first one telling it from others."""
        found = ()
        if self.descriptor is not None:
            found = _word(self.descriptor.comparisons, self.descriptor, group)
        return found or tuple(w.format(column=self.column, label=group) for w in COMPARISONS)


def compared(
    phrases: Sequence[str], group: Group, comparisons: Sequence[Comparison]
) -> tuple[str, ...]:
    """Phrases that say within which group they hold; as they are for the group () of all rows."""
    if not group:
        return tuple(phrases)
    first, *others = (c.wordings(g) for c, g in zip(comparisons, group, strict=True))
    rest = [wordings[0] for wordings in others]
    return tuple(
        " ".join([phrase, first[place % len(first)], *rest]) for place, phrase in enumerate(phrases)
    )


# --- Features, batch by batch --------------------------------------------------------------------


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
        texts = [name for name in columns if name != INDEX[0] and _is_text(schema.field(name).type)]
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


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_number(kind: pa.DataType) -> bool:
    checks = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal)
    return any(check(kind) for check in checks)


def _value_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _decoded(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _as_type(column: pa.Array, wanted: pa.DataType) -> pa.Array:
    """Column of the type wanted; a text becomes a dictionary of texts if it was one."""
    if column.type == wanted:
        return column
    if not pa.types.is_dictionary(column.type):
        column = column.cast(_value_type(wanted))
        return column.dictionary_encode() if pa.types.is_dictionary(wanted) else column
    kind = wanted if pa.types.is_dictionary(wanted) else _stored_type(wanted)
    if not pa.types.is_dictionary(kind):
        return _decoded(column).cast(kind)
    indices, values = column.indices.cast(kind.index_type), column.dictionary.cast(kind.value_type)
    return pa.DictionaryArray.from_arrays(indices, values, ordered=kind.ordered)


def _stored_type(kind: pa.DataType) -> pa.DataType:
    """Type that a column is written from; texts as dictionaries, which costs half the time."""
    return pa.dictionary(pa.int32(), kind) if _is_text(kind) else kind


def _encode(column: pa.Array) -> tuple[np.ndarray, list]:
    """Codes of a column's values (rows,), -1 where missing, and the values that they stand for."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    codes = column.indices.cast(pa.int32()).fill_null(-1).to_numpy(zero_copy_only=False)
    return codes, column.dictionary.to_pylist()


class Numbering:
    """Numbers for the values of a column, the same ones in every batch."""

    def __init__(self, key: Callable[[Any], Any] = lambda value: value) -> None:
        """Start without values.

        Args:
            key: what a value is counted as, None for missing
        """
        self._key = functools.cache(key)
        self._numbers: dict[Any, int] = {}

    @property
    def values(self) -> list:
        """Keys of the values, in the order of their numbers."""
        return list(self._numbers)

    def of(self, column: pa.Array) -> np.ndarray:
        """Numbers of a column's values (rows,), -1 where missing."""
        codes, values = _encode(column)
        numbers = [-1] * (len(values) + 1)  # the last one is that of code -1
        for code, value in enumerate(values):
            key = None if value is None or value != value else self._key(value)
            if key is not None:
                numbers[code] = self._numbers.setdefault(key, len(self._numbers))
        return np.array(numbers, np.int32)[codes]


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
            return _as_type(batch.column(name), kind)
        if name == "corpus":
            value = pa.array([part.corpus], kind)
            codes = pa.array(np.zeros(len(batch), np.int32))
            return pa.DictionaryArray.from_arrays(codes, value)
        return pa.nulls(len(batch), _stored_type(kind))

    def _split(self, part: Part, batch: pa.RecordBatch) -> pa.Array:
        codes, speakers = _encode(self._column(part, batch, "speaker"))
        if (codes < 0).any():
            raise InputError("a split by speaker needs a column 'speaker' without missing values")
        splits = [self._splits.get(str(speaker), "train") for speaker in speakers]
        return pa.array(splits, pa.large_string()).take(pa.array(codes)).dictionary_encode()

    def _kept(self, part: Part, batch: pa.RecordBatch) -> pa.Array:
        codes, emotions = _encode(self._column(part, batch, "emotion"))
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
                known, other = _value_type(known), _value_type(new.type)
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


# --- One look at every row -----------------------------------------------------------------------


@dataclass(frozen=True)
class Survey:
    """What has to be known of all rows before edges can be fitted.

    Attributes:
        rows: their number.
        training: (rows,) which ones edges are fitted on; None if there are splits, but no "train".
        splits: names of the splits.
        groups: column -> (codes (rows,), -1 where missing; names of the groups).
        given: columns of levels that hold low/normal/high themselves.
    """

    rows: int
    training: np.ndarray | None
    splits: tuple[str, ...]
    groups: dict[str, tuple[np.ndarray, list[str]]]
    given: frozenset[str]


def survey(
    features: Features, descriptors: Sequence[Descriptor], comparisons: Sequence[Comparison] = ()
) -> Survey:
    """Look once at index, splits, groups and ready-made levels of every row.

    Raises:
        InputError: if a row stands twice, or if levels are neither numbers nor low/normal/high
    """
    names = features.schema.names
    texts = {
        d.column: Numbering()
        for d in descriptors
        if d.kind == "level" and not _is_number(_value_type(features.schema.field(d.column).type))
    }
    splits, groups = Numbering(), {c.column: Numbering(c.group) for c in comparisons}
    counted = {"split": splits} if "split" in names else {}
    numberings = {**counted, **groups}
    codes = {name: np.empty(features.rows, np.int32) for name in numberings}
    hashes = np.empty(features.rows, np.uint64)
    identity = [*INDEX, *(["corpus"] if "corpus" in names else [])]
    done = 0
    for batch in _shown(features, [*identity, *numberings, *texts], "survey"):
        rows = slice(done, done + len(batch))
        hashes[rows] = _hash_rows(batch, identity)
        for name, numbering in numberings.items():
            codes[name][rows] = numbering.of(batch.column(name))
        for name, numbering in texts.items():
            numbering.of(batch.column(name))
        done = rows.stop
    _check_unique(features, identity, hashes[:done])
    training = np.ones(done, bool)
    if splits.values:
        code = splits.values.index("train") if "train" in splits.values else None
        training = None if code is None else codes["split"][:done] == code
    return Survey(
        done,
        training,
        tuple(map(str, splits.values)),
        {name: (codes[name][:done], numbering.values) for name, numbering in groups.items()},
        frozenset(name for name, numbering in texts.items() if _are_levels(name, numbering.values)),
    )


def _are_levels(column: str, values: list) -> bool:
    """Whether a column that holds no numbers holds levels; False if it holds nothing."""
    odd = [value for value in values if value not in LEVELS]
    if odd:
        expected = f"numbers or only {'/'.join(LEVELS)}"
        raise InputError(f"column {column!r} holds {odd[0]!r}, expected {expected}")
    return bool(values)


def _shown(features: Features, columns: Iterable[str], what: str) -> Iterator[pa.RecordBatch]:
    """Batches, with a bar and a rate where a person looks."""
    with tqdm(total=features.rows, unit="row", desc=what, unit_scale=True, disable=None) as bar:
        for batch in features.batches(columns):
            yield batch
            bar.update(len(batch))


@functools.cache
def _powers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Powers 0 to count - 1 of HASH_BASE and of its inverse, modulo 2**64."""
    bases = np.array([[HASH_BASE], [pow(HASH_BASE, -1, 2**64)]], np.uint64)
    factors = np.repeat(bases, count, axis=1)
    factors[:, 0] = 1
    first, second = np.cumprod(factors, axis=1, dtype=np.uint64)
    return first, second


def _hash_texts(column: pa.Array) -> np.ndarray:
    """Polynomial hash modulo 2**64 of each text's bytes (rows,), many texts at once."""
    column = _decoded(column).cast(pa.large_string()).fill_null("")
    _, ends, content = column.buffers()
    ends = np.frombuffer(ends, np.int64)[column.offset : column.offset + len(column) + 1]
    content = np.frombuffer(content or b"", np.uint8)
    hashes = np.empty(len(column), np.uint64)
    for row in range(0, len(column), HASHED):
        limits = ends[row : row + HASHED + 1] - ends[row]
        octets = content[ends[row] :][: limits[-1]].astype(np.uint64)
        powers, inverse = _powers(1 << int(limits[-1]).bit_length())
        sums = np.zeros(len(octets) + 1, np.uint64)
        np.cumsum(powers[: len(octets)] * (octets + np.uint64(1)), out=sums[1:])
        sums = sums[limits]
        hashes[row : row + HASHED] = (sums[1:] - sums[:-1]) * inverse[limits[:-1]]
    return hashes


def _hash_rows(batch: pa.RecordBatch, identity: Sequence[str]) -> np.ndarray:
    """Numbers (rows,) that are equal for rows of equal identity, and hardly ever for others."""
    hashes = np.zeros(len(batch), np.uint64)
    for name in identity:
        column = batch.column(name)
        if pa.types.is_duration(column.type) or pa.types.is_integer(column.type):
            new = column.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
        elif pa.types.is_floating(column.type):
            new = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
        elif pa.types.is_null(column.type):
            new = np.zeros(len(batch), np.int64)
        else:
            new = _hash_texts(column)
        hashes = _mixed(hashes, new.view(np.uint64))
    return hashes


def _mixed(hashes: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Hashes of rows (rows,) with one more value each, modulo 2**64."""
    return (hashes ^ (hashes >> np.uint64(31))) * np.uint64(HASH_BASE) + values


def _check_unique(features: Features, identity: Sequence[str], hashes: np.ndarray) -> None:
    """Refuse rows that stand twice; equal hashes are looked at again, so that none is missed.

    Raises:
        InputError: naming the first row that was seen before
    """
    hashes.sort()
    suspects = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    seen: set[tuple] = set()
    for batch in features.batches(identity) if len(suspects) else ():
        found = np.isin(_hash_rows(batch, identity), suspects)
        for row in batch.filter(pa.array(found)).to_pylist():
            key = tuple(row.values())
            if key in seen:
                told = ", ".join(f"{name} {value}" for name, value in row.items())
                raise InputError(f"a row stands twice in the features: {told}")
            seen.add(key)


# --- Edges ---------------------------------------------------------------------------------------


def measured_values(batch: pa.RecordBatch, descriptor: Descriptor) -> tuple[np.ndarray, np.ndarray]:
    """Values of a level descriptor as float64 (rows,), and which of them are undefined (rows,).

    Raises:
        InputError: if the column does not hold numbers
    """
    column = _decoded(batch.column(descriptor.column))
    if not _is_number(column.type) and column.null_count < len(column):
        found = column.drop_null()[0].as_py()
        raise InputError(f"column {descriptor.column!r} holds {found!r}, expected numbers")
    values = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    undefined = ~np.isfinite(values)
    if descriptor.voiced:
        undefined |= values == 0
        if VOICING_COLUMN in batch.schema.names:
            voicing = batch.column(VOICING_COLUMN).cast(pa.float64())
            undefined |= np.nan_to_num(voicing.to_numpy(zero_copy_only=False)) == 0
    return values, undefined


def _columns_of(features: Features, descriptor: Descriptor) -> list[str]:
    """Columns that `measured_values` reads."""
    voicing = [VOICING_COLUMN] if descriptor.voiced else []
    return [descriptor.column, *(name for name in voicing if name in features.schema.names)]


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
    columns = _columns_of(features, descriptor)
    for batch in _shown(features, columns, descriptor.name):
        rows = slice(done, done + len(batch))
        measured, undefined = measured_values(batch, descriptor)
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


def edges_to_dict(edges: Mapping[str, Edges]) -> dict[str, Any]:
    """Edges as plain mappings, numbers that have to be exact as the shortest decimal text."""
    entries = {
        name: {
            "column": fitted.column,
            "quantiles": [repr(float(quantile)) for quantile in fitted.quantiles],
            "by": list(fitted.by),
            "groups": [
                {"group": list(group), "low": repr(b.low), "high": repr(b.high), "n": b.n}
                for group, b in fitted.groups.items()
            ],
        }
        for name, fitted in edges.items()
    }
    return {"format": EDGES_FORMAT, "descriptors": entries}


def _as_edges(entry: Mapping[str, Any]) -> Edges:
    """Edges of one descriptor from format 2."""
    groups = {
        tuple(part["group"]): Bounds(float(part["low"]), float(part["high"]), part["n"])
        for part in entry["groups"]
    }
    quantiles = tuple(map(float, entry["quantiles"]))
    known = {"column": entry["column"], "groups": groups, "by": tuple(entry["by"])}
    if entry.keys() - known - {"quantiles"}:
        raise ValueError(f"unknown {sorted(entry.keys() - known - {'quantiles'})}")
    return Edges(**known, quantiles=quantiles)


def _from_format_1(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Edges of one descriptor from the format without groups, in format 2."""
    bounds = {name: entry[name] for name in ("low", "high", "n")}
    rest = {name: value for name, value in entry.items() if name not in bounds}
    return {**rest, "by": [], "groups": [{"group": [], **bounds}]}


EDGES_READERS: dict[int, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {
    1: _from_format_1,
    EDGES_FORMAT: dict,
}


def parse_edges(text: str, descriptors: Sequence[Descriptor]) -> dict[str, Edges]:
    """Edges from the JSON of `edges_to_dict`, bit for bit as they were fitted.

    Raises:
        InputError: if the form is another one, or a descriptor is unknown or of another column
    """
    try:
        content = json.loads(text)
        if content["format"] not in EDGES_READERS:
            raise ValueError(f"format is {content['format']!r}, expected 1 or {EDGES_FORMAT}")
        convert = EDGES_READERS[content["format"]]
        edges = {n: _as_edges(convert(entry)) for n, entry in content["descriptors"].items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"no edges of this program ({error!r})") from error
    columns = {descriptor.name: descriptor.column for descriptor in descriptors}
    for name, fitted in edges.items():
        if name not in columns:
            raise InputError(f"edges of unknown descriptor {name!r}, expected {', '.join(columns)}")
        bounds = fitted.groups.values()
        finite = all(-np.inf < b.low < b.high < np.inf for b in bounds)
        whole = all(len(group) == len(fitted.by) for group in fitted.groups)
        if fitted.column != columns[name] or not finite or not whole:
            expected = f"column {columns[name]!r} and finite bounds, low below high"
            raise InputError(f"edges of {name!r} are {fitted}, expected {expected}")
    return edges


# --- Captions ------------------------------------------------------------------------------------


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
            codes, levels = _encode(batch.column(descriptor.column))
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
                hashes = _mixed(hashes, block[:, 0].astype(np.uint64))
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
    for batch in _shown(features, captioner.columns, "captions"):
        yield captioner(batch)


def with_preview(batches: Iterable[pa.RecordBatch], rows: int, wanted: int) -> Iterator[Any]:
    """Pass batches on, and print some rows, spread evenly over the table, after them.

    Of each row: file, first wordings, and paraphrases of them.
    """
    places = np.linspace(0, rows - 1, min(wanted, rows)).astype(int)
    lines, done = [], 0
    for batch in batches:
        for place in places[(places >= done) & (places < done + len(batch))] - done:
            row = batch.select([INDEX[0], "caption_descriptors", "captions"]).slice(place, 1)
            file, names, phrases = row.to_pylist()[0].values()
            wordings: dict[str, list[str]] = {}
            for name, phrase in zip(names, phrases, strict=True):
                wordings.setdefault(name, []).append(phrase)
            lines.append(file)
            for title, chosen in (("first wordings:", 0), ("paraphrased:", -1)):
                text = " and ".join(group[chosen] for group in wordings.values())
                lines.append(f"  {title:15} {text or '(no phrase)'}")
        done += len(batch)
        yield batch
    print("\n".join(lines))


def summarise(captioner: Captioner, edges: Mapping[str, Edges], rows: int) -> str:
    """Counts of levels and labels, and the edges with their units, as lines of text."""
    each = captioner.spoken / max(rows, 1)
    lines = [
        f"{rows} rows, {captioner.silent} without any phrase; {each:.1f} phrases a row, "
        f"{captioner.different} different sets of phrases"
    ]
    units = {descriptor.name: descriptor.unit for descriptor in captioner.selected}
    for name in ("split", *units):
        if name not in captioner.counts:
            continue
        missing, *found = captioner.counts[name].sum(axis=0).tolist()
        pairs = list(zip(captioner.values(name), found, strict=True))
        if name not in units or captioner.values(name) not in ([*LEVELS], [*PRESENCE]):
            pairs.sort(key=lambda pair: str(pair[0]))
        pairs = [(value, n) for value, n in [*pairs, ("undefined", missing)] if n]
        lines.append(f"{name:18} {', '.join(f'{value} {n}' for value, n in pairs)}")
        if name in edges:
            told = [
                f"{' '.join(['normal', *group])}: {b.low:.5g} to {b.high:.5g}"
                for group, b in edges[name].groups.items()
            ]
            more = f" and {len(told) - 6} more groups" if len(told) > 6 else ""
            lines[-1] += f"; {', '.join(told[:6])}{more} {units[name]}"
    return "\n".join(lines)


# --- Files ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside, that replaces the path when all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_captions(
    batches: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    path: Path,
    edges: Mapping[str, Edges],
    descriptors: Sequence[Descriptor],
    metadata: Mapping[bytes, bytes],
) -> None:
    """Write captions as parquet, and edges as <stem>.edges.json beside, each whole or not at all.

    Edges, templates and the metadata given are stored in the parquet file, too.

    Raises:
        OSError: if a file cannot be written; what stood there before is left as it was
    """
    fitted, templates = edges_to_dict(edges), templates_to_dict(descriptors)
    ours = {
        **metadata,
        b"pandas": _pandas_metadata(schema),
        b"edges": json.dumps(fitted).encode(),
        b"templates": json.dumps(templates).encode(),
    }
    # read as `schema`, although texts and phrases are written from dictionaries
    told = base64.b64encode(schema.with_metadata(ours).serialize().to_pybytes())
    stored = pa.schema([(f.name, _stored_type(f.type)) for f in schema])
    for name in ("captions", "caption_descriptors"):
        texts = pa.list_(pa.dictionary(pa.int32(), pa.string()))
        stored = stored.set(stored.get_field_index(name), pa.field(name, texts))
    options = {
        "store_schema": False,
        # least and greatest of levels and phrases say nothing, and cost half of the time
        "write_statistics": [name for name in schema.names if name in INDEX],
    }
    with _replacing(path) as part, _replacing(path.with_name(f"{path.stem}.edges.json")) as beside:
        with pq.ParquetWriter(part, stored, **options) as writer, ThreadPoolExecutor(1) as pool:
            written = pool.submit(lambda: None)
            for batch in batches:  # the next one is made while one is written
                written.result()
                written = pool.submit(writer.write_batch, batch.cast(stored), BATCH)
            written.result()
            writer.add_key_value_metadata({**ours, b"ARROW:schema": told})
        beside.write_text(json.dumps(fitted, indent=2) + "\n", encoding="utf-8")


def _pandas_metadata(schema: pa.Schema) -> bytes:
    """What pandas keeps in a file of such columns, so that it reads them as it wrote them."""
    plain = pa.schema([f for f in schema if not pa.types.is_list(f.type)])
    frame = plain.empty_table().to_pandas().set_index(list(INDEX))
    return pa.Table.from_pandas(frame).schema.metadata[b"pandas"]


# --- Picture -------------------------------------------------------------------------------------


def plot(
    features: Features, found: Survey, captioner: Captioner, edges: Mapping[str, Edges], path: Path
) -> None:
    """Draw the distribution of each descriptor with its edges, and its levels in each emotion.

    Raises:
        InputError: if there are no levels
    """
    shown = [d for d in captioner.selected if d.name in edges]
    rows = -(-len(shown) // HISTOGRAMS)
    shares, emotions, columns = _shares(captioner)
    if not columns:
        raise InputError(f"there are no levels to draw in {path}")
    heights = (2.9 * rows, 1.6 + 0.3 * len(emotions))
    figure = Figure(figsize=(16, max(sum(heights), 3)), dpi=100, layout="constrained")
    upper, lower = (
        figure.subfigures(2, 1, height_ratios=heights) if rows else (None, figure.subfigures())
    )
    for place, descriptor in enumerate(shown):
        values = grouped_values(features, found, descriptor, edges[descriptor.name].by)
        axes = upper.add_subplot(rows, HISTOGRAMS, place + 1)
        _draw_histogram(axes, descriptor, values, edges[descriptor.name])
    part = "all" if found.training is None or found.training.all() else "the training"
    if rows:
        upper.suptitle(f"Measured values of {part} rows; what is between the lines is normal")
    _draw_shares(lower, shares, emotions, columns)
    with _replacing(path) as part:
        figure.savefig(part, format=path.suffix[1:] or "png")


def _draw_histogram(
    axes: Axes, descriptor: Descriptor, values: Mapping[Group, np.ndarray], edges: Edges
) -> None:
    """Share of each group's values, and its edges as lines of the same colour."""
    largest = sorted(values, key=lambda group: len(values[group]), reverse=True)[:LINES]
    whole = np.concatenate([values[group] for group in largest])
    limits = np.quantile(whole, [0.002, 0.998]) if len(whole) else (0, 1)
    for place, group in enumerate(sorted(largest)):
        colour, bounds = f"C{place}", edges.groups.get(group)
        counts, bins = np.histogram(values[group], bins=60, range=limits)
        name = ", ".join(group) or f"{len(values[group])} values"
        told = f"{name}: {bounds.low:.4g} to {bounds.high:.4g}" if bounds else f"{name}: no edges"
        share = counts / max(len(values[group]), 1)
        axes.stairs(share, bins, fill=True, alpha=0.35, color=colour, label=told)
        for edge in (bounds.low, bounds.high) if bounds else ():
            axes.axvline(edge, color=colour, linestyle="--", linewidth=1.2)
    more = f" ({len(largest)} largest of {len(values)} groups)" if len(values) > LINES else ""
    by = f" by {', '.join(edges.by)}" if edges.by else ""
    axes.set_title(f"{descriptor.name}{by}{more}", fontsize=11, fontweight="bold")
    axes.set_xlabel(descriptor.unit or descriptor.column, fontsize=9)
    axes.set_yticks([])
    axes.set_ylim(0, axes.get_ylim()[1] * (1.15 + 0.1 * len(largest)))  # room for the legend
    axes.legend(fontsize=8, loc="upper right", framealpha=0.9, borderpad=0.3)


def _shares(captioner: Captioner) -> tuple[np.ndarray, list[str], list[tuple[str, str]]]:
    """Share of each value among the defined ones, for all rows and within each emotion.

    Returns:
        shares (1 + emotions, values of all descriptors), names of the emotions, and of the columns
        (descriptor, value)
    """
    told = [d for d in captioner.selected if d.kind != "label" and d.name in captioner.counts]
    sizes = np.zeros(len(captioner.emotions))
    for descriptor in told[:1]:
        sizes = captioner.counts[descriptor.name][1:].sum(axis=1)
    order = np.argsort(-sizes, kind="stable")[:EMOTIONS_SHOWN]
    order = sorted(order.tolist(), key=lambda place: captioner.emotions[place])
    blocks, columns = [np.zeros((1 + len(order), 0))], []
    for descriptor in told:
        counts = captioner.counts[descriptor.name][:, 1:]
        counts = np.vstack([counts.sum(axis=0), counts[1:][order]])
        with np.errstate(invalid="ignore"):
            shares = counts / counts.sum(axis=1, keepdims=True)
        values = {"level": LEVELS, "rule": PRESENCE[1:]}[descriptor.kind]
        blocks.append(shares[:, -len(values) :])
        columns += [(descriptor.name, value) for value in values]
    return np.hstack(blocks), ["all rows", *(captioner.emotions[place] for place in order)], columns


def _draw_shares(
    figure: SubFigure,
    shares: np.ndarray,
    emotions: Sequence[str],
    columns: Sequence[tuple[str, str]],
) -> None:
    """Matrix of emotions and levels, in percent."""
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=0.8, aspect="auto")
    for row, column in zip(*np.nonzero(np.isfinite(shares)), strict=True):
        colour = "white" if shares[row, column] > 0.5 else "black"
        text = f"{100 * shares[row, column]:.0f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    starts = [p for p, (name, _) in enumerate(columns) if not p or columns[p - 1][0] != name]
    for start in starts:
        axes.axvline(start - 0.5, color="black", linewidth=0.8)
    axes.set_yticks(range(len(emotions)), emotions, fontsize=9)
    # a rule has one column, too narrow for its name above
    ticks = [name if value in PRESENCE else value for name, value in columns]
    axes.set_xticks(range(len(columns)), ticks, fontsize=8, rotation=90)
    names = axes.secondary_xaxis("top")
    ends = [*starts[1:], len(columns)]
    middles = [(start + end - 1) / 2 for start, end in zip(starts, ends, strict=True)]
    texts = [
        "" if columns[start][1] in PRESENCE else columns[start][0].replace("_", "\n")
        for start in starts
    ]
    names.set_xticks(middles, texts, fontsize=9)
    names.tick_params(length=0)
    figure.suptitle("Levels within each emotion: percent of the rows where they are defined")


# --- Command line --------------------------------------------------------------------------------


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("features", type=Path, nargs="*", help="features.parquet, or folders of such files")
    add("-o", "--output", type=Path, help="captions.parquet to write")
    add("--edges", type=Path, help="edges fitted before (captions.edges.json) instead of new ones")
    add("--edges-by", type=_names, default=[], help="comma-separated columns to compare within")
    add("--templates", nargs="+", default=["paraclap"], metavar="NAME",
        help="tables of descriptors and phrases: paraclap (the default), extended, or YAML files; "
        "later ones replace earlier ones")  # fmt: skip
    add("--dump-templates", action="store_true", help="print these tables as such YAML, and stop")
    add("--descriptors", type=_names, help="comma-separated, in the order of the phrases")
    add("--filter-emotions", type=_names, default=[], help="comma-separated emotions to drop")
    add("--validation-speakers", type=_names, default=[], help="comma-separated, get split dev")
    add("--test-speakers", type=_names, default=[], help="comma-separated, get split test")
    add("--quantiles", type=float, nargs=2, metavar=("LOW", "HIGH"), help="default: 0.3 0.7")
    add("--plot", type=Path, metavar="FILE.png", help="draw distributions, edges and emotions")
    add("--preview", type=int, default=0, metavar="N", help="print N rows with their captions")
    return parser


def _check_arguments(arguments: argparse.Namespace) -> None:
    paths, output, preview_rows = arguments.features, arguments.output, arguments.preview
    low, high = arguments.quantiles or QUANTILES
    if not 0 < low < high < 1:
        raise InputError(f"quantiles are {low} and {high}, expected 0 < low < high < 1")
    if arguments.edges and (arguments.quantiles or arguments.edges_by):
        raise InputError("give --edges or how to fit them: edges of a file have their own groups")
    wanted = output or arguments.plot
    if preview_rows < 0 or not (paths if wanted else preview_rows):
        raise InputError("give a features table and -o captions.parquet, or --preview N to look")
    inputs = {path.resolve() for path in paths}
    if output and (output.resolve() in inputs or output.resolve().parent in inputs):
        raise InputError(f"{output} would replace or join the features, give another output")
    if arguments.plot and arguments.plot.suffix not in PICTURES:
        raise InputError(f"{arguments.plot} is no picture, expected one of {', '.join(PICTURES)}")


def _read_text(path: Path, parse: Callable[[str], Any]) -> Any:
    """Parsed content of a text file; errors say which file."""
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (InputError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}") from error


def _comparisons(
    columns: Sequence[str], features: Features, templates: Sequence[Descriptor]
) -> list[Comparison]:
    """Groups to compare within.

    Raises:
        InputError: if the features lack a column, or no descriptor is compared within it
    """
    for column in columns:
        if column not in features.labels:
            raise InputError(f"edges by {column!r} need that column, found {features.labels}")
        if not any({"*", column} & {*d.edges_by} for d in templates if d.kind == "level"):
            raise InputError(f"no descriptor of the templates is compared by {column!r}")
    return [Comparison(column, templates) for column in dict.fromkeys(columns)]


def run(arguments: argparse.Namespace) -> None:
    """Do what the command line asks for.

    Raises:
        InputError: if something given does not fit
    """
    start = time.perf_counter()
    templates = read_templates(arguments.templates)
    if arguments.dump_templates:
        print(dump_templates(templates), end="")
        return
    _check_arguments(arguments)
    if not arguments.features:
        print("No features given: captions of random example values.")
    features = Features(
        open_parts(arguments.features) or [example_part(templates)],
        {"dev": arguments.validation_speakers, "test": arguments.test_speakers},
        arguments.filter_emotions,
    )
    features.check_names()
    selected = select_descriptors(features, arguments.descriptors, templates)
    levels = measured(selected, templates)
    if arguments.edges:
        stored = _read_text(arguments.edges, lambda text: parse_edges(text, templates))
        edges = {d.name: stored[d.name] for d in levels if d.name in stored}
        by = [column for fitted in edges.values() for column in fitted.by]
        found = survey(features, levels, _comparisons(by, features, templates))
        check_edges(edges, found, levels, arguments.edges)
    else:
        comparisons = _comparisons(arguments.edges_by, features, templates)
        found = survey(features, levels, comparisons)
        quantiles = tuple(arguments.quantiles or QUANTILES)
        edges = fit_edges(features, found, levels, comparisons, quantiles)
    for column, (codes, _) in found.groups.items():
        if (codes < 0).any():
            warnings.warn(
                f"{(codes < 0).sum()} rows have no {column} and no phrase compared by it",
                stacklevel=2,
            )
    captioner = Captioner(features, found, selected, templates, edges)
    batches = captions_of(features, captioner)
    if arguments.preview:
        batches = with_preview(batches, found.rows, arguments.preview)
    if arguments.output:
        metadata = features.metadata
        write_captions(batches, captioner.schema, arguments.output, edges, templates, metadata)
    else:
        for _ in batches:
            pass
    seconds = time.perf_counter() - start
    if arguments.features:
        print(summarise(captioner, edges, found.rows))
    if arguments.plot:
        plot(features, found, captioner, edges, arguments.plot)
        print(f"wrote {arguments.plot}")
    if arguments.output:
        print(f"wrote {arguments.output}: {found.rows / seconds:,.0f} rows/s")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 0 only if everything asked for was done."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
        try:
            run(_parser().parse_args(arguments))
        except (InputError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
