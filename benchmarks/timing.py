"""Alternating runs with their time and memory, and the tables that the benchmarks print."""

import ctypes
import math
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.memory import process_memory

GIB = 2**30
CPU = torch.device("cpu")
CLEAR = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Run:
    """One call of a variant.

    Attributes:
        wall: wall-clock time [s].
        cpu: CPU time of this process and of child processes that ended [s].
        memory: peak during the call minus the memory before it [GiB].
        result: what it returned.
    """

    wall: float
    cpu: float
    memory: float
    result: Any


def timed(work: Callable[[], Any], device: torch.device = CPU) -> Run:
    """Run `work` once, with time and memory."""
    before = _reset_memory(device)
    wall, cpu = time.perf_counter(), _cpu_seconds()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    wall, cpu = time.perf_counter() - wall, _cpu_seconds() - cpu
    return Run(wall, cpu, (_peak_memory(device) - before) / GIB, result)


def alternate(
    variants: Mapping[str, Callable[[], Any]], rounds: int, device: torch.device = CPU
) -> dict[str, list[Run]]:
    """Run all variants in each round, so that other load on the machine affects all of them.

    Each round starts with another variant.
    """
    runs: dict[str, list[Run]] = {name: [] for name in variants}
    for number in range(rounds):
        first = number % len(variants)
        for name in [*variants][first:] + [*variants][:first]:
            run = timed(variants[name], device)
            runs[name].append(run)
            print(f"round {number + 1}, {name}: {run.wall:.2f} s", file=sys.stderr, flush=True)
    return runs


def ratios(reference: Iterable[Run], runs: Iterable[Run], clock: str = "wall") -> str:
    """Format how many times as fast as the reference the runs are, see `spread`."""
    pairs = zip(reference, runs, strict=True)
    return spread([getattr(slow, clock) / getattr(fast, clock) for slow, fast in pairs])


def spread(values: Sequence[float]) -> str:
    """Format the median and the range."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Format a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines)


def _cpu_seconds() -> float:
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _reset_memory(device: torch.device) -> float:
    """Reset the peak; return the memory in use [bytes], NaN on systems without /proc."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    if not CLEAR.exists():
        return math.nan
    ctypes.CDLL(None).malloc_trim(0)  # freed memory that the process still holds would hide a peak
    CLEAR.write_text("5")  # resets the peak
    return process_memory("VmRSS")


def _peak_memory(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return process_memory("VmHWM")
