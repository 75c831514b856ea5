"""A pool of processes that measure clips, so that a crash or a hang costs one clip only.

    for position, records in measure_clips(clips, "captions", timeout=600.0): ...

Decoders and openSMILE are C libraries: a damaged file can crash or block their process. Every
thread (and every Dask or Ray worker) therefore sends its clips to a worker process. If that process
dies or does not answer in time, its pending clips are measured again by a new process, one at a
time; a clip that fails again is recorded as ``crash`` or ``timeout``.
"""

import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from paraclap.acoustics.extraction import Clip, Record
from paraclap.acoustics.feature_sets import FEATURE_SETS
from paraclap.errors import ParaCLAPError

FOLDER = Path(__file__).resolve().parents[2]
PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); import paraclap; "
    "sys.path.remove(sys.argv.pop(1)); "
    "from paraclap.acoustics import extraction; extraction.main()"
)
"""Code of a worker; it imports the module by name, so that both sides unpickle the same classes."""
PENDING = 3
"""Clips sent to a worker at once: one is measured, one is being read, one waits in the socket."""
START_SECONDS = 300.0
"""Longest time that a worker may take to import its libraries, as from a slow shared disk [s]."""
EXIT_SECONDS = 1.0
"""Time for a process to exit after it has closed its socket, so that its exit code is known [s]."""
STAGE = "process"
"""Stage of failures that may not be the file's fault: the next run tries again."""


class WorkerError(ParaCLAPError, RuntimeError):
    """A worker that died or did not answer; ``error`` is a short code."""

    def __init__(self, error: str, message: str) -> None:
        super().__init__(error, message)  # both arguments, so that the error can be pickled
        self.error = error

    def __str__(self) -> str:
        """Return the message without the code."""
        return self.args[1]


class Worker:
    """A process that measures clips of one feature set, and the socket to it."""

    def __init__(self, feature_set: str) -> None:
        """Start the process and wait until it is ready.

        Raises:
            WorkerError: if it cannot be started
        """
        ours, theirs = socket.socketpair()
        with theirs:
            options = [FOLDER, str(theirs.fileno()), feature_set, str(os.getpid())]
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", PROGRAM, *options],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self.connection = Connection(ours.detach())
        try:
            self.names: list[str] = self.receive(START_SECONDS)
        except WorkerError as error:
            self.stop()
            raise WorkerError(error.error, f"a worker did not start: {error}") from error

    def send(self, ticket: int, clip: Clip) -> None:
        """Send a clip to be measured.

        Raises:
            WorkerError: if the process has died
        """
        try:
            self.connection.send((ticket, clip))
        except OSError as error:
            raise self._death() from error

    def receive(self, timeout: float) -> object:
        """Return the next message.

        Raises:
            WorkerError: if the process died or did not answer within ``timeout`` seconds
        """
        try:
            if self.connection.poll(timeout):
                return self.connection.recv()
        except (EOFError, OSError) as error:
            raise self._death() from error
        raise WorkerError("timeout", f"no answer within {timeout:g} s")

    def _death(self) -> WorkerError:
        """Return the error that describes how the process ended."""
        self.stop(EXIT_SECONDS)
        code = self.process.returncode
        if code < 0:
            return WorkerError("crash", f"the process died of {signal.Signals(-code).name}")
        return WorkerError("crash", f"the process ended with exit code {code}")

    def stop(self, patience: float = 0.0) -> None:
        """End the process, unless it ends by itself within ``patience`` seconds."""
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.connection.close()


_IDLE: dict[str, deque[Worker]] = {feature_set: deque() for feature_set in FEATURE_SETS}
"""Idle workers by feature set; appending and popping are safe among threads."""


def _take_worker(feature_set: str) -> Worker:
    """Return an idle worker that is still running, or a new one."""
    while True:
        try:
            worker = _IDLE[feature_set].pop()
        except IndexError:
            return Worker(feature_set)
        if worker.process.poll() is None:
            return worker
        worker.stop()


def stop_workers() -> None:
    """End the idle workers of this process; new ones are started on demand."""
    for idle in _IDLE.values():
        while idle:
            idle.pop().stop()


def feature_names(feature_set: str) -> list[str]:
    """Return openSMILE's names of the functionals of a set, without loading it in this process."""
    worker = _take_worker(feature_set)
    _IDLE[feature_set].append(worker)
    return worker.names


def measure_clips(
    clips: Sequence[Clip], feature_set: str, timeout: float
) -> Iterator[tuple[int, list[Record]]]:
    """Yield (position, records) of every clip once, as they are completed.

    Args:
        clips: clips to measure
        feature_set: key of `FEATURE_SETS`
        timeout: longest time without an answer [s] before a worker counts as hanging

    Raises:
        WorkerError: if no worker can be started
    """
    waiting, suspects = deque(range(len(clips))), set[int]()
    pending: dict[int, list[Record]] = {}
    worker = _take_worker(feature_set)
    try:
        while waiting or pending:
            try:
                while waiting and len(pending) < (1 if suspects else PENDING):
                    position = waiting.popleft()
                    pending[position] = []
                    worker.send(position, clips[position])
                position, record = worker.receive(timeout)
            except WorkerError as failure:
                worker.stop()
                held, pending = list(pending), {}
                if suspects.issuperset(held):  # this one was measured alone, by a new process
                    (position,) = held
                    suspects.remove(position)
                    place = clips[position].start, clips[position].end
                    reason = {"stage": STAGE, "error": failure.error, "message": str(failure)}
                    yield position, [Record(*place, **reason)]
                else:
                    suspects.update(held)
                    waiting.extendleft(reversed(held))
                worker = Worker(feature_set)
                continue
            if record is not None:
                pending[position].append(record)
            else:
                suspects.discard(position)
                yield position, pending.pop(position)
    except BaseException:
        worker.stop()
        raise
    _IDLE[feature_set].append(worker)
