"""Features of a whole corpus: divide into chunks, measure, merge, and list failures.

settings = FeatureSettings(output=Path("features.parquet"), workers=8)
summary = write_features(read_corpus("ravdess=/data/RAVDESS"), settings)
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from paraclap.acoustics import backends, chunks, extraction, worker_pool
from paraclap.acoustics.merge import (
    QUALITY,
    Summary,
    beside,
    check_output,
    merge,
    write_listing,
)
from paraclap.audio import SAMPLING_RATE
from paraclap.corpora import CorpusError
from paraclap.files import claim_folder, remove_leftovers
from paraclap.locks import lock


@dataclass(frozen=True)
class FeatureSettings:
    """Settings of the feature extraction; see `features.py --help`."""

    output: Path
    feature_set: str = "egemaps"
    backend: str = "local"
    workers: int = 1
    scheduler: str | None = None
    shard: tuple[int, int] | None = None
    chunk: int | None = None
    split_long: float | None = None
    timeout: float = 600.0


def write_features(table: pd.DataFrame, settings: FeatureSettings) -> Summary | None:
    """Measure a corpus and write its feature table, its failures and its duplicates.

    Args:
        table: corpus table
        settings: where and how

    Returns:
        The summary; None if only a shard was measured, which is not merged.

    Raises:
        CorpusError: if a column of the table is called like a feature
        MissingPackageError: if the backend is not installed
        BackendError: if a cluster cannot be reached
        ChunkError: if a worker has other versions of the libraries, or a chunk is damaged
        OutputError: if a file cannot be written, or holds something else
        InUseError: if another process writes the same features
    """
    check_output(settings.output)
    names = [QUALITY, *worker_pool.feature_names(settings.feature_set), chunks.DURATION]
    clashes = table.columns.intersection(names)
    if len(clashes):
        raise CorpusError(f"the table has columns {list(clashes)}, which are names of features")
    folder = beside(settings.output, "parts").absolute()
    claim_folder(folder, "folder of features.py", chunks.OWN_NAMES)
    with lock(folder, shared=settings.shard is not None):
        return _write_features(table, settings, folder)


def _write_features(table: pd.DataFrame, settings: FeatureSettings, folder: Path) -> Summary | None:
    """Measure a corpus whose chunks lie in a folder of this process."""
    job = chunks.Job(
        root=str(Path(table.attrs["root"]).absolute()),
        folder=str(folder),
        feature_set=settings.feature_set,
        longest=settings.split_long,
        timeout=settings.timeout,
        versions=extraction.versions(),
    )
    files = table.index.get_level_values("file").tolist()
    divided = chunks.divide(files, settings.chunk)
    shard, total = settings.shard or (1, 1)
    outcomes = backends.run_chunks(
        job,
        [chunks.clip_rows(table, chunk) for chunk in divided[shard - 1 :: total]],
        settings.backend,
        settings.workers,
        settings.scheduler,
    )
    measured = sum(outcome.measured for outcome in outcomes)
    print(f"{folder}: {measured} chunks measured, {len(outcomes) - measured} reused")
    if settings.shard:
        return None
    paths = [outcome.path for outcome in outcomes]
    summary = merge(table, divided, paths, settings.output, _metadata(table, settings))
    chunks.remove_others(folder, set(paths))
    listings = {"errors.csv": summary.errors, "duplicates.csv": summary.duplicates}
    for ending, rows in listings.items():
        write_listing(rows, beside(settings.output, ending))
    written = [settings.output, *(beside(settings.output, ending) for ending in listings)]
    remove_leftovers(settings.output.parent, *(path.name for path in written))
    return summary


def _metadata(table: pd.DataFrame, settings: FeatureSettings) -> dict[str, Any]:
    """Return the metadata of the feature table: nothing that differs between equal runs."""
    return {
        **{key: table.attrs.get(key) for key in ("name", "root", "corpus")},
        "feature_set": settings.feature_set,
        "derived_from": "eGeMAPSv02 functionals",
        "sampling_rate": SAMPLING_RATE,
        "split_long": settings.split_long,
        **extraction.versions(),
    }


def print_summary(summary: Summary, clips: int, output: Path) -> None:
    """Print the numbers of measured, failed and duplicate clips."""
    print(f"{output}: {clips - summary.failed} of {clips} clips, {summary.measured} rows")
    duplicates, errors = summary.duplicates, summary.errors
    if len(duplicates):
        leaks = 0
        if "split" in duplicates:
            leaks = int(duplicates.groupby("digest")["split"].transform("nunique").gt(1).sum())
        print(
            f"{len(duplicates)} clips have the same samples as another clip, {leaks} of them as a"
            f" clip of another split; see {beside(output, 'duplicates.csv')}",
            file=sys.stderr,
        )
    if len(errors):
        reasons = ", ".join(
            f"{count} {error}" for error, count in errors["error"].value_counts().items()
        )
        print(
            f"{len(errors)} rows could not be measured and were skipped ({reasons});"
            f" see {beside(output, 'errors.csv')}",
            file=sys.stderr,
        )
