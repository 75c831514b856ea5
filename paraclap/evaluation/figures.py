"""Figures of scores: confusion matrix, calibration, mean cosines, probabilities over time."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix

from paraclap.audio.quality import have_flag
from paraclap.evaluation.report import with_interval
from paraclap.style import COLUMN, PAGE, SMALL, plain, styled

DRAWN_CLASSES = 60  # of a confusion matrix
FEWEST_CLIPS = 5
"""Fewest clips of a drawn calibration bin: the accuracy of fewer is mostly chance."""
PERCENT_CELL, COSINE_CELL = 0.21, 0.32
"""Least widths of cells with a number in `SMALL` type [in]."""
LINE = 48  # letters of a title in `COLUMN`
TIMELINE_POINTS = 100  # windows; beyond twice as many, moving averages are drawn


def score_title(name: str, scores: Mapping[str, Any]) -> str:
    """Return the title of figures of a corpus: its UAR with interval, and chance."""
    uar = with_interval(scores["UAR"], scores["interval"])
    return f"{name}\nUAR {uar}, chance {scores['chance']:.3f}"


@styled
def plot_confusion(predictions: pd.DataFrame, classes: Sequence[str], title: str) -> Figure:
    """Plot the confusion matrix of `truth` and `prediction`, in percent of the clips of a class.

    Cells without a clip are empty; the number of clips is behind the name of the class.
    """
    classes = list(classes)
    present = [name for name in classes if name in set(predictions["truth"])]
    matrix = confusion_matrix(predictions["truth"], predictions["prediction"], labels=classes)
    matrix = matrix[[classes.index(name) for name in present]]
    percent = 100 * matrix / matrix.sum(axis=1, keepdims=True)
    figure, axes = _matrix_figure(len(present), len(classes), title, PERCENT_CELL)
    axes.imshow(percent, vmin=0, vmax=100)
    for (row, column), count in np.ndenumerate(matrix):
        share = percent[row, column]
        if count:
            _write(axes, row, column, f"{share:.0f}" if share >= 0.5 else "<1", share > 50)
    rows = [f"{name} ({count})" for name, count in zip(present, matrix.sum(axis=1), strict=True)]
    _name_cells(axes, rows, classes)
    axes.set(xlabel="prediction (% of the clips of a class)", ylabel="truth (clips)")
    return figure


@styled
def plot_calibration(calibration: Mapping[str, Any], title: str) -> Figure:
    """Plot the accuracy over the confidence of `metrics.calibration`, in percent.

    The area of a dot is the share of the clips; bins below `FEWEST_CLIPS` clips are left out.
    """
    figure = Figure(figsize=(COLUMN, 3.0))
    figure.suptitle(plain(title))
    axes = figure.subplots()
    bins = pd.DataFrame(calibration["bins"])
    sizes = 200 * bins["clips"] / bins["clips"].sum()
    shown = bins["clips"] >= FEWEST_CLIPS
    axes.plot([0, 100], [0, 100], color="grey", linestyle="--", linewidth=0.8)
    points = 100 * bins["confidence"][shown], 100 * bins["accuracy"][shown]
    axes.plot(*points, color="C0", linewidth=0.8, clip_on=False)
    axes.scatter(*points, s=sizes[shown], color="C0", alpha=0.6, linewidths=0, clip_on=False)
    left_out = int(bins["clips"][~shown].sum())
    note = f"; {left_out} clips in bins below {FEWEST_CLIPS} not drawn" if left_out else ""
    axes.set_title(f"calibration error {100 * calibration['ECE']:.1f} %{note}", fontsize=SMALL)
    limits = {"xlim": (0, 100), "ylim": (0, 100)}
    axes.set(**limits, xlabel="mean confidence (%)", ylabel="correct predictions (%)")
    return figure


@styled
def plot_similarities(predictions: pd.DataFrame, title: str) -> Figure:
    """Plot the mean cosine, `cosine.PROMPT`, of the clips of each `truth` with each prompt."""
    cosines = predictions.filter(regex=r"^cosine\.").groupby(predictions["truth"]).mean()
    prompts = [column.removeprefix("cosine.") for column in cosines]
    order = [name for name in prompts if name in cosines.index]
    cosines = cosines.loc[[*order, *sorted(set(cosines.index) - set(order))]]
    figure, axes = _matrix_figure(*cosines.shape, title, COSINE_CELL)
    axes.imshow(cosines, cmap="viridis")
    middle = (cosines.to_numpy().max() + cosines.to_numpy().min()) / 2
    for (row, column), cosine in np.ndenumerate(cosines.to_numpy()):
        _write(axes, row, column, f"{cosine:.2f}", cosine <= middle)
    _name_cells(axes, cosines.index, prompts)
    axes.set(xlabel="prompt (mean cosine with clips)", ylabel="truth")
    return figure


def _matrix_figure(rows: int, columns: int, title: str, cell: float) -> tuple[Figure, Axes]:
    """Return a figure of the width of a column, a page, or more if the cells require it."""
    least = 1.3 + cell * columns
    width = next((width for width in (COLUMN, PAGE) if width >= least), least)
    figure = Figure(figsize=(width, 1.3 + 0.24 * max(rows, 3)))
    figure.suptitle(plain(title))
    axes = figure.subplots()
    axes.spines[:].set_visible(False)
    return figure, axes


def _name_cells(axes: Axes, rows: Sequence[str], columns: Sequence[str]) -> None:
    axes.set_xticks(range(len(columns)), map(plain, columns), rotation=45, ha="right")
    axes.set_yticks(range(len(rows)), map(plain, rows))
    axes.tick_params(length=0)
    axes.tick_params("x", pad=1)


def _write(axes: Axes, row: int, column: int, text: str, is_dark: bool) -> None:
    colour = "white" if is_dark else "black"
    axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=SMALL)


def to_pixels(figure: Figure) -> np.ndarray:
    """Return a figure as pixels (H, W, 3) uint8."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


