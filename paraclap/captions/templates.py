"""Descriptors, their YAML templates, and the phrases for their values.

The fields of a descriptor are documented in templates/paraclap.yaml.
"""

import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml

from paraclap.errors import ParaCLAPError
from paraclap.files import read_yaml

LEVELS = ("low", "normal", "high")
FIVE_LEVELS = ("very low", *LEVELS, "very high")
PRESENCE = ("absent", "present")  # values of a rule
LISTED, UNLISTED = "*", "?"  # phrase keys: labels with known forms, any other label
TEMPLATES = Path(__file__).parent / "templates"

# endings of compared phrases for label columns without their own in the templates
COMPARISONS = (
    'within {column} "{label}"', 'by the standards of {column} "{label}"',
    'compared with other clips of {column} "{label}"',
)  # fmt: skip

PHRASES = dict[str, tuple[str, ...]]  # key -> wordings
Group = tuple[str, ...]  # one label per column that edges are fitted by, () for all rows


class InputError(ParaCLAPError, ValueError):
    """Invalid options, features, templates or edges given to template_creation.py."""


@dataclass(frozen=True)
class Descriptor:
    """One property that captions describe, with its phrases; see templates/paraclap.yaml."""

    name: str  # in options and in `caption_descriptors`
    column: str
    kind: str  # one of KINDS
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

    @property
    def values(self) -> tuple[str, ...]:
        """Levels from low to high, or presence; () for labels."""
        levels = FIVE_LEVELS if FIVE_LEVELS[0] in self.phrases else LEVELS
        return {"level": levels, "rule": PRESENCE}.get(self.kind, ())


KINDS = ("level", "rule", "label")


def read_templates(names: Sequence[str]) -> tuple[Descriptor, ...]:
    """Return the descriptors of template tables; later tables replace earlier entries.

    Args:
        names: of tables in templates/, or paths of YAML files

    Raises:
        InputError: if a table is unknown or invalid, or a rule refers to a missing level descriptor
    """
    found: dict[str, Descriptor] = {}
    known = {path.stem: path for path in sorted(TEMPLATES.glob("*.yaml"))}
    for name in names:
        path = known.get(name, Path(name))
        if name not in known and not path.exists():
            raise InputError(
                f"templates {str(name)!r} do not exist, expected {', '.join(known)} or a YAML file"
            )
        entries = read_yaml(path, InputError)
        try:
            descriptors = parse_templates(entries, found)
        except InputError as error:
            raise InputError(f"templates {name}: {error}") from error
        found |= {descriptor.name: descriptor for descriptor in descriptors}
    for descriptor in found.values():
        for part in descriptor.rule:
            if part not in found or found[part].kind != "level":
                raise InputError(
                    f"{descriptor.name}: its rule needs level descriptor {part!r}, "
                    f"which {', '.join(names)} lacks; give its templates before"
                )
    return tuple(found.values())


@functools.cache
def default_descriptors(five_levels: bool = False) -> tuple[Descriptor, ...]:
    """Return the descriptors of templates/paraclap.yaml, with three or five levels."""
    return read_templates(["paraclap", *(["five_levels"] if five_levels else [])])


def templates_to_dict(descriptors: Iterable[Descriptor]) -> dict[str, dict]:
    """Return templates as plain mappings, without fields that have their default."""
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
    """Return templates as YAML in the form that `--templates` reads."""
    options = {"sort_keys": False, "allow_unicode": True, "width": 100, "default_flow_style": None}
    plain = json.loads(json.dumps(templates_to_dict(descriptors)))  # tuples become lists
    return yaml.safe_dump(plain, **options)


def parse_templates(
    entries: object, before: Mapping[str, Descriptor] | None = None
) -> tuple[Descriptor, ...]:
    """Return the descriptors of a mapping of their names to their fields, in its order.

    Args:
        entries: of a table
        before: descriptors of earlier tables; an entry with `phrases` alone adds to them

    Raises:
        InputError: if it is not a valid table of templates
    """
    if not isinstance(entries, dict) or not entries:
        raise InputError("expected a mapping of descriptor names to their fields")
    types = {part.name: part.type for part in fields(Descriptor)}
    before, descriptors = before or {}, []
    for name, entry in entries.items():
        entry = {**_convert(entry, dict, f"{name}"), "name": name}
        if entry.keys() == {"name", "phrases"} and name in before:
            phrases = _convert(entry["phrases"], PHRASES, name)
            descriptors.append(add_phrases(before[name], phrases))
            _check(descriptors[-1])
            continue
        if entry.keys() == {"name", "phrases"}:
            raise InputError(
                f"{name}: phrases alone add to a descriptor of the templates before, "
                f"which have {', '.join(before) or 'none'}"
            )
        source = {"rule": {"rule"}}.get(str(entry.get("kind")), {"column"})
        odd = (entry.keys() - types) | ({"kind", "phrases", *source} - entry.keys())
        if odd:
            found = ", ".join(sorted(map(repr, odd)))
            raise InputError(f"{name}: {found} unknown or lacking, expected {', '.join(types)}")
        values = {key: _convert(value, types[key], name) for key, value in entry.items()}
        descriptors.append(Descriptor(**{"column": "", **values}))
        _check(descriptors[-1])
    return tuple(descriptors)


