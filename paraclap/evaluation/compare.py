"""Comparison of results of evaluate.py: differences of the UAR on the same clips.

    results = read_all(["results/a", "ours=results/b"])
    rows = compare(results)  # written by comparison_page.py

Differences are paired: both systems are scored on the same clips, and a bootstrap over speakers
draws the same speakers for both. Their intervals are therefore narrower than those of two UARs on
their own.
"""

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from paraclap.evaluation.evaluated import (
    INDEX,
    PREDICTION,
    SPEAKER,
    TRUTH,
    ComparisonError,
    Evaluated,
    read_predictions,
)
from paraclap.evaluation.metrics import mean_uar, recall_counts

FILES = ("compare.md", "compare.csv", "compare.pdf", "compare.png")
COMPARE_COMMON = "without --baseline, `python -m paraclap.compare --common` compares"


# --- Pairs ---------------------------------------------------------------------------------------


def common_tasks(results: Sequence[Evaluated]) -> list[str]:
    """Return the tasks (corpus, target and prompt set) of all results, in the order of the first.

    Raises:
        ComparisonError: if there are none.
    """
    names = [name for name in results[0].tasks if all(name in e.tasks for e in results)]
    if not names:
        found = "; ".join(f"{e.name}: {', '.join(e.tasks)}" for e in results)
        raise ComparisonError(f"the results have no corpus in common ({found})")
    return names


def check_clips(
    task: str,
    first: tuple[str, pd.DataFrame],
    second: tuple[str, pd.DataFrame],
    common: bool,
    hint: str = "--common compares",
) -> pd.Index:
    """Return the clips of two results, in the order of the first.

    Args:
        task: name of the task.
        first: name and clips, with labels as in `Evaluated.predictions`.
        second: the same of the other results.
        common: return the clips that are in both, instead of requiring the same clips.
        hint: how to compare the clips of both, for the message.

    Raises:
        ComparisonError: naming the number of clips that differ, or whose labels differ.
    """
    (name, clips), (other_name, others) = first, second
    for owner, table in (first, second):
        if not table.index.is_unique:
            raise ComparisonError(f"{task}: {owner} has clips that occur twice")
    shared = clips.index[clips.index.isin(others.index)]
    missing = len(clips) - len(shared), len(others) - len(shared)
    if not len(shared) or (any(missing) and not common):
        hint = f"; {hint} the {len(shared)} clips of both" if len(shared) else ""
        raise ComparisonError(
            f"{task}: {missing[0]} of {len(clips)} clips of {name} are not among those of "
            f"{other_name}, and {missing[1]} of {len(others)} the other way round{hint}"
        )
    for column in clips.columns.intersection(others.columns).drop(PREDICTION, errors="ignore"):
        pair = (table.loc[shared, column].fillna("") for table in (clips, others))
        if differ := int(np.not_equal(*(values.to_numpy() for values in pair)).sum()):
            raise ComparisonError(
                f"{task}: {name} and {other_name} have another {column} for {differ} of "
                f"{len(shared)} clips, expected the same labels"
            )
    return shared


def check_baseline(baseline: Evaluated, labels: Mapping[str, pd.DataFrame]) -> None:
    """Check that clips to be scored are those of results that they will be compared with.

    Args:
        baseline: these results.
        labels: of the clips of each task, see `tasks.scored_labels`.

    Raises:
        ComparisonError: see `common_tasks` and `check_clips`.
    """
    new = "the new results"
    for task in common_tasks([baseline, Evaluated(new, Path(), {"corpora": dict(labels)})]):
        clips = read_predictions(io.StringIO(labels[task].to_csv())).set_index(INDEX)
        pair = (baseline.name, baseline.predictions(task)), (new, clips)
        check_clips(task, *pair, common=False, hint=COMPARE_COMMON)


def _paired(task: str, results: Sequence[Evaluated], common: bool) -> list[pd.DataFrame]:
    """Return the labels and predictions of the same clips of all results."""
    group = results[0].tasks[task].get("averaged_over")
    columns = [TRUTH, PREDICTION, SPEAKER, *([group] if group else [])]
    tables = []
    for evaluated in results:
        if evaluated.tasks[task].get("averaged_over") != group:
            raise ComparisonError(
                f"{task}: the UAR of {results[0].name} and of {evaluated.name} are not means over "
                "the same sessions; evaluate both with or without --protocol"
            )
        tables.append(evaluated.predictions(task)[columns])
    clips = tables[0].index
    for evaluated, table in zip(results[1:], tables[1:], strict=True):
        first = results[0].name, tables[0].loc[clips]
        clips = check_clips(task, first, (evaluated.name, table), common)
    return [table.loc[clips] for table in tables]


