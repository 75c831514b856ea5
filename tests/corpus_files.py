"""Files of corpora for tests, most of them without any sound."""

import warnings
from pathlib import Path

import pandas as pd
import pytest

from paraclap.corpora import CorpusError
from paraclap.corpora.table import read_corpus


def write(root: Path, file: str, content: str | bytes = "") -> Path:
    """Write a file below a folder and return its path."""
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    return root / file


def touch(root: Path, *files: str) -> Path:
    """Create empty files below a folder and return the folder."""
    for file in files:
        write(root, file)
    return root


def message_of(source: object) -> str:
    """Return the message of the error that reading a source raises."""
    with pytest.raises(CorpusError) as caught:
        read_corpus(source)
    return str(caught.value)


def warnings_of(function, *arguments, **options) -> tuple[pd.DataFrame, list[str]]:
    """Return the result of a function and its warnings."""
    with warnings.catch_warnings(record=True, action="always") as warned:
        result = function(*arguments, **options)
    return result, [str(warning.message) for warning in warned]
