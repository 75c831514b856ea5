"""Results of runs: a CSV to which runs append, and the page that is made from it.

A row holds, beside its figures, hits and clips of every speaker and class, so that intervals and
paired differences over speakers and seeds can be computed from the CSV alone.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from paraclap.evaluation.metrics import CONFIDENCE, RESAMPLES
from paraclap.files import write_text

COLUMNS = [
    *("tower", "direction", "idea", "seed", "part", "UAR", "low", "high", "chance", "clips"),
    *("cpu_seconds", "recipe", "commit", "date", "counts", "fold"),
]
"""New columns come last: rows that were written before them end earlier."""
Counts = Mapping[str, Mapping[str, Sequence[int]]]
"""Speaker -> class -> hits and clips."""


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Add a row, in one write, so that two commands may share the file.

    Raises:
        ValueError: if the file has other columns.
    """
    head = ",".join(COLUMNS)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(head + "\n")
    elif (found := path.open().readline().rstrip()) != head:
        if not head.startswith(found + ","):
            raise ValueError(f"{path} has the columns {found}, expected {head}")
        _, _, rows = path.read_text().partition("\n")
        write_text(path, f"{head}\n{rows}")
    with path.open("a", newline="") as file:
        csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(row)


def read(path: Path) -> pd.DataFrame:
    """All rows, with `counts` as `Counts`; none if there is no file."""
    if not path.exists():
        return pd.DataFrame(columns=COLUMNS)
    _, _, rows = path.read_text().partition("\n")
    text = io.StringIO(",".join(COLUMNS) + "\n" + rows)
    table = pd.read_csv(text, dtype={"recipe": str, "commit": str, "fold": "Int64"})
    table["counts"] = table["counts"].map(json.loads)
    return table


def pooled(rows: pd.DataFrame, folds: Mapping[str, int]) -> pd.DataFrame:
    """One row for all folds of a run, whose speakers are those of all of them.

    Args:
        rows: of folds; a run that lacks some is left out.
        folds: direction -> number of folds.
    """
    keys = ["direction", "idea", "seed"]
    whole = []
    for (direction, *_), parts in rows.groupby(keys, sort=False):
        parts = parts.drop_duplicates("fold", keep="last")
        if len(parts) < folds[direction]:
            continue
        counts = {s: cells for part in parts["counts"] for s, cells in part.items()}
        of_all = {"counts": counts, "clips": parts["clips"].sum()}
        of_all["cpu_seconds"] = parts["cpu_seconds"].mean()
        of_one = dict.fromkeys(("UAR", "low", "high", "fold"), np.nan)
        whole.append({**parts.iloc[-1], **of_one, **of_all})
    return pd.DataFrame(whole, columns=rows.columns)


