"""Training steps at the size of Whisper base: frozen speech encoder, LoRA, and all weights.

    python -m benchmarks.lora
    python -m benchmarks.lora --batch 16 --seconds 5 --rounds 5
    python -m benchmarks.lora --device cuda --batch 64 --steps 20

Encoders with random weights, Whisper base for speech and a frozen BERT of the size of MiniLM, noise
as clips; neither data nor network are needed. Layers 1 to 5 are read, as in configs/whisper.yaml.
A call builds model and optimiser and takes some steps, each with forward and backward pass and an
update. "Frozen" encodes the clips in each step, as with random crops; with `data.crop=centre` they
are encoded once.

Ratios of time are relative to the training of all weights, median and range over the rounds; a
first round is not counted. Memory is the peak with weights, gradients and optimiser.
"""

import copy
from collections.abc import Sequence
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.encoders import MINILM, WHISPER_BASE
from benchmarks.report import command_line, parse, report
from benchmarks.timing import alternate, markdown_table, ratios
from paraclap.model.fast_on_cpu import fast_on_cpu
from paraclap.model.lora import add_adapters
from paraclap.model.modeling_paraclap import ParaCLAPConfig, ParaCLAPModel, mel_frames
from paraclap.settings import LoraSettings, OptimSettings
from paraclap.training.losses import ContrastiveLoss
from paraclap.training.optim import parameter_groups
from paraclap.training.step import TrainingStep

CONFIG: dict[str, Any] = {
    "audio_config": WHISPER_BASE,
    "text_config": MINILM,
    "audio_layers": [1, 2, 3, 4, 5],
    "projection_dim": 256,
}
MEL = {"bins": 80, "stride": 1, "normalisation": "whisper"}
ALL = "all weights"
VARIANTS = {
    # name -> frozen parts, adapters
    ALL: (["text"], LoraSettings()),
    "LoRA, rank 8": (["text"], LoraSettings(["audio"])),
    "frozen": (["audio", "text"], LoraSettings()),
}
WORDS = 12


def make_batch(size: int, seconds: float, bands: int) -> dict[str, Any]:
    """Return a batch in the form of `Collate`."""
    rng = np.random.default_rng(0)
    frames = mel_frames(round(16_000 * seconds), MEL)
    values = torch.from_numpy(rng.standard_normal((size, frames, bands), np.float32))
    input_ids = torch.from_numpy(rng.integers(1000, 30_000, (size, WORDS)))
    return {
        "input_values": values,
        "padding_mask": torch.ones(size, frames, dtype=torch.int64),
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "matches": (torch.eye(size), torch.eye(size)),
        "own": list(range(size)),
        "row": list(range(size)),
    }


def train(
    model: ParaCLAPModel,
    frozen: Sequence[str],
    lora: LoraSettings,
    batch: dict[str, Any],
    steps: int,
) -> int:
    """Train a copy of the model; returns the number of its trained weights."""
    model = copy.deepcopy(model).freeze(frozen)
    add_adapters(model, lora, {})
    model.train()
    step = TrainingStep(model, ContrastiveLoss(), "own")
    groups = parameter_groups(model, OptimSettings())
    optimizer = torch.optim.AdamW(groups)
    for _ in range(steps):
        step(batch)
        optimizer.step()
    return sum(p.numel() for group in groups for p in group["params"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = command_line(__doc__, __spec__.name)
    add = parser.add_argument
    add("--batch", type=int, default=8, help="clips (%(default)s)")
    add("--seconds", type=float, default=2.5, help="of a clip (%(default)s)")
    add("--steps", type=int, default=5, help="of a call (%(default)s)")
    add("--rounds", type=int, default=3, help="(%(default)s)")
    add("--device", default="cpu", help="(%(default)s)")
    options = parse(parser, arguments)
    device = torch.device(options.device)
    torch.manual_seed(0)
    model = fast_on_cpu(ParaCLAPModel(ParaCLAPConfig(**CONFIG))).to(device)
    batch = make_batch(options.batch, options.seconds, model.config.audio_config.num_mel_bins)
    calls = {
        name: partial(train, model, *variant, batch, options.steps)
        for name, variant in VARIANTS.items()
    }
    runs = alternate(calls, 1 + options.rounds, device)
    runs = {name: found[1:] for name, found in runs.items()}
    rows = []
    for name, found in runs.items():
        clocks = (ratios(runs[ALL], found), ratios(runs[ALL], found, "cpu"))
        seconds = f"{median(run.wall for run in found) / options.steps:.2f}"
        memory = f"{max(run.memory for run in found):.2f}"
        rows.append((name, *clocks, seconds, memory, f"{found[0].result / 1e6:.3f}"))
    head = ("encoder", "ratio", "ratio of CPU time", "s/step", "memory [GiB]", "trained [million]")
    about = f"{options.batch} clips of {options.seconds:g} s"
    report(f"LoRA, {device.type}", f"{about}\n\n{markdown_table(head, rows)}", options)


if __name__ == "__main__":
    main()
