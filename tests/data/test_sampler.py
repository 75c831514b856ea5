"""Samplers: what each epoch draws, and the same draws after a restart at any step."""

from collections import Counter

import numpy as np
import pytest

from paraclap.data.sampler import (
    TrainingBatches,
    bucketed,
    length_sorted_batches,
    mixed,
    mixture_counts,
    permuted_by_shards,
    shuffled,
)
from paraclap.settings import SettingsError


def test_an_epoch_takes_each_row_once():
    batches = TrainingBatches(rows=10, batch_size=5, steps=6, seed=0)
    assert batches.batches_per_epoch == 2
    order = [[row for _, row in batch] for batch in batches]
    epochs = [order[0] + order[1], order[2] + order[3], order[4] + order[5]]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert [{epoch for epoch, _ in batch} for batch in batches] == [{0}, {0}, {1}, {1}, {2}, {2}]
    assert list(TrainingBatches(10, 5, 6, seed=1)) != list(batches)


@pytest.mark.parametrize("rows, size", [(10, 1), (3, 4)])
def test_too_small_batches_are_refused(rows, size):
    with pytest.raises(SettingsError, match=r"at least 2|only 3 clips"):
        TrainingBatches(rows, size, 1, 0)


def test_length_sorted_batches_are_bounded_and_complete():
    durations = np.random.default_rng(0).uniform(0.5, 9, 200)
    durations[17] = 50.0
    batches = length_sorted_batches(durations, 30.0)
    assert sorted(row for batch in batches for row in batch) == list(range(200))
    assert batches[0] == [17]
    for batch in batches[1:]:
        assert durations[batch].max() * len(batch) <= 30.0
    padded = sum(durations[batch].max() * len(batch) for batch in batches)
    assert padded < 1.15 * durations.sum()
    assert all(len(batch) == 1 for batch in length_sorted_batches(durations, 0.0))


def test_few_clips_of_different_durations_are_not_padded_to_the_longest():
    durations = np.array([1.0, 9.0, 2.0, 1.1, 10.0, 2.1])
    assert length_sorted_batches(durations, 60.0) == [[4, 1], [5, 2], [3, 0]]


# --- Several corpora, and lengths ----------------------------------------------------------------


def epochs_of(batches, size):
    """(pass, row) of each epoch, as one list each."""
    flat = [draw for batch in batches for draw in batch]
    return [flat[first : first + size] for first in range(0, len(flat), size)]


def test_exponent_one_and_a_single_corpus_give_the_plain_permutation():
    plain = list(TrainingBatches(30, 5, 12, seed=4))
    for draws in (mixed([20, 10], 1.0, 4), mixed([30], 0.0, 4)):
        assert list(TrainingBatches(30, 5, 12, seed=4, draws=draws)) == plain


@pytest.mark.parametrize(
    "sizes, exponent, counts",
    [
        ([90, 10], 1.0, [90, 10]),
        ([90, 10], 0.0, [50, 50]),
        ([90, 10], 0.5, [75, 25]),
        ([3, 3, 4], 0.0, [4, 3, 3]),
    ],
)
def test_mixture_counts_follow_the_exponent_and_add_up(sizes, exponent, counts):
    assert mixture_counts(sizes, exponent) == counts


def test_mixture_covers_each_corpus_evenly_and_never_repeats_a_draw():
    batches = TrainingBatches(100, 10, 180, seed=0, draws=mixed([90, 10], 0.0, seed=0))
    draws = [draw for batch in batches for draw in batch]
    assert len(set(draws)) == len(draws) == 1800
    counts = Counter(row for _, row in draws)
    assert set(counts) == set(range(100))
    assert {counts[row] for row in range(90)} == {10}  # 900 draws of 90 rows
    assert {counts[row] for row in range(90, 100)} == {90}
    for epoch in epochs_of(batches, 100):
        assert sum(row >= 90 for _, row in epoch) == 50
    assert len({row >= 90 for _, row in draws[:10]}) == 2  # mixed within a batch


@pytest.mark.parametrize("start", [1, 9, 10, 33])
def test_mixed_and_bucketed_batches_are_the_same_after_a_restart(start):
    seconds = np.random.default_rng(1).uniform(1, 5, 100)
    draws = bucketed(mixed([80, 20], 0.3, seed=2), seconds, 10, seed=2)
    whole = list(TrainingBatches(100, 10, 40, seed=2, draws=draws))
    again = bucketed(mixed([80, 20], 0.3, seed=2), seconds, 10, seed=2)
    assert list(TrainingBatches(100, 10, 40, seed=2, start=start, draws=again)) == whole[start:]
    other = bucketed(mixed([80, 20], 0.3, seed=3), seconds, 10, seed=3)
    assert list(TrainingBatches(100, 10, 40, seed=2, draws=other)) != whole


