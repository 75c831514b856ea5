"""Argument types that several command lines share."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path


def renamed(new: str) -> Callable[[str], None]:
    """Return the type of a renamed option, which stops with the new name."""

    def refuse(_: str) -> None:
        raise argparse.ArgumentTypeError(f"renamed to {new}")

    return refuse


def path_of(text: str) -> Path:
    """Return a path; ``~`` is expanded, also where a shell does not, as in `--cache=~/c`."""
    return Path(text).expanduser()


def output_file(*suffixes: str) -> Callable[[str], Path]:
    """Return the type of a file to be written, which has one of these suffixes."""

    def check(text: str) -> Path:
        path = path_of(text)
        if path.suffix.lower() not in suffixes:
            raise argparse.ArgumentTypeError(f"{text} must end in {' or '.join(suffixes)}")
        name = os.fsencode(path.absolute())
        if name.decode(errors="ignore").encode() != name:
            raise argparse.ArgumentTypeError(f"{name!r} is not UTF-8, expected another name")
        return path

    return check


def number(
    low: float, high: float, kind: type[int | float] = float
) -> Callable[[str], int | float]:
    """Return the type of numbers from `low` to `high`."""

    def number_of(text: str) -> int | float:
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} must be from {low:g} to {high:g}")
        return value

    return number_of


batch_seconds = number(0.1, 1e6)
"""Type of `--batch-seconds`."""
