"""Reading sound: one segment of any file libsndfile decodes, as mono 16 kHz float32 in [-1, 1).

The only place that opens an audio file: features, training and evaluation hear the same samples::

    waveform = read_audio("speech.flac", start=0.5, end=2.0)  # (24000,) float32
    waveform, report = read_audio_with_report("speech.flac")  # report.flags(): "resampled:44100"
    waveform = read_crop("speech.flac", 0.5, 9.0, seconds=5.0, place=0.5)  # the middle 5 s of it

What cannot be read faithfully is refused with an `AudioError` whose ``reason`` is a short code
(``missing``, ``truncated``, ``html``, ``segment``, ...); nothing is repaired or cut silently. What
was changed to make 16 kHz mono of it, and what looks wrong but may be meant, is in the report.

Letters: T samples at 16 kHz, F frames at the file's own rate, C channels.
"""

import errno
import math
import os
import stat
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import soundfile
import soxr

from paraclap.errors import ParaCLAPError
from paraclap.files import file_sha256

SAMPLING_RATE = 16_000
"""Rate of every waveform that leaves this file [Hz]."""
RATE_LIMITS = (4_000, 192_000)
"""Lowest and highest accepted rate of a file [Hz]; outside, headers are usually damaged."""
MAX_CHANNELS = 32
MAX_SECONDS = 600.0
"""Longest stretch that is decoded in one go [s]; openSMILE needs about 35 MB for each minute."""
MAX_PEAK = 8.0
"""Largest plausible absolute sample; beyond it, a float file holds integers never scaled."""
END_TOLERANCE = 0.05
"""A segment may end this much after the file does [s], because annotations are rounded."""
SAMPLE_LIMITS = (-1.0, 32767 / 32768)
"""Range of a 16-bit sample; openSMILE wraps anything above to a negative value."""
INTEGER_STEP = np.float32(1 / 32768)
"""Difference between two neighbouring 16-bit samples, of full scale."""
BLOCK_SECONDS = 30.0
"""Stretch that is decoded and mixed to mono at a time [s]: memory does not grow with channels."""
CLIPPED_SHARE = 0.001
"""Share of samples at full scale from which a recording counts as clipped; a peak has a few."""
OFFSET_LIMIT = 0.01
"""Constant part (of full scale) from which it is worth a flag; it shifts pitch and loudness."""
CANCELLED_SHARE = 0.01
"""Share of the channels' power left in their mean below which they cancel each other."""
CONDITIONING = "mean of the channels, soxr HQ to 16000 Hz, clipped to [-1, 32767/32768]"
CROP_MARGIN = 0.05
"""Stretch around a crop that is resampled with it [s]; the filter reaches less far."""

SIZE_FIELDS = {
    # first bytes: offset and form of the size, offset of another one to add, bytes not counted
    b"FORM": (4, ">I", None, 8),
    b"RF64": (20, "<Q", None, 8),
    b"riff": (16, "<Q", None, 0),
    b".snd": (8, ">I", 4, 0),
}
"""Where AIFF, RF64, Wave64 and AU headers announce how long the file is."""
OGG_PAGE = 65_307
"""Largest page of an Ogg stream [bytes]."""
RIFF_SLACK = 64
"""Bytes a RIFF data chunk may claim beyond the file; some writers count the header in."""
RIFF_UNKNOWN = 0x7FFF_F000
"""Data sizes from here on mean `unknown`, as written by tools that stream to a pipe."""

Position = float | timedelta | None
"""A place in a file: seconds, a timedelta (also of pandas), or None and NaT for the default."""

