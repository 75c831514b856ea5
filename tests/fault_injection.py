"""Faults at the n-th change of the file system: a kill -9, or a disk that is full from there on.

    whole = run(features.main, arguments, folder)  # whole.changes: what it does below the folder
    for at in range(len(whole.changes)):
        killed = run(features.main, arguments, folder, "kill", at)
        assert killed.code == -signal.SIGKILL  # otherwise the fault did not occur
        full = run(features.main, arguments, folder, "full", at)

A command line runs in a forked process, which saves the seconds of its imports. Audit events of
Python report each change before it takes place: files opened for writing, renamed, removed or
truncated, folders made or removed, and `os.fsync`. Libraries in C++ and Rust (pyarrow, torch,
safetensors) open files unseen; what they write is flushed and renamed in Python, which is seen.
Changes of other processes, such as workers, are not counted. Names of open files come from /proc;
tests are skipped on systems without it.
"""

import errno
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from paraclap import cli

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
PATHS = {
    "open": (0,),
    "os.rename": (0, 1),
    "os.link": (0, 1),
    "os.symlink": (1,),
    "os.remove": (0,),
    "os.mkdir": (0,),
    "os.rmdir": (0,),
    "os.truncate": (0,),
}
"""Audit events of changes, and which of their arguments are paths."""
FOLDERS = {"os.rename": (2, 3), "os.link": (2, 3), "os.remove": (1,), "os.mkdir": (2,)}
FOLDERS |= {"os.rmdir": (1,)}
"""Arguments with the open folders that relative paths start from, or -1."""
FREEING = {"os.remove", "os.rmdir"}
"""Changes that a full disk allows."""

EXISTING = {"os.remove": True, "os.mkdir": False}
"""Changes that take place only if their path exists, or does not."""


class Outcome(NamedTuple):
    """End of a run: exit code (negative: signal), changes including the faulty one, and texts."""

    code: int
    changes: list[str]
    output: str
    errors: str


def run(
    main: Callable[[list[str]], int],
    arguments: Sequence[object],
    folder: Path,
    fault: str | None = None,
    at: int = 0,
    limit: float = 120.0,
) -> Outcome:
    """Run a command line in a forked process, with a fault at one of its changes.

    Args:
        main: function of the command line.
        arguments: of the command line.
        folder: changes outside of it are neither counted nor disturbed.
        fault: `kill`, `full`, or None.
        at: number of the change, from 0; the fault comes before it.
        limit: longest time that the run may take [s].
    """
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("no /proc/self/fd")
    with tempfile.TemporaryDirectory() as place:
        logs = [Path(place, name) for name in ("changes", "output", "errors")]
        if not (child := os.fork()):
            _run_child(main, [str(argument) for argument in arguments], folder, fault, at, logs)
        deadline = time.monotonic() + limit
        while not (ended := os.waitpid(child, os.WNOHANG))[0]:
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                raise AssertionError(f"still running after {limit} s: {logs[2].read_text()}")
            time.sleep(0.005)
        changes, output, errors = (log.read_text(errors="replace") for log in logs)
    return Outcome(os.waitstatus_to_exitcode(ended[1]), changes.splitlines(), output, errors)


def _run_child(main, arguments, folder, fault, at, logs) -> None:
    """Run the command line and exit."""
    code = 1
    try:
        log, *streams = (os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) for path in logs)
        sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1) for stream in streams)
        os.dup2(sys.stderr.fileno(), 2)
        _watch(folder, fault, at, log)
        code = cli.run(lambda: main(arguments), "command")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:  # reported by the parent
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)


def _watch(folder: Path, fault: str | None, at: int, log: int) -> None:
    """Log the changes of this process below a folder, and disturb one of them."""
    process, folder, done = os.getpid(), os.path.realpath(folder), 0

    def change(event: str, *paths: str) -> None:
        nonlocal done
        inside = [path for path in paths if path.startswith(folder + os.sep) or path == folder]
        if not inside or os.getpid() != process:
            return
        relative = " ".join(os.path.relpath(path, folder) for path in inside)
        os.write(log, f"{event} {relative}\n".encode(errors="replace"))
        done += 1
        if fault == "kill" and done == at + 1:
            os.kill(process, signal.SIGKILL)
        if fault == "full" and done > at and event not in FREEING:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), paths[-1])

    def audit(event: str, arguments: tuple) -> None:
        if event not in PATHS or (event == "open" and not (arguments[2] or 0) & WRITING):
            return
        starts = [arguments[place] for place in FOLDERS.get(event, ())]
        paths = [arguments[place] for place in PATHS[event]]
        starts += [-1] * (len(paths) - len(starts))
        paths = list(map(_absolute, paths, starts))
        if os.path.lexists(paths[0]) == EXISTING.get(event, os.path.lexists(paths[0])):
            change(event, *paths)

    original = os.fsync

    def fsync(file: object) -> None:
        change("os.fsync", _absolute(file if isinstance(file, int) else file.fileno(), -1))
        original(file)

    os.fsync = fsync
    sys.addaudithook(audit)


def _absolute(path: object, start: int) -> str:
    """Return the path of an open file, or of a name in an open folder."""
    if isinstance(path, int):
        return os.path.realpath(f"/proc/self/fd/{path}")
    folder = os.getcwd() if start < 0 else os.path.realpath(f"/proc/self/fd/{start}")
    path = os.path.join(folder, os.fsdecode(path))
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
