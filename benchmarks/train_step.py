"""Training steps at the size of the published model: a plain step against `TrainingStep`.

    python -m benchmarks.train_step
    python -m benchmarks.train_step --batch 8 --rounds 5
    python -m benchmarks.train_step --device cuda --batch 64 --rounds 20

Encoders of the published size with random weights, noise as audio, random captions; neither data
nor network are needed. A plain step runs in float32, encodes every caption, and runs the backward
pass through the audio encoder even if its weights are not optimised, as the published code does.
`TrainingStep` has all captions of a frozen text encoder in its cache, as after the first epoch; for
"cached clips", so are the embeddings of a frozen audio encoder.

In each round, each variant takes one step on the same batch, in rotating order, so that other load
affects all variants alike. A first round is not counted. Ratios are relative to the plain step of
the same recipe: median and range over the rounds, of wall-clock time and of CPU time, which depends
less on other load. Utilisation is the required work (of the audio encoder: one forward pass, and
twice as much for its backward pass if it is trained) over the time, relative to the fastest matrix
product in this run. Memory is the peak during a step minus the memory before it.

All variants of the published recipe start from the same weights and random states; the last lines
show how far their losses and weights differ.
"""

import argparse
import copy
import ctypes
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from paraclap.model.modeling_paraclap import PUBLISHED_CONFIG, ParaCLAPConfig, ParaCLAPModel
from paraclap.training.encoding import prepare_encoders, token_keys
from paraclap.training.losses import ContrastiveLoss
from paraclap.training.optim import seed_step
from paraclap.training.step import TrainingStep

SECONDS = 5.0  # of a clip
RATE = 16_000
WORDS = 20  # tokens of the longest caption
CAPTIONS = 40  # that differ
GIB = 2**30
PUBLISHED, LEARNING = "published", "audio"  # both encoders frozen; audio encoder trained
RECIPES = (PUBLISHED, LEARNING)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Heads = tuple[torch.nn.Module, torch.nn.Module, torch.nn.Parameter]


@dataclass
class Variant:
    """A variant of a training step.

    Attributes:
        recipe: which encoders are trained; ratios are within a recipe.
        name: of the variant.
        freeze: frozen parts of the model.
        owed: work in forward passes: of the whole audio encoder, and of its transformer.
        dtype: of its matrix products.
        step: function that leaves gradients of a batch and returns the loss.
        heads: its own projections and scale.
        optimizers: of the trained parameters.
        losses: loss of each step.
        wall: wall-clock time of each step [s].
        load: CPU time of each step [s].
        memory: peak memory of each step [bytes].
    """

    recipe: str
    name: str
    freeze: tuple[str, ...]
    owed: tuple[float, float]
    dtype: torch.dtype
    step: Callable[[dict[str, Any]], torch.Tensor]
    heads: Heads
    optimizers: list[torch.optim.Optimizer]
    losses: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    load: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)


def captions() -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and mask (CAPTIONS, WORDS) of all captions."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(8, WORDS + 1, CAPTIONS)
    mask = torch.from_numpy((np.arange(WORDS) < lengths[:, None]).astype(np.int64))
    return torch.from_numpy(rng.integers(1000, 30_000, (CAPTIONS, WORDS))) * mask, mask


