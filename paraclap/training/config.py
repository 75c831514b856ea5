"""Settings of a training run: documented defaults, then a YAML file, then `key=value` arguments.

    settings = read_settings(["configs/small.yaml", "data.root=/data/RAVDESS", "optim.lr=1e-4"])

docs/configuration.md is generated from the docstrings of `paraclap.settings`::

    python -m paraclap.training.config > docs/configuration.md
"""

import argparse
import dataclasses
import inspect
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from paraclap.cores import loader_workers
from paraclap.model.sources import find_model
from paraclap.settings import (
    SMALL_BERT,
    DataSettings,
    ModelSettings,
    Settings,
    SettingsError,
    corpora_of,
)
from paraclap.training.encoder_checks import check_layers, check_lora
from paraclap.training.given import leaves, read_argument, read_file

PACKAGE = Path(__file__).resolve().parents[1]
INSTALLED = PACKAGE / "configs"  # where pip puts the repository's configs/
CONFIGS = INSTALLED if INSTALLED.is_dir() else PACKAGE.parent / "configs"
DEFAULT_CONFIG = CONFIGS / "paraclap.yaml"
FINE_TUNING = CONFIGS / "finetune.yaml"  # the default with model.start

BESIDE_START = ("start", "freeze", "lora")
"""Keys of `model` that apply to a model that is loaded whole."""

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
    "model.mel.normalisation": ("fixed", "clip"),
    "model.text_pooling": ("cls", "mean"),
    "model.lora.towers": ("audio", "text"),
    "captions.style": ("sampled", "published", "emotion"),
    "train.criterion": ("auto", "UAR", "R@1", "loss"),
    "train.precision": ("auto", "fp32", "bf16"),
    "train.loggers": ("tensorboard", "wandb"),
}

PROBABILITY = "[0, 1]"
ROUNDING = 1e-8  # tolerance of NumPy for the sum of probabilities
RANGES: dict[str, tuple[str, ...]] = {
    "[0, inf)": (
        *("data.shuffled_shards", "data.validation_speakers", "data.workers", "loss.class_prompts"),
        "loss.alignment",
        *("optim.lr", "optim.audio_lr", "optim.text_lr", "optim.text_projection_lr"),
        *("optim.clip_norm", "optim.warmup_steps", "optim.weight_decay"),
        *("text_pretraining.lr", "text_pretraining.steps"),
        *("train.max_skipped", "train.max_steps", "train.micro_batch", "train.min_steps"),
        *("train.save_minutes", "train.seed", "train.text_cache"),
    ),
    "[1, inf)": (
        *("model.mel.bins", "model.mel.stride", "model.projection_dim"),
        *("train.epochs", "train.keep", "train.log_every", "train.save_every"),
        *("train.validate_every", "model.lora.rank"),
    ),
    "[2, inf)": ("text_pretraining.batch_size", "train.batch_size"),
    "[141, inf)": ("model.vocabulary_size",),  # special tokens and single characters
    "(0, inf)": ("model.input_gain", "model.lora.alpha"),
    "[0.05, inf)": ("data.crop_seconds",),
    "(0, 1e6]": ("data.timeout", "train.timeout"),
    "(0, 1]": ("optim.layer_decay",),
    "[0, 1)": (
        *("model.audio_dropout", "model.projection_dropout", "model.lora.dropout"),
        "train.keep_old",
    ),
    PROBABILITY: (
        *("captions.mix", "data.sampling_exponent", "data.class_sampling_exponent"),
        *(f"data.augment.{name}" for name in ("gain", "noise", "reverb", "speed")),
    ),
}
"""Intervals of numbers; a square bracket includes the bound."""


