"""Speed, memory and exactness on a GPU, in at most 8 minutes and without a network.

    python -m benchmarks.gpu --output gpu.md
    python -m benchmarks.gpu --small --device cpu
    python -m benchmarks.gpu --sections environment "training step" --record

Encoders of the published size (wav2vec2-large with 12 layers, BERT base) and of the size of Whisper
base, random weights, noise of the durations of MSP-Podcast; training crops are 5 s. `--small` is a
dry run with tiny encoders. Each section has a share of the time and is written when it ends, so
that an aborted run leaves the tables before it. An error is a row of its table; the exit code is 1
if there was any, or a check failed.

"Plain" is as in `benchmarks.train_step` and `benchmarks.evaluate`. A step includes the optimiser;
memory is the peak with weights, gradients and its states. FLOPs are those of matrix products,
convolutions and attention, padding included, counted by `torch.utils.flop_counter`; "of peak"
relates them to the fastest square matrix product measured before, of the same type. Encoders draw
no random numbers, except in the section "training run", which runs train.py.
"""

import gc
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks import gpu_bench, gpu_runs, gpu_steps
from benchmarks.gpu_bench import FAILED, Bench, Measure
from benchmarks.report import command_line, conditions, parse, report, write_section
from benchmarks.timing import markdown_table

MINUTES = 8.0


@dataclass(frozen=True)
class Section:
    """A table.

    Attributes:
        head: names of the columns.
        measure: yields a label, the first cell, and what returns the other cells of each row.
        share: of the whole time.
    """

    head: tuple[str, ...]
    measure: Callable[[Bench], Iterator[tuple[str, Measure]]]
    share: float


STEP_HEAD = ("clips", "ms/step", "clips/s", "ratio", "TFLOP/s", "of peak", "memory [GiB]")
SECTIONS: dict[str, Section] = {
    "environment": Section(("what", "value"), gpu_bench.environment, 0.05),
    "loss": Section(
        ("step", "CPU", "GPU", "relative difference", "gradients", "check"),
        gpu_steps.losses,
        0.08,
    ),
    "resume": Section(("what", "result", "check"), gpu_runs.resume, 0.1),
    "training step": Section(("configuration", *STEP_HEAD), gpu_steps.steps, 0.2),
    "evaluation": Section(
        ("variant", "clips", "clips/s", "ratio", "memory [GiB]", "largest change of a cosine"),
        gpu_steps.evaluation,
        0.1,
    ),
    "batch size": Section(("configuration", *STEP_HEAD), gpu_steps.batch_sizes, 0.12),
    "training run": Section(
        ("run", "workers", "clips/s", "ratio", "waiting for data"), gpu_runs.runs, 0.2
    ),
    "torch.compile": Section(("configuration", *STEP_HEAD), gpu_steps.compiled, 0.15),
}


class OutOfTimeError(Exception):
    """The time of a section is over."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `OutOfTimeError` in the block after a time [s]."""

    def stop(*_: object) -> None:
        raise OutOfTimeError(f"stopped after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fill(section: Section, bench: Bench, seconds: float, rows: list[tuple[object, ...]]) -> None:
    """Append the rows of a table; an error is a row with `FAILED`."""
    label = "error"
    try:
        with time_limit(seconds):
            for label, measure in section.measure(bench):
                try:
                    rows.append((label, *measure()))
                except OutOfTimeError:
                    raise
                except Exception as error:
                    rows.append(_error_row(section, label, error))
                print(*rows[-1], sep="  ", file=sys.stderr, flush=True)
                label = "error"
                gc.collect()
                if bench.device.type == "cuda":
                    torch.cuda.empty_cache()
    except Exception as error:
        rows.append(_error_row(section, label, error))


def _error_row(section: Section, label: str, error: Exception) -> tuple[str, ...]:
    """Row for an error, and its traceback to stderr."""
    traceback.print_exception(error)
    lines = str(error).strip().splitlines() or [""]
    text = f"{FAILED}: {type(error).__name__}: {lines[0]}".replace("|", "/")
    return label, text, *[""] * (len(section.head) - 2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = command_line(__doc__, __spec__.name)
    add = parser.add_argument
    add("--small", action="store_true", help="tiny encoders and few clips")
    add("--sections", nargs="+", choices=SECTIONS, default=[*SECTIONS], help="default: all")
    add("--minutes", type=float, default=MINUTES, help="of all sections (%(default)s)")
    add("--output", type=Path, help="write the tables to this file as well")
    default = "cuda" if torch.cuda.is_available() else "cpu"
    add("--device", default=default, help="default: a GPU if available")
    options = parse(parser, arguments)
    chosen = {name: SECTIONS[name] for name in SECTIONS if name in options.sections}
    total, failed = sum(section.share for section in chosen.values()), False
    start, shares_left = time.perf_counter(), total
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(torch.device(options.device), options.small, Path(folder))
        for name, section in chosen.items():
            shares_left -= section.share  # time saved by a section is there for those after it
            spent = time.perf_counter() - start
            limit = 60 * options.minutes * (1 - shares_left / total) - spent
            print(f"{spent:.0f} s: {name}, at most {limit:.0f} s", file=sys.stderr, flush=True)
            rows: list[tuple[object, ...]] = []
            fill(section, bench, limit, rows)
            failed |= any(str(cell).startswith(FAILED) for row in rows for cell in row)
            title, text = f"GPU: {name}", markdown_table(section.head, rows)
            print(f"## {title}\n")
            report(title, f"{text}\n", options)
            if options.output:
                write_section(options.output, title, f"{conditions(options.load)}\n\n{text}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
