"""A program of the user's that maps lines of text to lines of text."""

import os
import selectors
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress

from paraclap.captions.templates import InputError

SEED = "PARACLAP_SEED"
"""Environment variable with the seed."""
LIMIT = 1 << 20  # bytes of output


class ProgramError(InputError):
    """The program could not be run, failed, or returned something else than one line per line."""


def split_command(command: str) -> list[str]:
    """Return the arguments of a command, without a shell: no variables, pipes or patterns.

    Raises:
        ProgramError: if quotes are not closed, or there is no program
    """
    try:
        arguments = shlex.split(command)
    except ValueError as error:
        raise ProgramError(f"--rewrite {command!r}: {error}") from error
    if not arguments:
        raise ProgramError("--rewrite is empty, expected a command")
    return arguments


def run_program(command: str, lines: Sequence[str], seed: int, seconds: float) -> list[str]:
    """Return one line of output for each line of input.

    The program and all that it started are killed when the time is over, or when this process is
    interrupted. Its errors go to those of this process.

    Args:
        command: with arguments as in a shell.
        lines: written to the standard input in UTF-8, each followed by a newline.
        seed: value of the environment variable `SEED`.
        seconds: until the program is killed.

    Raises:
        ProgramError: if it cannot be started, fails, takes too long, or returns something else
    """
    arguments, deadline = split_command(command), time.monotonic() + seconds
    with tempfile.TemporaryFile() as given:
        given.write("".join(f"{line}\n" for line in lines).encode())
        given.seek(0)
        try:
            process = subprocess.Popen(
                arguments,
                stdin=given,
                stdout=subprocess.PIPE,
                env={**os.environ, SEED: str(seed)},
                start_new_session=True,  # to be killed with all that it started
            )
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ProgramError(f"--rewrite: {arguments[0]!r} cannot be run: {reason}") from error
        try:
            output = _read(process, deadline)
            code = process.wait(max(deadline - time.monotonic(), 0.1))
        except (TimeoutError, subprocess.TimeoutExpired) as error:
            message = f"--rewrite: {arguments[0]!r} took longer than {seconds:g} s"
            raise ProgramError(message) from error
        finally:
            if process.returncode is None:
                _kill(process)
    if code:
        ended = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        raise ProgramError(f"--rewrite: {arguments[0]!r} {ended}")
    return _lines(output, len(lines), arguments[0])


def _read(process: subprocess.Popen, deadline: float) -> bytes:
    """Return all output; raises TimeoutError after the deadline, ProgramError beyond the limit."""
    chunks, size = [], 0
    with process.stdout as stream, selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while True:
            if not selector.select(max(deadline - time.monotonic(), 0)):
                raise TimeoutError
            chunk = os.read(stream.fileno(), 1 << 16)
            if not chunk:
                return b"".join(chunks)
            chunks.append(chunk)
            size += len(chunk)
            if size > LIMIT:
                message = f"{process.args[0]!r} returned more than {LIMIT >> 20} MiB"
                raise ProgramError(f"--rewrite: {message}")
            if time.monotonic() > deadline:
                raise TimeoutError


def _kill(process: subprocess.Popen) -> None:
    """Kill a program and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _lines(output: bytes, expected: int, program: str) -> list[str]:
    """Return the lines of the output, stripped."""
    try:
        text = output.decode()
    except UnicodeDecodeError as error:
        message = f"--rewrite: {program!r} returned text that is not UTF-8"
        raise ProgramError(message) from error
    lines = text.removesuffix("\n").split("\n") if text else []
    if len(lines) != expected:
        message = f"returned {len(lines) or 'no'} lines for {expected}, expected one for each"
        raise ProgramError(f"--rewrite: {program!r} {message}")
    return [line.strip() for line in lines]
