"""Sections of `benchmarks.gpu` that need no corpus: loss, training steps, evaluation.

What a section needs is imported by it, so that a missing package costs this section alone.

Letters: B clips, T samples, K texts.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.gpu_bench import FAILED, PLAIN, Bench, Rows, durations
from paraclap.model.engines import fast_model
from paraclap.model.fast_on_cpu import LINEAR
from paraclap.model.lora import add_adapters
from paraclap.model.modeling_paraclap import (
    SAMPLING_RATE,
    ParaCLAPFeatureExtractor,
    ParaCLAPProcessor,
    receptive_field,
)
from paraclap.settings import LoraSettings

CROP = 5.0  # s
TOLERANCE = 1e-3  # relative difference of the loss from that of the CPU
ROUNDS, ROUND_SECONDS = 3, 0.5
LORA = LoraSettings(["audio"])

Take = Callable[[], torch.Tensor]
"""Takes a training step with update, and returns the loss."""


def losses(bench: Bench) -> Rows:
    """Loss and gradients of a batch on CPU and GPU, without dropout."""
    from benchmarks.train_step import gradients, plain_step, training_step

    batch, frozen = make_batch(4), ("audio_convolutions", "text")

    def loss(kind: str, device: torch.device) -> tuple[float, torch.Tensor]:
        model = copy.deepcopy(bench.published).to(device)
        for projection in (model.audio_projection, model.text_projection):
            projection.dropout.p = 0.0
        parts = () if kind == PLAIN else frozen
        step = partial(plain_step, model)
        if kind != PLAIN:
            step = training_step(model, parts, bfloat16=kind == "bf16")
        found = []
        return gradients(model, parts, lambda given: found.append(step(given)), batch), found[0]

    def row(cpu_kind: str, gpu_kind: str, check: bool) -> Sequence[object]:
        expected, cpu = loss(cpu_kind, torch.device("cpu"))
        other, gpu = loss(gpu_kind, bench.device)
        difference = abs(gpu.item() / cpu.item() - 1)
        change = (other - expected).norm() / expected.norm()
        result = "ok" if difference <= TOLERANCE else FAILED
        values = f"{cpu.item():.6f}", f"{gpu.item():.6f}", f"{difference:.1e}", f"{change:.1e}"
        return *values, result if check else ""

    yield "plain, fp32", partial(row, PLAIN, PLAIN, check=True)
    yield "ours, fp32", partial(row, "fp32", "fp32", check=True)
    yield "ours, bf16 against fp32", partial(row, "fp32", "bf16", check=False)


# --- Training steps ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """What is trained.

    Attributes:
        model: "published" or "whisper".
        frozen: parts.
        lora: adapters.
        cached: whether audio embeddings are precomputed.
    """

    model: str
    frozen: tuple[str, ...]
    lora: LoraSettings = field(default_factory=LoraSettings)
    cached: bool = False


TRAINED = Recipe("published", ("text",))
RECIPES = {
    "paper (frozen encoders)": Recipe("published", ("audio", "text")),
    "paper, precomputed clips": Recipe("published", ("audio", "text"), cached=True),
    "audio trained": TRAINED,
    "audio without convolutions": Recipe("published", ("audio_convolutions", "text")),
    "LoRA, rank 8": Recipe("published", ("text",), LORA),
    "Whisper base, frozen": Recipe("whisper", ("audio", "text")),
    "Whisper base, cached layers": Recipe("whisper", ("audio", "text"), cached=True),
    "Whisper base, LoRA": Recipe("whisper", ("text",), LORA),
}
OURS = "audio without convolutions"  # configs/paraclap.yaml


def make_batch(size: int, model: str = "published") -> dict[str, Any]:
    """Return crops of clips with the durations of MSP-Podcast, in the form of `Collate`."""
    from benchmarks import lora, train_step

    if model == "whisper":
        batch = lora.make_batch(size, CROP, 80)
    else:
        batch = train_step.make_batch(size)
    width = batch["padding_mask"].shape[1]
    for row, seconds in enumerate(np.minimum(durations(size), CROP)):
        filled = round(width * seconds / CROP)
        batch["input_values"][row, filled:] = 0
        batch["padding_mask"][row, filled:] = 0
    return batch


def step_of(
    bench: Bench, name: str, recipe: Recipe, precision: str, size: int, compiled: bool = False
) -> Take:
    """Return a training step with update of a new model, in our way or the plain one."""
    from benchmarks.train_step import plain_step
    from paraclap.settings import OptimSettings
    from paraclap.training.encoding import prepare_encoders
    from paraclap.training.losses import ContrastiveLoss
    from paraclap.training.optim import OPTIMIZERS, parameter_groups
    from paraclap.training.step import TrainingStep

    model = copy.deepcopy(getattr(bench, recipe.model)).freeze(recipe.frozen)
    add_adapters(model, recipe.lora, {})
    model.to(bench.device).train()
    model.audio_branch.eval()  # encoders draw no random numbers
    model.text_branch.eval()
    prepare_encoders(model, compiled=compiled)
    optimizer = OPTIMIZERS["adamw"](parameter_groups(model, OptimSettings(lr=1e-5)))
    batch = make_batch(size, recipe.model)
    bfloat16 = precision == "bf16"
    if name == PLAIN:
        model.requires_grad_(True)
        autocast = torch.autocast(bench.device.type, torch.bfloat16, enabled=bfloat16)
        gradients = autocast(partial(plain_step, model))
    else:
        step = TrainingStep(model, ContrastiveLoss(), "own", bfloat16=bfloat16)
        if recipe.cached:
            step.encoder.clips = step.encoder.audio(batch, []).cpu()

        def gradients(given: dict[str, Any]) -> torch.Tensor:
            return step(given).loss

    def take() -> torch.Tensor:
        model.zero_grad()
        loss = gradients(batch)
        optimizer.step()
        return loss.item()  # as training does, which logs it

    return take


def step_row(
    bench: Bench,
    speeds: dict[str, float],
    name: str,
    recipe: Recipe,
    precision: str,
    size: int,
    compiled: bool = False,
    flops: float | None = None,
) -> Sequence[object]:
    """Return the cells of a training step; the reference of the ratio is the first one measured.

    Args:
        bench: what is measured on.
        speeds: clips/s by recipe; the first one of the same model is the reference.
        name: `PLAIN`, or a name of `RECIPES`.
        recipe: what is trained.
        precision: "bf16" or "fp32".
        size: B.
        compiled: whether encoders are compiled.
        flops: of a step; None = counted.
    """
    bench.reset_memory()
    take = step_of(bench, name, recipe, precision, size, compiled)
    take()  # caches captions
    flops = count_flops(take) if flops is None else flops
    steps = 1
    if not bench.small:
        steps = max(1, min(10, round(ROUND_SECONDS / bench.seconds(take))))
    rounds = 1 if bench.small else ROUNDS
    times = [bench.seconds(lambda: [take() for _ in range(steps)]) for _ in range(rounds)]
    seconds = median(times) / steps
    speed = size / seconds
    reference = speeds.setdefault(recipe.model, speed)
    rate = flops / seconds
    return (
        size,
        f"{1000 * seconds:.1f}",
        f"{speed:,.0f}" if speed > 100 else f"{speed:.2f}",
        f"{speed / reference:.2f}",
        f"{rate / 1e12:.3g}",
        f"{rate / bench.peak(precision):.1%}",
        f"{bench.memory():.2f}",
    )


def count_flops(work: Callable[[], object]) -> float:
    """Return the FLOPs of matrix products, convolutions and attention in a call."""
    from torch.utils.flop_counter import FlopCounterMode

    onednn = getattr(torch.ops.mkldnn, LINEAR, None)  # of the linear layers on a CPU
    counted = {onednn: _flops_of_product} if onednn else {}
    with FlopCounterMode(display=False, custom_mapping=counted) as counter:
        work()
    return counter.get_total_flops()


def _flops_of_product(left: torch.Size, right: torch.Size, *_: Any, **__: Any) -> int:
    """Return the FLOPs of a linear layer by oneDNN, which torch does not count."""
    return 2 * math.prod(left) * right[0]


def steps(bench: Bench) -> Rows:
    """Training step of each recipe and precision."""
    size, speeds = 4 if bench.small else 64, {}
    for model in ("published", "whisper"):
        recipes = {name: recipe for name, recipe in RECIPES.items() if recipe.model == model}
        every = {PLAIN: replace(TRAINED, model=model), **recipes}
        for name, recipe in every.items():
            for precision in ("fp32", "bf16"):
                label = f"{name}, {precision}" if name != PLAIN else f"{model}: plain, {precision}"
                yield label, partial(step_row, bench, speeds, name, recipe, precision, size)


def batch_sizes(bench: Bench) -> Rows:
    """Batches of doubled size until memory is full."""
    smallest, largest = (4, 8) if bench.small else (32, 2048)
    for name, precision in ((OURS, "bf16"), ("audio trained", "bf16"), (PLAIN, "fp32")):
        recipe, speeds = RECIPES.get(name, TRAINED), {}
        per_clip = count_flops(step_of(bench, name, recipe, precision, smallest)) / smallest
        size, fits = smallest, True
        while fits and size <= largest:
            try:
                row = step_row(bench, speeds, name, recipe, precision, size, flops=size * per_clip)
            except torch.OutOfMemoryError:
                row, fits = (size, "out of memory", *[""] * 5), False
            yield f"{name}, {precision}", lambda row=row: row
            size *= 2


def compiled(bench: Bench) -> Rows:
    """Compiled encoders: the default recipe, and evaluation."""
    size, speeds, recipe = 4 if bench.small else 64, {}, RECIPES[OURS]
    arguments = (bench, speeds, OURS, recipe, "bf16", size)
    flops = count_flops(step_of(*arguments[:1], *arguments[2:]))
    yield f"{OURS}, bf16", partial(step_row, *arguments, flops=flops)
    yield f"{OURS}, bf16, compiled", partial(step_row, *arguments, compiled=True, flops=flops)


# --- Evaluation ----------------------------------------------------------------------------------


def evaluation(bench: Bench) -> Rows:
    """Zero-shot evaluation, single clips in the plain way and batches."""
    from benchmarks.evaluate import TEXTS, ours, plain
    from paraclap.model.towers import train_tokenizer

    model = copy.deepcopy(bench.published).to(bench.device).eval()
    extractor = ParaCLAPFeatureExtractor(min_samples=receptive_field(model.config.audio_config))
    processor = ParaCLAPProcessor(extractor, train_tokenizer(TEXTS, 200))
    rng = np.random.default_rng(0)
    few, many = (2, 6) if bench.small else (100, 1000)
    sizes = (durations(many) * SAMPLING_RATE).round().astype(int)
    clips = [0.1 * rng.standard_normal(size, np.float32) for size in sizes]
    seconds = [60.0] if bench.small else [60.0, 240.0, 960.0]
    variants = {PLAIN: (few, partial(plain, model, processor))}
    for precision in ("fp32", "bf16"):
        fast = fast_model(model, "eager", precision)
        for limit in seconds:
            name = f"batches of {limit:.0f} s, {precision}"
            variants[name] = (many, partial(ours, fast, processor, limit))
    reference: dict[str, Any] = {}

    def row(count: int, cosines: Callable[[Sequence[np.ndarray]], np.ndarray]) -> Sequence[object]:
        cosines(clips[:2])
        bench.reset_memory()
        results: list[np.ndarray] = []
        speed = count / bench.seconds(lambda: results.append(cosines(clips[:count])))
        found = results[0][:few]
        expected = reference.setdefault("cosines", found)
        ratio = speed / reference.setdefault("speed", speed)
        change = np.abs(found - expected).max()
        return count, f"{speed:.1f}", f"{ratio:.2f}", f"{bench.memory():.2f}", f"{change:.1e}"

    for name, (count, cosines) in variants.items():
        yield name, partial(row, count, cosines)
