"""A DataLoader whose workers pass on our errors as they are.

torch raises an error of a worker as a RuntimeError whose message is a traceback, unless its class
takes a single argument. A file that cannot be read should end in one sentence instead, with any
number of workers.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn

import torch.utils.data

from paraclap.errors import ParaCLAPError

PREFETCH = 2  # batches that each worker reads ahead
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
        for batch in super().__iter__():
            if isinstance(batch, ParaCLAPError):
                raise batch
            yield batch


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
