"""Parameter groups, learning rates, unfreezing, and random states that follow from the step."""

import math
import random
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from paraclap.model.modeling_paraclap import FREEZABLE, ParaCLAPModel
from paraclap.settings import OptimSettings, SettingsError

OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "constant": lambda done: 1.0,
}
LAYER = re.compile(r"(?!adapter\.)(?:\w+\.)?layers?\.(\d+)\.")
ABOVE_LAYERS = ("pooler.", "adapter.", "intermediate_ffn.", "final_norm.")
"""Parts of an encoder after its layers; all other parts are before them."""


def layers_above(base: PreTrainedModel) -> dict[str, int]:
    """Return the number of layers above each parameter of an encoder.

    0 for the top layer and the parts after it, the number of layers for the parts before them.

    Raises:
        SettingsError: if the encoder has no numbered layers.
    """
    names = [name for name, _ in base.named_parameters()]
    numbers = {name: int(found[1]) for name in names if (found := LAYER.match(name))}
    if not numbers:
        raise SettingsError(
            f"optim.layer_decay requires numbered layers, as in wav2vec2 and BERT; an encoder of "
            f"type {base.config.model_type} has none"
        )
    above = ABOVE_LAYERS
    if getattr(base.config, "do_stable_layer_norm", False):  # otherwise it is before the layers
        above = (*above, "encoder.layer_norm.")
    last = max(numbers.values())
    return {
        name: last - numbers[name] if name in numbers else 0 if name.startswith(above) else last + 1
        for name in names
    }


def _layer_factors(
    model: ParaCLAPModel, optim: OptimSettings, never: Collection[str]
) -> dict[str, float]:
    """Factors of `optim.layer_decay` on the learning rates of encoders that are ever trained."""
    if optim.layer_decay == 1:
        return {}
    if not 0 < optim.layer_decay < 1:
        raise SettingsError(f"optim.layer_decay is {optim.layer_decay}, expected 0 < value <= 1")
    return {
        f"{branch}_branch.base.{name}": optim.layer_decay**above
        for branch in ("audio", "text")
        if branch not in never
        for name, above in layers_above(model.get_submodule(f"{branch}_branch.base")).items()
    }


def unfreeze_steps(
    unfreeze: Mapping[str, float], frozen: Collection[str], steps: int
) -> dict[str, int]:
    """Return the first step in which each part of `train.unfreeze` is trained.

    Args:
        unfreeze: fraction of all steps or number of steps, by part.
        frozen: frozen parts.
        steps: number of steps of the whole run.

    Raises:
        SettingsError: if a part is not frozen, or a step is not within the run.
    """
    found = {}
    for part, when in unfreeze.items():
        if part not in frozen:
            raise SettingsError(f"train.unfreeze: {part} is not in model.freeze={sorted(frozen)}")
        step = round(when * steps) if when < 1 else when
        if not 1 <= step < steps or step != int(step):
            raise SettingsError(
                f"train.unfreeze: {part} is {when:g}, which is step {step:g} of {steps}; expected "
                f"a fraction below 1 or a whole number below {steps}"
            )
        found[part] = int(step)
    return found


def _first_steps(model: ParaCLAPModel, unfreeze: Mapping[str, int]) -> dict[str, int]:
    """First step in which each parameter is trained; frozen parameters are missing."""
    later = tuple(f"{FREEZABLE[part]}." for part in unfreeze)
    named = model.named_parameters()
    first = {name: 0 for name, p in named if p.requires_grad or name.startswith(later)}
    for part in model.frozen:
        for name, _ in model.get_submodule(FREEZABLE[part]).named_parameters(FREEZABLE[part]):
            if part in unfreeze and name in first:
                first[name] = max(first[name], unfreeze[part])
            else:
                first.pop(name, None)
    return first


def parameter_groups(
    model: ParaCLAPModel,
    optim: OptimSettings,
    objective: torch.nn.Module | None = None,
    unfreeze: Mapping[str, int] | None = None,
) -> list[dict[str, Any]]:
    """Return the trained parameters by learning rate, weight decay and first step.

    Matrices have weight decay, vectors and scalars none. Parameters of the loss have the rate of
    the logit scale. Parts that are unfrozen later have groups with their first step as `start`; the
    optimiser skips them before it, because they have no gradients.
    """
    rates = {
        "audio_branch.base": optim.audio_lr,
        "text_branch": optim.text_lr,
    }
    if optim.text_projection_lr is not None:
        rates["text_projection"] = optim.text_projection_lr
    unfreeze = unfreeze or {}
    factors = _layer_factors(model, optim, set(model.frozen) - unfreeze.keys())
    starts = _first_steps(model, unfreeze)
    learned = [(name, p) for name, p in model.named_parameters() if name in starts]
    learned += [] if objective is None else list(objective.named_parameters())
    groups: dict[tuple[float, float, int], list[torch.nn.Parameter]] = {}
    for name, parameter in learned:
        rates_of = (rate for part, rate in rates.items() if name.startswith(f"{part}."))
        rate = next(rates_of, optim.lr) * factors.get(name, 1.0)
        decay = optim.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((rate, decay, starts.get(name, 0)), []).append(parameter)
    return [
        {"params": params, "lr": rate, "base_lr": rate, "weight_decay": decay, "start": start}
        for (rate, decay, start), params in groups.items()
    ]


def new_optimizer(optim: OptimSettings, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Return the optimiser of `parameter_groups`, which updates each group in one pass."""
    return OPTIMIZERS[optim.name](groups, lr=optim.lr, fused=True)


def learning_rate_factor(step: int, steps: int, optim: OptimSettings, start: int = 0) -> float:
    """Return the factor on the base learning rates in step `step` of `steps`, counted from 0.

    Parameters unfrozen at step `start` are warmed up from there, and follow the same schedule.
    """
    warm = min(1.0, max(0, step - start + 1) / max(1, optim.warmup_steps))
    done = max(0, step - optim.warmup_steps) / max(1, steps - optim.warmup_steps)
    return warm * SCHEDULES[optim.schedule](done)


def seed_step(seed: int, *place: int) -> None:
    """Seed all random generators by the seed and a position in the run (step, ...).

    So a resumed run has the random numbers of an uninterrupted one.
    """
    derived = int(np.random.SeedSequence([seed, *place]).generate_state(1)[0])
    random.seed(derived)
    np.random.seed(derived)
    torch.manual_seed(derived)


@dataclass(frozen=True)
class RandomState:
    """State of all random generators that a forward pass may use."""

    device: torch.device
    python: tuple
    numpy: dict[str, Any]
    torch: torch.Tensor
    accelerator: torch.Tensor | None


def random_state(device: torch.device) -> RandomState:
    """Return the states of the generators of Python, numpy, torch and this device."""
    accelerator = None if device.type == "cpu" else torch.cuda.get_rng_state(device)
    return RandomState(
        device, random.getstate(), np.random.get_state(False), torch.get_rng_state(), accelerator
    )


@contextmanager
def drawing_from(state: RandomState) -> Iterator[None]:
    """Repeat the random numbers from a state; the current states are restored afterwards."""
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
