r"""Turn measured speech into words: eGeMAPS features -> low/normal/high levels -> pseudo-captions.

    python preprocessing/template_creation.py --preview 5
    python preprocessing/template_creation.py features.parquet -o captions.parquet
    python preprocessing/template_creation.py features.parquet -o captions.parquet \
        --descriptors pitch,intensity,emotion --filter-emotions "no agreement",other \
        --validation-speakers 17,18 --test-speakers 21,22,23,24
    python preprocessing/template_creation.py other.parquet -o other_captions.parquet \
        --edges captions.edges.json
    python preprocessing/template_creation.py --dump-templates > my.yaml
    python preprocessing/template_creation.py features.parquet -o out.parquet --templates my.yaml

A measured descriptor (pitch, intensity, ...) is "low" at or below the 0.3 quantile of the training
rows, "high" at or above the 0.7 quantile and "normal" between. A label (emotion, gender) is worded
as it stands. What is undefined -- NaN, voice measures of an unvoiced clip, a column that does not
vary -- gets no phrase.

The input is the table of features.py: index file/start/end, label columns, the 88 eGeMAPSv02
functionals under openSMILE's names and Duration in seconds. If it has a column `split`, the edges
are fitted on its "train" rows, else on all rows.

The output holds, per row: the label columns, one column <descriptor>_level each, `captions` (every
phrase that holds, the first wording of a descriptor before its paraphrases) and
`caption_descriptors` (the descriptor of each phrase). The edges go beside it as <stem>.edges.json;
they, the templates and the metadata of the input are also in the file's metadata.
"""

import argparse
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_origin

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

INDEX = ("file", "start", "end")
LEVELS = ("low", "normal", "high")
LISTED, UNLISTED = "*", "?"  # phrase keys: labels with known forms, any other label
QUANTILES = (0.3, 0.7)  # as in the paper (Jing et al., ParaCLAP, Interspeech 2024)
MINIMUM = 10  # fewer defined values than this give no edges
EDGES_FORMAT = 1

# openSMILE writes 0.0 here when no frame of the clip is voiced
VOICING_COLUMN = "F0semitoneFrom27.5Hz_sma3nz_amean"
FEATURE_PATTERN = re.compile(
    r".+_sma3(nz)?_.+|loudnessPeaksPerSec|VoicedSegmentsPerSec|Duration|equivalentSoundLevel_dBp"
    r"|(Mean|Stddev)(Voiced|Unvoiced)SegmentLength(Sec)?"
)

# labels that say that there is no label; compared like all labels, see label_key()
NO_LABEL = (
    "", "n/a", "na", "nan", "no agreement", "none", "not available", "oth", "other", "rest",
    "undefined", "unknown", "unlabelled", "x", "xxx",
)  # fmt: skip

# noun ("emotion is anger"), adjective ("the speaker sounds angry"), further labels that mean it
EMOTIONS = (
    ("amusement", "amused"), ("anger", "angry"), ("annoyance", "annoyed"), ("anxiety", "anxious"),
    ("boredom", "bored"), ("calm", "calm", "calmness"), ("cold anger", "coldly angry"),
    ("concern", "concerned", "worried", "worry"), ("confusion", "confused"),
    ("contempt", "contemptuous"), ("contentment", "content"), ("depression", "depressed"),
    ("despair", "desperate"), ("disappointment", "disappointed"), ("disgust", "disgusted"),
    ("elation", "elated"), ("embarrassment", "embarrassed"), ("enthusiasm", "enthusiastic"),
    ("excitement", "excited"), ("fear", "fearful", "afraid", "scared"),
    ("frustration", "frustrated"), ("guilt", "guilty"), ("happiness", "happy"),
    ("hot anger", "furious", "fury", "rage"), ("interest", "interested"),
    ("irritation", "irritated"), ("joy", "joyful"), ("nervousness", "nervous"),
    ("panic", "panicked"), ("pleasant surprise", "pleasantly surprised"), ("pride", "proud"),
    ("relief", "relieved"), ("sadness", "sad"), ("shame", "ashamed"), ("stress", "stressed"),
    ("surprise", "surprised"), ("tenderness", "tender"),
    ("tiredness", "tired", "sleepy", "sleepiness"),
)  # fmt: skip
GENDERS = (
    ("woman", "female", ("female", "f", "woman")), ("man", "male", ("male", "m", "man")),
    ("girl", "female", ("girl",)), ("boy", "male", ("boy",)),
)  # fmt: skip


