"""Files of an index of clips.

    index.json      the model, and fingerprints of its audio and text side
    chunks/*.npy    embeddings (n, D) in float16, unit length; *.keys.npy: their keys (n, 32)
    clips.parquet   name, root, file, start, end [s] of each clip, and the place of its embedding

float16 changes a cosine by less than 1e-3.
"""

import json
from pathlib import Path

import pandas as pd
import pyarrow

from paraclap.errors import ParaCLAPError

FORMAT = 1
TABLE, ABOUT, CHUNKS = "clips.parquet", "index.json", "chunks"


class ClipIndexError(ParaCLAPError, ValueError):
    """An index that is missing, unfinished, damaged, or of another model."""


def read_about(folder: Path) -> dict:
    """Return the content of index.json.

    Raises:
        ClipIndexError: if the folder holds no index, or one of another format.
    """
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        found = about["format"]
    except FileNotFoundError as error:
        raise ClipIndexError(f"{folder} is not an index: it has no {ABOUT}") from error
    except (OSError, ValueError, KeyError) as error:
        raise ClipIndexError(f"{folder / ABOUT} cannot be read: {error!r}") from error
    if found != FORMAT:
        raise ClipIndexError(f"{folder} has format {found}, expected {FORMAT}")
    return about


def read_table(folder: Path) -> pd.DataFrame:
    """Return the table of clips.

    Raises:
        ClipIndexError: if it cannot be read.
    """
    try:
        return pd.read_parquet(folder / TABLE)
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise ClipIndexError(f"{folder / TABLE} cannot be read: {error}") from error


def chunk_paths(folder: Path, name: str) -> tuple[Path, Path]:
    """Return the files of embeddings and of keys."""
    return folder / CHUNKS / f"{name}.npy", folder / CHUNKS / f"{name}.keys.npy"
