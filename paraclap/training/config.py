"""Settings of a training run: documented defaults, then a YAML file, then `key=value` arguments.

    settings = read_settings(["configs/small.yaml", "data.root=/data/RAVDESS", "optim.lr=1e-4"])

docs/configuration.md is generated from the docstrings of `paraclap.settings`::

    python -m paraclap.training.config > docs/configuration.md
"""

import argparse
import dataclasses
import difflib
import inspect
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from paraclap.files import parse_yaml, read_yaml
from paraclap.settings import LABEL_TABLES, SMALL_BERT, Settings, SettingsError, corpora_of

PACKAGE = Path(__file__).resolve().parents[1]
INSTALLED = PACKAGE / "configs"  # where pip puts the repository's configs/
CONFIGS = INSTALLED if INSTALLED.is_dir() else PACKAGE.parent / "configs"
DEFAULT_CONFIG = CONFIGS / "paraclap.yaml"

FREE_KEYS = {
    "output",
    *("data.root", "data.captions", "data.features", "data.waveform_cache", "data.embeddings"),
    *("data.workers", "data.timeout"),
    *("train.max_steps", "train.save_every", "train.save_minutes", "train.keep", "train.resume"),
    *("train.force", "train.device", "train.timeout", "train.log_every", "train.loggers"),
    "train.text_cache",
}
"""Keys that may change when a run is resumed, because they do not affect its weights."""

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
    "train.loggers": ("tensorboard", "wandb"),
}

MINIMUM: dict[str, float] = {
    **{"data.class_sampling_exponent": 0, "data.sampling_exponent": 0, "data.workers": 0},
    **{"data.validation_speakers": 0, "loss.class_prompts": 0, "model.projection_dim": 1},
    **{"optim.clip_norm": 0, "optim.warmup_steps": 0, "text_pretraining.steps": 0},
    **{"train.batch_size": 2, "train.epochs": 1, "train.keep": 1, "train.log_every": 1},
    **{"train.max_skipped": 0, "train.max_steps": 0, "train.micro_batch": 0},
    **{"train.save_every": 1, "train.text_cache": 0, "train.validate_every": 1},
}
"""Smallest values of numbers."""

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


def read_settings(arguments: Sequence[str]) -> Settings:
    """Merge defaults, a YAML file and `key=value` arguments.

    Raises:
        SettingsError: if a key is unknown, or a value has the wrong type or is not a choice.
    """
    files = [argument for argument in arguments if "=" not in argument]
    if len(files) > 1:
        raise SettingsError(f"expected one YAML file, got {files}")
    path = Path(files[0]) if files else DEFAULT_CONFIG
    if not path.is_file():
        raise SettingsError(f"configuration {path} does not exist")
    content = read_yaml(path, SettingsError)
    if not isinstance(content, dict | None):
        raise SettingsError(f"{path} has {type(content).__name__}, expected keys and values")
    pairs = [_argument(argument) for argument in arguments if "=" in argument]
    _refuse_unsupported([flatten(content or {}), *(flatten({key: value}) for key, value in pairs)])
    try:
        given = OmegaConf.create({})
        for key, value in pairs:
            OmegaConf.update(given, key, value)
        config = OmegaConf.merge(OmegaConf.structured(Settings), content or {}, given)
        settings = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise SettingsError(_explain(error)) from error
    flat = flatten(dataclasses.asdict(settings))
    for key, choices in CHOICES.items():
        chosen = flat[key] if isinstance(flat[key], list) else [flat[key]]
        if not set(chosen) <= set(choices):
            raise SettingsError(f"{key} is {flat[key]!r}, expected one of {list(choices)}")
    for key, minimum in MINIMUM.items():
        if flat[key] < minimum:
            raise SettingsError(f"{key} is {flat[key]}, expected at least {minimum}")
    _fill_text_encoder(settings)
    return settings


def _argument(argument: str) -> tuple[str, Any]:
    """Return key and value of a `key=value` argument."""
    key, _, text = argument.partition("=")
    try:
        return key, parse_yaml(text)
    except ValueError as error:
        raise SettingsError(f"{key} cannot be read: {error}") from error


def _refuse_unsupported(given: Iterable[Mapping[str, Any]]) -> None:
    """Refuse keys that were renamed or removed, and interpolations.

    Interpolations could read the environment into config.yaml and checkpoints.
    """
    former = (*RENAMED, *REMOVED)
    for settings in given:
        for key, value in settings.items():
            if "${" in f"{key}{value}":
                raise SettingsError(f"{key} is {value!r}, expected a value without ${{...}}")
            old = next((old for old in former if f"{key}.".startswith(f"{old}.")), None)
            if old in RENAMED:
                raise SettingsError(f"{key} was renamed to {RENAMED[old]}{key[len(old) :]}")
            if old is not None:
                raise SettingsError(f"{key} was removed: it did not improve results; delete it")


