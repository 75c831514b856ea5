"""Lengths that headers announce: files that hold less are refused, and most that hold more.

libsndfile silently shortens a file with less data than its header announces, ignores what follows
the announced data, and reads headers without a length to the end of the file.
"""

import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from paraclap.audio import AudioError

SLACK = 64
"""Bytes that a header may announce beyond the end of the file; some writers include the header."""
TAIL = 4096
"""Bytes behind the announced end that may be anything; more are probably samples."""
TAGS = (b"ID3", b"TAG", b"APETAGEX")
"""First bytes of what else may follow."""
FRAMES_PER_BYTE = 8192
"""Most frames that a byte holds: silence in FLAC, with the longest usual frames, has 6500."""
HEAD = 64
"""Bytes at the beginning of a file that identify its container."""
CAF_CHUNK = ">4sq"
"""Name and size of a chunk."""
UNKNOWN = 0x7FFF_F000
"""32-bit sizes from here on mean "unknown"; programs that write to a pipe use them."""
OGG_PAGE = 65_307
"""Largest page of an Ogg stream [bytes]."""
VERIFIED = {
    *("AIFF", "AU", "AVR", "CAF", "FLAC", "HTK", "MP3", "NIST", "OGG", "RF64", "SDS", "SVX"),
    *("VOC", "W64", "WAV", "WAVEX"),
}
"""Containers of libsndfile in which missing data is recognised here or by libsndfile."""


def check_length(handle: BinaryIO, head: bytes, size: int, path: str | Path) -> bool:
    """Return whether the header of a file leaves its length open.

    Raises:
        AudioError: if the file is shorter than announced (`truncated`), or has samples behind the
            announced end (`unfinished`). WAV files are then read to their end, see `find_parts`.
    """
    check = CHECKS.get(head[:4])
    announced = None if check is None else check(handle, head, size)
    if announced is not None and announced - size > SLACK:
        raise AudioError("truncated", f"{path}: header announces {announced} bytes, found {size}")
    if announced is not None and is_continued(handle, announced, size):
        message = "the recording was not completed, or files were joined"
        message = f"header announces {announced} bytes, found {size}: {message}"
        raise AudioError("unfinished", f"{path}: {message}")
    return check is not None and announced is None


def is_continued(handle: BinaryIO, end: int, size: int) -> bool:
    """Return whether probably samples follow the announced end of a file, or of its data."""
    return end + TAIL < size and not os.pread(handle.fileno(), 8, end).startswith(TAGS)


def after_chunks(handle: BinaryIO, position: int, size: int, form: str) -> int:
    """Return the end of the chunks that begin at a position; the same if there are none.

    `form` is that of their name and size.
    """
    length = struct.calcsize(form)
    while position + length <= size:
        name, announced = struct.unpack(form, os.pread(handle.fileno(), length, position))
        end = position + length + announced
        if not all(32 <= byte < 127 for byte in name) or announced < 0 or end > size + SLACK:
            break
        position = end if form == CAF_CHUNK else end + announced % 2  # padded
    return position


def find_data(handle: BinaryIO, head: bytes, size: int) -> tuple[int, int]:
    """Return the position of the samples of a WAV file and their announced size [bytes].

    The position is `size` if there is no data chunk.
    """
    form = ">4sI" if head[:4] == b"RIFX" else "<4sI"
    position = 12
    while position + 8 <= size:
        if position + 8 <= HEAD:
            name, announced = struct.unpack_from(form, head, position)
        else:
            handle.seek(position)
            name, announced = struct.unpack(form, handle.read(8))
        position += 8
        if name == b"data":
            return position, announced
        position += announced + announced % 2
    return size, 0


def _riff(handle: BinaryIO, head: bytes, size: int) -> int | None:
    if head[8:12] == b"AVI ":
        (announced,) = struct.unpack_from("<I", head, 4)
        return max(size, announced + 8) if announced else None  # more RIFF chunks may follow
    if head[8:12] != b"WAVE":
        return size
    position, announced = find_data(handle, head, size)
    return None if announced >= UNKNOWN else max(size, position + announced)


