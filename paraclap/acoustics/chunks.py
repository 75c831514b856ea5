"""Parts of a corpus: which clips go together, and the file that says what became of them.

A part is a parquet file with a row for each clip (or window of a long one): ``row`` (place in the
part's clips), ``file``, ``start``, ``end``, ``Duration`` [s], ``quality``, ``digest``, ``stage``,
``error`` and ``message`` of a failure, and the functionals, NaN where undefined. A folder of parts
is a parquet dataset.

A part's name is a hash of all that its content depends on: its clips, size and time of change of
their files, the feature set, and the versions of what reads and measures. So a part that is there
is right, whoever made it and when, and a run that was interrupted goes on where it stopped.
"""

import hashlib
import json
import os
import time
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
from paraclap.errors import ParaCLAPError
from paraclap.files import atomic_write

FORMAT = 2
"""Changes when parts of older versions of this file must not be taken."""
DURATION = "Duration"
METADATA_KEY = b"paraclap.part"
LEFTOVER_SECONDS = 3600.0
"""Age from which an unfinished file is nobody's: no part takes that long to write [s]."""
NAME = "part-*.parquet"
CHUNKS = 64
"""Parts that a small corpus is cut into, so that many workers end at about the same time."""
CHUNK_CLIPS = (16, 128)
"""Fewest and most clips of a part: seconds of work to lose, few files for a big corpus."""
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
"""Columns of a part, before the functionals."""


class PartError(ParaCLAPError, RuntimeError):
    """A part that cannot be made here."""


@dataclass(frozen=True)
class Job:
    """What all parts of a run have in common.

    Attributes:
        root: folder that the files are relative to
        folder: where the parts are written
        feature_set: a key of `smile.FEATURE_SETS`
        longest: window that too long clips are cut into [s]; None refuses them
        timeout: longest time that a clip may take [s]
        versions: of the process that merges; a worker must have the same
    """

    root: str
    folder: str
    feature_set: str
    longest: float | None
    timeout: float
    versions: dict[str, str]


class Outcome(NamedTuple):
    """What a worker tells of a part: its file, its clips, those without values, if it is new."""

    path: str
    clips: int
    failed: int
    measured: bool


