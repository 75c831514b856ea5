"""From a clip to its record: functionals and quality flags, or the reason why there are none.

    record = measure_clip(egemaps.Extractor("captions"), Clip(root, "a.wav"))[0]

`main` is the program of a process of the worker pool: it measures the clips that arrive over a
socket. A thread reads the next clip while openSMILE processes the current one.
"""

import functools
import hashlib
import itertools
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
import soundfile

from paraclap import signals
from paraclap.acoustics import egemaps
from paraclap.audio import SAMPLING_RATE, AudioError, reading
from paraclap.audio.conditioning import CONDITIONING
from paraclap.audio.containers import read_duration
from paraclap.audio.paths import resolve_inside
from paraclap.audio.quality import quality_flags
from paraclap.audio.segments import MAX_SECONDS

MIN_SECONDS = 0.06
"""Shorter clips have no complete frame of 60 ms, and openSMILE gives 88 NaN [s]."""
VOICING = "F0semitoneFrom27.5Hz_sma3nz_amean"
"""Functional that is undefined if openSMILE finds no voiced frame; such clips are `unvoiced`."""
IDLE_SECONDS = 60.0
"""Time without work after which a process ends [s]."""
SECOND = 1_000_000_000
"""One second in nanoseconds, the unit of positions in a file."""


class Clip(NamedTuple):
    """One row of a corpus table; ``start`` and ``end`` in ns, None for the end of the file.

    Clips above `MAX_SECONDS` are rejected, or cut into windows of at most ``longest`` seconds.
    """

    root: str
    file: str
    start: int = 0
    end: int | None = None
    longest: float | None = None


