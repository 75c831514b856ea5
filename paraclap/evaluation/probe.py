"""Closed-set scores: logistic regression on embeddings or features, speakers apart."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from paraclap.errors import ParaCLAPError
from paraclap.evaluation.bootstrap import label_codes
from paraclap.evaluation.folds import stratified_folds
from paraclap.evaluation.metrics import score

FOLDS = 5
ITERATIONS = 2000


class ProbeError(ParaCLAPError, ValueError):
    """The clips have too few speakers or classes for a probe."""


def probe(inputs: np.ndarray, truth: Sequence[str], speakers: Sequence[str]) -> dict[str, Any]:
    """Score logistic regression on embeddings or features, cross-validated over speakers.

    Clips of unknown speakers are excluded: they could be of a speaker of both parts of a fold.

    Training and test speakers of a fold are disjoint, and standardisation is fitted within the
    fold, as are the means that replace undefined features (NaN). Classes are weighted equally, and
    the regularisation is fixed (C = 1 on standardised inputs), so nothing is tuned on the test
    clips.

    Clips have embeddings or features (B, D), classes (B,) and speakers (B,).

    Returns:
        Scores of `metrics.score`, and the number of `folds`.

    Raises:
        ProbeError: see `probe_folds`.
    """
    known = pd.notna(np.asarray(speakers, dtype=object))
    truth, speakers = np.asarray(truth).astype(str)[known], np.asarray(speakers)[known]
    folds = probe_folds(truth, speakers)
    classifier = make_pipeline(
        SimpleImputer(keep_empty_features=True),
        StandardScaler(),
        LogisticRegression(class_weight="balanced", max_iter=ITERATIONS),
    )
    prediction = cross_val_predict(classifier, inputs[known], truth, cv=folds)
    return {**score(truth, prediction, speakers), "folds": len(folds)}


def probe_folds(truth: np.ndarray, speakers: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the training and test rows of each fold, for the classes and speakers of clips (B,).

    Raises:
        ProbeError: if there are fewer than two speakers or two classes, also in the training part
            of a fold, or no class with a clip for each fold.
    """
    groups = label_codes(speakers)
    labels, sizes = np.unique(truth, return_counts=True)
    counts = len(set(groups)), len(labels)
    if min(counts) < 2:
        raise ProbeError(
            f"a probe needs two speakers and two classes, given {counts[0]} and {counts[1]}"
        )
    folds, largest = min(FOLDS, counts[0]), sizes.max()
    if largest < folds:
        raise ProbeError(
            f"a probe of {folds} folds needs a class of {folds} clips, the largest has {largest}"
        )
    splits = stratified_folds(truth, speakers, folds)
    for fitted, _ in splits:
        if len(set(truth[fitted])) < 2:
            raise ProbeError(
                "a probe needs two classes in the training part of each fold: without the speakers "
                f"of one fold, all clips are {str(truth[fitted][0])!r}. Do speakers have one class "
                "each?"
            )
    return splits
