"""Memory of a process from /proc; `ru_maxrss` starts at that of the process that started it."""

import math
import re
from pathlib import Path


def process_memory(key: str, process: int | str = "self") -> float:
    """Return VmRSS (in use) or VmHWM (peak) of a process [bytes], without its workers.

    NaN if the process has ended, and on systems without /proc.
    """
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return math.nan
    found = re.search(rf"^{key}:\s*(\d+) kB", status, re.M)
    return 1024.0 * int(found.group(1)) if found else math.nan