class InputError(ValueError):
    """A mistake in what the user gave, told in one sentence."""


@dataclass(frozen=True)
class Descriptor:
    """One thing that a caption can say about a clip, and the words for it.

    The phrases of a level are keyed low/normal/high. Those of a label are keyed "*" (with {noun}
    and {adjective}, for the labels of `forms`), "?" (with {label}, for any other one) or by the
    one label that they are for.
    """

    name: str  # in options and in `caption_descriptors`
    column: str  # of the features table
    kind: str  # "level" (a number, or low/normal/high itself) or "label" (a text)
    phrases: dict[str, tuple[str, ...]]  # see above
    unit: str = ""  # of the column, for the summary
    voiced: bool = False  # undefined when the clip has no voiced frame
    default: bool = True  # used when `--descriptors` is not given
    forms: dict[str, dict[str, str]] = field(default_factory=dict)  # label -> noun and adjective
    no_label: tuple[str, ...] = ()  # labels that get no phrase

    @property
    def output_column(self) -> str:
        """Column of the captions table that holds the level or the label."""
        return f"{self.name}_level" if self.kind == "level" else self.column


@dataclass(frozen=True)
class Edges:
    """Bounds of "normal" for one descriptor, in the unit of its column."""

    column: str  # that was measured
    low: float  # at or below is "low"
    high: float  # at or above is "high"
    n: int  # number of defined values that were used
    quantiles: tuple[float, float] = QUANTILES  # that the bounds are


def _forms(rows: Iterable[tuple[str, str, tuple[str, ...]]]) -> dict[str, dict[str, str]]:
    return {
        label: {"noun": noun, "adjective": adjective}
        for noun, adjective, labels in rows
        for label in labels
    }


def _levels(low: tuple[str, ...], normal: tuple[str, ...], high: tuple[str, ...]) -> dict:
    return {"low": low, "normal": normal, "high": high}


