"""Metrics against scikit-learn, plain loops and hand computation."""

import itertools

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score

from paraclap.evaluation import metrics, retrieval
from paraclap.evaluation.bootstrap import cluster_interval


@pytest.fixture(scope="module")
def answers():
    """Random truth and predictions of 5 classes, clustered by 12 speakers."""
    rng = np.random.default_rng(0)
    classes = np.array(list("abcde"), dtype=object)
    truth = rng.choice(classes, 600)
    right = rng.random(600) < 0.5
    prediction = np.where(right, truth, rng.choice(classes, 600))
    return truth, prediction, rng.integers(12, size=600).astype(str)


# --- Classes -------------------------------------------------------------------------------------


def test_scores_equal_scikit_learn(answers):
    truth, prediction, speakers = answers
    figures = metrics.score(truth, prediction, speakers)
    assert figures["UAR"] == pytest.approx(balanced_accuracy_score(truth, prediction))
    assert figures["ACC"] == pytest.approx((truth == prediction).mean())
    assert figures["chance"] == pytest.approx(0.2)
    assert (figures["clips"], figures["classes"], figures["speakers"]) == (600, 5, 12)


def test_scores_of_a_small_case_equal_hand_computation():
    # a: 1 of 2 correct, b: 1 of 1 correct, "c" is predicted but never true
    figures = metrics.score(["a", "a", "b"], ["a", "c", "b"])
    assert figures["UAR"] == pytest.approx((0.5 + 1.0) / 2)
    assert figures["ACC"] == pytest.approx(2 / 3)
    assert figures["F1"] == pytest.approx((2 / 3 + 1.0) / 2)
    assert figures["classes"] == 2 and figures["chance"] == 0.5
    assert figures["recall"] == {"a": 0.5, "b": 1.0}


def slow_bootstrap(truth, prediction, speakers, resamples=400):
    """Resample speakers one draw at a time, recalls counted clip by clip."""
    rng = np.random.default_rng(1)
    names = np.unique(speakers)
    values = []
    for _ in range(resamples):
        rows = np.concatenate(
            [np.flatnonzero(speakers == n) for n in rng.choice(names, len(names))]
        )
        values.append(balanced_accuracy_score(truth[rows], prediction[rows]))
    return np.quantile(values, [0.025, 0.975])


def test_interval_agrees_with_a_plain_bootstrap_over_speakers(answers):
    interval = metrics.score(*answers)["interval"]
    assert interval == pytest.approx(slow_bootstrap(*answers), abs=0.01)
    assert metrics.score(*answers)["interval"] == interval


def test_interval_is_wider_when_clips_of_a_speaker_agree():
    truth = np.tile(["a", "b"], 200)
    speakers = np.repeat(np.arange(10), 40)
    prediction = np.where(speakers < 5, truth, "a")  # half of the speakers at chance
    low, high = metrics.score(truth, prediction, speakers)["interval"]
    naive_low, naive_high = metrics.score(truth, prediction)["interval"]
    assert high - low > 2 * (naive_high - naive_low)


@pytest.mark.parametrize("speakers", [1, 2, 3])
def test_fewer_than_three_speakers_have_no_interval(speakers):
    truth, names = ["a", "a", "b", "b"] * speakers, np.repeat([*"stu"[:speakers]], 4)
    interval = metrics.score(truth, ["a", "b", "b", "b"] * speakers, names)["interval"]
    assert interval == (None if speakers < 3 else [0.75, 0.75])


def test_recall_and_support_are_given_by_class():
    figures = metrics.score(["b", "a", "b", "b"], ["b", "b", "b", "a"])
    assert figures["recall"] == {"a": 0.0, "b": pytest.approx(2 / 3)}
    assert figures["support"] == {"a": 1, "b": 3}


def test_uar_over_sessions_is_the_mean_of_each(answers):
    truth, prediction, speakers = answers
    sessions = np.array([str(int(s) % 3) for s in speakers])
    figures = metrics.score(truth, prediction, speakers, sessions)
    each = [balanced_accuracy_score(truth[sessions == s], prediction[sessions == s]) for s in "012"]
    assert figures["UAR"] == pytest.approx(np.mean(each), abs=1e-12)
    assert figures["UAR"] != pytest.approx(metrics.score(truth, prediction)["UAR"], abs=1e-6)
    low, high = figures["interval"]
    assert low < figures["UAR"] < high


def test_session_without_a_class_is_averaged_over_its_own_classes():
    truth, prediction = ["a", "b", "a"], ["a", "a", "a"]
    # session 1: a correct, b wrong; session 2: a correct, no b
    figures = metrics.score(truth, prediction, None, ["1", "1", "2"])
    assert figures["UAR"] == pytest.approx((0.5 + 1.0) / 2)


# --- Two classes and numbers ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def numbers():
    """A noisy value per clip for a label from 1 to 7, of 8 speakers."""
    rng = np.random.default_rng(1)
    labels = rng.integers(1, 8, 300).astype(float)
    return labels + rng.normal(size=300) * 3, labels, rng.integers(8, size=300).astype(str)


