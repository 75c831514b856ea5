"""Training steps at the size of the published model: a plain step against `TrainingStep`.

    python -m benchmarks.train_step
    python -m benchmarks.train_step --recipe audio --batch 8 --micro-batch 2
    python -m benchmarks.train_step --recipe whisper --rounds 10
    python -m benchmarks.train_step --device cuda --batch 64 --rounds 20 --bfloat16

Encoders with random weights, of the published size or that of Whisper base and MiniLM, noise as
clips, random captions; neither data nor network are needed. A step includes the update by AdamW.

Recipes "published" (both encoders frozen) and "audio" (text encoder frozen): a plain step runs in
float32, encodes every caption, and runs the backward pass through the audio encoder even if its
weights are not optimised, as the published code does. `TrainingStep` has all captions in its cache,
as after the first epoch, and for "precomputed clips" the audio embeddings.

Recipe "whisper" is configs/whisper.yaml with two corpora, layers and captions cached, without the
collation of batches. The plain step is written by hand for the same cached vectors. A round has
many steps.

Ratios are relative to the plain step, median and range over the rounds; a first round is not
counted. "Gradients" is the largest relative difference of the gradients of both projections, before
the first update.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.encoders import MINILM, WHISPER_BASE
from benchmarks.plain import original_forward
from benchmarks.report import command_line, parse, report
from benchmarks.timing import alternate, markdown_table, ratios
from paraclap.model.fast_on_cpu import fast_on_cpu
from paraclap.model.modeling_paraclap import (
    PUBLISHED_CONFIG,
    SAMPLING_RATE,
    ParaCLAPConfig,
    ParaCLAPModel,
)
from paraclap.settings import OptimSettings, Settings
from paraclap.training.alignment import COVARIANCE, CorpusAlignment
from paraclap.training.config import read_settings
from paraclap.training.encoding import token_keys
from paraclap.training.losses import ContrastiveLoss
from paraclap.training.optim import new_optimizer, parameter_groups, seed_step
from paraclap.training.step import TrainingStep

SECONDS = 5.0  # of a clip
WORDS = 20  # tokens of the longest caption
CAPTIONS = 40  # distinct ones
PLAIN = "plain"
LR = 1e-6
STEPS = 100  # of a round of recipe "whisper"
WHISPER = Path(__file__).parents[1] / "configs" / "whisper.yaml"
WHISPER_ENCODERS: dict[str, Any] = {"audio_config": WHISPER_BASE, "text_config": MINILM}
RECIPES = {"published": ("audio", "text"), "audio": ("text",), "whisper": ("audio", "text")}
"""Recipe -> frozen encoders."""

Batch = dict[str, Any]
Step = Callable[[Batch], torch.Tensor]
"""Leaves gradients on the model and returns the loss."""


@dataclass(frozen=True)
class Variant:
    """A way to train: frozen parts, forward and backward pass, and the optimiser.

    Attributes:
        frozen: parts that are frozen in the model, see `FREEZABLE`.
        step: forward and backward pass.
        optimizer: of the weights that the recipe trains.
    """

    frozen: Iterable[str]
    step: Step
    optimizer: torch.optim.Optimizer


def make_captions() -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens and mask (CAPTIONS, WORDS) of all captions."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(8, WORDS + 1, CAPTIONS)
    mask = torch.from_numpy((np.arange(WORDS) < lengths[:, None]).astype(np.int64))
    return torch.from_numpy(rng.integers(1000, 30_000, (CAPTIONS, WORDS))) * mask, mask


def make_batch(size: int) -> Batch:
    """Return a batch in the form of `Collate`."""
    rng = np.random.default_rng(0)
    samples = round(SECONDS * SAMPLING_RATE)
    values = torch.from_numpy(0.1 * rng.standard_normal((size, samples), np.float32))
    input_ids, masks = make_captions()
    chosen = torch.from_numpy(rng.integers(CAPTIONS, size=size))
    return {
        "caption": chosen,
        "input_values": values,
        "padding_mask": torch.ones_like(values, dtype=torch.int64),
        "input_ids": input_ids[chosen],
        "attention_mask": masks[chosen],
        "matches": (torch.eye(size), torch.eye(size)),
        "own": list(range(size)),
        "row": list(range(size)),
    }


def freeze(model: ParaCLAPModel, parts: Iterable[str]) -> None:
    """Freeze these parts alone; no encoder draws random numbers."""
    model.freeze([])
    model.requires_grad_(True)
    model.freeze(parts)
    if model.has_convolutions:
        model.audio_branch.base.feature_extractor._requires_grad = True
    model.train()
    model.audio_branch.base.eval()
    model.text_branch.base.eval()


def plain_step(model: ParaCLAPModel, batch: Batch) -> torch.Tensor:
    """Encode all clips and captions, and run the whole backward pass."""
    model.text_branch.requires_grad_(False)
    tensors = {name: t.to(model.device) for name, t in batch.items() if torch.is_tensor(t)}
    tensors.pop("caption", None)
    with original_forward(model):
        loss = model(**tensors, return_loss=True).loss
        loss.backward()
    return loss.detach()


def plain_cached_step(
    model: ParaCLAPModel, clips: torch.Tensor, texts: torch.Tensor, clip_norm: float, batch: Batch
) -> torch.Tensor:
    """Train the projections on cached vectors of clips (N, H) of two corpora and texts (K, H)."""
    rows = torch.tensor(batch["row"])
    with original_forward(model):
        audio = model.audio_projection(model.audio_branch.combine(clips[rows]))
        text = model.text_projection(texts[batch["caption"]])
    audio, text = F.normalize(audio, dim=-1), F.normalize(text, dim=-1)
    logits, own = model.logit_scale.exp() * audio @ text.T, torch.arange(len(rows))
    loss = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    first, second = audio[rows % 2 == 0], audio[rows % 2 == 1]
    loss = loss + (first.mean(dim=0) - second.mean(dim=0)).square().sum()
    loss = loss + COVARIANCE * (first.T.cov() - second.T.cov()).square().sum()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    return loss.detach()


def training_step(
    model: ParaCLAPModel, frozen: Iterable[str], clips: torch.Tensor | None = None, **options: Any
) -> Step:
    """Return a `TrainingStep` with cached captions, and with precomputed `clips` if given."""
    freeze(model, frozen)
    step = TrainingStep(model, ContrastiveLoss(), "own", **options)
    input_ids, mask = make_captions()
    step.encoder.captions(token_keys(input_ids, mask), input_ids, mask)
    step.encoder.clips = clips
    return lambda batch: step(batch).loss


def plain_optimizer(model: ParaCLAPModel) -> torch.optim.Optimizer:
    """Return AdamW with the default options of torch for the parts that are not frozen."""
    return torch.optim.AdamW(parameter_groups(model, OptimSettings(lr=LR, audio_lr=LR)))


def our_optimizer(model: ParaCLAPModel) -> torch.optim.Optimizer:
    """Return the optimiser of train.py."""
    optim = OptimSettings(lr=LR, audio_lr=LR)
    return new_optimizer(optim, parameter_groups(model, optim))


def variants_of(
    recipe: str, model: ParaCLAPModel, batch: Batch, bfloat16: bool, micro_batch: int
) -> dict[str, Variant]:
    """Return the variants of a recipe with trained or unknown clips by name."""
    frozen = RECIPES[recipe]
    step = partial(training_step, model, bfloat16=bfloat16)
    freeze(model, frozen)
    optimizer = our_optimizer(model)
    variants = {
        PLAIN: Variant((), partial(plain_step, model), plain_optimizer(model)),
        "ours": Variant(frozen, step(frozen), optimizer),
    }
    if recipe == "published":
        with torch.no_grad():
            inputs = (batch[name].to(model.device) for name in ("input_values", "padding_mask"))
            clips = model.pool("audio", *inputs).cpu()
        variants["ours, precomputed clips"] = Variant(frozen, step(frozen, clips), optimizer)
    else:
        parts = ("audio_convolutions", *frozen)
        variants["ours, frozen convolutions"] = Variant(parts, step(parts), optimizer)
        if micro_batch:
            name = f"ours, micro-batches of {micro_batch}"
            variants[name] = Variant(frozen, step(frozen, micro_batch=micro_batch), optimizer)
    return variants


def whisper_model(settings: Settings) -> ParaCLAPModel:
    """Return a model of the size that configs/whisper.yaml trains."""
    names = (
        "audio_layers", "audio_pooling", "audio_standardise", "audio_dropout", "text_pooling",
        "projection_dim", "projection_dropout",
    )  # fmt: skip
    options = {name: getattr(settings.model, name) for name in names}
    return fast_on_cpu(ParaCLAPModel(ParaCLAPConfig(**WHISPER_ENCODERS, **options)))


def whisper_variants(
    model: ParaCLAPModel, settings: Settings, batch: Batch, bfloat16: bool
) -> dict[str, Variant]:
    """Return the variants of recipe "whisper", with cached clips and captions."""
    size = len(batch["row"])
    clips = torch.randn(size, model.audio_branch.pooled_size)
    step = training_step(
        model,
        settings.model.freeze,
        clips,
        bfloat16=bfloat16,
        clip_norm=settings.optim.clip_norm,
        alignment=CorpusAlignment([str(row % 2) for row in range(size)]),
        alignment_weight=settings.loss.alignment,
    )
    with torch.no_grad():
        texts = model.pool("text", *make_captions())
    plain = partial(plain_cached_step, model, clips, texts, settings.optim.clip_norm)
    return {
        PLAIN: Variant(settings.model.freeze, plain, plain_optimizer(model)),
        "ours": Variant(settings.model.freeze, step, our_optimizer(model)),
    }


def gradients(
    model: ParaCLAPModel, frozen: Iterable[str], step: Step, batch: Batch
) -> torch.Tensor:
    """Take a step; returns the gradients of both projections (N,)."""
    freeze(model, frozen)
    model.zero_grad()
    seed_step(1, 0)  # equal dropout
    step(batch)
    projections = [*model.audio_projection.parameters(), *model.text_projection.parameters()]
    return torch.cat([parameter.grad.flatten() for parameter in projections]).cpu()


def train(model: ParaCLAPModel, variant: Variant, batch: Batch, steps: int) -> None:
    """Take steps with their updates."""
    freeze(model, variant.frozen)
    for _ in range(steps):
        variant.optimizer.zero_grad()
        variant.step(batch)
        variant.optimizer.step()
        model.clamp_logit_scale()
    model.zero_grad()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = command_line(__doc__, __spec__.name)
    add = parser.add_argument
    add("--recipe", choices=RECIPES, default="published", help="what is trained, see above")
    add("--batch", type=int, help="clips; default 4, of whisper as configured")
    add("--rounds", type=int, default=3, help="(%(default)s)")
    add("--micro-batch", type=int, default=0, help="rows, for recipe audio; 0 = without")
    add("--bfloat16", action="store_true", help="`TrainingStep` in bfloat16")
    add("--device", default="cpu", help="(%(default)s)")
    options = parse(parser, arguments)
    device = torch.device(options.device)
    torch.manual_seed(0)
    settings, is_whisper = read_settings([str(WHISPER)]), options.recipe == "whisper"
    size = options.batch or (settings.train.batch_size if is_whisper else 4)
    batch, steps = make_batch(size), STEPS if is_whisper else 1
    if is_whisper:
        model = whisper_model(settings)
        freeze(model, settings.model.freeze)
        variants = whisper_variants(model, settings, batch, options.bfloat16)
    else:
        model = fast_on_cpu(ParaCLAPModel(ParaCLAPConfig(**PUBLISHED_CONFIG))).to(device)
        precise = (options.bfloat16, options.micro_batch)
        variants = variants_of(options.recipe, model, batch, *precise)
    found = {name: gradients(model, v.frozen, v.step, batch) for name, v in variants.items()}
    model.zero_grad()
    calls = {name: partial(train, model, v, batch, steps) for name, v in variants.items()}
    runs = {name: run[1:] for name, run in alternate(calls, 1 + options.rounds, device).items()}
    reference, rows = runs[PLAIN], []
    for name, timed in runs.items():
        change = (found[name] - found[PLAIN]).norm() / found[PLAIN].norm()
        speed = f"{steps * size / median(run.wall for run in timed):,.2f}"
        memory = f"{max(run.memory for run in timed):.1f}"
        clocks = (ratios(reference, timed), ratios(reference, timed, "cpu"))
        rows.append((name, *clocks, speed, memory, f"{change:.0e}"))
    head = ("variant", "ratio", "ratio of CPU time", "clips/s", "memory [GiB]", "gradients")
    clips = f"{size} cached clips" if is_whisper else f"{size} clips of {SECONDS:g} s"
    precision = "bfloat16" if options.bfloat16 else "float32"
    title = f"Training step, {options.recipe}, {device.type}, {precision}"
    text = f"{clips}, {torch.get_num_threads()} threads\n\n{markdown_table(head, rows)}"
    report(title, text, options)


if __name__ == "__main__":
    main()