def read_settings(arguments: Sequence[str]) -> Settings:
    """Merge defaults, a YAML file and `key=value` arguments.

    With `model.start` among the arguments, the model that the file defines, and its text
    pretraining, are ignored with a printed line; the default file is configs/finetune.yaml.

    Raises:
        SettingsError: if a key is unknown, or a value has the wrong type, is not a choice or out of
            range.
    """
    if options := [text.partition("=")[0] for text in arguments if text.startswith("-")]:
        raise SettingsError(f"{options[0]}: settings are given as key=value, not as options")
    files = [argument for argument in arguments if "=" not in argument]
    if len(files) > 1:
        raise SettingsError(f"expected one YAML file, got {files}")
    typed = [read_argument(argument) for argument in arguments if "=" in argument]
    start = None
    for tree in typed:
        start = tree.get("model", {}).get("start", start)
    default = DEFAULT_CONFIG if start is None else FINE_TUNING
    tree = read_file(Path(files[0]) if files else default)
    if start is not None:
        tree = _without_model(tree)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Settings), tree, *typed)
        settings = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        reason = str(error.msg or error).splitlines()[0]
        raise SettingsError(f"{error.full_key}: {reason}") from error
    _fill_workers(settings.data)
    _check_values(flatten(dataclasses.asdict(settings)))
    _refuse_ignored_keys(settings.model)
    _fill_text_encoder(settings)
    _fill_captions(settings.data)
    return settings


def _fill_workers(data: DataSettings) -> None:
    """Replace "auto" by the number of workers for this machine."""
    if data.workers == "auto":
        data.workers = loader_workers()
    if type(data.workers) is not int:
        raise SettingsError(f"data.workers is {data.workers!r}, expected a whole number or auto")


