"""Signals that stop a run after a checkpoint, with an exit code for the scheduler.

Schedulers send SIGTERM or SIGUSR1 before they end a job (SLURM: `--signal=USR1@120`); exit code 75
(EX_TEMPFAIL) requests that the same command be requeued. Ctrl-C saves as well; a second Ctrl-C
stops immediately. Schedulers and torchrun send signals to all processes of a group; processes that
only read audio leave them to their parent.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

REQUEUE = 75
GRACE = 60.0  # s
EXIT_CODES = {signal.SIGTERM: REQUEUE, signal.SIGUSR1: REQUEUE, signal.SIGINT: 130}


class Stopped(BaseException):  # noqa: N818  not an error
    """The run ends early, because of a signal; not caught by `except Exception`.

    Attributes:
        code: exit code of the process.
    """

    def __init__(self, received: signal.Signals, message: str) -> None:
        super().__init__(f"{received.name}: {message}")
        self.code = EXIT_CODES[received]


class StopRequests:
    """Context in which signals are recorded and have no other effect.

    Attributes:
        received: last signal, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopRequests":
        self._before = {number: signal.signal(number, self._note) for number in EXIT_CODES}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)


@contextmanager
def stopping(message: str) -> Iterator[None]:
    """Context in which SIGTERM and SIGUSR1 raise `Stopped` at once, for work without checkpoints.

    Args:
        message: what was stopped, and how to continue.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(signal.Signals(number), message)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_signals_to_the_parent(worker: int) -> None:
    """Ignore signals in a `DataLoader` worker (`worker_init_fn`), except SIGTERM by its parent.

    Args:
        worker: number of the worker.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    """Exit at a SIGTERM by the parent; the signal is blocked in the other threads.

    macOS does not report the sender. There, the process exits once the parent had time for a step.
    """
    if hasattr(signal, "sigwaitinfo"):
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
    else:
        signal.sigwait({signal.SIGTERM})
        time.sleep(GRACE)
    os._exit(0)
