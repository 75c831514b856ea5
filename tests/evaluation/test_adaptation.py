"""Adaptation without labels: hand-computed cases."""

import numpy as np
import pytest

from paraclap.evaluation.adaptation import FEWEST_CLIPS, Reference, reference_of


def test_a_common_component_is_removed():
    """Both clips are nearer to the first prompt, (1, 0), because of what they have in common."""
    clips = np.array([[0.96, 0.28], [0.8, 0.6]], np.float32)
    with pytest.warns(UserWarning, match="corpus: the mean embedding of 2 clips"):
        reference = reference_of(clips, "corpus")
    assert reference.clips == 2 and reference.mean == pytest.approx([0.88, 0.44])
    # The differences (0.08, -0.16) and (-0.08, 0.16) have the length 0.08 * sqrt(5).
    expected = np.array([[1, -2], [-1, 2]]) / np.sqrt(5)
    assert reference.centred(clips) == pytest.approx(expected, abs=1e-5)
    assert (clips.argmax(axis=1) == 0).all()
    assert reference.centred(clips).argmax(axis=1).tolist() == [0, 1]


def test_an_embedding_equal_to_the_mean_becomes_zero():
    reference = Reference(np.array([0.6, 0.8], np.float32), 1)
    rounded = np.array([[0.6, 0.8 + 1e-7], [0.8, 0.6]], np.float32)
    centred = reference.centred(rounded)
    assert np.abs(centred[0]).max() < 0.1 and np.linalg.norm(centred[1]) == pytest.approx(1)


@pytest.mark.filterwarnings("error")
def test_enough_clips_give_no_warning():
    reference_of(np.ones((FEWEST_CLIPS, 2), np.float32), "corpus")
