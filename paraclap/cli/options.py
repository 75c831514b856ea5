"""Argument types that several command lines share."""

import argparse
from collections.abc import Callable
from pathlib import Path


def renamed(new: str) -> Callable[[str], None]:
    """Return the type of a renamed option, which stops with the new name."""

    def refuse(_: str) -> None:
        raise argparse.ArgumentTypeError(f"renamed to {new}")

    return refuse


def output_file(text: str) -> Path:
    """Return the path of a file to be written, whose folder must exist."""
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: the folder {path.parent} does not exist")
    return path
