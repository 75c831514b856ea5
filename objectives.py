"""What is learned from a batch: contrastive cross entropy, or the sigmoid loss; in shares.

Every process computes the terms of its own clips and captions against those of all; the sum over
processes is the loss of the whole batch. Of the B x B logits a process holds its own rows, and
where these are many, only some of them at a time.

Letters: b clips and captions of this process, B of all, D embedding size.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from models import scaled_cosines
from processes import gather

LOGITS_AT_ONCE = 2**24  # of one direction; 64 MiB in float32
SIGMOID_BIAS = -10.0  # Zhai et al. 2023, section 3.1: most pairs do not match

Matches = tuple[torch.Tensor, torch.Tensor]
"""(b, B) captions true of own clips, (b, B) clips that own captions are true of; 1 where true."""


class ContrastiveLoss(nn.Module):
    """Symmetric cross entropy over the batch, `models.clip_loss` in shares."""

    def forward(
        self,
        audio: torch.Tensor,
        text: torch.Tensor,
        logit_scale: torch.Tensor,
        matches: Matches,
    ) -> torch.Tensor:
        """Own terms of the loss.

        Args:
            audio: unit embeddings of own clips (b, D).
            text: of own captions (b, D).
            logit_scale: logarithm of the factor on the cosines.
            matches: of own clips and captions.

        Raises:
            ValueError: if a clip or a caption has no match.
        """
        total = matches[0].shape[1]
        every_audio, every_text = gather(audio, total), gather(text, total)
        terms = [
            _in_rows(_cross_entropy, audio, every_text, logit_scale, matches[0]),
            _in_rows(_cross_entropy, text, every_audio, logit_scale, matches[1]),
        ]
        return (terms[0] + terms[1]) / (2 * total)


class SigmoidLoss(nn.Module):
    """Each pair alone is true or not (Zhai et al. 2023, "Sigmoid loss for language image ...").

    Attributes:
        bias: added to every logit; learned, and needed in training alone.
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
        """Own terms of the loss; arguments as in `ContrastiveLoss`, only `matches[0]` is read."""
        total = matches[0].shape[1]
        every_text = gather(text, total)
        terms = _in_rows(self._binary, audio, every_text, logit_scale, matches[0])
        return terms / total

    def _binary(self, logits: torch.Tensor, matches: torch.Tensor) -> torch.Tensor:
        return -F.logsigmoid((2 * matches - 1) * (logits + self.bias)).sum()


OBJECTIVES: dict[str, type[nn.Module]] = {
    "contrastive": ContrastiveLoss,
    "sigmoid": SigmoidLoss,
}


def _cross_entropy(logits: torch.Tensor, matches: torch.Tensor) -> torch.Tensor:
    weights = matches / matches.sum(dim=1, keepdim=True)
    return F.cross_entropy(logits, weights, reduction="sum")


def _in_rows(
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    own: torch.Tensor,
    every: torch.Tensor,
    logit_scale: torch.Tensor,
    matches: torch.Tensor,
) -> torch.Tensor:
    """Sum a loss over own rows, as many at a time as memory should hold."""

    def part(own: torch.Tensor, every: torch.Tensor, matches: torch.Tensor) -> torch.Tensor:
        logits = scaled_cosines(own, every, logit_scale)
        return loss(logits, matches.to(logits.dtype))

    if not bool((matches.sum(dim=1) > 0).all()):
        raise ValueError("every clip and every caption needs at least one match")
    rows = max(1, LOGITS_AT_ONCE // len(every))
    if len(own) <= rows:
        return part(own, every, matches)
    parts = [
        checkpoint(part, some, every, true, use_reentrant=False)
        for some, true in zip(own.split(rows), matches.split(rows), strict=True)
    ]
    return torch.stack(parts).sum()
