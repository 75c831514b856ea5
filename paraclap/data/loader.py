"""Batches of a dataset, read ahead by threads or by processes, the same for any number of them.

    loader = Loader(dataset, Collate(processor), batches, workers=2)

Threads read what is in memory or in a memory map: tensors need not be sent, and most of the time is
spent in functions that release the interpreter. Processes decode audio files, whose decoders may
crash. They send small tensors by value and copy large ones into shared memory that is used again:
to allocate and open it for each tensor, as torch does, takes longer than the rest.

torch raises an error of a worker as a RuntimeError whose message is a traceback, unless its class
takes a single argument. A file that cannot be read should end in one sentence instead.
"""

import math
import re
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch.utils.data

from paraclap.errors import ParaCLAPError
from paraclap.signals import leave_signals_to_the_parent

PREFETCH = 2  # batches that each worker reads ahead
DEATH = 5.0  # seconds that the signal of a dead worker may take
MANY_WORKERS = "This DataLoader will create"  # more than cores; of torch
LOST_WORKER = re.compile(r"DataLoader (worker|timed out)")  # begins messages of torch
SMALL = 2**16  # bytes of a tensor that is sent by value
ALIGNED = 64  # bytes
GROWTH = 1.25  # of shared memory, for batches that become larger

Batch = dict[str, Any]
"""Tensors, lists, and tuples of tensors."""
Collation = Callable[[Sequence[Any]], Batch]


class WorkerError(ParaCLAPError, RuntimeError):
    """A process that reads audio crashed or hangs."""


