"""Memory and time of a training run."""

import resource
import sys
import time
from pathlib import Path

import torch

GIB = 2**30


def memory_in_use(device: torch.device) -> dict[str, float]:
    """Return the memory of this process and the peak of allocated GPU memory [GiB]."""
    memory = {"memory_gib": _resident() / GIB}
    if device.type == "cuda":
        memory["gpu_memory_gib"] = torch.cuda.max_memory_allocated(device) / GIB
    return memory


def peak_memory() -> float:
    """Return the peak memory of this process [GiB]."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / GIB  # bytes or KiB


def _resident() -> float:
    """Memory of this process [bytes]; its peak where /proc is missing."""
    statm = Path("/proc/self/statm")
    if not statm.is_file():
        return peak_memory() * GIB
    return int(statm.read_text().split()[1]) * resource.getpagesize()


def duration(seconds: float) -> str:
    """Format a duration in the largest unit of which there are at least two."""
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.3g} seconds"


class Stopwatch:
    """Time per step and per validation.

    The first step is not counted, because it allocates memory and may compile the model.

    Attributes:
        steps: number of steps, including the first.
        step_seconds: total duration of the steps after the first, reading included [s].
        validation_seconds: duration of the last validation [s].
    """

    def __init__(self) -> None:
        self.steps = 0
        self.step_seconds = 0.0
        self.validation_seconds = 0.0
        self._start = self._begin = time.perf_counter()

    def total(self) -> float:
        """Seconds since this was created."""
        return time.perf_counter() - self._begin

    def start(self) -> None:
        """Start to time a step or a validation."""
        self._start = time.perf_counter()

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start

    def end_step(self) -> float:
        """Count a step; returns its duration [s]."""
        seconds = self.elapsed()
        self.steps += 1
        if self.steps > 1:
            self.step_seconds += seconds
        return seconds

    def end_validation(self) -> None:
        """Keep the duration of a validation."""
        self.validation_seconds = self.elapsed()

    def summary(self, device: torch.device, steps: int, validations: int) -> str:
        """Return one line: peak memory, time per step, expected duration of a whole run.

        Args:
            device: of the model.
            steps: number of steps of the whole run.
            validations: number of validations of the whole run.
        """
        parts = [f"peak memory {peak_memory():.2f} GiB"]
        if device.type == "cuda":
            parts[0] += f", {memory_in_use(device)['gpu_memory_gib']:.2f} GiB on the GPU"
        if self.steps > 1:
            step = self.step_seconds / (self.steps - 1)
            total = steps * step + validations * self.validation_seconds
            parts += [f"{step:.3g} s per step", f"{self.validation_seconds:.3g} s per validation"]
            parts.append(f"{steps} steps take about {duration(total)}")
        return "; ".join(parts)