DESCRIPTORS = (
    Descriptor("pitch", VOICING_COLUMN, "level", unit="semitones above 27.5 Hz", voiced=True,
               phrases=_levels(
        ("pitch is low", "the voice is low-pitched", "the speaker talks in a deep voice"),
        ("pitch is normal", "the voice is of medium pitch",
         "the speaker talks at an average pitch"),
        ("pitch is high", "the voice is high-pitched", "the speaker talks in a high voice"))),
    Descriptor("pitch_variation", "F0semitoneFrom27.5Hz_sma3nz_stddevNorm", "level",
               unit="deviation / mean", voiced=True, phrases=_levels(
        ("pitch variation is low", "the voice is monotonous", "the intonation is flat"),
        ("pitch variation is normal", "the voice is moderately melodic",
         "the intonation varies to a usual degree"),
        ("pitch variation is high", "the voice moves widely in pitch",
         "the intonation is lively"))),
    Descriptor("intensity", "equivalentSoundLevel_dBp", "level", unit="dB", phrases=_levels(
        ("intensity is low", "the voice is quiet", "the speaker talks softly"),
        ("intensity is normal", "the voice is neither quiet nor loud",
         "the speaker talks at a usual volume"),
        ("intensity is high", "the voice is loud", "the speaker talks loudly"))),
    Descriptor("loudness", "loudness_sma3_amean", "level", unit="openSMILE loudness",
               default=False, phrases=_levels(
        ("loudness is low", "the speech sounds faint", "the voice is soft to the ear"),
        ("loudness is normal", "the speech sounds moderately loud",
         "the voice has a medium loudness"),
        ("loudness is high", "the speech sounds powerful", "the voice is loud to the ear"))),
    Descriptor("jitter", "jitterLocal_sma3nz_amean", "level", unit="ratio", voiced=True,
               phrases=_levels(
        ("jitter is low", "the vocal folds vibrate regularly",
         "the pitch is stable from cycle to cycle"),
        ("jitter is normal", "the vocal folds vibrate with usual regularity",
         "the pitch changes slightly from cycle to cycle"),
        ("jitter is high", "the vocal folds vibrate irregularly",
         "the pitch is unstable from cycle to cycle"))),
    Descriptor("shimmer", "shimmerLocaldB_sma3nz_amean", "level", unit="dB", voiced=True,
               phrases=_levels(
        ("shimmer is low", "the strength of the voice is stable",
         "the amplitude of the voice is even"),
        ("shimmer is normal", "the strength of the voice wavers a little",
         "the amplitude of the voice is fairly even"),
        ("shimmer is high", "the strength of the voice wavers a lot",
         "the amplitude of the voice is uneven"))),
    Descriptor("duration", "Duration", "level", unit="s", phrases=_levels(
        ("duration is short", "the utterance is brief", "the recording is short"),
        ("duration is normal", "the utterance is of average length",
         "the recording is neither short nor long"),
        ("duration is long", "the utterance is lengthy", "the recording is long"))),
    Descriptor("emotion", "emotion", "label", no_label=NO_LABEL,
               forms=_forms((row[0], row[1], row) for row in EMOTIONS), phrases={
        LISTED: ("emotion is {noun}", "the speaker sounds {adjective}",
                 "the speaker feels {adjective}", "the voice expresses {noun}",
                 "this person is feeling {adjective}"),
        UNLISTED: ('emotion is labelled "{label}"', 'the label of the emotion is "{label}"',
                   'the speaker\'s emotion is described as "{label}"'),
        "neutral": ("emotion is neutral", "the speaker sounds neutral", "the speaker feels neutral",
                    "the voice expresses no particular emotion", "this person is feeling neutral"),
        "emphatic": ("emotion is emphatic", "the speaker sounds emphatic",
                     "the speaker talks with emphasis"),
        "motherese": ("emotion is motherese", "the speaker talks in motherese",
                      "the speaker sounds like a parent talking to a small child"),
        "negative": ("emotion is negative", "the speaker sounds negative",
                     "the voice expresses a negative emotion"),
        "non-negative": ("emotion is not negative", "the speaker does not sound negative",
                         "the voice expresses no negative emotion"),
        "positive": ("emotion is positive", "the speaker sounds positive",
                     "the voice expresses a positive emotion")}),
    Descriptor("gender", "gender", "label", no_label=NO_LABEL, forms=_forms(GENDERS), phrases={
        LISTED: ("gender is {adjective}", "the speaker is {adjective}",
                 "the speaker is a {noun}", "the voice belongs to a {noun}"),
        UNLISTED: ('gender is labelled "{label}"', 'the label of the gender is "{label}"',
                   'the speaker\'s gender is described as "{label}"')}),
    Descriptor("arousal", "arousal", "level", unit="of the corpus", phrases=_levels(
        ("arousal is low", "the speaker sounds subdued", "the voice has little energy"),
        ("arousal is normal", "the speaker sounds moderately aroused",
         "the voice has a usual amount of energy"),
        ("arousal is high", "the speaker sounds agitated", "the voice is full of energy"))),
    Descriptor("valence", "valence", "level", unit="of the corpus", phrases=_levels(
        ("valence is low", "the speaker's mood is unpleasant", "the tone of the voice is negative"),
        ("valence is normal", "the speaker's mood is neither pleasant nor unpleasant",
         "the tone of the voice is neither negative nor positive"),
        ("valence is high", "the speaker's mood is pleasant",
         "the tone of the voice is positive"))),
    Descriptor("dominance", "dominance", "level", unit="of the corpus", phrases=_levels(
        ("dominance is low", "the speaker sounds submissive",
         "the speaker comes across as yielding"),
        ("dominance is normal", "the speaker sounds neither submissive nor dominant",
         "the speaker comes across as neither yielding nor in control"),
        ("dominance is high", "the speaker sounds dominant",
         "the speaker comes across as in control"))),
)  # fmt: skip


def example_table(descriptors: Iterable[Descriptor], rows: int = 100) -> pd.DataFrame:
    """Random values and labels in the form of features.parquet, for a preview without a corpus."""
    generator = np.random.default_rng(0)
    files = [f"example/{row:03d}.wav" for row in range(rows)]
    index = pd.MultiIndex.from_product([files, [pd.Timedelta(0)], [pd.NaT]], names=INDEX)
    table = pd.DataFrame(index=index)
    for descriptor in descriptors:
        values = generator.normal(size=rows)
        if descriptor.kind == "label":
            values = generator.choice([*descriptor.forms, "example"], rows)
        table[descriptor.column] = values
    return table


