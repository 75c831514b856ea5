"""Sound that is not what it seems is read whole, refused or marked."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from audio_files import tone

from paraclap.audio import SAMPLING_RATE
from paraclap.audio.quality import quality_flags
from paraclap.audio.reading import read_audio

DATA = Path(os.environ.get("PARACLAP_DATA", Path(__file__).resolve().parents[2] / "../shared/data"))

# --- Containers ----------------------------------------------------------------------------------

# --- Cancelling channels -------------------------------------------------------------------------

# --- Silence and noise ---------------------------------------------------------------------------


def noise(exponent: float, seconds: float = 4.0) -> np.ndarray:
    """Return noise with a peak of 0.3 whose power falls with this exponent of the frequency."""
    frequencies = np.maximum(np.fft.rfftfreq(round(seconds * SAMPLING_RATE), 1 / SAMPLING_RATE), 1)
    spectrum = np.random.default_rng(0).normal(size=(2, len(frequencies))).T @ [1, 1j]
    samples = np.fft.irfft(spectrum * frequencies ** (-exponent / 2))
    return 0.3 * samples / np.abs(samples).max()


def hum(frequency: float) -> np.ndarray:
    """Return mains hum with its harmonics."""
    return sum(tone(4.0, frequency=order * frequency) / order for order in range(1, 10)) / 5


def voice(pitch: float) -> np.ndarray:
    """Return half a second of a vowel-like sound between two pauses with soft noise."""
    samples = noise(0.0, 2.0) * 0.01
    phases = 2 * np.pi * np.cumsum(pitch * np.linspace(1.2, 0.8, SAMPLING_RATE // 2))
    orders = np.arange(1, 20)
    vowel = sum(np.sin(order * phases / SAMPLING_RATE) / order for order in orders)
    samples[8000:16000] += 0.1 * vowel * np.hanning(8000)
    return samples


@pytest.mark.parametrize(
    "samples, flags",
    [
        (np.zeros(SAMPLING_RATE), ["silent"]),
        (np.zeros(100), ["silent"]),
        (np.full(SAMPLING_RATE, 0.2), ["silent"]),
        (noise(0.0) * 1e-3, ["silent"]),
        *(
            (noise(exponent) * gain, ["unvoiced"])
            for exponent in (-1, 0, 1, 2)
            for gain in (1, 0.1)
        ),
        (noise(0.0, 120.0), ["unvoiced"]),
        (hum(50), ["unvoiced"]),
        (hum(60), ["unvoiced"]),
        (np.eye(4, 8000).reshape(-1), ["unvoiced"]),  # four clicks
        *((voice(pitch) * gain, []) for pitch in (80, 120, 220, 400) for gain in (1, 0.01)),
        (np.tile(voice(120)[8000:16000], 3)[:6000], []),
    ],
)
def test_sound_without_speech_is_marked_at_any_level(samples, flags):
    assert quality_flags(samples.astype(np.float32)) == flags


def test_marks_of_speech_are_rare_and_cheap():
    files = sorted(DATA.glob("*/**/*.flac"))[::100]
    if not files:
        pytest.skip(f"{DATA} has no speech (set PARACLAP_DATA)")
    waveforms = [read_audio(file) for file in files]
    began = time.process_time()
    assert [quality_flags(waveform) for waveform in waveforms] == [[]] * len(files)
    seconds = sum(map(len, waveforms)) / SAMPLING_RATE
    assert time.process_time() - began < 0.005 * seconds


# --- Segments ------------------------------------------------------------------------------------

# --- Processors ----------------------------------------------------------------------------------

# --- Converted files -----------------------------------------------------------------------------
