"""Results of runs: a CSV file to which runs append, and the tables made from it.

A row holds hits and clips of every speaker and class, from which UAR, intervals and paired
differences over speakers and seeds are computed.
"""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from paraclap.evaluation.bootstrap import RESAMPLES, percentile_interval

COLUMNS = ["tower", "direction", "part", "fold", "recipe", "seed", "settings", "counts"]
Counts = Mapping[str, Mapping[str, Sequence[int]]]
"""Speaker -> class -> hits and clips."""


# --- The file ------------------------------------------------------------------------------------


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Append a row in a single write, so that two commands can share the file.

    Raises:
        ValueError: if the file has other columns.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(",".join(COLUMNS) + "\n")
    with path.open("r+", newline="") as file:
        if (found := file.readline().rstrip()) != ",".join(COLUMNS):
            raise ValueError(f"{path} has the columns {found}, expected {','.join(COLUMNS)}")
        file.seek(0, 2)
        row = {**row, "counts": json.dumps(row["counts"], separators=(",", ":"))}
        csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(row)


def read(path: Path) -> pd.DataFrame:
    """Read all rows, with `counts` as `Counts`; no rows if there is no file."""
    if not path.exists():
        return pd.DataFrame(columns=COLUMNS)
    rows = pd.read_csv(path, dtype={"settings": str, "fold": "Int64"})
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
        parts = parts.drop_duplicates("fold", keep="last")
        if len(parts) == folds[corpus]:
            speakers = {s: cells for counts in parts["counts"] for s, cells in counts.items()}
            kept = {s: cells for s, cells in speakers.items() if s not in exclude[corpus]}
            whole.append({**parts.iloc[-1], "counts": kept})
    return pd.DataFrame(whole, columns=rows.columns)


# --- Figures -------------------------------------------------------------------------------------


def classes_of(runs: Sequence[Counts]) -> list[str]:
    """Return the classes of the clips, sorted."""
    return sorted({label for speaker in runs[0].values() for label in speaker})


def summary(runs: Sequence[Counts], reference: Sequence[Counts] = ()) -> dict[str, Any]:
    """Return the mean UAR over seeds, or its difference to a reference.

    The 95 % interval is a bootstrap over speakers and seeds. Both sides of a difference use the
    same speakers in each resample, and the same seeds where their numbers are equal.

    Returns:
        `mean` and `interval`, which is None for a single speaker.
    """
    sides = [_array(runs), *([_array(reference)] if reference else [])]
    speakers = sides[0].shape[2]
    rng = np.random.default_rng(0)
    chosen = rng.integers(speakers, size=(RESAMPLES, speakers))
    means, drawn, seeds = [], [], {}
    for side in sides:
        size = side.shape[1]
        if size not in seeds:
            seeds[size] = rng.integers(size, size=(RESAMPLES, size))
        means.append(_uar(side).mean())
        of_seeds = _uar(side[:, :, chosen])
        drawn.append(np.take_along_axis(of_seeds.T, seeds[size], axis=1).mean(axis=1))
    sign = [1, -1][: len(sides)]
    values = sum(s * d for s, d in zip(sign, drawn, strict=True))
    mean = float(sum(s * m for s, m in zip(sign, means, strict=True)))
    interval = percentile_interval(values).tolist() if speakers > 1 else None
    return {"mean": mean, "interval": interval}


def recalls(runs: Sequence[Counts]) -> pd.DataFrame:
    """Return the recall of each class: `mean` over seeds, `low` and `high` of its 95 % interval.

    The interval is a bootstrap over speakers and seeds; resamples without a clip of a class are
    ignored for that class.
    """
    counts = _array(runs)
    seeds, speakers = counts.shape[1:3]
    rng = np.random.default_rng(0)
    chosen = rng.integers(speakers, size=(RESAMPLES, speakers))
    drawn_seeds = rng.integers(seeds, size=(RESAMPLES, seeds))
    drawn = _recalls(counts[:, :, chosen].sum(axis=3))  # (seeds, resamples, K)
    drawn = np.take_along_axis(drawn, drawn_seeds.T[..., None], axis=0).mean(axis=0)
    low, high = percentile_interval(drawn)
    mean = _recalls(counts.sum(axis=2)).mean(axis=0)
    return pd.DataFrame({"mean": mean, "low": low, "high": high}, classes_of(runs))


def _array(runs: Sequence[Counts]) -> np.ndarray:
    """Return the counts of runs on the same clips as (2, seeds, speakers, K)."""
    speakers, classes = sorted(runs[0]), classes_of(runs)
    cells = [[[run[s].get(c, (0, 0)) for c in classes] for s in speakers] for run in runs]
    return np.moveaxis(np.array(cells, float), -1, 0)


def _uar(counts: np.ndarray) -> np.ndarray:
    """Average the recalls of the classes in a resample: (2, ..., speakers, K) to (...)."""
    hits, clips = counts.sum(axis=-2)
    known = clips > 0
    return (hits / np.where(known, clips, 1)).sum(axis=-1) / known.sum(axis=-1)


def _recalls(counts: np.ndarray) -> np.ndarray:
    """Divide hits by clips, NaN where there is no clip: (2, ...) to (...)."""
    hits, clips = counts
    return np.divide(hits, clips, out=np.full_like(hits, np.nan), where=clips > 0)


# --- The tables ----------------------------------------------------------------------------------


def tables(
    rows: pd.DataFrame,
    parts: Iterable[str],
    recipes: Mapping[str, Iterable[str]],
    references: Mapping[tuple[str, str], str],
) -> str:
    """Return the results as Markdown, one section for each part.

    Args:
        rows: results of the recipes with their current settings.
        parts: in the order of the sections; parts without rows are skipped.
        recipes: tower -> recipes, in the order of the lines.
        references: (tower, recipe) -> the recipe that it is compared with.
    """
    sections = []
    for part in parts:
        lines = []
        for direction, chosen in rows[rows["part"] == part].groupby("direction", sort=False):
            for tower, names in recipes.items():
                of_tower = chosen[chosen["tower"] == tower].sort_values("seed")
                runs = of_tower.groupby("recipe")["counts"].apply(list).to_dict()
                for name in names:
                    if name in runs:
                        reference = runs.get(references.get((tower, name)), [])
                        lines.append(_line([direction, tower, name], runs[name], reference))
        if lines:
            head = "| corpus | chance | tower | recipe | seeds | UAR | difference |"
            sections.append("\n".join([f"## {part}\n", head, "|" + 7 * "---|", *lines]))
    return "\n\n".join(sections) + "\n"


def _line(about: Sequence[str], runs: Sequence[Counts], reference: Sequence[Counts]) -> str:
    direction, tower, name = about
    chance = f"{1 / len(classes_of(runs)):.3f}"
    cells = [direction, chance, tower, name, str(len(runs)), _figures(summary(runs))]
    cells.append(_figures(summary(runs, reference), "+") if reference else "")
    return f"| {' | '.join(cells)} |"


def _figures(found: Mapping[str, Any], sign: str = "") -> str:
    mean = f"{found['mean']:{sign}.3f}"
    if found["interval"] is None:
        return mean
    low, high = found["interval"]
    return f"{mean} [{low:{sign}.3f}, {high:{sign}.3f}]"
