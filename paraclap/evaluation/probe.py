"""What the audio tower knows: a linear classifier of its embeddings, tested on other speakers.

A zero-shot score depends on the prompt as much as on the audio side. If a linear probe, which sees
labels, does well where the prompt does badly, the voice is understood and the words are not.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from paraclap.evaluation.metrics import score

FOLDS = 5
ITERATIONS = 2000


def probe(embeddings: np.ndarray, truth: Sequence[str], speakers: Sequence[str]) -> dict[str, Any]:
    """Score logistic regression on embeddings (B, D), cross-validated over speakers.

    Every clip is classified by a model that heard none of its speaker; standardisation is fitted
    within the fold. Classes weigh the same, and the strength of the regularisation is fixed (C = 1
    on standardised embeddings), so nothing is chosen on the clips that are scored.

    Args:
        embeddings: of the clips (B, D).
        truth: classes (B,).
        speakers: of the clips (B,).

    Returns:
        Figures of `scoring.score`, and the number of `folds`.

    Raises:
        ValueError: if there are not two speakers and two classes, also without the speakers of any
            one fold.
    """
    truth, speakers = np.asarray(truth, dtype=object), np.asarray(speakers, dtype=object)
    groups = np.unique(speakers.astype(str), return_inverse=True)[1]
    counts = len(set(groups)), len(set(truth))
    if min(counts) < 2:
        raise ValueError(f"a probe needs two speakers and two classes, got {counts}")
    folds = min(FOLDS, counts[0])
    classifier = make_pipeline(
        StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=ITERATIONS)
    )
    splits = _splits(truth.astype(str), groups, folds)
    prediction = cross_val_predict(classifier, embeddings, truth.astype(str), cv=splits)
    return {**score(truth, prediction, speakers), "folds": folds}


def _splits(truth: np.ndarray, groups: np.ndarray, folds: int) -> list[tuple[np.ndarray, ...]]:
    """Clips to fit to and clips to classify, of each fold; no speaker is in both."""
    largest = np.unique(truth, return_counts=True)[1].max()
    if largest < folds:
        raise ValueError(
            f"a probe of {folds} folds needs a class of {folds} clips, the largest has {largest}"
        )
    folding = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
    splits = list(folding.split(truth, truth, groups))
    for fitted, _ in splits:
        if len(set(truth[fitted])) < 2:
            raise ValueError(
                f"a probe needs two classes in what it is fitted to: without the speakers of one "
                f"fold, all clips are {str(truth[fitted][0])!r}. Do speakers have one class each?"
            )
    return splits
