r"""Train ParaCLAP: captions and audio in, a run folder out.

    python train.py configs/small.yaml data.root=/data/RAVDESS data.captions=captions.parquet \
        output=runs/small
    python train.py configs/paraclap.yaml data.root=/data/MSP-Podcast optim.lr=1e-4

The first argument may be a YAML file (default configs/paraclap.yaml); `key=value` arguments go over
it. Every key is a field of `Settings` below or of `ModelSettings` (models.py) and `CaptionSettings`
(datasets.py). The run folder receives config.yaml, metrics.jsonl, TensorBoard events, checkpoints/
(everything to resume), best/ (by validation UAR) and last/, both ready for evaluate.py. The same
command again resumes an interrupted run (`train.resume=auto`) and gives the same weights as a run
that was never interrupted.
"""

import dataclasses
import difflib
import hashlib
import json
import math
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
import torch.utils.data
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from audio import AudioError
from checkpoints import (
    CheckpointError,
    load_checkpoint,
    load_newest,
    save_checkpoint,
    whole_folder,
)
from corpora import CorpusError, scored_classes
from datasets import (
    PHRASE_COLUMNS,
    CaptionDataset,
    CaptionSettings,
    Collate,
    TrainingBatches,
    equal_captions,
)
from evaluate import answer
from models import (
    ModelSettings,
    ParaCLAPModel,
    build_model,
    clip_loss,
    scaled_cosines,
)
from queries import queries_for
from scoring import score

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "paraclap.yaml"
CAPTIONS_METADATA = b"paraclap"  # key of what features.py knew about the corpus
LOADER_TIMEOUT = 300  # s; without one a dead worker is waited for without end


@dataclass
class DataSettings:
    """What is read.

    Attributes:
        root: folder that the audio files of the captions table are relative to.
        captions: table of preprocessing/template_creation.py.
        train_split: value of the column `split` that is trained on; without such a column, all.
        validation_split: value of the column `split` that checkpoints are chosen on.
        validation_speakers: if no row is in that split: number of training speakers held out
            instead, drawn by the seed; 0 trains without validation.
        crop_seconds: longest training crop [s].
        workers: processes that read audio.
    """

    root: str | None = None
    captions: str = "captions.parquet"
    train_split: str = "train"
    validation_split: str = "dev"
    validation_speakers: int = 2
    crop_seconds: float = 5.0
    workers: int = 0