def _needs_edges(table: pd.DataFrame, descriptor: Descriptor) -> bool:
    """Whether it is a level whose column is there and does not say low/normal/high already."""
    if descriptor.kind != "level" or descriptor.column not in table:
        return False
    column = table[descriptor.column]
    found = () if pd.api.types.is_numeric_dtype(column) else column.dropna().unique()
    return len(found) == 0 or not set(found) <= set(LEVELS)


def _measured_values(table: pd.DataFrame, descriptor: Descriptor) -> np.ndarray:
    """Values of a level descriptor as float64, in its unit, NaN wherever it is undefined."""
    column = table[descriptor.column]
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    if not pd.api.types.is_numeric_dtype(column) and column.notna().any():
        found, expected = column.dropna().iloc[0], f"numbers or only {'/'.join(LEVELS)}"
        raise InputError(f"column {descriptor.column!r} holds {found!r}, expected {expected}")
    values = column.to_numpy(dtype=np.float64, na_value=np.nan, copy=True)
    values[~np.isfinite(values)] = np.nan
    if descriptor.voiced:
        values[values == 0] = np.nan
        if VOICING_COLUMN in table:
            values[table[VOICING_COLUMN].fillna(0).to_numpy() == 0] = np.nan
    return values


def fit_edges(
    table: pd.DataFrame,
    descriptors: Sequence[Descriptor] = DESCRIPTORS,
    quantiles: tuple[float, float] = QUANTILES,
) -> dict[str, Edges]:
    """Exact quantiles of each level descriptor over the defined values of the training rows.

    A descriptor gets no edges, and a warning is given, if fewer than `MINIMUM` values are defined
    or if both edges are equal. Labels and columns that are absent are passed over.

    Returns:
        descriptor name -> edges; they do not depend on the order of the rows

    Raises:
        InputError: if there are splits but no "train", or if a column does not hold numbers
    """
    rows = table
    if "split" in table and table["split"].notna().any():
        rows = table[(table["split"] == "train").to_numpy(dtype=bool, na_value=False)]
        if len(rows) == 0:
            found = ", ".join(sorted(map(repr, table["split"].dropna().unique())))
            raise InputError(f"no row has split 'train' (found {found}), so reuse --edges")
    edges = {}
    for descriptor in descriptors:
        if not _needs_edges(table, descriptor):
            continue
        values = _measured_values(rows, descriptor)
        values = values[~np.isnan(values)]
        low = high = np.nan
        if len(values) >= MINIMUM:
            low, high = np.quantile(values, quantiles).tolist()
        if low < high:
            edges[descriptor.name] = Edges(descriptor.column, low, high, len(values), quantiles)
        else:
            found = f"column {descriptor.column!r} has {len(values)} defined training values"
            wanted = f"expected at least {MINIMUM} that vary"
            warnings.warn(f"{descriptor.name} gets no phrase: {found}, {wanted}", stacklevel=2)
    return edges


def to_levels(
    table: pd.DataFrame, edges: dict[str, Edges], descriptors: Sequence[Descriptor] = DESCRIPTORS
) -> pd.DataFrame:
    """Level of each row: "low" <= low edge, "high" >= high edge, "normal" between.

    Labels and columns that are absent are passed over. A column that holds low/normal/high itself
    is taken as it is and needs no edges; any other one without edges is undefined everywhere.

    Returns:
        ordered categorical columns `<descriptor>_level`, missing where undefined

    Raises:
        InputError: if a column does not hold numbers
    """
    columns = {}
    for descriptor in descriptors:
        if descriptor.kind != "level" or descriptor.column not in table:
            continue
        codes, fitted = np.full(len(table), -1), edges.get(descriptor.name)
        if not _needs_edges(table, descriptor):
            codes = pd.Categorical(table[descriptor.column].astype(object), LEVELS).codes
        elif fitted is not None:
            values = _measured_values(table, descriptor)
            rules = [np.isnan(values), values <= fitted.low, values >= fitted.high]
            codes = np.select(rules, [-1, LEVELS.index("low"), LEVELS.index("high")], 1)
        columns[descriptor.output_column] = pd.Categorical.from_codes(codes, LEVELS, True)
    return pd.DataFrame(columns, index=table.index)


def label_key(label: object) -> str:
    """Form in which labels are compared: "No_Agreement" and "no agreement" are one."""
    return " ".join(str(label).replace("_", " ").split()).casefold()


