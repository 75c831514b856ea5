"""Figure of the measured values with their edges, and of the levels within each emotion."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from paraclap.captions.edges import Bounds, Edges
from paraclap.captions.levels import training_values
from paraclap.captions.templates import PRESENCE, Descriptor, Group, InputError
from paraclap.captions.writer import Captioner, make_parent
from paraclap.style import PAGE, SMALL, styled, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

HISTOGRAMS = 3  # per row of the figure
LINES = 6  # largest number of groups in one histogram
EMOTIONS_SHOWN = 40
CELL = 0.21  # in; width of a number in the matrix

UNITS: Mapping[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "semitones above 27.5 Hz": ("Hz", lambda values: 27.5 * 2 ** (values / 12)),
    "deviation / mean": ("% of the mean", lambda values: 100 * values),
    "ratio": ("%", lambda values: 100 * values),
    "of the corpus": ("% of the corpus range", lambda values: 100 * values),
}
"""Unit of a column -> unit of the axis, and the conversion to it."""


@styled
def plot(captioner: Captioner, path: Path) -> None:
    """Draw the distribution of each descriptor with its edges, and its levels in each emotion.

    The distributions are those of the training rows, to which the edges are fitted.

    Raises:
        InputError, OutputError: if there are no levels, or the file cannot be written
    """
    from matplotlib.figure import Figure  # only here, as importing it takes a second

    features, edges = captioner.features, captioner.edges
    shown = [d for d in captioner.selected if d.name in edges]
    rows = -(-len(shown) // HISTOGRAMS)
    proportions, emotions, columns = level_proportions(captioner)
    if not columns:
        raise InputError(f"there are no levels to draw in {path}")
    heights = (0.2 + 1.45 * rows, 1.3 + 0.17 * len(emotions))
    width = max(PAGE, 1.2 + CELL * len(columns))
    figure = Figure(figsize=(width, heights[1] + (heights[0] if rows else 0)))
    upper, lower = (
        figure.subfigures(2, 1, height_ratios=heights) if rows else (None, figure.subfigures())
    )
    for place, descriptor in enumerate(shown):
        fitted = edges[descriptor.name]
        values = training_values(features, captioner.groups, descriptor, fitted.by)
        _draw_histogram(upper.add_subplot(rows, HISTOGRAMS, place + 1), descriptor, values, fitted)
    if rows:
        count = int(features.training.sum())
        upper.suptitle(f"Values of the {count} training clips; dashed: edges of the levels")
    _draw_proportions(lower, proportions, emotions, columns)
    make_parent(path)
    write_figure(figure, path)


def _draw_histogram(
    axes: "Axes", descriptor: Descriptor, values: Mapping[Group, np.ndarray], edges: Edges
) -> None:
    """Draw the distribution of each group and its edges in one colour."""
    unit, convert = UNITS.get(descriptor.unit, (descriptor.unit or descriptor.column, np.asarray))
    largest = sorted(values, key=lambda group: len(values[group]), reverse=True)[:LINES]
    whole = np.concatenate([values[group] for group in largest])
    limits = np.quantile(whole, [0.002, 0.998]) if len(whole) else (0, 1)
    lines: list[tuple[float, str]] = []
    for place, group in enumerate(sorted(largest)):
        colour, bounds = f"C{place}", edges.groups.get(group)
        counts, bins = np.histogram(values[group], bins=40, range=limits)
        label = f"{', '.join(group)}, {_normal(bounds, convert)}"
        heights = counts / max(len(values[group]), 1)
        axes.stairs(heights, convert(bins), fill=True, alpha=0.35, color=colour, label=label)
        lines += [(convert(edge), colour) for edge in (bounds.edges if bounds else ())]
    top = axes.get_ylim()[1]
    for edge, colour in lines:
        axes.vlines(edge, 0, top, color=colour, linestyle="--", linewidth=0.8)
    more = f" ({len(largest)} of {len(values)} groups)" if len(values) > LINES else ""
    by = f" by {', '.join(edges.by)}" if edges.by else ""
    normal = f", {_normal(edges.groups.get(()), convert)}" if not edges.by else ""
    axes.set_title(f"{descriptor.name.replace('_', ' ')}{by}{more}{normal}", pad=3)
    axes.set_xlabel(unit, labelpad=1)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    if edges.by:
        axes.set_ylim(0, top * (1.1 + 0.2 * len(largest)))  # room for the legend
        axes.legend(loc="upper right", borderpad=0.1, handlelength=1, borderaxespad=0.1)


def _normal(bounds: Bounds | None, convert: Callable[[np.ndarray], np.ndarray]) -> str:
    """Return the limits of the level "normal" as text."""
    if bounds is None:
        return "no edges"
    low, high = (f"{convert(edge):.3g}" for edge in (bounds.low, bounds.high))
    return f"normal: {low} to {high}"


def level_proportions(
    captioner: Captioner,
) -> tuple[np.ndarray, list[str], list[tuple[str, str]]]:
    """Return the proportion of each value among the defined ones, overall and by emotion.

    Returns:
        proportions (1 + emotions, values of all descriptors), names of the rows, and the columns
        as pairs (descriptor, value)
    """
    statistics = captioner.statistics
    shown = [d for d in captioner.selected if d.kind != "label" and d.name in statistics.counts]
    sizes = np.zeros(len(statistics.emotions))
    for descriptor in shown[:1]:
        sizes = statistics.counts[descriptor.name][1:].sum(axis=1)
    order = np.argsort(-sizes, kind="stable")[:EMOTIONS_SHOWN]
    order = sorted(order.tolist(), key=lambda place: statistics.emotions[place])
    blocks, columns = [np.zeros((1 + len(order), 0))], []
    for descriptor in shown:
        counts = statistics.counts[descriptor.name][:, 1:]
        counts = np.vstack([counts.sum(axis=0), counts[1:][order]])
        with np.errstate(invalid="ignore"):
            proportions = counts / counts.sum(axis=1, keepdims=True)
        values = descriptor.values[descriptor.kind == "rule" :]
        blocks.append(proportions[:, -len(values) :])
        columns += [(descriptor.name, value) for value in values]
    names = ["all rows", *(statistics.emotions[place] for place in order)]
    return np.hstack(blocks), names, columns


def _draw_proportions(
    figure: "SubFigure",
    proportions: np.ndarray,
    emotions: Sequence[str],
    columns: Sequence[tuple[str, str]],
) -> None:
    """Draw the matrix of emotions and levels in percent; cells of zero are empty."""
    axes = figure.add_subplot()
    axes.imshow(proportions, vmin=0, vmax=0.8)
    for row, column in zip(*np.nonzero(np.nan_to_num(proportions) >= 0.005), strict=True):
        colour = "white" if proportions[row, column] > 0.5 else "black"
        text = f"{100 * proportions[row, column]:.0f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=SMALL, color=colour)
    starts = [p for p, (name, _) in enumerate(columns) if not p or columns[p - 1][0] != name]
    for start in starts[1:]:
        axes.axvline(start - 0.5, color="black", linewidth=0.6)
    axes.set_yticks(range(len(emotions)), emotions)
    # the single column of a rule is too narrow for its name above
    ticks = [name.replace("_", " ") if value in PRESENCE else value for name, value in columns]
    axes.set_xticks(range(len(columns)), ticks, rotation=90)
    axes.tick_params(length=0)
    names = axes.secondary_xaxis("top")
    ends = [*starts[1:], len(columns)]
    middles = [(start + end - 1) / 2 for start, end in zip(starts, ends, strict=True)]
    texts = [
        "" if columns[start][1] in PRESENCE else columns[start][0].replace("_", "\n")
        for start in starts
    ]
    names.set_xticks(middles, texts)
    names.tick_params(length=0)
    names.spines[:].set_visible(False)
    figure.suptitle("Levels within each emotion (% of the clips in which they are defined)")
