"""Which part of a corpus is scored, and how much of it a model was trained on."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from paraclap.corpora import CorpusError
from paraclap.corpora.labels import in_split, normalise_labels
from paraclap.data.tables import on_clips
from paraclap.data.trained_on import TrainedOn, clips_of
from paraclap.files import reading_parquet
from paraclap.parquet import open_parquet

TEST = "test"
UNKNOWN, NOTHING_SEEN = "unknown", "none"


def with_splits_of(table: pd.DataFrame, path: str | Path) -> pd.DataFrame:
    """Return the clips of a corpus table that are in a captions table, with the splits of that one.

    Raises:
        CorpusError: if the captions table cannot be read, or has no splits or none of the clips.
    """
    name, corpus = table.attrs["name"], table.attrs["corpus"]
    with reading_parquet(path, CorpusError, "a captions table"), open_parquet(path) as file:
        captions = on_clips(file.read().to_pandas(), path)
    if "split" not in captions:
        raise CorpusError(
            f"{path} has no column split, so the run held out speakers of its own choice; "
            "--unseen leaves out what it was trained on"
        )
    if "corpus" in captions and (known := captions["corpus"].isin([name, corpus])).any():
        captions = captions[known]
    captions = normalise_labels(captions[["split"]], str(path), report=False)
    captions = captions[~captions.index.duplicated()]
    found = table.index.isin(captions.index)
    if not found.any():
        raise CorpusError(f"{path} has none of the {len(table)} clips of {name}")
    return table[found].assign(**captions.reindex(table.index[found]))


def test_part(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the test split, or all rows if there are none."""
    is_test = in_split(table, TEST).to_numpy() if "split" in table else np.zeros(len(table), bool)
    return table[is_test] if is_test.any() else table


def seen_clips(table: pd.DataFrame, record: TrainedOn) -> pd.DataFrame | None:
    """Return which clips and speakers of a corpus table are in a record; None = not recorded.

    The columns are those of `TrainedOn.overlap`, and `attrs` has whether the record is complete and
    has the names of all speakers.
    """
    if record.clips is None:
        return None
    seen = record.overlap(clips_of(table)).set_axis(table.index)
    seen.attrs = {"complete": record.complete, "names_speakers": record.names_speakers}
    return seen


def without_seen(table: pd.DataFrame, seen: pd.DataFrame | None) -> pd.DataFrame:
    """Return the clips of which neither content nor speaker is in the record of the training.

    Raises:
        CorpusError: if there is no record, or no clip is left.
    """
    name = table.attrs["name"]
    if seen is None:
        raise CorpusError("--unseen needs the record of the training clips, which the model lacks")
    if seen.any(axis=1).all():
        raise CorpusError(
            f"--unseen: the model was trained or validated on all {len(table)} clips of {name} or "
            "their speakers"
        )
    return table[~seen.any(axis=1).to_numpy()]


def seen_counts(table: pd.DataFrame, seen: pd.DataFrame | None) -> dict[str, Any]:
    """Return how many of the scored clips and speakers were part of the training or validation.

    Args:
        table: rows that are scored.
        seen: of `seen_clips`, with these rows.

    Returns:
        `clips` and `speakers` (None if unknown), whether the record of the model is `complete`, and
        all of it as `text`.
    """
    if seen is None:
        return {"clips": None, "speakers": None, "complete": False, "text": UNKNOWN}
    complete, names_speakers = seen.attrs["complete"], seen.attrs["names_speakers"]
    seen = seen.loc[table.index]
    clips, speakers = int(seen["clip"].sum()), None
    text, unknown = f"{clips} of {len(table)} clips", "speakers are unknown"
    if "speaker" in table and table["speaker"].notna().any():
        by_name = table["speaker"][seen["namesake"].to_numpy()].nunique()
        speakers = table["speaker"][seen["speaker"].to_numpy()].nunique() + by_name
        text += f", {speakers} of {table['speaker'].nunique()} speakers"
        if by_name:
            text += " by name" if by_name == speakers else f", {by_name} of them by name"
        unknown = "" if names_speakers else "not all speakers are recorded"
    if not complete:
        text = f"at least {text}" if clips or speakers else UNKNOWN
    elif unknown:
        text = f"at least {text}; {unknown}"
    elif not clips and not speakers:
        text = NOTHING_SEEN
    return {"clips": clips, "speakers": speakers, "complete": complete, "text": text}