# --- Differences ---------------------------------------------------------------------------------


def compare(results: Sequence[Evaluated], common: bool = False) -> pd.DataFrame:
    """Return the difference of the UAR of each of the results to that of the first, by task.

    Tasks of the same target and prompts on several corpora also have a row of their mean.

    Args:
        results: at least two.
        common: compare the clips that are in all results, instead of requiring the same clips.

    Warns where they were scored with different prompts, see `prompt_notes`.

    Returns:
        Rows with `task`, `clips`, `speakers` (NaN if unknown), `unknown_speakers` (clips without
        one), `baseline` and `results` (names), `baseline_UAR`, `UAR`, `difference`, and `low` and
        `high` of its 95 % interval (NaN for fewer than three speakers). A mean has `corpora`,
        their number.

    Raises:
        ComparisonError: if the results have no task in common, or not the same clips.
    """
    rows = []
    kinds: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for note in prompt_notes(results):
        warnings.warn(note, stacklevel=2)
    for task in common_tasks(results):
        tables = _paired(task, results, common)
        group = results[0].tasks[task].get("averaged_over")
        counts = [
            recall_counts(t[TRUTH], t[PREDICTION], t[SPEAKER], t[group] if group else None)[:, None]
            for t in tables
        ]
        speakers = tables[0][SPEAKER]
        facts = {"clips": len(speakers), "speakers": speakers.nunique() or np.nan, "corpora": 1}
        facts["unknown_speakers"] = int(speakers.isna().sum())
        rows += _differences({"task": task, **facts}, results, [counts])
        scores = results[0].tasks[task]
        kind = scores["target"], str(scores["prompt_set"])
        kinds.setdefault(kind, []).append({"task": task, "facts": facts, "counts": counts})
    for (target, _), parts in kinds.items():
        if len(parts) > 1:
            facts = pd.DataFrame([part["facts"] for part in parts]).sum(min_count=1).to_dict()
            name = _mean_name([part["task"] for part in parts], target)
            rows += _differences({"task": name, **facts}, results, [p["counts"] for p in parts])
    table = pd.DataFrame(rows)
    return table.astype(
        {"clips": int, "corpora": int, "unknown_speakers": int, "speakers": "Int64"}
    )


def prompt_notes(results: Sequence[Evaluated]) -> list[str]:
    """Return which results have other prompts than the first for a task of all results."""
    tasks: dict[str, list[str]] = {}
    for task in common_tasks(results):
        first = results[0].tasks[task]
        for evaluated in results[1:]:
            other = evaluated.tasks[task]
            if _have_other_prompts(first, other):
                note = (
                    f"{results[0].name} used the prompts {first['prompt_set']}, {evaluated.name} "
                    f"{other['prompt_set']}: the difference is of models and prompts"
                )
                tasks.setdefault(note, []).append(task)
    return [f"{', '.join(names)}: {note}" for note, names in tasks.items()]


def _have_other_prompts(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Return whether two scores of a task have other prompts, or if unknown, other prompt sets."""
    if "prompts" not in first or "prompts" not in second:
        return first["prompt_set"] != second["prompt_set"]
    texts = first["prompts"], second["prompts"]
    return any(texts[0][label] != texts[1][label] for label in texts[0].keys() & texts[1].keys())


def _mean_name(tasks: Sequence[str], target: str) -> str:
    """Return "mean" with what the names of tasks have in common after the corpus."""
    endings = {task.partition(".")[2] for task in tasks}
    ending = endings.pop() if len(endings) == 1 else "" if target == "emotion" else target
    return f"mean.{ending}".rstrip(".")


def _differences(
    facts: Mapping[str, Any],
    results: Sequence[Evaluated],
    counts: Sequence[Sequence[np.ndarray]],
) -> list[dict[str, Any]]:
    """Return a row for each of the results but the first, from counts by corpus and results."""
    uars = [
        mean_uar([(own[place], None) for own in counts], intervals=False)[0]
        for place in range(len(results))
    ]
    rows = []
    for place, evaluated in enumerate(results[1:], start=1):
        difference, interval = mean_uar([(own[place], own[0]) for own in counts])
        low, high = interval or (np.nan, np.nan)
        names = {"baseline": results[0].name, "results": evaluated.name}
        figures = {"baseline_UAR": uars[0], "UAR": uars[place], "difference": difference}
        rows.append({**facts, **names, **figures, "low": low, "high": high})
    return rows
