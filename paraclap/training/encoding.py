"""Encoders in a training step: frozen or trained, the whole batch or micro-batches.

Frozen encoders run as in `frozen`. With `micro_batch`, a trained encoder processes a few rows at a
time (Gao et al. 2021, "Scaling deep contrastive learning batch size under memory limited setup"):
first without a graph, then again with one, from the same random state, once the loss of the whole
batch has given the gradient of its output. Memory limits the micro-batch and not the batch.

Letters: B clips of a batch, b those of this process, K distinct captions of them, N training clips,
T samples, L tokens, H pooled values of a row.
"""

import bisect
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
import transformers

from paraclap.model.frozen import EmbeddingCache, FrozenEncoder
from paraclap.model.modeling_paraclap import ParaCLAPModel, mel_frames
from paraclap.training.optim import drawing_from, random_state

BRANCHES = ("audio", "text")
MIB = 2**20
LONGEST_MASK = 2**24  # samples, a quarter of an hour

Batch = Mapping[str, Any]
"""Output of `data.dataset.Collate`: input_values and padding_mask (b, T), input_ids and
attention_mask (b, L), matches twice (b, B), and lists. Without audio, clips are given by `row`."""

Replay = Callable[[], None]
"""Second pass through an encoder, which adds its gradients after the backward pass of the loss."""


class BatchEncoder:
    """Pooled outputs of both encoders for the clips and captions of a batch.

    Attributes:
        model: model in training mode, on its device.
        bfloat16: whether encoders run under bfloat16 autocast.
        micro_batch: rows that a trained encoder processes at a time; 0 = the whole batch.
        frozen: frozen encoders by branch.
        captions: cached captions of a frozen text encoder; None = the encoder is trained.
        clips: (N, H), precomputed embeddings of all clips; None = batches contain audio.
    """

    def __init__(
        self,
        model: ParaCLAPModel,
        bfloat16: bool = False,
        micro_batch: int = 0,
        text_cache: int = 256,
    ) -> None:
        self.model = model
        self.bfloat16 = bfloat16
        self.micro_batch = micro_batch
        self.clips: torch.Tensor | None = None
        self.frozen = {
            branch: FrozenEncoder(model, branch, bfloat16)
            for branch in BRANCHES
            if branch in model.frozen
        }
        self.captions: EmbeddingCache | None = None
        if "text" in self.frozen:
            self.captions = EmbeddingCache(self.frozen["text"], text_cache * MIB)

    def unfreeze(self, parts: Collection[str]) -> None:
        """Train these parts of the model from now on, and drop what was computed with them."""
        still = [part for part in self.model.frozen if part not in parts]
        self.model.unfreeze()
        self.model.freeze(still)
        for branch in set(BRANCHES) - set(still):
            self.frozen.pop(branch, None)
        if "audio" not in still:
            self.clips = None
        if "text" not in still:
            self.captions = None

    def audio(self, batch: Batch, replays: list[Replay]) -> torch.Tensor:
        """Encode the clips of this process (b, H); passes to repeat are added to `replays`."""
        if self.clips is not None:
            rows = [batch["row"][place] for place in batch["own"]]
            return self.clips[rows].to(self.model.device, non_blocking=True)
        values, mask = batch["input_values"], batch["padding_mask"]
        if "audio" in self.frozen:
            return self.frozen["audio"](values, mask)
        return self._trained("audio", values, mask, replays)

    def text(
        self, input_ids: torch.Tensor, mask: torch.Tensor, replays: list[Replay]
    ) -> torch.Tensor:
        """Encode distinct captions (K, L): (K, H)."""
        if self.captions is not None:
            return self.captions(token_keys(input_ids, mask), input_ids, mask)
        lengths = mask.sum(dim=1)
        order = lengths.argsort(stable=True)  # micro-batches of captions of similar length
        encoded = self._trained("text", input_ids[order], mask[order], replays)
        return encoded.index_select(0, order.argsort().to(encoded.device))

    def _trained(
        self, branch: str, inputs: torch.Tensor, mask: torch.Tensor, replays: list[Replay]
    ) -> torch.Tensor:
        """Encode rows so that the backward pass, then the replays, reach the encoder."""
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
        """Encode rows in at least float32, without columns of padding alone in text."""
        device = self.model.device
        if branch == "text":
            longest = int(mask.sum(dim=1).max())
            inputs, mask = inputs[:, :longest], mask[:, :longest]
        is_full = bool(mask.all())  # on the CPU, where it does not synchronise the device
        inputs = inputs.to(device, non_blocking=True)
        masks = None if is_full else mask.to(device, non_blocking=True)
        with self.autocast():
            return self.model.pool(branch, inputs, masks)

    def autocast(self) -> torch.autocast:
        """Return the context of encoders and projections."""
        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.bfloat16)


def distinct_captions(
    input_ids: torch.Tensor, attention_mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first rows of the K distinct captions, and the number of the caption of each row.

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
    """Return the tokens of each caption as bytes, without padding."""
    rows = zip(input_ids.numpy(), attention_mask.bool().numpy(), strict=True)
    return [tokens[mask].tobytes() for tokens, mask in rows]


def prepare_encoders(
    model: ParaCLAPModel, checkpoint_activations: bool = False, compiled: bool = False
) -> None:
    """Set up activation checkpointing and compilation, which change outputs by rounding only.

    Args:
        model: on its device, with its frozen parts.
        checkpoint_activations: keep only the inputs of each layer, and compute the rest again in
            the backward pass.
        compiled: compile the transformers with torch.compile, on first use.
    """
    for branch in BRANCHES:
        base = model.get_submodule(f"{branch}_branch.base")
        if checkpoint_activations and branch not in model.frozen:
            base.activation_checkpointing_enable({"use_reentrant": False})
        if compiled:
            # Not the whole model: compilation gives unused weights, as those of a pooler, gradients
            # of zero, so that the optimiser would apply weight decay to them.
            getattr(base, "encoder", base).compile(dynamic=True)


def shortest_masked(
    encoder: transformers.PreTrainedModel, mel: Mapping[str, Any] | None = None
) -> int:
    """Return the number of samples that SpecAugment needs to mask frames; 0 without SpecAugment.

    Encoders of transformers refuse a batch whose clips, padding included, are shorter than
    `mask_time_length` frames.

    Args:
        encoder: audio encoder.
        mel: settings of a log-mel front end; None = the encoder reads waveforms.
    """
    config = encoder.config
    if not (getattr(config, "apply_spec_augment", False) and config.mask_time_prob > 0):
        return 0

    def frames(samples: int) -> int:
        if mel is not None:
            samples = max(0, mel_frames(samples, mel))
        return int(encoder._get_feat_extract_output_lengths(torch.tensor([samples])))

    return bisect.bisect_left(range(LONGEST_MASK), config.mask_time_length, key=frames)
