"""What is evaluated: the rows of each corpus, and targets with prompt sets as zero-shot tasks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow

from paraclap.corpora import CorpusError
from paraclap.corpora.catalogue import CORPORA
from paraclap.corpora.table import read_corpus, scored_classes
from paraclap.evaluation.prompt_sets import PUBLISHED

SELECTORS = {"split": "split", "speakers": "speaker"}  # option -> column


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
    """

    table: pd.DataFrame
    tasks: list[ZeroShotTask]
    captions: pd.DataFrame | None = None

    @property
    def name(self) -> str:
        """Name of the corpus."""
        return self.table.attrs["name"]

    def is_labelled(self) -> np.ndarray:
        """Return whether each row has a label for any of the tasks (B,)."""
        labels = [scored_classes(self.table, task.target) for task in self.tasks]
        return np.any([label.notna() for label in labels], axis=0)


def read_sources(
    sources: Sequence[str],
    targets: Sequence[str],
    prompt_sets: Sequence[str],
    captions: Sequence[str] | None = None,
    **selection: Sequence[str] | None,
) -> list[Source]:
    """Read corpora and select the rows and tasks to evaluate.

    Args:
        sources: of the corpora, see `read_corpus`.
        targets: columns of labels.
        prompt_sets: names of prompt sets, or YAML files.
        captions: captions table (parquet) of each source; None = no retrieval.
        selection: see `select`.

    Raises:
        CorpusError: if a source, table or selected value does not exist, or tasks share a name.
    """
    found = []
    for source, path in zip(sources, captions or [None] * len(sources), strict=True):
        table = select(read_corpus(source), **selection)
        tasks = tasks_for(table.attrs["name"], targets, prompt_sets)
        found.append(Source(table, tasks, None if path is None else _read_captions(path)))
    return _checked(found)


def read_published_sources(
    sources: Sequence[str], captions: Sequence[str] | None = None
) -> list[Source]:
    """Read corpora of CORPORA and select the rows and task that the paper evaluates.

    Raises:
        CorpusError: see `read_sources` and `select_published`.
    """
    found = []
    for source, path in zip(sources, captions or [None] * len(sources), strict=True):
        table = select_published(read_corpus(source))
        task = published_task(table)
        found.append(Source(table, [task], None if path is None else _read_captions(path)))
    return _checked(found)


def _checked(sources: list[Source]) -> list[Source]:
    names = [task.name for source in sources for task in source.tasks]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise CorpusError(f"two corpora or prompt sets would both be reported as {twice[0]}")
    return sources


def _read_captions(path: str) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise CorpusError(f"{path} is not a readable captions table: {error}") from error


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


def published_task(table: pd.DataFrame) -> ZeroShotTask:
    """Return the task of the paper for a corpus of CORPORA."""
    corpus = CORPORA[table.attrs["corpus"]]
    return ZeroShotTask(table.attrs["name"], corpus.target, PUBLISHED, corpus.averaged_over)


def select(table: pd.DataFrame, **wanted: Sequence[str] | None) -> pd.DataFrame:
    """Keep the rows of the given values of `split` and `speakers`; None keeps all.

    Raises:
        CorpusError: if the table lacks the column or a value.
    """
    for option, values in wanted.items():
        if values is None:
            continue
        column = SELECTORS[option]
        if column not in table:
            raise CorpusError(f"--{option}: the corpus has no column {column!r}")
        unknown = sorted(set(values) - set(table[column]))
        if unknown:
            known = sorted(table[column].dropna().unique())
            raise CorpusError(f"--{option}: {unknown} not in the corpus, which has {known}")
        table = table[table[column].isin(values)]
    return table


def select_published(table: pd.DataFrame) -> pd.DataFrame:
    """Keep the rows of a corpus that the paper evaluates.

    Raises:
        CorpusError: if it is not a corpus of CORPORA, or lacks these rows.
    """
    if table.attrs["corpus"] is None:
        raise CorpusError(
            f"--protocol paper: {table.attrs['name']} is not a known corpus, give it as NAME=ROOT"
        )
    for column, value in CORPORA[table.attrs["corpus"]].part.items():
        found = table[column].dropna().unique() if column in table else []
        if value not in found:
            raise CorpusError(
                f"--protocol paper: {table.attrs['name']} has no {column} {value!r}, "
                f"only {sorted(found)}"
            )
        table = table[table[column] == value]
    return table
