"""The command lines: argument parsing of each script, and one call.

The scripts at the root and the installed commands (`paraclap-train`, ...) run the same functions.
"""

import functools
import importlib
import io
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from paraclap.cores import let_threads_sleep
from paraclap.errors import ParaCLAPError
from paraclap.signals import Stopped

BROKEN_PIPE = 141
"""Exit code of a process whose output nobody reads any more, as of SIGPIPE in a shell."""


def run(main: Callable[[], int], name: str) -> int:
    """Run a command line; errors and warnings that are meant for users are one sentence each.

    If the reader of the output has ended, as in `... | head`, the command ends quietly.

    Args:
        main: the command line; returns the exit code.
        name: of the script, before the sentence of an error.
    """
    let_threads_sleep()
    for stream, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, stream) is None:  # closed, as by `>&-`
            setattr(sys, stream, open(os.devnull, mode))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for file names that are not UTF-8
    try:
        try:
            return _run(main, name)
        finally:
            sys.stdout.flush()
    except OSError as error:
        return _end_without_output(error, name)


def _run(main: Callable[[], int], name: str) -> int:
    with warnings.catch_warnings():
        warnings.showwarning = functools.partial(_show_warning, warnings.showwarning)
        try:
            return main()
        except ParaCLAPError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
        except Stopped as stopped:
            print(f"{name}: {stopped}", file=sys.stderr)
            return stopped.code
        except KeyboardInterrupt:
            return 130


def _end_without_output(error: OSError, name: str) -> int:
    """Discard the output that cannot be written, and return the exit code.

    Raises:
        OSError: the given one, if both streams of output can be written.
    """
    streams = (sys.stdout, sys.stderr) if error.filename is None else ()
    lost = [stream for stream in streams if not _is_writable(stream)]
    if not lost:
        raise error
    with open(os.devnull, "w") as nowhere:
        for stream in lost:
            os.dup2(nowhere.fileno(), stream.fileno())
    if isinstance(error, BrokenPipeError):
        return BROKEN_PIPE
    print(f"{name}: the output cannot be written: {error.strerror}", file=sys.stderr)
    return 1


def _is_writable(stream: TextIO) -> bool:
    """Return whether an end of line can be written; what failed before may be lost already."""
    try:
        stream.flush()
        os.write(stream.fileno(), b"\n")
    except io.UnsupportedOperation:  # in memory
        return True
    except OSError:
        return False
    return True


def _show_warning(
    standard: Callable, message: Warning, category: type[Warning], *place: Any, **options: Any
) -> None:
    """Print a `UserWarning` in one line, and warnings of other categories in the standard form."""
    if category is UserWarning:
        print(f"warning: {message}", file=sys.stderr)
    else:
        standard(message, category, *place, **options)


def command() -> int:
    """Run an installed command: `paraclap-train` runs `paraclap.cli.train.main`."""
    name = Path(sys.argv[0]).stem
    module = name.removeprefix("paraclap-").replace("-", "_")
    return run(importlib.import_module(f"paraclap.cli.{module}").main, name)
