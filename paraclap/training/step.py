"""Forward and backward of one training step: from a batch to gradients.

    step = TrainingStep(model, objective, positives="matching", bfloat16=False)
    gradients = step(batch)                  # of datasets.Collate; .loss, .norm
    optimizer.step()                         # if both are finite

A step reads a batch, leaves gradients on the parameters of model and objective, and changes
nothing else: learning rates, what to do with a step that is not finite, and the optimiser are the
caller's. Several processes take a share of the batch each, and all have loss and gradients of the
whole.

Captions that a batch holds several times pass the text encoder once. Frozen encoders run as in
frozen.py. With `micro_batch`, an encoder that learns sees a few rows at a time (Gao et al. 2021,
"Scaling deep contrastive learning batch size under memory limited setup"): first without a graph,
and when the loss of the whole batch has told the gradient of what it said, again with one, from the
same random numbers. So memory bounds the micro-batch, and never the batch of the loss.

Letters: B clips of a batch, b those of this process, K distinct captions of them, T samples, L
tokens, H hidden size of a tower, D embedding.
"""

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from paraclap.distributed import GradientSum, sum_in_place
from paraclap.model.modeling_paraclap import ParaCLAPModel
from paraclap.training.class_prompts import ClassPrompts
from paraclap.training.frozen import FrozenEncoder, RememberedRows
from paraclap.training.losses import Matches
from paraclap.training.optim import drawing_from, random_state

