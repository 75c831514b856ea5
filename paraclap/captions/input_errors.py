"""Mistakes of the person at the command line, told in one sentence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from paraclap.errors import ParaCLAPError


class InputError(ParaCLAPError, ValueError):
    """A mistake in what the user gave, told in one sentence."""


def read_text(path: Path, parse: Callable[[str], Any]) -> Any:
    """Parsed content of a text file; errors say which file."""
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (InputError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}") from error
