"""What benchmarks measured, in RESULTS.md: one section each, replaced when it is measured again.

    record("Training step", report, Path("benchmarks/RESULTS.md"))
    with recorded("Loading", options.record):  # what is printed is the report
        print(table)

A section says with what it was measured: machine and load, date, commit, and the command.
"""

import contextlib
import datetime
import io
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from paraclap.files import write_text

RESULTS = Path(__file__).parent / "RESULTS.md"
HEAD = "# Measured\n\nEach section is written by the command that it names (`--record`).\n"


def record(title: str, report: str, path: Path = RESULTS) -> None:
    """Write a section; one of the same title is replaced, others stay as they are.

    Args:
        title: of the benchmark, one line.
        report: Markdown without headings of the first two levels.
        path: file to change; made if it is not there.
    """
    text = path.read_text() if path.exists() else HEAD
    head, *sections = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    kept = [section for section in sections if section.splitlines()[0] != f"## {title}"]
    new = f"## {title}\n\n{circumstances()}\n\n{report.strip()}\n"
    parts = [head, *sorted([*kept, new])]
    write_text(path, "\n".join(part.strip() + "\n" for part in parts))


@contextmanager
def recorded(title: str, wanted: bool, path: Path = RESULTS) -> Iterator[None]:
    """Record what is printed inside, beside printing it; lines that are no table stand as they are.

    Args:
        title: see `record`.
        wanted: whether to record at all.
        path: see `record`.
    """
    printed = _Tee(sys.stdout)
    with contextlib.redirect_stdout(printed):
        yield
    if wanted:
        lines = printed.getvalue().strip().splitlines()
        pairs = zip(lines, [*lines[1:], ""], strict=True)
        ends = [
            line if line.startswith("|") and after.startswith("|") else f"{line}\n"
            for line, after in pairs
        ]
        record(title, "\n".join(ends), path)


class _Tee(io.StringIO):
    """Keeps what is written, and writes it on."""

    def __init__(self, stream: io.TextIOBase) -> None:
        super().__init__()
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(text)
        return super().write(text)

    def flush(self) -> None:
        self.stream.flush()


def circumstances() -> str:
    """One paragraph: machine, load, date, commit, command."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    load = os.getloadavg()[1]
    return (
        f"{processor()}, {os.cpu_count()} cores, load {load:.1f}; "
        f"Python {platform.python_version()}; {today}; commit {commit()}; `{command()}`"
    )


def processor() -> str:
    """Name of the processor, with the instructions that decide about half precision."""
    path = Path("/proc/cpuinfo")
    told = path.read_text() if path.exists() else ""
    names = re.findall(r"^model name\s*: (.*)$", told, flags=re.MULTILINE)
    flags = set(re.findall(r"\b(?:avx2|avx512f|avx512_bf16|amx_bf16)\b", told))
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name} ({', '.join(sorted(flags)) or 'no AVX2'})"


def commit() -> str:
    """Short hash of the commit that is checked out, and whether files differ from it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/*.py")
    return git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")


def command() -> str:
    """Return the command line, as it is typed at the root of the repository."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    script = ["-m", spec.name] if spec else [sys.argv[0]]
    return shlex.join(["python", *script, *sys.argv[1:]])