def _without_model(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a file without those of a model that is not loaded whole."""
    model = tree.get("model", {})
    kept = {key: value for key, value in tree.items() if key not in ("model", "text_pretraining")}
    ignored = [f"model.{key}" for key in model if key not in BESIDE_START]
    ignored += ["text_pretraining"] if "text_pretraining" in tree else []
    if ignored:
        print(f"model.start replaces the model of the file: {', '.join(ignored)} are ignored")
    return kept | {"model": {key: model[key] for key in BESIDE_START if key in model}}


def _check_values(flat: Mapping[str, Any]) -> None:
    """Raise `SettingsError` for the first value that is no choice, out of range or not finite."""
    for key, value in flat.items():
        numbers = value if isinstance(value, list) else [value]
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise SettingsError(f"{key} is {value}, expected a finite number")
    for key, choices in CHOICES.items():
        chosen = flat[key] if isinstance(flat[key], list) else [flat[key]]
        if not set(chosen) <= set(choices):
            raise SettingsError(f"{key} is {flat[key]!r}, expected one of {list(choices)}")
    label_probs = [key for key in flat if key.startswith("captions.label_probs.")]
    for interval, keys in (*RANGES.items(), (PROBABILITY, label_probs)):
        for key in keys:
            if flat[key] is not None and (expected := _bound_missed(flat[key], interval)):
                raise SettingsError(f"{key} is {flat[key]}, expected {expected}")
    probabilities = flat["captions.phrase_count_probs"]
    if min(probabilities, default=-1) < 0 or abs(sum(probabilities) - 1) > ROUNDING:
        raise SettingsError(
            f"captions.phrase_count_probs is {probabilities}, expected probabilities whose sum is 1"
        )


def _bound_missed(value: float, interval: str) -> str | None:
    """Return the bound of an interval that a value is beyond, in words; None = it is within."""
    low, high = interval[1:-1].split(", ")
    if value < float(low) or (value == float(low) and interval[0] == "("):
        return f"{'at least' if interval[0] == '[' else 'more than'} {low}"
    if value > float(high) or (value == float(high) and interval[-1] == ")"):
        return f"{'at most' if interval[-1] == ']' else 'less than'} {high}"
    return None


def _refuse_ignored_keys(model: ModelSettings) -> None:
    """Raise `SettingsError` for settings of a model that is loaded whole."""
    if model.start:
        kept = {key: getattr(model, key) for key in BESIDE_START}
        defaults = flatten(dataclasses.asdict(ModelSettings(**kept)))
        flat = flatten(dataclasses.asdict(model))
        ignored = [f"model.{key}" for key in flat if flat[key] != defaults.get(key)]
        if ignored:
            more = f" and {len(ignored) - 3} more" if len(ignored) > 3 else ""
            raise SettingsError(
                f"model.start defines the whole model, {', '.join(ignored[:3])}{more} would have "
                "no effect; delete such keys"
            )


def _fill_text_encoder(settings: Settings) -> None:
    """Make the default text encoder explicit, so that the saved settings are complete."""
    text = settings.model.text
    if not settings.model.start and text.name is None and "model_type" not in text.config:
        text.config = SMALL_BERT | text.config


def _fill_captions(data: DataSettings) -> None:
    """Take the captions from the shards of a root without a captions table."""
    from paraclap.audio.shards import shards_of  # here because pyarrow takes 0.3 s to import

    for corpus in (data, *data.corpora.values()):
        is_default = corpus.captions in (None, DataSettings.captions)
        if is_default and corpus.root and not Path(corpus.captions or "").is_file():
            corpus.captions = corpus.root if shards_of(corpus.root) else corpus.captions


def check_paths(settings: Settings) -> None:
    """Check that the model, the checkpoint, and folders and tables of the corpora exist.

    Raises:
        ModelNotFoundError: if `model.start` is no model.
        SettingsError: naming the key.
    """
    from paraclap.audio.shards import shards_of  # here as in `_fill_captions`

    model, data, resume = settings.model, settings.data, settings.train.resume
    if model.start:
        find_model(model.start)
    elif model.audio.name is None and "model_type" not in model.audio.config:
        raise SettingsError(
            "model.start is not set; set it to a trained model, or model.audio to an encoder"
        )
    if settings.train.keep_old and not model.start:
        raise SettingsError("train.keep_old requires a trained model in model.start")
    check_layers(model)
    check_lora(settings)
    if model.audio_standardise and (model.audio.name is None or model.audio_pooling == "attention"):
        raise SettingsError(
            "model.audio_standardise requires a pretrained encoder in model.audio.name, and "
            "model.audio_pooling=mean or mean_std"
        )
    if model.start and _is_inside(model.start, settings.output):
        raise SettingsError(
            f"model.start {model.start} is in the folder of the run, output={settings.output}; set "
            "another output, which receives the fine-tuned model"
        )
    if resume not in ("auto", "never") and not Path(resume).is_dir():
        raise SettingsError(
            f"train.resume: {resume} is not a folder, expected auto, never or a checkpoint such as "
            f"{settings.output}/checkpoints/step_00000200"
        )
    if data.corpora and data.root is not None:
        raise SettingsError("data.root and data.corpora are both set, expected one of them")
    for name, corpus in corpora_of(data).items():
        key = f"data.corpora.{name}" if name else "data"
        captions = Path(corpus.captions or "")
        is_source = (captions / "db.yaml").is_file() or bool(shards_of(captions))
        if name and not re.fullmatch(r"[\w-]+", name):
            raise SettingsError(f"{key}: expected a name of letters, digits, - and _")
        is_beside_audio = is_source or captions.suffix.lower() not in ("", ".parquet")
        if corpus.root is None and not is_beside_audio:
            raise SettingsError(f"{key}.root is not set; set it to the folder of the audio")
        if name and corpus.weight <= 0:
            raise SettingsError(f"{key}.weight is {corpus.weight}, expected more than 0")
        if corpus.root is not None and not Path(corpus.root).is_dir():
            raise SettingsError(f"{key}.root: {corpus.root} is not a folder")
        if corpus.captions is None:
            raise SettingsError(f"{key}.captions is not set; set it to the captions table")
        if not captions.is_file() and not is_source:
            raise SettingsError(
                f"{key}.captions: {corpus.captions} does not exist; "
                "preprocessing/template_creation.py writes captions tables"
            )


def _is_inside(path: str, folder: str) -> bool:
    return Path(path).exists() and Path(path).resolve().is_relative_to(Path(folder).resolve())


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested mappings as one mapping with dotted keys."""
    return dict(leaves(tree))


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
spaces, `"captions.label_probs={emotion: 0.6, gender: 0.4}"`, None as `null`. Other texts are kept
as typed (in a file, quote those that look like numbers: `train_split: "007"`), and a path may start
with `~`. An unknown key stops with the nearest known keys. `config.yaml` in the run folder holds
the complete settings of a run.
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
