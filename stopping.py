"""Requests to stop: a run that is told to end saves first, and says by its exit code what it wants.

SIGTERM and SIGUSR1 are what a scheduler sends before it takes the machine away (SLURM:
`--signal=USR1@120`); exit code 75 (EX_TEMPFAIL) asks it to queue the same command again. Ctrl-C
saves as well; a second one stops at once.
"""

import signal
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
