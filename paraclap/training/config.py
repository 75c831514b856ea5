"""What a training run is told: documented defaults, a YAML file over them, arguments over both.

    settings = read_settings(["configs/small.yaml", "data.root=/data/RAVDESS", "optim.lr=1e-4"])

An unknown key stops with the nearest known ones. The reference of all keys is written from the
docstrings below::

    python -m paraclap.training.config > docs/configuration.md
"""

import argparse
import dataclasses
import difflib
import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from paraclap.errors import ParaCLAPError
from paraclap.settings import (
    Settings,
)
from paraclap.training.loggers import LOGGERS

PACKAGE = Path(__file__).resolve().parents[1]
INSTALLED = PACKAGE / "configs"  # where pip puts the repository's configs/
CONFIGS = INSTALLED if INSTALLED.is_dir() else PACKAGE.parent / "configs"
DEFAULT_CONFIG = CONFIGS / "paraclap.yaml"

# Keys that may differ when a run is resumed: they change where and how often, never what.
FREE_KEYS = {"output"}
FREE_KEYS |= {
    f"data.{name}"
    for name in (
        "root",
        "captions",
        "features",
        "waveform_cache",
        "embeddings",
        "workers",
        "timeout",
    )
}
FREE_KEYS |= {
    f"train.{name}"
    for name in (
        *("save_every", "save_minutes", "keep", "resume", "force", "device", "timeout"),
        *("log_every", "loggers", "dry_run", "text_cache"),
    )
}

CHOICES: dict[str, Sequence[str]] = {
    "data.crop": ("random", "centre"),
    "loss.name": ("contrastive", "sigmoid"),
    "loss.positives": ("matching", "own"),
    "optim.name": ("adamw", "adam"),
    "optim.schedule": ("cosine", "constant"),
    "model.audio_pooling": ("mean", "mean_std", "attention"),
    "model.audio_layers": ("last", "weighted"),
    "model.mel.normalisation": ("fixed", "clip"),
    "model.text_pooling": ("cls", "mean"),
    "captions.style": ("sampled", "published", "emotion"),
    "train.precision": ("auto", "fp32", "bf16"),
    "train.loggers": tuple(LOGGERS),
}

REQUIRED: dict[str, Mapping[str, str]] = {
    "loss.graded": {"loss.name": "contrastive", "loss.positives": "matching"},
    "loss.hard_negatives": {"loss.name": "contrastive"},
}
"""Keys that are 0 unless others have these values."""


RENAMED = {
    "captions.counts": "captions.phrase_count_probs",
    "captions.shares": "captions.label_probs",
    "data.class_temperature": "data.class_sampling_exponent",
    "data.packed": "data.waveform_cache",
    "data.temperature": "data.sampling_exponent",
    "loss.prototypes": "loss.class_prompts",
    "text_stage": "text_pretraining",
    "train.queries": "train.prompts",
    "train.thaw": "train.unfreeze",
}
"""Former key or group -> its present name."""
REMOVED = ("captions.bare", "data.crop_seconds_min", "data.speaker_aware")
"""Former keys without a successor; experiments/NOTES.md has the measurements."""


class SettingsError(ParaCLAPError, ValueError):
    """A configuration that cannot be run."""


def read_settings(arguments: Sequence[str]) -> Settings:
    """Merge defaults, a YAML file and `key=value` arguments.

    Raises:
        SettingsError: for an unknown key, a wrong type or a value that is not offered.
    """
    files = [argument for argument in arguments if "=" not in argument]
    if len(files) > 1:
        raise SettingsError(f"expected one YAML file, got {files}")
    path = Path(files[0]) if files else DEFAULT_CONFIG
    if not path.is_file():
        raise SettingsError(f"there is no configuration {path}")
    try:
        given = (
            OmegaConf.load(path),
            OmegaConf.from_dotlist([argument for argument in arguments if "=" in argument]),
        )
        _refuse_former_keys(given)
        config = OmegaConf.merge(OmegaConf.structured(Settings), *given)
        settings = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise SettingsError(_explain(error)) from error
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error
    flat = flatten(dataclasses.asdict(settings))
    for key, offered in CHOICES.items():
        given = flat[key] if isinstance(flat[key], list) else [flat[key]]
        if not set(given) <= set(offered):
            raise SettingsError(f"{key} is {flat[key]!r}, expected one of {list(offered)}")
    for key, others in REQUIRED.items():
        wrong = [other for other, needed in others.items() if flat[key] and flat[other] != needed]
        if wrong:
            raise SettingsError(
                f"{key} is {flat[key]}, expected 0 beside {wrong[0]}={flat[wrong[0]]}"
            )
    return settings


