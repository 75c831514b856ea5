"""Merging chunks into one feature table, with lists of failures and of duplicates."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from paraclap.acoustics.chunks import COLUMNS, DURATION, read_chunk
from paraclap.files import OutputError, atomic_write

QUALITY = "quality"
METADATA_KEY = b"paraclap"
ERROR_COLUMNS = ["file", "start", "end", "stage", "error", "message"]
GROUP_ROWS = 65_536
"""Rows held in memory while merging, and rows of a row group of the merged file."""


class Summary(NamedTuple):
    """What a merged table holds and lacks.

    Attributes:
        measured: number of rows
        failed: number of clips without any row
        errors: failed rows with their reasons
        duplicates: clips with the same samples as another clip
    """

    measured: int
    failed: int
    errors: pd.DataFrame
    duplicates: pd.DataFrame


def merge(
    table: pd.DataFrame, chunks: list[range], paths: list[str], output: Path, about: dict
) -> Summary:
    """Write the measured rows with their labels, in the order of the table.

    Args:
        table: corpus table
        chunks: rows of the table in each chunk
        paths: file of each chunk
        output: file to write
        about: metadata of the file

    Raises:
        ChunkError: if a chunk is damaged
        OutputError: if the file cannot be written
    """
    first = read_chunk(paths[0]).schema
    names = [name for name in first.names if name not in COLUMNS]
    schema = _schema(table, names, about)
    errors, digests, measured, failed = [], [], 0, len(table)
    checked = {"write_page_checksum": True}
    with (
        atomic_write(output) as temporary,
        pq.ParquetWriter(temporary, schema, **checked) as writer,
    ):
        for group in _groups(zip(chunks, paths, strict=True)):
            good = group[group["error"] == ""]
            frame = _with_labels(table, good, names)
            writer.write_table(pa.Table.from_pandas(frame, schema=schema), GROUP_ROWS)
            errors.append(group.loc[group["error"] != "", ERROR_COLUMNS])
            digests.append(good[["row", "file", "start", "end", "digest"]])
            measured += len(good)
            failed -= good["row"].nunique()
    duplicates = _duplicates(table, pd.concat(digests, ignore_index=True))
    return Summary(measured, failed, pd.concat(errors, ignore_index=True), duplicates)


def _groups(pieces: Iterable[tuple[range, str]]) -> Iterator[pd.DataFrame]:
    """Yield the rows of consecutive chunks, about `GROUP_ROWS` at a time.

    Their column ``row``, the place in the chunk, becomes the place in the corpus table.
    """
    held: list[pa.Table] = []
    for rows, path in pieces:
        chunk = read_chunk(path).replace_schema_metadata()
        held.append(chunk.set_column(0, "row", pc.add(chunk["row"], rows.start)))
        if sum(map(len, held)) >= GROUP_ROWS:
            yield pa.concat_tables(held).to_pandas()
            held = []
    if held:
        yield pa.concat_tables(held).to_pandas()


def _with_labels(table: pd.DataFrame, group: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Return measured rows on audformat's segmented index, labels first."""
    labels = table.iloc[group["row"].to_numpy()]
    index = pd.MultiIndex.from_arrays(
        [labels.index.get_level_values("file"), group["start"], group["end"]],
        names=table.index.names,
    )
    values = group[[QUALITY, *names, DURATION]].set_axis(index)
    frame = pd.concat([labels.set_axis(index), values], axis=1)
    frame.attrs = {}
    return frame


def _schema(table: pd.DataFrame, names: list[str], about: dict) -> pa.Schema:
    """Return the schema of the merged table; labels keep their types of the whole corpus table."""
    values = {QUALITY: pd.Series(dtype="str"), **dict.fromkeys(names, pd.Series(dtype="float32"))}
    values[DURATION] = pd.Series(dtype="float64")
    empty = pd.DataFrame({"row": pd.Series(dtype=int), **values})
    empty = empty.assign(start=pd.to_timedelta([]), end=pd.to_timedelta([]))
    schema = pa.Schema.from_pandas(_with_labels(table, empty, names))
    plain = table.copy(deep=False)
    plain.attrs = {}
    for field in pa.Schema.from_pandas(plain):
        schema = schema.set(schema.get_field_index(field.name), field)
    return schema.with_metadata({**schema.metadata, METADATA_KEY: json.dumps(about).encode()})


def _duplicates(table: pd.DataFrame, clips: pd.DataFrame) -> pd.DataFrame:
    """Return the clips that have the same samples as another clip, with their split if known."""
    twins = clips[clips.duplicated("digest", keep=False)].sort_values(["digest", "row"])
    if "split" in table:
        twins = twins.assign(split=table["split"].to_numpy()[twins["row"].to_numpy()])
    return twins.drop(columns="row").reset_index(drop=True)


# --- Files ---------------------------------------------------------------------------------------


def beside(output: Path, ending: str) -> Path:
    """Return a path beside the feature file: ``features.errors.csv``, ``features.parts``."""
    return output.with_name(f"{output.stem}.{ending}")


def check_output(output: Path) -> None:
    """Refuse to replace a table that is not a feature table, such as one of labels.

    Raises:
        OutputError: if there is such a table
    """
    if not output.exists():
        return
    try:
        schema = pq.read_schema(output)
    except (OSError, pa.ArrowInvalid):
        schema = pa.schema([])
    if METADATA_KEY not in (schema.metadata or {}) or not {QUALITY, DURATION} <= {*schema.names}:
        raise OutputError(f"{output} exists and is no feature table, expected another output")


def write_listing(rows: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV; without rows, remove the file of an earlier run instead."""
    if rows.empty:
        path.unlink(missing_ok=True)
        return
    with atomic_write(path) as temporary:
        rows.to_csv(temporary, index=False)
