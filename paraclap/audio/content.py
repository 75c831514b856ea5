"""The bytes of a file, read as they are needed.

Not a memory map: where a file shrinks, or a network drive fails, that would end the process.
"""

import os
import re
from collections.abc import Iterator
from typing import BinaryIO

BLOCK = 2**20
"""Bytes read at once."""
OVERLAP = 64
"""Longest match of a pattern [bytes]."""


class Content:
    """The content of an open file; `content[first:last]` are some of its bytes."""

    def __init__(self, handle: BinaryIO) -> None:
        self._handle, self._size = handle, os.fstat(handle.fileno()).st_size
        self._first, self._block = 0, b""

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, place: slice) -> bytes:
        """Return bytes, fewer at the end of the file."""
        first, last = place.start, min(place.stop, self._size)
        if not self._first <= first <= last <= self._first + len(self._block):
            size = max(BLOCK, last - first)
            self._first, self._block = first, os.pread(self._handle.fileno(), size, first)
        return self._block[first - self._first : max(0, last - self._first)]

    def find(self, pattern: re.Pattern[bytes], position: int = 0) -> Iterator[int]:
        """Yield where a pattern matches, from a position on."""
        while position < self._size:
            block = self[position : position + BLOCK]
            last = position + len(block) >= self._size
            for found in pattern.finditer(block):
                if last or found.start() < BLOCK - OVERLAP:
                    yield position + found.start()
            position += BLOCK - OVERLAP
            if last:
                return