def phrases_of(descriptor: Descriptor, value: object) -> tuple[str, ...]:
    """Wordings of a level or a label, the first one first; none if it is one of `no_label`."""
    key = label_key(value)
    if key in map(label_key, descriptor.no_label):
        return ()
    forms = {label_key(label): form for label, form in descriptor.forms.items()}
    own = {label_key(key): wordings for key, wordings in descriptor.phrases.items()}
    general = own.pop(LISTED, ()), own.pop(UNLISTED, ())
    label = " ".join(str(value).split()).replace('"', "'")
    words = {"label": label, **forms.get(key, {})}
    return tuple(wording.format(**words) for wording in own.get(key, general[key not in forms]))


def describe(
    levels_and_labels: pd.DataFrame, descriptors: Sequence[Descriptor] = DESCRIPTORS
) -> pd.DataFrame:
    """Every phrase that holds for a row, and the descriptor that each phrase belongs to.

    Args:
        levels_and_labels: columns `<descriptor>_level` and labels; missing ones give no phrase
        descriptors: in the order in which their phrases shall stand

    Returns:
        columns `captions` and `caption_descriptors`, lists of str of equal length
    """
    captions = [[] for _ in range(len(levels_and_labels))]
    belongs = [[] for _ in range(len(levels_and_labels))]
    for descriptor in descriptors:
        if descriptor.output_column not in levels_and_labels:
            continue
        codes, values = pd.factorize(levels_and_labels[descriptor.output_column])
        # a missing value has code -1: the last wordings, which are none
        wordings = [*(phrases_of(descriptor, value) for value in values), ()]
        names = [(descriptor.name,) * len(phrases) for phrases in wordings]
        for caption, belong, code in zip(captions, belongs, codes.tolist(), strict=True):
            caption += wordings[code]
            belong += names[code]
    columns = {"captions": captions, "caption_descriptors": belongs}
    return pd.DataFrame(columns, index=levels_and_labels.index, dtype=object)


def caption_table(
    table: pd.DataFrame, edges: dict[str, Edges], descriptors: Sequence[Descriptor] = DESCRIPTORS
) -> pd.DataFrame:
    """Label columns, level columns, `captions` and `caption_descriptors` of a features table.

    Rows keep their order, and phrases stand in the order of the descriptors.

    Raises:
        InputError: if the table already holds a column of that name
    """
    labels = table[[name for name in table if not FEATURE_PATTERN.fullmatch(str(name))]]
    levels = to_levels(table, edges, descriptors)
    taken = [name for name in [*levels, "captions", "caption_descriptors"] if name in labels]
    if taken:
        raise InputError(f"the table already holds {', '.join(taken)}, expected the features table")
    described = pd.concat([labels, levels], axis=1)
    return pd.concat([described, describe(described, descriptors)], axis=1)


def select_descriptors(
    table: pd.DataFrame, names: Sequence[str] | None, descriptors: Sequence[Descriptor]
) -> tuple[Descriptor, ...]:
    """Descriptors by name, in the order given; None for all defaults that the table has.

    Raises:
        InputError: if a name is unknown or given twice, or if the table lacks its column
    """
    if names is None:
        return tuple(d for d in descriptors if d.default and d.column in table)
    known = {descriptor.name: descriptor for descriptor in descriptors}
    for name in names:
        if name not in known:
            raise InputError(f"unknown descriptor {name!r}, expected some of {', '.join(known)}")
        if known[name].column not in table:
            raise InputError(f"descriptor {name!r} needs column {known[name].column!r}")
    if len(set(names)) < len(names):
        raise InputError(f"a descriptor is named twice in {', '.join(names)}")
    return tuple(known[name] for name in names)


def assign_split(
    table: pd.DataFrame, validation: Sequence[str] = (), test: Sequence[str] = ()
) -> pd.DataFrame:
    """Copy of the table whose `split` is "dev", "test" or "train", by speaker.

    Speakers are compared as text: "1" is not "01". An existing `split` is replaced.

    Raises:
        InputError: if a speaker is unknown, missing or in both lists
    """
    if "speaker" not in table or table["speaker"].isna().any():
        raise InputError("a split by speaker needs a column 'speaker' without missing values")
    both = sorted(set(validation) & set(test))
    if both:
        raise InputError(f"speakers {', '.join(both)} are both in validation and in test")
    speakers = table["speaker"].astype(str)
    known = sorted(speakers.unique())
    unknown = [speaker for speaker in [*validation, *test] if speaker not in known]
    if unknown:
        raise InputError(f"no speaker {', '.join(map(repr, unknown))}, found {', '.join(known)}")
    chosen = [speakers.isin(validation), speakers.isin(test)]
    return table.assign(split=np.select(chosen, ["dev", "test"], "train"))


