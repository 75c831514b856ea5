"""Audio files for tests."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from paraclap.audio import SAMPLING_RATE, AudioError
from paraclap.audio.containers import read_duration
from paraclap.audio.reading import read_audio, read_crop, read_in_blocks


def tone(seconds: float = 1.0, rate: int = SAMPLING_RATE, frequency: float = 220.0) -> np.ndarray:
    """Return a sine wave of amplitude 0.5."""
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


def babble(seconds: float, rate: int = SAMPLING_RATE, seed: int = 0) -> np.ndarray:
    """Return tones and noise in turns, for which a variable bitrate varies."""
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(seed).normal(0, 0.2, len(time))
    return np.where(time % 1 < 0.4, tone(seconds, rate), noise.clip(-0.9, 0.9))


def write(path: Path, samples: np.ndarray, rate: int = SAMPLING_RATE, **options) -> Path:
    """Write an audio file and return its path."""
    soundfile.write(path, samples, rate, **options)
    return path


def reason_of(*arguments) -> str:
    """Return the reason why `read_audio` refuses a file."""
    with pytest.raises(AudioError) as caught:
        read_audio(*arguments)
    assert str(caught.value), "the message must not be empty"
    return caught.value.reason


def assert_read_alike(path: Path, seconds: float) -> np.ndarray:
    """Compare duration, segments, crops and blocks of a file with its waveform, and return it."""
    waveform = read_audio(path)
    assert read_duration(path) == pytest.approx(seconds, abs=0.08)
    assert len(waveform) == pytest.approx(read_duration(path) * SAMPLING_RATE, abs=2)
    edge = 400  # of the resampling filter
    for share in (0.1, 0.45, 0.7):
        start = int(4 * share * seconds) / 4  # a whole number of samples at each rate
        segment = read_audio(path, start, start + 0.5)
        expected = waveform[round(start * SAMPLING_RATE) :][: len(segment)]
        np.testing.assert_allclose(segment[edge:-edge], expected[edge:-edge], atol=2e-3)
        crop = read_crop(path, None, None, 0.5, share)
        first = round(share * (read_duration(path) - 0.5) * SAMPLING_RATE)
        np.testing.assert_allclose(crop, waveform[first : first + len(crop)], atol=1e-6)
    blocks: list[np.ndarray] = []
    read_in_blocks(path, blocks.append)
    np.testing.assert_array_equal(np.concatenate(blocks), waveform)
    return waveform