BRANCHES = ("audio", "text")
MIB = 2**20
Batch = Mapping[str, Any]
"""What `datasets.Collate` returns: input_values and padding_mask (b, T), input_ids and
attention_mask (b, L), matches twice (b, B), and lists. Without audio, `row` is looked up."""
Replay = Callable[[], None]


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
        model: in training mode, on its device; what is frozen changes by `unfreeze` alone.
        objective: of objectives.py: (audio (b, D), text (b, D), logit_scale, matches) -> scalar.
        positives: "matching" or "own", see `settings.LossSettings`.
        bfloat16: whether encoders and projections run under autocast.
        clip_norm: largest norm of the gradients; 0 = no limit.
        micro_batch: rows that an encoder which learns sees at a time; 0 = the whole batch.
        text_cache: MiB of captions that a frozen text encoder need not see again.
        class_prompts: classes that clips are also told apart by; None = they are not.
        class_prompt_weight: of that loss.
        clips: (N, H), what a frozen audio encoder says of each clip, see `frozen.encode_clips`;
            None = batches hold waveforms.
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
    ) -> None:
        if micro_batch < 0:
            raise ValueError(f"micro_batch is {micro_batch}, expected rows, or 0 for the batch")
        self.model = model
        self.objective = objective
        self.positives = positives
        self.bfloat16 = bfloat16
        self.clip_norm = clip_norm
        self.sums = GradientSum(self.parameters())
        self.micro_batch = micro_batch
        self.class_prompts = class_prompts
        self.class_prompt_weight = class_prompt_weight
        self.clips: torch.Tensor | None = None
        self.frozen = {
            branch: FrozenEncoder(model, branch, bfloat16)
            for branch in BRANCHES
            if branch in model.frozen
        }
        self.captions = (
            RememberedRows(self.frozen["text"], text_cache * MIB) if "text" in self.frozen else None
        )

    def __call__(self, batch: Batch) -> Gradients:
        """Replace the gradients by those of a batch, clipped to `clip_norm`."""
        for parameter in self.parameters():
            parameter.grad = None
        loss, distinct = self.backward(batch)
        return Gradients(loss, self.clip(), distinct)

    def unfreeze(self, parts: Collection[str]) -> None:
        """Let parts of the model learn from now on, and forget what they said while frozen."""
        still = [part for part in self.model.frozen if part not in parts]
        self.model.unfreeze()
        self.model.freeze(still)
        for branch in set(BRANCHES) - set(still):
            self.frozen.pop(branch, None)
        if "audio" not in still:
            self.clips = None
        if "text" not in still:
            self.captions = None
        self.sums.retire()
        self.sums = GradientSum(self.parameters())

    def parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of model and objective, frozen ones included."""
        return itertools.chain(self.model.parameters(), self.objective.parameters())

    def clip(self) -> torch.Tensor:
        """Limit the norm of all gradients; returns what it was."""
        learned = [parameter for parameter in self.parameters() if parameter.grad is not None]
        norm = nn.utils.get_total_norm([parameter.grad for parameter in learned])
        if self.clip_norm:
            nn.utils.clip_grads_with_norm_(learned, self.clip_norm, norm)
        return norm

    def backward(self, batch: Batch) -> tuple[torch.Tensor, int]:
        """Add the gradients of a batch; returns its loss and its number of distinct captions."""
        model, device = self.model, self.model.device
        first, places = distinct_captions(batch["input_ids"], batch["attention_mask"])
        replays: list[Replay] = []
        audio = self._audio(batch, replays)
        text = self._text(batch["input_ids"][first], batch["attention_mask"][first], replays)
        matches = tuple(pairs.to(device, non_blocking=True) for pairs in self.targets(batch))
        places = places.to(device, non_blocking=True)
        with self._autocast():
            audio = model.project("audio", audio)
            text = model.project("text", text.index_select(0, places))
        loss = self.objective(audio, text, model.logit_scale, matches)
        if self.class_prompts is not None:
            loss = loss + self._classified(audio, batch, replays)
        if not replays:  # otherwise gradients are complete only after the last of them
            self.sums.expect()
        loss.backward()
        for replay in replays:
            replay()
        self.sums.finish()
        return sum_in_place(loss.detach()), len(first)

    def _classified(self, audio: torch.Tensor, batch: Batch, replays: list[Replay]) -> torch.Tensor:
        """Own terms of the loss of the class_prompts."""
        known = self.class_prompts
        texts = self._text(known.input_ids, known.attention_mask, replays)
        with self._autocast():
            texts = self.model.project("text", texts)
        rows = [batch["row"][place] for place in batch["own"]]
        loss = known.loss(audio, texts, self.model.logit_scale, rows)
        return self.class_prompt_weight * loss / len(batch["row"])

    def targets(self, batch: Batch) -> Matches:
        """Pairs that count as true."""
        if self.positives == "matching":
            return batch["matches"]
        own = torch.eye(len(batch["row"]))[batch["own"]]
        return own, own

    def _audio(self, batch: Batch, replays: list[Replay]) -> torch.Tensor:
        """What the speech encoder says of own clips (b, H)."""
        if self.clips is not None:
            rows = [batch["row"][place] for place in batch["own"]]
            return self.clips[rows].to(self.model.device, non_blocking=True)
        values, mask = batch["input_values"], batch["padding_mask"]
        if "audio" in self.frozen:
            return self.frozen["audio"](values, mask)
        return self._learning("audio", values, mask, replays)

    def _text(
        self, input_ids: torch.Tensor, mask: torch.Tensor, replays: list[Replay]
    ) -> torch.Tensor:
        """What the text encoder says of distinct captions (K, L): (K, H)."""
        if self.captions is not None:
            return self.captions(token_keys(input_ids, mask), input_ids, mask)
        lengths = mask.sum(dim=1)
        order = lengths.argsort(stable=True)  # so that micro-batches hold captions of one length
        encoded = self._learning("text", input_ids[order], mask[order], replays)
        return encoded.index_select(0, order.argsort().to(encoded.device))

    def _learning(
        self, branch: str, inputs: torch.Tensor, mask: torch.Tensor, replays: list[Replay]
    ) -> torch.Tensor:
        """Encode rows so that `loss.backward`, and then the replays, reach the encoder."""
        size = self.micro_batch or len(inputs)
        parts = list(zip(inputs.split(size), mask.split(size), strict=True))
        if len(parts) == 1:
            return self._encode(branch, *parts[0])
        states, encoded = [], []
        with torch.no_grad():
            for part in parts:
                states.append(random_state(self.model.device))
                encoded.append(self._encode(branch, *part))
        whole = torch.cat(encoded).requires_grad_()

        def replay() -> None:
            for part, state, gradient in zip(parts, states, whole.grad.split(size), strict=True):
                with drawing_from(state):
                    self._encode(branch, *part).backward(gradient)

        replays.append(replay)
        return whole

    def _encode(self, branch: str, inputs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Encode rows in at least float32; tokens that are padding in every row are left out."""
        device = self.model.device
        if branch == "text":
            longest = int(mask.sum(dim=1).max())
            inputs, mask = inputs[:, :longest], mask[:, :longest]
        whole = bool(mask.all())  # asked here, where it does not make the device wait
        inputs = inputs.to(device, non_blocking=True)
        masks = None if whole else mask.to(device, non_blocking=True)
        with self._autocast():
            return self.model.pool(branch, inputs, masks)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.bfloat16)


def prepare_encoders(
    model: ParaCLAPModel, checkpoint_activations: bool = False, compiled: bool = False
) -> None:
    """Choose how the encoders run; what they say stays the same up to rounding.

    Args:
        model: on its device, frozen as it will be.
        checkpoint_activations: keep only the inputs of each layer, and compute the rest again in
            the backward pass.
        compiled: translate their transformers by torch.compile, on first use.
    """
    for branch in BRANCHES:
        base = model.get_submodule(f"{branch}_branch.base")
        if checkpoint_activations and branch not in model.frozen:
            base.activation_checkpointing_enable({"use_reentrant": False})
        if compiled:
            # Not all of it: what is compiled gives weights that nothing uses, as those of a pooler,
            # gradients of zero, and the optimiser would let them decay.
            getattr(base, "encoder", base).compile(dynamic=True)


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