def filter_emotions(table: pd.DataFrame, emotions: Sequence[str]) -> pd.DataFrame:
    """Table without the rows of these emotions (see `label_key`); rows without one stay.

    Raises:
        InputError: if there is no column `emotion`, or if no row is left
    """
    if "emotion" not in table:
        raise InputError("filtering emotions needs a column 'emotion'")
    keys = table["emotion"].map(label_key, na_action="ignore").astype(object)
    for emotion in emotions:
        if label_key(emotion) not in set(keys):
            warnings.warn(f"no row has emotion {emotion!r}", stacklevel=2)
    left = table[~keys.isin([label_key(emotion) for emotion in emotions]).to_numpy()]
    if len(left) == 0:
        raise InputError(f"no row is left without the emotions {', '.join(emotions)}")
    return left


def templates_to_dict(descriptors: Sequence[Descriptor]) -> dict[str, dict]:
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


def dump_templates(descriptors: Sequence[Descriptor] = DESCRIPTORS) -> str:
    """Templates as YAML that `--templates` reads."""
    options = {"sort_keys": False, "allow_unicode": True, "width": 100, "default_flow_style": None}
    return yaml.safe_dump(templates_to_dict(descriptors), **options)


def parse_templates(text: str) -> tuple[Descriptor, ...]:
    """Descriptors of a YAML text in the form of `dump_templates`, in its order.

    Raises:
        InputError: if the text has another form, naming the descriptor
    """
    try:
        entries = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(entries, dict) or not entries:
        raise InputError("expected a mapping of descriptor names to their fields")
    types = {part.name: part.type for part in fields(Descriptor)}
    descriptors = []
    for name, entry in entries.items():
        entry = {**_convert(entry, dict, f"{name}"), "name": name}
        odd = (entry.keys() - types) | ({"column", "kind", "phrases"} - entry.keys())
        if odd:
            found = ", ".join(sorted(map(repr, odd)))
            raise InputError(f"{name}: {found} unknown or lacking, expected {', '.join(types)}")
        values = {key: _convert(value, types[key], name) for key, value in entry.items()}
        descriptors.append(Descriptor(**values))
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
    """Known levels, whole forms, and no placeholder but those that get filled."""
    name, is_label = descriptor.name, descriptor.kind == "label"
    if not is_label and descriptor.kind != "level":
        raise InputError(f"{name}: kind is {descriptor.kind!r}, expected 'level' or 'label'")
    if not is_label and set(descriptor.phrases) != set(LEVELS):
        raise InputError(f"{name}: levels {list(descriptor.phrases)}, expected {list(LEVELS)}")
    for label, form in descriptor.forms.items():
        if set(form) != {"noun", "adjective"}:
            raise InputError(f"{name}: forms of {label!r} are {form}, expected noun and adjective")
    listed = {LISTED, *map(label_key, descriptor.forms)}
    for key, wordings in descriptor.phrases.items():
        forms = ["{noun}", "{adjective}"] if label_key(key) in listed else []
        allowed = ["{label}", *forms] if is_label else []
        for wording in wordings:
            rest = re.sub("|".join(allowed), "", wording)
            if not wording.strip() or set(rest) & set("{}"):
                expected = ", ".join(allowed) or "none"
                raise InputError(f"{name}: phrase {wording!r}, expected placeholders: {expected}")


def edges_to_dict(edges: dict[str, Edges]) -> dict[str, Any]:
    """Edges as plain mappings, numbers that have to be exact as the shortest decimal text."""
    entries = {name: asdict(fitted) for name, fitted in edges.items()}
    for entry in entries.values():
        entry |= {"low": repr(entry["low"]), "high": repr(entry["high"])}
        entry["quantiles"] = [repr(float(quantile)) for quantile in entry["quantiles"]]
    return {"format": EDGES_FORMAT, "descriptors": entries}