def chunks(files: Sequence[str], size: int | None = None) -> list[range]:
    """Return the rows of each part, in order: about ``size`` clips, at most twice as many.

    A part ends where the name of a file says so. So the rows of all other parts stay the same when
    files are added to a corpus, and nothing depends on the number of workers. Without ``size``, it
    is a power of two within `CHUNK_CLIPS`, such that there are about `CHUNKS` parts if it may.
    """
    if size is None:
        smallest, largest = CHUNK_CLIPS
        size = min(max(1 << (max(len(files) // CHUNKS, 1).bit_length() - 1), smallest), largest)
    parts, first = [], 0
    for row, file in enumerate(files, start=1):
        if row == len(files) or row - first == 2 * size or zlib.crc32(file.encode()) % size == 0:
            parts.append(range(first, row))
            first = row
    return parts


def identity(job: Job, clips: Sequence[Clip]) -> str:
    """Return the hash of all that the content of a part depends on."""
    digest = hashlib.sha256()
    about = [FORMAT, job.feature_set, job.longest, extraction.versions()]
    for line in [about, *([clip.file, clip.start, clip.end, *_state(clip)] for clip in clips)]:
        digest.update(json.dumps(line, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()[:40]


def _state(clip: Clip) -> tuple[int | str | None, int | None]:
    """Return size [bytes] and time of change [ns] of a clip's file, or why there are none."""
    try:
        status = os.stat(os.path.join(clip.root, clip.file))
    except (OSError, ValueError) as error:  # the clip's record will tell what is wrong
        return type(error).__name__, None
    return status.st_size, status.st_mtime_ns


def run_chunk(job: Job, rows: Sequence[tuple[str, int, int | None]]) -> Outcome:
    """Measure the clips (file, start, end) of a part, unless it is there, and write it.

    A part in which a clip failed because its process died or did not answer is measured again: that
    may have been for want of memory.

    Raises:
        PartError: if this worker has other versions than the process that merges
    """
    if extraction.versions() != job.versions:
        raise PartError(f"a worker has {extraction.versions()}, expected {job.versions}")
    clips = [Clip(job.root, *row, job.longest) for row in rows]
    key = identity(job, clips)
    path = Path(job.folder) / NAME.replace("*", key)
    about = _read_about(path)
    measured = about is None or about["key"] != key or about["retry"] > 0
    if measured:
        about = _measure_part(job, clips, key, path)
    return Outcome(str(path), about["clips"], about["failed"], measured)


def _measure_part(job: Job, clips: Sequence[Clip], key: str, path: Path) -> dict:
    """Measure clips, write them as part, and return what its metadata says."""
    results: list[list[Record]] = [[] for _ in clips]
    for position, records in worker_pool.measure_clips(clips, job.feature_set, job.timeout):
        results[position] = records
    failed = [all(record.error for record in records) for records in results]
    retry = [any(record.stage == worker_pool.STAGE for record in records) for records in results]
    about = {"key": key, "clips": len(clips), "failed": sum(failed), "retry": sum(retry)}
    names = worker_pool.feature_names(job.feature_set)
    table = as_table(clips, results, names).replace_schema_metadata(
        {METADATA_KEY: json.dumps(about, sort_keys=True)}
    )
    write_table(table, path)
    return about


def as_table(
    clips: Sequence[Clip], results: Sequence[Sequence[Record]], names: Sequence[str]
) -> pa.Table:
    """Return the records of clips as the columns of a part."""
    rows = [
        (row, clip.file, record)
        for row, (clip, records) in enumerate(zip(clips, results, strict=True))
        for record in records
    ]
    records = [record for _, _, record in rows]
    nothing = np.full(len(names), np.nan, dtype=np.float32)
    values = np.array([nothing if r.values is None else r.values for r in records])
    fields = ("start", "end", "seconds", "quality", "digest", "stage", "error", "message")
    plain = [
        [row for row, _, _ in rows],
        [file for _, file, _ in rows],
        *([getattr(record, field) for record in records] for field in fields),
    ]
    columns = [
        pa.array(column, type=kind) for column, kind in zip(plain, COLUMNS.values(), strict=True)
    ]
    functionals = [pa.array(column) for column in values.reshape(-1, len(names)).T.copy()]
    return pa.table(columns + functionals, names=[*COLUMNS, *names])


def read_part(path: str | Path) -> pa.Table:
    """Return a part.

    Raises:
        PartError: if its checksums tell of damage; it is removed, so that a rerun measures it anew
    """
    try:
        return pq.ParquetFile(path, page_checksum_verification=True).read()
    except (OSError, pa.ArrowInvalid) as error:
        Path(path).unlink(missing_ok=True)
        raise PartError(f"{path} was damaged and is removed, repeat the command") from error


def _read_about(path: Path) -> dict | None:
    """Return the metadata of a part, or None if there is no whole part of that name."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (FileNotFoundError, pa.ArrowInvalid):  # not there, or torn by a power failure
        return None
    return json.loads(metadata[METADATA_KEY]) if METADATA_KEY in metadata else None


def write_table(table: pa.Table, path: Path) -> None:
    """Write a part atomically."""
    with atomic_write(path) as temporary:
        pq.write_table(table, temporary, write_page_checksum=True)


def remove_others(folder: Path, kept: set[str]) -> None:
    """Remove parts that are no longer of the corpus, and what killed writers left half done."""
    oldest = time.time() - LEFTOVER_SECONDS
    leftovers = [p for p in folder.glob(f".{NAME}.*.tmp") if p.stat().st_mtime < oldest]
    stale = [path for path in folder.glob(NAME) if str(path) not in kept]
    for path in [*leftovers, *stale]:
        path.unlink(missing_ok=True)


def clip_rows(table: pd.DataFrame, chunk: range) -> list[tuple[str, int, int | None]]:
    """Return rows of a corpus table as (file, start, end): ns, None for the end of the file."""
    index = table.index[chunk.start : chunk.stop]
    starts, ends = (
        index.get_level_values(name).to_numpy("timedelta64[ns]") for name in ("start", "end")
    )
    return [
        (file, start, None if open_end else end)
        for file, start, end, open_end in zip(
            index.get_level_values("file").tolist(),
            starts.astype(np.int64).tolist(),
            ends.astype(np.int64).tolist(),
            np.isnat(ends).tolist(),
            strict=True,
        )
    ]
