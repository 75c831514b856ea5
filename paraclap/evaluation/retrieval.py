"""Retrieval metrics: recall at k, average precision and rank, in expectation over ties.

Letters: B clips, Q queries, N items, D embedding size.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats

from paraclap.evaluation.bootstrap import cluster_interval

DEPTHS = (1, 5, 10)
SIMILARITIES = 8_000_000  # computed at a time
TIE_DECIMALS = 6  # cosines are float32; closer ones count as equal


def retrieve(
    queries: np.ndarray,
    items: np.ndarray,
    wanted: np.ndarray,
    kinds: np.ndarray,
) -> pd.DataFrame:
    """Rank all items for each query; all items of the wanted kind are relevant.

    All values are expectations over random orders of tied items, so a model with constant
    embeddings scores at chance.

    Args:
        queries: unit embeddings (Q, D).
        items: unit embeddings (N, D).
        wanted: kind of the relevant items of each query (Q,).
        kinds: of the items (N,); each wanted kind must occur.

    Returns:
        One row per query: `R@1`, `R@5`, `R@10` (probability of a relevant item among the first k),
        `AP` (average precision), `rank` of the first relevant item, from 1.

    Raises:
        ValueError: if a query has no relevant item.
    """
    absent = set(np.unique(wanted)) - set(np.unique(kinds))
    if absent:
        raise ValueError(f"no item is of the wanted kind {min(absent)}")
    chunk = max(1, SIMILARITIES // max(1, len(items)))
    parts = []
    for first in range(0, len(queries), chunk):
        chosen = slice(first, first + chunk)
        similarity = np.round(queries[chosen] @ items.T, TIE_DECIMALS)
        parts.append(_rank(similarity, wanted[chosen, None] == kinds))
    return pd.concat(parts, ignore_index=True)


def _rank(similarity: np.ndarray, is_relevant: np.ndarray) -> pd.DataFrame:
    """Return the table of `retrieve` for similarities (Q, N) and relevance (Q, N)."""
    best = np.where(is_relevant, similarity, -np.inf).max(axis=1, keepdims=True)
    above = (similarity > best).sum(axis=1)
    is_tied = similarity == best
    tied, relevant = is_tied.sum(axis=1), (is_tied & is_relevant).sum(axis=1)
    figures = {}
    for depth in DEPTHS:
        places = np.clip(depth - above, 0, tied)  # of the tied items, within the first `depth`
        figures[f"R@{depth}"] = 1 - scipy.stats.hypergeom.pmf(0, tied, relevant, places)
    figures["AP"] = [_average_precision(*row) for row in zip(similarity, is_relevant, strict=True)]
    figures["rank"] = above + (tied + 1) / (relevant + 1)
    return pd.DataFrame(figures)


def _average_precision(similarity: np.ndarray, is_relevant: np.ndarray) -> float:
    """Return the average precision, in expectation over the orders of tied items (N,).

    McSherry and Najork, "Computing information retrieval performance measures efficiently in the
    presence of tied scores", ECIR 2008.
    """
    groups = np.unique(-similarity, return_inverse=True)[1]
    sizes, numbers = np.bincount(groups), np.bincount(groups, is_relevant)
    firsts, found = np.cumsum(sizes) - sizes, np.cumsum(numbers) - numbers
    ranks = np.arange(len(similarity))
    group = np.repeat(np.arange(len(sizes)), sizes)
    size, relevant = sizes[group], numbers[group]
    others = (ranks - firsts[group]) * (relevant - 1) / np.maximum(size - 1, 1)
    precisions = (found[group] + others + 1) / (ranks + 1)
    return float((relevant / size * precisions).sum() / is_relevant.sum())


def score_retrieval(
    queries: np.ndarray,
    items: np.ndarray,
    wanted: np.ndarray,
    kinds: np.ndarray,
    speakers: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Return the means of `retrieve` over queries, with those of chance.

    Without `speakers` of the queries (Q,) there is no interval.

    Returns:
        Means `R@1`, `R@5`, `R@10` and `mAP`, `median_rank`, the counts `queries` and `items`, the
        same values of guessing as `chance`, and the 95 % `interval` of `R@1`.
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
    means = {f"R@{depth}": float(ranked[f"R@{depth}"].mean()) for depth in DEPTHS}
    means["mAP"] = float(ranked["AP"].mean())
    return {**means, "median_rank": float(ranked["rank"].median())}
