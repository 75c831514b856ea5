"""Training steps at the size of the published model: the plain way against ours, in one run.

    python -m benchmarks.train_step
    python -m benchmarks.train_step --batch 8 --rounds 5
    python -m benchmarks.train_step --device cuda --batch 64 --rounds 20

Towers of the published size from random weights, noise as clips, generated captions; no data and no
network. The plain way is float32, encodes every caption in every step, and runs the backward pass
through the speech encoder even where the optimiser does not hold its weights, as in the recipe of
the paper. Ours is steps.TrainingStep; its frozen text encoder has read every caption before, as
after the first epoch, and where clips are "remembered", the speech encoder has heard them too.

In every round each way takes one step on the same batch, so what else the machine does falls on
all; the order turns from round to round. A first round warms up and is not counted. Ratios are to
the plain way of the same recipe, as the median over the rounds and from the worst to the best: by
the clock, and per second of CPU time, which other programs disturb less. Utilisation is what the
recipe owes (speech encoder alone: the forward pass, and twice that again where it learns) over the
time, against the fastest matrix product in this run. Memory is what a step adds at its peak to what
stood before it.

Both ways of the paper's recipe start from the same weights and draw the same random numbers; the
last lines say how far losses and weights are apart.
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
RECIPES = PUBLISHED, LEARNING = (
    "published",
    "audio",
)  # both encoders frozen; the speech encoder learns
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Heads = tuple[torch.nn.Module, torch.nn.Module, torch.nn.Parameter]


@dataclass
class Way:
    """One way to take a step.

    Attributes:
        recipe: what learns; ratios are among the ways of one recipe.
        name: of the way.
        freeze: parts of the model that it takes as frozen.
        owed: passes through all of the speech encoder and through its transformer, in forwards.
        dtype: of its matrix products.
        step: gradients of a batch; returns the loss.
        heads: projections and scale of its own.
        optimizers: of what learns.
        memory: bytes at the peak of each step; `wall` and `load` are its seconds.
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
    """Tokens and mask (CAPTIONS, WORDS) of every caption there is."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(8, WORDS + 1, CAPTIONS)
    mask = torch.from_numpy((np.arange(WORDS) < lengths[:, None]).astype(np.int64))
    return torch.from_numpy(rng.integers(1000, 30_000, (CAPTIONS, WORDS))) * mask, mask


def batches(size: int, rounds: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yield batches as datasets.Collate gives them; every batch holds the same clips."""
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
    """Encode everything, compare everything, and let the backward pass run as far as it goes."""
    device = model.device
    inputs = {n: t.to(device) for n, t in batch.items() if torch.is_tensor(t)}
    model.zero_grad()
    model.text_branch.requires_grad_(False)
    loss = model(**inputs, return_loss=True).loss
    loss.backward()
    return loss.detach()


def new_heads(model: ParaCLAPModel) -> Heads:
    """Projections and scale that start where those of the model stand."""
    return tuple(
        copy.deepcopy(part)
        for part in (model.audio_projection, model.text_projection, model.logit_scale)
    )


def install(model: ParaCLAPModel, way: Way) -> None:
    """Give the model the heads of a way, and take as frozen what the way takes as frozen."""
    model.audio_projection, model.text_projection, model.logit_scale = way.heads
    model.freeze([])
    model.requires_grad_(True)
    model.freeze(way.freeze)
    model.audio_branch.base.feature_extractor._requires_grad = True
    model.train()
    model.audio_branch.eval()  # so that no way draws random numbers in its encoders
    model.text_branch.eval()


def every_way(model: ParaCLAPModel, options: argparse.Namespace) -> list[Way]:
    """The plain way of each recipe, and ours."""
    found: list[Way] = []
    both, text, convolutions = ("audio", "text"), ("text",), ("audio_convolutions", "text")
    tower = torch.optim.Adam(model.audio_branch.parameters(), lr=0.0)  # measures all, changes none

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
        way = Way(recipe, name, freeze, owed, DTYPES[precision], plain, heads, optimizers)
        found.append(way)
        if name == "plain":
            return
        install(model, way)
        ours = TrainingStep(
            model, ContrastiveLoss(), "own", precision == "bf16", micro_batch=micro_batch
        )
        input_ids, mask = captions()
        ours.encoder.captions(token_keys(input_ids, mask), input_ids, mask)
        way.step = remembered(ours) if owed == (0, 0) else lambda batch: ours(batch).loss

    if PUBLISHED in options.recipes:
        add(PUBLISHED, "plain", (), (1, 0))
        for precision in options.precisions:
            add(PUBLISHED, precision, both, (1, 0), precision)
        add(PUBLISHED, "fp32, clips remembered", both, (0, 0))
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


