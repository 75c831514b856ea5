"""Descriptors and the words for them: tables in YAML, read, checked and written.

templates/paraclap.yaml holds those of the paper and says what the fields mean.
"""

import functools
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml

from paraclap.captions.input_errors import InputError, read_text

LEVELS = ("low", "normal", "high")
PRESENCE = ("absent", "present")  # values of a rule
LISTED, UNLISTED = "*", "?"  # phrase keys: labels with known forms, any other label
TEMPLATES = Path(__file__).parent / "templates"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C where it was built, 10 times as fast


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


def read_templates(names: Sequence[str]) -> tuple[Descriptor, ...]:
    """Descriptors of tables, each a name in templates/ or a path; later ones replace earlier ones.

    Raises:
        InputError: if a table does not fit, or a rule names what is no level descriptor
    """
    found: dict[str, Descriptor] = {}
    for name in names:
        known = TEMPLATES / f"{name}.yaml"
        path = known if known.is_file() else Path(name)
        found |= {descriptor.name: descriptor for descriptor in read_text(path, parse_templates)}
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


def label_key(label: object) -> str:
    """Form in which labels are compared: "No_Agreement" and "no agreement" are one."""
    return " ".join(str(label).replace("_", " ").split()).casefold()
