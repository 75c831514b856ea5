"""How weights change: parameter groups, learning rates, and generators that follow the step."""

import math
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from models import ParaCLAPModel
from settings import OptimSettings, SettingsError

OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "constant": lambda done: 1.0,
}
LAYER = re.compile(r"(?!adapter\.)(?:\w+\.)?layers?\.(\d+)\.")
ABOVE_LAYERS = ("pooler.", "adapter.", "intermediate_ffn.", "final_norm.")
"""Parts of an encoder that follow its layers; what is neither of them nor a layer comes before."""


def layers_above(base: PreTrainedModel) -> dict[str, int]:
    """How many layers of an encoder stand above each of its parameters.

    0 for the last layer and what follows it, the number of layers for embeddings and convolutions.

    Raises:
        SettingsError: if the encoder has no numbered layers.
    """
    names = [name for name, _ in base.named_parameters()]
    numbers = {name: int(found[1]) for name in names if (found := LAYER.match(name))}
    if not numbers:
        raise SettingsError(
            f"optim.layer_decay: an encoder of type {base.config.model_type} has no layers that "
            "are numbered; expected one like wav2vec2 or BERT, or a layer_decay of 1"
        )
    above = ABOVE_LAYERS
    if getattr(base.config, "do_stable_layer_norm", False):  # otherwise it comes before the layers
        above = (*above, "encoder.layer_norm.")
    last = max(numbers.values())
    return {
        name: last - numbers[name] if name in numbers else 0 if name.startswith(above) else last + 1
        for name in names
    }


def _layer_factors(model: ParaCLAPModel, optim: OptimSettings) -> dict[str, float]:
    """Factors on the learning rates of what is trained of the encoders, by `optim.layer_decay`."""
    if optim.layer_decay == 1:
        return {}
    if not 0 < optim.layer_decay < 1:
        raise SettingsError(f"optim.layer_decay is {optim.layer_decay}, expected more than 0, to 1")
    return {
        f"{branch}_branch.base.{name}": optim.layer_decay**above
        for branch in ("audio", "text")
        if branch not in model.frozen
        for name, above in layers_above(model.get_submodule(f"{branch}_branch.base")).items()
    }


def parameter_groups(
    model: ParaCLAPModel, optim: OptimSettings, objective: torch.nn.Module | None = None
) -> list[dict[str, Any]]:
    """Trainable parameters by learning rate, matrices with weight decay and vectors without.

    Those of the objective, if it has any, have the rate of the scale. In encoders the rate falls by
    `optim.layer_decay` with each layer below the last.
    """
    rates = {
        "audio_branch": optim.audio_lr,
        "text_branch": optim.text_lr,
    }
    if optim.text_projection_lr is not None:
        rates["text_projection"] = optim.text_projection_lr
    factors = _layer_factors(model, optim)
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    learned = [] if objective is None else list(objective.named_parameters())
    for name, parameter in [*model.named_parameters(), *learned]:
        if parameter.requires_grad:
            rate = rates.get(name.split(".")[0], optim.lr) * factors.get(name, 1.0)
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
