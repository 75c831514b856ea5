"""What a training run is told: documented defaults, a YAML file over them, arguments over both.

    settings = read_settings(["configs/small.yaml", "data.root=/data/RAVDESS", "optim.lr=1e-4"])

An unknown key stops with the nearest known ones. The reference of all keys is written from the
docstrings below::

    python settings.py > docs/configuration.md
"""

import argparse
import dataclasses
import difflib
import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from augmentation import AugmentSettings
from datasets import CaptionSettings
from models import ModelSettings
from tracking import LOGGERS

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "paraclap.yaml"


@dataclass
class CorpusSettings:
    """One of several corpora; see `DataSettings` for its fields."""

    root: str | None = None
    captions: str | None = None
    features: str | None = None


@dataclass
class DataSettings:
    """What is read.

    Attributes:
        corpora: name -> `root` and `captions` of each of several corpora, instead of those below;
            of a captions table of several, those rows are taken whose `corpus` is that name. A
            voice is loud or high by the edges of its table: by those of its corpus, unless one
            table of several was made without --edges-by corpus.
        temperature: share of a corpus among the clips of an epoch: its size to the power of this;
            1 takes each clip once, 0 takes as many of each corpus.
        class_temperature: the same for the classes of `train.target` in each corpus; 0 takes as
            many of each.
        speaker_aware: whether no two clips of a batch have the same speaker and the same class of
            `train.target`, as far as an epoch allows; clips without either count as different.
        root: folder that the audio files of the captions table are relative to; None = the folder
            of the table, if that is one of labels.
        captions: table of preprocessing/template_creation.py, or a table of labels (.csv or .tsv:
            `file`, `emotion`, ...), for which captions are written into the run folder.
        templates: phrase tables for a table of labels, see --templates of template_creation.py.
        features: table of features.py, for an audio tower that reads functionals.
        train_split: value of the column `split` that is trained on; without such a column, all.
        validation_split: value of the column `split` that checkpoints are chosen on.
        validation_speakers: if no row is in that split: number of training speakers held out
            instead, drawn by the seed; 0 trains without validation.
        packed: folder of a pack, see packed.py: the corpus as 16 kHz samples in memory-mapped
            files, made before the first step and used again by later runs; None reads the files.
        crop_seconds: longest training crop [s].
        crop_seconds_min: if given, each crop has a length of its own, drawn between this [s] and
            `crop_seconds`; with `train.bucket` shorter crops also take less time.
        augment: changes of the crops, with "random" crops alone.
        crop: "random", or "centre": the same in every epoch. A frozen speech encoder then hears
            each clip once, before the first step.
        embeddings: folder where what it says of the clips is kept for other runs; null = nowhere.
        workers: processes that read audio.
        timeout: longest wait for a worker [s]; one that hangs longer stops the run.
    """

    corpora: dict[str, CorpusSettings] = field(default_factory=dict)
    temperature: float = 1.0
    class_temperature: float = 1.0
    speaker_aware: bool = False
    root: str | None = None
    captions: str = "captions.parquet"
    templates: list[str] = field(default_factory=lambda: ["paraclap"])
    features: str | None = None
    train_split: str = "train"
    validation_split: str = "dev"
    validation_speakers: int = 2
    packed: str | None = None
    crop_seconds: float = 5.0
    crop_seconds_min: float | None = None
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    crop: str = "random"
    embeddings: str | None = None
    workers: int = 0
    timeout: float = 300.0


@dataclass
class LossSettings:
    """What is learned.

    Attributes:
        name: "contrastive" (symmetric cross entropy over the batch) or "sigmoid" (each pair alone
            is true or not).
        positives: captions of the batch that match a clip: "matching" (every one that holds for it;
            one about something that is not known of the clip is neither right nor wrong) or "own"
            (the one that was drawn for it; the others count as wrong, true or not).
        prototypes: weight of a second loss, which tells each clip from all classes of
            `train.target`, each the mean embedding of its phrases; 0 = none.
        graded: for "contrastive": share of the target of a clip that is spread over all captions of
            the batch, by how many of their claims hold for it (the same for a caption and all
            clips); 0 = captions that hold in every claim share it alone.
        graded_temperature: of the softmax that spreads this share; the smaller, the less goes to
            captions that hold in part.
        hard_negatives: for "contrastive": captions that do not match count the more, the more
            similar they are: by the exponential of this times the cosine; 0 = all alike.
    """

    name: str = "contrastive"
    positives: str = "matching"
    prototypes: float = 0.0
    graded: float = 0.0
    graded_temperature: float = 0.2
    hard_negatives: float = 0.0


@dataclass
class OptimSettings:
    """How it is learned.

    Attributes:
        name: "adamw" or "adam".
        lr: learning rate of the projections and the scale.
        audio_lr: of the speech encoder.
        text_lr: of the text encoder.
        text_projection_lr: of the text projection; None = `lr`. After a text stage it should be
            small, like `text_lr`, or captions are merged again before clips can be told apart.
        layer_decay: factor on `audio_lr` and `text_lr` for each layer below the last of an encoder;
            what comes before its layers has that of one layer more. 1 = all learn alike.
        weight_decay: of matrices; vectors and the scale have none.
        schedule: "cosine" (to zero) or "constant", both after the warm-up.
        warmup_steps: steps of linear warm-up.
        clip_norm: largest norm of the gradient; 0 = no limit.
    """

    name: str = "adamw"
    lr: float = 1e-3
    audio_lr: float = 1e-5
    text_lr: float = 1e-5
    text_projection_lr: float | None = None
    layer_decay: float = 1.0
    weight_decay: float = 0.01
    schedule: str = "cosine"
    warmup_steps: int = 100
    clip_norm: float = 1.0


