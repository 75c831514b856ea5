"""How weights change: parameter groups, learning rates, and generators that follow the step."""

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from models import ParaCLAPModel
from settings import OptimSettings

OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "constant": lambda done: 1.0,
}


def parameter_groups(
    model: ParaCLAPModel, optim: OptimSettings, objective: torch.nn.Module | None = None
) -> list[dict[str, Any]]:
    """Trainable parameters by learning rate, matrices with weight decay and vectors without.

    Those of the objective, if it has any, have the rate of the scale.
    """
    rates = {
        "audio_branch.base": optim.audio_lr,
        "text_branch": optim.text_lr,
    }
    if optim.text_projection_lr is not None:
        rates["text_projection"] = optim.text_projection_lr
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    learned = [] if objective is None else list(objective.named_parameters())
    for name, parameter in [*model.named_parameters(), *learned]:
        if parameter.requires_grad:
            rates_of = (rate for part, rate in rates.items() if name.startswith(part))
            rate = next(rates_of, optim.lr)
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


def seed_step(seed: int, *place: int) -> None:
    """Set every generator from the seed and a place in the run (step, ...).

    A resumed run draws what an uninterrupted one would have drawn, because nothing else decides.
    """
    derived = int(np.random.SeedSequence([seed, *place]).generate_state(1)[0])
    random.seed(derived)
    np.random.seed(derived)
    torch.manual_seed(derived)


@dataclass(frozen=True)
class RandomState:
    """Where every generator stands that a forward pass may draw from."""

    device: torch.device
    python: tuple
    numpy: dict[str, Any]
    torch: torch.Tensor
    accelerator: torch.Tensor | None


def random_state(device: torch.device) -> RandomState:
    """State of the generators of Python, numpy, torch and this device."""
    accelerator = None if device.type == "cpu" else torch.cuda.get_rng_state(device)
    return RandomState(
        device, random.getstate(), np.random.get_state(False), torch.get_rng_state(), accelerator
    )


@contextmanager
def drawing_from(state: RandomState) -> Iterator[None]:
    """Draw the same random numbers again; afterwards the generators stand where they stood."""
    before = random_state(state.device)
    _set_random_state(state)
    try:
        yield
    finally:
        _set_random_state(before)


def _set_random_state(state: RandomState) -> None:
    random.setstate(state.python)
    np.random.set_state(state.numpy)
    torch.set_rng_state(state.torch)
    if state.accelerator is not None:
        torch.cuda.set_rng_state(state.accelerator, state.device)