def test_area_equals_scikit_learn_with_ties(numbers):
    values, labels, speakers = numbers
    for given in (values, np.round(values / 3)):
        figures = metrics.score_poles(given, labels > 4, speakers)
        assert figures["AUC"] == pytest.approx(roc_auc_score(labels > 4, given), abs=1e-12)
    low, high = figures["AUC_interval"]
    assert low < figures["AUC"] < high


def test_rank_correlation_is_that_of_the_ranks(numbers):
    values, labels, speakers = numbers
    figures = metrics.score_numbers(values, labels, speakers)

    def ranks(x):
        return np.array([(x < v).sum() + ((x == v).sum() + 1) / 2 for v in x])

    expected = np.corrcoef(ranks(values), ranks(labels))[0, 1]
    assert figures["Spearman"] == pytest.approx(expected, abs=1e-12)
    low, high = figures["Spearman_interval"]
    assert low < expected < high


def test_cluster_interval_agrees_with_a_plain_bootstrap(numbers):
    values, _, speakers = numbers
    interval = cluster_interval(lambda rows: values[rows].mean(), speakers)
    rng, names = np.random.default_rng(2), np.unique(speakers)
    means = [
        np.concatenate([values[speakers == n] for n in rng.choice(names, len(names))]).mean()
        for _ in range(2000)
    ]
    assert interval == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.03)
    assert cluster_interval(np.mean, [*"sstts"]) is None


def test_resamples_without_a_value_are_ignored():
    # Each speaker has one class, so some resamples have only one and no AUC.
    figures = metrics.score_poles(
        np.array([2.0, 1.0, 1.5, 0.0]), np.array([True, True, False, False]), ["a", "b", "c", "d"]
    )
    assert figures == {"AUC": 0.75, "AUC_interval": [0.0, 1.0]}


def test_area_of_one_speaker_in_a_class_has_no_interval():
    # All resamples with both classes have the same value: [1, 1] would look like certainty.
    values, is_high = np.array([2.0, 1.0, 0.0, 0.5]), np.array([True, True, False, False])
    figures = metrics.score_poles(values, is_high, ["a", "a", "b", "c"])
    assert figures == {"AUC": 1.0, "AUC_interval": None}


# --- Calibration ---------------------------------------------------------------------------------


def test_calibration_of_three_clips_equals_hand_computation():
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.25, 0.75]])
    figures = metrics.calibration(["a", "b", "b"], probabilities, ["a", "b"])
    # two clips in the bin of 0.9, half of them correct; one in that of 0.75, correct
    assert figures["ECE"] == pytest.approx(2 / 3 * 0.4 + 1 / 3 * 0.25)
    assert figures["NLL"] == pytest.approx(-np.log([0.9, 0.1, 0.75]).mean())
    assert figures["Brier"] == pytest.approx((0.02 + 1.62 + 0.125) / 3)
    assert [b["clips"] for b in figures["bins"]] == [1, 2]


def test_calibration_bins_equal_scikit_learn():
    rng = np.random.default_rng(3)
    probabilities = rng.dirichlet(np.ones(4), 500)
    classes = np.array(list("abcd"))
    truth = [rng.choice(classes, p=row) for row in probabilities]
    figures = metrics.calibration(truth, probabilities, classes)
    right = classes[probabilities.argmax(axis=1)] == truth
    accuracy, confidence = calibration_curve(right, probabilities.max(axis=1), n_bins=15)
    assert [b["accuracy"] for b in figures["bins"]] == pytest.approx(accuracy.tolist())
    assert [b["confidence"] for b in figures["bins"]] == pytest.approx(confidence.tolist())
    assert sum(b["clips"] for b in figures["bins"]) == 500
    assert figures["ECE"] < 0.1, "the probabilities are calibrated"


# --- Retrieval -----------------------------------------------------------------------------------


def over_all_orders(similarity, is_relevant):
    """Mean scores of one query over every order of its tied items, by plain loops."""
    figures = {"R@1": [], "R@5": [], "AP": [], "rank": []}
    for order in itertools.permutations(range(len(similarity))):
        ranked = sorted(order, key=lambda item: -similarity[item])
        hits = [is_relevant[item] for item in ranked]
        figures["R@1"].append(any(hits[:1]))
        figures["R@5"].append(any(hits[:5]))
        precisions = [sum(hits[: k + 1]) / (k + 1) for k, hit in enumerate(hits) if hit]
        figures["AP"].append(sum(precisions) / len(precisions))
        figures["rank"].append(hits.index(True) + 1)
    return {name: np.mean(values) for name, values in figures.items()}


@pytest.mark.parametrize(
    "similarity",
    [
        [0.9, 0.5, 0.4, 0.3, 0.2, 0.1],
        [0.9, 0.5, 0.5, 0.5, 0.2, 0.2],
        [0.5, 0.5, 0.5, 0.5, 0.5, 0.5],
        [0.1, 0.9, 0.9, 0.1, 0.9, 0.1],
    ],
)
def test_ties_score_as_the_mean_over_their_orders(similarity):
    is_relevant = [False, False, True, True, False, True]
    items = np.column_stack([similarity, np.zeros(6)])
    ranked = retrieval.retrieve(np.array([[1.0, 0.0]]), items, lambda _: np.array([is_relevant]))
    expected = over_all_orders(similarity, is_relevant)
    if len(set(similarity)) == 6:
        assert expected["AP"] == pytest.approx(average_precision_score(is_relevant, similarity))
    for name, value in expected.items():
        assert ranked[name][0] == pytest.approx(value, abs=1e-12), name