def _refuse_former_keys(given: Sequence[DictConfig | ListConfig]) -> None:
    """Raise `SettingsError` for the first key that was renamed or removed."""
    former = (*RENAMED, *REMOVED)
    for config in given:
        keys = flatten(OmegaConf.to_container(config)) if isinstance(config, DictConfig) else ()
        for key in keys:
            old = next((old for old in former if f"{key}.".startswith(f"{old}.")), None)
            if old in RENAMED:
                raise SettingsError(f"{key} was renamed to {RENAMED[old]}{key[len(old) :]}")
            if old is not None:
                raise SettingsError(f"{key} was removed: it did not improve results; delete it")


def _explain(error: OmegaConfBaseException) -> str:
    """One sentence that names the key and the nearest known ones."""
    reason = str(error.msg or error).splitlines()[0]
    if error.full_key is None:
        return reason
    near = difflib.get_close_matches(error.full_key, flatten(dataclasses.asdict(Settings())))
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"{error.full_key}: {reason}{hint}"


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def is_free(key: str) -> bool:
    """Whether a key may differ; where a named corpus lies may, like where a single one does."""
    group, _, name = key.rpartition(".")
    return key in FREE_KEYS or (group.startswith("data.corpora.") and f"data.{name}" in FREE_KEYS)


def changed_keys(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Dotted keys whose values differ between two nested settings, but for `FREE_KEYS`."""
    first, second = flatten(then), flatten(now)
    keys = {key for key in first.keys() | second.keys() if not is_free(key)}
    return sorted(key for key in keys if first.get(key) != second.get(key))


# --- Reference -----------------------------------------------------------------------------------

REFERENCE = """\
# Configuration

<!-- Written by `python -m paraclap.training.config > docs/configuration.md`; change
the docstrings instead. -->

`python train.py FILE.yaml key=value ...`: the file goes over the defaults below, the arguments go
over the file. A list is written `model.freeze=[audio,text]`, a mapping in quotes and with spaces,
`"captions.label_probs={emotion: 0.6, gender: 0.4}"`, nothing is `null`. An unknown key stops with
the nearest known ones; `config.yaml` in the run folder holds what a run was told in the end.
"""


def reference() -> str:
    """Every key with its default and meaning, as a page in Markdown."""
    return "\n".join([REFERENCE, *_section(Settings, "")])


def _section(kind: type, prefix: str) -> list[str]:
    """Lines on a dataclass of settings, then on those inside of it."""
    meanings = attribute_texts(kind)
    rows, inner = [], []
    for part in dataclasses.fields(kind):
        key = f"{prefix}{part.name}"
        if dataclasses.is_dataclass(part.type):
            inner += _section(part.type, f"{key}.")
        else:
            cells = f"`{key}`", f"`{_default(part)}`", meanings[part.name].replace("|", "\\|")
            rows.append(f"| {' | '.join(cells)} |")
            if key in CHOICES and not all(f'"{choice}"' in cells[-1] for choice in CHOICES[key]):
                raise SettingsError(f"the docstring of {key} lacks one of {list(CHOICES[key])}")
    head = inspect.getdoc(kind).split("\n\nAttributes:")[0]
    title = f"## `{prefix.rstrip('.')}`" if prefix else "## The run"
    table = ["| key | default | meaning |", "|---|---|---|", *rows, ""] if rows else []
    return [title, "", head, "", *table, *inner]


def _default(part: dataclasses.Field) -> str:
    """Default of a field as it is written in YAML."""
    value = part.default if part.default_factory is dataclasses.MISSING else part.default_factory()
    text = yaml.safe_dump(value, default_flow_style=True, width=1000)
    return text.removesuffix("\n").removesuffix("\n...")


def attribute_texts(kind: type) -> dict[str, str]:
    """Meaning of each field, from the section `Attributes` of a dataclass's docstring.

    Raises:
        SettingsError: if a field is not described, or something described is no field.
    """
    section = inspect.getdoc(kind).partition("Attributes:\n")[2]
    found = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", section, flags=re.MULTILINE)
    texts = {name: " ".join(text.split()) for name, text in found}
    parts = dataclasses.fields(kind)
    expected = {part.name for part in parts}
    optional = {part.name for part in parts if dataclasses.is_dataclass(part.type)}
    odd = (expected - optional - texts.keys()) | (texts.keys() - expected)
    if odd:
        raise SettingsError(f"{kind.__name__}: {sorted(odd)} described or a field, expected both")
    return texts


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the reference; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args(arguments)
    print(reference(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
