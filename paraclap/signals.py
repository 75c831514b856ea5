"""Requests to stop: a run that is told to end saves first, and says by its exit code what it wants.

SIGTERM and SIGUSR1 are what a scheduler sends before it takes the machine away (SLURM:
`--signal=USR1@120`); exit code 75 (EX_TEMPFAIL) asks it to queue the same command again. Ctrl-C
saves as well; a second one stops at once. Schedulers and torchrun send a signal to every process
of a group; those that only read audio leave it to the one that they read for.
"""

import os
import signal
import threading
from types import FrameType, TracebackType

REQUEUE = 75
EXIT_CODES = {signal.SIGTERM: REQUEUE, signal.SIGUSR1: REQUEUE, signal.SIGINT: 130}


class Stopped(Exception):  # noqa: N818  it is no error
    """The run has saved and ends early.

    Attributes:
        code: exit code of the process.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class StopRequests:
    """While open, signals are noted instead of obeyed.

    Attributes:
        received: the signal, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopRequests":
        self._before = {number: signal.signal(number, self._note) for number in EXIT_CODES}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)


def leave_signals_to_the_parent(worker: int) -> None:
    """Let a process that reads for another go on when both get a signal; `worker_init_fn` of torch.

    SIGTERM of the parent still ends it: so do its parent's own means of stopping it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    """Take SIGTERM, which is blocked elsewhere, until it comes from the parent."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
