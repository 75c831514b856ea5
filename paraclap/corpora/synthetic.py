"""Write a small corpus of emotional, speech-like clips made by a source-filter voice model.

No recording is used. Glottal pulses with jitter and shimmer, plus breath noise, pass through the
formants of a vocal tract; syllables, unvoiced consonants and pauses give rhythm. Speakers differ in
sex, pitch, vocal-tract length, rate, loudness and voice quality, and six emotions change the
prosody as the literature on vocal expression describes. Classes overlap: clips differ in how
strongly they express their emotion.

    python preprocessing/synthetic_corpus.py -o data/synthetic
    python preprocessing/synthetic_corpus.py -o data/toy --speakers 6 --clips-per-emotion 2 --seed 1
    python -m preprocessing.synthetic_corpus -o data/synthetic --force

The output is an audformat database: db.yaml, the tables emotion.train, emotion.dev and emotion.test
(speakers disjoint, both sexes in each) as CSV, and 16 kHz 16-bit mono WAV files below audio/. The
same arguments give the same bytes, however many workers make them.
"""

# Shapes: T samples, N block edges, each BLOCK samples apart, C glottal cycles, F formants.

from __future__ import annotations

import dataclasses
import functools
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import audformat
import numpy as np
import scipy.signal
import soundfile
from tqdm import tqdm

from paraclap.audio import SAMPLING_RATE
from paraclap.files import atomic_folder

BLOCK = 128  # samples (8 ms) between two settings of the vocal tract
RINGING = 1024  # samples (64 ms) of a frame and the decay of its formants
DURATIONS = (1.0, 4.0)  # s, shortest and longest clip
PEAK = 0.97  # highest magnitude of a sample
NOISE_FLOOR = -78.0  # dB re full scale
F0_BOUNDS = (60.0, 520.0)  # Hz
MIN_SPEAKERS = 6  # one woman and one man in each of three splits
RECIPE = 1  # stored with a corpus; raise it when the sound or the tables change


@dataclasses.dataclass(frozen=True)
class Prosody:
    """How one clip is spoken; levels are those of the vowels."""

    f0_shift: float  # semitones above the speaker's own mean
    f0_range: float  # semitones, standard deviation of the accents
    declination: float  # semitones per second
    tremor: float  # semitones, depth of a 6 Hz modulation of F0
    level: float  # dB re full scale, root mean square
    stress: float  # dB, standard deviation of level between syllables
    rate: float  # syllables per second, pauses not counted
    pause: float  # probability of a pause after a syllable
    tilt: float  # dB of extra attenuation of the glottal source at 3 kHz
    open_quotient: float  # share of the cycle with open glottis
    jitter: float  # mean relative difference of consecutive periods
    shimmer: float  # dB, mean difference of consecutive pulse amplitudes
    hnr: float  # dB, glottal pulses over breath noise
    precision: float  # distance of vowels from schwa, 1 = as in VOWELS
    formant_shift: float  # factor on all formants: spread lips > 1
    arousal: float  # 0 (calm) to 1 (excited)
    valence: float  # 0 (unpleasant) to 1 (pleasant)


