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
    counts = recall_counts(truth, prediction, speakers, groups)
    support = pd.Series(truth).value_counts()
    known = pd.Series([] if speakers is None else np.asarray(speakers), dtype=object).dropna()
    uar, interval = mean_uar([(counts[:, None], None)], intervals)
    return {
        "UAR": uar,
        "interval": interval,
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


def recall_counts(
    truth: Sequence[str],
    prediction: Sequence[str],
    speakers: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
) -> np.ndarray:
    """Count correct predictions and clips by speaker, group and class: (2, speakers, groups, K).

    The arguments are those of `score`; the K classes are those that occur in `truth`, sorted.
    """
    truth, prediction = np.asarray(truth, dtype=object), np.asarray(prediction, dtype=object)
    clusters = label_codes(np.arange(len(truth)) if speakers is None else speakers)
    sections = label_codes(np.zeros(len(truth)) if groups is None else groups)
    classes = sorted(set(truth))
    is_class = truth[:, None] == np.array(classes, dtype=object)
    counts = np.zeros((2, clusters.max() + 1, sections.max() + 1, len(classes)))
    np.add.at(counts[0], (clusters, sections), is_class & (truth == prediction)[:, None])
    np.add.at(counts[1], (clusters, sections), is_class)
    return counts


def class_recalls(counts: np.ndarray) -> np.ndarray:
    """Return recalls, NaN for classes without clips: counts (2, ..., K) to (..., K)."""
    hits, clips = counts
    return np.divide(hits, clips, out=np.full_like(hits, np.nan), where=clips > 0)


def mean_recall(counts: np.ndarray) -> np.ndarray:
    """Return the mean over groups of the mean recall: counts (2, ..., groups, K) to (...)."""
    with warnings.catch_warnings():
        # A group without clips in a resample, as a session whose speakers are not drawn, is NaN.
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(np.nanmean(class_recalls(counts), axis=-1), axis=-1)


def mean_uar(
    corpora: Sequence[tuple[np.ndarray, np.ndarray | None]], intervals: bool = True
) -> tuple[float, Interval]:
    """Return the mean UAR over corpora, or the mean difference of the UARs of two systems.

    The bootstrap resamples the speakers of each corpus, and training runs where there are several.
    Differences are paired: both systems have the same speakers in each resample, and the same runs
    if they have equally many.

    Args:
        corpora: of each corpus, counts (2, runs, speakers, groups, K) of a system, see
            `recall_counts`, and those of the system that is subtracted; None = none is.
        intervals: whether to compute the interval.

    Returns:
        Mean, and its 95 % interval; None if a corpus has fewer than three speakers.
    """
    sizes = [counts.shape[2] for counts, _ in corpora]
    runs: list[int] = []  # resampled
    places: list[list[int | None]] = []  # of the systems of each corpus, in `runs`
    for pair in corpora:
        known: dict[int, int] = {}
        for counts in pair:
            if counts is not None and (number := counts.shape[1]) > 1 and number not in known:
                known[number] = len(runs)
                runs.append(number)
        places.append([None if c is None else known.get(c.shape[1]) for c in pair])

    def statistic(*drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        drawn = tuple(np.moveaxis(numbers, axis, -1) for numbers in drawn)
        speakers, chosen_runs = drawn[: len(sizes)], drawn[len(sizes) :]
        means = []
        for pair, own, numbers in zip(corpora, places, speakers, strict=True):
            uars = []
            for counts, place in zip(pair, own, strict=True):
                if counts is None:
                    continue
                uar = mean_recall(counts[:, :, numbers].sum(axis=-3))  # (runs, ...)
                if place is not None:
                    uar = np.take_along_axis(uar, np.moveaxis(chosen_runs[place], -1, 0), axis=0)
                uars.append(uar.mean(axis=0))
            means.append(uars[0] - uars[1] if len(uars) > 1 else uars[0])
        return np.mean(means, axis=0)

    everything = (np.arange(size) for size in (*sizes, *runs))
    mean = float(statistic(*everything))
    if not intervals:
        return mean, None
    elements = sum(counts[0].size for pair in corpora for counts in pair if counts is not None)
    batch = max(1, BOOTSTRAP_ELEMENTS // elements)
    return mean, bootstrap(statistic, sizes, runs, vectorized=True, batch=batch)


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
