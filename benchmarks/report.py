"""The command line of a benchmark and its section in RESULTS.md.

Every benchmark prints its tables; with --record they also replace the section of the same title in
benchmarks/RESULTS.md, with the command, the date, the machine and the load before it started.
"""

import argparse
import datetime
import os
import platform
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from paraclap.files import write_text

RESULTS = Path(__file__).with_name("RESULTS.md")


def command_line(description: str, module: str) -> argparse.ArgumentParser:
    """Return a parser with --record; `module` is what `python -m` runs."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--record", action="store_true", help="write the tables to benchmarks/RESULTS.md"
    )
    parser.set_defaults(load=os.getloadavg()[0])
    return parser


def parse(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None
) -> argparse.Namespace:
    """Parse the arguments; `command` of the result is the command without --record.

    It begins with TMPDIR if that is set: files in memory are written faster than on a disk.
    """
    options = parser.parse_args(arguments)
    words = sys.argv[1:] if arguments is None else arguments
    words = [word for word in words if word != "--record"]
    folder = [f"TMPDIR={os.environ['TMPDIR']}"] if "TMPDIR" in os.environ else []
    options.command = " ".join([*folder, parser.prog, shlex.join(words)]).strip()
    return options


def report(title: str, text: str, options: argparse.Namespace) -> None:
    """Print the text of a section, and write it to RESULTS.md if this is wanted."""
    print(text)
    if options.record:
        head = f"`{options.command}`\n\n{conditions(options.load)}"
        write_section(RESULTS, title, f"{head}\n\n{text}")


def conditions(load: float) -> str:
    """Return one line with date, machine, load and versions."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    today = datetime.date.today()
    parts = [f"{today:%-d %B %Y}", f"{processor()}, {cores} cores", f"load {load:.1f}"]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join([*parts, f"Python {platform.python_version()}", f"torch {torch.__version__}"])


def processor() -> str:
    """Return the name of the processor and its widest instructions, as far as known."""
    about = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = re.search(r"^model name\s*:\s*(.*)$", about, re.M)
    widest = torch.backends.cpu.get_cpu_capability().lower()
    if re.search(r"^flags\s*:.*\bavx512_bf16\b", about, re.M):
        widest += "-bf16"
    return f"{name.group(1) if name else platform.processor() or platform.machine()} ({widest})"


def write_section(path: Path, title: str, text: str) -> None:
    """Replace the section of a title, which ends at the next one; new sections go to the end."""
    before = path.read_text() if path.exists() else "# Benchmarks\n"
    section = f"## {title}\n\n{text.strip()}\n"
    found = re.compile(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", re.M | re.S)
    if found.search(before):
        after = found.sub(lambda _: f"{section}\n", before, count=1)
    else:
        after = f"{before.rstrip()}\n\n{section}"
    write_text(path, after.rstrip() + "\n")
