"""Samplers: the clips of each batch, in an order that depends on the seed and the step alone.

    draws = mixed([1080, 284], 0.5, seed=1)
    for batch in TrainingBatches(1364, 32, steps=500, seed=1, draws=draws): ...

A run resumed at any step therefore draws the same batches as an uninterrupted one.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch.utils.data

from paraclap.settings import SettingsError

Draws = Callable[[int], np.ndarray]
"""Epoch -> its draws in order: (epoch, row) of each clip, (rows, 2)."""
Permute = Callable[[np.random.Generator, np.ndarray], np.ndarray]
"""Generator, rows -> the rows in random order."""


def permuted(rng: np.random.Generator, rows: np.ndarray) -> np.ndarray:
    """Return rows in random order."""
    return rng.permutation(rows)


def permuted_by_shards(shards: np.ndarray, count: int) -> Permute:
    """Permute shards, and the rows of `count` shards at a time, so that few are read at once.

    Rows of at most `count` shards are simply `permuted`.

    Args:
        shards: number of the shard of each row.
        count: of the shards whose rows are permuted together.
    """

    def permute(rng: np.random.Generator, rows: np.ndarray) -> np.ndarray:
        found, shard = np.unique(shards[rows], return_inverse=True)
        if len(found) <= count:
            return permuted(rng, rows)
        group = rng.permutation(len(found)) // count
        return rows[np.lexsort([rng.random(len(rows)), group[shard]])]

    return permute


def shuffled(rows: int, seed: int, permute: Permute = permuted) -> Draws:
    """Draw every row once in an epoch."""

    def draws(epoch: int) -> np.ndarray:
        order = permute(np.random.default_rng([seed, epoch]), np.arange(rows))
        return np.stack([np.full(rows, epoch), order], axis=1)

    return draws


def mixed(
    sizes: Sequence[int],
    exponent: float,
    seed: int,
    labels: Sequence[str] = (),
    class_sampling_exponent: float = 1.0,
    permute: Permute = permuted,
    weights: Sequence[float] = (),
) -> Draws:
    """Draw from several corpora, in proportion to their sizes to the power of `exponent`.

    The draws of a corpus are divided among its classes in the same way. An epoch has as many draws
    as there are rows. Each part is permuted again whenever all its rows were drawn, and continues
    across epochs. The number of that pass replaces the epoch in its draws, so a row drawn twice in
    an epoch has another crop and caption.

    Args:
        sizes: rows of each corpus; corpora follow each other in the table.
        exponent: 1 equals `shuffled`, 0 draws equally many rows of each corpus.
        seed: of the run.
        labels: class of each row; not needed for a `class_sampling_exponent` of 1.
        class_sampling_exponent: 0 draws equally many rows of each class of a corpus.
        permute: of the rows of each part, whose order is kept where parts are mixed.
        weights: factor on the draws of each corpus; () = 1.
    """
    is_mixed = exponent != 1 or len({*weights}) > 1 or permute is not permuted
    if (len(sizes) == 1 or not is_mixed) and class_sampling_exponent == 1:
        return shuffled(sum(sizes), seed, permute)
    parts = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    counts = mixture_counts(sizes, exponent, weights=weights)
    if class_sampling_exponent != 1:
        parts, counts = _by_class(parts, counts, np.asarray(labels), class_sampling_exponent)

    def draws(epoch: int) -> np.ndarray:
        drawn = np.concatenate(
            [
                _passes(rows, count, epoch, [seed, number], permute)
                for number, (rows, count) in enumerate(zip(parts, counts, strict=True))
            ]
        )
        order = np.random.default_rng([seed, epoch]).permutation(len(drawn))
        if permute is not permuted:
            part = np.repeat(np.arange(len(counts)), counts)[order]
            order[np.argsort(part, kind="stable")] = np.arange(len(drawn))
        return drawn[order]

    return draws


def _by_class(
    corpora: Sequence[np.ndarray], counts: Sequence[int], labels: np.ndarray, exponent: float
) -> tuple[list[np.ndarray], list[int]]:
    """Return the rows of each class of each corpus, and their number of draws per epoch."""
    parts: list[np.ndarray] = []
    divided: list[int] = []
    for rows, count in zip(corpora, counts, strict=True):
        _, codes, sizes = np.unique(labels[rows], return_inverse=True, return_counts=True)
        parts += np.split(rows[np.argsort(codes, kind="stable")], np.cumsum(sizes)[:-1])
        divided += mixture_counts(sizes.tolist(), exponent, count)
    return parts, divided


def mixture_counts(
    sizes: Sequence[int], exponent: float, total: int | None = None, weights: Sequence[float] = ()
) -> list[int]:
    """Return the draws of each part per epoch; they add up to `total`, None = all rows."""
    total = sum(sizes) if total is None else total
    shares = np.array(sizes, np.float64) ** exponent * (weights or 1.0)
    exact = shares / shares.sum() * total
    counts = np.floor(exact).astype(int)
    left_over = np.argsort(counts - exact, kind="stable")[: total - counts.sum()]
    counts[left_over] += 1
    return counts.tolist()


def _passes(
    rows: np.ndarray, count: int, epoch: int, seed: Sequence[int], permute: Permute
) -> np.ndarray:
    """Return the `count` draws of a part in an epoch: (pass, row) (count, 2)."""
    places = np.arange(epoch * count, (epoch + 1) * count)
    numbers, within = np.divmod(places, len(rows))
    drawn = [
        permute(np.random.default_rng([*seed, number]), rows)[within[numbers == number]]
        for number in np.unique(numbers)
    ]
    return np.stack([numbers, np.concatenate([np.empty(0, int), *drawn])], axis=1)


LARGEST_PADDING = 0.15
"""Largest padding of a clip for evaluation, as a share of the longest clip in its batch."""
BUCKET_BATCHES = 32
"""Number of batches whose clips are sorted together; more would randomise the order less."""


def bucketed(draws: Draws, seconds: np.ndarray, batch_size: int, seed: int) -> Draws:
    """Reorder draws so that the clips of a batch have similar durations.

    `seconds` has the duration of the crop of each row [s]. Every epoch keeps its draws.
    """

    def reordered(epoch: int) -> np.ndarray:
        drawn = draws(epoch)
        rng = np.random.default_rng([seed, epoch, BUCKET_BATCHES])
        last = len(drawn) // batch_size * batch_size
        parts = []
        for first in range(0, last, batch_size * BUCKET_BATCHES):
            part = drawn[first : min(first + batch_size * BUCKET_BATCHES, last)]
            part = part[np.argsort(seconds[part[:, 1]], kind="stable")]
            batches = part.reshape(-1, batch_size, 2)
            parts.append(batches[rng.permutation(len(batches))].reshape(-1, 2))
        return np.concatenate([*parts, drawn[last:]])

    return reordered


class TrainingBatches(torch.utils.data.Sampler):
    """Batches of (epoch, row), computed from the number of the step.

    Clips that do not fill a batch are dropped from that epoch.

    Args:
        rows: number of clips.
        batch_size: clips per batch.
        steps: number of the last step.
        seed: of the run.
        start: number of steps already done.
        draws: see `Draws`; None = `shuffled`.
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
        self.batch_size, self.steps, self.start = batch_size, steps, start
        self.draws = draws or shuffled(rows, seed)

    @staticmethod
    def per_epoch(rows: int, batch_size: int) -> int:
        """Return the number of full batches in an epoch.

        Raises:
            SettingsError: for a batch of one clip, or of more clips than there are.
        """
        if batch_size < 2:
            raise SettingsError(
                f"train.batch_size is {batch_size}, expected at least 2 for a contrastive loss"
            )
        if rows < batch_size:
            raise SettingsError(
                f"train.batch_size is {batch_size}, but there are only {rows} clips"
            )
        return rows // batch_size

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = None
        for step in range(self.start, self.steps):
            epoch, position = divmod(step, self.batches_per_epoch)
            if order is None or position == 0:
                order = self.draws(epoch)
            first = position * self.batch_size
            yield [(int(e), int(row)) for e, row in order[first : first + self.batch_size]]


def length_sorted_batches(durations: np.ndarray, batch_seconds: float) -> list[list[int]]:
    """Group rows of similar duration, longest first, into batches of bounded padded size.

    A clip that is more than `LARGEST_PADDING` shorter than the longest of the batch begins another.

    Args:
        durations: of the clips [s].
        batch_seconds: limit of the number of clips times the longest clip [s]; a clip longer than
            this is a batch of its own.
    """
    batches: list[list[int]] = []
    for row in np.argsort(-durations, kind="stable").tolist():
        longest = durations[batches[-1][0]] if batches else np.inf
        is_similar = durations[row] >= (1 - LARGEST_PADDING) * longest
        if is_similar and longest * (len(batches[-1]) + 1) <= batch_seconds:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches
