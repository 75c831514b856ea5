"""How scores look: a table to read, one to paste, and pictures."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix

Figures = Mapping[str, Any]

NOTHING = "-"
READING = (
    "UAR: mean recall of the classes that occur; in brackets a 95 % interval of a bootstrap over "
    "speakers. ECE: expected calibration error. AUC, Spearman: opposed prompts, no threshold."
)
TIMELINE_POINTS = 100  # more than twice as many windows are drawn as means
DIRECTIONS = {"text_to_audio": "caption to speech", "audio_to_text": "speech to caption"}


def with_interval(value: float | None, interval: Sequence[float] | None) -> str:
    """Write a figure and its interval, as far as there are any."""
    if value is None:
        return NOTHING
    limits = f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
    return f"{value:.3f}{limits}"


def score_rows(
    scores: Mapping[str, Figures],
    probes: Mapping[str, Figures] | None = None,
    references: Mapping[str, Mapping[str, float]] | None = None,
) -> pd.DataFrame:
    """Lay figures out, one row per corpus, target and prompt set; empty columns are left out.

    Args:
        scores: name -> figures of evaluate.py.
        probes: name -> figures of a linear probe.
        references: name -> system -> UAR in print.
    """
    probes, references = probes or {}, references or {}
    systems = list(dict.fromkeys(s for printed in references.values() for s in printed))
    rows = []
    for name, figures in scores.items():
        probed = probes.get(name, {})
        row = {
            "corpus": name,
            "clips": str(figures["clips"]),
            "speakers": str(figures["speakers"] or NOTHING),
            "classes": str(figures["classes"]),
            "chance": f"{figures['chance']:.3f}",
            "UAR [95 %]": with_interval(figures["UAR"], figures["interval"]),
            "ACC": f"{figures['ACC']:.3f}",
            "F1": f"{figures['F1']:.3f}",
            "ECE": f"{figures['calibration']['ECE']:.3f}",
        }
        for figure in ("AUC", "Spearman"):
            row[f"{figure} [95 %]"] = with_interval(
                figures.get(figure), figures.get(f"{figure}_interval")
            )
        row["probe UAR [95 %]"] = with_interval(probed.get("UAR"), probed.get("interval"))
        for system in systems:
            row[f"{system} (print)"] = with_interval(references.get(name, {}).get(system), None)
        rows.append(row)
    return _without_empty(pd.DataFrame(rows))


def _without_empty(table: pd.DataFrame) -> pd.DataFrame:
    return table.loc[:, (table != NOTHING).any()]


def recall_rows(scores: Mapping[str, Figures]) -> pd.DataFrame:
    """Lay out the recall of every class, with its number of clips."""
    return pd.DataFrame(
        {"corpus": name, "class": label, "clips": str(n), "recall": f"{recall:.3f}"}
        for name, figures in scores.items()
        for (label, recall), n in zip(
            figures["recall"].items(), figures["support"].values(), strict=True
        )
    )


def retrieval_rows(retrieval: Mapping[str, Mapping[str, Figures]]) -> pd.DataFrame:
    """Lay out retrieval in both directions; each row of figures is followed by that of chance."""
    rows = []
    for name, directions in retrieval.items():
        for direction, figures in directions.items():
            rows.append(_retrieval_row(name, DIRECTIONS[direction], figures, figures["interval"]))
            rows.append(_retrieval_row(name, "chance", {**figures, **figures["chance"]}, None))
    return pd.DataFrame(rows)


def _retrieval_row(
    name: str, direction: str, figures: Figures, interval: Sequence[float] | None
) -> dict[str, str]:
    return {
        "corpus": name,
        "direction": direction,
        "queries": str(figures["queries"]),
        "items": str(figures["items"]),
        "R@1 [95 %]": with_interval(figures["R@1"], interval),
        "R@5": f"{figures['R@5']:.3f}",
        "R@10": f"{figures['R@10']:.3f}",
        "mAP": f"{figures['mAP']:.3f}",
        "median rank": f"{figures['median_rank']:.1f}",
    }


def to_markdown(table: pd.DataFrame) -> str:
    """Write a table of text as a Markdown table."""
    lines = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    cells = ([cell.replace("|", r"\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def markdown_page(
    about: Mapping[str, Any], tables: Sequence[pd.DataFrame], remarks: Sequence[str]
) -> str:
    """Write what was scored, the tables, and what has to be known to read them."""
    said = [f"{name.replace('_', ' ')}: {_listed(value)}" for name, value in about.items() if value]
    notes = "\n".join(f"- {remark}" for remark in [*remarks, READING])
    return "\n\n".join(["; ".join(said), *map(to_markdown, tables), notes]) + "\n"


def _listed(value: str | Sequence[str]) -> str:
    return value if isinstance(value, str) else ", ".join(value)


def plot_answers(
    answers: pd.DataFrame, classes: Sequence[str], calibration: Figures, title: str
) -> Figure:
    """Draw the confusion matrix, and beside it how often the model is right when it says so.

    Args:
        answers: `truth` and `prediction` of each clip.
        classes: that were asked for.
        calibration: figures of `scoring.calibration`.
        title: of the picture.
    """
    present = [name for name in classes if name in set(answers["truth"])]
    width, height = 2.4 + 0.85 * len(classes), 2.0 + 0.7 * max(len(present), 3)
    figure = Figure(figsize=(width + 3.6, height), dpi=120, layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2, width_ratios=[width, 3.2])
    _plot_confusion(left, answers, list(classes), present)
    _plot_calibration(right, calibration)
    return figure


def plot_confusion(answers: pd.DataFrame, classes: Sequence[str], title: str) -> Figure:
    """Draw the confusion matrix alone: `truth` and `prediction` of each clip."""
    present = [name for name in classes if name in set(answers["truth"])]
    figure, axes = _matrix_figure(len(present), len(classes), title)
    _plot_confusion(axes, answers, list(classes), present)
    return figure


def plot_similarities(answers: pd.DataFrame, title: str) -> Figure:
    """Draw how near clips of each class are to each prompt: mean cosines.

    Args:
        answers: `truth` of each clip, and its cosine with each prompt, `score.QUERY`.
        title: of the picture.
    """
    prefix = "score."
    cosines = answers.filter(regex=f"^{re.escape(prefix)}").groupby(answers["truth"]).mean()
    prompts = [column.removeprefix(prefix) for column in cosines]
    order = [name for name in prompts if name in cosines.index]
    cosines = cosines.loc[[*order, *sorted(set(cosines.index) - set(order))]]
    figure, axes = _matrix_figure(*cosines.shape, title)
    shown = axes.imshow(cosines, cmap="viridis", aspect="auto")
    middle = (cosines.to_numpy().max() + cosines.to_numpy().min()) / 2
    for (row, column), cosine in np.ndenumerate(cosines.to_numpy()):
        colour = "black" if cosine > middle else "white"
        axes.text(column, row, f"{cosine:.2f}", ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(prompts)), prompts, rotation=45, ha="right")
    axes.set_yticks(range(len(cosines)), cosines.index)
    axes.set(xlabel="prompt", ylabel="truth", title="mean cosine of clips and prompt")
    figure.colorbar(shown, ax=axes)
    return figure


def _matrix_figure(rows: int, columns: int, title: str) -> tuple[Figure, Axes]:
    size = 2.6 + 0.7 * columns, 2.0 + 0.6 * max(rows, 3)
    figure = Figure(figsize=size, dpi=80, layout="constrained")
    figure.suptitle(title)
    return figure, figure.subplots()


def to_pixels(figure: Figure) -> np.ndarray:
    """Return a picture as pixels (H, W, 3) uint8."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


