"""Clips measured in a process of their own: a crash or a hang costs one clip and nothing else.

    for position, records in measure_clips(clips, "captions", timeout=600.0): ...

Decoders and openSMILE are C libraries: a damaged file can end their process or never come back. So
whoever schedules the work (a thread here, a worker of Dask or Ray) keeps a child process and hands
it clips. When the child dies or is silent for too long, the clips that it had are given to a fresh
one, each alone; the one that fails again is recorded as ``crash`` or ``timeout``.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from paraclap.acoustics.extraction import Clip, Record
from paraclap.errors import ParaCLAPError

FOLDER = Path(__file__).resolve().parents[2]
PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); import paraclap; "
    "sys.path.remove(sys.argv.pop(1)); "
    "from paraclap.acoustics import extraction; extraction.main()"
)
"""What a child runs; as an imported module, so that both sides mean the same classes."""
IN_FLIGHT = 3
"""Clips that a child holds: one computed, one read ahead, one waiting in the socket."""
START_SECONDS = 300.0
"""Longest time that a child may take to import its libraries; shared disks are slow [s]."""
STAGE = "process"
"""Stage of failures that are no verdict on the file alone: the next run tries again."""


class ChildError(ParaCLAPError, RuntimeError):
    """A child that died or did not answer; ``error`` is the short code."""

    def __init__(self, error: str, message: str) -> None:
        super().__init__(error, message)
        self.error, self.message = error, message

    def __str__(self) -> str:
        """The sentence alone."""
        return self.message


class Child:
    """A process that measures clips of one feature set, and the socket to it."""

    def __init__(self, feature_set: str) -> None:
        """Start it and wait until it is ready.

        Raises:
            ChildError: if it cannot be started
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
        except ChildError:
            self.stop()
            raise

    def send(self, ticket: int, clip: Clip) -> None:
        """Ask for a clip.

        Raises:
            ChildError: if the child has died
        """
        try:
            self.connection.send((ticket, clip))
        except OSError as error:
            raise self._death() from error

    def receive(self, timeout: float) -> object:
        """Return the next message.

        Raises:
            ChildError: if the child died or was silent for ``timeout`` seconds
        """
        try:
            if self.connection.poll(timeout):
                return self.connection.recv()
        except (EOFError, OSError) as error:
            raise self._death() from error
        raise ChildError("timeout", f"no answer within {timeout:g} s")

    def _death(self) -> ChildError:
        """Return how the child ended."""
        self.stop()
        code = self.process.returncode
        if code < 0:
            return ChildError("crash", f"the process died of {signal.Signals(-code).name}")
        return ChildError("crash", f"the process ended with exit code {code}")

    def alive(self) -> bool:
        """Tell whether it can be given work."""
        return self.process.poll() is None

    def stop(self) -> None:
        """End it at once, unless it has ended."""
        try:
            self.process.wait(0.2 if self.connection.closed else 0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.connection.close()


class _Children:
    """The idle children of this process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.idle: dict[str, list[Child]] = {}

    def take(self, feature_set: str) -> Child:
        """Return a living child, started if there is none."""
        with self.lock:
            idle = self.idle.setdefault(feature_set, [])
            while idle:
                child = idle.pop()
                if child.alive():
                    return child
                child.stop()
        return Child(feature_set)

    def give_back(self, feature_set: str, child: Child) -> None:
        """Keep a child for the next chunk."""
        with self.lock:
            self.idle.setdefault(feature_set, []).append(child)

    def stop(self) -> None:
        """End all idle children."""
        with self.lock:
            for child in sum(self.idle.values(), []):
                child.stop()
            self.idle.clear()


_CHILDREN = _Children()


def stop_children() -> None:
    """End the idle children of this process; it starts new ones when it has work again."""
    _CHILDREN.stop()


def feature_names(feature_set: str) -> list[str]:
    """Return openSMILE's names of the functionals of a set, without loading it here."""
    child = _CHILDREN.take(feature_set)
    _CHILDREN.give_back(feature_set, child)
    return child.names


def measure_clips(
    clips: Sequence[Clip], feature_set: str, timeout: float
) -> Iterator[tuple[int, list[Record]]]:
    """Yield (position, records) of every clip once, as they are done.

    Args:
        clips: what to measure
        feature_set: a key of `smile.FEATURE_SETS`
        timeout: longest time without an answer [s] before a child counts as hanging

    Raises:
        ChildError: if no child can be started
    """
    waiting, suspects = deque(range(len(clips))), set[int]()
    flight: dict[int, list[Record]] = {}
    child = _CHILDREN.take(feature_set)
    try:
        while waiting or flight:
            try:
                while waiting and len(flight) < (1 if suspects else IN_FLIGHT):
                    position = waiting.popleft()
                    flight[position] = []
                    child.send(position, clips[position])
                position, record = child.receive(timeout)
            except ChildError as failure:
                child.stop()
                held, flight = list(flight), {}
                if suspects.issuperset(held):  # it was alone, in a fresh process
                    suspects.difference_update(held)
                    for position in held:
                        yield position, [_failed(clips[position], failure)]
                else:
                    suspects.update(held)
                    waiting.extendleft(reversed(held))
                child = Child(feature_set)
                continue
            if record is not None:
                flight[position].append(record)
            else:
                suspects.discard(position)
                yield position, flight.pop(position)
    except BaseException:
        child.stop()
        raise
    _CHILDREN.give_back(feature_set, child)


def _failed(clip: Clip, failure: ChildError) -> Record:
    """Return the record of a clip that its process did not survive."""
    return Record(clip.start, clip.end, stage=STAGE, error=failure.error, message=failure.message)
