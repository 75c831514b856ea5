"""Several processes that train and evaluate as one.

    torchrun --nproc-per-node=4 train.py configs/paraclap.yaml data.root=/data/MSP-Podcast

A batch is the same for any number of processes; each processes its share of the clips. Each process
computes its own terms of the loss over the embeddings of all, and gradients are *summed*, so loss
and gradients equal those of one process on the whole batch. All processes must call the same
exchanges in the same order; a local decision (a signal, a score) has to be agreed on first.

If one process fails, all stop with its message. The processes share a key-value store (of torch)
besides the connections for tensors. A failing process writes its error to the store and exits once
the others have read it; a thread of each process watches the store.

Letters: b rows of this process, B rows of all, D embedding size.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from paraclap.cores import usable_cores
from paraclap.errors import ParaCLAPError
from paraclap.signals import Stopped, StopRequests

BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
DEVICES = ("cpu", "cuda", "mps")
TIMEOUT = 1800.0  # s
BEAT = 0.5  # s between heartbeats
SILENCE = 6  # missed heartbeats after which a process counts as lost
PATIENCE = 2.0  # s that a failing process waits for the others to read its error
GRACE = 15.0  # s after an error until a process that does not react is ended
ERROR, READ, ALIVE, LOST = (f"paraclap/{name}" for name in ("error", "read", "alive", "lost"))


class PeerError(ParaCLAPError, RuntimeError):
    """Another process failed; the message is that of its error."""


class DeviceError(ParaCLAPError, RuntimeError):
    """The named device is not available."""


class ContactError(RuntimeError):
    """An exchange failed, because of another process."""


# --- Ranks and devices ---------------------------------------------------------------------------


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def share(total: int, number: int | None = None) -> slice:
    """Return the rows out of `total` of process `number`; None = this process."""
    number, world = rank() if number is None else number, world_size()
    return slice(total * number // world, total * (number + 1) // world)


def device_named(name: str) -> torch.device:
    """Return the device of this process: "auto" = a GPU if available, "cuda" = its own GPU.

    From then on, torch uses at most `usable_cores` threads. On a GPU, float32 convolutions are
    computed in float32, not in TF32 as by default: otherwise padding would change embeddings by far
    more than rounding.

    Raises:
        DeviceError: if there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    own_name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if name == "cuda" else name
    try:
        device = torch.device(own_name)
    except RuntimeError as error:
        raise DeviceError(
            f"{name!r} is not a device, expected auto, cpu, cuda or cuda:1"
        ) from error
    if device.type not in DEVICES:
        raise DeviceError(f"{name!r} cannot be used, expected auto, cpu, cuda or cuda:1")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("mps is not available on this machine")
    if device.type == "cuda" and not 0 <= device.index < torch.cuda.device_count():
        raise DeviceError(
            f"{own_name} does not exist, {torch.cuda.device_count()} GPUs are available"
        )
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
    torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
    return device


# --- Errors --------------------------------------------------------------------------------------