def batches(size: int, rounds: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yield batches in the form of `Collate`, all of the same clips."""
    rng = np.random.default_rng(seed)
    samples = round(SECONDS * RATE)
    values = torch.from_numpy(0.1 * rng.standard_normal((size, samples), np.float32))
    input_ids, masks = captions()
    for _ in range(rounds):
        chosen = torch.from_numpy(rng.integers(CAPTIONS, size=size))
        mask = masks[chosen]
        yield {
            "input_values": values,
            "padding_mask": torch.ones_like(values, dtype=torch.int64),
            "input_ids": input_ids[chosen],
            "attention_mask": mask,
            "matches": (torch.eye(size), torch.eye(size)),
            "own": list(range(size)),
            "row": list(range(size)),
        }


def plain_step(model: ParaCLAPModel, batch: dict[str, Any]) -> torch.Tensor:
    """Encode all clips and captions, and run the whole backward pass."""
    device = model.device
    inputs = {n: t.to(device) for n, t in batch.items() if torch.is_tensor(t)}
    model.zero_grad()
    model.text_branch.requires_grad_(False)
    loss = model(**inputs, return_loss=True).loss
    loss.backward()
    return loss.detach()


def new_heads(model: ParaCLAPModel) -> Heads:
    """Copies of the projections and the scale of the model."""
    return tuple(
        copy.deepcopy(part)
        for part in (model.audio_projection, model.text_projection, model.logit_scale)
    )


def install(model: ParaCLAPModel, variant: Variant) -> None:
    """Set the heads and the frozen parts of a variant."""
    model.audio_projection, model.text_projection, model.logit_scale = variant.heads
    model.freeze([])
    model.requires_grad_(True)
    model.freeze(variant.freeze)
    model.audio_branch.base.feature_extractor._requires_grad = True
    model.train()
    model.audio_branch.eval()  # no random numbers in the encoders
    model.text_branch.eval()


def all_variants(model: ParaCLAPModel, options: argparse.Namespace) -> list[Variant]:
    """The plain step and `TrainingStep` for each recipe."""
    found: list[Variant] = []
    both, text, convolutions = ("audio", "text"), ("text",), ("audio_convolutions", "text")
    tower = torch.optim.Adam(model.audio_branch.parameters(), lr=0.0)  # costs time, changes nothing

    def plain(batch: dict[str, Any]) -> torch.Tensor:
        return plain_step(model, batch)

    def add(
        recipe: str,
        name: str,
        freeze: tuple[str, ...],
        owed: tuple[float, float],
        precision: str = "fp32",
        micro_batch: int = 0,
    ) -> None:
        heads = new_heads(model)
        learned = [*heads[0].parameters(), *heads[1].parameters(), heads[2]]
        optimizers = [torch.optim.Adam(learned, lr=1e-3), *([tower] if owed[1] else [])]
        variant = Variant(recipe, name, freeze, owed, DTYPES[precision], plain, heads, optimizers)
        found.append(variant)
        if name == "plain":
            return
        install(model, variant)
        ours = TrainingStep(
            model, ContrastiveLoss(), "own", precision == "bf16", micro_batch=micro_batch
        )
        input_ids, mask = captions()
        ours.encoder.captions(token_keys(input_ids, mask), input_ids, mask)
        variant.step = with_cached_clips(ours) if owed == (0, 0) else lambda batch: ours(batch).loss

    if PUBLISHED in options.recipes:
        add(PUBLISHED, "plain", (), (1, 0))
        for precision in options.precisions:
            add(PUBLISHED, precision, both, (1, 0), precision)
        add(PUBLISHED, "fp32, cached clips", both, (0, 0))
    if LEARNING in options.recipes:
        add(LEARNING, "plain", (), (1, 2))
        for precision in options.precisions:
            add(LEARNING, precision, text, (1, 2), precision)
            name = f"{precision}, convolutions frozen"
            add(LEARNING, name, convolutions, (1, 2), precision)
        if options.micro:
            name = f"fp32, micro-batches of {options.micro}"
            add(LEARNING, name, text, (1, 2), micro_batch=options.micro)
    return found


def with_cached_clips(ours: TrainingStep) -> Callable[[dict[str, Any]], torch.Tensor]:
    """Steps of the second epoch, when all clips are cached."""

    def step(batch: dict[str, Any]) -> torch.Tensor:
        if ours.encoder.clips is None:
            encode = ours.encoder.frozen["audio"]
            ours.encoder.clips = encode(batch["input_values"], batch["padding_mask"]).cpu()
        return ours(batch).loss

    return step


def take(model: ParaCLAPModel, variant: Variant, batch: dict[str, Any], number: int) -> None:
    """Take one step and record its time and memory."""
    install(model, variant)
    seed_step(1, number)
    synchronise(model.device)
    before = start_memory(model.device)
    wall, load = time.perf_counter(), time.process_time()
    variant.losses.append(variant.step(batch).item())
    for optimizer in variant.optimizers:
        optimizer.step()
    synchronise(model.device)
    variant.wall.append(time.perf_counter() - wall)
    variant.load.append(time.process_time() - load)
    variant.memory.append(peak_memory(model.device) - before)
    model.zero_grad()


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def start_memory(device: torch.device) -> float:
    """Reset the peak; returns the memory in use [bytes]."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    ctypes.CDLL(None).malloc_trim(0)  # freed memory would hide the peak
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak_memory(device: torch.device) -> float:
    """Peak memory since the reset [bytes]."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _status("VmHWM")


def _status(name: str) -> float:
    return 1024 * float(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def peak_flops(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Speed of the fastest of four square matrix products [FLOP/s]."""
    first, second = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = 0.0
    for _ in range(4):
        synchronise(device)
        started = time.perf_counter()
        first @ second
        synchronise(device)
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


@torch.no_grad()
def forward_flops(model: ParaCLAPModel, batch: dict[str, Any]) -> tuple[float, float]:
    """FLOP per clip of a forward pass of the audio encoder, and without its convolutions."""
    values = batch["input_values"][:1].to(model.device)
    counted = []
    for part in (model.audio_branch, model.audio_branch.base.feature_extractor):
        with FlopCounterMode(display=False) as counter:
            part(values, None) if part is model.audio_branch else part(values)
        counted.append(counter.get_total_flops())
    return counted[0], counted[0] - counted[1]


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def report(
    variants: list[Variant],
    size: int,
    flops: tuple[float, float],
    peaks: dict[torch.dtype, float],
    start: list[torch.Tensor],
) -> str:
    """Markdown table of all variants, and differences from the plain step."""
    head = ("recipe", "variant", "ratio", "ratio of CPU time", "clips/s", "peak GiB", "utilisation")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    base: dict[str, Variant] = {
        variant.recipe: variant for variant in variants if variant.name == "plain"
    }
    for variant in variants:
        plain = base[variant.recipe]
        ratios, loads = (
            [a / b for a, b in zip(getattr(plain, name), getattr(variant, name), strict=True)]
            for name in ("wall", "load")
        )
        seconds = statistics.median(variant.wall)
        owed = size * (
            variant.owed[0] * flops[0] + variant.owed[1] * flops[1 if "conv" in variant.name else 0]
        )
        used = f"{owed / seconds / peaks[variant.dtype]:.0%}" if owed else "-"
        cells = (
            variant.recipe,
            variant.name,
            spread(ratios),
            spread(loads),
            f"{size / seconds:.2f}",
        )
        lines.append(f"| {' | '.join(cells)} | {max(variant.memory) / GIB:.1f} | {used} |")
    speeds = ", ".join(f"{str(d).split('.')[1]} {p / 1e9:.0f}" for d, p in peaks.items())
    lines += [
        "",
        f"Matrix products: {speeds} GFLOP/s; a clip is {flops[0] / 1e9:.0f} GFLOP forward.",
    ]
    return "\n".join([*lines, *differences(variants, start)])


def differences(variants: list[Variant], start: list[torch.Tensor]) -> list[str]:
    """Differences of losses and trained weights from the plain step."""
    published = [variant for variant in variants if variant.recipe == PUBLISHED]
    lines = [""]
    for variant in published[1:]:
        plain = published[0]
        losses = max(abs(a - b) for a, b in zip(variant.losses, plain.losses, strict=True))
        pairs = [
            (a, b)
            for ours, theirs in zip(variant.heads[:2], plain.heads[:2], strict=True)
            for a, b in zip(ours.parameters(), theirs.parameters(), strict=True)
        ]
        weights = max((a - b).abs().max().item() for a, b in pairs)
        moved = [(b - c) for (_, b), c in zip(pairs, start, strict=True)]
        apart = _norm(a - b for a, b in pairs) / _norm(moved)
        lines.append(
            f"{variant.name}, {len(variant.losses)} steps: losses differ by at most {losses:.1e}, "
            f"weights of the projections by {weights:.1e}, "
            f"in norm {apart:.1e} of their total change."
        )
    return lines


def _norm(tensors: Iterable[torch.Tensor]) -> float:
    return sum(tensor.square().sum().item() for tensor in tensors) ** 0.5


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3, help="counted ones")
    parser.add_argument("--micro", type=int, default=0, help="rows; 0 leaves micro-batches out")
    parser.add_argument("--precisions", nargs="+", choices=("fp32", "bf16"), default=["fp32"])
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=RECIPES)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.manual_seed(0)
    model = ParaCLAPModel(ParaCLAPConfig(**PUBLISHED_CONFIG)).to(device)
    prepare_encoders(model, compiled=options.compile)
    projections = (model.audio_projection, model.text_projection)
    start = [p.detach().clone() for part in projections for p in part.parameters()]
    variants = all_variants(model, options)
    size = 8192 if device.type == "cuda" else 2048
    peaks = {
        dtype: peak_flops(device, dtype, size) for dtype in {variant.dtype for variant in variants}
    }
    for number, batch in enumerate(batches(options.batch, options.rounds + 1)):
        for variant in variants[number % len(variants) :] + variants[: number % len(variants)]:
            take(model, variant, batch, number)
            print(
                f"{number}: {variant.recipe}, {variant.name}: {variant.wall[-1]:.2f} s",
                file=sys.stderr,
            )
        if number == 0:  # it warmed up
            for variant in variants:
                variant.wall, variant.load, variant.memory = [], [], []
    threads = f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else threads
    print(f"Batch of {options.batch} clips of {SECONDS:g} s; {where}.\n")
    print(report(variants, options.batch, forward_flops(model, batch), peaks, start))


if __name__ == "__main__":
    main()
