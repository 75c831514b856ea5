"""Linear probe: speakers are disjoint, scale does not matter, impossible folds are refused."""

import numpy as np
import pytest

from paraclap.evaluation.probe import probe


def clips(speakers=10, each=12, size=6, seed=0):
    """Two classes, and a speaker's own offset in every embedding: (B, D), truth, speakers."""
    rng = np.random.default_rng(seed)
    names = np.repeat(np.arange(speakers), each)
    truth = np.tile(["calm", "tense"], speakers * each // 2)
    embeddings = rng.normal(size=(len(names), size))
    embeddings += 2 * rng.normal(size=(speakers, size))[names]
    return embeddings, truth, names.astype(str)


def test_probe_finds_a_class_only_if_it_is_in_the_embeddings():
    embeddings, truth, speakers = clips()
    assert probe(embeddings, truth, speakers)["UAR"] == pytest.approx(0.5, abs=0.12)
    embeddings[:, 0] = (truth == "tense") * 3 + np.random.default_rng(1).normal(size=len(truth))
    figures = probe(embeddings, truth, speakers)
    assert figures["UAR"] > 0.85 and figures["folds"] == 5
    assert figures["interval"][0] > 0.75 and figures["speakers"] == 10


def test_training_and_test_speakers_are_disjoint():
    # One label per speaker: it can only be predicted for speakers in the training part.
    embeddings, _, speakers = clips(speakers=20, size=40)
    truth = np.random.default_rng(3).permutation(["a", "b"] * 10)[speakers.astype(int)]
    shuffled = np.random.default_rng(4).permutation(speakers)
    assert probe(embeddings, truth, speakers)["UAR"] < 0.7
    assert probe(embeddings, truth, shuffled)["UAR"] > 0.9


def test_scale_of_the_embeddings_does_not_matter():
    embeddings, truth, speakers = clips()
    embeddings[:, 0] += (truth == "tense") * 2
    assert probe(embeddings, truth, speakers)["recall"] == pytest.approx(
        probe(embeddings * 1e-3 + 5, truth, speakers)["recall"], abs=0.02
    )


@pytest.mark.parametrize("truth, speakers", [(["a", "b"], ["s", "s"]), (["a", "a"], ["s", "t"])])
def test_one_speaker_or_one_class_is_refused(truth, speakers):
    with pytest.raises(ValueError, match="two speakers and two classes"):
        probe(np.zeros((2, 3)), truth, speakers)


def test_speakers_of_one_class_each_are_refused():
    embeddings, _, speakers = clips(speakers=2)
    truth = np.where(speakers == "0", "calm", "tense")
    with pytest.raises(
        ValueError, match="all clips are '(calm|tense)'. Do speakers have one class each"
    ):
        probe(embeddings, truth, speakers)


def test_classes_with_fewer_clips_than_folds_are_refused():
    with pytest.raises(ValueError, match="needs a class of 5 clips, the largest has 2"):
        probe(np.eye(6), list("aabbcc"), list("uvwxyz"))


def test_class_of_a_single_speaker_has_no_recall():
    embeddings, truth, speakers = clips()
    truth = np.where(speakers == "3", "rare", truth)
    assert probe(embeddings, truth, speakers)["recall"]["rare"] == 0.0


def test_undefined_features_are_replaced_within_a_fold():
    embeddings, truth, speakers = clips()
    embeddings[:, 0] += (truth == "tense") * 3
    rng = np.random.default_rng(2)
    holes = np.where(rng.random(embeddings.shape) < 0.05, np.nan, embeddings)
    holes[:, 4] = np.nan
    whole = probe(embeddings, truth, speakers)["UAR"]
    assert probe(holes, truth, speakers)["UAR"] == pytest.approx(whole, abs=0.1)
