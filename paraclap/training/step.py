"""Forward and backward pass of one training step: from a batch to gradients.

    step = TrainingStep(model, ContrastiveLoss(), positives="matching")
    gradients = step(batch)                  # gradients.loss, gradients.norm
    optimizer.step()                         # if both are finite

A step leaves gradients on the parameters of model and objective and changes nothing else. With
several processes, each processes its share of the batch, and all get the loss and the gradients of
the whole batch. Equal captions of a batch are encoded once.

Letters: B clips of a batch, b those of this process, K distinct captions of them.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from paraclap.distributed import gather, sum_in_place, world_size
from paraclap.errors import ParaCLAPError
from paraclap.model.modeling_paraclap import ParaCLAPModel
from paraclap.training.alignment import CorpusAlignment
from paraclap.training.class_prompts import ClassPrompts
from paraclap.training.encoding import Batch, BatchEncoder, Replay, distinct_captions
from paraclap.training.gradient_sum import GradientSum
from paraclap.training.losses import Matches


class DivergenceError(ParaCLAPError, FloatingPointError):
    """Loss, gradients or weights are not finite."""


@dataclass(frozen=True)
class Gradients:
    """Result of a step.

    Attributes:
        loss: loss of the whole batch, scalar, without graph.
        norm: norm of all gradients before clipping, scalar.
        distinct: K, number of distinct captions of this process.
    """

    loss: torch.Tensor
    norm: torch.Tensor
    distinct: int

    @property
    def is_finite(self) -> bool:
        """Whether loss and norm are finite."""
        return bool(torch.isfinite(self.loss) & torch.isfinite(self.norm))


class TrainingStep:
    """Gradients of a loss, batch by batch.

    Attributes:
        model: model in training mode, on its device.
        objective: loss: (audio (b, D), text (b, D), logit_scale, matches) -> scalar.
        positives: "matching" or "own", see `settings.LossSettings`.
        clip_norm: largest norm of the gradients; 0 = no clipping.
        class_prompts: classes of the class-prompt loss; None = without this loss.
        class_prompt_weight: weight of the class-prompt loss.
        alignment: of the corpora of a batch; None = without this loss.
        alignment_weight: weight of this loss.
        encoder: encoders of the model, see `BatchEncoder` for the other arguments.
    """

    def __init__(
        self,
        model: ParaCLAPModel,
        objective: nn.Module,
        positives: str = "matching",
        bfloat16: bool = False,
        clip_norm: float = 0.0,
        micro_batch: int = 0,
        text_cache: int = 256,
        class_prompts: ClassPrompts | None = None,
        class_prompt_weight: float = 1.0,
        alignment: CorpusAlignment | None = None,
        alignment_weight: float = 1.0,
    ) -> None:
        self.model = model
        self.objective = objective
        self.positives = positives
        self.clip_norm = clip_norm
        self.class_prompts = class_prompts
        self.class_prompt_weight = class_prompt_weight
        self.alignment = alignment
        self.alignment_weight = alignment_weight
        self.encoder = BatchEncoder(model, bfloat16, micro_batch, text_cache)
        self._parameters = (*model.parameters(), *objective.parameters())
        self.sums = GradientSum(self.parameters())

    def __call__(self, batch: Batch) -> Gradients:
        """Replace the gradients by those of a batch, clipped to `clip_norm`."""
        for parameter in self._parameters:
            parameter.grad = None
        loss, distinct = self.backward(batch)
        return Gradients(loss, self.clip(), distinct)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of model and objective, including frozen ones."""
        return iter(self._parameters)

    def unfreeze(self, parts: Collection[str]) -> None:
        """Train these parts of the model from now on."""
        self.encoder.unfreeze(parts)
        self.sums.retire()
        self.sums = GradientSum(self.parameters())

    def backward(self, batch: Batch) -> tuple[torch.Tensor, int]:
        """Add the gradients of a batch; returns its loss and its number of distinct captions."""
        first, places = distinct_captions(batch["input_ids"], batch["attention_mask"])
        replays: list[Replay] = []
        loss = self._forward(batch, first, places, replays)
        if not replays:  # otherwise gradients are complete only after the last replay
            self.sums.expect()
        loss.backward()
        for replay in replays:
            replay()
        self.sums.finish()
        return sum_in_place(loss.detach()), len(first)

    def _forward(
        self, batch: Batch, first: torch.Tensor, places: torch.Tensor, replays: list[Replay]
    ) -> torch.Tensor:
        """Loss of this process; `first` and `places` as in `distinct_captions`."""
        model, device = self.model, self.model.device
        audio = self.encoder.audio(batch, replays)
        text = self.encoder.text(batch["input_ids"][first], batch["attention_mask"][first], replays)
        matches = tuple(pairs.to(device, non_blocking=True) for pairs in self._matches(batch))
        places = places.to(device, non_blocking=True)
        with self.encoder.autocast():
            audio = model.project("audio", audio)
            # Unlike that of `index_select`, the gradient of `embedding` is deterministic on a GPU.
            text = model.project("text", F.embedding(places, text))
        loss = self.objective(audio, text, model.logit_scale, matches)
        if self.class_prompts is not None:
            loss = loss + self._class_prompt_loss(audio, batch, replays)
        if self.alignment is not None:
            every = gather(audio, len(batch["row"]))  # each adds its share
            term = self.alignment(every, batch["row"])
            loss = loss + self.alignment_weight * term / world_size()
        return loss

    def _class_prompt_loss(
        self, audio: torch.Tensor, batch: Batch, replays: list[Replay]
    ) -> torch.Tensor:
        """Weighted class-prompt loss of the clips of this process."""
        prompts = self.class_prompts
        texts = self.encoder.text(prompts.input_ids, prompts.attention_mask, replays)
        with self.encoder.autocast():
            texts = self.model.project("text", texts)
        rows = [batch["row"][place] for place in batch["own"]]
        loss = prompts.loss(audio, texts, self.model.logit_scale, rows)
        return self.class_prompt_weight * loss / len(batch["row"])

    def _matches(self, batch: Batch) -> Matches:
        if self.positives == "matching":
            return batch["matches"]
        own = torch.eye(len(batch["row"]))[batch["own"]]
        return own, own

    def clip(self) -> torch.Tensor:
        """Clip the norm of all gradients; returns the norm before clipping."""
        trained = [parameter for parameter in self._parameters if parameter.grad is not None]
        norm = nn.utils.get_total_norm([parameter.grad for parameter in trained])
        if self.clip_norm:
            nn.utils.clip_grads_with_norm_(trained, self.clip_norm, norm)
        return norm
