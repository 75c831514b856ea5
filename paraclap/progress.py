"""Progress of long loops: a bar with a rate on a terminal, and elsewhere one line a minute.

with progress_bar(len(clips), "embedding", "clip") as bar:
    for clip in clips:
        bar.update()
"""

import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

LINE_SECONDS = 60.0
"""Time between two lines where there is no terminal [s]."""
LINE = "{desc}: {n_fmt} of {total_fmt} {unit}s in {elapsed}, {remaining} left, {rate_fmt}"


def progress_bar(total: int, title: str | None, unit: str, hidden: bool = False) -> tqdm:
    """Return a bar on a terminal, and elsewhere one that prints a line a minute, to stderr.

    Args:
        total: number of units.
        title: before the bar; None = nothing is shown.
        unit: name of one of them.
        hidden: show nothing, as for other processes than the first.
    """
    options = {"total": total, "desc": title, "unit": unit, "disable": hidden or title is None}
    if sys.stderr.isatty():
        return tqdm(**options)
    pause = {"mininterval": LINE_SECONDS, "maxinterval": LINE_SECONDS, "delay": LINE_SECONDS}
    return _Lines(**options, **pause, bar_format=LINE)


def with_progress(
    items: Iterable[Item], total: int, title: str | None, unit: str
) -> Iterator[Item]:
    """Yield the items, and count them in a `progress_bar`."""
    with progress_bar(total, title, unit) as bar:
        for item in items:
            yield item
            bar.update()


class _Lines(tqdm):
    """A bar whose states are lines of a file; a loop below a minute prints nothing."""

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Print the state; `close`, which disables the bar first, ends the line itself."""
        self.fp.write(f"{self if msg is None else msg}" + ("" if self.disable else "\n"))
        self.fp.flush()
        return True

    def clear(self, *_: Any, **__: Any) -> None:
        """Leave lines as they are."""
