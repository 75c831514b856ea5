"""Bootstrap confidence intervals over clusters, such as the speakers of clips.

Clips of one speaker are not independent, so speakers are resampled together with all of their clips
(cluster bootstrap: Field and Welsh, "Bootstrapping clustered data", JRSS B 69(3), 2007). Intervals
are percentile intervals. `SEED` is fixed, so equal inputs give equal intervals.

Letters: B clips, R resamples.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats

RESAMPLES = 2000
SEED = 0
CONFIDENCE = 0.95
FEWEST_CLUSTERS = 3
"""With fewer there is no interval: resamples of two clusters have three values at most."""
DRAWN = 4_000_000  # cluster numbers drawn at a time

Interval = list[float] | None
Rows = np.ndarray


def bootstrap(
    statistic: Callable,
    clusters: int | Sequence[int],
    runs: Sequence[int] = (),
    **options: Any,
) -> Interval | np.ndarray:
    """Return the 95 % interval of a statistic of resampled cluster numbers.

    Args:
        statistic: see `scipy.stats.bootstrap`, as are `options`. It has an argument for each
            number in `clusters` and in `runs`, and may return several values along the first axes.
        clusters: number of clusters, or numbers of clusters of several independent sets, such as
            the speakers of several corpora.
        runs: numbers of other items that are resampled as well, such as training runs; at least 2.
        options: of `scipy.stats.bootstrap`.

    Returns:
        Lower and upper limit, (2, ...) for several values; None for fewer than three clusters.
    """
    sizes = [clusters] if isinstance(clusters, int) else list(clusters)
    if min(sizes) < FEWEST_CLUSTERS:
        return None
    with warnings.catch_warnings():
        # A resample may have no value, such as the AUC of a single class; it is ignored.
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)
        result = scipy.stats.bootstrap(
            [np.arange(size) for size in (*sizes, *runs)],
            statistic,
            n_resamples=RESAMPLES,
            confidence_level=CONFIDENCE,
            method="percentile",
            rng=np.random.default_rng(SEED),
            **options,
        )
    tail = (1 - CONFIDENCE) / 2
    interval = np.nanquantile(result.bootstrap_distribution, [tail, 1 - tail], axis=-1)
    return interval.tolist() if interval.ndim == 1 else interval


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
