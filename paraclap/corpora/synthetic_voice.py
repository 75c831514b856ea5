"""Source-filter model of a voice: from a speaker and a prosody to a waveform.

Glottal pulses with jitter and shimmer, plus breath noise, pass through the formants of a vocal
tract; syllables, unvoiced consonants and pauses give rhythm.

Shapes: T samples, N block edges (`BLOCK` samples apart), C glottal cycles, F formants.
"""

from dataclasses import dataclass

import numpy as np
import scipy.signal

from paraclap.audio import SAMPLING_RATE
from paraclap.corpora.synthetic_speakers import Prosody, Speaker, random_normal, semitones

BLOCK = 128  # samples (8 ms) between updates of the vocal tract
RINGING = 1024  # samples (64 ms) of a frame and the decay of its formants
DURATIONS = (1.0, 4.0)  # s, shortest and longest clip
PEAK = 0.97  # highest magnitude of a sample
NOISE_FLOOR = -78.0  # dB re full scale
F0_BOUNDS = (60.0, 520.0)  # Hz
VOWELS = {  # first three formants of a male voice in Hz
    "a": (730.0, 1200.0, 2450.0), "e": (480.0, 1850.0, 2500.0), "i": (290.0, 2250.0, 2950.0),
    "o": (490.0, 880.0, 2420.0), "u": (320.0, 900.0, 2270.0), "ɛ": (580.0, 1750.0, 2480.0),
}  # fmt: skip
SCHWA = (500.0, 1500.0, 2500.0)  # Hz, uniform tube of 17 cm
HIGHER_FORMANTS = (3400.0, 4300.0, 5200.0, 6200.0)  # Hz
BANDWIDTHS = (70.0, 90.0, 130.0, 200.0, 260.0, 350.0, 450.0)  # Hz
CONSONANTS = {  # centre and bandwidth in Hz, level in dB re vowel, share of the syllable
    "s": (5600.0, 1800.0, -15.0, 0.36),
    "sh": (3200.0, 1300.0, -13.0, 0.36),
    "f": (4500.0, 4500.0, -22.0, 0.30),
    "k": (1900.0, 900.0, -16.0, 0.16),
    "t": (4200.0, 2200.0, -16.0, 0.14),
    "voiced": (1000.0, 1000.0, -90.0, 0.10),  # only lowers the envelope
}


@dataclass(frozen=True)
class Syllable:
    """Consonant and vowel, with their times in the clip [s]."""

    start: float
    onset: float  # of the vowel
    end: float
    consonant: str
    vowel: str
    accent: float  # semitones
    stress: float  # dB


def render(speaker: Speaker, prosody: Prosody, rng: np.random.Generator) -> np.ndarray:
    """Return random syllables as a waveform (T,), float32 in [-0.97, 0.97] at 16 kHz, 1 to 4 s."""
    syllables, samples = plan_syllables(prosody.rate * speaker.rate, prosody, rng)
    envelope = _envelope(syllables, samples)
    f0 = speaker.f0 * semitones(_f0_contour(prosody, syllables, samples, rng))
    f0 = np.clip(f0, *F0_BOUNDS)
    flow = glottal_flow(f0, prosody.open_quotient, prosody.jitter, prosody.shimmer, rng)
    pulses = spectral_tilt(np.diff(flow, prepend=0.0), prosody.tilt + speaker.tilt)
    pulses /= np.sqrt(np.mean(pulses**2))
    breath = (0.4 + flow / flow.max()) * rng.standard_normal(samples)
    breath *= _decibels(-prosody.hnr - speaker.hnr) / np.sqrt(np.mean(breath**2))
    source = (pulses + breath) * envelope
    voice = vocal_tract(source, _formants(speaker, prosody, syllables, samples))
    voice /= np.sqrt(np.mean(voice[envelope > 0.5 * envelope.max()] ** 2))
    voice += _consonants(syllables, samples, rng)
    waveform = voice * _decibels(prosody.level + speaker.gain)
    waveform += _decibels(NOISE_FLOOR) * rng.standard_normal(samples)
    return (waveform * min(1.0, PEAK / np.abs(waveform).max())).astype(np.float32)


def plan_syllables(
    rate: float, prosody: Prosody, rng: np.random.Generator
) -> tuple[list[Syllable], int]:
    """Draw syllables, `rate` per second, and return them with the number of samples (1 to 4 s)."""
    shortest, longest = DURATIONS
    time = rng.uniform(0.05, 0.12)
    closing = rng.uniform(0.06, 0.15)
    syllables = []
    for _ in range(rng.integers(5, 12)):
        duration = np.exp(random_normal(rng, 0.18)) / rate
        consonant = str(rng.choice(list(CONSONANTS)))
        syllable = Syllable(
            start=time,
            onset=time + CONSONANTS[consonant][-1] * duration,
            end=time + duration,
            consonant=consonant,
            vowel=str(rng.choice(list(VOWELS))),
            accent=random_normal(rng, prosody.f0_range),
            stress=random_normal(rng, prosody.stress),
        )
        pause = rng.uniform(0.12, 0.3) if rng.random() < prosody.pause else 0.0
        if syllable.end + closing > longest:
            break
        syllables.append(syllable)
        time = syllable.end + pause
    duration = max(syllables[-1].end + closing, shortest)
    return syllables, round(duration * SAMPLING_RATE)


