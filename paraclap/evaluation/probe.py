"""Linear probe: logistic regression on audio embeddings, cross-validated over speakers.

A zero-shot score depends on the prompts as much as on the audio encoder. A high probe with a low
zero-shot UAR points to the prompts, not to the audio encoder.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from paraclap.errors import ParaCLAPError
from paraclap.evaluation.bootstrap import label_codes
from paraclap.evaluation.metrics import score

FOLDS = 5
ITERATIONS = 2000


class ProbeError(ParaCLAPError, ValueError):
    """The clips have too few speakers or classes for a probe."""


def probe(embeddings: np.ndarray, truth: Sequence[str], speakers: Sequence[str]) -> dict[str, Any]:
    """Score logistic regression on embeddings, cross-validated over speakers.

    Training and test speakers of a fold are disjoint, and standardisation is fitted within the
    fold. Classes are weighted equally, and the regularisation is fixed (C = 1 on standardised
    embeddings), so nothing is tuned on the test clips.

    Args:
        embeddings: of the clips (B, D).
        truth: classes (B,).
        speakers: of the clips (B,).

    Returns:
        Scores of `metrics.score`, and the number of `folds`.

    Raises:
        ProbeError: if there are fewer than two speakers or two classes, also in the training part
            of a fold, or no class with a clip for each fold.
    """
    truth, speakers = np.asarray(truth, dtype=object), np.asarray(speakers, dtype=object)
    groups = label_codes(speakers)
    counts = len(set(groups)), len(set(truth))
    if min(counts) < 2:
        raise ProbeError(
            f"a probe needs two speakers and two classes, given {counts[0]} and {counts[1]}"
        )
    folds = min(FOLDS, counts[0])
    classifier = make_pipeline(
        StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=ITERATIONS)
    )
    splits = _splits(truth.astype(str), groups, folds)
    prediction = cross_val_predict(classifier, embeddings, truth.astype(str), cv=splits)
    return {**score(truth, prediction, speakers), "folds": folds}


def _splits(truth: np.ndarray, groups: np.ndarray, folds: int) -> list[tuple[np.ndarray, ...]]:
    """Return the training and test rows of each fold; no speaker is in both."""
    largest = np.unique(truth, return_counts=True)[1].max()
    if largest < folds:
        raise ProbeError(
            f"a probe of {folds} folds needs a class of {folds} clips, the largest has {largest}"
        )
    folding = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
    splits = list(folding.split(truth, truth, groups))
    for fitted, _ in splits:
        if len(set(truth[fitted])) < 2:
            raise ProbeError(
                "a probe needs two classes in the training part of each fold: without the speakers "
                f"of one fold, all clips are {str(truth[fitted][0])!r}. Do speakers have one class "
                "each?"
            )
    return splits
