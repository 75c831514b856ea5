"""Free captions: texts of any origin in tables of one's own.

    table = read_any_captions("my.csv", root="/data/mine")  # a captions table in memory
    batches = with_free_captions(batches, captions)  # beside the phrases of a table

A table has a column `caption` (a text, in one or several rows of a clip) or `captions` (a list, in
CSV a JSON list). In captions tables, free captions have the descriptor `FREE`.
"""

import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from paraclap.corpora import CorpusError
from paraclap.corpora.caption_rows import caption_columns
from paraclap.corpora.table import read_corpus
from paraclap.data.captions import FREE, text_key, tidy_caption
from paraclap.data.tables import (
    LISTS,
    PHRASE_COLUMNS,
    Lists,
    read_caption_table,
    refuse_repeated,
)
from paraclap.files import reading_parquet

LONGEST = 5000
"""Characters of a caption; longer texts are usually faults of a file, as an unpaired quote."""


def stored_columns(path: str | Path) -> pd.Index:
    """Return the columns of a Parquet table; of other files none.

    Raises:
        CorpusError: if a Parquet file cannot be read.
    """
    if Path(path).suffix.lower() != ".parquet":
        return pd.Index([])
    with reading_parquet(path, CorpusError, "a captions table"):
        return pd.Index(pq.read_schema(path).names)


def is_own_table(path: str | Path) -> bool:
    """Return whether a table has labels or captions of one's own; others are captions tables."""
    columns = stored_columns(path)
    return columns.empty or bool(caption_columns(columns))


def read_any_captions(path: str | Path, root: str | Path | None = None) -> pd.DataFrame:
    """Read the phrases of a captions table, or the free captions of another table.

    Args:
        path: of the table.
        root: folder of the audio of a table of one's own; None = that of the table.

    Returns:
        The columns `PHRASE_COLUMNS` on the index `file`, `start`, `end`.

    Raises:
        CorpusError: if it cannot be read, has no captions, or a clip with phrases occurs twice.
    """
    if is_own_table(path):
        table = read_corpus(path, root)
        if set(PHRASE_COLUMNS) <= set(table.columns):  # of shards
            return table[PHRASE_COLUMNS]
        if texts := free_captions(table):
            names = [[FREE] * len(row) for row in texts]
            return pd.DataFrame(dict(zip(PHRASE_COLUMNS, (texts, names), strict=True)), table.index)
        columns = table.columns
    elif set(PHRASE_COLUMNS) <= set(columns := stored_columns(path)):
        table = read_caption_table(path, PHRASE_COLUMNS)
        refuse_repeated(table, path)
        return table[PHRASE_COLUMNS]
    raise CorpusError(
        f"{path} has the columns {', '.join(columns)}, expected a column 'caption', or a captions "
        "table of template_creation.py"
    )


def free_captions(table: pd.DataFrame) -> list[list[str]] | None:
    """Return the different captions of each row of a corpus table; None if it has no such column.

    Warns of rows without a caption, of captions that are left out because they are far too long,
    and of captions of several lines, which may be rows that an unpaired quotation mark joined.

    Raises:
        CorpusError: if a caption is no text.
    """
    columns = caption_columns(table.columns)
    if not columns:
        return None
    name, files = table.attrs["name"], table.index.get_level_values("file").tolist()
    captions: list[list[str]] = []
    empty, too_long, lines = [], [], []
    for file, *values in zip(files, *(table[column].tolist() for column in columns), strict=True):
        stored = [text for value in values for text in _texts(value, file, name)]
        texts = [tidy_caption(text) for text in stored]
        if any("\n" in text.strip() for text in stored):
            lines.append(file)
        if "" in texts or not texts:
            empty.append(file)
        if any(len(text) > LONGEST for text in texts):
            too_long.append(file)
        different = {text_key(text): text for text in texts if 0 < len(text) <= LONGEST}
        captions.append(list(different.values()))
    for found, fault in (
        (empty, "clips have no caption, or an empty one"),
        (too_long, f"clips have a caption of over {LONGEST} characters, which is left out"),
        (lines, "clips have a caption of several lines (an unpaired quotation mark?)"),
    ):
        if found:
            warnings.warn(f"{name}: {len(found)} {fault}, e.g. {found[0]}", stacklevel=2)
    return captions


def _texts(value: Any, file: str, name: str) -> Iterator[str]:
    """Yield the texts of a cell: a text, a list, or a JSON list in a text; "" if it is missing."""
    if isinstance(value, str):
        if value.lstrip()[:2] in ('["', "['", "[]"):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                raise CorpusError(
                    f"{name}: captions of {file} are {value[:60]}, expected a text or a JSON list"
                ) from None
        else:
            yield value
            return
    if isinstance(value, list | tuple | np.ndarray):
        for part in value:
            yield from _texts(part, file, name)
    elif pd.isna(value):
        yield ""
    else:
        raise CorpusError(f"{name}: a caption of {file} is {value!r}, expected a text")


def with_free_captions(
    batches: Iterable[pa.RecordBatch], captions: Sequence[Sequence[str]]
) -> Iterator[pa.RecordBatch]:
    """Add free captions (one list per row) to the phrases of batches of a captions table."""
    first = 0
    for batch in batches:
        rows = captions[first : first + len(batch)]
        first += len(batch)
        added = pa.array(rows, LISTS)
        free = pa.DictionaryArray.from_arrays(np.zeros(len(added.values), np.int32), [FREE])
        names = pa.ListArray.from_arrays(added.offsets, free)
        for column, new in zip(PHRASE_COLUMNS, (added, names), strict=True):
            place = batch.schema.get_field_index(column)
            joined = _joined(batch.column(place).cast(LISTS), new)
            batch = batch.set_column(place, column, joined)
        yield batch


def _joined(lists: pa.ListArray, added: pa.ListArray) -> pa.ListArray:
    """Return lists to which those of `added` are appended row by row."""
    ends = lists.offsets.to_numpy()[1:] - lists.offsets[0].as_py()
    lengths = np.diff(added.offsets.to_numpy())
    values = [lists.flatten(), added.flatten()]
    first, second = (np.arange(len(part)) for part in values)
    order = np.insert(first, np.repeat(ends, lengths), len(first) + second)
    offsets = np.concatenate([[0], ends + np.cumsum(lengths)]).astype(np.int32)
    chunks = pa.chunked_array(values).unify_dictionaries()
    return pa.ListArray.from_arrays(offsets, chunks.combine_chunks().take(pa.array(order)))


def distinct_free_captions(table: pd.DataFrame) -> list[str]:
    """Return the different free captions of a captions table in memory."""
    captions, descriptors = (Lists(table[column]) for column in PHRASE_COLUMNS)
    return [
        text
        for text, (row, place) in captions.first_places().items()
        if descriptors[row][place] == FREE
    ]
