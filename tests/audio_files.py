"""Audio files for tests."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from paraclap.audio import SAMPLING_RATE, AudioError
from paraclap.audio.reading import read_audio


def tone(seconds: float = 1.0, rate: int = SAMPLING_RATE, frequency: float = 220.0) -> np.ndarray:
    """Return a sine wave of amplitude 0.5."""
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


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
