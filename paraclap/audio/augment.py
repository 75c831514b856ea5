"""Waveform augmentation in training that keeps captions true.

    augmenter = Augmenter(AugmentSettings(gain=0.5), labels={"emotion"}, seed=1)
    drawn = augmenter.draw((epoch, row), named={"pitch"})       # descriptors of the drawn caption
    valid = {name for name in phrases if not drawn.invalidates(name)}
    waveform = drawn.apply(waveform)                            # (T,) at 16 kHz

What is drawn depends on seed, epoch and row alone. A transform invalidates the descriptors that
measure what it changes: after another gain, the level of loudness is unknown. It is skipped if the
caption of the clip has such a descriptor; otherwise the clip loses its phrases about them in this
draw, so that captions of other clips are not matched with it by them.

Resampling uses soxr, convolution scipy. T samples.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import soxr

from paraclap.audio import SAMPLING_RATE
from paraclap.settings import AugmentSettings, SettingsError

SEED_OFFSET = 0xA06  # keeps captions and crops as they are without augmentation


# --- Transforms ----------------------------------------------------------------------------------


def change_speed(waveform: np.ndarray, factor: float, rng: np.random.Generator) -> np.ndarray:
    """Play a waveform (T,) faster by a factor: (about T / factor,)."""
    return soxr.resample(waveform, SAMPLING_RATE * factor, SAMPLING_RATE).astype(np.float32)


def add_room(waveform: np.ndarray, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Add reverberation to a waveform (T,), cut off at its end, without changing its power.

    The room impulse response is noise that decays by 60 dB in `seconds`, after the direct sound
    (Moorer, Computer Music Journal 3(2), 1979). Both have the same energy.
    """
    import scipy.signal  # here because it takes 0.1 s, and few runs augment

    time = np.arange(1, round(seconds * SAMPLING_RATE)) / SAMPLING_RATE
    tail = rng.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    response = np.concatenate([[1.0], tail / np.linalg.norm(tail)])
    wet = scipy.signal.oaconvolve(waveform, response)[: len(waveform)]
    return _at_power_of(waveform, wet)


def add_noise(waveform: np.ndarray, ratio: float, rng: np.random.Generator) -> np.ndarray:
    """Add noise `ratio` dB below a waveform (T,); its spectrum falls by 0 to 3 dB per octave."""
    spectrum = np.fft.rfft(rng.standard_normal(len(waveform)))
    slope = rng.uniform(0, 0.5)
    spectrum[1:] *= np.arange(1, len(spectrum)) ** -slope
    spectrum[0] = 0
    noise = _at_power_of(waveform, np.fft.irfft(spectrum, len(waveform)))
    return waveform + noise * np.float32(10 ** (-ratio / 20))


def change_gain(waveform: np.ndarray, decibels: float, rng: np.random.Generator) -> np.ndarray:
    """Amplify a waveform (T,), at most until its peak is at full scale."""
    peak = float(np.abs(waveform).max(initial=0.0))
    factor = 10 ** (decibels / 20)
    return waveform * np.float32(min(factor, max(1.0, 1.0 / peak)) if peak else factor)


