"""Conditioning: any decoded signal as mono 16 kHz float32 within the range of 16-bit samples.

    waveform = condition(samples, 44_100)  # (F,) or (F, C) in memory -> (T,) at 16 kHz

Sounding channels are averaged, other rates resampled by soxr (HQ), and samples clipped to
[-1, 32767/32768], because openSMILE wraps anything above to a negative value.

Letters: T samples at 16 kHz, F frames at the signal's own rate, C channels.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import soxr

from paraclap.audio import SAMPLING_RATE, AudioError
from paraclap.audio.channels import Mix, survey

CONDITIONING = "mean of channels within 20 dB, soxr HQ to 16000 Hz, clipped to [-1, 32767/32768]"
"""Part of the keys of caches: change it whenever samples change."""
RATE_LIMITS = (4_000, 192_000)
"""Lowest and highest accepted sampling rate [Hz]; outside, headers are usually damaged."""
MAX_CHANNELS = 32
MAX_PEAK = 8.0
"""Largest plausible absolute sample; above, a float file probably holds unscaled integers."""
SAMPLE_LIMITS = (-1.0, 32767 / 32768)
"""Range of a 16-bit sample."""
CLIPPED_SHARE = 0.001
"""Share of samples at full scale from which a recording is flagged as clipped."""
ANTIPHASE_SHARE = 0.1
"""Share of a recording with cancelling channels from which it is flagged."""
OFFSET_LIMIT = 0.01
"""DC offset (of full scale) from which a recording is flagged; it shifts pitch and loudness."""


class Report:
    """Levels and problems of a recording, accumulated block by block.

    Attributes:
        rate: sampling rate of the file [Hz].
        mix: of its channels.
        notes: flags of its container.
    """

    def __init__(self, rate: int, mix: Mix, notes: Sequence[str] = ()) -> None:
        self.rate, self.mix, self.notes = rate, mix, notes
        self.frames = self.broken = self.limited = 0
        self.peak = self.total = 0.0

    def add(self, block: np.ndarray, mono: np.ndarray) -> None:
        """Add frames (F, C) and the mean of their channels (F,)."""
        magnitudes = np.abs(block)
        self.frames += len(block)
        self.peak = max(self.peak, float(magnitudes.max()))  # NaN only where `broken` counts it
        if not np.isfinite(magnitudes.sum(dtype=np.float64)):
            self.broken += int(np.count_nonzero(~np.isfinite(block)))
            return
        self.limited += int(np.count_nonzero(magnitudes >= np.float32(SAMPLE_LIMITS[1])))
        self.total += float(mono.sum(dtype=np.float64))

    def check(self, path: str | Path) -> None:
        """Raise `AudioError` for samples that are not finite or far outside of [-1, 1]."""
        if self.broken:
            raise AudioError(
                "non_finite", f"{path} holds {self.broken} samples that are NaN or infinite"
            )
        if self.peak > MAX_PEAK:
            raise AudioError(
                "range", f"{path} peaks at {self.peak:g}, expected float samples between -1 and 1"
            )

    def flags(self) -> list[str]:
        """Return what deserves attention, e.g. `["resampled:44100", "mixed:2"]`."""
        channels, silent = self.mix.channels, self.mix.channels - len(self.mix.sounding)
        clipped = self.limited / (self.frames * channels)
        offset = self.total / self.frames
        table = (
            (self.rate != SAMPLING_RATE, f"resampled:{self.rate}"),
            (channels > 1, f"mixed:{channels}"),
            (silent > 0, f"silent_channels:{silent}"),
            (self.mix.antiphase >= ANTIPHASE_SHARE, f"antiphase:{self.mix.antiphase:.2f}"),
            (clipped >= CLIPPED_SHARE, f"clipped:{clipped:.4f}"),
            (abs(offset) >= OFFSET_LIMIT, f"offset:{offset:.3f}"),
        )
        return [*(text for found, text in table if found), *self.notes]


def condition(samples: np.ndarray, rate: int) -> np.ndarray:
    """Return samples in memory as `read_audio` returns those of a file: (T,) at 16 kHz.

    Args:
        samples: (F,) or (F, C), float in [-1, 1] or signed integers of full scale; not modified.
        rate: of the samples [Hz].

    Raises:
        AudioError: for another shape or type, and for signals that are refused in a file.
    """
    return condition_with_report(samples, rate)[0]


def condition_with_report(samples: np.ndarray, rate: int) -> tuple[np.ndarray, Report]:
    """Return the waveform of `condition` and a report of its levels and problems."""
    frames = np.atleast_2d(samples.T).T
    if frames.ndim != 2 or not 1 <= frames.shape[1] <= MAX_CHANNELS:
        shape = tuple(samples.shape)
        raise AudioError("channels", f"signal has shape {shape}, expected (F,) or (F, C)")
    if not RATE_LIMITS[0] <= rate <= RATE_LIMITS[1]:
        raise AudioError("sample_rate", f"signal at {rate} Hz, expected {RATE_LIMITS} Hz")
    if not len(frames):
        raise AudioError("empty", "signal has no samples")
    if np.issubdtype(frames.dtype, np.signedinteger):
        frames = frames / -float(np.iinfo(frames.dtype).min)
    if not np.issubdtype(frames.dtype, np.floating):
        raise AudioError("type", f"signal is {frames.dtype}, expected float or signed integers")
    frames = frames.astype(np.float32)
    blocks = (frames[first : first + rate] for first in range(0, len(frames), rate))
    mix = survey(blocks, frames.shape[1])
    mono = mix(frames)
    report = Report(rate, mix)
    report.add(frames, mono)
    report.check("signal")
    mix.check("signal")
    return resample_and_clip(mono, rate), report


def resample_and_clip(mono: np.ndarray, rate: int) -> np.ndarray:
    """Return a mono signal (F,) at `rate` Hz, which may be modified, as (T,) at 16 kHz."""
    waveform = mono
    if rate != SAMPLING_RATE:
        waveform = soxr.resample(mono, rate, SAMPLING_RATE, quality="HQ")
    if not len(waveform):
        raise AudioError("segment", f"{len(mono)} frames at {rate} Hz are too few to resample")
    return np.clip(waveform, *np.float32(SAMPLE_LIMITS), out=waveform)


def resample_blocks(blocks: Iterable[np.ndarray], rate: int) -> Iterator[np.ndarray]:
    """Yield blocks (F,) at `rate` Hz as blocks at 16 kHz, filtered as one signal."""
    if rate == SAMPLING_RATE:
        yield from blocks
        return
    stream = soxr.ResampleStream(rate, SAMPLING_RATE, 1, dtype="float32", quality="HQ")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.empty(0, dtype=np.float32), last=True)
