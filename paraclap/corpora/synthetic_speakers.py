"""Speakers of the synthetic corpus, and the prosody of their clips.

Directions of change follow Banse & Scherer (1996), Scherer (2003) and Juslin & Laukka (2003), their
sizes are chosen freely. "anger" is hot anger, "fear" close to panic; arousal and valence are
positions on the circumplex (Russell 1980).
"""

import dataclasses

import numpy as np

from paraclap.corpora import CorpusError

MIN_SPEAKERS = 6  # one woman and one man in each of the three splits


@dataclasses.dataclass(frozen=True)
class Prosody:
    """Prosody of a clip; levels are those of the vowels."""

    f0_shift: float  # semitones above the speaker's mean
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


# Spread is the standard deviation between clips of one speaker and emotion; values are clipped to
# lowest and highest.
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


@dataclasses.dataclass(frozen=True)
class Speaker:
    """Properties of a voice that all its clips share."""

    name: str
    gender: str  # female or male
    age: int  # years; only a label, without influence on the voice
    f0: float  # Hz, mean of neutral speech
    formant_scale: float  # factor on VOWELS
    rate: float  # factor on the rate
    gain: float  # dB
    tilt: float  # dB, added to the tilt of the emotion
    hnr: float  # dB, added
    expressiveness: float  # factor on the distance from neutral


def make_speakers(count: int = 16, seed: int = 0) -> list[Speaker]:
    """Draw voices, alternately female and male; the n-th voice does not depend on the count.

    Raises:
        CorpusError: if the count is below 6
    """
    if count < MIN_SPEAKERS:
        raise CorpusError(f"{count} speakers, expected at least {MIN_SPEAKERS}: two in each split")
    speakers = []
    for index in range(count):
        rng = random_stream(seed, index)
        gender = list(SEXES)[index % len(SEXES)]
        f0, formant_scale = SEXES[gender]
        speaker = Speaker(
            name=f"s{index + 1:02d}",
            gender=gender,
            age=int(rng.integers(20, 66)),
            f0=f0 * semitones(random_normal(rng, 1.5)),
            formant_scale=formant_scale * (1 + random_normal(rng, 0.025)),
            rate=1 + random_normal(rng, 0.07),
            gain=random_normal(rng, 1.4),
            tilt=random_normal(rng, 1.2),
            hnr=random_normal(rng, 1.2),
            expressiveness=1 + random_normal(rng, 0.07),
        )
        speakers.append(speaker)
    return speakers


def split_speakers(speakers: list[Speaker]) -> dict[str, list[Speaker]]:
    """Divide into train, dev (an eighth) and test (a quarter), in pairs of a woman and a man."""
    pairs = len(speakers) // 2
    dev, test = (2 * max(1, round(pairs * share)) for share in (1 / 8, 1 / 4))
    train = len(speakers) - dev - test
    return {"train": speakers[:train], "dev": speakers[train:-test], "test": speakers[-test:]}


def draw_prosody(speaker: Speaker, emotion: str, rng: np.random.Generator) -> Prosody:
    """Draw the prosody of a clip: a point between neutral and the emotion, plus spread."""
    neutral, target, spread, lowest, highest = (
        np.array(dataclasses.astuple(prosody))
        for prosody in (PROSODY["neutral"], PROSODY[emotion], SPREAD, LOWEST, HIGHEST)
    )
    strength = speaker.expressiveness * max(0.0, rng.normal(*EXPRESSIVENESS))
    values = neutral + strength * (target - neutral) + spread * rng.standard_normal(spread.size)
    return Prosody(*np.clip(values, lowest, highest).tolist())


def semitones(interval: float | np.ndarray) -> float | np.ndarray:
    """Return the frequency ratio of an interval in semitones."""
    return 2 ** (interval / 12)


def random_normal(rng: np.random.Generator, std: float) -> float:
    """Draw a normal value of mean 0, clipped to two standard deviations."""
    return float(np.clip(rng.standard_normal(), -2, 2) * std)


def random_stream(seed: int, *key: int) -> np.random.Generator:
    """Return an independent random stream for each key of a seed."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
