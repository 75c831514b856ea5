"""Figure of the measured values with their edges, and of the levels within each emotion."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from paraclap.captions.edges import Edges
from paraclap.captions.levels import training_values
from paraclap.captions.templates import PRESENCE, Descriptor, Group, InputError
from paraclap.captions.writer import Captioner, make_parent
from paraclap.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

FORMATS = (".png", ".pdf", ".svg")
HISTOGRAMS = 4  # per row of the figure
LINES = 6  # largest number of groups in one histogram
EMOTIONS_SHOWN = 40


def plot(captioner: Captioner, path: Path) -> None:
    """Draw the distribution of each descriptor with its edges, and its levels in each emotion.

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
    heights = (2.9 * rows, 1.6 + 0.3 * len(emotions))
    figure = Figure(figsize=(16, max(sum(heights), 3)), dpi=100, layout="constrained")
    upper, lower = (
        figure.subfigures(2, 1, height_ratios=heights) if rows else (None, figure.subfigures())
    )
    for place, descriptor in enumerate(shown):
        fitted = edges[descriptor.name]
        values = training_values(features, captioner.groups, descriptor, fitted.by)
        _draw_histogram(upper.add_subplot(rows, HISTOGRAMS, place + 1), descriptor, values, fitted)
    if rows:
        part = "all" if set(features.splits) <= {"train"} else "training"
        upper.suptitle(f"Values of {part} rows; dashed lines are the edges of levels")
    _draw_proportions(lower, proportions, emotions, columns)
    make_parent(path)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:] or "png")


def _draw_histogram(
    axes: "Axes", descriptor: Descriptor, values: Mapping[Group, np.ndarray], edges: Edges
) -> None:
    """Draw the distribution of each group and its edges in one colour."""
    largest = sorted(values, key=lambda group: len(values[group]), reverse=True)[:LINES]
    whole = np.concatenate([values[group] for group in largest])
    limits = np.quantile(whole, [0.002, 0.998]) if len(whole) else (0, 1)
    for place, group in enumerate(sorted(largest)):
        colour, bounds = f"C{place}", edges.groups.get(group)
        counts, bins = np.histogram(values[group], bins=60, range=limits)
        name = ", ".join(group) or f"{len(values[group])} values"
        label = f"{name}: {bounds.low:.4g} to {bounds.high:.4g}" if bounds else f"{name}: no edges"
        heights = counts / max(len(values[group]), 1)
        axes.stairs(heights, bins, fill=True, alpha=0.35, color=colour, label=label)
        for edge in bounds.edges if bounds else ():
            axes.axvline(edge, color=colour, linestyle="--", linewidth=1.2)
    more = f" ({len(largest)} largest of {len(values)} groups)" if len(values) > LINES else ""
    by = f" by {', '.join(edges.by)}" if edges.by else ""
    axes.set_title(f"{descriptor.name}{by}{more}", fontsize=11, fontweight="bold")
    axes.set_xlabel(descriptor.unit or descriptor.column, fontsize=9)
    axes.set_yticks([])
    axes.set_ylim(0, axes.get_ylim()[1] * (1.15 + 0.1 * len(largest)))  # room for the legend
    axes.legend(fontsize=8, loc="upper right", framealpha=0.9, borderpad=0.3)


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
    """Draw the matrix of emotions and levels in percent."""
    axes = figure.add_subplot()
    axes.imshow(proportions, cmap="Blues", vmin=0, vmax=0.8, aspect="auto")
    for row, column in zip(*np.nonzero(np.isfinite(proportions)), strict=True):
        colour = "white" if proportions[row, column] > 0.5 else "black"
        text = f"{100 * proportions[row, column]:.0f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    starts = [p for p, (name, _) in enumerate(columns) if not p or columns[p - 1][0] != name]
    for start in starts:
        axes.axvline(start - 0.5, color="black", linewidth=0.8)
    axes.set_yticks(range(len(emotions)), emotions, fontsize=9)
    # the single column of a rule is too narrow for its name above
    ticks = [name if value in PRESENCE else value for name, value in columns]
    axes.set_xticks(range(len(columns)), ticks, fontsize=8, rotation=90)
    names = axes.secondary_xaxis("top")
    ends = [*starts[1:], len(columns)]
    middles = [(start + end - 1) / 2 for start, end in zip(starts, ends, strict=True)]
    texts = [
        "" if columns[start][1] in PRESENCE else columns[start][0].replace("_", "\n")
        for start in starts
    ]
    names.set_xticks(middles, texts, fontsize=9)
    names.tick_params(length=0)
    figure.suptitle("Levels within each emotion, in percent of the rows where they are defined")
