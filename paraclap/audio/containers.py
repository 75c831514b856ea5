"""Opening audio files: foreign content, truncated files and implausible headers are refused.

The content decides what a file is, not its suffix.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import soundfile

from paraclap.audio import AudioError
from paraclap.audio.announced import FRAMES_PER_BYTE
from paraclap.audio.conditioning import MAX_CHANNELS, RATE_LIMITS
from paraclap.audio.decoding import Sound
from paraclap.audio.paths import open_audio, system_error

LARGEST_HEADER = 4096
"""A larger file without samples was probably not completed [bytes]."""
FOREIGN_KINDS = (
    # offset, first bytes, reason, kind of file
    (0, b"<!doctype html", "html", "an HTML page, probably saved from a failed download"),
    (0, b"<html", "html", "an HTML page, probably saved from a failed download"),
    (0, b"version https://git-lfs", "lfs_pointer", "a Git LFS pointer; run `git lfs pull`"),
    (0, b"pk\x03\x04", "archive", "a ZIP archive"),
    (0, b"\x1f\x8b", "archive", "a gzip archive"),
)
"""Files often found under the name of an audio file; compared in lower case."""


@dataclass(frozen=True)
class Header:
    """Header of an audio file."""

    seconds: float
    rate: int  # [Hz]
    channels: int
    kind: str  # container and coding in libsndfile's names, e.g. `WAV PCM_16`


def read_header(path: str | Path) -> Header:
    """Return the header of a file, without decoding it.

    Raises:
        AudioError: if the file is not readable audio or its header is implausible.
    """
    with open_sound(path) as sound:
        rate = sound.samplerate
        return Header(sound.frames / rate, rate, sound.channels, sound.kind)


def read_duration(path: str | Path) -> float:
    """Return the duration of a file [s], see `read_header`."""
    return read_header(path).seconds


@contextlib.contextmanager
def open_sound(path: str | Path) -> Iterator[Sound]:
    """Open a regular file, or a recording in a shard, with a plausible header.

    Raises:
        AudioError: for anything else, also from within the block.
    """
    try:
        with open_audio(path) as handle:
            with contextlib.closing(Sound(handle, path)) as sound:
                _check_header(sound, path)
                yield sound
    except soundfile.LibsndfileError as error:
        raise _foreign_error(path, error) from error
    except OSError as error:
        raise system_error(path, error) from error


def _foreign_error(path: str | Path, error: soundfile.LibsndfileError) -> AudioError:
    """Return the error for content that libsndfile does not decode."""
    with open_audio(path) as handle:
        head = handle.read(512)
    if not head:
        return AudioError("empty", f"{path} has 0 bytes")
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for offset, first_bytes, reason, kind in FOREIGN_KINDS:
        if start[offset:].startswith(first_bytes.lower()):
            return AudioError(reason, f"{path} is {kind}")
    if not any(byte < 9 or 13 < byte < 32 for byte in head):
        return AudioError("text", f"{path} is a text file, expected audio")
    return AudioError("not_audio", f"{path} is not decoded by libsndfile: {error.error_string}")


def _check_header(sound: Sound, path: str | Path) -> None:
    """Refuse implausible rates, channel counts and lengths, and files without samples."""
    low, high = RATE_LIMITS
    if not low <= sound.samplerate <= high:
        raise AudioError(
            "sample_rate",
            f"{path} is sampled at {sound.samplerate} Hz, expected {low} to {high} Hz",
        )
    if not 1 <= sound.channels <= MAX_CHANNELS:
        raise AudioError(
            "channels", f"{path} has {sound.channels} channels, expected 1 to {MAX_CHANNELS}"
        )
    if sound.frames > FRAMES_PER_BYTE * sound.state[0]:
        message = f"header announces {sound.frames / sound.samplerate:.0f} s"
        raise AudioError("truncated", f"{path}: {message}, found {sound.state[0]} bytes")
    if sound.frames <= 0:
        size = sound.state[0]
        if size > LARGEST_HEADER:
            message = "header announces no samples: the recording was probably not completed"
            raise AudioError("unfinished", f"{path} has {size} bytes, but its {message}")
        raise AudioError("empty", f"{path} has no samples")