@dataclass
class TextStageSettings:
    """A first stage without audio, for text encoders from random weights.

    Such an encoder gives all captions nearly one embedding, and the contrastive loss keeps it so:
    as long as clips cannot be told apart, equal captions are its best answer, and as long as
    captions cannot be told apart, clips need not be. Here captions that say different things are
    pushed apart, and those that say the same in other words are drawn together. With
    `model.freeze=[text]` such an encoder learns in this stage alone, and what it says of a caption
    is remembered afterwards.

    Attributes:
        steps: length of the stage; 0 for pretrained text encoders.
        lr: learning rate of the text encoder and its projection, falling to zero.
        batch_size: captions per step.
    """

    steps: int = 0
    lr: float = 1e-3
    batch_size: int = 64


@dataclass
class TrainSettings:
    """How long, how often, where.

    Attributes:
        epochs: passes over the training clips.
        thaw: when parts of `model.freeze` begin to learn: part -> share of the steps (below 1), or
            number of steps (1 and more) that it stays frozen, `"train.thaw={audio: 0.3}"`. Its
            learning rate is warmed up from there, over `optim.warmup_steps`.
        batch_size: clips per step.
        bucket: whether the clips of a batch are of similar duration, and padded to the longest of
            them instead of `data.crop_seconds`; saves the more, the longer crops may be.
        seed: decides initial weights, order, crops, captions and dropout.
        validate_every: steps between validations; the last step always has one.
        target: label that validation asks for.
        queries: query set of the validation, see queries.py.
        save_every: steps between checkpoints.
        save_minutes: minutes between checkpoints, beside `save_every`; 0 = by steps alone.
        keep: number of checkpoints kept; the best model has a folder of its own.
        log_every: steps between rows of metrics.jsonl.
        loggers: what shows a run beside metrics.jsonl, see tracking.py: some of "tensorboard",
            "wandb" and "mlflow", or none.
        dry_run: check everything, take one step and one validation, tell memory and time, and keep
            nothing.
        resume: "auto" (newest checkpoint of the run folder, if any), "never" or a checkpoint.
        force: resume although settings or data were changed since the checkpoint.
        max_skipped: steps in a row that may be skipped because their loss or gradient is not
            finite; one more stops the run.
        micro_batch: clips and captions that an encoder which learns sees at a time; memory then
            bounds these and not `batch_size`, for one forward pass more; 0 = the whole batch.
        checkpoint_activations: keep less of the forward pass, compute it again in the backward
            pass.
        compile: translate the transformers by torch.compile; takes minutes at the start.
        text_cache: memory [MiB] for captions that a frozen text encoder need not read again.
        precision: "auto" (bfloat16 where the hardware has it), "fp32" or "bf16".
        device: "auto", "cpu", "cuda", ...; of several processes each takes a GPU of its own.
        timeout: longest wait of one process for another [s], as for process 0 while it saves.
    """

    epochs: int = 10
    thaw: dict[str, float] = field(default_factory=dict)
    batch_size: int = 32
    bucket: bool = False
    seed: int = 3407
    validate_every: int = 200
    target: str = "emotion"
    queries: str = "sentence"
    save_every: int = 200
    save_minutes: float = 0.0
    keep: int = 2
    log_every: int = 10
    loggers: list[str] = field(default_factory=lambda: ["tensorboard"])
    dry_run: bool = False
    resume: str = "auto"
    force: bool = False
    max_skipped: int = 3
    micro_batch: int = 0
    checkpoint_activations: bool = False
    compile: bool = False
    text_cache: int = 256
    precision: str = "auto"
    device: str = "auto"
    timeout: float = 1800.0


@dataclass
class Settings:
    """Everything a run is told.

    Attributes:
        output: the run folder.
    """

    output: str = "runs/paraclap"
    model: ModelSettings = field(default_factory=ModelSettings)
    data: DataSettings = field(default_factory=DataSettings)
    captions: CaptionSettings = field(default_factory=CaptionSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    text_stage: TextStageSettings = field(default_factory=TextStageSettings)
    train: TrainSettings = field(default_factory=TrainSettings)


# Keys that may differ when a run is resumed: they change where and how often, never what.
FREE_KEYS = {"output"}
FREE_KEYS |= {
    f"data.{name}"
    for name in ("root", "captions", "features", "packed", "embeddings", "workers", "timeout")
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


def corpora_of(data: DataSettings) -> dict[str, CorpusSettings]:
    """Return the corpora of a run by name; a single one, given without a name, has the name ""."""
    return data.corpora or {"": CorpusSettings(data.root, data.captions, data.features)}


class SettingsError(ValueError):
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
        config = OmegaConf.merge(
            OmegaConf.structured(Settings),
            OmegaConf.load(path),
            OmegaConf.from_dotlist([argument for argument in arguments if "=" in argument]),
        )
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

<!-- Written by `python settings.py > docs/configuration.md`; change the docstrings instead. -->

`python train.py FILE.yaml key=value ...`: the file goes over the defaults below, the arguments go
over the file. A list is written `model.freeze=[audio,text]`, a mapping in quotes and with spaces,
`"captions.shares={emotion: 0.6, gender: 0.4}"`, nothing is `null`. An unknown key stops with the
nearest known ones; `config.yaml` in the run folder holds what a run was told in the end.
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