def without(rows: pd.DataFrame, speakers: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Rows whose counts lack some speakers of their direction."""
    kept = [
        {speaker: cells for speaker, cells in counts.items() if speaker not in speakers[direction]}
        for counts, direction in zip(rows["counts"], rows["direction"], strict=True)
    ]
    return rows.assign(counts=pd.Series(kept, rows.index, dtype=object))


def count(answers: pd.DataFrame, speakers: pd.Series) -> dict[str, dict[str, list[int]]]:
    """Hits and clips by speaker and class.

    Args:
        answers: `truth` and `prediction` of the clips.
        speakers: of the same clips.
    """
    right = answers["truth"] == answers["prediction"]
    groups = right.groupby([speakers.astype("str"), answers["truth"].astype("str")])
    counts: dict[str, dict[str, list[int]]] = {}
    for (speaker, label), hits in groups:
        counts.setdefault(speaker, {})[label] = [int(hits.sum()), len(hits)]
    return counts


def _classes(runs: Sequence[Counts]) -> list[str]:
    return sorted({label for speaker in runs[0].values() for label in speaker})


def _array(runs: Sequence[Counts]) -> np.ndarray:
    """Counts of runs on the same clips: (2, seeds, speakers, K)."""
    speakers, classes = sorted(runs[0]), _classes(runs)
    cells = [[[run[s].get(c, (0, 0)) for c in classes] for s in speakers] for run in runs]
    return np.moveaxis(np.array(cells, float), -1, 0)


def _uar(counts: np.ndarray) -> np.ndarray:
    """Mean recall of the classes that a draw has: counts (2, ..., speakers, K) to (...)."""
    hits, clips = counts.sum(axis=-2)
    known = clips > 0
    return (hits / np.where(known, clips, 1)).sum(axis=-1) / known.sum(axis=-1)


def summary(runs: Sequence[Counts], reference: Sequence[Counts] = ()) -> dict[str, Any]:
    """Mean UAR over seeds; with a reference, its difference to that.

    The 95 % interval draws speakers and seeds. Both sides of a difference have the same speakers in
    each draw, and the same seeds, if there are as many.

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
        of_seeds = _uar(np.moveaxis(side[:, :, chosen], 1, 0)[:, :].swapaxes(0, 1))
        drawn.append(np.take_along_axis(of_seeds.T, seeds[size], axis=1).mean(axis=1))
    tail = (1 - CONFIDENCE) / 2
    sign = [1, -1][: len(sides)]
    values = sum(s * d for s, d in zip(sign, drawn, strict=True))
    mean = float(sum(s * m for s, m in zip(sign, means, strict=True)))
    interval = np.quantile(values, [tail, 1 - tail]).tolist() if speakers > 1 else None
    return {"mean": mean, "interval": interval}


def recalls(runs: Sequence[Counts]) -> pd.DataFrame:
    """Recall of each class: `mean` over seeds, and `low` and `high` of its 95 % interval.

    The interval draws speakers and seeds; draws of speakers who have no clip of a class say nothing
    about it.
    """
    counts = _array(runs)
    seeds, speakers = counts.shape[1:3]
    rng = np.random.default_rng(0)
    chosen = rng.integers(speakers, size=(RESAMPLES, speakers))
    drawn_seeds = rng.integers(seeds, size=(RESAMPLES, seeds))
    drawn = _recalls(counts[:, :, chosen].sum(axis=3))  # (seeds, resamples, K)
    drawn = np.take_along_axis(drawn, drawn_seeds.T[..., None], axis=0).mean(axis=0)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(drawn, [tail, 1 - tail], axis=0)
    mean = _recalls(counts.sum(axis=2)).mean(axis=0)
    return pd.DataFrame({"mean": mean, "low": low, "high": high}, _classes(runs))


def _recalls(counts: np.ndarray) -> np.ndarray:
    """Hits by clips, NaN where there is none: (2, ...) to (...)."""
    hits, clips = counts
    return np.divide(hits, clips, out=np.full_like(hits, np.nan), where=clips > 0)


def page(table: pd.DataFrame, references: Mapping[str, str], head: str) -> str:
    """Results as Markdown: a section for each part and direction.

    Args:
        table: rows of the recipes as they are now.
        references: idea -> the one that it is compared to, in the order of the page; ideas without
            an entry are left out.
        head: what stands above the sections.
    """
    lines = [head.rstrip(), ""]
    for (part, direction), rows in table.groupby(["part", "direction"], sort=False):
        lines += [
            f"## {part}: {direction} (chance {rows['chance'].iloc[0]:.3f})",
            "",
            "| idea | UAR | 95 % | seeds | minus published recipe | 95 % | CPU s | commit |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for idea, reference in references.items():
            chosen = rows[rows["idea"] == idea].sort_values("seed")
            base = rows[rows["idea"] == reference].sort_values("seed")["counts"].tolist()
            if len(chosen):
                lines.append(_line(idea, chosen, base if idea != reference else []))
        lines.append("")
    return "\n".join(lines)


def of_classes(counts: Counts, classes: Sequence[str]) -> Counts:
    """Counts of some classes alone."""
    return {s: {c: n for c, n in cells.items() if c in classes} for s, cells in counts.items()}


def compared(
    table: pd.DataFrame, corpora: Sequence[str], on_one_corpus: Mapping[str, str]
) -> list[str]:
    """Lines of a page: what training on both corpora gives over training on either.

    Args:
        table: rows of validation parts.
        corpora: the two names.
        on_one_corpus: idea of a run on both -> that of runs on one.
    """
    lines: list[str] = []
    for name, other in (corpora, corpora[::-1]):
        head = [
            "",
            f"## validation: {name}, trained on both, on {name} alone, on {other} alone",
            "",
            "| idea | both | alone | both minus alone | 95 % | other | both minus other | 95 % |",
            "|---|---|---|---|---|---|---|---|",
        ]
        found = []
        for idea, single in on_one_corpus.items():
            sides = [
                table[(table["direction"] == direction) & (table["part"] == part)]
                .loc[lambda rows, said=said: rows["idea"] == said]
                .sort_values("seed")["counts"]
                .tolist()
                for direction, part, said in (
                    (f"both -> {name}", "validation", idea),
                    (f"{name} -> {other}", "validation", single),
                    (f"{other} -> {name}", "cross validation", single),
                )
            ]
            if all(sides):
                found.append(f"| {idea} | {' | '.join(_beside(*sides))} |")
        lines += [*head, *found] if found else []
    return lines


def _beside(both: Sequence[Counts], alone: Sequence[Counts], other: Sequence[Counts]) -> list[str]:
    """Cells of a line of `compared`; where the other corpus lacks classes, they do not count."""
    asked = {label for cells in other[0].values() for label in cells}
    shared = [of_classes(counts, sorted(asked)) for counts in both]
    cells = [f"{summary(both)['mean']:.3f}"]
    for own, reference in ((both, alone), (shared, other)):
        difference = summary(own, reference)
        cells.append(f"{summary(reference)['mean']:.3f}")
        cells += [f"{difference['mean']:+.3f}", _interval(difference, "+")]
    return cells


def _line(idea: str, rows: pd.DataFrame, reference: Sequence[Counts]) -> str:
    own = summary(rows["counts"].tolist())
    cells = [idea, f"{own['mean']:.3f}", _interval(own), str(len(rows))]
    cells += ["", ""]
    if reference:
        difference = summary(rows["counts"].tolist(), reference)
        cells[-2:] = [f"{difference['mean']:+.3f}", _interval(difference, "+")]
    cells += [f"{rows['cpu_seconds'].mean():.0f}", rows["commit"].iloc[-1]]
    return f"| {' | '.join(cells)} |"


def _interval(figures: Mapping[str, Any], sign: str = "") -> str:
    if figures["interval"] is None:
        return ""
    low, high = figures["interval"]
    return f"[{low:{sign}.3f}, {high:{sign}.3f}]"
