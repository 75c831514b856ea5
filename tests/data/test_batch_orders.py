"""batch_orders.py: every epoch draws what it should, and the same after a restart at any step."""

from collections import Counter

import numpy as np
import pytest

from paraclap.data.sampler import (
    TrainingBatches,
    bucketed,
    kept_apart,
    length_sorted_batches,
    mixed,
    mixture_counts,
    shuffled,
    speaker_classes,
)


def by_row(seconds):
    """Durations of draws whose crops are as long as their rows."""
    return lambda drawn: seconds[drawn[:, 1]]


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
def test_batches_that_cannot_be_contrasted_are_refused(rows, size):
    with pytest.raises(ValueError, match=r"at least 2|do not fill"):
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


# --- Several corpora, and lengths ----------------------------------------------------------------


def epochs_of(batches, size):
    """(pass, row) of each epoch, as one list each."""
    flat = [draw for batch in batches for draw in batch]
    return [flat[first : first + size] for first in range(0, len(flat), size)]


def test_mixture_of_temperature_one_and_of_one_corpus_is_the_plain_permutation():
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
def test_counts_follow_the_temperature_and_add_up(sizes, exponent, counts):
    assert mixture_counts(sizes, exponent) == counts


def test_mixture_goes_through_each_corpus_evenly_and_never_repeats_a_draw():
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
    draws = bucketed(mixed([80, 20], 0.3, seed=2), by_row(seconds), 10, seed=2)
    whole = list(TrainingBatches(100, 10, 40, seed=2, draws=draws))
    again = bucketed(mixed([80, 20], 0.3, seed=2), by_row(seconds), 10, seed=2)
    assert list(TrainingBatches(100, 10, 40, seed=2, start=start, draws=again)) == whole[start:]
    other = bucketed(mixed([80, 20], 0.3, seed=3), by_row(seconds), 10, seed=3)
    assert list(TrainingBatches(100, 10, 40, seed=2, draws=other)) != whole


def test_bucketed_batches_hold_the_same_draws_of_similar_duration():
    seconds = np.random.default_rng(1).uniform(1, 5, 1005)
    draws = bucketed(shuffled(1005, 7), by_row(seconds), 10, seed=7)
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
    assert len(set(drawn)) == len(drawn) == 800  # what is drawn twice is of another pass
    of_rows = Counter(row for _, row in drawn)
    for name in counts:  # all clips of a class as often
        times = [of_rows[row] for row, label in enumerate(labels) if label == name]
        assert (
            exponent == class_sampling_exponent == 1
            or max(times) - min(times) <= 1
            or (
                class_sampling_exponent == 1  # passes are those of a corpus
            )
        )


# --- Speaker-aware batches -----------------------------------------------------------------------

SPEAKERS, BATCH = 7, 8


