"""Alignment of corpora: audio embeddings of all corpora get the same mean and covariance.

    alignment = CorpusAlignment(table["corpus"])
    loss = alignment(audio, rows)

What differs between corpora (microphone, language, level of acting) is no emotion. Without this
loss, a model that was trained on few corpora also learns to distinguish them (Sun and Saenko 2016,
"Deep CORAL: correlation alignment for deep domain adaptation").

Letters: N training clips, B clips of a batch, C corpora in it, D embedding size.
"""

import itertools
from collections.abc import Sequence

import pandas as pd
import torch

COVARIANCE = 64.0
"""Weight of the covariances, whose entries are small: unit embeddings have a variance of 1 / D."""


class CorpusAlignment:
    """Squared distances of the means and covariances of the corpora of a batch.

    Attributes:
        corpora: number of the corpus of each clip (N,).
    """

    def __init__(self, corpora: Sequence[str]) -> None:
        """Number the corpora; `corpora` has the name for each clip."""
        self.corpora = torch.from_numpy(pd.factorize(pd.Series(corpora))[0])

    def __call__(self, audio: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        """Return the mean over pairs of corpora, scalar; 0 if fewer than two have two clips.

        Args:
            audio: unit embeddings (B, D).
            rows: of the clips in the table (B,).
        """
        audio = audio.to(torch.promote_types(audio.dtype, torch.float32))
        corpora = self.corpora[torch.as_tensor(rows)]  # on the CPU: the device does not wait
        places = [(corpora == number).nonzero().flatten() for number in corpora.unique()]
        parts = [
            audio.index_select(0, place.to(audio.device, non_blocking=True))
            for place in places
            if len(place) > 1
        ]
        moments = [(part.mean(dim=0), part.T.cov()) for part in parts]
        distances = [
            (means[0] - means[1]).square().sum()
            + COVARIANCE * (covariances[0] - covariances[1]).square().sum()
            for means, covariances in (
                zip(*pair, strict=True) for pair in itertools.combinations(moments, 2)
            )
        ]
        return torch.stack(distances).mean() if distances else audio.sum() * 0