def parse_edges(text: str, descriptors: Sequence[Descriptor] = DESCRIPTORS) -> dict[str, Edges]:
    """Edges from the JSON of `edges_to_dict`, bit for bit as they were fitted.

    Raises:
        InputError: if the form is another one, or a descriptor is unknown or of another column
    """
    try:
        content = json.loads(text)
        if content["format"] != EDGES_FORMAT:
            raise ValueError(f"format is {content['format']!r}, expected {EDGES_FORMAT}")
        edges = {}
        for name, entry in content["descriptors"].items():
            entry |= {"low": float(entry["low"]), "high": float(entry["high"])}
            edges[name] = Edges(**entry | {"quantiles": tuple(map(float, entry["quantiles"]))})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"no edges of this program ({error!r})") from error
    columns = {descriptor.name: descriptor.column for descriptor in descriptors}
    for name, fitted in edges.items():
        if name not in columns:
            raise InputError(f"edges of unknown descriptor {name!r}, expected {', '.join(columns)}")
        if fitted.column != columns[name] or not -np.inf < fitted.low < fitted.high < np.inf:
            expected = f"column {columns[name]!r} and finite bounds, low below high"
            raise InputError(f"edges of {name!r} are {fitted}, expected {expected}")
    return edges


def read_features(path: Path) -> tuple[pd.DataFrame, dict[bytes, bytes]]:
    """Table on the index file/start/end, and its file's metadata without the part of pandas.

    Raises:
        InputError: if the file is absent, unreadable, or lacks a part of the index
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist")
    try:
        stored = pq.ParquetFile(path).read()
        table = stored.to_pandas()
    except pa.ArrowException as error:
        raise InputError(f"{path} is not a readable parquet file: {error}") from error
    if tuple(table.index.names) != INDEX:
        table = table.reset_index(drop=not set(table.index.names) & set(INDEX))
        lacking = [name for name in INDEX if name not in table]
        if lacking:
            raise InputError(f"{path} lacks {', '.join(lacking)}, as an index level or a column")
        table = table.set_index(list(INDEX))
    metadata = stored.schema.metadata or {}
    return table, {key: value for key, value in metadata.items() if key != b"pandas"}


def write_captions(
    captions: pd.DataFrame,
    path: Path,
    edges: dict[str, Edges],
    descriptors: Sequence[Descriptor],
    metadata: dict[bytes, bytes] | None = None,
) -> None:
    """Write captions as parquet, and edges as <stem>.edges.json beside, each whole or not at all.

    Edges, templates and the metadata given are stored in the parquet file, too.

    Raises:
        OSError: if a file cannot be written; what stood there before is left as it was
    """
    lists = ["captions", "caption_descriptors"]
    stored = pa.Table.from_pandas(captions.drop(columns=lists))
    for name in lists:
        # typed by hand, so that an empty table or one without phrases has the type too
        column = pa.array(captions[name], type=pa.list_(pa.string()))
        stored = stored.append_column(name, column)
    fitted, templates = edges_to_dict(edges), templates_to_dict(descriptors)
    ours = {b"edges": json.dumps(fitted).encode(), b"templates": json.dumps(templates).encode()}
    stored = stored.replace_schema_metadata(
        {**(metadata or {}), **(stored.schema.metadata or {}), **ours}
    )
    text = json.dumps(fitted, indent=2) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_whole(path.with_name(f"{path.stem}.edges.json"), lambda part: part.write_text(text))
    _write_whole(path, lambda part: pq.write_table(stored, part))


def _write_whole(path: Path, write: Callable[[Path], object]) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def summarise(
    captions: pd.DataFrame, edges: dict[str, Edges], descriptors: Sequence[Descriptor]
) -> str:
    """Counts of levels and labels, and the edges with their units, as lines of text."""
    silent = int((captions["captions"].map(len) == 0).sum())
    lines = [f"{len(captions)} rows, {silent} without any phrase"]
    rows = [(d.name, d.output_column, d.unit) for d in descriptors]
    for name, column, unit in [("split", "split", ""), *rows]:
        if column not in captions:
            continue
        counts = captions[column].value_counts(dropna=False).sort_index().items()
        counts = [f"{'undefined' if pd.isna(value) else value} {n}" for value, n in counts]
        lines.append(f"{name:16} {', '.join(counts)}")
        if name in edges:
            lines[-1] += f"; normal: {edges[name].low:.5g} to {edges[name].high:.5g} {unit}"
    return "\n".join(lines)


def preview(captions: pd.DataFrame, rows: int) -> str:
    """Some rows, spread evenly over the table: file, first wordings, and paraphrases of them."""
    lines = []
    for row in np.linspace(0, len(captions) - 1, min(rows, len(captions))).astype(int):
        wordings: dict[str, list[str]] = {}
        pairs = captions[["caption_descriptors", "captions"]].iloc[row]
        for descriptor, phrase in zip(*pairs, strict=True):
            wordings.setdefault(descriptor, []).append(phrase)
        lines.append(captions.index[row][0])
        for title, place in (("first wordings:", 0), ("paraphrased:", -1)):
            phrases = " and ".join(group[place] for group in wordings.values())
            lines.append(f"  {title:15} {phrases or '(no phrase)'}")
    return "\n".join(lines)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("features", type=Path, nargs="?", help="features.parquet")
    add("-o", "--output", type=Path, help="captions.parquet to write")
    add("--edges", type=Path, help="edges fitted before (captions.edges.json) instead of new ones")
    add("--templates", type=Path, help="YAML that replaces the table of descriptors and phrases")
    add("--dump-templates", action="store_true", help="print that table as such YAML, and stop")
    add("--descriptors", type=_names, help="comma-separated, in the order of the phrases")
    add("--filter-emotions", type=_names, default=[], help="comma-separated emotions to drop")
    add("--validation-speakers", type=_names, default=[], help="comma-separated, get split dev")
    add("--test-speakers", type=_names, default=[], help="comma-separated, get split test")
    add("--quantiles", type=float, nargs=2, metavar=("LOW", "HIGH"), help="default: 0.3 0.7")
    add("--preview", type=int, default=0, metavar="N", help="print N rows with their captions")
    return parser


def _check_arguments(arguments: argparse.Namespace) -> None:
    features, output, preview_rows = arguments.features, arguments.output, arguments.preview
    low, high = arguments.quantiles or QUANTILES
    if not 0 < low < high < 1:
        raise InputError(f"quantiles are {low} and {high}, expected 0 < low < high < 1")
    if arguments.edges and arguments.quantiles:
        raise InputError("give --edges or --quantiles: edges of a file have their own quantiles")
    if preview_rows < 0 or not (features if output else preview_rows):
        raise InputError("give a features table and -o captions.parquet, or --preview N to look")
    if output and output.resolve() == features.resolve():
        raise InputError(f"{output} would replace the features, give another output")


def _read_text(path: Path, parse: Callable[[str], Any]) -> Any:
    """Parsed content of a text file; errors say which file."""
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (InputError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}") from error


def run(arguments: argparse.Namespace) -> None:
    """Do what the command line asks for.

    Raises:
        InputError: if something given does not fit
    """
    templates, metadata = DESCRIPTORS, {}
    if arguments.templates:
        templates = _read_text(arguments.templates, parse_templates)
    if arguments.dump_templates:
        print(dump_templates(templates), end="")
        return
    _check_arguments(arguments)
    if arguments.features:
        table, metadata = read_features(arguments.features)
    else:
        print("No features given: captions of random example values.")
        table = example_table(templates)
    if arguments.validation_speakers or arguments.test_speakers:
        table = assign_split(table, arguments.validation_speakers, arguments.test_speakers)
    if arguments.filter_emotions:
        table = filter_emotions(table, arguments.filter_emotions)
    descriptors = select_descriptors(table, arguments.descriptors, templates)
    if arguments.edges:
        stored = _read_text(arguments.edges, lambda text: parse_edges(text, templates))
        edges = {d.name: stored[d.name] for d in descriptors if d.name in stored}
        for descriptor in descriptors:
            if descriptor.name not in edges and _needs_edges(table, descriptor):
                problem = f"{arguments.edges} has no edges for it"
                warnings.warn(f"{descriptor.name} gets no phrase: {problem}", stacklevel=2)
    else:
        edges = fit_edges(table, descriptors, tuple(arguments.quantiles or QUANTILES))
    captions = caption_table(table, edges, descriptors)
    if arguments.features:
        print(summarise(captions, edges, descriptors))
    if arguments.preview:
        print(preview(captions, arguments.preview))
    if arguments.output:
        write_captions(captions, arguments.output, edges, descriptors, metadata)
        print(f"wrote {arguments.output}")


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