def _at_power_of(waveform: np.ndarray, other: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(other)
    return (other * (np.linalg.norm(waveform) / norm if norm else 0.0)).astype(np.float32)


@dataclass(frozen=True)
class Transform:
    """A transform, the descriptors that it keeps valid, and its largest accepted range.

    Measured on 50 clips each of RAVDESS and EmoDB at the ends of the default ranges: a descriptor
    is valid if at least 9 of 10 clips kept its level. Pitch kept its level at another speed too,
    but is shifted, so it is not listed there.
    """

    change: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
    keeps: frozenset[str]
    limits: tuple[float, float]


GAIN_KEEPS = (
    *("pitch", "pitch_variation", "duration", "speaking_rate", "loudness_variation"),
    *("noise", "spectral_tilt"),
)
TRANSFORMS = {
    "speed": Transform(
        change_speed, frozenset({"intensity", "loudness", "loudness_variation"}), (0.5, 2.0)
    ),
    "reverb": Transform(add_room, frozenset({"pitch", "intensity", "duration"}), (0.01, 10.0)),
    "noise": Transform(add_noise, frozenset({"pitch", "intensity", "duration"}), (-60.0, 120.0)),
    "gain": Transform(change_gain, frozenset(GAIN_KEEPS), (-60.0, 60.0)),
}
"""In the order of application."""

RATINGS = frozenset({"arousal", "valence", "dominance"})
"""Levels that listeners rated; like labels, they are always valid."""


# --- Drawing -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawn:
    """Transforms of one crop.

    Attributes:
        values: name and value of each transform, in the order of application.
        kept: descriptors that each of them keeps valid.
        seed: of the noise in them.
    """

    values: tuple[tuple[str, float], ...]
    kept: tuple[frozenset[str], ...]
    seed: tuple[int, ...]

    def invalidates(self, descriptor: str) -> bool:
        """Return whether the level of a descriptor is unknown after these transforms."""
        return any(descriptor not in kept for kept in self.kept)

    @property
    def speed(self) -> float:
        """Factor of the speed; 1 = unchanged."""
        return dict(self.values).get("speed", 1.0)

    def apply(self, waveform: np.ndarray) -> np.ndarray:
        """Transform a waveform (T,): (about T / speed,) float32."""
        if not self.values:
            return waveform
        rng = np.random.default_rng([*self.seed, 1])
        for name, value in self.values:
            waveform = TRANSFORMS[name].change(waveform, value, rng)
        return waveform


class Augmenter:
    """Draws the transforms of each crop.

    Attributes:
        probs: probability of each transform; transforms that are never applied are missing.
        ranges: of the transforms.
        kept: descriptors that each transform keeps valid, including all labels and `RATINGS`.
        seed: determines the draws, together with epoch and row.
    """

    def __init__(self, settings: AugmentSettings, labels: Collection[str], seed: int) -> None:
        """Check the settings; `labels` are descriptors that are always valid.

        Raises:
            SettingsError: for a probability or a range outside of its limits.
        """
        probs = {name: getattr(settings, name) for name in TRANSFORMS}
        self.ranges = {name: getattr(settings, f"{name}_range") for name in TRANSFORMS}
        for name, prob in probs.items():
            _check(name, prob, self.ranges[name])
        self.probs = {name: prob for name, prob in probs.items() if prob}
        self.kept = {name: t.keeps | RATINGS | set(labels) for name, t in TRANSFORMS.items()}
        self.seed = seed

    def draw(self, place: Sequence[int], named: Collection[str]) -> Drawn:
        """Draw the transforms of a place (epoch, row) and a caption with the descriptors `named`.

        Skipping a transform because of the caption does not change the others.
        """
        seed = (self.seed, SEED_OFFSET, *place)
        if not self.probs:
            return Drawn((), (), seed)
        rng = np.random.default_rng(seed)
        drawn = [
            (name, rng.random() < prob, float(rng.uniform(*self.ranges[name])))
            for name, prob in self.probs.items()
        ]
        values = tuple(
            (name, value)
            for name, is_drawn, value in drawn
            if is_drawn and self.kept[name].issuperset(named)
        )
        return Drawn(values, tuple(self.kept[name] for name, _ in values), seed)


def _check(name: str, prob: float, limits: Sequence[float]) -> None:
    if not 0 <= prob <= 1:
        raise SettingsError(f"data.augment.{name} is {prob}, expected a value from 0 to 1")
    low, high = TRANSFORMS[name].limits
    if len(limits) != 2 or not low <= limits[0] <= limits[1] <= high:
        raise SettingsError(
            f"data.augment.{name}_range is {list(limits)}, expected [least, most] within {low:g} "
            f"and {high:g}"
        )


def labels_of(columns: Collection[str]) -> set[str]:
    """Return the columns of a captions table that are labels: those without a column of levels."""
    return {name for name in columns if f"{name}_level" not in columns}
