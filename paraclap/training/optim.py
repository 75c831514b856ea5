"""How weights change: parameter groups, learning rates, and generators that follow the step."""

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
from paraclap.settings import OptimSettings
from paraclap.training.config import SettingsError

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


def _layer_factors(
    model: ParaCLAPModel, optim: OptimSettings, never: Collection[str]
) -> dict[str, float]:
    """Factors on the learning rates of encoders by `optim.layer_decay`, where they ever learn."""
    if optim.layer_decay == 1:
        return {}
    if not 0 < optim.layer_decay < 1:
        raise SettingsError(f"optim.layer_decay is {optim.layer_decay}, expected more than 0, to 1")
    return {
        f"{branch}_branch.base.{name}": optim.layer_decay**above
        for branch in ("audio", "text")
        if branch not in never
        for name, above in layers_above(model.get_submodule(f"{branch}_branch.base")).items()
    }


def unfreeze_steps(
    unfreeze: Mapping[str, float], frozen: Collection[str], steps: int
) -> dict[str, int]:
    """Part -> number of the step that it first learns in, from `train.unfreeze`.

    Args:
        unfreeze: part -> share of the steps, or number of steps.
        frozen: parts that are frozen at first.
        steps: of the run.

    Raises:
        SettingsError: for a part that is not frozen, or a step that is not in the run.
    """
    found = {}
    for part, when in unfreeze.items():
        if part not in frozen:
            raise SettingsError(f"train.unfreeze: {part} is not in model.freeze={sorted(frozen)}")
        step = round(when * steps) if when < 1 else when
        if not 1 <= step < steps or step != int(step):
            raise SettingsError(
                f"train.unfreeze: {part} at {when:g}, which is step {step:g} of {steps}; expected "
                "a share between 0 and 1, or a number of steps that ends before the run does"
            )
        found[part] = int(step)
    return found


def _first_steps(model: ParaCLAPModel, unfreeze: Mapping[str, int]) -> dict[str, int]:
    """Parameter -> number of the step that it first learns in; those that never do are missing."""
    first = {name: 0 for name, _ in model.named_parameters()}
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
    """Parameters that learn, by learning rate, matrices with weight decay and vectors without.

    Those of the objective, if it has any, have the rate of the scale. In encoders the rate falls by
    `optim.layer_decay` with each layer below the last. What is frozen at first has groups of its
    own, with the number of its first step as `start`: until then it has no gradients, so that the
    optimiser leaves it alone.
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


def learning_rate_factor(step: int, steps: int, optim: OptimSettings, start: int = 0) -> float:
    """Factor on the base learning rates in step number `step` of `steps`, counted from 0.

    What learns from step number `start` on has a warm-up of its own there, and otherwise the
    schedule of the others.
    """
    warm = min(1.0, max(0, step - start + 1) / max(1, optim.warmup_steps))
    done = max(0, step - optim.warmup_steps) / max(1, steps - optim.warmup_steps)
    return warm * SCHEDULES[optim.schedule](done)


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
