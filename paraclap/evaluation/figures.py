"""Figures of scores: confusion matrix, calibration, differences, cosines, probabilities in time."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix

DRAWN_CLASSES = 60  # of a confusion matrix
TIMELINE_POINTS = 100  # windows; beyond twice as many, moving averages are drawn


def plot_predictions(
    predictions: pd.DataFrame, classes: Sequence[str], calibration: Mapping[str, Any], title: str
) -> Figure:
    """Plot the confusion matrix of `truth` and `prediction`, and the `metrics.calibration`.

    Of more than `DRAWN_CLASSES` classes only the calibration is drawn.
    """
    if len(classes) > DRAWN_CLASSES:
        figure = Figure(figsize=(6, 4.1), dpi=120, layout="constrained")
        figure.suptitle(_plain(title))
        _plot_calibration(figure.subplots(), calibration)
        return figure
    rows = predictions["truth"].nunique()
    width, height = 2.4 + 0.85 * len(classes), 2.0 + 0.7 * max(rows, 3)
    figure = Figure(figsize=(width + 3.6, height), dpi=120, layout="constrained")
    figure.suptitle(_plain(title))
    left, right = figure.subplots(1, 2, width_ratios=[width, 3.2])
    _plot_confusion(left, predictions, list(classes))
    _plot_calibration(right, calibration)
    return figure


def plot_confusion(predictions: pd.DataFrame, classes: Sequence[str], title: str) -> Figure:
    """Plot the confusion matrix of `truth` and `prediction` of each clip."""
    figure, axes = _matrix_figure(predictions["truth"].nunique(), len(classes), title)
    _plot_confusion(axes, predictions, list(classes))
    return figure


def plot_similarities(predictions: pd.DataFrame, title: str) -> Figure:
    """Plot the mean cosine, `score.PROMPT`, of the clips of each `truth` with each prompt."""
    cosines = predictions.filter(regex=r"^score\.").groupby(predictions["truth"]).mean()
    prompts = [column.removeprefix("score.") for column in cosines]
    order = [name for name in prompts if name in cosines.index]
    cosines = cosines.loc[[*order, *sorted(set(cosines.index) - set(order))]]
    figure, axes = _matrix_figure(*cosines.shape, title)
    shown = axes.imshow(cosines, cmap="viridis", aspect="auto")
    middle = (cosines.to_numpy().max() + cosines.to_numpy().min()) / 2
    for (row, column), cosine in np.ndenumerate(cosines.to_numpy()):
        colour = "black" if cosine > middle else "white"
        axes.text(column, row, f"{cosine:.2f}", ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(prompts)), map(_plain, prompts), rotation=45, ha="right")
    axes.set_yticks(range(len(cosines)), map(_plain, cosines.index))
    axes.set(xlabel="prompt", ylabel="truth", title="mean cosine of clips and prompt")
    figure.colorbar(shown, ax=axes)
    return figure


def _matrix_figure(rows: int, columns: int, title: str) -> tuple[Figure, Axes]:
    size = 2.6 + 0.7 * columns, 2.0 + 0.6 * max(rows, 3)
    figure = Figure(figsize=size, dpi=80, layout="constrained")
    figure.suptitle(_plain(title))
    return figure, figure.subplots()


def _plain(text: str) -> str:
    """Return a text that matplotlib draws as it is: no formulas, nothing outside of UTF-8."""
    return text.encode(errors="backslashreplace").decode().replace("$", r"\$")


def to_pixels(figure: Figure) -> np.ndarray:
    """Return a figure as pixels (H, W, 3) uint8."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


def _plot_confusion(axes: Axes, predictions: pd.DataFrame, classes: list[str]) -> None:
    """Plot shares of the true class (rows) and counts."""
    present = [name for name in classes if name in set(predictions["truth"])]
    matrix = confusion_matrix(predictions["truth"], predictions["prediction"], labels=classes)
    matrix = matrix[[classes.index(name) for name in present]]
    shares = matrix / matrix.sum(axis=1, keepdims=True)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), count in np.ndenumerate(matrix):
        colour = "white" if shares[row, column] > 0.5 else "black"
        text = f"{shares[row, column]:.0%}\n{count}"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(classes)), map(_plain, classes), rotation=45, ha="right")
    axes.set_yticks(range(len(present)), map(_plain, present))
    axes.set(xlabel="prediction", ylabel="truth", title="share of the true class, and clips")


