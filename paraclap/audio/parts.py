"""Files of several streams, or without the length that libsndfile needs, as parts to be decoded.

libsndfile decodes the first stream of joined files only, takes the length of an MP3 file without a
Xing header from its first frame, and of a FLAC or WAV file that was written to a pipe, or by a
recorder that died, it gets none or that of an earlier state. Here such files become parts: ranges
of bytes behind a header that states the right length.
"""

import functools
import os
import re
import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

from paraclap.audio import AudioError
from paraclap.audio.announced import (
    FRAMES_PER_BYTE,
    HEAD,
    SLACK,
    TAIL,
    UNKNOWN,
    after_chunks,
    find_data,
    is_continued,
)
from paraclap.audio.content import Content
from paraclap.audio.mp3 import id3_size, mp3_streams
from paraclap.audio.paths import open_audio

MAX_PARTS = 1000
SEARCHED = 2**26
"""Larger FLAC files are not searched for a second stream [bytes]."""
OGG_START = re.compile(rb"OggS\0[\2\3\6\7].{21}", re.DOTALL)
"""First page of a logical Ogg stream."""
FLAC_START = re.compile(rb"fLaC[\0\x80]\0\0\x22", re.DOTALL)
FLAC_FRAME = re.compile(rb"\xff[\xf8\xf9]", re.DOTALL)
FLAC_TAIL = 2**18
"""Longest last frame of a FLAC file [bytes]."""


class Part(NamedTuple):
    """A range of bytes of a file, decoded behind a header.

    `verified` is False if missing data at its end cannot be recognised.
    """

    first: int
    last: int
    header: bytes = b""
    verified: bool = True


def find_parts(
    handle: BinaryIO, head: bytes, path: str | Path, state: tuple[int, ...]
) -> tuple[Part, ...]:
    """Return the parts of a file; none if libsndfile reads it as it is.

    Args:
        handle: of the file.
        head: its first bytes.
        path: of the file.
        state: its size [bytes], and what else changes when it is written to.

    Raises:
        AudioError: if the file has too many parts, or its length cannot be found.
    """
    if head[:4] in (b"RIFF", b"RIFX"):
        return _wav_parts(handle, head, state[0], path)
    if head[:4] in (b"OggS", b"fLaC") or head[:3] == b"ID3" or head[0] == 0xFF:
        return _searched_parts(os.fspath(path), state)
    return ()


@functools.lru_cache(maxsize=2**16)
def _searched_parts(path: str, state: tuple[int, ...]) -> tuple[Part, ...]:
    """Return the parts of an Ogg, FLAC or MP3 file."""
    with open_audio(path) as handle:
        content = Content(handle)
        start = id3_size(content, 0)
        magic = content[start : start + 4]
        if magic == b"OggS":
            parts = _between(_ogg_starts(content), len(content))
        elif magic == b"fLaC":
            parts = _flac_parts(content, start, path)
        else:
            parts = tuple(Part(*stream) for stream in mp3_streams(content, start))
    if len(parts) > MAX_PARTS:
        raise AudioError("joined", f"{path} consists of {len(parts)} files joined to one")
    return parts


def _between(starts: list[int], size: int) -> tuple[Part, ...]:
    """Return the parts that begin at `starts`; none if there is only one."""
    ends = [*starts[1:], size]
    parts = (Part(first, last) for first, last in zip(starts, ends, strict=True))
    return tuple(parts) if len(starts) > 1 else ()


# --- Ogg -----------------------------------------------------------------------------------------


def _ogg_starts(content: Content) -> list[int]:
    """Return where the links of a chained Ogg file begin.

    First pages that follow each other belong to streams of one link, for example of a video.
    """
    starts, next_page = [], -1
    for position in content.find(OGG_START):
        page = content[position : position + 27 + 255]
        if position != next_page:
            starts.append(position)
        next_page = position + 27 + page[26] + sum(page[27 : 27 + page[26]])
    return starts


# --- FLAC ----------------------------------------------------------------------------------------


def _flac_parts(content: Content, start: int, path: str) -> tuple[Part, ...]:
    starts = [start]
    if len(content) <= SEARCHED:
        starts = list(content.find(FLAC_START, start)) or starts
    parts = [*_between(starts, len(content))] or [Part(start, len(content))]
    patched = [_with_total(content, part, path) for part in parts]
    return () if patched == [Part(start, len(content))] else tuple(patched)


