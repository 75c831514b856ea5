"""Which clips make the batches, in which order; all follows from the seed and the step.

    draws = mixed([1080, 284], 0.5, seed=1)
    for batch in TrainingBatches(1364, 32, steps=500, seed=1, draws=draws): ...

So a run that is resumed at any step draws what it would have drawn.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd
import torch.utils.data

Draws = Callable[[int], np.ndarray]
"""Epoch -> what is drawn in it: (epoch, row) of each clip, (rows, 2)."""


def shuffled(rows: int, seed: int) -> Draws:
    """Draw every row once in an epoch."""

    def draws(epoch: int) -> np.ndarray:
        order = np.random.default_rng([seed, epoch]).permutation(rows)
        return np.stack([np.full(rows, epoch), order], axis=1)

    return draws


def mixed(
    sizes: Sequence[int],
    exponent: float,
    seed: int,
    labels: Sequence[str] = (),
    class_sampling_exponent: float = 1.0,
) -> Draws:
    """Draw from several corpora, each in a share of its size to the power of `exponent`.

    The share of a corpus is divided among its classes in the same way. An epoch draws as many rows
    as there are. Each part goes through its rows again and again, in another order each time, from
    where the last epoch left it; the number of that pass stands in place of the epoch, so that a
    row drawn twice in an epoch is cropped and worded anew.

    Args:
        sizes: rows of each corpus; they follow each other in the table.
        exponent: 1 is as `shuffled`, 0 draws as many rows of each corpus.
        seed: of the run.
        labels: class of each row, in any order; not needed for a `class_sampling_exponent` of 1.
        class_sampling_exponent: 0 draws as many rows of each class of a corpus.
    """
    if (len(sizes) == 1 or exponent == 1) and class_sampling_exponent == 1:
        return shuffled(sum(sizes), seed)
    parts = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    counts = mixture_counts(sizes, exponent)
    if class_sampling_exponent != 1:
        parts, counts = _by_class(parts, counts, np.asarray(labels), class_sampling_exponent)

    def draws(epoch: int) -> np.ndarray:
        drawn = np.concatenate(
            [
                _passes(rows, count, epoch, [seed, number])
                for number, (rows, count) in enumerate(zip(parts, counts, strict=True))
            ]
        )
        return drawn[np.random.default_rng([seed, epoch]).permutation(len(drawn))]

    return draws


def _by_class(
    corpora: Sequence[np.ndarray], counts: Sequence[int], labels: np.ndarray, exponent: float
) -> tuple[list[np.ndarray], list[int]]:
    """Rows of each class of each corpus, and how many of them an epoch draws."""
    parts: list[np.ndarray] = []
    divided: list[int] = []
    for rows, count in zip(corpora, counts, strict=True):
        _, codes, sizes = np.unique(labels[rows], return_inverse=True, return_counts=True)
        parts += [rows[codes == code] for code in range(len(sizes))]
        divided += mixture_counts(sizes.tolist(), exponent, count)
    return parts, divided


def mixture_counts(sizes: Sequence[int], exponent: float, total: int | None = None) -> list[int]:
    """Rows that an epoch draws of each part; they add up to `total`, None = to all rows."""
    total = sum(sizes) if total is None else total
    weights = np.array(sizes, np.float64) ** exponent
    exact = weights / weights.sum() * total
    counts = np.floor(exact).astype(int)
    left_over = np.argsort(counts - exact, kind="stable")[: total - counts.sum()]
    counts[left_over] += 1
    return counts.tolist()


def _passes(rows: np.ndarray, count: int, epoch: int, seed: Sequence[int]) -> np.ndarray:
    """Draw `count` of the rows of a part, going on from the last epoch: (pass, row) (count, 2)."""
    places = np.arange(epoch * count, (epoch + 1) * count)
    numbers, within = np.divmod(places, len(rows))
    drawn = [
        np.random.default_rng([*seed, number]).permutation(rows)[within[numbers == number]]
        for number in np.unique(numbers)
    ]
    return np.stack([numbers, np.concatenate([np.empty(0, int), *drawn])], axis=1)


def speaker_classes(speakers: Sequence[str | None], labels: Sequence[str | None]) -> np.ndarray:
    """Number the pairs of speaker and class of rows; a row without either is like no other."""
    table = pd.DataFrame({"speaker": list(speakers), "label": list(labels)})
    codes = table.groupby(["speaker", "label"]).ngroup().fillna(-1).to_numpy(int)
    is_unknown = codes < 0
    return np.where(is_unknown, codes.max(initial=-1) + np.cumsum(is_unknown), codes)


def kept_apart(draws: Draws, groups: np.ndarray, batch_size: int, seed: int) -> Draws:
    """Reorder draws so that no two of a group share a batch, as far as that can be.

    Of a group with more draws than there are batches, each batch has as many, or one more. What
    fills no batch stays at the end of the epoch.

    Args:
        draws: what to reorder; every epoch keeps the draws that it has.
        groups: number of the group of each row, see `speaker_classes`.
        batch_size: clips per batch.
        seed: of the run.
    """

    def reordered(epoch: int) -> np.ndarray:
        drawn = draws(epoch)
        rng = np.random.default_rng([seed, epoch, APART])
        last = len(drawn) // batch_size * batch_size
        codes = rng.permutation(groups.max() + 1)[groups[drawn[:last, 1]]]
        in_groups = np.argsort(codes, kind="stable")
        batches = _dealt(np.bincount(codes), last // batch_size, rng)
        order = in_groups[np.argsort(batches, kind="stable")]
        return np.concatenate([drawn[order], drawn[last:]])

    return reordered


APART = 1
"""Tells the generator of `kept_apart` from those of other orders of an epoch."""


def _dealt(sizes: np.ndarray, batches: int, rng: np.random.Generator) -> np.ndarray:
    """Deal the draws of one group after the other to batches: the batch of each.

    As cards are dealt: one for each batch in a round, in another order every round. A group that
    goes on from one round into the next begins with those batches that it has given less.

    Args:
        sizes: draws of each group; their sum fills all batches.
        batches: number of batches.
        rng: draws the orders.
    """
    ends = np.cumsum(sizes)
    firsts = ends - sizes
    dealt = np.empty((ends[-1] // batches, batches), int)
    for number in range(len(dealt)):
        order = rng.permutation(batches)
        first = firsts[np.searchsorted(ends, number * batches, side="right")]
        if first < number * batches:
            has_one = np.zeros(batches, bool)
            has_one[dealt[first // batches, first % batches :]] = True
            order = order[np.argsort(has_one[order], kind="stable")]
        dealt[number] = order
    return dealt.reshape(-1)


BUCKET_BATCHES = 32
"""Batches whose clips are sorted by duration together; more would mix epochs less."""


def bucketed(
    draws: Draws,
    seconds: Callable[[np.ndarray], np.ndarray],
    batch_size: int,
    seed: int,
    groups: np.ndarray | None = None,
) -> Draws:
    """Reorder draws so that the clips of a batch are of similar duration.

    Args:
        draws: what to reorder; every epoch keeps the draws that it has.
        seconds: durations of crops [s] by their draws (n, 2).
        batch_size: clips per batch.
        seed: of the run.
        groups: of the rows, if `draws` are `kept_apart` and shall be so afterwards.
    """

    def reordered(epoch: int) -> np.ndarray:
        drawn = draws(epoch)
        rng = np.random.default_rng([seed, epoch, BUCKET_BATCHES])
        last = len(drawn) // batch_size * batch_size
        parts = []
        for first in range(0, last, batch_size * BUCKET_BATCHES):
            part = drawn[first : min(first + batch_size * BUCKET_BATCHES, last)]
            part = part[np.argsort(seconds(part), kind="stable")]
            if groups is not None:
                part = part[_filled(groups[part[:, 1]], batch_size)]
            batches = part.reshape(-1, batch_size, 2)
            parts.append(batches[rng.permutation(len(batches))].reshape(-1, 2))
        return np.concatenate([*parts, drawn[last:]])

    return reordered


def _filled(groups: np.ndarray, batch_size: int) -> np.ndarray:
    """Fill one batch after the other with the next draws that it may have: their order.

    Of c draws of a group that are left for n batches, the next one takes c // n, or one more. So
    each batch finds enough, and none is left with many of a group in the end.
    """
    _, codes = np.unique(groups, return_inverse=True)
    left, order = np.arange(len(codes)), []
    for batches in range(len(codes) // batch_size, 0, -1):
        own = codes[left]
        counts = np.bincount(own)
        share, more = np.divmod(counts[own], batches)
        earlier = _earlier(own, counts)
        chosen = earlier < share
        may = (earlier == share) & (more > 0)
        chosen |= may & (np.cumsum(may) <= batch_size - chosen.sum())
        order.append(left[chosen])
        left = left[~chosen]
    return np.concatenate(order)


def _earlier(codes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """How many of the same code stand before each."""
    in_groups = np.argsort(codes, kind="stable")
    earlier = np.empty(len(codes), int)
    earlier[in_groups] = np.arange(len(codes)) - np.repeat(np.cumsum(counts) - counts, counts)
    return earlier


class TrainingBatches(torch.utils.data.Sampler):
    """Batches of (epoch, row), computed from the number of the step.

    Every epoch is a fresh permutation, unless `draws` says otherwise; what does not fill a batch is
    left out of that epoch.

    Attributes:
        rows: number of clips.
        batch_size: clips per batch.
        steps: number of the last step.
        start: number of steps already done.
        draws: epoch -> what is drawn in it, in order: (epoch, row) (rows, 2).
    """

    def __init__(
        self,
        rows: int,
        batch_size: int,
        steps: int,
        seed: int,
        start: int = 0,
        draws: Draws | None = None,
    ) -> None:
        self.batches_per_epoch = self.per_epoch(rows, batch_size)
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.steps, self.start = steps, start
        self.draws = draws or shuffled(rows, seed)

    @staticmethod
    def per_epoch(rows: int, batch_size: int) -> int:
        """Number of whole batches in an epoch.

        Raises:
            ValueError: for a batch of one, or one that the clips do not fill.
        """
        if batch_size < 2:
            raise ValueError(
                f"batch_size is {batch_size}: a contrastive loss needs at least 2, alone a clip "
                "has nothing to be told from"
            )
        if rows < batch_size:
            raise ValueError(f"{rows} clips do not fill a batch of {batch_size}")
        return rows // batch_size

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch_of_order = order = None
        for step in range(self.start, self.steps):
            epoch, position = divmod(step, self.batches_per_epoch)
            if epoch != epoch_of_order:
                order = self.draws(epoch)
                epoch_of_order = epoch
            first = position * self.batch_size
            yield [(int(e), int(row)) for e, row in order[first : first + self.batch_size]]


def length_sorted_batches(durations: np.ndarray, batch_seconds: float) -> list[list[int]]:
    """Group rows of similar duration, longest first, into batches of bounded padded size.

    Args:
        durations: of the clips [s].
        batch_seconds: largest number of clips times longest clip [s]; a longer clip stands alone.
    """
    batches: list[list[int]] = []
    for row in np.argsort(-durations, kind="stable").tolist():
        longest = durations[batches[-1][0]] if batches else np.inf
        if longest * (len(batches[-1]) + 1 if batches else 1) <= batch_seconds:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches
