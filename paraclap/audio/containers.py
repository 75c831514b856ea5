"""Opening audio files: foreign content, truncated files and implausible headers are refused.

The content decides what a file is, not its suffix. libsndfile silently shortens a file that holds
less than its header announces, so announced sizes are checked here.
"""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import soundfile

from paraclap.audio import AudioError
from paraclap.audio.conditioning import MAX_CHANNELS, RATE_LIMITS
from paraclap.audio.paths import check_regular, system_error

SIZE_FIELDS = {
    # first bytes: offset and format of the size, offset of another one to add, bytes not counted
    b"FORM": (4, ">I", None, 8),
    b"RF64": (20, "<Q", None, 8),
    b"riff": (16, "<Q", None, 0),
    b".snd": (8, ">I", 4, 0),
}
"""Where AIFF, RF64, Wave64 and AU headers announce the length of the file."""
OGG_PAGE = 65_307
"""Largest page of an Ogg stream [bytes]."""
RIFF_SLACK = 64
"""Bytes that a header may announce beyond the end of the file; some writers include the header."""
RIFF_UNKNOWN = 0x7FFF_F000
"""RIFF data sizes from here on mean "unknown"; tools that stream to a pipe write them."""
FOREIGN_KINDS = (
    # offset, first bytes, reason, kind of file
    (0, b"<!doctype html", "html", "an HTML page, probably saved from a failed download"),
    (0, b"<html", "html", "an HTML page, probably saved from a failed download"),
    (0, b"version https://git-lfs", "lfs_pointer", "a Git LFS pointer; run `git lfs pull`"),
    (4, b"ftyp", "needs_ffmpeg", "MPEG-4 audio (m4a, mp4), which needs ffmpeg to convert it"),
    (0, b"\x1a\x45\xdf\xa3", "needs_ffmpeg", "WebM or Matroska, which needs ffmpeg to convert it"),
    (0, b"\x30\x26\xb2\x75", "needs_ffmpeg", "Windows Media, which needs ffmpeg to convert it"),
    (0, b"\xff\xf1", "needs_ffmpeg", "AAC, which needs ffmpeg to convert it"),
    (0, b"\xff\xf9", "needs_ffmpeg", "AAC, which needs ffmpeg to convert it"),
    (0, b"#!amr", "needs_ffmpeg", "AMR, which needs ffmpeg to convert it"),
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
        rate, kind = sound.samplerate, f"{sound.format} {sound.subtype}"
        return Header(sound.frames / rate, rate, sound.channels, kind)


def read_duration(path: str | Path) -> float:
    """Return the duration of a file [s], see `read_header`."""
    return read_header(path).seconds


@contextmanager
def open_sound(path: str | Path) -> Iterator[soundfile.SoundFile]:
    """Open a regular file with a plausible header.

    Raises:
        AudioError: for anything else, also from within the block.
    """
    check_regular(path)
    try:
        # By descriptor: works for names that are not UTF-8, and ignores the suffix.
        with open(path, "rb", buffering=0) as handle:
            _check_riff_size(handle, path)
            handle.seek(0)
            _check_announced_size(handle, path)
            handle.seek(0)
            with soundfile.SoundFile(handle.fileno(), closefd=False) as sound:
                _check_header(sound, path)
                yield sound
    except soundfile.LibsndfileError as error:
        raise _foreign_error(path, error) from error
    except OSError as error:
        raise system_error(path, error) from error


def _foreign_error(path: str | Path, error: soundfile.LibsndfileError) -> AudioError:
    """Return the error for content that libsndfile does not decode."""
    with open(path, "rb") as handle:
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


def _check_riff_size(handle: BinaryIO, path: str | Path) -> None:
    """Refuse a WAV file with less data than its data chunk announces."""
    size = os.fstat(handle.fileno()).st_size
    head = handle.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return
    position = 12
    while position + 8 <= size:
        handle.seek(position)
        name, announced = struct.unpack("<4sI", handle.read(8))
        position += 8
        if name == b"data":
            missing = position + announced - size
            if announced < RIFF_UNKNOWN and missing > RIFF_SLACK:
                raise AudioError(
                    "truncated",
                    f"{path}: header announces {announced} bytes of audio, found "
                    f"{announced - missing}",
                )
            return
        position += announced + announced % 2


def _check_announced_size(handle: BinaryIO, path: str | Path) -> None:
    """Refuse an AIFF, RF64, Wave64 or AU file that is shorter than its header announces."""
    size = os.fstat(handle.fileno()).st_size
    head = handle.read(32)
    if head[:4] not in SIZE_FIELDS or len(head) < 32:
        return
    offset, form, other, uncounted = SIZE_FIELDS[head[:4]]
    (announced,) = struct.unpack_from(form, head, offset)
    if announced in (0, 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF):  # unknown, written to a pipe
        return
    announced += uncounted + (0 if other is None else struct.unpack_from(form, head, other)[0])
    if announced - size > RIFF_SLACK:
        raise AudioError("truncated", f"{path}: header announces {announced} bytes, found {size}")


def lacks_ogg_end(path: str | Path) -> bool:
    """Return whether a file is an Ogg stream without a complete last page."""
    with open(path, "rb") as handle:
        if handle.read(4) != b"OggS":
            return False
        handle.seek(max(0, os.fstat(handle.fileno()).st_size - OGG_PAGE))
        tail = handle.read()
    page = tail[max(0, tail.rfind(b"OggS")) :]
    if len(page) < 27:
        return True
    size = 27 + page[26] + sum(page[27 : 27 + page[26]])  # header, table of lengths, packets
    return len(page) < size or not page[5] & 4


def _check_header(sound: soundfile.SoundFile, path: str | Path) -> None:
    """Refuse implausible sampling rates and channel counts, and files without samples."""
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
    if sound.frames <= 0:
        raise AudioError("empty", f"{path} has no samples")