def drawn_apart(rng, rows, classes, bucket, exponent):
    """Draws of clips of unequal speakers and classes, and their groups."""
    shares = rng.dirichlet(np.full(SPEAKERS, 0.7))
    speakers = rng.choice(SPEAKERS, rows, p=shares).astype(str).astype(object)
    speakers[rng.random(rows) < 0.1] = None
    labels = rng.integers(classes, size=rows).astype(str)
    groups = speaker_classes(speakers, labels)
    sizes = [rows // 3, rows - rows // 3]
    plain = mixed(sizes, exponent, 5, labels, exponent)
    draws = kept_apart(plain, groups, BATCH, seed=5)
    if bucket:
        draws = bucketed(draws, by_row(rng.uniform(1, 9, rows)), BATCH, 5, groups)
    return draws, plain, groups


def repeated(draws, groups):
    """Clips of an epoch that share a batch with one of their group, beyond the first."""
    whole = draws[: len(draws) // BATCH * BATCH, 1].reshape(-1, BATCH)
    return sum(BATCH - len(set(groups[batch])) for batch in whole)


@pytest.mark.parametrize("bucket", [False, True])
@pytest.mark.parametrize("exponent", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("rows, classes", [(61, 1), (203, 3), (600, 6), (1000, 40)])
def test_a_group_meets_itself_only_where_it_has_more_clips_than_there_are_batches(
    rows, classes, exponent, bucket
):
    rng = np.random.default_rng([rows, classes])
    draws, plain, groups = drawn_apart(rng, rows, classes, bucket, exponent)
    batches = rows // BATCH
    for epoch in (0, 1, 5):
        found, former = draws(epoch), plain(epoch)
        assert sorted(map(tuple, found)) == sorted(map(tuple, former))  # none is dropped
        assert np.array_equal(found[batches * BATCH :], former[batches * BATCH :])
        sizes = np.bincount(groups[found[: batches * BATCH, 1]])
        assert repeated(found, groups) == np.maximum(sizes - batches, 0).sum()
        assert np.array_equal(found, draws(epoch))
    assert not np.array_equal(draws(0), draws(1))


def test_speaker_aware_batches_change_something():
    draws, plain, groups = drawn_apart(np.random.default_rng(1), 600, 6, False, 1.0)
    assert repeated(plain(0), groups) > 2 * repeated(draws(0), groups)


def test_clips_of_unknown_speaker_or_class_are_like_no_other():
    groups = speaker_classes(["a", "a", None, None, "a", "b"], ["x", "x", "x", "x", None, "x"])
    assert groups[0] == groups[1]
    assert len(set(groups)) == 5 and set(groups) == set(range(5))
    alone = speaker_classes([None] * 3, ["x"] * 3)
    assert sorted(alone) == [0, 1, 2]
    assert len(kept_apart(shuffled(3, 0), alone, 2, 0)(0)) == 3


@pytest.mark.parametrize("bucket", [False, True])
def test_one_group_alone_is_drawn_as_ever(bucket):
    """Where nothing can be kept apart, nothing hangs, and each clip has its turn."""
    groups = np.zeros(50, int)
    draws = kept_apart(shuffled(50, 1), groups, BATCH, 1)
    if bucket:
        draws = bucketed(draws, by_row(np.arange(50.0)), BATCH, 1, groups)
    assert sorted(draws(2)[:, 1]) == list(range(50))


def test_clips_meet_others_in_every_epoch():
    """Batches are no fixed classes: over epochs, every pair that may meet does so."""
    groups = speaker_classes([str(n % 4) for n in range(48)], [str(n % 3) for n in range(48)])
    draws = kept_apart(shuffled(48, 2), groups, BATCH, 2)
    met = np.zeros((48, 48), int)
    for epoch in range(400):
        for batch in draws(epoch)[:, 1].reshape(-1, BATCH):
            met[np.ix_(batch, batch)] += 1
    apart = groups[:, None] != groups
    same = ~apart & ~np.eye(48, dtype=bool)
    assert not met[same].any()
    expected = 400 * 7 / 44
    assert 0.5 * expected < met[apart].min() and met[apart].max() < 1.6 * expected


def test_buckets_of_speaker_aware_batches_are_still_of_similar_duration():
    rng = np.random.default_rng(0)
    groups = speaker_classes(rng.integers(20, size=1364).astype(str), rng.integers(8, size=1364))
    seconds = rng.uniform(1, 9, 1364)

    def padding(draws):
        lengths = seconds[draws(0)[: 42 * 32, 1]].reshape(-1, 32)
        return 32 * lengths.max(axis=1).sum() / lengths.sum()

    apart = kept_apart(shuffled(1364, 0), groups, 32, 0)
    assert padding(apart) > 1.6
    assert padding(bucketed(apart, by_row(seconds), 32, 0, groups)) < 1.1


@pytest.mark.parametrize("start", [1, 24, 25, 60])
def test_speaker_aware_batches_are_the_same_after_a_restart(start):
    def batches(start):
        draws, *_ = drawn_apart(np.random.default_rng(3), 203, 3, True, 0.5)
        return list(TrainingBatches(203, BATCH, 70, 5, start, draws))

    assert batches(start) == batches(0)[start:]
