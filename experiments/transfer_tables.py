"""Tables of transfer.py: UAR on corpora that were not trained on, and of cross-validations.

A column shows one part, or some classes of it; a line one recipe on one corpus.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.recipes import PAPER
from experiments.results import Counts, pooled, summary, text
from paraclap.files import write_text


@dataclass(frozen=True)
class Part:
    """A kind of evaluation.

    Attributes:
        target: column of the labels.
        adapted: whether the mean embedding of the clips is subtracted.
        wording: group of `corpora.WORDINGS`; None = the prompts of the validation of the run.
    """

    target: str = "emotion"
    adapted: bool = False
    wording: str | None = None


PLAIN, ADAPTED, VALIDATION = "plain", "adapted", "validation"
PARTS: Mapping[str, Part] = {
    PLAIN: Part(),
    ADAPTED: Part(adapted=True),
    "gender": Part(target="gender"),
    "synonyms": Part(wording="synonyms"),
    "paraphrases": Part(wording="paraphrases"),
    VALIDATION: Part(),
}
PROBE = "closed-set probe"
TRAINED, ABSENT = "trained classes", "absent classes"
HEAD = ("UAR", ADAPTED, TRAINED, ABSENT, "gender", "synonyms", "paraphrases", VALIDATION)
"""Columns: of `PARTS`, or classes of the plain part that are in training captions or in none."""
SHARES = ("synonyms", "paraphrases")
"""Columns with the share of the UAR of trained words."""
Runs = Mapping[str, Sequence[Counts]]
"""Column -> counts of each seed."""


def tables(
    rows: pd.DataFrame,
    classes: Mapping[str, Iterable[str]],
    folds: Mapping[str, int],
    recipes: Sequence[str],
) -> str:
    """Return the results as Markdown.

    Args:
        rows: results of the recipes with their current settings.
        classes: corpus -> its classes.
        folds: corpus -> number of folds.
        recipes: in the order of the lines.
    """
    is_fold = rows["fold"] != ""
    everyone = dict.fromkeys(folds, ())
    parts = [pooled(part, folds, everyone) for _, part in rows[is_fold].groupby("part")]
    found = {
        "Left-out corpus": rows[~is_fold],
        "Cross-validation over speakers": pd.concat(parts) if parts else rows[is_fold],
    }
    return "\n\n".join(
        table
        for title, chosen in found.items()
        if (table := _table(title, chosen, classes, recipes))
    )


def _table(
    title: str, rows: pd.DataFrame, classes: Mapping[str, Iterable[str]], recipes: Sequence[str]
) -> str:
    """Return the table of leave-one-corpus-out or of folds; empty without rows."""
    lines, means = [], {}
    tested = rows[rows["part"] == PLAIN]["direction"].unique()
    for direction in sorted(tested):
        corpus = direction.rpartition(" -> ")[2]
        trained = {label for name in _trained_on(direction) for label in classes[name]}
        by_recipe = {name: _runs(rows, direction, name, trained) for name in (*recipes, PROBE)}
        for name in filter(by_recipe.get, by_recipe):
            runs = by_recipe[name]
            lines.append([corpus, name, *_cells(runs)])
            reference = by_recipe.get(PAPER)
            if name not in (PAPER, PROBE) and reference:
                lines.append([corpus, f"{name} - {PAPER}", *_differences(runs, reference)])
            means.setdefault(name, []).append({c: summary(r)["mean"] for c, r in runs.items()})
    for name, found in means.items():
        if len(found) > 1:
            lines.append(["mean", name, *_means(found)])
    if not lines:
        return ""
    # a column without a value is left out, such as absent classes in a cross-validation
    head = [title, "recipe", *HEAD]
    used = [i for i in range(len(head)) if any(line[i] for line in lines)]
    rows_of_cells = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(line[i] for i in used)} |" for line in rows_of_cells)


def _trained_on(direction: str) -> list[str]:
    """Return the training corpora of a direction; none of a cross-validation."""
    return list(filter(None, direction.rpartition(" -> ")[0].split(" + ")))


def _runs(rows: pd.DataFrame, direction: str, recipe: str, trained: set[str]) -> dict:
    """Return the counts of each seed by column; empty without runs."""
    of_recipe = rows[rows["recipe"] == recipe].sort_values("seed")
    here = of_recipe[of_recipe["direction"] == direction]
    runs = {part: list(chosen["counts"]) for part, chosen in here.groupby("part")}
    if PLAIN not in runs:
        return {}
    runs["UAR"] = runs.pop(PLAIN)
    own = [f"{direction.rpartition(' -> ')[0]} -> {name}" for name in _trained_on(direction)]
    own = of_recipe[(of_recipe["part"] == VALIDATION) & of_recipe["direction"].isin(own)]
    if trained and len(own):
        # classes of different corpora are different, so that the UAR is the mean over them
        runs[VALIDATION] = [_joined(chosen) for _, chosen in own.groupby("seed")]
    absent = {label for label in _labels(runs["UAR"]) if label not in trained}
    if trained and absent:
        runs[TRAINED] = [_of_classes(counts, trained) for counts in runs["UAR"]]
        runs[ABSENT] = [_of_classes(counts, absent) for counts in runs["UAR"]]
    return runs


def _joined(rows: pd.DataFrame) -> Counts:
    return {
        f"{direction} {speaker}": {f"{direction} {label}": cell for label, cell in cells.items()}
        for direction, counts in zip(rows["direction"], rows["counts"], strict=True)
        for speaker, cells in counts.items()
    }


def _labels(runs: Sequence[Counts]) -> set[str]:
    return {label for speaker in runs[0].values() for label in speaker}


def _of_classes(counts: Counts, labels: Iterable[str]) -> Counts:
    """Return the counts of some classes."""
    return {s: {c: cell for c, cell in cells.items() if c in labels} for s, cells in counts.items()}


def _cells(runs: Runs) -> list[str]:
    cells = []
    for column in HEAD:
        found = summary(runs[column]) if column in runs else None
        cell = "" if found is None else _short(found)
        if found and column in SHARES:
            cell += f", {found['mean'] / summary(runs['UAR'])['mean']:.0%}"
        cells.append(cell)
    return cells


def _differences(runs: Runs, reference: Runs) -> list[str]:
    pairs = [(runs.get(column), reference.get(column)) for column in HEAD]
    return [_short(summary(*pair), "+") if all(pair) else "" for pair in pairs]


def _means(found: Sequence[Mapping[str, float]]) -> list[str]:
    """Return the mean of each column over corpora that all have it."""
    means = pd.DataFrame(found, columns=HEAD).mean(skipna=False)
    numbers = ({"mean": mean, "interval": None} for mean in means)
    return ["" if np.isnan(number["mean"]) else _short(number) for number in numbers]


def _short(found: Mapping[str, Any], sign: str = "") -> str:
    return text(found, sign).replace("0.", ".")


def write_between_marks(path: Path, name: str, content: str) -> None:
    """Replace what is between the marks of a name in a page; without a page, write the content.

    Raises:
        ValueError: if the page has no such marks.
    """
    first, last = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    page = path.read_text(encoding="utf-8") if path.exists() else first + last
    before, found, rest = page.partition(first)
    _, ended, after = rest.partition(last)
    if not (found and ended):
        raise ValueError(f"{path} has no lines {first.strip()} and {last.strip()}")
    write_text(path, f"{before}{first}\n{content}\n\n{last}{after}")
