"""Adaptation to recordings without labels: embeddings relative to the mean of a reference.

    reference = reference_of(embeddings, "emodb")
    adapted = reference.centred(embeddings)

The embeddings of a corpus have a component in common, which depends on microphone, room, language
and level, and favours the same prompts for all clips. The mean embedding of unlabelled clips of the
same kind, the reference, is subtracted, and the difference is normalised. The reference should
contain all classes: what all of its clips share is removed, also if it is an emotion or a gender.

Letters: B clips, N reference clips, D embedding size. Importable without torch.
"""

import warnings
from dataclasses import dataclass

import numpy as np

FEWEST_CLIPS = 50
SHORTEST = 1e-6
"""Length below which a difference is rounding; it is not scaled to unit length."""


@dataclass(frozen=True)
class Reference:
    """Mean embedding (D,) of reference clips, float32, and their number."""

    mean: np.ndarray
    clips: int

    def centred(self, embeddings: np.ndarray) -> np.ndarray:
        """Return embeddings (B, D) minus the mean, of unit length.

        An embedding that equals the mean becomes zero.
        """
        differences = embeddings - self.mean
        lengths = np.linalg.norm(differences, axis=-1, keepdims=True)
        return differences / np.maximum(lengths, SHORTEST)


def reference_of(embeddings: np.ndarray, name: str) -> Reference:
    """Return the reference of embeddings (N, D); warns if these are few, naming their source."""
    if len(embeddings) < FEWEST_CLIPS:
        warnings.warn(
            f"{name}: the mean embedding of {len(embeddings)} clips is subtracted, expected at "
            f"least {FEWEST_CLIPS} for a reliable mean",
            stacklevel=2,
        )
    return Reference(embeddings.mean(axis=0, dtype=np.float64).astype(np.float32), len(embeddings))