# Directions of change follow Banse & Scherer (1996), Scherer (2003) and Juslin & Laukka (2003);
# sizes are ours. "anger" is hot anger, "fear" close to panic; arousal and valence are places on the
# circumplex (Russell 1980). Spread is the standard deviation between clips of one speaker and
# emotion; all clips stay between lowest and highest.
EMOTIONS = ("anger", "boredom", "fear", "happiness", "neutral", "sadness")
TABLE = (
    # anger boredom   fear happiness neutral sadness  spread lowest highest
    (  4.5,   -2.4,   5.5,      3.8,    0.0,   -1.2,    0.8,  -7.0,   12.0),  # f0_shift
    (  3.0,    0.7,   1.7,      3.3,    1.7,    1.0,    0.3,   0.2,    6.0),  # f0_range
    ( -2.2,   -1.0,  -0.4,     -0.8,   -1.5,   -1.8,    0.4,  -5.0,    1.5),  # declination
    (  0.0,    0.0,   0.4,      0.0,    0.0,   0.15,   0.05,   0.0,    1.0),  # tremor
    (-24.0,  -34.0, -30.0,    -28.5,  -32.0,  -37.5,    1.4, -46.0,  -19.0),  # level
    (  2.8,    1.0,   2.0,      2.4,    1.6,    1.2,    0.3,   0.3,    5.0),  # stress
    (  5.2,    3.6,   5.6,      5.1,    4.6,    3.6,   0.28,   2.6,    7.0),  # rate
    ( 0.05,   0.14,   0.1,     0.06,   0.08,   0.18,   0.03,   0.0,    0.4),  # pause
    (  3.0,   15.0,   9.0,      8.0,   12.0,   18.0,    1.4,   1.0,   26.0),  # tilt
    ( 0.48,   0.65,  0.62,     0.55,    0.6,   0.72,   0.03,  0.35,   0.85),  # open_quotient
    (0.012,  0.006, 0.018,    0.007,  0.006,  0.011, 0.0015, 0.001,   0.04),  # jitter
    (  0.6,   0.35,   0.7,      0.4,   0.35,    0.6,   0.08,  0.05,    1.5),  # shimmer
    ( 15.0,   20.0,  13.0,     21.0,   20.0,   14.0,    1.4,   6.0,   30.0),  # hnr
    ( 1.15,    0.8,  0.95,     1.05,    1.0,   0.85,   0.05,   0.5,    1.4),  # precision
    (  1.0,    1.0,   1.0,     1.04,    1.0,   0.98,   0.01,   0.9,    1.1),  # formant_shift
    ( 0.85,    0.2,  0.75,      0.7,    0.4,   0.25,   0.07,   0.0,    1.0),  # arousal
    ( 0.15,   0.35,   0.2,      0.9,    0.5,    0.2,   0.07,   0.0,    1.0),  # valence
)  # fmt: skip
*SPOKEN, SPREAD, LOWEST, HIGHEST = (Prosody(*column) for column in zip(*TABLE, strict=True))
PROSODY = dict(zip(EMOTIONS, SPOKEN, strict=True))
EXPRESSIVENESS = (1.0, 0.2)  # mean and standard deviation; 0 = neutral, 1 = as in PROSODY
SEXES = {"female": (205.0, 1.16), "male": (118.0, 1.0)}  # mean F0 in Hz, factor on formants
VOWELS = {  # first three formants in Hz of a man's voice
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
    "voiced": (1000.0, 1000.0, -90.0, 0.10),  # only the dip of the envelope is heard
}


@dataclasses.dataclass(frozen=True)
class Speaker:
    """One voice: what stays the same in all its clips."""

    name: str
    gender: str  # female or male
    age: int  # years; a label only, it does not change the voice
    f0: float  # Hz, mean of neutral speech
    formant_scale: float  # factor on VOWELS
    rate: float  # factor on the rate
    gain: float  # dB
    tilt: float  # dB, added to the tilt of the emotion
    hnr: float  # dB, added
    expressiveness: float  # factor on the distance from neutral


@dataclasses.dataclass(frozen=True)
class Syllable:
    """Consonant and vowel with their place in the clip; times in seconds."""

    start: float
    onset: float  # of the vowel
    end: float
    consonant: str
    vowel: str
    accent: float  # semitones
    stress: float  # dB


@dataclasses.dataclass(frozen=True)
class Clip:
    """One file to be made; all that decides its content."""

    speaker: Speaker
    emotion: str
    file: str  # relative to the corpus root
    stream: tuple[int, int, int, int]  # seed, then speaker, emotion and repetition