@dataclass
class LossSettings:
    """What is learned.

    Attributes:
        positives: captions of the batch that match a clip: "matching" (every one that holds for it)
            or "own" (the one that was drawn for it; the others count as wrong, true or not).
    """

    positives: str = "matching"


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
    pushed apart, and those that say the same in other words are drawn together.

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
        batch_size: clips per step.
        seed: decides initial weights, order, crops, captions and dropout.
        validate_every: steps between validations; the last step always has one.
        target: label that validation asks for.
        queries: query set of the validation, see corpora.py.
        save_every: steps between checkpoints.
        keep: number of checkpoints kept.
        log_every: steps between rows of metrics.jsonl.
        resume: "auto" (newest checkpoint of the run folder, if any), "never" or a checkpoint.
        precision: "auto" (bfloat16 where the hardware has it), "fp32" or "bf16".
        device: "auto", "cpu", "cuda", ...
    """

    epochs: int = 10
    batch_size: int = 32
    seed: int = 3407
    validate_every: int = 200
    target: str = "emotion"
    queries: str = "sentence"
    save_every: int = 200
    keep: int = 2
    log_every: int = 10
    resume: str = "auto"
    precision: str = "auto"
    device: str = "auto"


@dataclass
class Settings:
    """Everything a run is told; `output` is its folder."""

    output: str = "runs/paraclap"
    model: ModelSettings = field(default_factory=ModelSettings)
    data: DataSettings = field(default_factory=DataSettings)
    captions: CaptionSettings = field(default_factory=CaptionSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    text_stage: TextStageSettings = field(default_factory=TextStageSettings)
    train: TrainSettings = field(default_factory=TrainSettings)


# Keys that may differ when a run is resumed: they change where and how often, never what.
FREE_KEYS = {"output", "data.root", "data.captions", "data.workers"} | {
    f"train.{name}" for name in ("save_every", "keep", "log_every", "resume", "device")
}

CHOICES: dict[str, Sequence[str]] = {
    "loss.positives": ("matching", "own"),
    "optim.name": ("adamw", "adam"),
    "optim.schedule": ("cosine", "constant"),
    "captions.style": ("sampled", "published", "emotion"),
    "train.precision": ("auto", "fp32", "bf16"),
}

OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "constant": lambda done: 1.0,
}


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
        if flat[key] not in offered:
            raise SettingsError(f"{key} is {flat[key]!r}, expected one of {list(offered)}")
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


def read_captions(path: str | Path) -> pd.DataFrame:
    """Read a captions table; clips without any phrase are left out and counted.

    Raises:
        SettingsError: if the table is missing or holds no captions.
    """
    if not Path(path).is_file():
        raise SettingsError(
            f"data.captions: there is no table {path}; preprocessing/template_creation.py writes it"
        )
    table = pd.read_parquet(path)
    missing = [column for column in PHRASE_COLUMNS if column not in table]
    if missing:
        raise SettingsError(f"{path} lacks {missing}; expected a table of template_creation.py")
    empty = table["captions"].map(len) == 0
    if empty.any():
        print(f"{empty.sum()} of {len(table)} clips have no phrase and are left out")
    return table[~empty]


def provenance(settings: Settings, clips: int) -> dict[str, Any]:
    """What a model card has to tell of a run on so many clips; no paths.

    An encoder is None if it starts from random weights; `corpora` is missing if the captions table
    does not say where it is from.
    """
    model = settings.model
    facts: dict[str, Any] = {
        f"{branch}_encoder": tower.name and _public_name(tower.name)
        for branch, tower in (("audio", model.audio), ("text", model.text))
    }
    metadata = pq.read_schema(settings.data.captions).metadata or {}
    about = json.loads(metadata.get(CAPTIONS_METADATA, b"{}"))
    corpus = about.get("corpus") or about.get("name")
    if corpus:
        facts["corpora"] = [corpus]
    return facts | {
        "clips": clips,
        "epochs": settings.train.epochs,
        "seed": settings.train.seed,
    }


def _public_name(encoder: str) -> str:
    """A Hub name as it is; of a local folder only the last part."""
    return Path(encoder).name if Path(encoder).exists() else encoder


def split_table(table: pd.DataFrame, settings: Settings) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training and validation rows, which share no speaker.

    Raises:
        SettingsError: if a part is empty, or no speaker column tells whom to hold out.
    """
    data = settings.data
    splits = table["split"] if "split" in table else pd.Series(data.train_split, table.index)
    train, validation = (
        table[splits == name] for name in (data.train_split, data.validation_split)
    )
    if not len(train):
        raise SettingsError(
            f"no row has split {data.train_split!r}, only {sorted(splits.unique())}"
        )
    if len(validation) or not data.validation_speakers:
        _refuse_shared_speakers(train, validation)
        return train, validation
    if "speaker" not in train:
        raise SettingsError(
            "there is no validation split and no speaker column to make one; "
            "data.validation_speakers=0 trains without validation"
        )
    speakers = np.array(sorted(train["speaker"].dropna().unique()))
    if len(speakers) <= data.validation_speakers:
        raise SettingsError(
            f"data.validation_speakers is {data.validation_speakers} of {len(speakers)} speakers"
        )
    rng = np.random.default_rng(settings.train.seed)
    held_out = set(rng.choice(speakers, data.validation_speakers, replace=False))
    print(f"validation on speakers {sorted(held_out)}")
    is_held_out = train["speaker"].isin(held_out)
    return train[~is_held_out], train[is_held_out]


def _refuse_shared_speakers(train: pd.DataFrame, validation: pd.DataFrame) -> None:
    if "speaker" in train:
        shared = sorted(set(train["speaker"].dropna()) & set(validation["speaker"].dropna()))
        if shared:
            raise SettingsError(f"speakers {shared} are in the training and the validation split")


