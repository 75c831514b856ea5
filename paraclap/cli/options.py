"""Argument types that several command lines share."""

import argparse
import os
from collections.abc import Callable, Iterable
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
    """Return the type of a file to be written, with one of these suffixes, in an existing folder.

    Other suffixes are refused because a recording that follows the option would be overwritten.
    """

    def check(text: str) -> Path:
        path = path_of(text)
        problems = {
            f"expected {' or '.join(suffixes)}": path.suffix.lower() not in suffixes,
            "it is a folder": path.is_dir(),
            f"the folder {path.parent} does not exist": not path.parent.is_dir(),
        }
        if problem := next((text for text, found in problems.items() if found), None):
            raise argparse.ArgumentTypeError(f"{text} cannot be written: {problem}")
        return path

    return check


def overwritten(outputs: Iterable[Path | None], inputs: Iterable[str]) -> str | None:
    """Return a message if an output is one of the input files, otherwise None."""
    existing = {os.path.realpath(path) for path in inputs if os.path.isfile(path)}
    for path in filter(None, outputs):
        if os.path.realpath(path) in existing:
            return f"{path} is an input, which would be overwritten"
    return None
