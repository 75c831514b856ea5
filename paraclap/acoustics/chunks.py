"""Chunks of a corpus: how its clips are divided, and the file with the results of each chunk.

A chunk is a parquet file with one row per clip (or per window of a long clip): ``row`` (position in
the chunk), ``file``, ``start``, ``end``, ``Duration`` [s], ``quality``, ``digest``, then ``stage``,
``error`` and ``message`` of a failure, and the functionals, NaN where undefined. A folder of chunks
is a parquet dataset.

The file name is a hash of everything that the content depends on: the root and the clips, size,
modification time and content of their files (see `sampled_hash`), the feature set, and the versions
of the libraries. An existing file is therefore up to date, and an interrupted run continues where
it stopped.
"""

import hashlib
import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from paraclap.acoustics import extraction, worker_pool
from paraclap.acoustics.extraction import Clip, Record
from paraclap.audio.paths import mark_of, resolve_inside
from paraclap.errors import ParaCLAPError
from paraclap.files import atomic_write, remove_leftovers
from paraclap.parquet import open_parquet

FORMAT = 3
"""Part of the hash; raise it when files of earlier versions must not be reused."""
DURATION = "Duration"
METADATA_KEY = b"paraclap.part"
NAME = "part-{}.parquet"
OWN_NAMES = r"part-[0-9a-f]{40}\.parquet"
"""Regular expression of the names of chunks."""
CHUNKS = 64
"""Number of chunks of a small corpus, so that many workers finish at about the same time."""
CHUNK_CLIPS = (16, 128)
"""Fewest and most clips per chunk: little work is lost, and large corpora make few files."""
COLUMNS = {
    "row": pa.int32(),
    "file": pa.string(),
    "start": pa.duration("ns"),
    "end": pa.duration("ns"),
    DURATION: pa.float64(),
    "quality": pa.string(),
    "digest": pa.string(),
    "stage": pa.string(),
    "error": pa.string(),
    "message": pa.string(),
}
"""Columns of a chunk, before the functionals."""

ClipRow = tuple[str, int, int | None]
"""File, start and end [ns] of a clip; the end is None at the end of the file."""


class ChunkError(ParaCLAPError, RuntimeError):
    """A chunk that cannot be measured here, or whose file is damaged."""


@dataclass(frozen=True)
class Job:
    """What all chunks of a run have in common.

    Attributes:
        root: folder that the files are relative to
        folder: folder of the chunk files
        feature_set: key of `FEATURE_SETS`
        longest: length of the windows that overlong clips are cut into [s]; None rejects such clips
        timeout: longest time that a clip may take [s]
        versions: of the libraries in the process that merges; workers must have the same
    """

    root: str
    folder: str
    feature_set: str
    longest: float | None
    timeout: float
    versions: dict[str, str]


class Outcome(NamedTuple):
    """File of a chunk, its number of clips, and whether they were measured or the file reused."""

    path: str
    clips: int
    measured: bool


