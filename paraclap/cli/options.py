"""Argument types and actions that several command lines share."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class RenamedOption(argparse.Action):
    """Stop with the new name of an option: `add("--old", action=RenamedOption, const="--new")`."""

    def __init__(self, option_strings: Sequence[str], dest: str, const: str, **_: Any) -> None:
        super().__init__(option_strings, dest, nargs="*", const=const, help=argparse.SUPPRESS)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Report the error."""
        parser.error(f"{option_string} was renamed to {self.const}")


def output_file(text: str) -> Path:
    """Return the path of a file to be written, whose folder must exist."""
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: the folder {path.parent} does not exist")
    return path