def add_phrases(descriptor: Descriptor, phrases: Mapping[str, tuple[str, ...]]) -> Descriptor:
    """Return a descriptor with more wordings.

    Those of a label follow its general ones, and are those of its synonyms as well.
    """
    merged = {level: () for level in FIVE_LEVELS if level in {*descriptor.phrases, *phrases}}
    merged |= descriptor.phrases
    for key, wordings in phrases.items():
        keys = [key]
        if descriptor.kind == "label" and key not in (LISTED, UNLISTED):
            merged.setdefault(key, _wordings(merged, descriptor, key))
            keys = [known for known in merged if _is_same(descriptor, known, key)]
        for known in keys:
            merged[known] = tuple(dict.fromkeys([*merged.get(known, ()), *wordings]))
    return replace(descriptor, phrases=merged)


def _convert(value: object, wanted: Any, where: str) -> Any:
    """Return a YAML value as the annotated type of its field; lists become tuples."""
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


def _check(descriptor: Descriptor) -> None:
    """Raise an InputError unless the keys and placeholders of a descriptor are valid."""
    name, kind = descriptor.name, descriptor.kind
    if kind not in KINDS:
        raise InputError(f"{name}: kind is {kind!r}, expected one of {', '.join(KINDS)}")
    keys = PRESENCE[1:] if kind == "rule" else descriptor.values
    if keys and set(descriptor.phrases) != set(keys):
        raise InputError(f"{name}: phrases of {list(descriptor.phrases)}, expected {list(keys)}")
    for part, levels in descriptor.rule.items():
        if not levels or not set(levels) <= set(LEVELS):
            raise InputError(f"{name}: rule of {part!r} is {levels}, expected some of {LEVELS}")
    for label, form in descriptor.forms.items():
        if set(form) != {"noun", "adjective"}:
            raise InputError(f"{name}: forms of {label!r} are {form}, expected noun and adjective")
    listed = {LISTED, *map(label_key, descriptor.forms)}
    for key, phrases in [*descriptor.phrases.items(), *descriptor.comparisons.items()]:
        forms = ["{noun}", "{adjective}"] if label_key(key) in listed else []
        allowed = ["{label}", *forms] if kind == "label" else []
        for phrase in phrases:
            rest = re.sub("|".join(allowed), "", phrase)
            if not phrase.strip() or set(rest) & set("{}"):
                expected = ", ".join(allowed) or "none"
                raise InputError(f"{name}: phrase {phrase!r}, expected placeholders: {expected}")


def select_descriptors(
    descriptors: Sequence[Descriptor], columns: Iterable[str], names: Sequence[str] | None = None
) -> tuple[Descriptor, ...]:
    """Return descriptors by name in the given order; None for all defaults with a column.

    Args:
        descriptors: to choose from
        columns: of the feature table
        names: of descriptors

    Raises:
        InputError: if a name is unknown or given twice, or the table lacks its column
    """
    known = {descriptor.name: descriptor for descriptor in descriptors}
    columns, lacking = set(columns), {}
    for descriptor in descriptors:
        needed = [known[part].column for part in descriptor.rule] or [descriptor.column]
        lacking[descriptor.name] = [column for column in needed if column not in columns]
    if names is None:
        return tuple(d for d in descriptors if d.default and not lacking[d.name])
    for name in names:
        if name not in known:
            raise InputError(f"unknown descriptor {name!r}, expected some of {', '.join(known)}")
        if lacking[name]:
            raise InputError(f"descriptor {name!r} needs column {lacking[name][0]!r}")
    if len(set(names)) < len(names):
        raise InputError(f"a descriptor is named twice in {', '.join(names)}")
    return tuple(known[name] for name in names)


def level_descriptors(
    selected: Sequence[Descriptor], descriptors: Sequence[Descriptor]
) -> tuple[Descriptor, ...]:
    """Return the levels among the selected descriptors and those that their rules need."""
    known = {descriptor.name: descriptor for descriptor in descriptors}
    names = [name for d in selected for name in (d.rule or [d.name])]
    return tuple(known[n] for n in dict.fromkeys(names) if known[n].kind == "level")


