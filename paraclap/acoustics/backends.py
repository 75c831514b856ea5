"""Where the chunks of a corpus are measured: threads of this process, Dask, or Ray.

    outcomes = run_chunks(job, rows_of_chunks, workers=8)
    outcomes = run_chunks(job, rows_of_chunks, backend="dask", scheduler="tcp://n1:8786")

Dask and Ray workers may have been started anywhere, but they must see the corpus and the output
folder under the same paths as this process.
"""

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from paraclap.acoustics.chunks import ClipRow, Job, Outcome
from paraclap.errors import MissingPackageError, ParaCLAPError
from paraclap.progress import progress_bar

CHUNKS_AHEAD = 256
"""Chunks submitted before the first result arrives, so that a growing cluster finds work."""
CONNECT_SECONDS = 600
"""Longest time to wait for the first Dask worker [s]."""
PACKAGE_FOLDER = str(Path(__file__).resolve().parents[2])


class BackendError(ParaCLAPError, RuntimeError):
    """A cluster that cannot be reached."""


@contextmanager
def _local(workers: int, _: str | None) -> Iterator[dict[str, Any]]:
    """Threads of this process, each of which uses one process of the worker pool."""
    yield {"backend": "threading", "n_jobs": workers}


@contextmanager
def _dask(workers: int, scheduler: str | None) -> Iterator[dict[str, Any]]:
    """Workers of a Dask cluster, or of a new one on this machine."""
    try:
        from distributed import Client
    except ImportError as error:
        raise MissingPackageError("dask", "cluster") from error
    here = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
    try:
        client = Client(scheduler) if scheduler else Client(**here)
    except OSError as error:
        raise BackendError(f"no Dask scheduler answers at {scheduler}: {error}") from error
    with client:
        yield {"backend": "dask", "client": client, "wait_for_workers_timeout": CONNECT_SECONDS}


@contextmanager
def _ray(workers: int, scheduler: str | None) -> Iterator[dict[str, Any]]:
    """Actors of a Ray cluster, or of a new one on this machine."""
    try:
        import ray
        from ray.util.joblib import register_ray
    except ImportError as error:
        raise MissingPackageError("ray", "cluster") from error
    register_ray()
    here = {"num_cpus": workers, "include_dashboard": False}
    try:
        ray.init(**({"address": scheduler} if scheduler else here), log_to_driver=False)
    except OSError as error:
        raise BackendError(f"no Ray cluster answers at {scheduler}: {error}") from error
    try:
        yield {"backend": "ray", "n_jobs": -1}
    finally:
        ray.shutdown()


BACKENDS = {"local": _local, "dask": _dask, "ray": _ray}
RESULT_ORDER = {"ray": "list"}
"""How joblib returns results; its Ray backend does not support generators."""


def run_chunks(
    job: Job,
    rows: Sequence[Sequence[ClipRow]],
    backend: str = "local",
    workers: int = 1,
    scheduler: str | None = None,
) -> list[Outcome]:
    """Measure chunks, with a progress bar, and return their outcomes in the order of `rows`.

    Args:
        job: what all chunks have in common
        rows: (file, start, end) of the clips of each chunk
        backend: key of `BACKENDS`
        workers: number of processes; ignored if a scheduler is given
        scheduler: address of a running Dask or Ray cluster; None starts one on this machine

    Raises:
        MissingPackageError: if the backend is not installed
        BackendError: if the scheduler does not answer
        ChunkError: if a worker has other versions of the libraries than this process
        OutputError: if a chunk cannot be written
    """
    import joblib

    outcomes: dict[int, Outcome] = {}
    with (
        BACKENDS[backend](workers, scheduler) as configuration,
        joblib.parallel_config(**configuration),
        progress_bar(sum(map(len, rows)), "features", "clip") as bar,
    ):
        parallel = joblib.Parallel(
            return_as=RESULT_ORDER.get(backend, "generator_unordered"),
            pre_dispatch=CHUNKS_AHEAD,
            batch_size=1,
        )
        task = joblib.delayed(_task(PACKAGE_FOLDER, asdict(job)))
        for place, outcome in parallel(task(place, chunk) for place, chunk in enumerate(rows)):
            outcomes[place] = Outcome(*outcome)
            bar.update(outcomes[place].clips)
    return [outcomes[place] for place in range(len(rows))]


def _task(folder: str, job: dict[str, Any]) -> Callable[[int, Sequence[ClipRow]], tuple]:
    """Return the function that a worker runs on (place, rows of a chunk).

    It is nested so that Dask and Ray pickle it by value: a worker that was started without this
    package on its path could not import it by name. The worker then imports the package of this
    process from `folder`, or the installed one if it does not have that folder.
    """

    def measure_chunk(place: int, rows: list) -> tuple:
        if folder not in sys.path:
            sys.path.insert(0, folder)
            importlib.import_module("paraclap")  # from this folder, also if another is installed
            sys.path.remove(folder)
            sys.path.append(folder)  # at the end, so that it hides no other package
        from paraclap.acoustics import chunks

        return place, tuple(chunks.run_chunk(chunks.Job(**job), rows))

    return measure_chunk
