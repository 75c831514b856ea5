"""Segments, crops and windows of recordings: their limits in seconds and in samples."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from paraclap.audio import AudioError
from paraclap.errors import ParaCLAPError

MAX_SECONDS = 600.0
"""Longest segment decoded at once [s]; openSMILE needs about 35 MB per minute."""
END_TOLERANCE = 0.05
"""A segment may end this much after its file [s], because annotations are rounded."""
ROUNDING = 1e-6
"""Difference between two limits below which they are equal [s, or another unit]."""

Position = float | timedelta | None
"""A position in a file: seconds, a timedelta (also of pandas), or None and NaT for the default."""


def segment_limits(start: Position, end: Position, duration: float) -> tuple[float, float]:
    """Return the limits of a segment [s]; the default of `end` is `duration` [s]."""
    return _seconds(start, 0.0), _seconds(end, duration)


def _seconds(position: Position, default: float) -> float:
    if position is None or position != position:
        return default
    if hasattr(position, "total_seconds"):
        return position.total_seconds()
    return float(position)


def crop_limits(
    start: Position, end: Position, duration: float, seconds: float, place: float
) -> tuple[float, float]:
    """Return the limits of a crop of a segment of a file of `duration` [s].

    A segment of at most `seconds` is not cropped. `place` is the position of the crop in the
    segment, from 0 (its begin) to 1 (its end).
    """
    first, last = segment_limits(start, end, duration)
    if last - first <= seconds:
        return first, last
    first += place * (last - first - seconds)
    return first, first + seconds


def frame_range(
    path: str | Path,
    start: Position,
    end: Position,
    duration: float,
    frames: int,
    rate: int,
    max_seconds: float = MAX_SECONDS,
) -> tuple[int, int]:
    """Return the first and the one-past-last frame of a segment.

    Args:
        path: for the message.
        start: begin of the segment.
        end: end of the segment.
        duration: of the file [s].
        frames: number of frames in the file.
        rate: of the frames [Hz].
        max_seconds: longest accepted segment [s].

    Raises:
        AudioError: if the segment is not inside the file, or too long.
    """
    begin, stop = segment_limits(start, end, duration)
    problems = {
        "it starts before 0": begin < 0,
        "it is empty or reversed": stop <= begin,
        "it starts after the end of the file": begin >= duration,
        "it ends after the end of the file": stop > duration + END_TOLERANCE,
    }
    for problem, found in problems.items():
        if found:
            limits = f"segment {begin:.3f} to {stop:.3f} s"
            raise AudioError("segment", f"{path} lasts {duration:.3f} s; {limits}: {problem}")
    first = round(begin * rate)
    last = min(round(stop * rate), frames)
    if last <= first:
        raise AudioError("segment", f"{path}: no sample between {begin:.6f} and {stop:.6f} s")
    if last - first > max_seconds * rate:
        seconds = (last - first) / rate
        raise AudioError(
            "too_long", f"{path}: {seconds:.1f} s to read, expected at most {max_seconds:g} s"
        )
    return first, last


class WindowError(ParaCLAPError, ValueError):
    """Windows that do not cover a recording."""


def windows(length: float, window: float, hop: float) -> Iterator[tuple[float, float]]:
    """Yield (start, end) of the windows of a recording, all in one unit.

    Windows start every `hop` as long as they end inside the recording. If a rest remains, one more
    window ends with the recording, so every window is full and nothing is left out. A recording
    shorter than a window is one window.

    Raises:
        WindowError: if `window` or `hop` is not positive, or `hop` is longer than `window`.
    """
    if not 0 < hop <= window:
        raise WindowError(f"window {window:g}, hop {hop:g}: expected 0 < hop <= window")
    number = 0
    while number * hop + window <= length + ROUNDING:
        yield number * hop, number * hop + window
        number += 1
    last_end = (number - 1) * hop + window if number else 0
    if last_end < length - ROUNDING:
        yield max(length - window, 0), length
