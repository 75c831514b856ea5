"""A picture of the measured values with their edges, and of the levels within each emotion."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from paraclap.captions.captions import Captioner
from paraclap.captions.edges import Edges, grouped_values
from paraclap.captions.feature_tables import Features
from paraclap.captions.input_errors import InputError
from paraclap.captions.phrases import Group
from paraclap.captions.survey import Survey
from paraclap.captions.templates import LEVELS, PRESENCE, Descriptor
from paraclap.files import atomic_write

PICTURES = (".png", ".pdf", ".svg")
HISTOGRAMS = 4  # in a row of the picture
LINES = 6  # most groups drawn in one histogram
EMOTIONS_SHOWN = 40


def plot(
    features: Features, found: Survey, captioner: Captioner, edges: Mapping[str, Edges], path: Path
) -> None:
    """Draw the distribution of each descriptor with its edges, and its levels in each emotion.

    Raises:
        InputError: if there are no levels
    """
    shown = [d for d in captioner.selected if d.name in edges]
    rows = -(-len(shown) // HISTOGRAMS)
    shares, emotions, columns = shares_of(captioner)
    if not columns:
        raise InputError(f"there are no levels to draw in {path}")
    heights = (2.9 * rows, 1.6 + 0.3 * len(emotions))
    figure = Figure(figsize=(16, max(sum(heights), 3)), dpi=100, layout="constrained")
    upper, lower = (
        figure.subfigures(2, 1, height_ratios=heights) if rows else (None, figure.subfigures())
    )
    for place, descriptor in enumerate(shown):
        values = grouped_values(features, found, descriptor, edges[descriptor.name].by)
        axes = upper.add_subplot(rows, HISTOGRAMS, place + 1)
        _draw_histogram(axes, descriptor, values, edges[descriptor.name])
    part = "all" if found.training is None or found.training.all() else "the training"
    if rows:
        upper.suptitle(f"Measured values of {part} rows; what is between the lines is normal")
    _draw_shares(lower, shares, emotions, columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:] or "png")


def _draw_histogram(
    axes: Axes, descriptor: Descriptor, values: Mapping[Group, np.ndarray], edges: Edges
) -> None:
    """Share of each group's values, and its edges as lines of the same colour."""
    largest = sorted(values, key=lambda group: len(values[group]), reverse=True)[:LINES]
    whole = np.concatenate([values[group] for group in largest])
    limits = np.quantile(whole, [0.002, 0.998]) if len(whole) else (0, 1)
    for place, group in enumerate(sorted(largest)):
        colour, bounds = f"C{place}", edges.groups.get(group)
        counts, bins = np.histogram(values[group], bins=60, range=limits)
        name = ", ".join(group) or f"{len(values[group])} values"
        told = f"{name}: {bounds.low:.4g} to {bounds.high:.4g}" if bounds else f"{name}: no edges"
        share = counts / max(len(values[group]), 1)
        axes.stairs(share, bins, fill=True, alpha=0.35, color=colour, label=told)
        for edge in (bounds.low, bounds.high) if bounds else ():
            axes.axvline(edge, color=colour, linestyle="--", linewidth=1.2)
    more = f" ({len(largest)} largest of {len(values)} groups)" if len(values) > LINES else ""
    by = f" by {', '.join(edges.by)}" if edges.by else ""
    axes.set_title(f"{descriptor.name}{by}{more}", fontsize=11, fontweight="bold")
    axes.set_xlabel(descriptor.unit or descriptor.column, fontsize=9)
    axes.set_yticks([])
    axes.set_ylim(0, axes.get_ylim()[1] * (1.15 + 0.1 * len(largest)))  # room for the legend
    axes.legend(fontsize=8, loc="upper right", framealpha=0.9, borderpad=0.3)


def shares_of(captioner: Captioner) -> tuple[np.ndarray, list[str], list[tuple[str, str]]]:
    """Share of each value among the defined ones, for all rows and within each emotion.

    Returns:
        shares (1 + emotions, values of all descriptors), names of the emotions, and of the columns
        (descriptor, value)
    """
    told = [d for d in captioner.selected if d.kind != "label" and d.name in captioner.counts]
    sizes = np.zeros(len(captioner.emotions))
    for descriptor in told[:1]:
        sizes = captioner.counts[descriptor.name][1:].sum(axis=1)
    order = np.argsort(-sizes, kind="stable")[:EMOTIONS_SHOWN]
    order = sorted(order.tolist(), key=lambda place: captioner.emotions[place])
    blocks, columns = [np.zeros((1 + len(order), 0))], []
    for descriptor in told:
        counts = captioner.counts[descriptor.name][:, 1:]
        counts = np.vstack([counts.sum(axis=0), counts[1:][order]])
        with np.errstate(invalid="ignore"):
            shares = counts / counts.sum(axis=1, keepdims=True)
        values = {"level": LEVELS, "rule": PRESENCE[1:]}[descriptor.kind]
        blocks.append(shares[:, -len(values) :])
        columns += [(descriptor.name, value) for value in values]
    return np.hstack(blocks), ["all rows", *(captioner.emotions[place] for place in order)], columns


def _draw_shares(
    figure: SubFigure,
    shares: np.ndarray,
    emotions: Sequence[str],
    columns: Sequence[tuple[str, str]],
) -> None:
    """Matrix of emotions and levels, in percent."""
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=0.8, aspect="auto")
    for row, column in zip(*np.nonzero(np.isfinite(shares)), strict=True):
        colour = "white" if shares[row, column] > 0.5 else "black"
        text = f"{100 * shares[row, column]:.0f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    starts = [p for p, (name, _) in enumerate(columns) if not p or columns[p - 1][0] != name]
    for start in starts:
        axes.axvline(start - 0.5, color="black", linewidth=0.8)
    axes.set_yticks(range(len(emotions)), emotions, fontsize=9)
    # a rule has one column, too narrow for its name above
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
    figure.suptitle("Levels within each emotion: percent of the rows where they are defined")