@contextmanager
def processes(device: torch.device, timeout: float = TIMEOUT) -> Iterator[None]:
    """Join the processes that torchrun started.

    If one process fails in the block, all stop: that process with its error, the others with its
    message. Only process 0 prints to the standard output.

    Args:
        device: of this process, see `device_named`.
        timeout: longest wait for another process [s].

    Raises:
        PeerError: if another process failed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    wait = timedelta(seconds=timeout)
    store, number, world = next(dist.rendezvous("env://", timeout=wait))
    dist.init_process_group(
        BACKENDS[device.type], store=store, rank=number, world_size=world, timeout=wait
    )
    watch = _Watch(store, number, world)
    watch.start()
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere if number else sys.stdout):
            yield
            meet()
    except Stopped:  # all processes, at the same step
        raise
    except BaseException as error:
        reason = watch.reason_of(error)
        if reason is not None:
            raise PeerError(reason) from error
        raise
    finally:
        watch.done.set()
        if dist.is_initialized():
            dist.destroy_process_group()


class _Watch(threading.Thread):
    """Thread that sends heartbeats and watches for errors of other processes.

    Attributes:
        reason: error that stops all processes, or None.
        done: set when this process has finished or failed; otherwise it is ended after an error.
    """

    def __init__(self, store: dist.Store, number: int, world: int) -> None:
        super().__init__(daemon=True)
        self.store, self.number, self.world = store, number, world
        self.reason: str | None = None
        self.done = threading.Event()

    def run(self) -> None:
        """Watch until this process is done or another one has failed."""
        while self.reason is None and not self.done.wait(BEAT):
            try:
                self.store.add(f"{ALIVE}/{self.number}", 1)
                if self.store.check([ERROR]):
                    self.reason = self.store.get(ERROR).decode()
                    self.store.add(READ, 1)
            except RuntimeError as error:
                self.reason = self.reason or f"lost the connection to process 0: {error}"
        if self.reason is not None and not self.done.wait(GRACE):
            print(f"process {self.number} ends: {self.reason}", file=sys.stderr, flush=True)
            os._exit(1)

    def reason_of(self, error: BaseException) -> str | None:
        """Publish an error; returns the error of another process that caused it, or None."""
        own = f"process {self.number}: {type(error).__name__}: {error}"
        try:
            if isinstance(error, ContactError):
                own = self._reason_of_silence(error)
            first = self.store.compare_set(ERROR, "", own).decode()
            self._let_others_read()
        except RuntimeError:  # the store ended with its process
            first = self.reason or own
        return first if isinstance(error, ContactError) or first != own else None

    def _reason_of_silence(self, error: ContactError) -> str:
        """Error of another process, or the number of a lost or late process."""
        self.store.add(f"{LOST}/{self.number}", 1)
        before = self._counts(ALIVE)
        deadline = time.monotonic() + SILENCE * BEAT
        while self.reason is None and time.monotonic() < deadline:
            time.sleep(BEAT / 10)
        if self.reason is not None:
            return self.reason
        after = self._counts(ALIVE)
        silent = [number for number in range(self.world) if before[number] == after[number]]
        if silent:
            lost = _listed(silent)
            return f"process {lost} exited without an error message (killed, out of memory?)"
        absent = [number for number, lost in enumerate(self._counts(LOST)) if not lost]
        return f"process {_listed(absent)} did not answer in time ({error})"

    def _counts(self, name: str) -> list[int]:
        return [self.store.add(f"{name}/{number}", 0) for number in range(self.world)]

    def _let_others_read(self) -> None:
        """Wait, because a launcher ends all processes as soon as one has exited."""
        deadline = time.monotonic() + PATIENCE
        while self.store.add(READ, 0) < self.world and time.monotonic() < deadline:
            time.sleep(BEAT / 10)


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))


@contextmanager
def contact() -> Iterator[None]:
    """Raise errors of an exchange as `ContactError`."""
    try:
        yield
    except RuntimeError as error:
        raise ContactError(str(error).splitlines()[0]) from error


# --- Exchanges -----------------------------------------------------------------------------------


def meet() -> None:
    """Wait for all processes."""
    largest(0)


def largest(*values: int) -> list[int]:
    """Return the elementwise maximum of the values of all processes."""
    if world_size() == 1:
        return list(values)
    tensor = torch.tensor([int(value) for value in values])
    with contact():
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return tensor.tolist()


def agreed_signal(requests: StopRequests) -> signal.Signals | None:
    """Return a signal that any process received, the same in all processes; None = no signal."""
    (number,) = largest(requests.received or 0)
    return signal.Signals(number) if number else None


def broadcast(value: Any) -> Any:
    """Return the value of process 0: numbers, text and containers of them."""
    if world_size() == 1:
        return value
    values = [value]
    with contact():
        dist.broadcast_object_list(values, src=0)
    return values[0]


def broadcast_in_place(tensors: Iterable[torch.Tensor]) -> None:
    """Replace tensors by those of process 0."""
    if world_size() > 1:
        with contact():
            for tensor in tensors:
                dist.broadcast(tensor, src=0)


def sum_in_place(tensor: torch.Tensor) -> torch.Tensor:
    """Replace a tensor by its sum over all processes; returns it."""
    if world_size() > 1:
        with contact():
            dist.all_reduce(tensor)
    return tensor


def gather(tensor: torch.Tensor, total: int) -> torch.Tensor:
    """Return the rows of all processes, (b, D) to (B, D), with gradients.

    Args:
        tensor: rows of this process, `share(total)` of them.
        total: B.

    Raises:
        ValueError: if the number of rows is not that of `share(total)`.
    """
    if world_size() == 1:
        return tensor
    exact = torch.promote_types(tensor.dtype, torch.float32)  # gradients are summed
    return _Gather.apply(tensor.to(exact), total)


class _Gather(torch.autograd.Function):
    """Concatenate rows; the gradient of a row is the sum of those of all processes."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, total: int) -> torch.Tensor:
        slices = [share(total, number) for number in range(world_size())]
        sizes = [rows.stop - rows.start for rows in slices]
        if len(tensor) != sizes[rank()]:
            raise ValueError(f"{len(tensor)} rows, expected {sizes[rank()]} of {total}")
        ctx.rows = slices[rank()]
        padded = tensor.new_zeros(max(sizes), *tensor.shape[1:])  # all_gather needs equal sizes
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in sizes]
        with contact():
            dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return sum_in_place(gradient.clone(memory_format=torch.contiguous_format))[ctx.rows], None
