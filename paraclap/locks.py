"""Locks of the folders and files that several processes could write to.

with lock(folder):
    write_text(folder / "table.csv", text)
"""

import errno
import fcntl
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from paraclap.files import OutputError, output_errors

LOCK = ".lock"
UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
"""Errors of file systems that have no locks."""
_held: set[int] = set()
"""Descriptors of the locks of this process."""


class InUseError(OutputError):
    """Another process writes to the same file or folder."""


@contextmanager
def lock(path: str | Path, *, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a folder or of a file that is written; the system releases it at exit.

    The lock is advisory (`flock`) and concerns other calls of this function alone, also on other
    machines if the file system supports it. Forked processes do not inherit it.

    Args:
        path: an existing folder, or a file in one, which need not exist.
        shared: let others hold a shared lock at the same time.
        wait: until another process has released the lock, with a printed line.

    Raises:
        InUseError: if another process holds the lock.
        OutputError: if the folder cannot be written.
    """
    path = Path(path)
    place = path / LOCK if path.is_dir() else path.with_name(f".{path.name}{LOCK}")
    descriptor = _acquire(path, place, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, wait)
    _held.add(descriptor)
    try:
        yield
    finally:
        _held.discard(descriptor)
        with suppress(OSError):  # others hold it as well, or the folder is gone
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            place.unlink()
        os.close(descriptor)


def _acquire(path: Path, place: Path, kind: int, wait: bool) -> int:
    """Return the descriptor of a locked file with the number of this process and its machine."""
    while True:
        with output_errors(path, place):
            descriptor = os.open(place, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
                if not wait:
                    raise InUseError(f"{path} is in use by {owner}") from None
                print(f"waiting for {owner}, which writes to {path}", flush=True)
                fcntl.flock(descriptor, kind)
            if _is_at(descriptor, place):  # not removed by its previous owner meanwhile
                owner = f"process {os.getpid()} on {socket.gethostname()}"
                with suppress(OSError):  # a full disk; the lock is held nevertheless
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, owner.encode(), 0)
                return descriptor
        except OSError as error:
            if error.errno in UNSUPPORTED:
                warnings.warn(f"{path}: the file system has no locks", stacklevel=4)
                return descriptor
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Return whether a path is that of an open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _release_in_child() -> None:
    """Close the locks of the parent, which would otherwise be held until its children end."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_release_in_child)