class Record(NamedTuple):
    """Result of a clip, or of one window of a long clip: values, or an error and its stage.

    ``seconds`` is the measured duration, ``quality`` holds flags joined by ``;``, ``digest`` is a
    hash of the 16-bit samples, ``values`` are the functionals (N,) float32.
    """

    start: int = 0
    end: int | None = None
    seconds: float | None = None
    quality: str = ""
    digest: str = ""
    stage: str = ""
    error: str = ""
    message: str = ""
    values: np.ndarray | None = None


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions that the values depend on."""
    return {
        "opensmile": version("opensmile"),
        "libsndfile": soundfile.__libsndfile_version__,
        "soxr": version("soxr"),
        "conditioning": CONDITIONING,
    }


# --- One clip ------------------------------------------------------------------------------------


def divide_long(clip: Clip) -> list[tuple[int, int | None]]:
    """Return the windows (start, end) [ns] of a clip: one, or equal ones if it must be cut.

    Raises:
        AudioError: if the header is needed and cannot be read
    """
    whole = [(clip.start, clip.end)]
    if clip.longest is None:
        return whole
    end = clip.end
    if end is None:
        end = round(read_duration(resolve_inside(clip.root, clip.file)) * SECOND)
    length = end - clip.start
    if length <= MAX_SECONDS * SECOND:
        return whole
    count = -int(-length // (clip.longest * SECOND))
    edges = [clip.start + length * place // count for place in range(count + 1)]
    return list(itertools.pairwise(edges))


def read_clip(clip: Clip) -> Iterator[tuple[Record, np.ndarray | None]]:
    """Yield a record with the flags of each window of a clip, and its samples (T,) if readable."""
    windows = _attempt(clip, Record(clip.start, clip.end), "read", lambda: divide_long(clip))
    if isinstance(windows, Record):
        yield windows, None
        return
    for start, end in windows:
        record = Record(start, end)
        sound = _attempt(clip, record, "read", functools.partial(_read, clip, start, end))
        if isinstance(sound, Record):
            yield sound, None
        else:
            waveform, flags = sound
            yield record._replace(quality=";".join(flags)), waveform


def _read(clip: Clip, start: int, end: int | None) -> tuple[np.ndarray, list[str]]:
    """Return the samples and flags of a window of a file inside the root."""
    path = resolve_inside(clip.root, clip.file)
    waveform, report = reading.read_audio_with_report(
        path, start / SECOND, None if end is None else end / SECOND
    )
    return waveform, report.flags()


def _attempt(clip: Clip, record: Record, stage: str, work: Callable) -> Any:
    """Return the result of a stage of a clip, or the record with the error."""
    try:
        return work()
    except AudioError as error:
        name, message = error.reason, str(error)
    except Exception as error:  # one clip must not stop the others; its record names the error
        name, message = type(error).__name__, str(error) or repr(error)
    for root in {os.path.join(os.path.realpath(clip.root), ""), os.path.join(clip.root, "")}:
        message = message.replace(root, "")
    return Record(record.start, record.end, stage=stage, error=name, message=message)


def measure(extractor: egemaps.Extractor, waveform: np.ndarray, flags: str = "") -> Record:
    """Return the record of a waveform (T,) at 16 kHz, without its place in the file.

    Raises:
        AudioError: if the waveform is shorter than 60 ms or silent as 16-bit samples
    """
    seconds = len(waveform) / SAMPLING_RATE
    if seconds < MIN_SECONDS:
        raise AudioError("too_short", f"{seconds:.4f} s, expected at least {MIN_SECONDS} s")
    samples = egemaps.as_integers(waveform)
    if (samples == samples[0]).all():
        raise AudioError("silent", f"all {len(samples)} samples are {samples[0]}")
    raw = extractor.measure(samples)
    if np.isnan(raw).any():
        count = int(np.isnan(raw).sum())
        raise AudioError("undefined", f"openSMILE left {count} features undefined")
    values = extractor.defined(raw)
    marks = quality_flags(waveform)
    if np.isnan(values[extractor.names.index(VOICING)]):
        marks.append("unvoiced")
    quality = ";".join(dict.fromkeys(filter(None, [flags, *marks])))
    digest = hashlib.sha256(samples).hexdigest()[:32]
    return Record(seconds=seconds, quality=quality, digest=digest, values=values)


def measure_window(
    extractor: egemaps.Extractor, clip: Clip, record: Record, waveform: np.ndarray | None
) -> Record:
    """Return the record of a window; a failure to read it is passed on."""
    if waveform is None:
        return record
    work = functools.partial(measure, extractor, waveform, record.quality)
    measured = _attempt(clip, record, "features", work)
    return measured._replace(start=record.start, end=record.end)


def measure_clip(extractor: egemaps.Extractor, clip: Clip) -> list[Record]:
    """Return the records of a clip, one for each window."""
    return [measure_window(extractor, clip, *window) for window in read_clip(clip)]


# --- Program of a worker process -----------------------------------------------------------------


def _follow(parent: int) -> None:
    """End this process when its parent has ended, also in the middle of a clip."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _receive(connection: Connection, windows: queue.Queue) -> None:
    """Read requested clips and put their windows in the queue, which holds one."""
    while connection.poll(IDLE_SECONDS):
        try:
            ticket, clip = connection.recv()
        except (EOFError, ConnectionResetError):  # the parent has ended
            break
        for window in read_clip(clip):
            windows.put((ticket, clip, window))
        windows.put((ticket, clip, None))
    windows.put(None)


def serve(connection: Connection, feature_set: str) -> None:
    """Measure the clips that arrive as (ticket, clip).

    The first message sent is the list of names of the functionals, then (ticket, record) for each
    record of a clip, and (ticket, None) after its last record.
    """
    extractor = egemaps.Extractor(feature_set)
    connection.send(extractor.names)
    windows: queue.Queue = queue.Queue(maxsize=1)
    threading.Thread(target=_receive, args=(connection, windows), daemon=True).start()
    while (item := windows.get()) is not None:
        ticket, clip, window = item
        connection.send((ticket, window and measure_window(extractor, clip, *window)))


def main() -> None:
    """Measure clips from the socket whose file descriptor is the first argument."""
    descriptor, feature_set, parent = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    for number in signals.EXIT_CODES:  # also sent to the parent, which this process follows
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    try:
        serve(Connection(descriptor), feature_set)
    except (BrokenPipeError, ConnectionResetError):
        os._exit(1)  # the parent has ended
    os._exit(0)  # at once: the reading thread may still wait for the socket