class Loader:
    """Collated batches of a dataset; any `ParaCLAPError` arrives unchanged.

    Attributes:
        dataset: its `files` names the files of a batch; its `in_memory` is whether threads read it.
        collate: items -> batch.
        batches: places of the items of each batch.
        workers: threads or processes that read ahead; 0 = batches are read when they are due.
        timeout: longest wait for a batch [s]; 0 = any.
        pin_memory: whether batches are in memory from which a GPU copies them asynchronously.
    """

    def __init__(
        self,
        dataset: torch.utils.data.Dataset,
        collate: Collation,
        batches: Iterable[Sequence[Any]],
        workers: int = 0,
        timeout: float = 0.0,
        pin_memory: bool = False,
    ) -> None:
        self.dataset, self.collate, self.batches = dataset, collate, batches
        self.workers, self.timeout, self.pin_memory = workers, timeout, pin_memory

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches.

        Raises:
            WorkerError: naming the files being read, if a worker crashes or hangs.
        """
        ahead: deque[Sequence[Any]] = deque()

        def sent() -> Iterator[Sequence[Any]]:
            for places in self.batches:
                ahead.append(places)
                yield places

        if not self.workers:
            read = self._when_due
        elif getattr(self.dataset, "in_memory", False):
            read = self._by_threads
        else:
            read = self._by_processes
        batches = read(sent())
        while True:
            try:
                batch = next(batches, None)
            except RuntimeError as error:
                if not LOST_WORKER.match(str(error)):
                    raise
                files = {file for places in ahead for file in self.dataset.files(places)}
                raise WorkerError(f"{error}; files being read: {sorted(files)}") from error
            if batch is None:
                if ahead:  # torch takes a StopIteration of a worker for the end
                    raise RuntimeError(f"no batch of {self.dataset.files(ahead[0])} was read")
                return
            ahead.popleft()
            yield batch

    def _when_due(self, batches: Iterator[Sequence[Any]]) -> Iterator[Batch]:
        read = _Batches(self.dataset, self.collate).__getitems__
        for places in batches:
            batch = _raised(read(places))
            yield _mapped(batch, torch.Tensor.pin_memory) if self.pin_memory else batch

    def _by_threads(self, batches: Iterator[Sequence[Any]]) -> Iterator[Batch]:
        items = _Batches(self.dataset, self.collate)
        device = torch.cuda.current_device() if self.pin_memory else None

        def read(places: Sequence[Any]) -> Batch | ParaCLAPError:
            batch = items.__getitems__(places)
            if device is None or isinstance(batch, ParaCLAPError):
                return batch
            with torch.cuda.device(device):
                return _mapped(batch, torch.Tensor.pin_memory)

        pool = ThreadPoolExecutor(self.workers, "loader")
        try:
            ahead = deque(pool.submit(read, p) for p in islice(batches, self.workers * PREFETCH))
            while ahead:
                due = ahead.popleft()
                if not wait([due], self.timeout or None).done:
                    raise RuntimeError(f"DataLoader timed out after {self.timeout} s")
                batch = due.result()
                ahead.extend(pool.submit(read, places) for places in islice(batches, 1))
                yield _raised(batch)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _by_processes(self, batches: Iterator[Sequence[Any]]) -> Iterator[Batch]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", MANY_WORKERS)  # twice per loader; `auto` is the cores
            loader = torch.utils.data.DataLoader(
                _SentBatches(self.dataset, self.collate),
                batch_sampler=batches,
                num_workers=self.workers,
                collate_fn=_unchanged,
                timeout=self.timeout,
                prefetch_factor=PREFETCH,
                generator=torch.Generator(),  # the default one would be advanced
                worker_init_fn=leave_signals_to_the_parent,
            )
            iterator = iter(loader)
        received = _Receiver(self.pin_memory)
        try:
            while (batch := self._next(iterator)) is not None:
                yield received(_raised(batch))
        finally:
            # An error keeps the iterator alive, and if both are collected as garbage, torch waits
            # 5 s for each worker.
            iterator._shutdown_workers()
            for worker in iterator._workers:  # one that cannot react would be waited for at exit
                worker.kill()

    def _next(self, batches: Iterator[Any]) -> Any:
        """Return the next batch, None at the end; raises RuntimeError if a worker was lost."""
        try:
            return next(batches, None)
        except (ConnectionError, EOFError) as error:
            if str(error).startswith("Caught "):  # of the dataset
                raise
            # A worker died while its tensor was fetched. The signal of its death, for which torch
            # raises the reason, may arrive only later.
            time.sleep(DEATH)
            raise RuntimeError(f"DataLoader worker exited: {error!r}") from error


class _Batches(torch.utils.data.Dataset):
    """A dataset that returns collated batches, or the error of a batch."""

    def __init__(self, dataset: torch.utils.data.Dataset, collate: Collation) -> None:
        self.dataset, self.collate = dataset, collate

    def __getitems__(self, places: Sequence[Any]) -> Batch | ParaCLAPError:
        try:
            if hasattr(self.dataset, "__getitems__"):
                return self.collate(self.dataset.__getitems__(places))
            return self.collate([self.dataset[place] for place in places])
        except ParaCLAPError as error:
            return error


class _Place(NamedTuple):
    """A tensor in shared memory: first byte, shape and type."""

    first: int
    shape: torch.Size
    dtype: torch.dtype

    def within(self, memory: torch.Tensor) -> torch.Tensor:
        """Return the tensor, a view of memory (bytes,)."""
        size = math.prod(self.shape) * self.dtype.itemsize
        return memory[self.first : self.first + size].view(self.dtype).view(self.shape)


class _Sent(NamedTuple):
    """A batch sent by a worker.

    Attributes:
        key: worker and number of the shared memory.
        memory: the shared memory, if it was not sent before.
        batch: with places of large tensors, and small ones as arrays.
    """

    key: tuple[int, int]
    memory: torch.Tensor | None
    batch: Batch


class _SentBatches(_Batches):
    """Batches in shared memory that each worker allocates once and uses in turn.

    While a batch is copied from its memory, its worker has `PREFETCH` others to read or to hand
    over, so one more memory than this suffices.
    """

    def __init__(self, dataset: torch.utils.data.Dataset, collate: Collation) -> None:
        super().__init__(dataset, collate)
        self.memories = [torch.empty(0, dtype=torch.uint8)] * (PREFETCH + 1)
        self.turn = 0

    def __getitems__(self, places: Sequence[Any]) -> _Sent | ParaCLAPError:
        batch = super().__getitems__(places)
        if isinstance(batch, ParaCLAPError):
            return batch
        large: list[tuple[_Place, torch.Tensor]] = []
        end = 0

        def place(tensor: torch.Tensor) -> _Place | np.ndarray:
            nonlocal end
            if tensor.nbytes <= SMALL:
                return tensor.numpy()
            large.append((_Place(end, tensor.shape, tensor.dtype), tensor))
            end += -(-tensor.nbytes // ALIGNED) * ALIGNED
            return large[-1][0]

        batch = _mapped(batch, place)
        self.turn = (self.turn + 1) % len(self.memories)
        is_new = self.memories[self.turn].nbytes < end
        if is_new:
            memory = torch.empty(round(GROWTH * end), dtype=torch.uint8)
            try:
                self.memories[self.turn] = memory.share_memory_()
            except RuntimeError as error:  # /dev/shm is full
                return WorkerError(f"{error}; fewer workers or smaller batches need less memory")
        memory = self.memories[self.turn]
        for target, tensor in large:
            target.within(memory).copy_(tensor)
        key = torch.utils.data.get_worker_info().id, self.turn
        return _Sent(key, memory if is_new else None, batch)


class _Receiver:
    """Batches of tensors from those that workers send."""

    def __init__(self, pin_memory: bool) -> None:
        self.pin_memory = pin_memory
        self.memories: dict[tuple[int, int], torch.Tensor] = {}

    def __call__(self, sent: _Sent) -> Batch:
        """Return a batch with tensors of its own."""
        if sent.memory is not None:
            self.memories[sent.key] = sent.memory
        tensor = partial(self._tensor, key=sent.key)
        return _mapped(sent.batch, tensor, (_Place, np.ndarray))

    def _tensor(self, value: _Place | np.ndarray, key: tuple[int, int]) -> torch.Tensor:
        if isinstance(value, np.ndarray):
            return torch.from_numpy(value)
        tensor = torch.empty(value.shape, dtype=value.dtype, pin_memory=self.pin_memory)
        return tensor.copy_(value.within(self.memories[key]))


def _mapped(
    batch: Any, change: Callable[[Any], Any], kind: type | tuple[type, ...] = torch.Tensor
) -> Any:
    """Return a batch whose values of a kind are changed, also within tuples."""
    if isinstance(batch, kind):
        return change(batch)
    if isinstance(batch, dict):
        return {name: _mapped(value, change, kind) for name, value in batch.items()}
    if isinstance(batch, tuple):
        return tuple(_mapped(value, change, kind) for value in batch)
    return batch


def _raised(batch: Any) -> Any:
    if isinstance(batch, ParaCLAPError):
        raise batch
    return batch


def _unchanged(batch: Any) -> Any:
    return batch
