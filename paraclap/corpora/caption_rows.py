"""Tables with several rows per clip, one for each of its captions."""

import warnings

import pandas as pd

from paraclap.corpora.labels import LABEL_COLUMNS, NUMBER_COLUMNS, ORIGINAL_SPLIT

CAPTION_COLUMNS = ("caption", "captions")
"""Columns of captions of one's own: a text, or a list of texts."""
HELD_OUT = ("test", "dev")


def caption_columns(columns: pd.Index) -> list[str]:
    """Return the columns of captions of one's own, not those of template_creation.py."""
    is_template = "caption_descriptors" in columns
    return [name for name in CAPTION_COLUMNS[: 1 if is_template else 2] if name in columns]


def one_row_per_clip(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return a table whose column `caption` has a list of all captions of a clip.

    Args:
        table: with normalised labels, and several rows of some clips. Labels that differ between
            the rows of a clip become missing. A clip in several splits is in test, otherwise dev.
        name: of the table, for the warning.
    """
    clips = table.groupby(level=[0, 1, 2], sort=False, dropna=False).ngroup().to_numpy()
    texts: list[list] = [[] for _ in range(clips.max() + 1)]
    for column in caption_columns(table.columns):
        for clip, value in zip(clips, table[column], strict=True):
            texts[clip].append(value)
    first = ~table.index.duplicated()
    merged = table[first].drop(columns=caption_columns(table.columns))
    rows = table.reset_index(drop=True).groupby(clips)
    for column in merged.columns:
        values = rows[column].first().to_numpy() if column in LABELS else merged[column]
        merged[column] = pd.Series(values, merged.index, dtype=merged[column].dtype)
        if column in LABELS and (differs := (rows[column].nunique() > 1).to_numpy()).any():
            merged[column] = _agreed(table[column], merged[column], clips, differs)
            _warn(name, column, merged.index[differs])
    return merged.assign(caption=texts)


LABELS = (*LABEL_COLUMNS, *NUMBER_COLUMNS, ORIGINAL_SPLIT)


def _agreed(column: pd.Series, first: pd.Series, clips: pd.Series, differs: pd.Series) -> pd.Series:
    """Return the values of a column by clip, where they differ the held-out split or missing."""
    agreed = first.mask(differs)
    for split in reversed(HELD_OUT) if column.name == "split" else ():
        inside = pd.Series(False, range(len(first)))
        inside[clips[(column == split).to_numpy()]] = True
        agreed = agreed.mask(inside.to_numpy() & differs, split)
    return agreed


def _warn(name: str, column: str, clips: pd.Index) -> None:
    """Warn of the clips whose rows differ in a column."""
    use = "missing there"
    if column == "split":
        use = "such a clip is used in the test split, otherwise in the development split"
    if column != ORIGINAL_SPLIT:
        warnings.warn(
            f"{name}: the rows of a clip differ in {column} ({len(clips)}, such as "
            f"{clips[0][0]}); {use}",
            stacklevel=4,
        )
