"""Training steps at the size of the published model: a plain step against `TrainingStep`.

    python -m benchmarks.train_step
    python -m benchmarks.train_step --recipe audio --batch 8 --micro-batch 2
    python -m benchmarks.train_step --device cuda --batch 64 --rounds 20 --bfloat16

Encoders of the published size with random weights, noise as clips, random captions; neither data
nor network are needed. A plain step runs in float32, encodes every caption, and runs the backward
pass through the audio encoder even if its weights are not optimised, as the published code does.
`TrainingStep` has all captions in its cache, as after the first epoch, and for "precomputed clips"
the audio embeddings. The optimiser is not included.

Ratios are relative to the plain step, median and range over the rounds; a first round is not
counted. "Gradients" is the largest relative difference of the gradients of both projections.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.report import command_line, parse, report
from benchmarks.timing import alternate, markdown_table, ratios
from paraclap.model.modeling_paraclap import (
    PUBLISHED_CONFIG,
    SAMPLING_RATE,
    ParaCLAPConfig,
    ParaCLAPModel,
)
from paraclap.training.encoding import token_keys
from paraclap.training.losses import ContrastiveLoss
from paraclap.training.optim import seed_step
from paraclap.training.step import TrainingStep

SECONDS = 5.0  # of a clip
WORDS = 20  # tokens of the longest caption
CAPTIONS = 40  # distinct ones
PLAIN = "plain"
RECIPES = {"published": ("audio", "text"), "audio": ("text",)}
"""Recipe -> frozen encoders."""

Batch = dict[str, Any]
Step = Callable[[Batch], torch.Tensor]
"""Leaves gradients on the model and returns the loss."""


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
    model.audio_branch.base.feature_extractor._requires_grad = True
    model.train()
    model.audio_branch.eval()
    model.text_branch.eval()


def plain_step(model: ParaCLAPModel, batch: Batch) -> torch.Tensor:
    """Encode all clips and captions, and run the whole backward pass."""
    model.text_branch.requires_grad_(False)
    tensors = {name: t.to(model.device) for name, t in batch.items() if torch.is_tensor(t)}
    loss = model(**tensors, return_loss=True).loss
    loss.backward()
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


def variants_of(
    recipe: str, model: ParaCLAPModel, batch: Batch, bfloat16: bool, micro_batch: int
) -> dict[str, tuple[Iterable[str], Step]]:
    """Return name -> frozen parts and step."""
    frozen = RECIPES[recipe]
    step = partial(training_step, model, bfloat16=bfloat16)
    variants = {PLAIN: ((), partial(plain_step, model)), "ours": (frozen, step(frozen))}
    if recipe == "published":
        with torch.no_grad():
            inputs = (batch[name].to(model.device) for name in ("input_values", "padding_mask"))
            clips = model.pool("audio", *inputs).cpu()
        variants["ours, precomputed clips"] = (frozen, step(frozen, clips))
    else:
        parts = ("audio_convolutions", *frozen)
        variants["ours, frozen convolutions"] = (parts, step(parts))
        if micro_batch:
            name = f"ours, micro-batches of {micro_batch}"
            variants[name] = (frozen, step(frozen, micro_batch=micro_batch))
    return variants


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


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = command_line(__doc__, __spec__.name)
    add = parser.add_argument
    add("--recipe", choices=RECIPES, default="published", help="both encoders frozen, or text only")
    add("--batch", type=int, default=4, help="clips (%(default)s)")
    add("--rounds", type=int, default=3, help="(%(default)s)")
    add("--micro-batch", type=int, default=0, help="rows, for recipe audio; 0 = without")
    add("--bfloat16", action="store_true", help="`TrainingStep` in bfloat16")
    add("--device", default="cpu", help="(%(default)s)")
    options = parse(parser, arguments)
    device = torch.device(options.device)
    torch.manual_seed(0)
    model = ParaCLAPModel(ParaCLAPConfig(**PUBLISHED_CONFIG)).to(device)
    freeze(model, ())
    batch = make_batch(options.batch)
    variants = variants_of(options.recipe, model, batch, options.bfloat16, options.micro_batch)
    calls = {
        name: partial(gradients, model, frozen, step, batch)
        for name, (frozen, step) in variants.items()
    }
    runs = alternate(calls, 1 + options.rounds, device)
    runs = {name: found[1:] for name, found in runs.items()}
    reference, rows = runs[PLAIN], []
    for name, found in runs.items():
        expected = reference[-1].result
        change = (found[-1].result - expected).norm() / expected.norm()
        speed = f"{options.batch / median(run.wall for run in found):.2f}"
        memory = f"{max(run.memory for run in found):.1f}"
        clocks = (ratios(reference, found), ratios(reference, found, "cpu"))
        rows.append((name, *clocks, speed, memory, f"{change:.0e}"))
    head = ("variant", "ratio", "ratio of CPU time", "clips/s", "memory [GiB]", "gradients")
    about = f"{options.batch} clips of {SECONDS:g} s, {torch.get_num_threads()} threads"
    precision = "bfloat16" if options.bfloat16 else "float32"
    title = f"Training step, {options.recipe}, {device.type}, {precision}"
    report(title, f"{about}\n\n{markdown_table(head, rows)}", options)


if __name__ == "__main__":
    main()
