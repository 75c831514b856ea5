"""What is evaluated: the rows of each corpus, and targets with prompt sets as zero-shot tasks."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from paraclap.corpora import CorpusError
from paraclap.corpora.catalogue import CORPORA
from paraclap.corpora.labels import in_split, split_names
from paraclap.corpora.table import read_corpus, scored_classes
from paraclap.data.free_captions import read_any_captions
from paraclap.data.trained_on import TrainedOn
from paraclap.evaluation.prompt_sets import PUBLISHED, class_words
from paraclap.evaluation.prompts import PROMPT_FILES, PromptError, Prompts, prompts_for
from paraclap.evaluation.seen import seen_clips, test_part, with_splits_of, without_seen

MOST_CLASSES = 1000
"""Classes of a task; memory and files grow with classes times clips."""


@dataclass(frozen=True)
class ZeroShotTask:
    """Classification of one target with one prompt set.

    Attributes:
        name: of its scores and files.
        target: column of labels.
        prompt_set: name of a prompt set, or a YAML file.
        averaged_over: column, such as the session; the UAR is the mean over its values. None = the
            UAR of all clips.
    """

    name: str
    target: str
    prompt_set: str
    averaged_over: str | None = None


@dataclass(frozen=True)
class Source:
    """A corpus to evaluate.

    Attributes:
        table: corpus table of the selected rows.
        tasks: evaluated on it.
        captions: captions table for retrieval; None = no retrieval.
        seen: which clips and speakers the model was trained on, see `seen_clips`; None = unknown.
        only_test: whether other splits than the test split were left out by default.
        functionals: of the labelled clips, for closed-set scores; None = they are measured.
    """

    table: pd.DataFrame
    tasks: list[ZeroShotTask]
    captions: pd.DataFrame | None = None
    seen: pd.DataFrame | None = None
    only_test: bool = False
    functionals: pd.DataFrame | None = None

    @property
    def name(self) -> str:
        """Name of the corpus."""
        return self.table.attrs["name"]

    def is_labelled(self) -> np.ndarray:
        """Return whether each row has a label for any of the tasks (B,)."""
        is_labelled = np.zeros(len(self.table), bool)
        for task in self.tasks:
            is_labelled |= scored_classes(self.table, task.target).notna().to_numpy()
        return is_labelled


@dataclass(frozen=True)
class Selection:
    """Rows to evaluate.

    Attributes:
        columns: see `select`. If no column has values, the test split of a table that has one.
        split_from: captions table of each source, for its splits; None = those of the source.
        record: what the model was trained on.
        unseen: leave out clips and speakers of the record.
    """

    columns: Mapping[str, Sequence[str] | None]
    split_from: Sequence[str] | None = None
    record: TrainedOn = field(default_factory=lambda: TrainedOn(None, complete=False))
    unseen: bool = False


def read_sources(
    sources: Sequence[str],
    targets: Sequence[str],
    prompt_sets: Sequence[str],
    selection: Selection,
    captions: Sequence[str] | None = None,
    as_published: bool = False,
    **tables: Any,
) -> list[Source]:
    """Read corpora and select the rows and tasks to evaluate.

    Args:
        sources: of the corpora, see `read_corpus`.
        targets: columns of labels.
        prompt_sets: names of prompt sets, or YAML files.
        selection: of the rows.
        captions: table of captions of each source, see `read_any_captions`; None = no retrieval.
        as_published: evaluate the rows and the task of the paper instead.
        tables: `root` and `columns` of `read_corpus`.

    Raises:
        CorpusError: if a source, table or selected value does not exist, or tasks share a name.
        PromptError: if a prompt set does not exist or cannot be used.
    """
    found = []
    empty = [None] * len(sources)
    paths = zip(captions or empty, selection.split_from or empty, strict=True)
    for source, (path, split_from) in zip(sources, paths, strict=True):
        table, only_test = read_corpus(source, **tables), False
        if as_published:
            table, task = published_task(table)
            tasks = [task]
        else:
            table = table if split_from is None else with_splits_of(table, split_from)
            chosen = select(table, selection.columns)
            if all(values is None for values in selection.columns.values()):
                chosen = test_part(table)
                only_test = len(chosen) < len(table)
            table = chosen
            tasks = tasks_for(table.attrs["name"], targets, prompt_sets)
        if path is not None and not set(targets) & set(table.columns):
            print(f"{table.attrs['name']} has no labels in {', '.join(targets)}: retrieval only")
            tasks = []
        seen = seen_clips(table, selection.record)
        if selection.unseen:
            table = without_seen(table, seen)
        for task in tasks:
            task_prompts(table, task)  # raises before the model is loaded
            warn_of_labels(table, task)
        texts = None if path is None else read_any_captions(path, table.attrs["root"])
        found.append(Source(table, tasks, texts, seen, only_test))
    names = [task.name for source in found for task in source.tasks]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise CorpusError(
            f"two corpora or prompt sets would both be reported as {twice[0]}; NAME=TABLE names a "
            "table"
        )
    return found


def task_prompts(table: pd.DataFrame, task: ZeroShotTask) -> Prompts:
    """Return the prompts of the classes of a task, see `prompts_for`.

    Raises:
        CorpusError: if the table has no such target, or no clip a label with a prompt.
        PromptError: if there is no such prompt set, or if fewer than two classes or too many
            have prompts.
    """
    prompts = prompts_for(table, task.target, task.prompt_set)
    labels, name = scored_classes(table, task.target), table.attrs["name"]
    scored = labels[labels.isin(list(prompts))]
    if scored.empty:
        raise CorpusError(
            f"no clip of {name} has a label in {task.target} for which {task.prompt_set} has a "
            "prompt"
        )
    if len(prompts) < 2:
        raise PromptError(
            f"{name}: {task.target} has prompts for one class, {next(iter(prompts))}, expected two "
            "or more; a YAML file of prompts (--prompts) may add others"
        )
    if len(prompts) > MOST_CLASSES:
        raise PromptError(
            f"{name}: {task.target} has {len(prompts)} classes, expected at most {MOST_CLASSES}"
        )
    if scored.nunique() == 1 < labels.nunique():
        raise PromptError(
            f"{name}: of the labels in {task.target}, {task.prompt_set} has a prompt only for "
            f"{scored.iloc[0]}, expected prompts for two or more"
        )
    return prompts


def scored_labels(table: pd.DataFrame, task: ZeroShotTask) -> pd.DataFrame:
    """Return `truth`, `speaker` (missing if unknown) and the column that scores are averaged over.

    The rows are the clips with a label that has a prompt.

    Raises:
        CorpusError, PromptError: see `task_prompts`.
    """
    labels = scored_classes(table, task.target)
    kept = labels.isin(list(task_prompts(table, task))).to_numpy()
    found = pd.DataFrame({"truth": labels[kept], "speaker": None}, table.index[kept])
    for column in ("speaker", task.averaged_over):
        if column in table:
            found[column] = table.loc[kept, column]
    return found


def warn_of_labels(table: pd.DataFrame, task: ZeroShotTask) -> None:
    """Warn of labels without a prompt, and of those that are their own prompt for want of words."""
    prompts, labels = task_prompts(table, task), scored_classes(table, task.target)
    if pd.api.types.is_numeric_dtype(table[task.target]):
        return
    counts = labels.value_counts().sort_index()
    name, target = table.attrs["name"], task.target
    if excluded := [f"{label} ({n})" for label, n in counts.items() if label not in prompts]:
        warnings.warn(
            f"{name}: {task.prompt_set} has no prompt for {target} {', '.join(excluded)}; these "
            "clips are excluded",
            stacklevel=2,
        )
    if Path(task.prompt_set).suffix in PROMPT_FILES:
        return
    words = class_words(target) if CORPORA.get(table.attrs["corpus"]) is None else {}
    unknown = [f"{label} ({n})" for label, n in counts.items() if label.lower() not in words]
    if words and unknown:
        warnings.warn(
            f"{name}: the prompt sets have no words for {target} {', '.join(unknown)}; the labels "
            "are used as they are",
            stacklevel=2,
        )


def tasks_for(
    corpus: str, targets: Sequence[str], prompt_sets: Sequence[str]
) -> list[ZeroShotTask]:
    """Return a task for every target and prompt set.

    It is named by the corpus, the target unless that is the emotion, and the prompt set if there
    are several.
    """
    tasks = []
    for target in targets:
        for prompt_set in prompt_sets:
            parts = [corpus, *([target] if target != "emotion" else [])]
            parts += [Path(prompt_set).stem] if len(prompt_sets) > 1 else []
            tasks.append(ZeroShotTask(".".join(parts), target, prompt_set))
    return tasks


def published_task(table: pd.DataFrame) -> tuple[pd.DataFrame, ZeroShotTask]:
    """Return the rows that the paper evaluates of a corpus of CORPORA, and its task.

    Raises:
        CorpusError: if it is another corpus, or lacks these rows.
    """
    name = table.attrs["name"]
    if table.attrs["corpus"] is None:
        raise CorpusError(f"--protocol paper: {name} is not a known corpus, give it as NAME=ROOT")
    corpus = CORPORA[table.attrs["corpus"]]
    table = select(table, {column: [value] for column, value in corpus.part.items()})
    return table, ZeroShotTask(name, corpus.target, PUBLISHED, corpus.averaged_over)


def rows_with(table: pd.DataFrame, column: str, value: str) -> pd.Series:
    """Return which rows have a value in a column; splits are compared by `in_split`."""
    return in_split(table, value) if column == "split" else table[column] == value


def select(table: pd.DataFrame, wanted: Mapping[str, Sequence[str] | None]) -> pd.DataFrame:
    """Keep the rows with the given values of columns; None keeps all.

    Raises:
        CorpusError: if the table lacks the column or a value.
    """
    for column, values in wanted.items():
        if values is None:
            continue
        if column not in table:
            raise CorpusError(f"{table.attrs['name']} has no column {column!r}")
        rows = {value: rows_with(table, column, value) for value in values}
        if unknown := [value for value, chosen in rows.items() if not chosen.any()]:
            known = split_names(table) if column == "split" else table[column].dropna().unique()
            raise CorpusError(
                f"{table.attrs['name']} has no {column} {', '.join(unknown)}, "
                f"only {', '.join(sorted(map(str, known)))}"
            )
        table = table[np.logical_or.reduce(list(rows.values()))]
    return table
