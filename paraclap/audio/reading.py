"""Reading audio files: one segment of any file that libsndfile decodes, as mono 16 kHz float32.

Features, training and evaluation all read files here, so they use the same samples::

    waveform = read_audio("speech.flac", start=0.5, end=2.0)  # (24000,) float32
    waveform, report = read_audio_with_report("speech.flac")  # report.flags(): "resampled:44100"
    waveform = read_crop("speech.flac", 0.5, 9.0, seconds=5.0, place=0.5)  # the middle 5 s

Files that cannot be read faithfully are refused with an `AudioError`, whose `reason` is a short
code (`missing`, `truncated`, `html`, `segment`, ...); nothing is repaired or cut silently.

Letters: T samples at 16 kHz, F frames at the file's own rate, C channels.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import soundfile

from paraclap.audio import SAMPLING_RATE, AudioError
from paraclap.audio.channels import Mix, survey
from paraclap.audio.conditioning import SAMPLE_LIMITS, Report, resample_and_clip, resample_blocks
from paraclap.audio.containers import open_sound
from paraclap.audio.decoding import Sound
from paraclap.audio.segments import END_TOLERANCE, MAX_SECONDS, Position, crop_limits, frame_range

BLOCK_SECONDS = 30.0
"""Stretch decoded and mixed to mono at a time [s], so memory does not grow with the channels."""
CROP_MARGIN = 0.05
"""Stretch on both sides of a crop that is resampled with it [s]; the filter is shorter."""


def read_audio(path: str | Path, start: Position = 0.0, end: Position = None) -> np.ndarray:
    """Return a segment as mono float32 waveform (T,) at 16 kHz within [-1, 32767/32768].

    Only the segment is decoded. Segments longer than `MAX_SECONDS` are refused.

    Args:
        path: file of any format that libsndfile reads; its suffix is ignored.
        start: begin of the segment [s], or a timedelta; None and NaT mean 0.
        end: end of the segment [s], or a timedelta; None and NaT mean the end of the file.

    Raises:
        AudioError: if the file is not readable audio, is truncated or implausible, or does not
            contain the segment.
    """
    with open_sound(path) as sound:
        return _read_frames(sound, *_segment(sound, start, end))


def read_audio_with_report(
    path: str | Path,
    start: Position = 0.0,
    end: Position = None,
    *,
    max_seconds: float = MAX_SECONDS,
) -> tuple[np.ndarray, Report]:
    """Return the waveform of `read_audio` and a report of its conditioning, from one reading.

    Segments longer than `max_seconds` are refused before they are decoded.

    Raises:
        AudioError: as `read_audio`.
    """
    with open_sound(path) as sound:
        first, last = _segment(sound, start, end, max_seconds)
        report = _report(sound)
        mono = _joined(_mono_blocks(sound, first, last, report.mix, report), last - first)
    return resample_and_clip(mono, report.rate), report


def read_crop(
    path: str | Path, start: Position, end: Position, seconds: float, place: float
) -> np.ndarray:
    """Return a crop of a segment as waveform (T,).

    Only the crop is decoded. For a file at 16 kHz it equals `read_audio` at its limits; a file at
    another rate is resampled with a margin around the crop, so that the samples are those of the
    whole file at 16 kHz, to the rounding of float32.

    Args:
        path: as in `read_audio`, like the limits of the segment.
        start: begin of the segment.
        end: end of the segment.
        seconds: longest crop [s]; a shorter segment is returned whole.
        place: position of the crop in the segment, from 0 (its begin) to 1 (its end).

    Raises:
        AudioError: as `read_audio`.
    """
    with open_sound(path) as sound:
        rate = sound.samplerate
        limits = crop_limits(start, end, sound.frames / rate, seconds, place)
        if rate == SAMPLING_RATE:
            return _read_frames(sound, *_segment(sound, *limits))
        samples = (2 * sound.frames * SAMPLING_RATE + rate) // (2 * rate)  # as soxr counts
        first, last = frame_range(path, *limits, sound.frames / rate, samples, SAMPLING_RATE)
        # Begin at a frame that is a whole number of 16 kHz samples: the filter keeps its phases.
        unit = rate // math.gcd(rate, SAMPLING_RATE)
        margin = round(CROP_MARGIN * rate)
        begin = max(0, first * rate // SAMPLING_RATE - margin) // unit * unit
        stop = min(sound.frames, -(-last * rate // SAMPLING_RATE) + margin)
        waveform = _read_frames(sound, begin, stop)
    return waveform[first - begin * SAMPLING_RATE // rate :][: last - first]


def read_in_blocks(path: str | Path, receive: Callable[[np.ndarray], object]) -> Report:
    """Pass the waveform of a file of any length to `receive` in blocks (T,).

    The concatenated blocks equal `read_audio` of the whole file, bit for bit.

    Raises:
        AudioError: as `read_audio`, possibly after some blocks were passed on.
    """
    with open_sound(path) as sound:
        report = _report(sound)
        blocks = _mono_blocks(sound, 0, sound.frames, report.mix, report)
        for block in resample_blocks(blocks, sound.samplerate):
            receive(np.clip(block, *np.float32(SAMPLE_LIMITS)))
    return report


def _segment(
    sound: Sound, start: Position, end: Position, max_seconds: float = MAX_SECONDS
) -> tuple[int, int]:
    """Return the frame range of a segment of an open file."""
    rate, frames = sound.samplerate, sound.frames
    return frame_range(sound.path, start, end, frames / rate, frames, rate, max_seconds)


def _read_frames(sound: Sound, first: int, last: int) -> np.ndarray:
    """Return frames of an open file as waveform (T,) at 16 kHz, without a report."""
    is_16_bit, mix = sound.subtype == "PCM_16", _mix(sound)
    report = None if is_16_bit else Report(sound.samplerate, mix)
    mono = _joined(_mono_blocks(sound, first, last, mix, report), last - first)
    if is_16_bit and sound.samplerate == SAMPLING_RATE:
        return mono  # already in range
    return resample_and_clip(mono, sound.samplerate)


def _joined(blocks: Iterable[np.ndarray], frames: int) -> np.ndarray:
    """Return blocks as one array of at most so many frames; a single block is not copied."""
    mono, filled = None, 0
    for block in blocks:
        if len(block) == frames:
            mono = block
        else:
            mono = np.empty(frames, dtype=np.float32) if mono is None else mono
            mono[filled : filled + len(block)] = block
        filled += len(block)
    return mono[:filled]


def _mono_blocks(
    sound: Sound, first: int, last: int, mix: Mix, report: Report | None
) -> Iterator[np.ndarray]:
    """Yield frames `first` to `last` (exclusive) as mono blocks (F,) float32.

    `report` accumulates every block and is checked at the end; it may be None for 16-bit integers,
    which are always in range.

    Raises:
        AudioError: if frames are missing, damaged or implausible, or the channels cancel.
    """
    decoded = 0
    for block in _blocks(sound, first, last, BLOCK_SECONDS):
        mono = mix(block)
        if report is not None:
            report.add(block, mono)
        decoded += len(block)
        yield mono
    if last - first - decoded > END_TOLERANCE * sound.samplerate or not decoded:
        raise AudioError(
            "truncated", f"{sound.path}: expected {last - first} frames, decoded only {decoded}"
        )
    if report is not None:
        report.check(sound.path)
    mix.check(sound.path)  # last: a file may also be damaged


def _blocks(sound: Sound, first: int, last: int, seconds: float) -> Iterator[np.ndarray]:
    """Yield frames in blocks (F, C).

    Raises:
        AudioError: if they are damaged.
    """
    try:
        yield from sound.blocks(first, last, round(seconds * sound.samplerate))
    except soundfile.LibsndfileError as error:
        message = f"{sound.path} is damaged: {error.error_string}"
        raise AudioError("decoding", message) from error


def _report(sound: Sound) -> Report:
    return Report(sound.samplerate, _mix(sound), sound.flags)


def _mix(sound: Sound) -> Mix:
    """Return how to mix the channels of a file."""
    return Mix(1, (0,)) if sound.channels == 1 else _survey(sound.path, sound.state)


@functools.lru_cache(maxsize=2**16)
def _survey(path: str | Path, state: tuple[int, ...]) -> Mix:
    """Decode a whole file and return how to mix its channels; `state` changes with the file."""
    with open_sound(path) as sound:
        return survey(_blocks(sound, 0, sound.frames, 1.0), sound.channels)