def _plot_calibration(axes: Axes, calibration: Mapping[str, Any]) -> None:
    """Plot accuracy over confidence; the area of a dot is the share of the clips."""
    bins = pd.DataFrame(calibration["bins"])
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1)
    points = bins["confidence"], bins["accuracy"]
    axes.plot(*points, color="tab:blue", linewidth=1, clip_on=False)
    sizes = 300 * bins["clips"] / bins["clips"].sum()
    axes.scatter(*points, s=sizes, color="tab:blue", alpha=0.6, clip_on=False)
    title = f"expected calibration error {calibration['ECE']:.3f}"
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy", title=title)


def plot_timeline(predictions: pd.DataFrame, title: str) -> Figure:
    """Plot the probability of each prompt over time.

    Each row is a window, in order: `start` and `end` [s], `none_of_these`, `probability.PROMPT`.
    For long recordings, the lines are moving averages, with the single windows faint behind them.
    """
    prefix = "probability."
    columns = [column for column in predictions if column.startswith(prefix)]
    middles = ((predictions["start"] + predictions["end"]) / 2).to_numpy()
    figure = Figure(figsize=(12, 4.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    colours = matplotlib.colormaps["tab10" if len(columns) <= 10 else "tab20"].colors
    averaged = 1 + 2 * (len(middles) // (2 * TIMELINE_POINTS))  # windows
    smooth = predictions[[*columns, "none_of_these"]]
    smooth = smooth.rolling(averaged, center=True, min_periods=1).mean()
    marker = "." if averaged == 1 else None
    for number, column in enumerate(columns):
        style = {"color": colours[number % len(colours)], "marker": marker}
        name = column.removeprefix(prefix)
        axes.plot(middles, smooth[column], label=_plain(name), linewidth=1.6, **style)
        if averaged > 1:
            axes.plot(middles, predictions[column], linewidth=0.6, alpha=0.25, **style)
    axes.fill_between(
        middles, smooth["none_of_these"], color="grey", alpha=0.2, label="none of these"
    )
    if averaged > 1:
        title = f"{title} (lines: means of {averaged} windows)"
    limits = predictions["start"].iloc[0], predictions["end"].iloc[-1]
    axes.set(xlim=limits, ylim=(0, 1), xlabel="time [s]", ylabel="probability", title=_plain(title))
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def plot_differences(rows: pd.DataFrame) -> Figure:
    """Plot the differences of `compare.compare` with their intervals, one line per task."""
    tasks, names = list(rows["task"].unique()), list(rows["results"].unique())
    lines = len(tasks) * len(names)
    figure = Figure(figsize=(5.5, 1.2 + 0.3 * lines), dpi=200, layout="constrained")
    axes = figure.subplots()
    colours = matplotlib.colormaps["tab10"].colors
    offsets = (np.arange(len(names)) - (len(names) - 1) / 2) / (len(names) + 1)
    for number, (name, offset) in enumerate(zip(names, offsets, strict=True)):
        part = rows[rows["results"] == name].set_index("task").reindex(tasks)
        # a task without an interval has its point alone
        limits = part[["low", "high"]].fillna(
            {"low": part["difference"], "high": part["difference"]}
        )
        heights = np.arange(len(tasks)) + offset
        axes.hlines(heights, limits["low"], limits["high"], color=colours[number % 10])
        axes.plot(part["difference"], heights, "o", color=colours[number % 10], label=_plain(name))
    axes.axvline(0, color="grey", linestyle="--", linewidth=1)
    axes.set_yticks(range(len(tasks)), map(_plain, tasks))
    axes.set(ylim=(len(tasks) - 0.5, -0.5))
    baseline = _plain(rows["baseline"].iloc[0])
    axes.set_xlabel(f"difference of the UAR to {baseline}, 95 % interval over speakers", fontsize=9)
    if len(names) > 1:
        figure.legend(loc="outside upper center", ncols=min(len(names), 3), fontsize=9)
    else:
        axes.set_title(_plain(f"{names[0]} - {rows['baseline'].iloc[0]}"), fontsize=10)
    return figure
