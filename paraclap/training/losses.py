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

from paraclap.distributed import gather
from paraclap.model.modeling_paraclap import scaled_cosines

LOGITS_AT_ONCE = 2**24  # of one direction; 64 MiB in float32
SIGMOID_BIAS = -10.0  # Zhai et al. 2023, section 3.1: most pairs do not match

Matches = tuple[torch.Tensor, torch.Tensor]
"""(b, B) how far captions are true of own clips, (b, B) how far own captions are true of clips.

As `match_matrix` has it: 1 is true, a pair of less is not, and of NaN nothing is known; such a pair
has no part in a loss.
"""


class ContrastiveLoss(nn.Module):
    """Symmetric cross entropy over the batch, `models.clip_loss` in shares.

    Attributes:
        graded: share of each target distribution that goes to all known pairs, by how far they
            agree; the rest is for those that are true alone.
        graded_temperature: of the softmax over agreements that spreads this share.
        hard_negatives: how much more negatives count that are similar (beta in Robinson et al.
            2021, "Contrastive learning with hard negative samples", section 3): by the exponential
            of this times the cosine; those of a row weigh as many as they are.
    """

    def __init__(
        self, graded: float = 0.0, graded_temperature: float = 0.2, hard_negatives: float = 0.0
    ) -> None:
        super().__init__()
        if not 0 <= graded <= 1:
            raise ValueError(f"loss.graded is {graded}, expected a share from 0 to 1")
        if graded_temperature <= 0:
            raise ValueError(
                f"loss.graded_temperature is {graded_temperature}, expected more than 0"
            )
        if hard_negatives < 0:
            raise ValueError(f"loss.hard_negatives is {hard_negatives}, expected 0 or more")
        self.graded = graded
        self.graded_temperature = graded_temperature
        self.hard_negatives = hard_negatives

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
            _in_rows(self._cross_entropy, audio, every_text, logit_scale, matches[0]),
            _in_rows(self._cross_entropy, text, every_audio, logit_scale, matches[1]),
        ]
        return (terms[0] + terms[1]) / (2 * total)

    def _cross_entropy(
        self, logits: torch.Tensor, scale: torch.Tensor, matches: torch.Tensor
    ) -> torch.Tensor:
        true, unknown = matches == 1, matches.isnan()
        targets = true.to(logits.dtype) / true.sum(dim=1, keepdim=True)
        if self.graded:
            alike = _left_out(matches / self.graded_temperature, unknown).softmax(dim=1)
            targets = (1 - self.graded) * targets + self.graded * alike
        if self.hard_negatives:
            cosines = logits.detach() / scale.detach()
            logits = logits + _log_weights(self.hard_negatives * cosines, true | unknown)
        return F.cross_entropy(_left_out(logits, unknown), targets, reduction="sum")


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

    def _binary(
        self, logits: torch.Tensor, scale: torch.Tensor, matches: torch.Tensor
    ) -> torch.Tensor:
        signs = 2 * (matches == 1).to(logits.dtype) - 1
        terms = F.logsigmoid(signs * (logits + self.bias))
        return -terms.masked_fill(matches.isnan(), 0).sum()


OBJECTIVES: dict[str, type[nn.Module]] = {
    "contrastive": ContrastiveLoss,
    "sigmoid": SigmoidLoss,
}


def _left_out(logits: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Logits that a softmax gives nothing to; not minus infinity, whose product with 0 is NaN."""
    return logits.masked_fill(where, torch.finfo(logits.dtype).min)


def _log_weights(exponents: torch.Tensor, spared: torch.Tensor) -> torch.Tensor:
    """Logarithms of weights as exp(exponents), on average 1 in each row; 0 where spared."""
    counts = (~spared).sum(dim=1, keepdim=True).to(exponents.dtype)
    weighed = exponents.masked_fill(spared, -torch.inf)
    weights = weighed - weighed.logsumexp(dim=1, keepdim=True) + counts.log()
    return weights.masked_fill(spared, 0)


def _in_rows(
    loss: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    own: torch.Tensor,
    every: torch.Tensor,
    logit_scale: torch.Tensor,
    matches: torch.Tensor,
) -> torch.Tensor:
    """Sum a loss over own rows, as many at a time as memory should hold."""

    def part(own: torch.Tensor, every: torch.Tensor, matches: torch.Tensor) -> torch.Tensor:
        logits = scaled_cosines(own, every, logit_scale)
        return loss(logits, logit_scale.exp(), matches.to(logits.dtype))

    if not bool((matches == 1).any(dim=1).all()):
        raise ValueError("every clip and every caption needs at least one match")
    rows = max(1, LOGITS_AT_ONCE // len(every))
    if len(own) <= rows:
        return part(own, every, matches)
    parts = [
        checkpoint(part, some, every, true, use_reentrant=False)
        for some, true in zip(own.split(rows), matches.split(rows), strict=True)
    ]
    return torch.stack(parts).sum()