def remembered(ours: TrainingStep) -> Callable[[dict[str, Any]], torch.Tensor]:
    """Steps of the second epoch: every clip was heard."""

    def step(batch: dict[str, Any]) -> torch.Tensor:
        if ours.encoder.clips is None:
            encode = ours.encoder.frozen["audio"]
            ours.encoder.clips = encode(batch["input_values"], batch["padding_mask"]).cpu()
        return ours(batch).loss

    return step


def take(model: ParaCLAPModel, way: Way, batch: dict[str, Any], number: int) -> None:
    """Take one step and note what it took."""
    install(model, way)
    seed_step(1, number)
    synchronise(model.device)
    before = start_memory(model.device)
    wall, load = time.perf_counter(), time.process_time()
    way.losses.append(way.step(batch).item())
    for optimizer in way.optimizers:
        optimizer.step()
    synchronise(model.device)
    way.wall.append(time.perf_counter() - wall)
    way.load.append(time.process_time() - load)
    way.memory.append(peak_memory(model.device) - before)
    model.zero_grad()


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def start_memory(device: torch.device) -> float:
    """Start to watch the peak; returns the bytes in use."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    ctypes.CDLL(None).malloc_trim(0)  # or memory that is free already would hide what is needed
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak_memory(device: torch.device) -> float:
    """Bytes at the peak since the start."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _status("VmHWM")


def _status(name: str) -> float:
    return 1024 * float(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def peak_flops(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """FLOP/s of the fastest of a few square matrix products."""
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
    """FLOP of a clip in one forward pass of the speech encoder, and of all but its convolutions."""
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
    ways: list[Way],
    size: int,
    flops: tuple[float, float],
    peaks: dict[torch.dtype, float],
    start: list[torch.Tensor],
) -> str:
    """Markdown table of all ways, and how far plain and ours are apart."""
    head = ("recipe", "way", "ratio", "ratio of CPU time", "clips/s", "peak GiB", "utilisation")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    base: dict[str, Way] = {way.recipe: way for way in ways if way.name == "plain"}
    for way in ways:
        plain = base[way.recipe]
        ratios, loads = (
            [a / b for a, b in zip(getattr(plain, name), getattr(way, name), strict=True)]
            for name in ("wall", "load")
        )
        seconds = statistics.median(way.wall)
        owed = size * (way.owed[0] * flops[0] + way.owed[1] * flops[1 if "conv" in way.name else 0])
        used = f"{owed / seconds / peaks[way.dtype]:.0%}" if owed else "-"
        cells = (way.recipe, way.name, spread(ratios), spread(loads), f"{size / seconds:.2f}")
        lines.append(f"| {' | '.join(cells)} | {max(way.memory) / GIB:.1f} | {used} |")
    told = ", ".join(f"{str(d).split('.')[1]} {p / 1e9:.0f}" for d, p in peaks.items())
    lines += ["", f"Matrix products: {told} GFLOP/s; a clip is {flops[0] / 1e9:.0f} GFLOP forward."]
    return "\n".join([*lines, *differences(ways, start)])


def differences(ways: list[Way], start: list[torch.Tensor]) -> list[str]:
    """How far losses and learned weights are from the plain way's, after the same steps."""
    published = [way for way in ways if way.recipe == PUBLISHED]
    lines = [""]
    for way in published[1:]:
        plain = published[0]
        losses = max(abs(a - b) for a, b in zip(way.losses, plain.losses, strict=True))
        pairs = [
            (a, b)
            for ours, theirs in zip(way.heads[:2], plain.heads[:2], strict=True)
            for a, b in zip(ours.parameters(), theirs.parameters(), strict=True)
        ]
        weights = max((a - b).abs().max().item() for a, b in pairs)
        moved = [(b - c) for (_, b), c in zip(pairs, start, strict=True)]
        apart = _norm(a - b for a, b in pairs) / _norm(moved)
        lines.append(
            f"{way.name}, {len(way.losses)} steps: losses differ by at most {losses:.1e}, weights "
            f"of the projections by {weights:.1e}, in norm {apart:.1e} of the way that they went."
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
    ways = every_way(model, options)
    size = 8192 if device.type == "cuda" else 2048
    peaks = {dtype: peak_flops(device, dtype, size) for dtype in {way.dtype for way in ways}}
    for number, batch in enumerate(batches(options.batch, options.rounds + 1)):
        for way in ways[number % len(ways) :] + ways[: number % len(ways)]:
            take(model, way, batch, number)
            print(f"{number}: {way.recipe}, {way.name}: {way.wall[-1]:.2f} s", file=sys.stderr)
        if number == 0:  # it warmed up
            for way in ways:
                way.wall, way.load, way.memory = [], [], []
    threads = f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else threads
    print(f"Batch of {options.batch} clips of {SECONDS:g} s; {where}.\n")
    print(report(ways, options.batch, forward_flops(model, batch), peaks, start))


if __name__ == "__main__":
    main()