def glottal_flow(
    f0: np.ndarray, open_quotient: float, jitter: float, shimmer: float, rng: np.random.Generator
) -> np.ndarray:
    """Return the glottal flow (T,): pulses x^2 (1 - x) as in KLGLOTT88 (Klatt & Klatt 1990).

    `f0` (T,) is in Hz and does not affect the slope. The glottis is open for a share
    `open_quotient` of the cycle. On average, consecutive periods differ by `jitter` (relative) and
    amplitudes by `shimmer` dB. The flow is continuous, so that glottal closures may lie between
    samples.
    """
    samples = np.arange(len(f0))
    starts, periods = _glottal_cycles(f0, jitter, rng)  # (C,), (C,)
    gains = _decibels(_perturbation(shimmer, len(periods), rng))  # (C,)
    cycle = np.searchsorted(starts, samples, side="right") - 1  # (T,)
    opening = (samples - starts[cycle]) / (open_quotient * periods[cycle])
    pulse = np.where(opening < 1, 6.75 * opening**2 * (1 - opening), 0.0)
    return pulse * (gains * periods)[cycle]


def _glottal_cycles(
    f0: np.ndarray, jitter: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return start and length of each cycle in (fractional) samples, both (C,)."""
    padded = np.pad(f0, (0, SAMPLING_RATE // 4), mode="edge")  # jitter may shorten the signal
    phase = np.concatenate([[0.0], np.cumsum(padded / SAMPLING_RATE)])
    bounds = np.interp(np.arange(int(phase[-1]) + 1), phase, np.arange(len(phase)))
    periods = np.diff(bounds)
    periods *= 1 + np.clip(_perturbation(jitter, len(periods), rng), -0.4, 0.4)
    return np.cumsum(periods) - periods, periods


def _perturbation(difference: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw normal values (count,) whose neighbours differ by `difference` on average."""
    return rng.standard_normal(count) * difference * np.sqrt(np.pi) / 2


def _f0_contour(
    prosody: Prosody, syllables: list[Syllable], samples: int, rng: np.random.Generator
) -> np.ndarray:
    """Return F0 (T,) in semitones re the mean: accents, declination, tremor, final fall."""
    time = np.arange(samples) / SAMPLING_RATE
    middles = [(syllable.onset + syllable.end) / 2 for syllable in syllables]
    contour = np.interp(time, middles, [syllable.accent for syllable in syllables])
    contour = _smooth(contour, 0.08)
    contour += prosody.f0_shift + prosody.declination * (time - np.mean(middles))
    contour += prosody.tremor * np.sin(2 * np.pi * (6.0 * time + rng.random()))
    last = syllables[-1]
    fall = np.clip((time - last.onset) / (last.end - last.onset), 0, 1)
    return contour - 0.8 * prosody.f0_range * fall


def spectral_tilt(source: np.ndarray, tilt: float) -> np.ndarray:
    """Attenuate a source (T,) by `tilt` dB at 3 kHz and 0 dB at 0 Hz, with one real pole."""
    power = 10 ** (max(tilt, 0.1) / 10)
    middle = (power - np.cos(2 * np.pi * 3000 / SAMPLING_RATE)) / (power - 1)
    pole = middle - np.sqrt(middle**2 - 1)
    return scipy.signal.lfilter([1 - pole], [1, -pole], source)


def _formants(
    speaker: Speaker, prosody: Prosody, syllables: list[Syllable], samples: int
) -> np.ndarray:
    """Return formant frequencies (N, F) in Hz: constant in vowels, gliding between them."""
    blocks = np.arange(0, samples + BLOCK, BLOCK) / SAMPLING_RATE
    onsets, ends = np.array([(syllable.onset, syllable.end) for syllable in syllables]).T
    times = (onsets + np.array([[0.2], [0.8]]) * (ends - onsets)).T.ravel()
    vowels = np.repeat([VOWELS[syllable.vowel] for syllable in syllables], 2, axis=0)
    vowels = SCHWA + prosody.precision * (vowels - SCHWA)
    lower = np.stack([np.interp(blocks, times, vowel) for vowel in vowels.T], axis=1)
    higher = np.tile(HIGHER_FORMANTS, (len(blocks), 1))
    return speaker.formant_scale * prosody.formant_shift * np.concatenate([lower, higher], axis=1)


def vocal_tract(source: np.ndarray, formants: np.ndarray) -> np.ndarray:
    """Filter a source (T,) by resonators in cascade (Klatt 1980), with gain 1 at 0 Hz.

    Frames of two blocks are overlapped and added. Row n of `formants` (N, F) in Hz applies to
    sample n * BLOCK, the last row to a sample at or after T; F is at most `len(BANDWIDTHS)`.
    """
    starts = np.arange(len(formants)) * BLOCK
    places = starts[:, None] + np.arange(RINGING)  # (N, RINGING)
    window = np.hanning(2 * BLOCK + 1)[:-1]  # overlapping windows sum to 1
    padded = np.pad(source, (BLOCK, 2 * BLOCK))  # frames are centred on block edges
    frames = padded[places[:, : 2 * BLOCK]] * window
    spectra = np.fft.rfft(frames, RINGING) / np.fft.rfft(_resonators(formants), RINGING)
    sounds = np.fft.irfft(spectra, RINGING)
    output = np.bincount(places.ravel(), weights=sounds.ravel())
    return output[BLOCK : BLOCK + len(source)]


def _resonators(formants: np.ndarray) -> np.ndarray:
    """Return the coefficients (N, 2 F + 1) of all-pole filters with formants (N, F) in Hz."""
    count = formants.shape[1]
    frequency = np.minimum(formants, 0.47 * SAMPLING_RATE)
    radius = np.exp(-np.pi * np.array(BANDWIDTHS[:count]) / SAMPLING_RATE)
    first = -2 * radius * np.cos(2 * np.pi * frequency / SAMPLING_RATE)
    filters = np.zeros((len(formants), 2 * count + 1))
    filters[:, 0] = 1
    for formant in range(count):
        delayed = np.pad(filters, ((0, 0), (2, 0)))  # column 2 + n holds coefficient n
        filters += first[:, formant, None] * delayed[:, 1:-1]
        filters += radius[formant] ** 2 * delayed[:, :-2]
    return filters / filters.sum(axis=1, keepdims=True)


def _envelope(syllables: list[Syllable], samples: int) -> np.ndarray:
    """Return the amplitude of the voice (T,): 1 in unstressed vowels, 0 in unvoiced parts."""
    envelope = np.zeros(samples)
    for syllable in syllables:
        part = _part(syllable.onset, syllable.end, samples)
        fall = _window(part, attack=0.03, release=0.06)
        envelope[part] = np.maximum(envelope[part], _decibels(syllable.stress) * fall)
    return _smooth(envelope, 0.012)


def _consonants(syllables: list[Syllable], samples: int, rng: np.random.Generator) -> np.ndarray:
    """Return the noise of consonants (T,), relative to vowels of root mean square 1."""
    noise = np.zeros(samples)
    for syllable in syllables:
        centre, bandwidth, level, _ = CONSONANTS[syllable.consonant]
        part = _part(syllable.start, syllable.onset, samples)
        band = [max(centre - bandwidth / 2, 200.0), min(centre + bandwidth / 2, 7600.0)]
        coefficients = scipy.signal.butter(1, band, btype="bandpass", fs=SAMPLING_RATE)
        burst = scipy.signal.lfilter(*coefficients, rng.standard_normal(part.stop - part.start))
        burst *= _decibels(level + syllable.stress) / np.sqrt(np.mean(burst**2))
        noise[part] += burst * _window(part, attack=0.005, release=0.015)
    return noise


def _part(start: float, end: float, samples: int) -> slice:
    """Return the samples between two times in seconds."""
    return slice(round(start * SAMPLING_RATE), min(round(end * SAMPLING_RATE), samples))


def _window(part: slice, attack: float, release: float) -> np.ndarray:
    """Return a window with raised-cosine slopes of `attack` and `release` seconds."""
    index = np.arange(part.stop - part.start) + 0.5
    rise = np.minimum(index / (attack * SAMPLING_RATE), 1)
    fall = np.minimum(index[::-1] / (release * SAMPLING_RATE), 1)
    return 0.25 * (1 - np.cos(np.pi * rise)) * (1 - np.cos(np.pi * fall))


def _smooth(values: np.ndarray, duration: float) -> np.ndarray:
    """Smooth with a Hann window of `duration` seconds; edge values are repeated."""
    half = round(duration * SAMPLING_RATE / 2)
    window = np.hanning(2 * half + 3)[1:-1]
    padded = np.pad(values, half, mode="edge")
    return scipy.signal.fftconvolve(padded, window / window.sum(), mode="valid")


def _decibels(level: float | np.ndarray) -> float | np.ndarray:
    return 10 ** (level / 20)
