"""Figures of answers: recalls with intervals over speakers, ranks, calibration, retrieval.

Numbers in, numbers out; no audio, no model, no files. Intervals are percentile bootstraps over
clusters (Field and Welsh, "Bootstrapping clustered data", JRSS B 69(3), 2007): clips of one speaker
resemble each other, so speakers are drawn, with all of their clips. Seeded, so that the same
answers have the same interval.

Letters: B clips, K classes, Q queries, N items that are searched, D embedding size.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats
from sklearn.metrics import (
    accuracy_score,
    brier_score_loss,
    f1_score,
    log_loss,
    recall_score,
)

RESAMPLES = 2000
CONFIDENCE = 0.95
BOOTSTRAP_ELEMENTS = 4_000_000  # bounds the memory of the bootstrap of recalls
CALIBRATION_BINS = 15  # as Guo et al., "On calibration of modern neural networks", ICML 2017
RETRIEVAL_DEPTHS = (1, 5, 10)
RETRIEVAL_ELEMENTS = 8_000_000  # similarities held at a time
TIE_DECIMALS = 6  # cosines are float32, and closer ones are equal

Interval = list[float] | None
Rows = np.ndarray


# --- Classes -------------------------------------------------------------------------------------


def score(
    truth: Sequence[str],
    prediction: Sequence[str],
    speakers: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Score answers over the classes that occur; a wrong answer of any class counts as wrong.

    Args:
        truth: classes (B,).
        prediction: classes (B,), also such that do not occur in `truth`.
        speakers: of the clips (B,), for the interval; None = every clip is its own speaker.
        groups: of the clips (B,), such as sessions: the UAR is the mean of the groups' UARs, each
            over the classes that occur in it; None = one group.

    Returns:
        `UAR`, `interval` (95 %, of the UAR; None for a single speaker), `ACC`, macro `F1`, `chance`
        (UAR of guessing), the counts `clips`, `classes`, `speakers`, and `recall` and `support`
        (number of clips) by class. All but the UAR and its interval are over all clips.
    """
    truth, prediction = np.asarray(truth, dtype=object), np.asarray(prediction, dtype=object)
    classes = sorted(set(truth))
    options = {"labels": classes, "zero_division": 0}
    recalls = recall_score(truth, prediction, average=None, **options)
    counts = _recall_counts(truth, prediction, speakers, groups, classes)
    per_class = pd.Series(truth).value_counts()
    return {
        "UAR": float(_mean_recall(counts.sum(axis=1))),
        "interval": _recall_interval(counts),
        "ACC": float(accuracy_score(truth, prediction)),
        "F1": float(f1_score(truth, prediction, average="macro", **options)),
        "chance": 1 / len(classes),
        "clips": len(truth),
        "classes": len(classes),
        "speakers": None if speakers is None else len(set(speakers)),
        "recall": dict(zip(classes, map(float, recalls), strict=True)),
        "support": {name: int(per_class[name]) for name in classes},
    }


def _recall_counts(
    truth: np.ndarray,
    prediction: np.ndarray,
    speakers: Sequence[str] | None,
    groups: Sequence[str] | None,
    classes: list[str],
) -> np.ndarray:
    """Count right answers and all clips: (2, speakers, groups, K)."""
    clusters = _codes(np.arange(len(truth)) if speakers is None else speakers)
    sections = _codes(np.zeros(len(truth)) if groups is None else groups)
    is_class = truth[:, None] == np.array(classes, dtype=object)
    counts = np.zeros((2, clusters.max() + 1, sections.max() + 1, len(classes)))
    np.add.at(counts[0], (clusters, sections), is_class & (truth == prediction)[:, None])
    np.add.at(counts[1], (clusters, sections), is_class)
    return counts


def _codes(labels: Sequence[Any]) -> np.ndarray:
    return np.unique(np.asarray(labels).astype(str), return_inverse=True)[1]


