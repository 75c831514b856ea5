"""summary.md of a run: what was trained on what, by which command, with which scores and costs."""

import json
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pandas as pd
from matplotlib.figure import Figure

from paraclap import __version__
from paraclap.distributed import world_size
from paraclap.evaluation.report import to_markdown
from paraclap.files import OutputError, reading, write_text
from paraclap.settings import corpora_of
from paraclap.style import PAGE, styled, write_figure
from paraclap.training.checkpoint import PICTURES, SUMMARY, VERSIONS
from paraclap.training.resources import duration, memory_in_use, peak_memory
from paraclap.training.status import place, score_text, short
from paraclap.training.validation import CRITERIA

if TYPE_CHECKING:
    from paraclap.training.trainer import Trainer

REPOSITORY = Path(__file__).resolve().parents[2]
NAMED_SPEAKERS = 40  # of a part
GIT_SECONDS = 10
HISTORY = "training.png"


def write_summary(trainer: "Trainer", first_step: int) -> None:
    """Write summary.md into the folder of a run, which this process trained from `first_step` on.

    Raises:
        OutputError: if it cannot be written.
    """
    data, settings = trainer.data, trainer.settings
    sources = [
        f"{name + ': ' if name else ''}{corpus.captions}, audio in {corpus.root}"
        for name, corpus in corpora_of(settings.data).items()
    ]
    facts = {
        "command": f"`{shlex.join(sys.argv)}`",
        "commit": _commit() or "not in a git clone",
        "versions": f"paraclap {__version__}, "
        + ", ".join(f"{name} {version}" for name, version in VERSIONS.items()),
        "data": "; ".join(sources),
        "training": _clips_of(data.train_table),
        "validation (dev)": _clips_of(data.validation_table),
        **_scores(trainer),
        **_costs(trainer, first_step),
        "device": describe_device(trainer),
    }
    if settings.train.loggers:
        history = plot_history(read_rows(trainer), trainer.validate.criterion)
        write_figure(history, trainer.output / HISTORY)
    table = to_markdown(pd.DataFrame(facts.items(), columns=["run", str(trainer.output)]))
    paths = [path for pattern in PICTURES for path in sorted(trainer.output.glob(pattern))]
    pictures = [f"![{path.stem}]({quote(path.name)})" for path in paths]
    write_text(trainer.output / SUMMARY, "\n\n".join([table, *pictures]) + "\n")


def describe_device(trainer: "Trainer") -> str:
    """Return number and kind of devices, and the precision."""
    device = f"{world_size()} x {trainer.device.type}" if world_size() > 1 else str(trainer.device)
    return f"{device}, {'bfloat16' if trainer.learner.bfloat16 else 'float32'}"


def best_row(trainer: "Trainer") -> dict[str, Any] | None:
    """Return the row of metrics.jsonl with the scores of the model in `best`; None = unknown."""
    name, _ = CRITERIA[trainer.validate.criterion]
    if trainer.best is None:
        return None
    return next((row for row in read_rows(trainer) if row.get(name) == trainer.best), None)


def read_rows(trainer: "Trainer") -> list[dict[str, Any]]:
    """Return the rows of metrics.jsonl."""
    path = trainer.output / "metrics.jsonl"
    with reading(path, OutputError):
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@styled
def plot_history(rows: Sequence[Mapping[str, Any]], criterion: str) -> Figure:
    """Plot the training loss and the validation score of rows of metrics.jsonl by step."""
    name, _ = CRITERIA[criterion]
    figure = Figure(figsize=(PAGE, 2.4))
    panels = figure.subplots(1, 2), ("loss", name), ("training loss", f"dev {criterion}")
    for axes, column, label in zip(*panels, strict=True):
        found = [row for row in rows if row.get(column) is not None]
        steps = [row["step"] for row in found]
        axes.plot(steps, [row[column] for row in found], marker="." if len(steps) < 50 else None)
        limits = [(row.get(f"{column}_low"), row.get(f"{column}_high")) for row in found]
        if found and all(low is not None for low, _ in limits):
            axes.fill_between(steps, *zip(*limits, strict=True), alpha=0.2)
        axes.set(xlabel="step", ylabel=label)
    return figure


def _clips_of(table: pd.DataFrame) -> str:
    """Number of clips and speakers of a part, and the names of a few speakers."""
    if table.empty:
        return "none"
    text = f"{len(table)} clips"
    if "speaker" not in table or table["speaker"].isna().all():
        return f"{text}, speakers unknown"
    speakers = sorted(table["speaker"].dropna().astype(str).unique())
    names = f": {', '.join(speakers)}" if len(speakers) <= NAMED_SPEAKERS else ""
    return f"{text}, {len(speakers)} speakers{names}"


def _scores(trainer: "Trainer") -> dict[str, str]:
    """Best validation scores, and when they were reached."""
    row = best_row(trainer)
    if row is None:
        return {"best": "no validation" if trainer.best is None else f"{trainer.best:.3f}"}
    criterion = trainer.validate.criterion
    _, chance = CRITERIA[criterion]
    guessing = f" (chance {short(row[chance], digits=3)})" if chance else ""
    at = place(trainer, row["step"])
    found = {"best": f"dev {score_text(row, criterion)}{guessing} at {at}"}
    others = [name for name in ("UAR", "R@1", "loss") if name != criterion]
    others = [score_text(row, name) for name in others if CRITERIA[name][0] in row]
    return found | ({"other scores then": ", ".join(others)} if others else {})


def _costs(trainer: "Trainer", first_step: int) -> dict[str, str]:
    """Time and memory of this process."""
    steps = f"steps {first_step + 1} to {trainer.step}"
    steps = steps if trainer.step > first_step else "no step"
    memory = f"{peak_memory():.2f} GiB"
    if trainer.device.type == "cuda":
        memory += f", {memory_in_use(trainer.device)['gpu_memory_gib']:.2f} GiB on the GPU"
    return {
        "time": f"{duration(trainer.stopwatch.total())} ({steps})",
        "peak memory": memory,
    }


def _commit() -> str | None:
    """Commit of the clone that this package is part of, and whether files were modified."""
    if not (REPOSITORY / ".git").exists():
        return None
    try:
        commit, changes = _git("rev-parse", "HEAD"), _git("diff", "HEAD", "--stat")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}, with uncommitted changes" if changes else commit


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(REPOSITORY), *arguments]
    options: Mapping[str, Any] = {"capture_output": True, "text": True, "timeout": GIT_SECONDS}
    return subprocess.run(command, check=True, **options).stdout.strip()
