"""The command lines: argument parsing of each script, and one call.

The scripts at the root and the installed commands (`paraclap-train`, ...) run the same functions.
"""

import functools
import importlib
import io
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from paraclap.errors import ParaCLAPError
from paraclap.signals import Stopped


def run(main: Callable[[], int], name: str) -> int:
    """Run a command line; errors and warnings that are meant for users are one sentence each.

    Args:
        main: the command line; returns the exit code.
        name: of the script, before the sentence of an error.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for file names that are not UTF-8
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