def _mean_recall(counts: np.ndarray) -> np.ndarray:
    """Mean over groups of the mean recall: counts (2, ..., groups, K) to (...)."""
    hits, totals = counts
    recalls = np.divide(hits, totals, out=np.full_like(hits, np.nan), where=totals > 0)
    return _mean_of_known(_mean_of_known(recalls))


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis, without NaN; a draw of speakers may lack a class or a session."""
    known = ~np.isnan(values)
    sums, totals = np.where(known, values, 0).sum(axis=-1), known.sum(axis=-1)
    return np.divide(sums, totals, out=np.full(sums.shape, np.nan), where=totals > 0)


def _recall_interval(counts: np.ndarray) -> Interval:
    def uar(drawn: np.ndarray, axis: int) -> np.ndarray:
        return _mean_recall(counts[:, np.moveaxis(drawn, axis, -1)].sum(axis=-3))

    size = counts[0].size
    batch = max(1, BOOTSTRAP_ELEMENTS // size)
    return _bootstrap(uar, counts.shape[1], vectorized=True, batch=batch)


def _bootstrap(statistic: Callable, clusters: int, **options: Any) -> Interval:
    """Percentile interval of a statistic of drawn cluster numbers; None for a single cluster."""
    if clusters < 2:
        return None
    with warnings.catch_warnings():
        # A draw may have no figure (an AUC of one class); it is left out below.
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)
        drawn = scipy.stats.bootstrap(
            (np.arange(clusters),),
            statistic,
            n_resamples=RESAMPLES,
            confidence_level=CONFIDENCE,
            method="percentile",
            rng=np.random.default_rng(0),
            **options,
        )
    tail = (1 - CONFIDENCE) / 2
    return np.nanquantile(drawn.bootstrap_distribution, [tail, 1 - tail]).tolist()


def cluster_interval(statistic: Callable[[Rows], float], clusters: Sequence[Any]) -> Interval:
    """Return the 95 % interval of any statistic; None for a single cluster.

    Args:
        statistic: figure of the clips of the given row numbers; NaN where it has none.
        clusters: speaker of each clip (B,).
    """
    codes = _codes(clusters)
    order, sizes = np.argsort(codes, kind="stable"), np.bincount(codes)
    starts = np.cumsum(sizes) - sizes

    def of_clusters(drawn: np.ndarray) -> float:
        lengths = sizes[drawn]
        ends = np.cumsum(lengths)
        places = np.arange(ends[-1]) + np.repeat(starts[drawn] - (ends - lengths), lengths)
        return statistic(order[places])

    return _bootstrap(of_clusters, len(sizes), vectorized=False)


# --- Numbers and opposed queries -----------------------------------------------------------------


def score_poles(
    towards_high: np.ndarray, is_high: np.ndarray, speakers: Sequence[str] | None = None
) -> dict[str, Any]:
    """Score how well one value per clip tells two classes apart, wherever a threshold lies.

    Args:
        towards_high: cosine of the one query minus that of its opposite (B,).
        is_high: whether the one query is true of the clip (B,).
        speakers: see `score`.

    Returns:
        `AUC`, the area under the ROC curve (chance 0.5), and `AUC_interval`.
    """

    def area(rows: Rows) -> float:
        """Share of pairs in the right order, by the rank sum (Mann and Whitney 1947)."""
        truth = is_high[rows]
        highs, lows = truth.sum(), (~truth).sum()
        if not highs or not lows:
            return np.nan
        ranks = scipy.stats.rankdata(towards_high[rows])
        return (ranks[truth].sum() - highs * (highs + 1) / 2) / (highs * lows)

    return _with_interval("AUC", area, len(is_high), speakers)


def score_numbers(
    towards_high: np.ndarray, numbers: np.ndarray, speakers: Sequence[str] | None = None
) -> dict[str, Any]:
    """Score how well the same value follows a label that is a number, over all clips.

    Args:
        towards_high: see `score_poles`.
        numbers: labels (B,).
        speakers: see `score`.

    Returns:
        `Spearman`, the rank correlation (chance 0), and `Spearman_interval`.
    """

    def correlation(rows: Rows) -> float:
        chosen = towards_high[rows], numbers[rows]
        if any(np.ptp(values) == 0 for values in chosen):
            return np.nan
        return float(scipy.stats.spearmanr(*chosen).statistic)

    return _with_interval("Spearman", correlation, len(numbers), speakers)


def _with_interval(
    name: str, statistic: Callable[[Rows], float], clips: int, speakers: Sequence[str] | None
) -> dict[str, Any]:
    rows = np.arange(clips)
    clusters = rows if speakers is None else speakers
    return {
        name: float(statistic(rows)),
        f"{name}_interval": cluster_interval(statistic, clusters),
    }


# --- Calibration ---------------------------------------------------------------------------------


def calibration(
    truth: Sequence[str], probabilities: np.ndarray, classes: Sequence[str]
) -> dict[str, Any]:
    """Compare what a model says of its certainty with how often it is right.

    Args:
        truth: classes (B,).
        probabilities: (B, K), each row adds up to one.
        classes: of the columns.

    Returns:
        `ECE` (expected calibration error of the most probable class, Guo et al. 2017), `NLL`
        (mean negative log-likelihood in nats), `Brier` (sum of squared errors over the classes),
        mean `confidence`, and `bins`: mean confidence, accuracy and number of clips of each bin of
        the confidence that has any.
    """
    truth, classes = np.asarray(truth, dtype=object), np.asarray(classes, dtype=object)
    codes = np.array([np.flatnonzero(classes == name)[0] for name in truth])
    labels = np.arange(len(classes))
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == codes
    places = np.searchsorted(np.linspace(0, 1, CALIBRATION_BINS + 1)[1:-1], confidence)
    bins = pd.DataFrame({"confidence": confidence, "accuracy": right, "clips": 1}).groupby(places)
    bins = bins.agg({"confidence": "mean", "accuracy": "mean", "clips": "sum"})
    gaps = (bins["accuracy"] - bins["confidence"]).abs()
    return {
        "ECE": float((gaps * bins["clips"]).sum() / len(truth)),
        "NLL": float(log_loss(codes, probabilities, labels=labels)),
        "Brier": float(brier_score_loss(codes, probabilities, labels=labels, scale_by_half=False)),
        "confidence": float(confidence.mean()),
        "bins": bins.to_dict("records"),
    }


# --- Retrieval -----------------------------------------------------------------------------------


def retrieve(
    queries: np.ndarray,
    items: np.ndarray,
    wanted: np.ndarray,
    kinds: np.ndarray,
) -> pd.DataFrame:
    """Rank all items for each query; every item of the wanted kind is right.

    Ties count as if their order was drawn: all figures are expectations over it, so that a model
    which answers the same to everything gets what guessing gets.

    Args:
        queries: unit embeddings (Q, D).
        items: unit embeddings (N, D).
        wanted: kind of item that each query asks for (Q,).
        kinds: of the items (N,); each wanted kind must occur.

    Returns:
        One row per query: `R@1`, `R@5`, `R@10` (probability of a right item in the first k), `AP`
        (average precision), `rank` of the first right item, counted from 1.

    Raises:
        ValueError: if no item is right for a query.
    """
    absent = set(np.unique(wanted)) - set(np.unique(kinds))
    if absent:
        raise ValueError(f"no item is of the kind {min(absent)} that a query asks for")
    chunk = max(1, RETRIEVAL_ELEMENTS // max(1, len(items)))
    parts = []
    for first in range(0, len(queries), chunk):
        chosen = slice(first, first + chunk)
        similarity = np.round(queries[chosen] @ items.T, TIE_DECIMALS)
        parts.append(_rank(similarity, wanted[chosen, None] == kinds))
    return pd.concat(parts, ignore_index=True)


def _rank(similarity: np.ndarray, is_right: np.ndarray) -> pd.DataFrame:
    """Figures of `retrieve` for similarities (Q, N) and which items are right (Q, N)."""
    best = np.where(is_right, similarity, -np.inf).max(axis=1, keepdims=True)
    above = (similarity > best).sum(axis=1)
    is_tied = similarity == best
    tied, right = is_tied.sum(axis=1), (is_tied & is_right).sum(axis=1)
    figures = {}
    for depth in RETRIEVAL_DEPTHS:
        places = np.clip(depth - above, 0, tied)  # of the tied items, within the first `depth`
        figures[f"R@{depth}"] = 1 - scipy.stats.hypergeom.pmf(0, tied, right, places)
    figures["AP"] = [_average_precision(*row) for row in zip(similarity, is_right, strict=True)]
    figures["rank"] = above + (tied + 1) / (right + 1)
    return pd.DataFrame(figures)


def _average_precision(similarity: np.ndarray, is_right: np.ndarray) -> float:
    """Average precision expected over the orders of tied items (N,).

    McSherry and Najork, "Computing information retrieval performance measures efficiently in the
    presence of tied scores", ECIR 2008.
    """
    groups = np.unique(-similarity, return_inverse=True)[1]
    sizes, rights = np.bincount(groups), np.bincount(groups, is_right)
    firsts, found = np.cumsum(sizes) - sizes, np.cumsum(rights) - rights
    ranks = np.arange(len(similarity))
    group = np.repeat(np.arange(len(sizes)), sizes)
    size, right = sizes[group], rights[group]
    others = (ranks - firsts[group]) * (right - 1) / np.maximum(size - 1, 1)
    precisions = (found[group] + others + 1) / (ranks + 1)
    return float((right / size * precisions).sum() / is_right.sum())


def score_retrieval(
    queries: np.ndarray,
    items: np.ndarray,
    wanted: np.ndarray,
    kinds: np.ndarray,
    speakers: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Summarise `retrieve`.

    Args:
        queries: see `retrieve`.
        items: see `retrieve`.
        wanted: see `retrieve`.
        kinds: see `retrieve`.
        speakers: of the queries (Q,), for the interval; None = there is none.

    Returns:
        Means `R@1`, `R@5`, `R@10` and `mAP`, `median_rank`, the counts `queries` and `items`, the
        same figures of guessing as `chance`, and `interval` of `R@1`.
    """
    ranked = retrieve(queries, items, wanted, kinds)
    guessed = retrieve(np.zeros((len(queries), 1)), np.zeros((len(items), 1)), wanted, kinds)
    first = ranked["R@1"].to_numpy()
    interval = None if speakers is None else cluster_interval(lambda r: first[r].mean(), speakers)
    return {
        **_means(ranked),
        "interval": interval,
        "queries": len(queries),
        "items": len(items),
        "chance": _means(guessed),
    }


def _means(ranked: pd.DataFrame) -> dict[str, float]:
    recalls = {f"R@{depth}": float(ranked[f"R@{depth}"].mean()) for depth in RETRIEVAL_DEPTHS}
    return {
        **recalls,
        "mAP": float(ranked["AP"].mean()),
        "median_rank": float(ranked["rank"].median()),
    }