def test_all_items_of_the_wanted_kind_are_relevant():
    rng = np.random.default_rng(4)
    items = rng.normal(size=(30, 8))
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    kinds = np.arange(30) // 3  # three clips share each caption
    ranked = retrieval.retrieve(items, items, lambda rows: kinds[rows, None] == kinds)
    assert (ranked["rank"] <= 1).all() and (ranked["R@1"] == 1).all()
    assert (ranked["AP"] < 1).any(), "the two others are not found first"


def test_chunks_do_not_change_retrieval(monkeypatch):
    rng = np.random.default_rng(5)
    queries, items = rng.normal(size=(20, 6)), rng.normal(size=(15, 6))
    wanted, kinds = rng.integers(5, size=20), np.arange(15) % 5
    data = queries, items, lambda rows: wanted[rows, None] == kinds
    whole = retrieval.retrieve(*data)
    monkeypatch.setattr(retrieval, "SIMILARITIES", 40)
    assert whole.equals(retrieval.retrieve(*data))


def pairs(kinds):
    """Arguments of `score_retrieval` for clips whose captions are of these kinds."""
    return lambda clips, captions: kinds[clips, None] == np.unique(kinds)[captions], kinds


def test_constant_embeddings_are_at_chance():
    same = np.tile([0.6, 0.8], (40, 1))
    both = retrieval.score_retrieval(same, same[:20], *pairs(np.arange(40) // 2))
    for figures in both.values():
        for name, chance in figures["chance"].items():
            assert figures[name] == pytest.approx(chance), name
    chance = both["text_to_audio"]["chance"]
    assert chance["R@1"] == pytest.approx(2 / 40) and chance["mean_rank"] == pytest.approx(41 / 3)
    assert chance["R@10"] == pytest.approx(1 - (30 * 29) / (40 * 39))
    assert both["audio_to_text"]["chance"]["R@1"] == pytest.approx(1 / 20)


def test_unknown_pairs_are_left_out_of_the_ranking():
    rng = np.random.default_rng(6)
    queries, items = rng.normal(size=(12, 4)), rng.normal(size=(30, 4))
    relevance = rng.choice([0, 1, np.nan], size=(12, 30), p=[0.6, 0.2, 0.2])
    ranked = retrieval.retrieve(queries, items, lambda rows: relevance[rows])
    for query, row, found in zip(queries, relevance, ranked.to_dict("records"), strict=True):
        known = ~np.isnan(row)
        alone = retrieval.retrieve(query[None], items[known], lambda _, r=row[known]: r[None])
        assert found == alone.iloc[0].to_dict()


def test_intervals_of_retrieval_resample_speakers_in_both_directions():
    """A caption counts once, however many clips it has: each of them has a share of it."""
    rng = np.random.default_rng(7)
    kinds, speakers = np.sort(rng.integers(9, size=60)), rng.integers(8, size=60)
    kinds[:9] = np.arange(9)
    audio, texts = rng.normal(size=(60, 4)), rng.normal(size=(9, 4))
    figures = retrieval.score_retrieval(audio, texts, *pairs(kinds), speakers)
    assert figures == retrieval.score_retrieval(
        audio, texts, *pairs(kinds), speakers, chance={n: f["chance"] for n, f in figures.items()}
    )
    matches = pairs(kinds)[0]
    everything = slice(None)
    hits = retrieval.retrieve(texts, audio, lambda rows: matches(everything, rows).T)["R@1"]
    shares, values = 1 / np.bincount(kinds)[kinds], hits.to_numpy()[kinds]
    expected = {
        "text_to_audio": lambda rows: np.average(values[rows], weights=shares[rows]),
        "audio_to_text": lambda rows: found[rows].mean(),
    }
    found = retrieval.retrieve(audio, texts, lambda rows: matches(rows, everything))["R@1"]
    found = found.to_numpy()
    for name, statistic in expected.items():
        assert figures[name]["R@1"] == pytest.approx(statistic(np.arange(60)))
        assert figures[name]["interval"] == pytest.approx(cluster_interval(statistic, speakers))
    two = retrieval.score_retrieval(audio, texts, *pairs(kinds), ["s", "t"] * 30)
    assert two["text_to_audio"]["interval"] is two["audio_to_text"]["interval"] is None
    clips = retrieval.score_retrieval(audio, texts, *pairs(kinds))
    low, high = clips["audio_to_text"]["interval"]
    assert low < clips["audio_to_text"]["R@1"] < high


def test_query_without_relevant_item_is_an_error():
    with pytest.raises(ValueError, match="no relevant item"):
        retrieval.retrieve(np.ones((1, 2)), np.ones((2, 2)), lambda _: np.zeros((1, 2)))
