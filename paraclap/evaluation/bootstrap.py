"""Bootstrap confidence intervals over clusters, such as the speakers of clips.

Clips of one speaker are not independent, so speakers are resampled together with all of their clips
(cluster bootstrap: Field and Welsh, "Bootstrapping clustered data", JRSS B 69(3), 2007). Intervals
are percentile intervals. The seed is fixed, so equal inputs give equal intervals.

Letters: B clips, R resamples.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats

RESAMPLES = 2000
CONFIDENCE = 0.95
FEWEST_CLUSTERS = 3
"""With fewer there is no interval: resamples of two clusters have three values at most."""
DRAWN = 4_000_000  # cluster numbers drawn at a time

Interval = list[float] | None
Rows = np.ndarray


def percentile_interval(values: np.ndarray) -> np.ndarray:
    """Return the 95 % percentile interval of resampled values (R, ...): (2, ...), without NaN."""
    tail = (1 - CONFIDENCE) / 2
    return np.nanquantile(values, [tail, 1 - tail], axis=0)


def bootstrap(statistic: Callable, clusters: int, **options: Any) -> Interval:
    """Return the interval of a statistic of resampled cluster numbers; None for fewer than three.

    `statistic` and `options` are those of `scipy.stats.bootstrap`.
    """
    if clusters < FEWEST_CLUSTERS:
        return None
    with warnings.catch_warnings():
        # A resample may have no value, such as the AUC of a single class; it is ignored.
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)
        result = scipy.stats.bootstrap(
            (np.arange(clusters),),
            statistic,
            n_resamples=RESAMPLES,
            confidence_level=CONFIDENCE,
            method="percentile",
            rng=np.random.default_rng(0),
            **options,
        )
    return percentile_interval(result.bootstrap_distribution).tolist()


def cluster_interval(statistic: Callable[[Rows], float], clusters: Sequence[Any]) -> Interval:
    """Return the 95 % interval of a statistic of clips; None for fewer than three clusters.

    Args:
        statistic: of row numbers of clips; NaN where it is undefined.
        clusters: cluster of each clip, such as its speaker (B,); see `label_codes`.
    """
    codes = label_codes(clusters)
    order, sizes = np.argsort(codes, kind="stable"), np.bincount(codes)
    starts = np.cumsum(sizes) - sizes

    def of_clusters(drawn: np.ndarray) -> float:
        lengths = sizes[drawn]
        ends = np.cumsum(lengths)
        places = np.arange(ends[-1]) + np.repeat(starts[drawn] - (ends - lengths), lengths)
        return statistic(order[places])

    return bootstrap(of_clusters, len(sizes), vectorized=False)


def mean_interval(
    values: np.ndarray, clusters: Sequence[Any], weights: np.ndarray | None = None
) -> Interval:
    """Return the 95 % interval of a mean over clips; None for fewer than three clusters.

    Args:
        values: of the clips (B,).
        clusters: cluster of each clip, such as its speaker (B,); see `label_codes`.
        weights: of the clips (B,); None = equal.
    """
    codes = label_codes(clusters)
    weights = np.ones(len(values)) if weights is None else weights
    sums, totals = np.bincount(codes, weights * values), np.bincount(codes, weights)

    def mean(drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        return sums[drawn].sum(axis=axis) / totals[drawn].sum(axis=axis)

    batch = max(1, DRAWN // len(sums))
    return bootstrap(mean, len(sums), vectorized=True, batch=batch)


def label_codes(labels: Sequence[Any]) -> np.ndarray:
    """Number labels (B,) from 0, in the sorted order of their texts.

    Each missing label has a number of its own, after the others: a clip of an unknown speaker is a
    cluster of its own.
    """
    labels = pd.Series(labels, dtype=object)
    missing = labels.isna().to_numpy()
    codes = np.empty(len(labels), np.int64)
    known, codes[~missing] = np.unique(labels[~missing].astype(str), return_inverse=True)
    codes[missing] = len(known) + np.arange(missing.sum())
    return codes
