"""Decoding an open file in order: its parts one after the other, each without gaps.

    for block in Sound(handle, path).blocks(first, last, size=480_000):  # (F, C) float32
        ...

Letters: F frames at the rate of the file, C channels.
"""

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from paraclap.audio import AudioError
from paraclap.audio.announced import HEAD, VERIFIED, check_length, lacks_ogg_end
from paraclap.audio.ffmpeg import OPEN_LENGTH, Converted, convert, format_of
from paraclap.audio.parts import Part, find_parts
from paraclap.audio.shards import Member

INTEGER_STEP = np.float32(1 / 32768)
"""Difference between two neighbouring 16-bit samples, of full scale."""
PREROLL = 0.5
"""Stretch decoded before a segment of MP3 and Opus and dropped [s]: what they decode depends on
what came before, in MP3 with a variable bitrate on up to 0.1 s."""
DEPENDENT = ("MPEG_LAYER", "OPUS")
"""Codings that need it."""
IN_ORDER = ("DWVW",)
"""Codings that libsndfile cannot seek in, although it announces that it can."""


SIGNATURES = (b"RIFF", b"fLaC", b"OggS")
"""First bytes by which libsndfile recognises a container. For a descriptor without a signature, it
looks for another file, `._`, in the current folder."""


class Bytes:
    """A range of bytes of a file behind a header, as a file object; several may share a handle."""

    def __init__(self, handle: BinaryIO | Converted, part: Part) -> None:
        self._handle, self._part = handle, part
        self._header = len(part.header)
        self._size = self._header + part.last - part.first
        self._position = 0

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set and return the position."""
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def write(self, content: bytes) -> int:
        """Raise, but soundfile requires the method."""
        raise OSError("read only")

    def readinto(self, buffer: memoryview) -> int:
        """Fill a buffer as far as possible; return the number of bytes."""
        buffer = memoryview(buffer)[: max(0, self._size - self._position)]
        if self._position < self._header:
            content = self._part.header[self._position :][: len(buffer)]
            count = len(content)
            buffer[:count] = content
        else:
            place = self._part.first + self._position - self._header
            count = os.preadv(self._handle.fileno(), [buffer], place)
        self._position += count
        return count


class Decoder(soundfile.SoundFile):
    """One part of a file."""

    @functools.cached_property
    def subtype(self) -> str:
        """Coding; soundfile looks it up each time."""
        return super().subtype

    def seekable(self) -> bool:
        """Return False: otherwise soundfile seeks after each reading, which garbles MP3."""
        return False

    def blocks(self, first: int, last: int, size: int) -> Iterator[np.ndarray]:
        """Yield frames `first` to `last` in blocks (F, C); fewer if the file ends before."""
        position = self._go_before(first)
        while position < last:
            block = self._read(min(size, (last if position >= first else first) - position))
            if not len(block):
                return
            position += len(block)
            if position > first:
                yield block

    def _go_before(self, first: int) -> int:
        """Go to a frame from which `first` is decoded as in the whole file, and return it."""
        if first == 0 or not super().seekable() or self.subtype.startswith(IN_ORDER):
            return 0
        early = round(PREROLL * self.samplerate) if self.subtype.startswith(DEPENDENT) else 0
        return self.seek(max(0, first - early))

    def _read(self, frames: int) -> np.ndarray:
        """Return the next frames as float32; 16-bit samples are read as integers (faster)."""
        if self.subtype != "PCM_16":
            return self.read(frames, dtype="float32", always_2d=True)
        return self.read(frames, dtype="int16", always_2d=True) * INTEGER_STEP


class Sound:
    """An open file.

    Attributes:
        path: of the file.
        state: changes when the file is written to.
        frames: number of frames F.
        samplerate: [Hz].
        channels: number of channels C.
        subtype: coding, in libsndfile's names.
        kind: container and coding in libsndfile's names, e.g. `WAV PCM_16`.
        flags: of its container: `truncated` for Ogg without its last page,
            `unknown_length` if missing data at the end cannot be recognised, `converted` by ffmpeg.
    """

    def __init__(self, handle: BinaryIO, path: str | Path) -> None:
        self.path, self.flags = path, []
        if isinstance(handle, Member):
            self.state = handle.state
        else:
            status = os.fstat(handle.fileno())
            self.state = (status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev)
        head = handle.read(HEAD).ljust(HEAD, b"\0")
        foreign = format_of(head)
        if foreign is None:
            self.kind = self._open(handle, head)
        else:
            self.kind = self._open_converted(handle, head, *foreign)
        first = self._decoders[0]
        self.samplerate, self.channels = first.samplerate, first.channels
        self.subtype = first.subtype
        self.frames = sum(each.frames for each in self._decoders)
        if len(self._decoders) > 1:
            self._check_same()

    def _open(self, handle: BinaryIO, head: bytes) -> str:
        """Open the parts of a file, or the whole, and return its kind."""
        size = self.state[0]
        open_length = check_length(handle, head, size, self.path)
        parts = find_parts(handle, head, self.path, self.state)
        self._decoders = [Decoder(Bytes(handle, part)) for part in parts] or [_whole(handle, head)]
        subtype, container = self._decoders[0].subtype, self._decoders[0].format
        if subtype.startswith("MPEG"):
            container = "MP3"
        if container == "OGG":
            ranges = parts or (Part(0, size),)
            if any(lacks_ogg_end(handle, part.first, part.last) for part in ranges):
                self.flags.append("truncated")
        verified = container in VERIFIED and all(part.verified for part in parts)
        if open_length or not verified:
            self.flags.append("unknown_length")
        return f"{container} {subtype}"

    def _open_converted(self, handle: BinaryIO, head: bytes, form: str, name: str) -> str:
        """Open a file that ffmpeg converts, and return its kind."""
        check_length(handle, head, self.state[0], self.path)
        converted = convert(self.path, form, name, self.state)
        whole = Part(0, os.fstat(converted.fileno()).st_size)
        self._decoders = [Decoder(Bytes(converted, whole))]
        self.flags += ["converted", *(["unknown_length"] if form in OPEN_LENGTH else [])]
        return f"{name}, converted by ffmpeg"

    def _check_same(self) -> None:
        rates = sorted({(each.samplerate, each.channels) for each in self._decoders})
        if len(rates) > 1:
            found = " and ".join(f"{rate} Hz with {count} channel(s)" for rate, count in rates)
            raise AudioError("joined", f"{self.path} consists of files joined to one, of {found}")

    def blocks(self, first: int, last: int, size: int) -> Iterator[np.ndarray]:
        """Yield frames `first` to `last` in blocks (F, C) float32; fewer if the file ends before.

        May be called once: some codings are decoded in order only.
        """
        for decoder in self._decoders:
            begin, end = max(first, 0), min(last, decoder.frames)
            if begin < end:
                yield from decoder.blocks(begin, end, size)
            first, last = first - decoder.frames, last - decoder.frames

    def close(self) -> None:
        """Close the decoders."""
        for decoder in self._decoders:
            decoder.close()


def _whole(handle: BinaryIO, head: bytes) -> Decoder:
    """Return the decoder of a file of one part."""
    handle.seek(0)
    # The suffix of a path would matter, and it may not be UTF-8.
    if head[:4] in SIGNATURES:
        return Decoder(handle.fileno(), closefd=False)
    return Decoder(f"/dev/fd/{handle.fileno()}")