def make_speakers(count: int = 16, seed: int = 0) -> list[Speaker]:
    """Draw voices, alternately female and male; the n-th of a seed is the same for any count.

    Raises:
        ValueError: if count is below 6
    """
    if count < MIN_SPEAKERS:
        raise ValueError(f"{count} speakers, expected at least {MIN_SPEAKERS}: two in each split")
    speakers = []
    for index in range(count):
        rng = _random_stream(seed, index)
        gender = list(SEXES)[index % len(SEXES)]
        f0, formant_scale = SEXES[gender]
        speaker = Speaker(
            name=f"s{index + 1:02d}",
            gender=gender,
            age=int(rng.integers(20, 66)),
            f0=f0 * _semitones(_normal(rng, 1.5)),
            formant_scale=formant_scale * (1 + _normal(rng, 0.025)),
            rate=1 + _normal(rng, 0.07),
            gain=_normal(rng, 1.4),
            tilt=_normal(rng, 1.2),
            hnr=_normal(rng, 1.2),
            expressiveness=1 + _normal(rng, 0.07),
        )
        speakers.append(speaker)
    return speakers


def split_speakers(speakers: list[Speaker]) -> dict[str, list[Speaker]]:
    """Speakers of train, dev (an eighth) and test (a quarter), in pairs of a woman and a man."""
    pairs = len(speakers) // 2
    dev, test = (2 * max(1, round(pairs * share)) for share in (1 / 8, 1 / 4))
    train = len(speakers) - dev - test
    return {"train": speakers[:train], "dev": speakers[train:-test], "test": speakers[-test:]}


def draw_prosody(speaker: Speaker, emotion: str, rng: np.random.Generator) -> Prosody:
    """Draw how one clip is spoken: a point on the way from neutral to the emotion, plus spread.

    Raises:
        ValueError: if the emotion is not one of `PROSODY`
    """
    if emotion not in PROSODY:
        raise ValueError(f"emotion {emotion!r} is unknown, expected one of {', '.join(PROSODY)}")
    neutral, target, spread, lowest, highest = (
        np.array(dataclasses.astuple(prosody))
        for prosody in (PROSODY["neutral"], PROSODY[emotion], SPREAD, LOWEST, HIGHEST)
    )
    strength = speaker.expressiveness * max(0.0, rng.normal(*EXPRESSIVENESS))
    values = neutral + strength * (target - neutral) + spread * rng.standard_normal(spread.size)
    return Prosody(*np.clip(values, lowest, highest).tolist())


def synthesize(speaker: Speaker, emotion: str, rng: np.random.Generator) -> np.ndarray:
    """Speak one clip of an emotion.

    Returns:
        waveform (T,), float32 at 16 kHz, 1 to 4 s, magnitude at most 0.97

    Raises:
        ValueError: if the emotion is not one of `PROSODY`
    """
    return render(speaker, draw_prosody(speaker, emotion, rng), rng)


