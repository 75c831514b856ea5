"""Style of all figures: paper.mplstyle, widths, and formats of their files."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from paraclap.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = "paraclap.paper"
FORMATS = ("png", "pdf", "svg")
COLUMN, PAGE = 3.3, 6.9  # in; widths of a column and of a page
SMALL = 7  # pt; of texts in cells, the smallest font

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def styled(draw: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Return the function with the style applied while it runs."""

    @functools.wraps(draw)
    def drawn(*arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
        from matplotlib import style  # takes a second, and most commands draw nothing

        with style.context(STYLE):
            return draw(*arguments, **options)

    return drawn


@styled
def write_figure(figure: "Figure", path: Path) -> None:
    """Write a figure in the format of the suffix, one of `FORMATS`.

    Raises:
        OutputError: if it cannot be written.
    """
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:])


def plain(text: str) -> str:
    """Return a text that matplotlib draws as it is: no formulas, nothing outside of UTF-8."""
    return text.encode(errors="backslashreplace").decode().replace("$", r"\$")