def _with_total(content: Content, part: Part, path: str) -> Part:
    """Return a FLAC stream with the number of its samples in its header.

    It is taken from the last frame, which is recognised by its checksums, unless it is announced.

    Raises:
        AudioError: if the length is unknown and the file does not end with a whole frame, or if it
            ends with an earlier frame than announced.
    """
    header = bytearray(content[part.first : part.first + 42])
    if len(header) < 42:
        return part
    announced = int.from_bytes(header[21:26], "big") % 2**36
    if announced > FRAMES_PER_BYTE * (part.last - part.first):
        announced = 0
    low = max(part.first + 42, part.last - FLAC_TAIL)
    tail = content[low : part.last]
    for found in reversed(list(FLAC_FRAME.finditer(tail))):
        frame = tail[found.start() :]
        samples = _samples_until(frame, int.from_bytes(header[8:10], "big"))
        if samples and samples == announced:
            return part
        if samples and not _checksum(frame, 0x8005, 16):
            if samples < announced:
                message = f"header announces {announced} frames, found {samples}"
                raise AudioError("truncated", f"{path}: {message}")
            header[21] = header[21] & 0xF0 | samples >> 32
            header[22:26] = (samples % 2**32).to_bytes(4, "big")
            return Part(part.first + 42, part.last, bytes(header), verified=False)
    if announced:
        return part
    raise AudioError("truncated", f"{path}: the last frame of this FLAC file is not complete")


def _samples_until(frame: bytes, block: int) -> int:
    """Return how many samples a FLAC stream has at the end of a frame.

    0 if its header is not that of a frame; the end of the frame is not checked.
    """
    if len(frame) < 10 or not (code := frame[2] >> 4):
        return 0
    ones = 8 - (frame[4] ^ 0xFF).bit_length()  # the number is coded like a character of UTF-8
    end = 4 + max(1, ones)
    number = frame[4] & 0x7F >> ones
    for byte in frame[5:end]:
        number = number << 6 | byte & 0x3F
    extra = {6: 1, 7: 2}.get(code, 0)
    if extra:
        length = int.from_bytes(frame[end : end + extra], "big") + 1
    else:
        length = 192 if code == 1 else 576 << code - 2 if code < 6 else 256 << code - 8
    end += extra + {12: 1, 13: 2, 14: 2}.get(frame[2] & 15, 0)
    if frame[end : end + 1] != bytes([_checksum(frame[:end], 0x07, 8)]):
        return 0
    return number + length if frame[1] & 1 else number * block + length


def _checksum(content: bytes, polynomial: int, bits: int) -> int:
    """Return the cyclic redundancy check of FLAC; 0 for content that ends with its own."""
    table = _checksum_table(polynomial, bits)
    mask, shift, value = (1 << bits) - 1, bits - 8, 0
    for byte in content:
        value = (value << 8 & mask) ^ table[value >> shift ^ byte]
    return value


@functools.cache
def _checksum_table(polynomial: int, bits: int) -> list[int]:
    table = []
    for byte in range(256):
        value = byte << bits - 8
        for _ in range(8):
            value = value << 1 ^ (polynomial if value >> bits - 1 & 1 else 0)
        table.append(value & (1 << bits) - 1)
    return table


# --- WAV -----------------------------------------------------------------------------------------


def _wav_parts(handle: BinaryIO, head: bytes, size: int, path: str | Path) -> tuple[Part, ...]:
    """Return the parts of a WAV file that was joined, or whose recorder died.

    Its header then has no sizes, or earlier ones, and neither a chunk nor a file follows the data.
    """
    order = ">I" if head[:4] == b"RIFX" else "<I"
    (announced,) = struct.unpack_from(order, head, 4)
    position, data = find_data(handle, head, size)
    if announced + 8 + HEAD >= size and position + data + TAIL >= size:
        return ()
    starts, end = [0], announced + 8
    while data < UNKNOWN and end + HEAD < size and len(starts) <= MAX_PARTS:
        handle.seek(end)
        following = handle.read(12)
        if following[:4] != head[:4] or following[8:] != b"WAVE":
            break
        starts.append(end)
        end += struct.unpack_from(order, following, 4)[0] + 8
    if len(starts) > 1:
        if end - size > SLACK:
            raise AudioError("truncated", f"{path}: headers announce {end} bytes, found {size}")
        return _between(starts, size)
    empty = data == 0 and announced + 8 <= position < size
    if not empty and not _is_stale(handle, position, data, size, order):
        return ()
    handle.seek(0)
    header = handle.read(position)
    length = struct.pack(order, min(size - position, UNKNOWN - 1))
    header = header[:4] + length + header[8:-4] + length
    return (Part(position, size, header, verified=False),)


def _is_stale(handle: BinaryIO, position: int, data: int, size: int, order: str) -> bool:
    """Return whether samples follow the announced data of a WAV file."""
    end = position + data
    if data >= UNKNOWN or not is_continued(handle, end, size):
        return False
    places = (end, end + data % 2)  # not all programs pad
    return not any(after_chunks(handle, p, size, f"{order[0]}4sI") > p for p in places)
