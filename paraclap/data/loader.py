"""A DataLoader whose workers pass on our errors as they are.

torch raises an error of a worker as a RuntimeError whose message is a traceback, unless its class
takes a single argument. A file that cannot be read should end in one sentence instead, with any
number of workers.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn

import torch.utils.data

from paraclap.errors import ParaCLAPError

PREFETCH = 2  # batches that each worker reads ahead
DEATH = 5.0  # seconds that the signal of a dead worker may take
LOST_WORKER = re.compile(r"DataLoader (worker|timed out)")  # messages of torch


class WorkerError(ParaCLAPError, RuntimeError):
    """A process that reads audio crashed or hangs."""


def raise_worker_error(error: RuntimeError, files: Iterable[str]) -> NoReturn:
    """Raise `WorkerError` with the files being read if a worker was lost, else the error itself."""
    if not LOST_WORKER.search(str(error)):
        raise error
    raise WorkerError(f"{error}; files being read: {sorted(set(files))}") from error


class Loader(torch.utils.data.DataLoader):
    """A DataLoader that raises any `ParaCLAPError` of dataset or collation unchanged."""

    def __init__(
        self,
        dataset: torch.utils.data.Dataset,
        collate_fn: Callable[[Sequence[Any]], dict[str, Any]],
        **options: Any,
    ) -> None:
        super().__init__(_ErrorsAsBatches(dataset, collate_fn), collate_fn=_unchanged, **options)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        batches = super().__iter__()
        while (batch := self._next(batches)) is not None:
            if isinstance(batch, ParaCLAPError):
                raise batch
            yield batch

    def _next(self, batches: Iterator[Any]) -> Any:
        """Return the next batch, None at the end; raises RuntimeError if a worker was lost."""
        try:
            return next(batches, None)
        except (ConnectionError, EOFError) as error:
            if not self.num_workers or str(error).startswith("Caught "):  # of the dataset
                raise
            # A worker died while its tensor was fetched. The signal of its death, for which torch
            # raises the reason, may arrive only later.
            time.sleep(DEATH)
            raise RuntimeError(f"DataLoader worker exited: {error!r}") from error


class _ErrorsAsBatches(torch.utils.data.Dataset):
    """A dataset that returns collated batches, or the error of a batch."""

    def __init__(
        self,
        dataset: torch.utils.data.Dataset,
        collate: Callable[[Sequence[Any]], dict[str, Any]],
    ) -> None:
        self.dataset, self.collate = dataset, collate

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, places: Sequence[Any]) -> dict[str, Any] | ParaCLAPError:
        try:
            if hasattr(self.dataset, "__getitems__"):
                return self.collate(self.dataset.__getitems__(places))
            return self.collate([self.dataset[place] for place in places])
        except ParaCLAPError as error:
            return error


def _unchanged(batch: dict[str, Any] | ParaCLAPError) -> dict[str, Any] | ParaCLAPError:
    return batch