def render(speaker: Speaker, prosody: Prosody, rng: np.random.Generator) -> np.ndarray:
    """Speak random syllables with a given prosody; result as in `synthesize`."""
    syllables, samples = plan_syllables(prosody.rate * speaker.rate, prosody, rng)
    envelope = _envelope(syllables, samples)
    f0 = speaker.f0 * _semitones(_f0_contour(prosody, syllables, samples, rng))
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
    """Draw syllables, `rate` a second; with them the number of samples T of the clip, 1 to 4 s."""
    shortest, longest = DURATIONS
    time = rng.uniform(0.05, 0.12)
    closing = rng.uniform(0.06, 0.15)
    syllables = []
    for _ in range(rng.integers(5, 12)):
        duration = np.exp(_normal(rng, 0.18)) / rate
        consonant = str(rng.choice(list(CONSONANTS)))
        syllable = Syllable(
            start=time,
            onset=time + CONSONANTS[consonant][-1] * duration,
            end=time + duration,
            consonant=consonant,
            vowel=str(rng.choice(list(VOWELS))),
            accent=_normal(rng, prosody.f0_range),
            stress=_normal(rng, prosody.stress),
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
    """Air flow (T,) through the glottis: pulses x^2 (1 - x) as in KLGLOTT88 (Klatt & Klatt 1990).

    `f0` is in Hz (T,) and does not change the slope. The glottis is open for a share
    `open_quotient` of the cycle. Consecutive periods differ by `jitter` (relative) on average,
    amplitudes by `shimmer` dB. The flow is continuous, so its difference places closures between
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
    """First sample (may be a fraction) and length in samples of each cycle, (C,) both."""
    padded = np.pad(f0, (0, SAMPLING_RATE // 4), mode="edge")  # jitter may shorten the total
    phase = np.concatenate([[0.0], np.cumsum(padded / SAMPLING_RATE)])
    bounds = np.interp(np.arange(int(phase[-1]) + 1), phase, np.arange(len(phase)))
    periods = np.diff(bounds)
    periods *= 1 + np.clip(_perturbation(jitter, len(periods), rng), -0.4, 0.4)
    return np.cumsum(periods) - periods, periods


def _perturbation(difference: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """Normal values whose neighbours differ by `difference` on average, (count,)."""
    return rng.standard_normal(count) * difference * np.sqrt(np.pi) / 2


def _f0_contour(
    prosody: Prosody, syllables: list[Syllable], samples: int, rng: np.random.Generator
) -> np.ndarray:
    """F0 in semitones re the speaker's mean, (T,): accents, declination, tremor, final fall."""
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
    """Attenuate by `tilt` dB at 3 kHz, 0 dB at 0 Hz, with one real pole; (T,) to (T,)."""
    power = 10 ** (max(tilt, 0.1) / 10)
    middle = (power - np.cos(2 * np.pi * 3000 / SAMPLING_RATE)) / (power - 1)
    pole = middle - np.sqrt(middle**2 - 1)
    return scipy.signal.lfilter([1 - pole], [1, -pole], source)


def _formants(
    speaker: Speaker, prosody: Prosody, syllables: list[Syllable], samples: int
) -> np.ndarray:
    """Formant frequencies in Hz, (N, F): steady in vowels, gliding between them."""
    blocks = np.arange(0, samples + BLOCK, BLOCK) / SAMPLING_RATE
    onsets, ends = np.array([(syllable.onset, syllable.end) for syllable in syllables]).T
    times = (onsets + np.array([[0.2], [0.8]]) * (ends - onsets)).T.ravel()
    vowels = np.repeat([VOWELS[syllable.vowel] for syllable in syllables], 2, axis=0)
    vowels = SCHWA + prosody.precision * (vowels - SCHWA)
    lower = np.stack([np.interp(blocks, times, vowel) for vowel in vowels.T], axis=1)
    higher = np.tile(HIGHER_FORMANTS, (len(blocks), 1))
    return speaker.formant_scale * prosody.formant_shift * np.concatenate([lower, higher], axis=1)


def vocal_tract(source: np.ndarray, formants: np.ndarray) -> np.ndarray:
    """Pass a source (T,) through resonators in cascade (Klatt 1980), gain 1 at 0 Hz; (T,).

    Frames of two blocks are overlapped and added. Row n of `formants`, in Hz (N, F), holds at
    sample n * BLOCK, the last one at or after T; F is at most `len(BANDWIDTHS)`.
    """
    starts = np.arange(len(formants)) * BLOCK
    places = starts[:, None] + np.arange(RINGING)  # (N, RINGING)
    window = np.hanning(2 * BLOCK + 1)[:-1]  # sums to 1 with its neighbours
    padded = np.pad(source, (BLOCK, 2 * BLOCK))  # a frame is centred on the edge of its blocks
    frames = padded[places[:, : 2 * BLOCK]] * window
    spectra = np.fft.rfft(frames, RINGING) / np.fft.rfft(_resonators(formants), RINGING)
    sounds = np.fft.irfft(spectra, RINGING)
    output = np.bincount(places.ravel(), weights=sounds.ravel())
    return output[BLOCK : BLOCK + len(source)]


def _resonators(formants: np.ndarray) -> np.ndarray:
    """Coefficients (N, 2 F + 1) of the all-pole filters with formants (N, F) in Hz."""
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
    """Amplitude of the voice, (T,): 1 in a vowel of no stress, 0 where nothing is voiced."""
    envelope = np.zeros(samples)
    for syllable in syllables:
        part = _part(syllable.onset, syllable.end, samples)
        fall = _window(part, attack=0.03, release=0.06)
        envelope[part] = np.maximum(envelope[part], _decibels(syllable.stress) * fall)
    return _smooth(envelope, 0.012)


def _consonants(syllables: list[Syllable], samples: int, rng: np.random.Generator) -> np.ndarray:
    """Noise of the unvoiced consonants, (T,), relative to vowels of root mean square 1."""
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
    """Samples between two times in seconds."""
    return slice(round(start * SAMPLING_RATE), min(round(end * SAMPLING_RATE), samples))


def _window(part: slice, attack: float, release: float) -> np.ndarray:
    """Rise and fall as raised cosines that last `attack` and `release` seconds."""
    index = np.arange(part.stop - part.start) + 0.5
    rise = np.minimum(index / (attack * SAMPLING_RATE), 1)
    fall = np.minimum(index[::-1] / (release * SAMPLING_RATE), 1)
    return 0.25 * (1 - np.cos(np.pi * rise)) * (1 - np.cos(np.pi * fall))


def _smooth(values: np.ndarray, duration: float) -> np.ndarray:
    """Average over a Hann window of `duration` seconds; the edges are held."""
    half = round(duration * SAMPLING_RATE / 2)
    window = np.hanning(2 * half + 3)[1:-1]
    padded = np.pad(values, half, mode="edge")
    return scipy.signal.fftconvolve(padded, window / window.sum(), mode="valid")


def _decibels(level: float | np.ndarray) -> float | np.ndarray:
    return 10 ** (level / 20)


def _semitones(interval: float | np.ndarray) -> float | np.ndarray:
    return 2 ** (interval / 12)


def _normal(rng: np.random.Generator, deviation: float) -> float:
    """Normal value of mean 0, at most two deviations away."""
    return float(np.clip(rng.standard_normal(), -2, 2) * deviation)


def _random_stream(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def write_corpus(
    root: str | Path,
    speakers: int = 16,
    clips_per_emotion: int = 8,
    seed: int = 0,
    workers: int = 1,
    force: bool = False,
) -> bool:
    """Write the corpus as an audformat database, all of it or nothing.

    Args:
        root: folder to be made
        speakers: number of speakers, at least 6
        clips_per_emotion: number of clips of each speaker in each emotion
        seed: non-negative; another seed gives other speakers and clips
        workers: number of processes; 1 means this one
        force: replace the folder if it exists

    Returns:
        True if it was written, False if the same corpus was there already

    Raises:
        FileExistsError: if the folder holds something else and force is not given
        ValueError: if a number is too small, or the folder to replace is the working folder
    """
    for name, value, lowest in (
        ("clips_per_emotion", clips_per_emotion, 1), ("workers", workers, 1), ("seed", seed, 0)
    ):  # fmt: skip
        if value < lowest:
            raise ValueError(f"{name} is {value}, expected at least {lowest}")
    voices = make_speakers(speakers, seed)
    parameters = dict(
        recipe=RECIPE, speakers=speakers, clips_per_emotion=clips_per_emotion, seed=seed
    )
    root = Path(root).expanduser().resolve()
    if root.is_file() or (root.is_dir() and any(root.iterdir())):
        if not force and _is_finished(root, parameters):
            return False
        if not force:
            problem = f"{root} exists and does not hold this corpus whole"
            raise FileExistsError(f"{problem}; choose another or give --force to delete it")
        if not root.is_dir() or Path.cwd().is_relative_to(root):
            raise ValueError(f"{root} is a file or holds the working folder, it is not replaced")
    with atomic_folder(root) as folder:
        _write_database(folder, voices, parameters, workers)
    return True


def _is_finished(root: Path, parameters: dict[str, int]) -> bool:
    """Whether the folder holds the corpus of these parameters, with all its files."""
    if not (root / "db.yaml").is_file():
        return False
    if audformat.Database.load(root, load_data=False).meta.get("parameters") != parameters:
        return False
    return all((root / file).is_file() for file in audformat.Database.load(root).files)


def _write_database(
    root: Path, speakers: list[Speaker], parameters: dict[str, int], workers: int
) -> None:
    clips = [
        Clip(
            speaker=speaker,
            emotion=name,
            file=f"audio/{speaker.name}/{speaker.name}_{name}_{repetition + 1:02d}.wav",
            stream=(parameters["seed"], voice, emotion, repetition),
        )
        for voice, speaker in enumerate(speakers)
        for emotion, name in enumerate(PROSODY)
        for repetition in range(parameters["clips_per_emotion"])
    ]
    dimensions = _write_clips(root, clips, workers)
    database = _describe_database(speakers, parameters)
    for split, members in split_speakers(speakers).items():
        rows = [row for row, clip in enumerate(clips) if clip.speaker in members]
        spoken = [clips[row] for row in rows]
        columns = {
            "emotion": [clip.emotion for clip in spoken],
            "speaker": [clip.speaker.name for clip in spoken],
            "arousal": dimensions[rows, 0],
            "valence": dimensions[rows, 1],
        }
        index = audformat.filewise_index([clip.file for clip in spoken])
        database.splits[split] = audformat.Split(type=split)
        table = audformat.Table(index, split_id=split, media_id="synthetic")
        database[f"emotion.{split}"] = table
        for name, values in columns.items():
            table[name] = audformat.Column(scheme_id=name)
            table[name].set(values)
    database.save(root, storage_format="csv")


def _describe_database(speakers: list[Speaker], parameters: dict[str, int]) -> audformat.Database:
    """Header of the database: what its columns mean."""
    database = audformat.Database(
        name="paraclap-synthetic",
        source="preprocessing/synthetic_corpus.py",
        usage=audformat.define.Usage.UNRESTRICTED,
        description="Emotional, speech-like clips made by a source-filter voice model",
        author="ParaCLAP authors",
        license=audformat.define.License.CC0_1_0,
        meta={"parameters": parameters},
    )
    database.media["synthetic"] = audformat.Media(
        type="audio", format="wav", sampling_rate=SAMPLING_RATE, channels=1, bit_depth=16
    )
    database.schemes["emotion"] = audformat.Scheme(labels=list(PROSODY))
    people = {person.name: {"gender": person.gender, "age": person.age} for person in speakers}
    database.schemes["speaker"] = audformat.Scheme(labels=people)
    for dimension in ("arousal", "valence"):
        database.schemes[dimension] = audformat.Scheme("float", minimum=0, maximum=1)
    return database


def _write_clips(root: Path, clips: list[Clip], workers: int) -> np.ndarray:
    """Make all audio files; return arousal and valence, (clips, 2)."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        over = map if workers == 1 else functools.partial(pool.map, chunksize=8)
        made = over(_write_clip, [root] * len(clips), clips)
        return np.array(list(tqdm(made, "synthetic corpus", len(clips), unit="clip")))


def _write_clip(root: Path, clip: Clip) -> tuple[float, float]:
    """Make one audio file; return its arousal and valence."""
    rng = _random_stream(*clip.stream)
    prosody = draw_prosody(clip.speaker, clip.emotion, rng)
    waveform = render(clip.speaker, prosody, rng)
    samples = np.round(waveform * 2**15).astype(np.int16)
    (root / clip.file).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(root / clip.file, samples, SAMPLING_RATE, subtype="PCM_16")
    return round(prosody.arousal, 3), round(prosody.valence, 3)