def parameter_groups(model: ParaCLAPModel, optim: OptimSettings) -> list[dict[str, Any]]:
    """Trainable parameters by learning rate, matrices with weight decay and vectors without."""
    rates = {
        "audio_branch": optim.audio_lr,
        "text_branch": optim.text_lr,
    }
    if optim.text_projection_lr is not None:
        rates["text_projection"] = optim.text_projection_lr
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = rates.get(name.split(".")[0], optim.lr)
            decay = optim.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "base_lr": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]


def learning_rate_factor(step: int, steps: int, optim: OptimSettings) -> float:
    """Factor on the base learning rates in step number `step` of `steps`, counted from 0."""
    if step < optim.warmup_steps:
        return (step + 1) / optim.warmup_steps
    done = (step - optim.warmup_steps) / max(1, steps - optim.warmup_steps)
    return SCHEDULES[optim.schedule](done)


def seed_step(seed: int, step: int) -> None:
    """Set every generator from the seed and the step, so that a resumed run draws the same."""
    derived = int(np.random.SeedSequence([seed, step]).generate_state(1)[0])
    random.seed(derived)
    np.random.seed(derived)
    torch.manual_seed(derived)


def use_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether to train under bfloat16 autocast; "auto" asks the hardware."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


class Run:
    """One training run: what it reads, what it changes, and what it leaves in its folder."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.output = Path(settings.output)
        train = settings.train
        self.device = torch.device(_device(train.device))
        self.bfloat16 = use_bfloat16(train.precision, self.device)
        table = read_captions(settings.data.captions)
        self.train_table, self.validation_table = split_table(table, settings)
        rows = len(self.train_table)
        self.batches_per_epoch = rows // train.batch_size
        self.steps = train.epochs * self.batches_per_epoch
        self.classes = self._validation_classes()
        seed_step(train.seed, 0)
        texts = sorted({text for row in self.train_table["captions"] for text in row})
        model, self.processor = build_model(settings.model, texts)
        model.config.provenance = provenance(settings, rows)
        self.model: ParaCLAPModel = model.to(self.device)
        self.optimizer = OPTIMIZERS[settings.optim.name](
            parameter_groups(model, settings.optim), lr=settings.optim.lr
        )
        self.step = 0
        self.best = -1.0
        self.fingerprint = hashlib.sha256(Path(settings.data.captions).read_bytes()).hexdigest()

    def _validation_classes(self) -> pd.Series:
        """Classes of the validation clips; the rest of these clips is left out."""
        if self.validation_table.empty:
            return pd.Series(dtype=str)
        return scored_classes(self.validation_table, self.settings.train.target).dropna()

    def state(self) -> dict[str, Any]:
        """Everything that resuming needs; generators are derived from the step."""
        return {
            "step": self.step,
            "best": self.best,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "settings": dataclasses.asdict(self.settings),
            "fingerprint": self.fingerprint,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint of the same settings and captions.

        Raises:
            SettingsError: naming what differs.
        """
        then, now = flatten(state["settings"]), flatten(dataclasses.asdict(self.settings))
        changed = sorted(
            key for key in (then.keys() | now.keys()) - FREE_KEYS if then.get(key) != now.get(key)
        )
        if state["fingerprint"] != self.fingerprint:
            changed.append("the captions table")
        if changed:
            raise SettingsError(
                f"cannot resume {self.output}: changed since its checkpoint: {', '.join(changed)}; "
                "take another output or train.resume=never"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.best = state["step"], state["best"]

    def dataset(self) -> CaptionDataset:
        """Training clips with captions."""
        return CaptionDataset(
            self.train_table,
            self.settings.data.root,
            self.settings.captions,
            self.settings.data.crop_seconds,
            self.settings.train.seed,
            repeat_short=not self.model.audio_branch.supports_padding,
        )

    def loader(self) -> torch.utils.data.DataLoader:
        """Batches of the steps that are left."""
        data, train = self.settings.data, self.settings.train
        dataset = self.dataset()
        return torch.utils.data.DataLoader(
            dataset,
            batch_sampler=TrainingBatches(
                len(dataset), train.batch_size, self.steps, train.seed, self.step
            ),
            num_workers=data.workers,
            collate_fn=Collate(self.processor, data.crop_seconds),
            pin_memory=self.device.type == "cuda",
            timeout=LOADER_TIMEOUT if data.workers else 0,
            generator=torch.Generator(),
        )

    def text_stage(self) -> None:
        """Train the text side alone on drawn captions, before the first step with audio."""
        stage = self.settings.text_stage
        optim = OptimSettings(lr=stage.lr, text_lr=stage.lr, warmup_steps=stage.steps // 10)
        text_side = [p for n, p in self.model.named_parameters() if n.startswith("text_")]
        optimizer = torch.optim.AdamW(text_side, lr=stage.lr, weight_decay=optim.weight_decay)
        dataset = self.dataset()
        self.model.train()
        for step in tqdm(range(stage.steps), desc="text stage", unit="step", mininterval=2):
            optimizer.param_groups[0]["lr"] = stage.lr * learning_rate_factor(
                step, stage.steps, optim
            )
            seed_step(self.settings.train.seed, step)
            captions = dataset.text_batch(step, stage.batch_size)
            tokens = self.processor.tokenizer(
                [caption.text for caption in captions],
                padding=True,
                truncation=True,
                return_tensors="pt",
            ).to(self.device)
            texts = self.model.get_text_features(tokens.input_ids, tokens.attention_mask)
            cosines = scaled_cosines(
                texts.pooler_output, texts.pooler_output, self.model.logit_scale.detach()
            )
            loss = clip_loss(cosines, equal_captions(captions).to(self.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def training_step(self, batch: Mapping[str, Any]) -> dict[str, float]:
        """Forward, backward, clip, step; returns what is logged.

        Raises:
            FloatingPointError: before anything is changed, if the loss or a gradient is not finite.
        """
        optim, seed = self.settings.optim, self.settings.train.seed
        factor = learning_rate_factor(self.step, self.steps, optim)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        seed_step(seed, self.step)
        inputs = {
            name: value.to(self.device, non_blocking=True)
            for name, value in batch.items()
            if torch.is_tensor(value)
        }
        matches = inputs.pop("matches")
        targets = matches if self.settings.loss.positives == "matching" else None
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            loss = self.model(**inputs, targets=targets, return_loss=True).loss
        self.optimizer.zero_grad()
        loss.backward()
        limit = optim.clip_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        if not bool(torch.isfinite(loss) & torch.isfinite(norm)):
            files = [self.train_table.index[row][0] for row in batch["row"]]
            raise FloatingPointError(
                f"step {self.step}: loss {loss.item()}, gradient norm {norm.item()}, clips {files}"
            )
        self.optimizer.step()
        self.model.clamp_logit_scale()
        self.step += 1
        return {
            "loss": loss.item(),
            "lr": optim.lr * factor,
            "logit_scale": self.model.logit_scale.exp().item(),
            "gradient_norm": norm.item(),
            "matches_per_clip": matches.sum().item() / len(matches),
        }

    def validate(self) -> dict[str, float]:
        """Zero-shot scores of the validation speakers, by the code of evaluate.py."""
        train = self.settings.train
        table = self.validation_table.loc[self.classes.index]
        queries = queries_for(table, train.target, train.queries)
        answers = answer(self.model, self.processor, table, self.settings.data.root, queries)
        figures = score(self.classes, answers["prediction"])
        return {name: figures[name] for name in ("UAR", "ACC", "F1", "chance")}

    def save_model(self, name: str) -> None:
        """Write the model and its processor to `best` or `last`."""
        with whole_folder(self.output / name) as folder:
            self.model.save_pretrained(folder)
            self.processor.save_pretrained(folder)

    def save(self) -> None:
        """Write a checkpoint."""
        keep = self.settings.train.keep
        save_checkpoint(self.output / "checkpoints", self.step, self.state(), keep)


def _device(name: str) -> str:
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


class Log:
    """metrics.jsonl and TensorBoard; on resuming, rows after the checkpoint are dropped."""

    def __init__(self, output: Path, step: int) -> None:
        self.path = output / "metrics.jsonl"
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        kept = [line for line in lines if _step_of(line) <= step]
        self.path.write_text("".join(line + "\n" for line in kept))
        self.board = SummaryWriter(str(output), purge_step=step + 1)

    def write(self, step: int, values: Mapping[str, float], prefix: str) -> None:
        """Add one row; TensorBoard shows its values under `prefix`."""
        with self.path.open("a") as stream:
            stream.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self.board.add_scalar(f"{prefix}/{name}", value, step)


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except json.JSONDecodeError:  # the last line of a killed run may be cut off
        return math.inf


def train(settings: Settings) -> Run:
    """Train as `settings` say; returns the finished run.

    Raises:
        SettingsError: if the settings and the data do not go together.
    """
    check_data(settings)
    run = Run(settings)
    run.output.mkdir(parents=True, exist_ok=True)
    resume(run)
    OmegaConf.save(OmegaConf.structured(settings), run.output / "config.yaml")
    log = Log(run.output, run.step)
    print(
        f"{len(run.train_table)} clips to train on, {len(run.classes)} to validate on, "
        f"{run.steps} steps, {run.device}, {'bfloat16' if run.bfloat16 else 'float32'}"
    )
    for values in _steps(run):
        if run.step % settings.train.log_every == 0 or run.step == run.steps:
            log.write(run.step, values, "train")
        if run.step % settings.train.validate_every == 0 or run.step == run.steps:
            _validate_and_keep(run, log)
        if run.step % settings.train.save_every == 0 or run.step == run.steps:
            run.save()
    run.save_model("last")
    log.board.close()
    return run


def check_data(settings: Settings) -> None:
    """Stop early and in one sentence if there is nothing to read.

    Raises:
        SettingsError: naming the key that is missing.
    """
    root = settings.data.root
    if root is None:
        raise SettingsError(
            "data.root is not set: give the folder of the audio, data.root=/data/corpus"
        )
    if not Path(root).is_dir():
        raise SettingsError(f"data.root: {root} is no folder")


def resume(run: Run) -> None:
    """Bring a run to where its checkpoints left it, as `train.resume` says."""
    folder, choice = run.output / "checkpoints", run.settings.train.resume
    if choice == "never":
        for old in (folder, run.output / "metrics.jsonl"):
            shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
        return
    state = load_newest(folder) if choice == "auto" else load_checkpoint(Path(choice))
    if state is not None:
        run.restore(state)
        print(f"resumed {run.output} at step {run.step}")


def _steps(run: Run) -> Iterator[dict[str, float]]:
    """Train to the end, one step at a time, behind a progress bar."""
    size = run.settings.train.batch_size
    if run.step == 0 and run.settings.text_stage.steps:
        run.text_stage()
    run.model.train()
    bar = tqdm(
        total=run.steps * size, initial=run.step * size, unit="clip", desc="train", mininterval=2
    )
    with bar:
        before = time.perf_counter()
        for batch in run.loader():
            values = run.training_step(batch)
            now = time.perf_counter()
            bar.update(size)
            bar.set_postfix(loss=f"{values['loss']:.3f}", refresh=False)
            yield values | {"clips_per_second": size / (now - before)}
            before = time.perf_counter()


def _validate_and_keep(run: Run, log: Log) -> None:
    """Validate, and keep the model if it is the best so far (or if nothing tells)."""
    if run.classes.empty:
        run.save_model("best")
        return
    scores = run.validate()
    log.write(run.step, scores, "validation")
    tqdm.write(
        f"step {run.step}: validation UAR {scores['UAR']:.3f} (chance {scores['chance']:.3f})"
    )
    if scores["UAR"] > run.best:
        run.best = scores["UAR"]
        run.save_model("best")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    run = train(read_settings(arguments))
    best = f"best validation UAR {run.best:.3f}, " if run.best >= 0 else ""
    print(f"{best}models in {run.output / 'best'} and {run.output / 'last'}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (
        AudioError,
        CheckpointError,
        CorpusError,
        FloatingPointError,
        OSError,
        ValueError,
    ) as error:
        sys.exit(f"train.py: {error}")
