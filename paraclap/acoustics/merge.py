"""Feature extraction over a corpus on local, Dask or Ray workers, merged into one table."""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from paraclap.acoustics import chunks as parts
from paraclap.corpora import table as corpora
from paraclap.files import atomic_write

QUALITY = "quality"
METADATA_KEY = b"paraclap"
ERROR_COLUMNS = ["file", "start", "end", "stage", "error", "message"]
CHUNKS_AHEAD = 256
"""Parts handed out before the first is back; a cluster that grows finds work."""
GROUP_ROWS = 65_536
"""Rows that are held in memory while parts are merged, and of a row group of the merged file."""
CLUSTER_HINT = "pip install -r requirements-cluster.txt"


class Summary(NamedTuple):
    """What a merged table holds and lacks."""

    measured: int
    errors: pd.DataFrame
    duplicates: pd.DataFrame


# --- Where the work is done ----------------------------------------------------------------------


@contextmanager
def _local(workers: int, scheduler: str | None) -> Iterator[dict[str, Any]]:
    """Threads of this process, each of which keeps a child process busy."""
    if scheduler:
        raise corpora.CorpusError("--scheduler needs --backend dask or ray")
    yield {"backend": "threading", "n_jobs": workers}


@contextmanager
def _dask(workers: int, scheduler: str | None) -> Iterator[dict[str, Any]]:
    """Workers of a Dask cluster, or of one made here."""
    from distributed import Client

    here = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
    with Client(scheduler) if scheduler else Client(**here) as client:
        yield {"backend": "dask", "client": client, "wait_for_workers_timeout": 600}


@contextmanager
def _ray(workers: int, scheduler: str | None) -> Iterator[dict[str, Any]]:
    """Actors of a Ray cluster, or of one made here."""
    import ray
    from ray.util.joblib import register_ray

    register_ray()
    here = {"num_cpus": workers, "include_dashboard": False}
    ray.init(**({"address": scheduler} if scheduler else here), log_to_driver=False)
    try:
        yield {"backend": "ray", "n_jobs": -1}
    finally:
        ray.shutdown()


BACKENDS = {"local": _local, "dask": _dask, "ray": _ray}
RETURNED = {"ray": "list"}
"""How joblib gives results back; its backend for Ray has no generators."""


def _on_worker(folder: str, job: dict[str, Any], rows: list) -> tuple:
    """Run a part on a worker, which may have been started anywhere on a shared disk."""
    if folder not in sys.path:
        sys.path.insert(0, folder)
    from paraclap.acoustics import chunks as parts

    return tuple(parts.run_chunk(parts.Job(**job), rows))


def _outcomes(
    job: parts.Job, table: pd.DataFrame, chunks: list[range], options: argparse.Namespace
) -> list[parts.Outcome]:
    """Run parts (chunks of rows of the table) and return what became of them, in their order."""
    folder = str(Path(__file__).resolve().parents[2])
    outcomes: dict[int, parts.Outcome] = {}
    clips = sum(map(len, chunks))
    with (
        BACKENDS[options.backend](options.workers, options.scheduler) as configuration,
        joblib.parallel_config(**configuration),
        tqdm(total=clips, unit="clip", desc="features") as progress,
    ):
        run = joblib.Parallel(
            return_as=RETURNED.get(options.backend, "generator_unordered"),
            pre_dispatch=CHUNKS_AHEAD,
            batch_size=1,
        )
        numbered = (
            joblib.delayed(_numbered)(place, folder, asdict(job), parts.clip_rows(table, chunk))
            for place, chunk in enumerate(chunks)
        )
        for place, outcome in run(numbered):
            outcomes[place] = parts.Outcome(*outcome)
            progress.update(outcomes[place].clips)
    return [outcomes[place] for place in range(len(chunks))]


def _numbered(place: int, *arguments: Any) -> tuple[int, tuple]:
    """Return the outcome of a part with its place, because parts are done in any order."""
    return place, _on_worker(*arguments)


# --- From parts to one table ---------------------------------------------------------------------