@styled
def plot_timeline(
    predictions: pd.DataFrame,
    title: str,
    waveform: np.ndarray | None = None,
    smooth: int | None = None,
) -> Figure:
    """Plot the probability of each prompt over time, between the waveform and `none_of_these`.

    Curves have gaps at silent windows, which are left out of the moving averages.

    Args:
        predictions: windows in order: `start` and `end` [s], `none_of_these`, `probability.PROMPT`,
            and `quality` if known.
        title: of the figure.
        waveform: lowest and highest samples (2, N) of N equal parts of the time that the windows
            cover; None = not drawn.
        smooth: windows of the moving averages that the lines show, with the single windows faint
            behind them; None = 1 up to twice `TIMELINE_POINTS` windows, more for longer recordings.
    """
    prefix = "probability."
    columns = [column for column in predictions if column.startswith(prefix)]
    middles = ((predictions["start"] + predictions["end"]) / 2).to_numpy()
    limits = predictions["start"].iloc[0], predictions["end"].iloc[-1]
    averaged = smooth or 1 + 2 * (len(middles) // (2 * TIMELINE_POINTS))
    values = predictions[[*columns, "none_of_these"]]
    if "quality" in predictions:
        audible = ~have_flag(predictions["quality"], "silent")
        values = values[audible].reindex(values.index)
    means = values.rolling(averaged, center=True, min_periods=1).mean().where(values.notna())
    heights = [0.5] * (waveform is not None) + [1.6, 0.5]
    figure = Figure(figsize=(PAGE, 0.6 + sum(heights)))
    title += f" (lines: means of {averaged} windows)" if averaged > 1 else ""
    figure.suptitle(plain(title))
    *above, axes, below = figure.subplots(
        len(heights), sharex=True, squeeze=False, height_ratios=heights
    )[:, 0]
    for panel in above:
        places = np.linspace(*limits, waveform.shape[1])
        panel.fill_between(places, *waveform, color="black", linewidth=0.2)
        panel.set(yticks=[], ylabel="speech")
        panel.spines["bottom"].set_visible(False)
        panel.tick_params("x", length=0)
    marker = "." if averaged == 1 and len(middles) <= TIMELINE_POINTS else None
    colours = matplotlib.colormaps["tab20"].colors if len(columns) > 8 else None
    for number, column in enumerate(columns):
        style = {"color": colours[number % 20] if colours else f"C{number}", "marker": marker}
        axes.plot(middles, means[column], label=plain(column.removeprefix(prefix)), **style)
        if averaged > 1:
            axes.plot(middles, values[column], linewidth=0.5, alpha=0.3, **style)
    axes.set(ylim=(0, 1), ylabel="probability")
    axes.grid(alpha=0.3)
    below.fill_between(middles, means["none_of_these"], color="grey", alpha=0.5, linewidth=0)
    below.set(xlim=limits, ylim=(0, 1), xlabel="time (s)", ylabel="none of\nthese")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


@styled
def plot_differences(rows: pd.DataFrame) -> Figure:
    """Plot the differences of `compare.compare` with their intervals, one line per task."""
    tasks, names = list(rows["task"].unique()), list(rows["results"].unique())
    lines = len(tasks) * len(names)
    figure = Figure(figsize=(COLUMN, 1.2 + 0.3 * lines + 0.15 * (len(names) - 1)))
    axes = figure.subplots()
    offsets = (np.arange(len(names)) - (len(names) - 1) / 2) / (len(names) + 1)
    for number, (name, offset) in enumerate(zip(names, offsets, strict=True)):
        part = rows[rows["results"] == name].set_index("task").reindex(tasks)
        # a task without an interval has its point alone
        limits = part[["low", "high"]].fillna(
            {"low": part["difference"], "high": part["difference"]}
        )
        heights = np.arange(len(tasks)) + offset
        axes.hlines(heights, limits["low"], limits["high"], color=f"C{number}")
        axes.plot(part["difference"], heights, "o", color=f"C{number}", label=plain(name))
    axes.axvline(0, color="grey", linestyle="--", linewidth=1)
    axes.set_yticks(range(len(tasks)), map(plain, tasks))
    axes.set(ylim=(len(tasks) - 0.5, -0.5))
    baseline = rows["baseline"].iloc[0]
    label = textwrap.fill(f"difference of the UAR to {baseline}", LINE)
    figure.supxlabel(plain(f"{label}\n(95 % interval over speakers)"), fontsize="medium")
    if len(names) > 1:
        figure.legend(loc="outside upper center")
    else:
        figure.suptitle(plain(textwrap.fill(f"{names[0]} - {baseline}", LINE)))
    return figure
