"""The command lines: argument parsing of each script, and one call.

The scripts at the root and the installed commands (`paraclap-train`, ...) run the same functions.
"""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

from paraclap.errors import ParaCLAPError


def run(main: Callable[[], int], name: str) -> int:
    """Run a command line; errors that are meant for users end in one sentence.

    Args:
        main: the command line; returns the exit code.
        name: of the script, before the sentence.
    """
    try:
        return main()
    except ParaCLAPError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def command() -> int:
    """Run an installed command: `paraclap-train` runs `paraclap.cli.train.main`."""
    name = Path(sys.argv[0]).stem
    module = name.removeprefix("paraclap-").replace("-", "_")
    return run(importlib.import_module(f"paraclap.cli.{module}").main, name)
