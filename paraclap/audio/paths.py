"""Paths of audio files: inside their corpus root, regular files, and the reason if they are not.

A recording in a shard has a path below that of the shard, see `paraclap.audio.shards`.
"""

import errno
import hashlib
import io
import os
import stat
from pathlib import Path

from paraclap.audio import AudioError
from paraclap.audio.shards import Member, find_member, locate
from paraclap.files import sampled_hash, sampled_hash_of

SYSTEM_REASONS = {
    errno.ENOENT: ("missing", "does not exist"),
    errno.ENOTDIR: ("missing", "does not exist"),
    errno.EACCES: ("unreadable", "may not be read by this user"),
    errno.EPERM: ("unreadable", "may not be read by this user"),
    errno.ELOOP: ("looping_link", "is a symbolic link in a loop"),
    errno.ENAMETOOLONG: ("name", "is longer than a file name can be"),
}
"""Error number -> reason of an `AudioError`, and the end of its message."""


def resolve_inside(root: str | Path, file: str) -> Path:
    """Return the absolute path of a table's relative `file`, which must lie inside `root`.

    If `root` is a folder of shards, this is the path of a member.

    Raises:
        AudioError: if the name is empty or contains a NUL, or if it leaves `root` by `..`, as an
            absolute path or through a symbolic link (`outside_root`).
    """
    if not file or "\0" in file:
        raise AudioError("name", f"{file!r} is not a file name")
    root, name = os.path.realpath(root), os.path.join(root, file)
    try:
        path = Path(os.path.realpath(name, strict=True))
    except FileNotFoundError as error:
        if os.path.islink(name):
            raise system_error(name, error) from error
        if (member := find_member(root, file)) is not None:
            return member
        path = Path(os.path.realpath(name))  # opening it will raise `missing`
    except OSError as error:
        raise system_error(name, error) from error
    if not path.is_relative_to(root):
        raise AudioError("outside_root", f"{file!r} leads to {path}, outside of {root}")
    return path


def check_regular(path: str | Path) -> None:
    """Raise `AudioError` unless a path is a regular file; opening a FIFO would block forever."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        raise system_error(path, error) from error
    if stat.S_ISDIR(mode) and not os.access(path, os.R_OK | os.X_OK):
        raise AudioError("unreadable", f"{path} is a folder that may not be listed by this user")
    if stat.S_ISDIR(mode):
        raise AudioError("directory", f"{path} is a folder, expected an audio file")
    if not stat.S_ISREG(mode):
        raise AudioError("not_regular", f"{path} is a pipe, socket or device, expected a file")


def system_error(path: str | Path, error: OSError | ValueError) -> AudioError:
    """Return the `AudioError` of a failure of the operating system."""
    if isinstance(error, ValueError):
        return AudioError("name", f"{str(path)!r} is not a file name: {error}")
    if isinstance(error, FileNotFoundError) and os.path.islink(path):
        target = os.readlink(path)
        return AudioError("dangling_link", f"{path} is a link to {target}, which does not exist")
    default = ("system", f"cannot be opened: {error.strerror}")
    reason, text = SYSTEM_REASONS.get(error.errno, default)
    return AudioError(reason, f"{path} {text}")


def open_audio(path: str | Path) -> io.FileIO:
    """Open a regular file, or a recording in a shard.

    Raises:
        AudioError: if it is neither.
        OSError: if it cannot be opened.
    """
    if (place := locate(path)) is not None:
        return Member(place)
    check_regular(path)
    return open(path, "rb", buffering=0)


def state_of(path: str | Path) -> tuple[int, ...]:
    """Return size [bytes] and modification time [ns] of a file, or of a recording in a shard.

    Raises:
        OSError: if there is none.
    """
    if (place := locate(path)) is not None:
        return place.state
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def mark_of(path: str | Path) -> tuple[str, int]:
    """Return sampled hash and modification time [ns], by which changes are recognised.

    Raises:
        AudioError: if a shard was written to since it was indexed.
        OSError: if it is not a regular file, or cannot be read.
    """
    if (place := locate(path)) is not None:
        return sampled_hash_of(place.handle.fileno(), place.first, place.size), place.state[1]
    return sampled_hash(path), os.stat(path).st_mtime_ns


def is_audio_file(path: str | Path) -> bool:
    """Return whether a path is a regular file, or a recording in a shard."""
    return os.path.isfile(path) or locate(path) is not None


def hash_audio(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes as hexadecimal text.

    Raises:
        AudioError: if it is not a regular file, or cannot be opened.
    """
    try:
        with open_audio(path) as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise system_error(path, error) from error
