"""Settings in a YAML file and in `key=value` arguments, checked against the dataclasses.

Text is kept as typed: `output=runs/a #3` is a folder `a #3`, and `data.train_split=007` is not 7.
"""

import dataclasses
import difflib
import os
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from paraclap.files import parse_yaml, read_yaml
from paraclap.settings import Settings, SettingsError

PATHS = {
    *("output", "model.start", "model.audio.name", "model.text.name", "train.resume"),
    *("data.root", "data.captions", "data.features", "data.templates"),
    *("data.waveform_cache", "data.embeddings"),
}
"""Keys of paths, or of names in place of a path; `~` in front is the home directory."""

RENAMED = {
    "captions.counts": "captions.phrase_count_probs",
    "captions.shares": "captions.label_probs",
    "data.class_temperature": "data.class_sampling_exponent",
    "data.packed": "data.waveform_cache",
    "data.temperature": "data.sampling_exponent",
    "loss.prototypes": "loss.class_prompts",
    "text_stage": "text_pretraining",
    "train.dry_run": "train.max_steps=2",
    "train.queries": "train.prompts",
    "train.thaw": "train.unfreeze",
}
"""Former key or group -> its present name."""

REMOVED = (
    *("captions.bare", "data.crop_seconds_min", "data.speaker_aware"),
    *("loss.graded", "loss.graded_temperature", "loss.hard_negatives"),
)
"""Former keys without a successor; experiments/NOTES.md has the measurements."""


def read_file(path: Path) -> dict[str, Any]:
    """Return the settings of a YAML file.

    Raises:
        SettingsError: if the file cannot be read, or a key or value is wrong.
    """
    if not path.is_file():
        raise SettingsError(f"configuration {path} does not exist")
    tree = read_yaml(path, SettingsError)
    if not isinstance(tree, Mapping | None):
        raise SettingsError(f"{path} has no keys, expected settings such as `output: runs/mine`")
    return _checked(tree or {})


def read_argument(argument: str) -> dict[str, Any]:
    """Return the setting of a `key=value` argument.

    Raises:
        SettingsError: if the key or value is wrong.
    """
    key, _, text = argument.partition("=")
    if not key:
        raise SettingsError(f"{argument!r} has no key, expected key=value")
    if not text:
        raise SettingsError(f"{key} has no value; None is written {key}=null")
    kind = type_of(key)
    if not _is_text(kind) or (text == "null" and kind is not str):
        try:
            value = parse_yaml(text)
        except ValueError as error:
            raise SettingsError(f"{argument} cannot be read: {error}") from error
    else:
        value = text
    for name in reversed(key.split(".")):
        value = {name: value}
    return _checked(value)


def type_of(key: str) -> Any:
    """Return the type of a setting, `Any` for the keys of a configuration of an encoder.

    Raises:
        SettingsError: if there is no such setting, with the nearest ones.
    """
    kind: Any = Settings
    for name in key.split("."):
        if dataclasses.is_dataclass(kind):
            kind = {part.name: part.type for part in dataclasses.fields(kind)}.get(name)
        elif typing.get_origin(kind) is dict:
            kind = typing.get_args(kind)[1]
        elif kind is not Any:
            kind = None
        if kind is None:
            _refuse_unknown(key)
    return kind


def leaves(tree: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and value of each leaf of nested mappings."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _refuse_unknown(key: str) -> typing.NoReturn:
    former = (old for old in (*RENAMED, *REMOVED) if f"{key}.".startswith(f"{old}."))
    old = next(former, None)
    if old in RENAMED:
        raise SettingsError(f"{key} was renamed to {RENAMED[old]}{key[len(old) :]}")
    if old is not None:
        raise SettingsError(f"{key} was removed: it did not improve results; delete it")
    known = [name for name, _ in leaves(dataclasses.asdict(Settings()))]
    near = difflib.get_close_matches(key, known)
    hint = f"; did you mean {' or '.join(near)}?" if near else ", see docs/configuration.md"
    raise SettingsError(f"{key} is unknown{hint}")


def _checked(tree: Mapping[Any, Any]) -> dict[str, Any]:
    """Nested settings without empty groups, with `~` replaced, after a check of keys and texts."""
    checked: dict[str, Any] = {}
    for key, value in leaves(tree):
        kind = type_of(key)
        if dataclasses.is_dataclass(kind):
            if value:
                raise SettingsError(f"{key} is a group of settings, expected {key}.NAME={value}")
            continue
        if typing.get_origin(kind) is list and not isinstance(value, list):
            raise SettingsError(f"{key} is {value!r}, expected a list, such as {key}=[{value}]")
        if _is_text(kind) or kind == list[str]:
            _check_text(key, value)
        _refuse_interpolation(key, value)
        place = checked
        *groups, name = key.split(".")
        for group in groups:
            place = place.setdefault(group, {})
        place[name] = _expanded(value) if is_path(key) else value
    return checked


def is_path(key: str) -> bool:
    """Whether a key is one of `PATHS`, or the same key of a named corpus."""
    group, _, name = key.rpartition(".")
    return key in PATHS or (group.startswith("data.corpora.") and f"data.{name}" in PATHS)


def _expanded(value: Any) -> Any:
    if isinstance(value, list):
        return [_expanded(item) for item in value]
    return os.path.expanduser(value) if isinstance(value, str) else value


def _is_text(kind: Any) -> bool:
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    return str in kinds and int not in kinds


def _check_text(key: str, value: Any) -> None:
    """Refuse values that YAML has converted: 007 is read as 7, `no` as False."""
    for item in value if isinstance(value, list) else [value]:
        if item is not None and not isinstance(item, str):
            raise SettingsError(
                f"{key} is read as {item!r}, expected text; put it in quotes in YAML"
            )


def _refuse_interpolation(key: str, value: Any) -> None:
    """Refuse `${...}`: values of the environment would be stored in config.yaml."""
    if "${" in f"{key}{value}":
        raise SettingsError(f"{key} is {value!r}, expected a value without ${{...}}")
