"""Forward and backward of one training step: from a batch to gradients.

    step = TrainingStep(model, objective, positives="matching", bfloat16=False)
    gradients = step(batch)                  # of datasets.Collate; .loss, .norm
    optimizer.step()                         # if both are finite

A step reads a batch, leaves gradients on the parameters of model and objective, and changes
nothing else: learning rates, what to do with a step that is not finite, and the optimiser are the
caller's. Captions that a batch holds several times pass the text encoder once. Several processes
take a share of the batch each, and all have loss and gradients of the whole.

Letters: B clips of a batch, b those of this process, K distinct captions of them, T samples, L
tokens, H hidden size of a tower, D embedding.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from models import ParaCLAPModel
from objectives import Matches
from processes import GradientSum, sum_in_place

Batch = Mapping[str, Any]
"""What `datasets.Collate` returns: input_values and padding_mask (b, T), input_ids and
attention_mask (b, L), matches twice (b, B), and lists."""


@dataclass(frozen=True)
class Gradients:
    """What a step left on the parameters.

    Attributes:
        loss: of the whole batch, scalar, without graph.
        norm: of all gradients together, before clipping; scalar.
        distinct: K, captions of this process that differ.
    """

    loss: torch.Tensor
    norm: torch.Tensor
    distinct: int


class TrainingStep:
    """Gradients of an objective, one batch after the other.

    Attributes:
        model: in training mode, on its device.
        objective: of objectives.py: (audio (b, D), text (b, D), logit_scale, matches) -> scalar.
        positives: "matching" or "own", see `settings.LossSettings`.
        bfloat16: whether encoders and projections run under autocast.
        clip_norm: largest norm of the gradients; 0 = no limit.
    """

    def __init__(
        self,
        model: ParaCLAPModel,
        objective: nn.Module,
        positives: str = "matching",
        bfloat16: bool = False,
        clip_norm: float = 0.0,
    ) -> None:
        self.model = model
        self.objective = objective
        self.positives = positives
        self.bfloat16 = bfloat16
        self.clip_norm = clip_norm
        self.sums = GradientSum(self.parameters())

    def __call__(self, batch: Batch) -> Gradients:
        """Replace the gradients by those of a batch, clipped to `clip_norm`."""
        for parameter in self.parameters():
            parameter.grad = None
        loss, distinct = self.backward(batch)
        return Gradients(loss, self.clip(), distinct)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of model and objective, frozen ones included."""
        return itertools.chain(self.model.parameters(), self.objective.parameters())

    def clip(self) -> torch.Tensor:
        """Limit the norm of all gradients; returns what it was."""
        return nn.utils.clip_grad_norm_(self.parameters(), self.clip_norm or math.inf)

    def backward(self, batch: Batch) -> tuple[torch.Tensor, int]:
        """Add the gradients of a batch; returns its loss and its number of distinct captions."""
        device = self.model.device
        first, places = distinct_captions(batch["input_ids"], batch["attention_mask"])
        inputs = {
            name: tensor.to(device, non_blocking=True)
            for name, tensor in (
                ("input_values", batch["input_values"]),
                ("padding_mask", batch["padding_mask"]),
                ("input_ids", batch["input_ids"][first]),
                ("attention_mask", batch["attention_mask"][first]),
                ("places", places),
            )
        }
        matches = tuple(pairs.to(device, non_blocking=True) for pairs in self.targets(batch))
        model = self.model
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bfloat16):
            _, audio = model.encode("audio", inputs["input_values"], inputs["padding_mask"])
            _, text = model.encode("text", inputs["input_ids"], inputs["attention_mask"])
            audio = model.project("audio", audio)
            text = model.project("text", text.index_select(0, inputs["places"]))
        loss = self.objective(audio, text, model.logit_scale, matches)
        self.sums.expect()
        loss.backward()
        self.sums.finish()
        return sum_in_place(loss.detach()), len(first)

    def targets(self, batch: Batch) -> Matches:
        """Pairs that count as true."""
        if self.positives == "matching":
            return batch["matches"]
        own = torch.eye(len(batch["row"]))[batch["own"]]
        return own, own


def distinct_captions(
    input_ids: torch.Tensor, attention_mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the K distinct captions of a batch stand first, and which of them each row (B,) has.

    Args:
        input_ids: tokens (B, L) on the CPU.
        attention_mask: (B, L), 1 where there is a token.
    """
    numbers: dict[bytes, int] = {}
    first, places = [], []
    for row, key in enumerate(token_keys(input_ids, attention_mask)):
        if key not in numbers:
            numbers[key] = len(first)
            first.append(row)
        places.append(numbers[key])
    return torch.tensor(first), torch.tensor(places)


def token_keys(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> list[bytes]:
    """Name each caption by its tokens, padding left out."""
    return [
        tokens[mask].numpy().tobytes()
        for tokens, mask in zip(input_ids, attention_mask.bool(), strict=True)
    ]
