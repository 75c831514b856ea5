"""Files that libsndfile does not decode, converted by ffmpeg where it is installed.

Most corpora of video are MPEG-4, WebM or AVI. ffmpeg decodes the first audio track of such a file
once, whole, to 16-bit samples in a temporary file without a name, from which segments and crops are
then read as from any other. The last two files stay converted as long as the process lives.
"""

import functools
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from paraclap.audio import AudioError
from paraclap.audio.paths import open_audio

FORMATS = (
    # offset, first bytes, format of ffmpeg, name
    (4, b"ftyp", "mov", "MPEG-4 audio (m4a, mp4)"),
    (4, b"moov", "mov", "QuickTime"),
    (0, b"\x1a\x45\xdf\xa3", "matroska", "WebM or Matroska"),
    (0, b"\x30\x26\xb2\x75", "asf", "Windows Media"),
    (0, b"\xff\xf0", "aac", "AAC"),
    (0, b"\xff\xf1", "aac", "AAC"),
    (0, b"\xff\xf8", "aac", "AAC"),
    (0, b"\xff\xf9", "aac", "AAC"),
    (0, b"#!AMR", "amr", "AMR"),
    (0, b"FLV\x01", "flv", "Flash video"),
    (8, b"AVI ", "avi", "AVI"),
    (0, b"\x00\x00\x01\xba", "mpeg", "MPEG video"),
)
"""Containers that ffmpeg converts. Others are not passed to it."""
_ANY = re.compile(
    b"|".join(b".{%d}%s" % (offset, re.escape(start)) for offset, start, *_ in FORMATS), re.DOTALL
)
OPEN_LENGTH = ("aac", "amr", "flv", "mpeg")
"""Formats in which data missing at the end cannot be recognised."""
SECONDS = 600
"""Longest conversion [s]."""
LARGEST = 2**32
"""Size at which a conversion stops [bytes]: 12 h of stereo at 48 kHz."""


class Converted:
    """A temporary file without a name; closed with the last reference to it."""

    def __init__(self) -> None:
        self._handle = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._handle.fileno()

    def __del__(self) -> None:
        """Close the file, which removes it."""
        self._handle.close()


def format_of(head: bytes) -> tuple[str, str] | None:
    """Return the format and the name of a container that ffmpeg converts."""
    if not _ANY.match(head):  # most files
        return None
    rows = (row for row in FORMATS if head.startswith(row[1], row[0]))
    return next(rows)[2:]


@functools.lru_cache(maxsize=2)
def convert(path: str | Path, form: str, name: str, state: tuple[int, ...]) -> Converted:
    """Return the first audio track of a file as AU file.

    Args:
        path: of the file.
        form: format of ffmpeg.
        name: of the container, for messages.
        state: changes when the file is written to.

    Raises:
        AudioError: if ffmpeg is not installed (`needs_ffmpeg`), or does not decode the whole file.
    """
    if (program := shutil.which("ffmpeg")) is None:
        raise AudioError("needs_ffmpeg", f"{path} is {name}, which needs ffmpeg to convert it")
    # Only this format and local files: a playlist cannot make it read or fetch anything else.
    command = [program, "-nostdin", "-v", "error", "-xerror", "-threads", "1"]
    command += ["-protocol_whitelist", "file,pipe", "-f", form]
    command += ["-i", "file:/dev/stdin"]  # it may also be a recording in a shard
    command += ["-map", "0:a:0", "-c:a", "pcm_s16be", "-fs", str(LARGEST), "-f", "au", "pipe:1"]
    converted = Converted()
    try:
        options = {"stderr": subprocess.PIPE, "timeout": SECONDS}
        with open_audio(path) as source:
            streams = {"stdin": source, "stdout": converted.fileno()}
            run = subprocess.run(command, check=False, **streams, **options)
    except subprocess.TimeoutExpired as error:
        message = f"{path}: ffmpeg took more than {SECONDS} s to convert it"
        raise AudioError("too_long", message) from error
    problems = run.stderr.decode(errors="replace").strip()
    if run.returncode or "ended prematurely" in problems:
        message = f"exit code {run.returncode}"
        if problems:
            message = re.sub(r"^\[.*?\] ", "", problems.splitlines()[0])  # without the address
        raise AudioError("decoding", f"{path} is not decoded by ffmpeg: {message}")
    if os.fstat(converted.fileno()).st_size >= LARGEST:
        raise AudioError("too_long", f"{path} is more than {LARGEST} bytes long when decoded")
    return converted
