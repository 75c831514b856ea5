"""Closed-set classifiers on the functionals.

The scaler is fitted to the training speakers; C is chosen on the validation speakers.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from sklearn.base import ClassifierMixin
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
BASELINES: dict[str, Callable[[float], ClassifierMixin]] = {
    "logistic regression": lambda c: LogisticRegression(
        C=c, class_weight="balanced", max_iter=1000
    ),
    "linear SVM": lambda c: LinearSVC(C=c, class_weight="balanced", random_state=0),
}
Examples = tuple[pd.DataFrame, pd.Series]
"""Functionals and classes."""


def fit(name: str, train: Examples, validation: Examples) -> Pipeline:
    """Fit one of `BASELINES`; C maximises the UAR on the validation speakers."""
    fitted = [
        make_pipeline(SimpleImputer(), StandardScaler(), BASELINES[name](c)).fit(*train)
        for c in STRENGTHS
    ]
    scores = [balanced_accuracy_score(validation[1], m.predict(validation[0])) for m in fitted]
    return fitted[int(np.argmax(scores))]


def predict(model: Pipeline, functionals: pd.DataFrame, classes: Sequence[str]) -> np.ndarray:
    """Return the most probable class of each clip, among given classes known from training."""
    known = np.isin(model.classes_, classes)
    scores = model.decision_function(functionals)[:, known]
    return model.classes_[known][scores.argmax(axis=1)]
