"""Mixing channels to one: the mean of those that sound; channels that cancel are refused.

    mix = Mix(2, sounding(blocks, 2))
    mono = mix(block)  # (F, C) -> (F,)
    mix.check("speech.wav")

A voice on one of six channels has the level of that channel, as if the file had only this one.
Which channels sound is a property of the whole file, so a crop equals that part of the whole.

Letters: F frames, C channels.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from paraclap.audio import AudioError

SILENT_SHARE = 0.01
"""Range of a channel relative to that of the loudest below which it is silent (-40 dB)."""
FULL_RANGE = 2.0
"""Range of a signal at full scale."""
CANCELLED_SHARE = 0.01
"""Share of the channels' power left in their mean below which they cancel each other. Channels
without correlation leave 1 / C, at least 1/32."""
AUDIBLE_POWER = 1e-6
"""Power below which cancelling channels are silence anyway (-60 dB of full scale)."""


def sounding(blocks: Iterable[np.ndarray], channels: int) -> tuple[int, ...]:
    """Return the channels of a recording (C) that are not silent, or all if none sounds.

    Blocks (F, C) are taken from the beginning until no channel can be silent any more.
    """
    low, high = np.full(channels, np.inf), np.full(channels, -np.inf)
    for block in blocks:
        low, high = np.fmin(low, block.min(axis=0)), np.fmax(high, block.max(axis=0))
        if (high - low >= SILENT_SHARE * FULL_RANGE).all():
            break
    ranges = high - low
    found = np.flatnonzero(ranges >= SILENT_SHARE * min(ranges.max(), FULL_RANGE))
    return tuple(found.tolist()) if ranges.max() > 0 else tuple(range(channels))


class Mix:
    """The mean of some channels, and how much of their power it keeps.

    Attributes:
        channels: number of channels C of the blocks.
        sounding: those that are averaged.
    """

    def __init__(self, channels: int, sounding: Sequence[int]) -> None:
        self.channels, self.sounding = channels, sounding
        self._frames = self._mean_power = self._power = 0.0

    def __call__(self, block: np.ndarray) -> np.ndarray:
        """Return the mean (F,) of a block (F, C)."""
        if len(self.sounding) == 1:
            return block[:, self.sounding[0]]
        if len(self.sounding) < self.channels:
            block = block[:, self.sounding]
        with np.errstate(invalid="ignore", over="ignore"):  # refused by `Report.check`
            mono = block.mean(axis=1)
            self._mean_power += float(np.vdot(mono, mono))
            self._power += float(np.vdot(block, block)) / len(self.sounding)
        self._frames += len(block)
        return mono

    @property
    def cancels_partly(self) -> bool:
        """Whether the mean has less than half the power of channels without correlation."""
        return self._mean_power < 0.5 / len(self.sounding) * self._power

    def check(self, path: str | Path) -> None:
        """Raise `AudioError` if the channels cancel each other, so that their mean is silence."""
        cancelled = self._mean_power < CANCELLED_SHARE * self._power
        if cancelled and self._power > AUDIBLE_POWER * self._frames:
            raise AudioError(
                "antiphase",
                f"{path}: its channels cancel each other, so their mean is silence: export one of "
                "them",
            )
