"""Results of runs: a CSV file to which runs append, and the tables made from it.

A row holds hits and clips of every speaker and class, from which UAR, intervals and paired
differences over speakers and seeds are computed.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.recipes import reference_of
from paraclap.evaluation.bootstrap import bootstrap
from paraclap.evaluation.metrics import class_recalls, mean_uar

FILE = "results.csv"
KEYS = ["tower", "direction", "part", "fold", "recipe", "seed", "settings"]
COLUMNS = [*KEYS, "counts"]
Counts = Mapping[str, Mapping[str, Sequence[int]]]
"""Speaker -> class -> hits and clips."""
HEAD = "| corpus | chance | tower | recipe | seeds | UAR | difference |\n" + 7 * "|---" + "|"


# --- The file ------------------------------------------------------------------------------------


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Append a row."""
    table = pd.DataFrame([{**row, "counts": json.dumps(row["counts"])}], columns=COLUMNS)
    table.to_csv(path, mode="a", header=not path.exists(), index=False)


def read(path: Path) -> pd.DataFrame:
    """Read all rows, with `counts` as `Counts`; no rows if there is no file."""
    if not path.exists():
        return pd.DataFrame(columns=COLUMNS)
    rows = pd.read_csv(path, dtype={"settings": str, "fold": str}, keep_default_na=False)
    return rows.assign(counts=rows["counts"].map(json.loads))


def count(answers: pd.DataFrame, speakers: pd.Series) -> dict[str, dict[str, list[int]]]:
    """Count hits and clips by speaker and class.

    Args:
        answers: `truth` and `prediction` of each clip.
        speakers: of the same clips.
    """
    right = answers["truth"] == answers["prediction"]
    groups = right.groupby([speakers.astype("str"), answers["truth"].astype("str")])
    counts: dict[str, dict[str, list[int]]] = {}
    for (speaker, label), hits in groups:
        counts.setdefault(speaker, {})[label] = [int(hits.sum()), len(hits)]
    return counts


def pooled(
    rows: pd.DataFrame, folds: Mapping[str, int], exclude: Mapping[str, Sequence[str]]
) -> pd.DataFrame:
    """Pool the folds of each run into one row; runs with missing folds are dropped.

    Args:
        rows: of folds.
        folds: corpus -> number of folds.
        exclude: corpus -> speakers whose clips are not counted.
    """
    whole = []
    keys = ["tower", "direction", "recipe", "seed"]
    for (_, corpus, *_), parts in rows.groupby(keys, sort=False):
        if len(parts) == folds[corpus]:
            speakers = {s: cells for counts in parts["counts"] for s, cells in counts.items()}
            kept = {s: cells for s, cells in speakers.items() if s not in exclude[corpus]}
            whole.append({**parts.iloc[-1], "counts": kept})
    return pd.DataFrame(whole, columns=rows.columns)


# --- UAR and recalls -----------------------------------------------------------------------------


def classes_of(runs: Sequence[Counts]) -> list[str]:
    """Return the classes of the clips, sorted."""
    return sorted({label for speaker in runs[0].values() for label in speaker})


def summary(runs: Sequence[Counts], reference: Sequence[Counts] = ()) -> dict[str, Any]:
    """Return the mean UAR over seeds, or its difference to a reference.

    The 95 % interval is a bootstrap over speakers and seeds. Both sides of a difference use the
    same speakers in each resample, and the same seeds where their numbers are equal.

    Returns:
        `mean` and `interval`, which is None for fewer than three speakers.
    """
    sides = _array(runs), _array(reference) if reference else None
    mean, interval = mean_uar([sides])
    return {"mean": mean, "interval": interval}


def recalls(runs: Sequence[Counts]) -> pd.DataFrame:
    """Return the recall of each class: `mean` over seeds, `low` and `high` of its 95 % interval.

    The interval is a bootstrap over speakers and seeds; resamples without a clip of a class are
    ignored for that class. It is NaN for fewer than three speakers.
    """
    counts = _array(runs)[..., 0, :]
    seeds, speakers = counts.shape[1:3]

    def resampled(
        chosen: np.ndarray, drawn: np.ndarray | None = None, axis: int = -1
    ) -> np.ndarray:
        found = class_recalls(counts[:, :, chosen].sum(axis=-2))  # (seeds, resamples, K)
        if drawn is not None:
            found = np.take_along_axis(found, drawn.T[..., None], axis=0)
        return found.mean(axis=0).T

    several = [seeds] if seeds > 1 else []
    interval = bootstrap(resampled, speakers, several, vectorized=True)
    low, high = (np.nan, np.nan) if interval is None else interval
    mean = class_recalls(counts.sum(axis=2)).mean(axis=0)
    return pd.DataFrame({"mean": mean, "low": low, "high": high}, classes_of(runs))


def _array(runs: Sequence[Counts]) -> np.ndarray:
    """Return the counts of runs on the same clips as (2, seeds, speakers, one group, K)."""
    speakers, classes = sorted(runs[0]), classes_of(runs)
    cells = [[[run[s].get(c, (0, 0)) for c in classes] for s in speakers] for run in runs]
    return np.moveaxis(np.array(cells, float), -1, 0)[..., None, :]


# --- The tables ----------------------------------------------------------------------------------


def tables(rows: pd.DataFrame, parts: Iterable[str], recipes: Mapping[str, Iterable[str]]) -> str:
    """Return the results as Markdown, one section for each part.

    Args:
        rows: results of the recipes with their current settings.
        parts: in the order of the sections; parts without rows are skipped.
        recipes: tower -> recipes, in the order of the lines.
    """
    sections = []
    for part in parts:
        lines = []
        for direction, chosen in rows[rows["part"] == part].groupby("direction", sort=False):
            for tower, names in recipes.items():
                of_tower = chosen[chosen["tower"] == tower].sort_values("seed")
                runs = of_tower.groupby("recipe")["counts"].apply(list).to_dict()
                for name in filter(runs.get, names):
                    reference = reference_of(name)
                    compared = [] if name == reference else runs.get(reference, [])
                    lines.append(_line([direction, tower, name], runs[name], compared))
        if lines:
            sections.append("\n".join([f"## {part}\n", HEAD, *lines]))
    return "\n\n".join(sections) + "\n"


def _line(keys: Sequence[str], runs: Sequence[Counts], reference: Sequence[Counts]) -> str:
    direction, tower, name = keys
    chance = f"{1 / len(classes_of(runs)):.3f}"
    cells = [direction, chance, tower, name, str(len(runs)), text(summary(runs))]
    cells.append(text(summary(runs, reference), "+") if reference else "")
    return f"| {' | '.join(cells)} |"


def text(found: Mapping[str, Any], sign: str = "") -> str:
    """Return the mean and the interval of `summary` as text."""
    numbers = [found["mean"], *(found["interval"] or [])]
    mean, *interval = (f"{number:{sign}.3f}" for number in numbers)
    return f"{mean} [{', '.join(interval)}]" if interval else mean