def test_bucketed_batches_have_the_same_draws_and_similar_durations():
    seconds = np.random.default_rng(1).uniform(1, 5, 1005)
    draws = bucketed(shuffled(1005, 7), seconds, 10, seed=7)
    for epoch in (0, 1):
        order, plain = draws(epoch), shuffled(1005, 7)(epoch)
        assert sorted(map(tuple, order)) == sorted(map(tuple, plain))
        assert sorted(map(tuple, order[:1000])) == sorted(map(tuple, plain[:1000]))
        lengths = seconds[order[:1000, 1]].reshape(-1, 10)
        padded = 10 * lengths.max(axis=1).sum()
        assert padded < 1.05 * lengths.sum()
        longest = lengths.max(axis=1)
        assert abs(np.corrcoef(longest, np.arange(100))[0, 1]) < 0.5  # not from short to long
    assert not np.array_equal(draws(0)[:, 1], draws(1)[:, 1])


# --- Classes within corpora ----------------------------------------------------------------------

LABELS = ["angry"] * 10 + ["sad"] * 70 + ["anger"] * 15 + ["sadness"] * 5  # of 80 and 20 clips


@pytest.mark.parametrize(
    "exponent, class_sampling_exponent, counts",
    [
        (1.0, 0.0, {"angry": 40, "sad": 40, "anger": 10, "sadness": 10}),
        (0.0, 0.0, {"angry": 25, "sad": 25, "anger": 25, "sadness": 25}),
        (0.0, 1.0, {"anger": 37.5, "sadness": 12.5, "angry": 6.25, "sad": 43.75}),
        (1.0, 1.0, {"angry": 10, "sad": 70, "anger": 15, "sadness": 5}),
    ],
)
def test_share_of_a_corpus_is_divided_among_its_classes(exponent, class_sampling_exponent, counts):
    order = np.random.default_rng(0).permutation(80)  # classes in any order
    labels = [LABELS[row] for row in (*order, *range(80, 100))]
    draws = mixed([80, 20], exponent, 3, labels, class_sampling_exponent)
    epochs = [draws(epoch) for epoch in range(8)]
    found = Counter(labels[row] for epoch in epochs for _, row in epoch)
    assert found == pytest.approx({name: 8 * count for name, count in counts.items()}, abs=8)
    drawn = [tuple(draw) for epoch in epochs for draw in epoch]
    assert len(set(drawn)) == len(drawn) == 800  # repeats belong to another pass
    of_rows = Counter(row for _, row in drawn)
    for name in counts:  # all clips of a class are equally frequent
        times = [of_rows[row] for row, label in enumerate(labels) if label == name]
        # with class_sampling_exponent=1 passes are over the corpus, not over a class
        assert class_sampling_exponent == 1 or max(times) - min(times) <= 1


# --- Shards --------------------------------------------------------------------------------------

SHARDS = np.repeat(np.arange(20), 50)


def rows_of(draws, epoch=0):
    return draws(epoch)[:, 1]


def test_rows_of_few_shards_are_read_at_a_time():
    draws = shuffled(1000, 3, permuted_by_shards(SHARDS, 4))
    for epoch in range(3):
        rows = rows_of(draws, epoch)
        assert sorted(rows) == list(range(1000))
        groups = [set(SHARDS[rows[first : first + 200]]) for first in range(0, 1000, 200)]
        assert [len(group) for group in groups] == [4] * 5
        assert all(len(set(SHARDS[rows[k : k + 40]])) == 4 for k in range(0, 1000, 200))
    assert list(rows_of(draws, 0)) != list(rows_of(draws, 1))


def test_all_shards_at_once_are_shuffled_like_files():
    every = shuffled(1000, 3, permuted_by_shards(SHARDS, 20))
    np.testing.assert_array_equal(every(5), shuffled(1000, 3)(5))


def test_corpora_in_shards_are_mixed_evenly_and_each_in_its_order():
    permute = permuted_by_shards(np.append(SHARDS, np.full(500, 20)), 4)
    for exponent in (1.0, 0.0):
        rows = rows_of(mixed([1000, 500], exponent, 3, permute=permute))
        in_shards = rows[rows < 1000]
        first = set(SHARDS[in_shards[:200]])
        assert len(rows) == 1500 and len(first) == 4
        share = len(in_shards) / 1500
        for part in np.split(rows, 5):
            assert (part < 1000).mean() == pytest.approx(share, abs=0.1)
        if exponent:
            assert sorted(rows) == list(range(1500))