def label_key(label: object) -> str:
    """Return the form in which labels are compared: "No_Agreement" equals "no agreement"."""
    return " ".join(str(label).replace("_", " ").split()).casefold()


def emotion_noun(label: object) -> str:
    """Return the noun of an emotion, the same for all synonyms; without forms, its `label_key`."""
    key = label_key(label)
    return _emotion_nouns().get(key, key)


@functools.cache
def _emotion_nouns() -> dict[str, str]:
    forms = next(d.forms for d in default_descriptors() if d.name == "emotion")
    return {label_key(label): form["noun"] for label, form in forms.items()}


def form_of(descriptor: Descriptor, label: object) -> dict[str, str] | None:
    """Return the noun and the adjective of a label, None if the templates do not list it."""
    forms = {label_key(known): form for known, form in descriptor.forms.items()}
    return forms.get(label_key(label))


def phrases_of(descriptor: Descriptor, value: object) -> tuple[str, ...]:
    """Return the phrases for a level or a label, the first wording first; () for `no_label`."""
    if _is_no_label(descriptor, value):
        return ()
    return _fill(descriptor.phrases, descriptor, value)


def has_words(descriptor: Descriptor, label: object) -> bool:
    """Return whether the templates list a label, or list none at all."""
    listed = {label_key(key) for key in descriptor.phrases} - {LISTED, UNLISTED}
    known = form_of(descriptor, label) or label_key(label) in listed
    return bool(known or not descriptor.forms or _is_no_label(descriptor, label))


def compared(
    phrases: Sequence[str], group: Group, comparisons: Sequence["Comparison"]
) -> tuple[str, ...]:
    """Return phrases that name the group they hold within; unchanged for the group ()."""
    if not group:
        return tuple(phrases)
    first, *others = (c.endings(g) for c, g in zip(comparisons, group, strict=True))
    rest = [endings[0] for endings in others]
    return tuple(
        " ".join([phrase, first[place % len(first)], *rest]) for place, phrase in enumerate(phrases)
    )


class Comparison:
    """Groups of rows by the labels of one column, and the phrases that name them.

    Labels with the same noun ("f" and "female") form one group.
    """

    def __init__(self, column: str, descriptors: Iterable[Descriptor]) -> None:
        self.column = column
        labels = (d for d in descriptors if d.kind == "label" and d.column == column)
        self.descriptor = next(labels, None)

    def group(self, label: object) -> str | None:
        """Return the name of a label's group: its noun, or itself; None for a missing label."""
        if label is None or label != label or not _quoted(label):
            return None
        if self.descriptor is None:
            return _quoted(label)
        if _is_no_label(self.descriptor, label):
            return None
        form = form_of(self.descriptor, label)
        return form["noun"] if form else _quoted(label)

    def endings(self, group: str) -> tuple[str, ...]:
        """Return endings of phrases for a group; the first one is unique to the group."""
        found = ()
        if self.descriptor is not None:
            found = _fill(self.descriptor.comparisons, self.descriptor, group)
        return found or tuple(w.format(column=self.column, label=group) for w in COMPARISONS)


def _quoted(label: object) -> str:
    """Return a label on one line, without double quotes."""
    return " ".join(str(label).split()).replace('"', "'")


def _is_no_label(descriptor: Descriptor, label: object) -> bool:
    return label_key(label) in map(label_key, descriptor.no_label)


def _fill(
    phrases: Mapping[str, tuple[str, ...]], descriptor: Descriptor, label: object
) -> tuple[str, ...]:
    """Return the phrases for a label."""
    words = {"label": _quoted(label), **(form_of(descriptor, label) or {})}
    return tuple(w.format(**words) for w in _wordings(phrases, descriptor, label))


def _wordings(
    phrases: Mapping[str, tuple[str, ...]], descriptor: Descriptor, label: object
) -> tuple[str, ...]:
    """Return the wordings for a label: its own or a synonym's if listed, else the general ones."""
    general = phrases.get(UNLISTED if form_of(descriptor, label) is None else LISTED, ())
    own = {label_key(key): phrases[key] for key in phrases if key not in (LISTED, UNLISTED)}
    synonyms = [own[key] for key in own if _is_same(descriptor, key, label)]
    return own.get(label_key(label), [*synonyms, general][0])


def _is_same(descriptor: Descriptor, label: object, other: object) -> bool:
    """Return whether two labels are spellings of one, or have the same noun and adjective."""
    form = form_of(descriptor, label)
    equal = form is not None and form == form_of(descriptor, other)
    return equal or label_key(label) == label_key(other)