FOREIGN_KINDS = (
    # offset, first bytes, reason, what the file is
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
"""Files often met under the name of a sound; the case of letters does not count."""

SYSTEM_REASONS = {
    errno.ENOENT: ("missing", "does not exist"),
    errno.ENOTDIR: ("missing", "does not exist"),
    errno.EACCES: ("unreadable", "may not be read by this user"),
    errno.EPERM: ("unreadable", "may not be read by this user"),
    errno.ELOOP: ("looping_link", "is a link that leads back to itself"),
    errno.ENAMETOOLONG: ("name", "is longer than a file name can be"),
}


class AudioError(ParaCLAPError, ValueError):
    """An audio file, or a segment of it, that cannot be read faithfully.

    Attributes:
        reason: short code for tables and counts, e.g. ``truncated``
    """

    def __init__(self, reason: str, message: str) -> None:
        """Keep the code beside the sentence; both survive pickling between processes."""
        super().__init__(reason, message)
        self.reason = reason

    def __str__(self) -> str:
        """The sentence alone."""
        return self.args[1]


@dataclass
class Report:
    """What reading did to a recording, and what looks wrong in it.

    Attributes:
        rate: rate of the file [Hz]
        channels: number of channels C
        silent_channels: channels of which every sample is 0
        clipped: share of samples at full scale
        offset: mean of the waveform, of full scale
        kept_power: power of the channels' mean over the mean of the channels' power; 0 when they
            cancel each other, 1 when they are equal
        truncated: whether an Ogg stream lacks its last page
    """

    rate: int
    channels: int = 1
    silent_channels: int = 0
    clipped: float = 0.0
    offset: float = 0.0
    kept_power: float = 1.0
    truncated: bool = False

    def flags(self) -> list[str]:
        """Return what is worth telling, e.g. ``["resampled:44100", "mixed:2"]``."""
        table = (
            (self.rate != SAMPLING_RATE, f"resampled:{self.rate}"),
            (self.channels > 1, f"mixed:{self.channels}"),
            (0 < self.silent_channels < self.channels, f"silent_channels:{self.silent_channels}"),
            (self.kept_power < CANCELLED_SHARE, "antiphase"),
            (self.clipped >= CLIPPED_SHARE, f"clipped:{self.clipped:.4f}"),
            (abs(self.offset) >= OFFSET_LIMIT, f"offset:{self.offset:.3f}"),
            (self.truncated, "truncated"),
        )
        return [text for found, text in table if found]


def read_audio(
    path: str | Path,
    start: Position = 0.0,
    end: Position = None,
    *,
    max_seconds: float = MAX_SECONDS,
) -> np.ndarray:
    """Return a segment as mono float32 waveform (T,) at 16 kHz within [-1, 32767/32768].

    Only the segment is decoded. Channels are averaged, other rates are resampled by soxr (HQ).

    Args:
        path: file of any format that libsndfile reads; its content counts, not its suffix
        start: begin of the segment [s], or a timedelta; None and NaT mean 0
        end: end of the segment [s], or a timedelta; None and NaT mean the end of the file
        max_seconds: longest segment that is accepted [s], checked before decoding

    Raises:
        AudioError: if the file is no readable sound, is truncated or implausible, or does not
            contain the segment
    """
    with _open_sound(path) as sound:
        first, last = _segment(sound, path, start, end, max_seconds)
        return _read_frames(sound, path, first, last)


def read_audio_with_report(
    path: str | Path,
    start: Position = 0.0,
    end: Position = None,
    *,
    max_seconds: float = MAX_SECONDS,
) -> tuple[np.ndarray, Report]:
    """Return what `read_audio` does, and a report of its conditioning, from one reading.

    Raises:
        AudioError: as `read_audio`
    """
    with _open_sound(path) as sound:
        first, last = _segment(sound, path, start, end, max_seconds)
        levels = _Levels(sound.channels)
        mono = _joined(_mono_blocks(sound, path, first, last, levels), last - first)
        report = levels.report(sound.samplerate)
    report.truncated = _lacks_ogg_end(path)
    return _condition(mono, report.rate), report


def read_crop(
    path: str | Path, start: Position, end: Position, seconds: float, place: float
) -> np.ndarray:
    """Return a part of a segment as waveform (T,), cut from the file at 16 kHz.

    Only that part is decoded. Of a file at 16 kHz it is what `read_audio` returns for its limits;
    a file at another rate is resampled with what lies around the crop, so that the samples are
    those of the whole file at 16 kHz, to the rounding of float32.

    Args:
        path: as of `read_audio`
        start: begin of the segment, as of `read_audio`
        end: end of the segment, as of `read_audio`
        seconds: longest part [s]; a shorter segment is returned whole
        place: of the part in the segment, 0 (its begin) to 1 (its end)

    Raises:
        AudioError: as `read_audio`
    """
    with _open_sound(path) as sound:
        rate = sound.samplerate
        limits = crop_limits(start, end, sound.frames / rate, seconds, place)
        if rate == SAMPLING_RATE:
            return _read_frames(sound, path, *_segment(sound, path, *limits))
        samples = (2 * sound.frames * SAMPLING_RATE + rate) // (2 * rate)  # as soxr counts
        first, last = frame_range(path, *limits, sound.frames / rate, samples, SAMPLING_RATE)
        check_length(path, last - first, SAMPLING_RATE)
        # Frames whose place is a whole number of samples: the phases of the filter stay the same.
        unit = rate // math.gcd(rate, SAMPLING_RATE)
        margin = round(CROP_MARGIN * rate)
        begin = max(0, first * rate // SAMPLING_RATE - margin) // unit * unit
        stop = min(sound.frames, -(-last * rate // SAMPLING_RATE) + margin)
        waveform = _read_frames(sound, path, begin, stop)
    return waveform[first - begin * SAMPLING_RATE // rate :][: last - first]


def read_in_blocks(path: str | Path, receive: Callable[[np.ndarray], object]) -> Report:
    """Give the waveform of a file to ``receive`` in blocks (T,), however long the file is.

    Joined, the blocks are what `read_audio` returns for the whole file, bit for bit.

    Raises:
        AudioError: as `read_audio`, also after blocks were given
    """
    with _open_sound(path) as sound:
        levels = _Levels(sound.channels)
        blocks = _mono_blocks(sound, path, 0, sound.frames, levels)
        for block in _resampled(blocks, sound.samplerate):
            receive(np.clip(block, *np.float32(SAMPLE_LIMITS)))
        report = levels.report(sound.samplerate)
    report.truncated = _lacks_ogg_end(path)
    return report


def _resampled(blocks: Iterable[np.ndarray], rate: int) -> Iterator[np.ndarray]:
    """Yield blocks (F,) at ``rate`` Hz as blocks at 16 kHz, filtered as if they were one."""
    if rate == SAMPLING_RATE:
        yield from blocks
        return
    stream = soxr.ResampleStream(rate, SAMPLING_RATE, 1, dtype="float32", quality="HQ")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.empty(0, dtype=np.float32), last=True)


class Recordings(Protocol):
    """Where the recordings of a corpus come from; names of files are relative to it.

    Attributes:
        conditioning: what is done to the samples of a file
    """

    conditioning: str

    def seconds(self, file: str) -> float:
        """Return the duration of a file [s]."""

    def read(self, file: str, start: Position = None, end: Position = None) -> np.ndarray:
        """Return a segment (T,), see `read_audio`."""

    def crop(
        self, file: str, start: Position, end: Position, seconds: float, place: float
    ) -> np.ndarray:
        """Return a part of a segment (T,), see `read_crop`."""

    def hash(self, file: str) -> str:
        """Return the SHA-256 of the bytes of a file as hexadecimal text."""


class Files:
    """The recordings of a corpus, read from its files.

    Attributes:
        root: folder that the names of files are relative to
        conditioning: what is done to the samples of a file
    """

    conditioning = CONDITIONING

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def seconds(self, file: str) -> float:
        """Return the duration of a file [s], see `read_duration`."""
        return read_duration(resolve_inside(self.root, file))

    def read(self, file: str, start: Position = None, end: Position = None) -> np.ndarray:
        """Return a segment (T,), see `read_audio`."""
        return read_audio(resolve_inside(self.root, file), start, end)

    def crop(
        self, file: str, start: Position, end: Position, seconds: float, place: float
    ) -> np.ndarray:
        """Return a part of a segment (T,), see `read_crop`."""
        return read_crop(resolve_inside(self.root, file), start, end, seconds, place)

    def hash(self, file: str) -> str:
        """Return the SHA-256 of the bytes of a file, see `hash_file`."""
        return hash_file(resolve_inside(self.root, file))


class JoinedRecordings:
    """The recordings of several corpora; the name of a file begins with that of its corpus.

    Attributes:
        corpora: name of a corpus -> its recordings
        conditioning: what is done to the samples of a file
    """

    def __init__(self, corpora: Mapping[str, Recordings]) -> None:
        self.corpora = corpora
        self.conditioning = "; ".join(dict.fromkeys(c.conditioning for c in corpora.values()))

    def _find(self, file: str) -> tuple[Recordings, str]:
        corpus, _, name = file.partition("/")
        return self.corpora[corpus], name

    def seconds(self, file: str) -> float:
        """Return the duration of a file [s]."""
        recordings, name = self._find(file)
        return recordings.seconds(name)

    def read(self, file: str, start: Position = None, end: Position = None) -> np.ndarray:
        """Return a segment (T,)."""
        recordings, name = self._find(file)
        return recordings.read(name, start, end)

    def crop(
        self, file: str, start: Position, end: Position, seconds: float, place: float
    ) -> np.ndarray:
        """Return a part of a segment (T,)."""
        recordings, name = self._find(file)
        return recordings.crop(name, start, end, seconds, place)

    def hash(self, file: str) -> str:
        """Return the SHA-256 of the bytes of a file as hexadecimal text."""
        recordings, name = self._find(file)
        return recordings.hash(name)


def condition(samples: np.ndarray, rate: int) -> np.ndarray:
    """Return samples that are in memory as `read_audio` returns those of a file: (T,) at 16 kHz.

    Args:
        samples: (F,) or (F, C), float in [-1, 1] or signed integers of full scale; not changed
        rate: of the samples [Hz]

    Raises:
        AudioError: for another shape or type, and for what is refused in a file
    """
    frames = np.atleast_2d(samples.T).T
    if frames.ndim != 2 or not 1 <= frames.shape[1] <= MAX_CHANNELS:
        shape = tuple(samples.shape)
        raise AudioError("channels", f"signal has shape {shape}, expected (F,) or (F, C)")
    if not RATE_LIMITS[0] <= rate <= RATE_LIMITS[1]:
        raise AudioError("sample_rate", f"signal at {rate} Hz, expected {RATE_LIMITS} Hz")
    if not len(frames):
        raise AudioError("empty", "signal holds no samples")
    if np.issubdtype(frames.dtype, np.signedinteger):
        frames = frames / -float(np.iinfo(frames.dtype).min)
    if not np.issubdtype(frames.dtype, np.floating):
        raise AudioError("type", f"signal is {frames.dtype}, expected float or signed integers")
    frames = frames.astype(np.float32)
    with np.errstate(invalid="ignore"):  # infinities are refused below
        mono = frames.mean(axis=1)
    levels = _Levels(frames.shape[1])
    levels.add(frames, mono)
    levels.check("signal")
    return _condition(mono, rate)


@dataclass(frozen=True)
class Header:
    """What the header of a file tells about its sound."""

    seconds: float
    """Duration [s]."""
    rate: int
    """Sampling rate [Hz]."""
    channels: int
    kind: str
    """Container and coding by libsndfile's names, e.g. ``WAV PCM_16``; the content decides."""


def read_header(path: str | Path) -> Header:
    """Return what the header of a file tells, without decoding it.

    Raises:
        AudioError: if the file is no readable sound or its header is implausible
    """
    with _open_sound(path) as sound:
        return Header(
            sound.frames / sound.samplerate,
            sound.samplerate,
            sound.channels,
            f"{sound.format} {sound.subtype}",
        )


def read_duration(path: str | Path) -> float:
    """Return the duration of a file [s] as its header tells, without decoding it.

    Raises:
        AudioError: if the file is no readable sound or its header is implausible
    """
    return read_header(path).seconds


def hash_file(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes as hexadecimal text.

    Raises:
        AudioError: if it is no regular file, or cannot be opened
    """
    _check_regular(path)
    try:
        return file_sha256(path)
    except OSError as error:
        raise AudioError(*_system_reason(path, error)) from error


def resolve_inside(root: str | Path, file: str) -> Path:
    """Return the absolute path of a table's relative ``file``, which must lie inside ``root``.

    Raises:
        AudioError: if the name is empty or holds a NUL, or if it leaves ``root`` by ``..``, as an
            absolute path or through a symbolic link (``outside_root``)
    """
    if not file or "\0" in file:
        raise AudioError("name", f"{file!r} is no file name")
    root, name = os.path.realpath(root), os.path.join(root, file)
    try:
        path = Path(os.path.realpath(name, strict=True))
    except FileNotFoundError as error:
        if os.path.islink(name):
            raise AudioError(*_system_reason(name, error)) from error
        path = Path(os.path.realpath(name))  # who opens it tells that it is missing
    except OSError as error:
        raise AudioError(*_system_reason(name, error)) from error
    if not path.is_relative_to(root):
        raise AudioError("outside_root", f"{file!r} leads to {path}, outside of {root}")
    return path


@contextmanager
def _open_sound(path: str | Path) -> Iterator[soundfile.SoundFile]:
    """Open a regular file whose header is plausible; everything else raises `AudioError`."""
    _check_regular(path)
    try:
        # By descriptor: works for names that are not UTF-8, and no suffix is ever trusted.
        with open(path, "rb", buffering=0) as handle:
            _check_riff_size(handle, path)
            handle.seek(0)
            _check_announced_size(handle, path)
            handle.seek(0)
            with soundfile.SoundFile(handle.fileno(), closefd=False) as sound:
                _check_header(sound, path)
                yield sound
    except soundfile.LibsndfileError as error:
        raise AudioError(*_foreign_kind(path, error)) from error
    except OSError as error:
        raise AudioError(*_system_reason(path, error)) from error


def _check_regular(path: str | Path) -> None:
    """Refuse what is not a regular file before opening it: opening a FIFO waits for ever."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        raise AudioError(*_system_reason(path, error)) from error
    if stat.S_ISDIR(mode):
        raise AudioError("directory", f"{path} is a folder, expected an audio file")
    if not stat.S_ISREG(mode):
        raise AudioError("not_regular", f"{path} is a pipe, socket or device, expected a file")


def _system_reason(path: str | Path, error: OSError | ValueError) -> tuple[str, str]:
    """Return the code and the sentence for a failure of the operating system."""
    if isinstance(error, ValueError):
        return "name", f"{str(path)!r} is no file name: {error}"
    if isinstance(error, FileNotFoundError) and os.path.islink(path):
        return "dangling_link", f"{path} is a link to {os.readlink(path)}, which does not exist"
    default = ("system", f"cannot be opened: {error.strerror}")
    reason, text = SYSTEM_REASONS.get(error.errno, default)
    return reason, f"{path} {text}"


def _foreign_kind(path: str | Path, error: soundfile.LibsndfileError) -> tuple[str, str]:
    """Return the code and the sentence for content that libsndfile refuses."""
    with open(path, "rb") as handle:
        head = handle.read(512)
    if not head:
        return "empty", f"{path} has 0 bytes"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for offset, first_bytes, reason, kind in FOREIGN_KINDS:
        if start[offset:].startswith(first_bytes.lower()):
            return reason, f"{path} is {kind}"
    if not any(byte < 9 or 13 < byte < 32 for byte in head):
        return "text", f"{path} is a text file, expected audio"
    return "not_audio", f"{path} is not decoded by libsndfile: {error.error_string}"


def _check_riff_size(handle: BinaryIO, path: str | Path) -> None:
    """Refuse a WAV whose data chunk claims more bytes than there are; libsndfile shortens it."""
    size = os.fstat(handle.fileno()).st_size
    head = handle.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return
    position = 12
    while position + 8 <= size:
        handle.seek(position)
        name, claimed = struct.unpack("<4sI", handle.read(8))
        position += 8
        if name == b"data":
            missing = position + claimed - size
            if claimed < RIFF_UNKNOWN and missing > RIFF_SLACK:
                raise AudioError(
                    "truncated",
                    f"{path}: header announces {claimed} bytes of sound, found {claimed - missing}",
                )
            return
        position += claimed + claimed % 2


def _check_announced_size(handle: BinaryIO, path: str | Path) -> None:
    """Refuse a file that is shorter than its header announces; libsndfile shortens the sound."""
    size = os.fstat(handle.fileno()).st_size
    head = handle.read(32)
    if head[:4] not in SIZE_FIELDS or len(head) < 32:
        return
    offset, form, other, uncounted = SIZE_FIELDS[head[:4]]
    (claimed,) = struct.unpack_from(form, head, offset)
    if claimed in (0, 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF):  # unknown, written to a pipe
        return
    claimed += uncounted + (0 if other is None else struct.unpack_from(form, head, other)[0])
    if claimed - size > RIFF_SLACK:
        raise AudioError("truncated", f"{path}: header announces {claimed} bytes, found {size}")


def _lacks_ogg_end(path: str | Path) -> bool:
    """Tell whether a file is an Ogg stream whose last page is not whole or not marked as last."""
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
    """Refuse rates and channel counts that no speech recording has, and files without sound."""
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
        raise AudioError("empty", f"{path} holds no samples")


def _seconds(position: Position, default: float) -> float:
    """Return a position [s] given as number or timedelta; None and NaT give the default."""
    if position is None or position != position:
        return default
    if hasattr(position, "total_seconds"):
        return position.total_seconds()
    return float(position)


def crop_limits(
    start: Position, end: Position, duration: float, seconds: float, place: float
) -> tuple[float, float]:
    """Return the limits [s] of a part of a segment, see `read_crop`.

    Args:
        start: begin of the segment
        end: end of the segment
        duration: of the file [s]
        seconds: longest part [s]
        place: of the part in the segment, 0 to 1
    """
    first, last = segment_limits(start, end, duration)
    if last - first <= seconds:
        return first, last
    first += place * (last - first - seconds)
    return first, first + seconds


def segment_limits(start: Position, end: Position, duration: float) -> tuple[float, float]:
    """Return the limits of a segment [s]; ``duration`` [s] is the end where none is given."""
    return _seconds(start, 0.0), _seconds(end, duration)


def frame_range(
    path: str | Path, start: Position, end: Position, duration: float, frames: int, rate: int
) -> tuple[int, int]:
    """Return the first and the one-past-last frame of a segment; it must lie in the file.

    Args:
        path: for the message
        start: begin of the segment
        end: end of the segment
        duration: of the file [s]
        frames: number of frames that there are
        rate: of the frames [Hz]

    Raises:
        AudioError: if the segment is not in the file
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
            raise AudioError(
                "segment",
                f"{path} lasts {duration:.3f} s; segment {begin:.3f} to {stop:.3f} s: {problem}",
            )
    first = round(begin * rate)
    last = min(round(stop * rate), frames)
    if last <= first:
        raise AudioError("segment", f"{path}: no sample between {begin:.6f} and {stop:.6f} s")
    return first, last


def check_length(
    path: str | Path, frames: int, rate: int, max_seconds: float = MAX_SECONDS
) -> None:
    """Refuse a stretch of so many frames if it is longer than ``max_seconds``."""
    if frames > max_seconds * rate:
        raise AudioError(
            "too_long", f"{path}: {frames / rate:.1f} s to read, expected at most {max_seconds:g} s"
        )


def _segment(
    sound: soundfile.SoundFile,
    path: str | Path,
    start: Position,
    end: Position,
    max_seconds: float = MAX_SECONDS,
) -> tuple[int, int]:
    """Return the frames of a segment of an open file, which must not be too long."""
    rate = sound.samplerate
    first, last = frame_range(path, start, end, sound.frames / rate, sound.frames, rate)
    check_length(path, last - first, rate, max_seconds)
    return first, last


def _read_frames(sound: soundfile.SoundFile, path: str | Path, first: int, last: int) -> np.ndarray:
    """Return frames of an open file as waveform (T,) at 16 kHz, without a report."""
    is_16_bit = sound.subtype == "PCM_16"
    levels = None if is_16_bit else _Levels(sound.channels)
    mono = _joined(_mono_blocks(sound, path, first, last, levels), last - first)
    if is_16_bit and sound.samplerate == SAMPLING_RATE:
        return mono  # in range as it is
    return _condition(mono, sound.samplerate)


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
    sound: soundfile.SoundFile,
    path: str | Path,
    first: int,
    last: int,
    levels: "_Levels | None",
) -> Iterator[np.ndarray]:
    """Yield the frames from first to last as mono blocks (F,) float32; all of them must be there.

    Args:
        sound: open file
        path: for messages
        first: frame
        last: frame, one past the end
        levels: takes in every block and is checked at the end; None if nobody asks for a report
            and the samples are integers of 16 bit, which are always in range
    """
    decoded = 0
    try:
        sound.seek(first)
        while decoded < last - first:
            frames = min(last - first - decoded, round(BLOCK_SECONDS * sound.samplerate))
            block = _read_block(sound, frames)
            if not len(block):
                break
            with np.errstate(invalid="ignore"):  # infinities are refused below, all at once
                mono = block[:, 0] if sound.channels == 1 else block.mean(axis=1)
            if levels is not None:
                levels.add(block, mono)
            decoded += len(block)
            yield mono
    except soundfile.LibsndfileError as error:
        raise AudioError("decoding", f"{path} is damaged: {error.error_string}") from error
    if last - first - decoded > END_TOLERANCE * sound.samplerate or not decoded:
        raise AudioError(
            "truncated", f"{path}: {last - first} frames asked for, only {decoded} decoded"
        )
    if levels is not None:
        levels.check(path)


def _read_block(sound: soundfile.SoundFile, frames: int) -> np.ndarray:
    """Return the next frames (F, C) as float32; 16 bits are read as integers, which is faster."""
    if sound.subtype != "PCM_16":
        return sound.read(frames, dtype="float32", always_2d=True)
    return sound.read(frames, dtype="int16", always_2d=True) * INTEGER_STEP


class _Levels:
    """Levels of a recording, added up block by block."""

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self.frames = self.broken = self.limited = 0
        self.peak = self.total = self.mono_power = self.channel_power = 0.0
        self.sounding = np.zeros(channels, dtype=bool)

    def add(self, block: np.ndarray, mono: np.ndarray) -> None:
        """Take in frames (F, C) and the mean of their channels (F,)."""
        magnitudes = np.abs(block)
        self.frames += len(block)
        self.peak = max(self.peak, float(magnitudes.max()))  # NaN only where `broken` counts it
        if not np.isfinite(magnitudes.sum(dtype=np.float64)):
            self.broken += int(np.count_nonzero(~np.isfinite(block)))
            return
        self.limited += int(np.count_nonzero(magnitudes >= np.float32(SAMPLE_LIMITS[1])))
        self.total += float(mono.sum(dtype=np.float64))
        if self.channels > 1:
            self.sounding |= magnitudes.any(axis=0)
            self.mono_power += float(np.square(mono, dtype=np.float64).sum())
            self.channel_power += float(np.square(block, dtype=np.float64).sum()) / self.channels

    def check(self, path: str | Path) -> None:
        """Refuse samples that are not finite or far outside of [-1, 1]."""
        if self.broken:
            raise AudioError(
                "non_finite", f"{path} holds {self.broken} samples that are NaN or infinite"
            )
        if self.peak > MAX_PEAK:
            raise AudioError(
                "range", f"{path} peaks at {self.peak:g}, expected float samples between -1 and 1"
            )

    def report(self, rate: int) -> Report:
        """Return the levels of the whole as report."""
        return Report(
            rate=rate,
            channels=self.channels,
            silent_channels=int(self.channels - self.sounding.sum()) if self.channels > 1 else 0,
            clipped=self.limited / (self.frames * self.channels),
            offset=self.total / self.frames,
            kept_power=self.mono_power / self.channel_power if self.channel_power else 1.0,
        )


def _condition(mono: np.ndarray, rate: int) -> np.ndarray:
    """Return a mono waveform (F,) at ``rate`` Hz, which may change, as (T,) at 16 kHz in range."""
    waveform = mono
    if rate != SAMPLING_RATE:
        waveform = soxr.resample(mono, rate, SAMPLING_RATE, quality="HQ")
    if not len(waveform):
        raise AudioError("segment", f"{len(mono)} frames at {rate} Hz are too few to resample")
    return np.clip(waveform, *np.float32(SAMPLE_LIMITS), out=waveform)
