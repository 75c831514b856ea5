"""Waveforms that are changed in training, so that no caption says what is no longer so.

    changes = Augmenter(AugmentSettings(gain=0.5), labels={"emotion"}, seed=1)
    drawn = changes.draw((epoch, row), told={"pitch"})          # descriptors of the drawn caption
    known = {name for name in phrases if not drawn.invalidates(name)}
    waveform = drawn.apply(waveform)                            # (T,) at 16 kHz

Whatever is drawn follows from the seed, the epoch and the row alone. A change invalidates those
descriptors that measure what it changes: after another gain nobody knows whether the clip counts as
loud. It is left out where the caption of the clip speaks of one of them; otherwise the clip has no
phrases about them in this draw, so that captions of other clips do not attribute them either.

Resampling is soxr's and convolution scipy's. T samples.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.signal
import soxr

from paraclap.audio import SAMPLING_RATE
from paraclap.settings import AugmentSettings

DRAWN_APART = 0xA06  # so that captions and crops are those of a run without changes


# --- Changes -------------------------------------------------------------------------------------

Change = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


def change_speed(waveform: np.ndarray, factor: float, rng: np.random.Generator) -> np.ndarray:
    """Play a waveform (T,) faster by a factor: (about T / factor,)."""
    return soxr.resample(waveform, SAMPLING_RATE * factor, SAMPLING_RATE).astype(np.float32)


def add_room(waveform: np.ndarray, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Let a room sound after a waveform (T,), cut off at its end; the power stays what it was.

    The response of the room is noise that falls by 60 dB in `seconds`, after the direct sound
    (Moorer, Computer Music Journal 3(2), 1979). Both have the same energy.
    """
    time = np.arange(1, round(seconds * SAMPLING_RATE)) / SAMPLING_RATE
    tail = rng.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    response = np.concatenate([[1.0], tail / np.linalg.norm(tail)])
    wet = scipy.signal.oaconvolve(waveform, response)[: len(waveform)]
    return _at_power_of(waveform, wet)


def add_noise(waveform: np.ndarray, ratio: float, rng: np.random.Generator) -> np.ndarray:
    """Add noise `ratio` dB below a waveform (T,); its spectrum falls by 0 to 3 dB an octave."""
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
    """A change, and the measured descriptors that hold after it.

    Of the others the level often is another one. Measured on 50 clips each of RAVDESS and EmoDB at
    the ends of the default ranges: those that hold kept their level in 9 of 10 clips or more. Pitch
    does so at another speed too, but it has moved. What is not in a table here does not hold.
    """

    change: Change
    holds: frozenset[str]


TRANSFORMS: dict[str, Transform] = {
    "speed": Transform(
        change_speed,
        frozenset({"intensity", "loudness", "loudness_variation"}),
    ),
    "reverb": Transform(add_room, frozenset({"pitch", "intensity", "duration"})),
    "noise": Transform(add_noise, frozenset({"pitch", "intensity", "duration"})),
    "gain": Transform(
        change_gain,
        frozenset(
            {
                "pitch",
                "pitch_variation",
                "duration",
                "speaking_rate",
                "loudness_variation",
                "noise",
                "spectral_tilt",
            }
        ),
    ),
}
"""In the order in which they are applied."""

RATINGS = frozenset({"arousal", "valence", "dominance"})
"""Levels that were not measured but heard by people; they hold as labels do."""


# --- What is drawn for a clip --------------------------------------------------------------------


@dataclass(frozen=True)
class Drawn:
    """Changes of one crop.

    Attributes:
        values: of the transforms that are applied, by name, in their order.
        labels: descriptors that hold throughout.
        seed: of the noise in them.
    """

    values: tuple[tuple[str, float], ...]
    labels: frozenset[str]
    seed: tuple[int, ...]

    def invalidates(self, descriptor: str) -> bool:
        """Whether nobody knows any more what holds of a descriptor."""
        return any(_invalidates(name, descriptor, self.labels) for name, _ in self.values)

    @property
    def speed(self) -> float:
        """By which factor time passes faster."""
        return dict(self.values).get("speed", 1.0)

    def apply(self, waveform: np.ndarray) -> np.ndarray:
        """Change a waveform (T,): (about T / speed,) float32."""
        rng = np.random.default_rng([*self.seed, 1])
        for name, value in self.values:
            waveform = TRANSFORMS[name].change(waveform, value, rng)
        return waveform


def _invalidates(transform: str, descriptor: str, labels: Collection[str]) -> bool:
    return descriptor not in labels and descriptor not in TRANSFORMS[transform].holds


class Augmenter:
    """Draws the changes of each crop.

    Attributes:
        shares: of the crops, by name of the transform; those that are never applied are missing.
        ranges: of the transforms.
        labels: descriptors that hold throughout, beside `RATINGS`.
        seed: together with epoch and row it decides everything.
    """

    def __init__(self, settings: AugmentSettings, labels: Collection[str], seed: int) -> None:
        """Check the settings.

        Raises:
            ValueError: for a share or a range that makes no sense.
        """
        shares = {name: getattr(settings, name) for name in TRANSFORMS}
        self.ranges = {name: getattr(settings, f"{name}_range") for name in TRANSFORMS}
        for name, share in shares.items():
            _refuse_nonsense(name, share, self.ranges[name])
        self.shares = {name: share for name, share in shares.items() if share}
        self.labels = frozenset(labels) | RATINGS
        self.seed = seed

    def draw(self, place: Sequence[int], told: Collection[str]) -> Drawn:
        """Draw changes for a place in the run (epoch, row), and a caption about `told`.

        A transform that is left out for the sake of the caption changes nothing about the others.
        """
        seed = (self.seed, DRAWN_APART, *place)
        rng = np.random.default_rng(seed)
        drawn = [
            (name, rng.random() < share, float(rng.uniform(*self.ranges[name])))
            for name, share in self.shares.items()
        ]
        values = tuple(
            (name, value)
            for name, is_wanted, value in drawn
            if is_wanted and not any(_invalidates(name, d, self.labels) for d in told)
        )
        return Drawn(values, self.labels, seed)


LIMITS = {"speed": (0.5, 2.0), "reverb": (0.01, 10.0), "noise": (-60.0, 120.0), "gain": (-60, 60)}
"""Outside of these ranges a value is a slip of the pen."""


def _refuse_nonsense(name: str, share: float, limits: Sequence[float]) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"data.augment.{name} is {share}, expected a share from 0 to 1")
    low, high = LIMITS[name]
    if len(limits) != 2 or not low <= limits[0] <= limits[1] <= high:
        raise ValueError(
            f"data.augment.{name}_range is {list(limits)}, expected [least, most] within {low:g} "
            f"and {high:g}"
        )


def labels_of(columns: Collection[str]) -> set[str]:
    """Descriptors of a captions table that are labels: they have a column, and no levels of it."""
    return {name for name in columns if f"{name}_level" not in columns}