def _plot_confusion(
    axes: Axes, answers: pd.DataFrame, classes: list[str], present: list[str]
) -> None:
    """Draw shares of the true class, with the counts; rows are what the clips are."""
    matrix = confusion_matrix(answers["truth"], answers["prediction"], labels=classes)
    matrix = matrix[[classes.index(name) for name in present]]
    shares = matrix / matrix.sum(axis=1, keepdims=True)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), count in np.ndenumerate(matrix):
        colour = "white" if shares[row, column] > 0.5 else "black"
        text = f"{shares[row, column]:.0%}\n{count}"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(present)), present)
    axes.set(xlabel="answer", ylabel="truth", title="share of the true class, and clips")


def _plot_calibration(axes: Axes, calibration: Figures) -> None:
    """Draw accuracy over confidence; the area of a dot is the share of the clips."""
    bins = pd.DataFrame(calibration["bins"])
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1)
    points = bins["confidence"], bins["accuracy"]
    axes.plot(*points, color="tab:blue", linewidth=1, clip_on=False)
    sizes = 300 * bins["clips"] / bins["clips"].sum()
    axes.scatter(*points, s=sizes, color="tab:blue", alpha=0.6, clip_on=False)
    title = f"calibration error {calibration['ECE']:.3f}"
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy", title=title)


def _mean_of_near(values: pd.Series, windows: int) -> pd.Series:
    """Mean over a window and its neighbours, as many as there are."""
    return values.rolling(windows, center=True, min_periods=1).mean()


def plot_timeline(answers: pd.DataFrame, title: str) -> Figure:
    """Draw the probability of each prompt over time.

    Of a long recording, lines are means over neighbouring windows, and each window is faint behind
    them.

    Args:
        answers: one row for each window, in order: `start` and `end` [s], `none_of_these`, and
            `probability.QUERY` of each prompt.
        title: of the picture.
    """
    prefix = "probability."
    columns = [column for column in answers if column.startswith(prefix)]
    middles = ((answers["start"] + answers["end"]) / 2).to_numpy()
    figure = Figure(figsize=(12, 4.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    colours = matplotlib.colormaps["tab10" if len(columns) <= 10 else "tab20"].colors
    near = 1 + 2 * (len(middles) // (2 * TIMELINE_POINTS))  # windows of a mean
    marker = "." if near == 1 else None
    for number, column in enumerate(columns):
        style = {"color": colours[number % len(colours)], "marker": marker}
        name = column.removeprefix(prefix)
        axes.plot(middles, _mean_of_near(answers[column], near), label=name, linewidth=1.6, **style)
        if near > 1:
            axes.plot(middles, answers[column], linewidth=0.6, alpha=0.25, **style)
    none = _mean_of_near(answers["none_of_these"], near)
    axes.fill_between(middles, none, color="grey", alpha=0.2, label="none of these")
    if near > 1:
        title = f"{title} (lines: means of {near} windows)"
    limits = answers["start"].iloc[0], answers["end"].iloc[-1]
    axes.set(xlim=limits, ylim=(0, 1), xlabel="time [s]", ylabel="probability", title=title)
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
