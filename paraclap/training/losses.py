"""Losses of a batch: contrastive cross entropy and the sigmoid loss, distributed over processes.

Each process computes the terms of its own clips and captions against those of all processes; the
sum over processes is the loss of the whole batch. A process holds only its own rows of the (B, B)
logits, and of a large batch only some of them at a time.

Letters: b clips and captions of this process, B of all processes, D embedding size.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from paraclap.distributed import gather
from paraclap.model.modeling_paraclap import scaled_cosines

LOGITS_AT_ONCE = 2**24  # of one direction; 64 MiB in float32
SIGMOID_BIAS = -10.0  # Zhai et al. 2023, section 3.1: most pairs do not match

Matches = tuple[torch.Tensor, torch.Tensor]
"""(b, B) local clips against all captions, and (b, B) local captions against all clips.

Values are those of `match_matrix`: 1 is a match and lower values are not; NaN marks unknown pairs,
which the losses ignore.
"""


class ContrastiveLoss(nn.Module):
    """Symmetric cross entropy over the batch, `modeling_paraclap.clip_loss` by local rows."""

    def forward(
        self,
        audio: torch.Tensor,
        text: torch.Tensor,
        logit_scale: torch.Tensor,
        matches: Matches,
    ) -> torch.Tensor:
        """Terms of the loss of this process, scalar.

        Args:
            audio: unit embeddings of local clips (b, D).
            text: unit embeddings of local captions (b, D).
            logit_scale: logarithm of the factor on the cosines.
            matches: of local clips and captions.

        Raises:
            ValueError: on a CPU, if a clip or a caption has no match.
        """
        total = matches[0].shape[1]
        all_audio, all_text = gather(audio, total), gather(text, total)
        terms = [
            _by_rows(_cross_entropy, audio, all_text, logit_scale, matches[0]),
            _by_rows(_cross_entropy, text, all_audio, logit_scale, matches[1]),
        ]
        return (terms[0] + terms[1]) / (2 * total)


class SigmoidLoss(nn.Module):
    """Binary cross entropy of each pair (Zhai et al. 2023, "Sigmoid loss for language image ...").

    Attributes:
        bias: learned, added to every logit; not needed after training.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(SIGMOID_BIAS))

    def forward(
        self,
        audio: torch.Tensor,
        text: torch.Tensor,
        logit_scale: torch.Tensor,
        matches: Matches,
    ) -> torch.Tensor:
        """Terms of the loss of this process; arguments as in `ContrastiveLoss`."""
        total = matches[0].shape[1]
        all_text = gather(text, total)
        return _by_rows(self._binary, audio, all_text, logit_scale, matches[0]) / total

    def _binary(self, logits: torch.Tensor, matches: torch.Tensor) -> torch.Tensor:
        signs = 2 * (matches == 1).to(logits.dtype) - 1
        terms = F.logsigmoid(signs * (logits + self.bias))
        return -terms.masked_fill(matches.isnan(), 0).sum()


LOSSES: dict[str, type[nn.Module]] = {"contrastive": ContrastiveLoss, "sigmoid": SigmoidLoss}


def _cross_entropy(logits: torch.Tensor, matches: torch.Tensor) -> torch.Tensor:
    is_match = matches == 1
    targets = is_match.to(logits.dtype) / is_match.sum(dim=1, keepdim=True)
    # Not minus infinity, whose product with a target of 0 is NaN.
    logits = logits.masked_fill(matches.isnan(), torch.finfo(logits.dtype).min)
    return F.cross_entropy(logits, targets, reduction="sum")


def _by_rows(
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    local: torch.Tensor,
    every: torch.Tensor,
    logit_scale: torch.Tensor,
    matches: torch.Tensor,
) -> torch.Tensor:
    """Sum a loss over local rows, at most `LOGITS_AT_ONCE` logits at a time."""

    def part(local: torch.Tensor, matches: torch.Tensor) -> torch.Tensor:
        logits = scaled_cosines(local, every, logit_scale)
        return loss(logits, matches.to(logits.dtype))

    # Collated matches include those of each clip with its own caption; a GPU would wait here.
    if matches.device.type == "cpu" and not bool((matches == 1).any(dim=1).all()):
        raise ValueError("every clip and every caption needs at least one match")
    rows = max(1, LOGITS_AT_ONCE // len(every))
    if len(local) <= rows:
        return part(local, matches)
    parts = [
        checkpoint(part, some, known, use_reentrant=False)
        for some, known in zip(local.split(rows), matches.split(rows), strict=True)
    ]
    return torch.stack(parts).sum()
