"""Conditioning of signals in memory."""

import numpy as np

from paraclap.audio import SAMPLING_RATE
from paraclap.audio.conditioning import condition
from paraclap.model import modeling_paraclap


def test_signal_in_memory_is_not_changed_by_conditioning():
    signal = np.array([2.0, -2.0, 0.5] * 100, dtype=np.float32)
    kept = signal.copy()
    assert condition(signal, 16_000).max() == np.float32(32767 / 32768)
    np.testing.assert_array_equal(signal, kept)


def test_model_file_has_the_same_sampling_rate():
    assert modeling_paraclap.SAMPLING_RATE == SAMPLING_RATE  # it cannot import paraclap
