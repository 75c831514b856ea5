"""Argument types that several command lines share."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from paraclap.model.sources import model_or_default

if TYPE_CHECKING:
    import pandas as pd

    from paraclap.inference.api import ParaCLAP


def renamed(new: str) -> Callable[[str], None]:
    """Return the type of a renamed option, which stops with the new name."""

    def refuse(_: str) -> None:
        raise argparse.ArgumentTypeError(f"renamed to {new}")

    return refuse


def path_of(text: str) -> Path:
    """Return a path; ``~`` is expanded, also where a shell does not, as in `--cache=~/c`."""
    return Path(text).expanduser()


def with_default_model(
    program: str, first: str | None, others: Sequence[str] = ()
) -> tuple[str | Path, list[str]]:
    """Return model and sources of a command line, see `model_or_default`; prints the default."""
    model, sources = model_or_default(first, others)
    if model != first:
        print(f"{program}: without MODEL, {Path(model).name} is used", file=sys.stderr)
    return model, sources


def add_reference_clips(parser: argparse.ArgumentParser) -> None:
    """Add the option `--reference-clips`, for `read_reference`."""
    what = "unlabelled clips; scores are relative to their mean embedding"
    parser.add_argument("--reference-clips", metavar="FOLDER", help=what)


def read_reference(source: str | None) -> "pd.DataFrame | None":
    """Return the corpus table of `--reference-clips`.

    Raises:
        CorpusError: if it cannot be read.
    """
    from paraclap.corpora.table import read_corpus

    return None if source is None else read_corpus(source)


def use_reference(
    program: str, paraclap: "ParaCLAP", table: "pd.DataFrame | None", window: float | None = None
) -> None:
    """Adapt a model to the table of `read_reference`, if any, and state so on stderr."""
    if table is None:
        return
    clips = paraclap.adapt(table, window).reference.clips
    found = f"relative to the mean of {clips} reference clips of {table.attrs['name']}"
    print(f"{program}: scores are {found}", file=sys.stderr)


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


def workers(low: int, automatic: Callable[[], int]) -> Callable[[str], int]:
    """Return the type of numbers of workers, at least `low`, and of "auto"."""
    number_of = number(low, 1024, int)

    def workers_of(text: str) -> int:
        return automatic() if text == "auto" else number_of(text)

    workers_of.__name__ = "number or auto"  # in the message of argparse
    return workers_of


batch_seconds = number(0.1, 1e6)
"""Type of `--batch-seconds`."""