def _rf64(handle: BinaryIO, head: bytes, size: int) -> int | None:
    announced = _field("<Q", 20, 8)(handle, head, size)
    if announced is None or announced > size:
        return announced
    position, length = find_data(handle, head, size)
    if length == 0xFFFF_FFFF:
        (length,) = struct.unpack_from("<Q", head, 28)
    return after_chunks(handle, position + length, size, "<4sI")


def _form(handle: BinaryIO, head: bytes, size: int) -> int | None:
    announced = _field(">I", 4, 8)(handle, head, size)  # AIFF and 8SVX
    known = announced is not None and announced <= size
    return after_chunks(handle, 12, size, ">4sI") if known else announced


def _field(form: str, offset: int, added: int = 0) -> Callable[..., int | None]:
    """Return a check of a size at an offset; `added` bytes are not counted by it."""

    def check(handle: BinaryIO, head: bytes, size: int) -> int | None:
        (announced,) = struct.unpack_from(form, head, offset)
        largest = 256 ** struct.calcsize(form) - 1
        return None if announced in (0, largest) else announced + added

    return check


def _au(handle: BinaryIO, head: bytes, size: int) -> int | None:
    offset, announced = struct.unpack_from(">2I" if head[:4] == b".snd" else "<2I", head, 4)
    return None if announced in (0, 0xFFFF_FFFF) else offset + announced


def _avr(handle: BinaryIO, head: bytes, size: int) -> int | None:
    channels, bits = struct.unpack_from(">2H", head, 12)
    (frames,) = struct.unpack_from(">I", head, 26)
    return 128 + frames * (2 if channels else 1) * bits // 8


def _nist(handle: BinaryIO, head: bytes, size: int) -> int | None:
    handle.seek(0)
    header = handle.read(1024)
    found = dict(re.findall(rb"^(\w+) -i (\d+)\s*$", header, re.MULTILINE))
    length = re.match(rb"NIST_1A\s+(\d+)", header)
    if not length or b"sample_count" not in found:
        return None
    width, channels = (int(found.get(name, 1)) for name in (b"sample_n_bytes", b"channel_count"))
    return int(length[1]) + int(found[b"sample_count"]) * width * channels


def _voc(handle: BinaryIO, head: bytes, size: int) -> int | None:
    (position,) = struct.unpack_from("<H", head, 20)
    while position < size:
        handle.seek(position)
        block = handle.read(4).ljust(4, b"\0")
        if block[0] == 0:  # the end
            break
        position += 4 + int.from_bytes(block[1:], "little")
    return position


def _caf(handle: BinaryIO, head: bytes, size: int) -> int | None:
    position = 8
    while position + 12 <= size:
        handle.seek(position)
        name, announced = struct.unpack(CAF_CHUNK, handle.read(12))
        if announced < 0:  # until the end
            return None
        position += 12 + announced
        if name == b"data":
            return after_chunks(handle, position, size, CAF_CHUNK)
    return position


def _sds(handle: BinaryIO, head: bytes, size: int) -> int | None:
    frames = sum(head[10 + place] << 7 * place for place in range(3))
    in_packet = 120 // max(1, -(-head[6] // 7))  # bytes of 7 bits
    return 21 + 127 * -(-frames // in_packet)


CHECKS = {
    b"RIFF": _riff,
    b"RIFX": _riff,
    b"FORM": _form,
    b"RF64": _rf64,
    b"riff": _field("<Q", 16),  # Wave64
    b".snd": _au,
    b"dns.": _au,
    b"caff": _caf,
    b"2BIT": _avr,
    b"NIST": _nist,
    b"Crea": _voc,
    b"\xf0\x7e\x00\x01": _sds,
}
"""First bytes of a container -> function that returns the announced end of its data [bytes]; None
if the header leaves it open."""


def lacks_ogg_end(handle: BinaryIO, first: int, last: int) -> bool:
    """Return whether the bytes `first` to `last` are an Ogg stream without its last page."""
    begin = max(first, last - OGG_PAGE)
    tail = os.pread(handle.fileno(), last - begin, begin)
    page = tail[max(0, tail.rfind(b"OggS")) :]
    if len(page) < 27:
        return True
    size = 27 + page[26] + sum(page[27 : 27 + page[26]])  # header, table of lengths, packets
    return len(page) < size or not page[5] & 4