def merge(
    table: pd.DataFrame, chunks: list[range], paths: list[str], output: Path, about: dict
) -> Summary:
    """Write the rows that could be measured, with their labels, and return what is missing.

    Args:
        table: corpus table
        chunks: rows of the table in each part
        paths: file of each part
        output: file to write, in the order of the table
        about: what the file's metadata says
    """
    first = parts.read_part(paths[0]).schema
    names = [name for name in first.names if name not in parts.COLUMNS]
    schema = _schema(table, names, about)
    errors, digests, measured = [], [], 0
    with atomic_write(output) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for group in _groups(zip(chunks, paths, strict=True)):
            good = group[group["error"] == ""]
            frame = _with_labels(table, good, names)
            writer.write_table(pa.Table.from_pandas(frame, schema=schema), GROUP_ROWS)
            errors.append(group.loc[group["error"] != "", ERROR_COLUMNS])
            digests.append(good[["row", "file", "start", "end", "digest"]])
            measured += len(good)
    twins = pd.concat(digests, ignore_index=True)
    return Summary(measured, pd.concat(errors, ignore_index=True), _duplicates(table, twins))


def _groups(pieces: Iterable[tuple[range, str]]) -> Iterator[pd.DataFrame]:
    """Yield the rows of consecutive parts, at most about `GROUP_ROWS`, with rows of the table."""
    held: list[pa.Table] = []
    firsts: list[int] = []
    for rows, path in pieces:
        held.append(parts.read_part(path))
        firsts.append(rows.start)
        if sum(map(len, held)) >= GROUP_ROWS:
            yield _joined(held, firsts)
            held, firsts = [], []
    if held:
        yield _joined(held, firsts)


def _joined(held: list[pa.Table], firsts: list[int]) -> pd.DataFrame:
    """Return parts as one table, with the row of the first clip of each added to its rows."""
    group = pa.concat_tables(part.replace_schema_metadata() for part in held).to_pandas()
    return group.assign(row=group["row"] + np.repeat(firsts, list(map(len, held))))


def _with_labels(table: pd.DataFrame, part: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Return the rows of a part on audformat's segmented index, labels first."""
    labels = table.iloc[part["row"].to_numpy()]
    index = pd.MultiIndex.from_arrays(
        [labels.index.get_level_values("file"), part["start"], part["end"]],
        names=table.index.names,
    )
    values = part[[QUALITY, *names, parts.DURATION]].set_axis(index)
    frame = pd.concat([labels.set_axis(index), values], axis=1)
    frame.attrs = {}
    return frame


def _schema(table: pd.DataFrame, names: list[str], about: dict) -> pa.Schema:
    """Return the schema of the merged table, with the types that the labels have as a whole."""
    values = {QUALITY: pd.Series(dtype="str"), **dict.fromkeys(names, pd.Series(dtype="float32"))}
    values[parts.DURATION] = pd.Series(dtype="float64")
    empty = pd.DataFrame({"row": pd.Series(dtype=int), **values})
    empty = empty.assign(start=pd.to_timedelta([]), end=pd.to_timedelta([]))
    schema = pa.Schema.from_pandas(_with_labels(table, empty, names))
    plain = table.copy(deep=False)
    plain.attrs = {}
    for field in pa.Schema.from_pandas(plain):
        schema = schema.set(schema.get_field_index(field.name), field)
    return schema.with_metadata({**schema.metadata, METADATA_KEY: json.dumps(about).encode()})


def _duplicates(table: pd.DataFrame, clips: pd.DataFrame) -> pd.DataFrame:
    """Return the clips whose samples another clip has too, with their split if there is one."""
    twins = clips[clips.duplicated("digest", keep=False)].sort_values(["digest", "row"])
    if "split" in table:
        twins = twins.assign(split=table["split"].to_numpy()[twins["row"].to_numpy()])
    return twins.drop(columns="row").reset_index(drop=True)


# --- Files ---------------------------------------------------------------------------------------


def beside(output: Path, ending: str) -> Path:
    """Return a path beside the feature file: ``features.errors.csv``, ``features.parts``."""
    return output.with_name(f"{output.stem}.{ending}")


def write_listing(rows: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV, or remove the file that an earlier run left if there is no row."""
    if rows.empty:
        path.unlink(missing_ok=True)
        return
    with atomic_write(path) as temporary:
        rows.to_csv(temporary, index=False)


def read_features(path: str | Path) -> pd.DataFrame:
    """Return a feature file on the index file, start, end, with its metadata in ``attrs``.

    Raises:
        ValueError: if it was not written by features.py
    """
    data = pq.read_table(path)
    if METADATA_KEY not in (data.schema.metadata or {}):
        raise ValueError(f"{path} has no metadata of features.py, expected a feature file")
    features = data.to_pandas()
    features.attrs = json.loads(data.schema.metadata[METADATA_KEY])
    return features
