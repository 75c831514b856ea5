"""Metrics of zero-shot classification: recalls with intervals over speakers, ranks, calibration.

Letters: B clips, K classes.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats
from sklearn.metrics import accuracy_score, brier_score_loss, f1_score, log_loss, recall_score

from paraclap.evaluation.bootstrap import Interval, Rows, bootstrap, cluster_interval, label_codes

BOOTSTRAP_ELEMENTS = 4_000_000  # limits the memory of the bootstrap of recalls
CALIBRATION_BINS = 15  # as Guo et al., "On calibration of modern neural networks", ICML 2017

# --- Classes -------------------------------------------------------------------------------------


def score(
    truth: Sequence[str],
    prediction: Sequence[str],
    speakers: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    intervals: bool = True,
) -> dict[str, Any]:
    """Score predictions over the classes that occur in `truth`.

    Predictions of other classes count as errors.

    Args:
        truth: classes (B,).
        prediction: classes (B,).
        speakers: of the clips (B,), for the interval; clips of missing speakers, or all clips if
            None, count as speakers of their own.
        groups: of the clips (B,), such as sessions: the UAR is the mean over groups of the UAR of
            the classes that occur in the group; None = one group.
        intervals: whether to compute the interval.

    Returns:
        `UAR`, `interval` (95 %, of the UAR; None for fewer than three speakers), `ACC`, macro `F1`,
        `chance` (UAR of guessing), the counts `clips`, `classes`, `speakers` (None if
        unknown) and `unknown_speakers` (clips without a speaker), and `recall` and `support`
        (number of clips) by class. Only UAR and interval depend on `groups`.
    """
    truth, prediction = np.asarray(truth, dtype=object), np.asarray(prediction, dtype=object)
    classes = sorted(set(truth))
    options = {"labels": classes, "zero_division": 0}
    recalls = recall_score(truth, prediction, average=None, **options)
    counts = _recall_counts(truth, prediction, speakers, groups, classes)
    support = pd.Series(truth).value_counts()
    known = pd.Series([] if speakers is None else np.asarray(speakers), dtype=object).dropna()
    return {
        "UAR": float(_mean_recall(counts.sum(axis=1))),
        "interval": _recall_interval(counts) if intervals else None,
        "ACC": float(accuracy_score(truth, prediction)),
        "F1": float(f1_score(truth, prediction, average="macro", **options)),
        "chance": 1 / len(classes),
        "clips": len(truth),
        "classes": len(classes),
        "speakers": known.nunique() or None,
        "unknown_speakers": len(truth) - len(known),
        "recall": dict(zip(classes, map(float, recalls), strict=True)),
        "support": {name: int(support[name]) for name in classes},
    }


def _recall_counts(
    truth: np.ndarray,
    prediction: np.ndarray,
    speakers: Sequence[str] | None,
    groups: Sequence[str] | None,
    classes: list[str],
) -> np.ndarray:
    """Count correct predictions and clips: (2, speakers, groups, K)."""
    clusters = label_codes(np.arange(len(truth)) if speakers is None else speakers)
    sections = label_codes(np.zeros(len(truth)) if groups is None else groups)
    is_class = truth[:, None] == np.array(classes, dtype=object)
    counts = np.zeros((2, clusters.max() + 1, sections.max() + 1, len(classes)))
    np.add.at(counts[0], (clusters, sections), is_class & (truth == prediction)[:, None])
    np.add.at(counts[1], (clusters, sections), is_class)
    return counts


def _mean_recall(counts: np.ndarray) -> np.ndarray:
    """Mean over groups of the mean recall: counts (2, ..., groups, K) to (...)."""
    hits, totals = counts
    with warnings.catch_warnings():
        # A resample may lack a class or a session, whose recall is NaN.
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(np.nanmean(hits / totals, axis=-1), axis=-1)


def _recall_interval(counts: np.ndarray) -> Interval:
    def uar(drawn: np.ndarray, axis: int) -> np.ndarray:
        return _mean_recall(counts[:, np.moveaxis(drawn, axis, -1)].sum(axis=-3))

    batch = max(1, BOOTSTRAP_ELEMENTS // counts[0].size)
    return bootstrap(uar, counts.shape[1], vectorized=True, batch=batch)


# --- Two classes and numbers ---------------------------------------------------------------------


def score_poles(
    towards_high: np.ndarray,
    is_high: np.ndarray,
    speakers: Sequence[str] | None = None,
    intervals: bool = True,
) -> dict[str, Any]:
    """Score the separation of two classes by one value per clip, independently of a threshold.

    The value is the cosine with the prompt "high" minus the cosine with the prompt "low" (B,).

    Returns:
        `AUC`, the area under the ROC curve (chance 0.5), and `AUC_interval`; None unless both
        classes have two speakers, because resamples of one would all have the same value.
    """
    if speakers is not None:
        codes = label_codes(speakers)
        intervals &= all(len(np.unique(codes[is_high == pole])) > 1 for pole in (True, False))

    def area(rows: Rows) -> float:
        """Share of correctly ordered pairs, from the rank sum (Mann and Whitney, 1947)."""
        truth = is_high[rows]
        highs, lows = truth.sum(), (~truth).sum()
        if not highs or not lows:
            return np.nan
        ranks = scipy.stats.rankdata(towards_high[rows])
        return (ranks[truth].sum() - highs * (highs + 1) / 2) / (highs * lows)

    return _with_interval("AUC", area, len(is_high), speakers, intervals)


def score_numbers(
    towards_high: np.ndarray,
    numbers: np.ndarray,
    speakers: Sequence[str] | None = None,
    intervals: bool = True,
) -> dict[str, Any]:
    """Return the rank correlation of the same value with a numeric label (B,), and its interval."""

    def correlation(rows: Rows) -> float:
        chosen = towards_high[rows], numbers[rows]
        if any(np.ptp(values) == 0 for values in chosen):
            return np.nan
        return float(scipy.stats.spearmanr(*chosen).statistic)

    return _with_interval("Spearman", correlation, len(numbers), speakers, intervals)


def _with_interval(
    name: str,
    statistic: Callable[[Rows], float],
    clips: int,
    speakers: Sequence[str] | None,
    intervals: bool,
) -> dict[str, Any]:
    rows, interval = np.arange(clips), None
    if intervals:
        interval = cluster_interval(statistic, rows if speakers is None else speakers)
    return {name: float(statistic(rows)), f"{name}_interval": interval}


# --- Calibration ---------------------------------------------------------------------------------


def calibration(
    truth: Sequence[str], probabilities: np.ndarray, classes: Sequence[str]
) -> dict[str, Any]:
    """Compare the probabilities (B, K) of classes (K,) with the true classes (B,).

    Returns:
        `ECE` (expected calibration error of the most probable class, Guo et al. 2017), `NLL`
        (mean negative log-likelihood in nats), `Brier` (sum of squared errors over the classes),
        mean `confidence`, and `bins`: mean confidence, accuracy and number of clips of each
        confidence bin that is not empty.
    """
    codes = pd.Index(classes).get_indexer(truth)
    labels = np.arange(len(classes))
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == codes
    places = np.searchsorted(np.linspace(0, 1, CALIBRATION_BINS + 1)[1:-1], confidence)
    bins = pd.DataFrame({"confidence": confidence, "accuracy": correct, "clips": 1}).groupby(places)
    bins = bins.agg({"confidence": "mean", "accuracy": "mean", "clips": "sum"})
    gaps = (bins["accuracy"] - bins["confidence"]).abs()
    return {
        "ECE": float((gaps * bins["clips"]).sum() / len(truth)),
        "NLL": float(log_loss(codes, probabilities, labels=labels)),
        "Brier": float(brier_score_loss(codes, probabilities, labels=labels, scale_by_half=False)),
        "confidence": float(confidence.mean()),
        "bins": bins.to_dict("records"),
    }
