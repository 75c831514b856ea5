"""Streams of MP3 files: joined ones, and those whose length is found by counting frames.

libsndfile takes the length of an MP3 file from its Xing header. Without one it assumes that all
frames have the bitrate of the first, and after the first stream of a joined file it stops.
"""

import itertools
import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from paraclap.audio.content import Content

BITRATES = {
    # MPEG version 1 or not, layer -> kbit/s
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
"""Version bits -> sampling rates [Hz]."""
TAGS = 1024
"""A shorter rest after the announced end is not searched for another stream [bytes]."""
BEGINNING = re.compile(rb"\xff[\xe2-\xff]|ID3")
"""Beginning of a frame, or of a tag in front of it."""
SEARCHED = 2**20
"""Rest that is searched for another stream [bytes]."""
CONSECUTIVE = 3
"""Frames that must follow each other at the beginning of a stream."""


class Frame(NamedTuple):
    """Header of a frame."""

    size: int  # [bytes]
    rate: int  # [Hz]
    channels: int
    samples: int
    bitrate: int  # [kbit/s]
    side: int  # bytes before the place of a Xing header


class Stream(NamedTuple):
    """A range of bytes and the header to put in front of it."""

    first: int
    last: int
    header: bytes
    verified: bool  # whether it has a Xing header, which missing data contradicts


def id3_size(content: Content, position: int) -> int:
    """Return the position after an ID3v2 tag, or the same position."""
    tag = content[position : position + 10]
    if tag[:3] != b"ID3" or len(tag) < 10:
        return position
    size = sum((byte & 0x7F) << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=True))
    return position + 10 + size + (10 if tag[5] & 0x10 else 0)


def mp3_streams(content: Content, start: int) -> list[Stream]:
    """Return the streams of an MP3 file; none if libsndfile reads it as it is.

    Args:
        content: of the file.
        start: position after the ID3 tag.
    """
    streams = []
    position = start
    while (begin := _find_stream(content, position)) is not None:
        frame = _frame(content, begin)
        size = _xing_size(content, begin, frame)
        known, header = size > 0, b""
        if known:
            position = begin + size
        else:
            position, frames = _count(content, begin, frame)
            header = _xing(content[begin : begin + 4], frame, frames)
        position = min(position, len(content))
        size = position - begin + len(header)
        streams.append(Stream(begin, position, _wav_header(frame, size) + header, known))
        if len(content) - position < TAGS:
            break
    return [] if len(streams) == 1 and streams[0].verified else streams


def _frame(content: Content, position: int) -> Frame | None:
    """Return the header of the frame at a position; None if there is none."""
    return parse_frame(content[position : position + 4])


def parse_frame(head: bytes) -> Frame | None:
    """Return a header (4 bytes) of a frame; None if it is not one."""
    if len(head) < 4 or head[0] != 0xFF or head[1] < 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    place, rate = head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or layer == 4 or place in (0, 15) or rate == 3:
        return None
    first, mono = version == 3, head[3] >> 6 == 3
    bitrate, rate = BITRATES[first, layer][place], RATES[version][rate]
    padding = head[2] >> 1 & 1
    if layer == 1:
        return Frame((12_000 * bitrate // rate + padding) * 4, rate, 2 - mono, 384, bitrate, 0)
    samples = 1152 if first or layer == 2 else 576
    side = (17 if mono else 32) if first else (9 if mono else 17)
    size = samples // 8 * 1000 * bitrate // rate + padding
    return Frame(size, rate, 2 - mono, samples, bitrate, 4 + side)


def _frames(content: Content, position: int) -> Iterator[tuple[int, Frame]]:
    """Yield the frames from a position on, as far as they follow each other."""
    while (frame := _frame(content, position)) is not None:
        yield position, frame
        position += frame.size


def _find_stream(content: Content, position: int) -> int | None:
    """Return where the next frames follow each other; None if there are no more."""
    skipped, last = position, position + SEARCHED
    for place in content.find(BEGINNING, position):
        if skipped <= place < last:
            following = list(itertools.islice(_frames(content, place), CONSECUTIVE))
            if len(following) == CONSECUTIVE and len({frame[1:4] for _, frame in following}) == 1:
                return place
            skipped = id3_size(content, place)
            last = skipped + SEARCHED if skipped > place else last
        elif place >= last:
            return None
    return None


def _xing_size(content: Content, position: int, frame: Frame) -> int:
    """Return the size of a stream from its Xing header; 0 without one."""
    place = position + frame.side
    name, flags, _, size = struct.unpack(">4s3I", content[place : place + 16].ljust(16, b"\0"))
    return size if name in (b"Xing", b"Info") and flags & 3 == 3 else 0


def _count(content: Content, begin: int, first: Frame) -> tuple[int, int]:
    """Return the end of a stream without a Xing header, and its number of frames."""
    end, count = begin, 0
    for position, frame in _frames(content, begin):
        if frame.rate != first.rate or _xing_size(content, position, frame):
            break
        end, count = position + frame.size, count + 1
    return end, count


def _xing(head: bytes, frame: Frame, frames: int) -> bytes:
    """Return a frame with a Xing header that announces the number of frames."""
    size = 0
    for place in range(1, 15):  # the smallest bitrate with enough room
        header = bytes([head[0], head[1] | 1, place << 4 | head[2] & 0x0C, head[3]])
        found = parse_frame(header)
        size = found.size
        if size >= frame.side + 12:
            break
    xing = struct.pack(">4s2I", b"Xing", 1, frames)
    return (header + bytes(frame.side - 4) + xing).ljust(size, b"\0")


def _wav_header(frame: Frame, size: int) -> bytes:
    """Return the header of a WAV file with an MP3 stream.

    libsndfile recognises MP3 streams by their frames, but first looks for other files (`._`) in the
    current folder.
    """
    size = min(size, 0xFFFF_FFFF - 100)
    coding = (0x55, frame.channels, frame.rate, 16_000, 1, 0, 12, 1, 2, frame.size, 1, 1393)
    form = struct.pack("<HHIIHHHHIHHH", *coding)
    head = struct.pack("<4sI8sI", b"RIFF", size + 50, b"WAVEfmt ", len(form))
    return head + form + struct.pack("<4sI", b"data", size)