def divide(files: Sequence[str], size: int | None = None) -> list[range]:
    """Return the rows of each chunk, in order: about ``size`` clips, at most twice as many.

    A hash of the file names decides where a chunk ends. Added files therefore change only the chunk
    that contains them, and the number of workers has no influence. Without ``size``, it is the
    power of two within `CHUNK_CLIPS` that gives about `CHUNKS` chunks.
    """
    if size is None:
        smallest, largest = CHUNK_CLIPS
        size = min(max(1 << (max(len(files) // CHUNKS, 1).bit_length() - 1), smallest), largest)
    chunks, first = [], 0
    for row, file in enumerate(files, start=1):
        if row == len(files) or row - first == 2 * size or zlib.crc32(file.encode()) % size == 0:
            chunks.append(range(first, row))
            first = row
    return chunks


def clip_rows(table: pd.DataFrame, chunk: range) -> list[ClipRow]:
    """Return the clips of a chunk of a corpus table."""
    index = table.index[chunk.start : chunk.stop]
    starts, ends = (
        index.get_level_values(name).to_numpy("timedelta64[ns]").astype(np.int64).tolist()
        for name in ("start", "end")
    )
    ends = [None if end == pd.NaT.value else end for end in ends]
    return list(zip(index.get_level_values("file").tolist(), starts, ends, strict=True))


# --- Measuring -----------------------------------------------------------------------------------


def run_chunk(job: Job, rows: Sequence[ClipRow]) -> Outcome:
    """Measure the clips of a chunk and write its file, unless the file exists.

    A chunk with a clip whose process crashed or timed out is measured again, because the machine
    may have been short of memory.

    Raises:
        ChunkError: if the libraries have other versions than in the process that merges
    """
    if extraction.versions() != job.versions:
        raise ChunkError(f"a worker has {extraction.versions()}, expected {job.versions}")
    clips = [Clip(job.root, *row, job.longest) for row in rows]
    key = identity(job, clips)
    path = Path(job.folder) / NAME.format(key)
    about = _read_about(path)
    measured = about is None or about["key"] != key or about["retry"] > 0
    if measured:
        about = _measure_chunk(job, clips, key, path)
    return Outcome(str(path), about["clips"], measured)


def identity(job: Job, clips: Sequence[Clip]) -> str:
    """Return the hash of everything that the content of a chunk depends on."""
    about = [FORMAT, job.root, job.feature_set, job.longest, extraction.versions()]
    return content_key(about, job.root, [clip[1:4] for clip in clips])


def content_key(about: Sequence[object], root: str, rows: Sequence[ClipRow]) -> str:
    """Return the hash of settings, of the clips of a chunk, and of the state of their files."""
    digest = hashlib.sha256()
    states = {file: _state(root, file) for file in {row[0] for row in rows}}
    for line in [about, *([*row, *states[row[0]]] for row in rows)]:
        digest.update(json.dumps(line, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()[:40]


def _state(root: str, file: str) -> tuple[str, int | None]:
    """Return hash and modification time [ns] of a file, or the name of the error."""
    try:
        return mark_of(resolve_inside(root, file))
    except (OSError, ValueError) as error:  # reported when the clip is measured
        return type(error).__name__, None


def _measure_chunk(job: Job, clips: Sequence[Clip], key: str, path: Path) -> dict:
    """Measure clips, write the chunk, and return its metadata."""
    results: list[list[Record]] = [[] for _ in clips]
    for position, records in worker_pool.measure_clips(clips, job.feature_set, job.timeout):
        results[position] = records
    retry = [any(record.stage == worker_pool.STAGE for record in records) for records in results]
    about = {"key": key, "clips": len(clips), "retry": sum(retry)}
    names = worker_pool.feature_names(job.feature_set)
    table = as_table(clips, results, names).replace_schema_metadata(
        {METADATA_KEY: json.dumps(about, sort_keys=True)}
    )
    write_chunk(table, path)
    return about


def as_table(
    clips: Sequence[Clip], results: Sequence[Sequence[Record]], names: Sequence[str]
) -> pa.Table:
    """Return the records of clips as the columns of a chunk."""
    rows = [
        (row, clip.file, *record)
        for row, (clip, records) in enumerate(zip(clips, results, strict=True))
        for record in records
    ]
    *plain, values = zip(*rows, strict=True)
    nothing = np.full(len(names), np.nan, dtype=np.float32)
    matrix = np.array([nothing if row is None else row for row in values])
    arrays = [
        pa.array(column, type=kind) for column, kind in zip(plain, COLUMNS.values(), strict=True)
    ]
    arrays += [pa.array(column) for column in matrix.T.copy()]
    return pa.table(arrays, names=[*COLUMNS, *names])


# --- Files ---------------------------------------------------------------------------------------


def read_chunk(path: str | Path) -> pa.Table:
    """Return a chunk.

    Raises:
        ChunkError: if a checksum is wrong; the file is removed, and a rerun measures it again
    """
    try:
        return open_parquet(path).read()
    except (OSError, pa.ArrowInvalid) as error:
        Path(path).unlink(missing_ok=True)
        raise ChunkError(f"{path} was damaged and has been removed, repeat the command") from error


def _read_about(path: Path) -> dict | None:
    """Return the metadata of a chunk, or None if the file is missing or incomplete."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (FileNotFoundError, pa.ArrowInvalid):  # incomplete after a power failure
        return None
    return json.loads(metadata[METADATA_KEY]) if METADATA_KEY in metadata else None


def write_chunk(table: pa.Table, path: Path) -> None:
    """Write a chunk atomically, with checksums."""
    with atomic_write(path) as temporary:
        pq.write_table(table, temporary, write_page_checksum=True)


def remove_others(folder: Path, kept: set[str]) -> None:
    """Remove chunks that the corpus no longer has, and temporary files of killed processes.

    The caller holds the lock of the folder.
    """
    remove_leftovers(folder)
    for path in folder.iterdir():
        if re.fullmatch(OWN_NAMES, path.name) and str(path) not in kept:
            path.unlink(missing_ok=True)
