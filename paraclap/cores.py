"""Cores that this process may use: of its CPU affinity, and of the CPU time of its control group.

Containers and schedulers limit both. Libraries count the cores of the machine instead, so that as
many threads as cores wait for each other.
"""

import math
import os
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path

LOADER_WORKERS = 8  # more have not been needed by one GPU


def usable_cores(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> int:
    """Return the cores of this process, at least 1; processes of torchrun share those of a node.

    Args:
        root: of the file system, whose control groups are read (version 1 or 2).
        environment: of the process.
    """
    has_affinity = hasattr(os, "sched_getaffinity")
    count = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    local = environment.get("LOCAL_WORLD_SIZE", "")
    processes = max(1, int(local)) if local.isdecimal() else 1
    return max(1, math.floor(min(count, *_quotas(root), math.inf)) // processes)


def loader_workers() -> int:
    """Return the number of workers of a loader for `auto`."""
    return min(usable_cores(), LOADER_WORKERS)


def let_threads_sleep(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let idle threads of OpenMP sleep instead of spin; before torch is imported.

    Spinning threads take the time of those that compute wherever other programs run as well: the
    embeddings of Whisper base took 2 to 20 times as long (docs/scaling.md).
    """
    environment.setdefault("OMP_WAIT_POLICY", "passive")


def _quotas(root: Path) -> Iterator[float]:
    """Yield the cores whose time the control groups of this process, and those above, may use."""
    for line in _lines(root / "proc/self/cgroup"):
        controllers, _, path = line.partition(":")[2].partition(":")
        base = root / "sys/fs/cgroup"
        if "cpu" in controllers.split(","):
            base /= "cpu"
        elif controllers:
            continue
        inside = Path(path.lstrip("/"))
        for folder in (inside, *inside.parents):
            limits = " ".join(_lines(base / folder / "cpu.max")).split()
            limits = limits or [
                *_lines(base / folder / "cpu.cfs_quota_us"),
                *_lines(base / folder / "cpu.cfs_period_us"),
            ]
            # "max" and -1 are no limit; other texts are not understood
            if len(limits) == 2 and all(map(str.isdecimal, limits)) and int(limits[1]):
                yield int(limits[0]) / int(limits[1])


def _lines(path: Path) -> list[str]:
    """Return the lines of a file, none if it cannot be read."""
    try:
        return [line for line in path.read_text(errors="replace").split("\n") if line]
    except OSError:
        return []