def _fill_text_encoder(settings: Settings) -> None:
    """Make the default text encoder explicit, so that the saved settings are complete."""
    text = settings.model.text
    if not settings.model.start and text.name is None and "model_type" not in text.config:
        text.config = SMALL_BERT | text.config


def check_paths(settings: Settings) -> None:
    """Check that the folders and tables of the corpora are set and exist.

    Raises:
        SettingsError: naming the key.
    """
    data = settings.data
    if data.corpora and data.root is not None:
        raise SettingsError("data.root and data.corpora are both set, expected one of them")
    for name, corpus in corpora_of(data).items():
        key = f"data.corpora.{name}" if name else "data"
        is_label_table = Path(corpus.captions or "").suffix.lower() in LABEL_TABLES
        if name and not re.fullmatch(r"[\w-]+", name):
            raise SettingsError(f"{key}: expected a name of letters, digits, - and _")
        if corpus.root is None and (name or not is_label_table):
            raise SettingsError(f"{key}.root is not set; set it to the folder of the audio")
        if corpus.root is not None and not Path(corpus.root).is_dir():
            raise SettingsError(f"{key}.root: {corpus.root} is not a folder")
        if corpus.captions is None:
            raise SettingsError(f"{key}.captions is not set; set it to the captions table")
        if not Path(corpus.captions).is_file():
            raise SettingsError(
                f"{key}.captions: {corpus.captions} does not exist; "
                "preprocessing/template_creation.py writes captions tables"
            )


def _explain(error: OmegaConfBaseException) -> str:
    """One sentence that names the key and the nearest known keys."""
    reason = str(error.msg or error).splitlines()[0]
    key = error.full_key
    if key is None:
        return reason
    near = difflib.get_close_matches(key, flatten(dataclasses.asdict(Settings())))
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"{key}: {reason}{hint}"


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one mapping with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def is_free(key: str) -> bool:
    """Whether a key is one of `FREE_KEYS`, or the same key of a named corpus."""
    group, _, name = key.rpartition(".")
    return key in FREE_KEYS or (group.startswith("data.corpora.") and f"data.{name}" in FREE_KEYS)


def changed_keys(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return dotted keys whose values differ between two nested settings, except `FREE_KEYS`."""
    first, second = flatten(then), flatten(now)
    keys = {key for key in first.keys() | second.keys() if not is_free(key)}
    return sorted(key for key in keys if first.get(key) != second.get(key))


# --- Reference -----------------------------------------------------------------------------------

REFERENCE = """\
# Configuration

<!-- Generated by `python -m paraclap.training.config > docs/configuration.md`; edit the
docstrings in paraclap/settings.py instead. -->

`python train.py FILE.yaml key=value ...`: the file overrides the defaults below, and the arguments
override the file. Lists are written `model.freeze=[audio,text]`, mappings in quotes and with
spaces, `"captions.label_probs={emotion: 0.6, gender: 0.4}"`, None as `null`. An unknown key stops
with the nearest known keys. `config.yaml` in the run folder holds the complete settings of a run.
"""


def reference() -> str:
    """Return docs/configuration.md: every key with its default and meaning."""
    return "\n".join([REFERENCE, *_section(Settings, "")])


def _section(kind: type, prefix: str) -> list[str]:
    """Lines of a dataclass of settings, then of those nested in it."""
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
                raise ValueError(f"the docstring of {key} lacks one of {list(CHOICES[key])}")
    head = inspect.getdoc(kind).split("\n\nAttributes:")[0]
    title = f"## `{prefix.rstrip('.')}`" if prefix else "## Run"
    table = ["| key | default | meaning |", "|---|---|---|", *rows, ""] if rows else []
    return [title, "", head, "", *table, *inner]


def _default(part: dataclasses.Field) -> str:
    """Default of a field in YAML."""
    value = part.default if part.default_factory is dataclasses.MISSING else part.default_factory()
    text = yaml.safe_dump(value, default_flow_style=True, width=1000)
    return text.removesuffix("\n").removesuffix("\n...")


def attribute_texts(kind: type) -> dict[str, str]:
    """Return the description of each field, from `Attributes` in the docstring of a dataclass.

    Raises:
        ValueError: if a field has no description, or a description has no field.
    """
    section = inspect.getdoc(kind).partition("Attributes:\n")[2]
    found = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", section, flags=re.MULTILINE)
    texts = {name: " ".join(text.split()) for name, text in found}
    parts = dataclasses.fields(kind)
    expected = {part.name for part in parts}
    optional = {part.name for part in parts if dataclasses.is_dataclass(part.type)}
    odd = (expected - optional - texts.keys()) | (texts.keys() - expected)
    if odd:
        raise ValueError(f"{kind.__name__}: {sorted(odd)} need both a field and a description")
    return texts


def main(arguments: Sequence[str] | None = None) -> int:
    """Print docs/configuration.md; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args(arguments)
    print(reference(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
