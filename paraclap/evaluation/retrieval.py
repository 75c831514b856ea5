"""Retrieval metrics: recall at k, average precision and rank, in expectation over ties.

Letters: B clips, K captions, Q queries, N items, D embedding size.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats

from paraclap.evaluation.bootstrap import label_codes, mean_interval

DEPTHS = (1, 5, 10)
SIMILARITIES = 8_000_000  # computed at a time
TIE_DECIMALS = 6  # cosines are float32; closer ones count as equal
ALL = slice(None)

Matches = Callable[[slice, slice], np.ndarray]
"""Some rows and columns of a matrix (B, K) of clips and captions: 1 if the caption is true of the
clip, 0 if it is not, NaN if that is unknown."""

Scores = dict[str, dict[str, Any]]


def retrieve(
    queries: np.ndarray,
    items: np.ndarray,
    relevance: Callable[[slice], np.ndarray],
    precision: bool = True,
) -> pd.DataFrame:
    """Rank all items for each query.

    All values are expectations over random orders of tied items, so a model with constant
    embeddings scores at chance.

    Args:
        queries: unit embeddings (Q, D).
        items: unit embeddings (N, D).
        relevance: of all items for a slice of the queries (q, N): 1 = relevant, 0 = not relevant;
            NaN = left out of the ranking of this query.
        precision: whether to return `AP`, which takes most of the time.

    Returns:
        One row per query: `R@1`, `R@5`, `R@10` (probability of a relevant item among the first k),
        `AP` (average precision), `rank` of the first relevant item, from 1.

    Raises:
        ValueError: if a query has no relevant item.
    """
    chunk = max(1, SIMILARITIES // max(1, len(items)))
    parts = []
    for first in range(0, len(queries), chunk):
        chosen = slice(first, first + chunk)
        similarity = np.round(queries[chosen] @ items.T, TIE_DECIMALS)
        parts.append(_rank(similarity, relevance(chosen), precision))
    return pd.concat(parts, ignore_index=True)


def _rank(similarity: np.ndarray, relevance: np.ndarray, precision: bool) -> pd.DataFrame:
    """Return the table of `retrieve` for similarities and relevance (q, N)."""
    is_relevant, is_unknown = relevance == 1, np.isnan(relevance)
    if not is_relevant.any(axis=1).all():
        raise ValueError("a query has no relevant item")
    similarity = np.where(is_unknown, -np.inf, similarity)
    best = np.where(is_relevant, similarity, -np.inf).max(axis=1, keepdims=True)
    above = (similarity > best).sum(axis=1)
    is_tied = similarity == best
    tied, relevant = is_tied.sum(axis=1), (is_tied & is_relevant).sum(axis=1)
    figures = {}
    for depth in DEPTHS:
        places = np.clip(depth - above, 0, tied)  # of the tied items, within the first `depth`
        figures[f"R@{depth}"] = 1 - scipy.stats.hypergeom.pmf(0, tied, relevant, places)
    if precision:
        rows = zip(similarity, is_relevant, ~is_unknown, strict=True)
        figures["AP"] = [_average_precision(row[known], right[known]) for row, right, known in rows]
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
    audio: np.ndarray,
    texts: np.ndarray,
    matches: Matches,
    captions: np.ndarray,
    speakers: Sequence[str] | None = None,
    precision: bool = True,
    chance: Mapping[str, Mapping[str, float]] | None = None,
    owners: np.ndarray | None = None,
) -> Scores:
    """Retrieve clips by caption and captions by clip; returns means over the queries.

    Args:
        audio: unit embeddings of the clips (B, D).
        texts: unit embeddings of the distinct captions (K, D).
        matches: which captions are true of which clips.
        captions: number of the caption of each clip (B,); each caption occurs. If clips have
            several captions, of each clip in `owners`.
        speakers: of the clips (B,); None = intervals over clips.
        precision: whether to return `mAP`, which takes most of the time.
        chance: of an earlier call for the same clips and captions; None = computed.
        owners: numbers of the clips that have `captions`; None = each clip once.

    Returns:
        For `text_to_audio` (a query is a distinct caption) and `audio_to_text` (a query is a clip)
        `R@1`, `R@5`, `R@10`, `mAP`, `median_rank`, `mean_rank`, the counts `queries` and `items`,
        the same values of guessing as `chance`, and the 95 % `interval` of `R@1` over speakers.
    """
    if chance is None:
        nothing = (np.zeros((len(values), 1), np.float32) for values in (audio, texts))
        guessed = _both_directions(*nothing, matches, precision)
        chance = {name: _means(ranked) for name, ranked in guessed.items()}
    found = _both_directions(audio, texts, matches, precision)
    first = {name: ranked["R@1"].to_numpy() for name, ranked in found.items()}
    clusters = label_codes(range(len(audio)) if speakers is None else speakers)
    owners = np.arange(len(audio)) if owners is None else owners
    # Speakers are resampled in both directions: each clip of a caption has its share of the query.
    shares = 1 / np.bincount(captions)[captions]
    intervals = {
        "text_to_audio": mean_interval(first["text_to_audio"][captions], clusters[owners], shares),
        "audio_to_text": mean_interval(first["audio_to_text"], clusters),
    }
    sizes = {"text_to_audio": (len(texts), len(audio)), "audio_to_text": (len(audio), len(texts))}
    return {
        name: {
            **_means(ranked),
            "interval": intervals[name],
            "queries": sizes[name][0],
            "items": sizes[name][1],
            "chance": chance[name],
        }
        for name, ranked in found.items()
    }


def _both_directions(
    audio: np.ndarray, texts: np.ndarray, matches: Matches, precision: bool
) -> dict[str, pd.DataFrame]:
    return {
        "text_to_audio": retrieve(texts, audio, lambda rows: matches(ALL, rows).T, precision),
        "audio_to_text": retrieve(audio, texts, lambda rows: matches(rows, ALL), precision),
    }


def _means(ranked: pd.DataFrame) -> dict[str, float]:
    means = {f"R@{depth}": float(ranked[f"R@{depth}"].mean()) for depth in DEPTHS}
    if "AP" in ranked:
        means["mAP"] = float(ranked["AP"].mean())
    ranks = ranked["rank"]
    return {**means, "median_rank": float(ranks.median()), "mean_rank": float(ranks.mean())}
