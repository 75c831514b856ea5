"""Marks of waveforms without speech: silence, and sound without a voice.

    quality_flags(waveform)  # [] for speech, ["silent"] or ["unvoiced"]

A model answers for any sound: silence is "sad" and white noise "angry" with confidence. These marks
accompany such answers. A frame is voiced if its autocorrelation has a peak at a pitch period,
after the spectrum between 65 Hz and 2 kHz was tilted by 3 dB per octave, which leaves no such
peaks in noise of any colour. Whispered speech is unvoiced too; tones, music and other periodic
sounds count as voiced.

Letters: T samples at 16 kHz, N frames, S samples of a frame, K frequencies.
"""

from collections.abc import Iterable

import numpy as np

from paraclap.audio import SAMPLING_RATE

FRAME, HOP = 800, 320
"""Length of a frame and its distance to the next [samples]; three periods at 70 Hz need 43 ms."""
PERIODS = (32, 228)
"""Shortest and longest pitch period [samples]: 500 and 70 Hz."""
SILENT_LEVEL = 10 ** (-66 / 20)
"""Root mean square of the loudest frame below which a waveform is silent (-66 dB of full scale).
Of the 4210 clips of EmoDB, nEMO and RAVDESS used for the thresholds, the softest has -55 dB."""
VOICED_PEAK = 0.6
"""Height of a peak of the normalised autocorrelation from which a frame is voiced."""
VOICED_FRAMES = 3
"""Consecutive voiced frames from which a waveform is voiced. All of these clips have at least 3,
2 % do not with white noise at 0 dB; noise of any colour has at most 1, also in 10 minutes."""
AUDIBLE = 1e-3
"""Power of a frame relative to the loudest below which it is not considered (-30 dB)."""
BLOCK = 1500
"""Frames analysed at once (30 s), to bound memory."""
SEARCHED = 20
"""Frames around the loudest one that are analysed first; speech is voiced there."""

_SIZE = 1080  # of the Fourier transform: no lag of up to 228 wraps around
_WINDOW = np.hanning(FRAME).astype(np.float32)
_FREQUENCIES = np.fft.rfftfreq(_SIZE, 1 / SAMPLING_RATE)
_TILT = np.where((_FREQUENCIES >= 65) & (_FREQUENCIES <= 2000), _FREQUENCIES, 0).astype(np.float32)
_LAGS = PERIODS[1] + 2
_OVERLAP = np.fft.irfft(np.abs(np.fft.rfft(_WINDOW, _SIZE)) ** 2)[:_LAGS]
_OVERLAP = (_OVERLAP / _OVERLAP[0]).astype(np.float32)


def quality_flags(waveform: np.ndarray) -> list[str]:
    """Return `["silent"]` or `["unvoiced"]` for a waveform (T,) without speech, otherwise `[]`."""
    frames = _frames(waveform)
    power, energy = _levels(frames)
    if power.max() < SILENT_LEVEL**2:
        return ["silent"]
    first = max(0, int(power.argmax()) - SEARCHED // 2)
    if _is_voiced(frames[first:][:SEARCHED], _TILT.max() * energy.max()):
        return []
    return [] if _is_voiced(frames) else ["unvoiced"]


def have_flag(flags: Iterable[str], name: str) -> np.ndarray:
    """Return whether each text of flags, such as "clipped:0.0120;silent", has the named flag."""
    found = (name in [flag.partition(":")[0] for flag in text.split(";")] for text in flags)
    return np.fromiter(found, bool)


def _levels(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the power of each frame (N,) without its mean, and its energy."""
    blocks = np.array_split(frames, -(-len(frames) // BLOCK))
    power = np.concatenate([block.var(axis=1) for block in blocks])
    return power, FRAME * (power + np.square(frames.mean(axis=1)))


def _is_voiced(frames: np.ndarray, strongest: float = 0.0) -> bool:
    """Return whether enough consecutive frames of (N, S) are voiced.

    `strongest` is an upper bound of the tilted spectrum's power in other frames.
    """
    blocks = [_analyse(frames[first:][:BLOCK]) for first in range(0, len(frames), BLOCK)]
    strength, peaks = (np.concatenate(values) for values in zip(*blocks, strict=True))
    strongest = max(strongest, strength.max())
    voiced = (peaks >= VOICED_PEAK) & (strength >= AUDIBLE * strongest)
    runs = np.diff(np.flatnonzero(np.concatenate([[True], ~voiced, [True]]))) - 1
    return runs.max() >= min(VOICED_FRAMES, len(voiced))


def _frames(waveform: np.ndarray) -> np.ndarray:
    """Return frames (N, S) as a view; a short waveform is one frame."""
    missing = max(0, FRAME - len(waveform))
    padded = np.pad(waveform.astype(np.float32, copy=False), (0, missing))
    return np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::HOP]


def _analyse(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the power of the tilted spectrum of each frame (N,), and its highest peak."""
    spectrum = np.square(np.abs(np.fft.rfft(frames * _WINDOW, _SIZE))) * _TILT
    correlation = np.fft.irfft(spectrum, _SIZE)[:, :_LAGS] / _OVERLAP
    strength = np.maximum(correlation[:, 0], np.finfo(np.float32).tiny)
    low, high = PERIODS
    centre = correlation[:, low : high + 1]
    before, after = correlation[:, low - 1 : high], correlation[:, low + 1 : high + 2]
    peaks = np.where((centre >= before) & (centre >= after), centre, 0).max(axis=1)
    return strength, peaks / strength
