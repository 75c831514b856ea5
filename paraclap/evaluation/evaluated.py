"""Output folders of evaluate.py: their scores (scores.yaml) and predictions (NAME.csv)."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from paraclap.errors import ParaCLAPError
from paraclap.files import read_yaml, reading, safe_name

SCORES = "scores.yaml"
INDEX = ["file", "start", "end"]
TRUTH, SPEAKER, PREDICTION = "truth", "speaker", "prediction"


class ComparisonError(ParaCLAPError, ValueError):
    """Results that cannot be compared."""


@dataclass(frozen=True)
class Evaluated:
    """An output folder of evaluate.py.

    Attributes:
        name: in tables.
        folder: path.
        about: content of its scores.yaml.
    """

    name: str
    folder: Path
    about: Mapping[str, Any]

    @property
    def tasks(self) -> dict[str, dict[str, Any]]:
        """Zero-shot scores by task."""
        return self.about["corpora"]

    def file(self, task: str) -> Path:
        """Path of the predictions of a task."""
        return self.folder / f"{safe_name(task)}.csv"

    def files(self) -> list[Path]:
        """Paths of all predictions."""
        return [self.file(task) for task in self.tasks]

    def predictions(self, task: str) -> pd.DataFrame:
        """Return truth, prediction and speaker of each clip, on the index of `INDEX`, as texts."""
        path = self.file(task)
        with reading(path, ComparisonError):
            table = read_predictions(path)
        group = self.tasks[task].get("averaged_over")
        for column in (*INDEX, TRUTH, PREDICTION, SPEAKER, *([group] if group else [])):
            if column not in table:
                raise ComparisonError(
                    f"{path} has no column {column}; evaluate the model again with this version"
                )
        if missing := int((table[PREDICTION] == "").sum()):
            raise ComparisonError(f"{path} has no {PREDICTION} for {missing} of {len(table)} clips")
        _check_score(path, table, group, self.tasks[task].get("UAR"))
        return table.set_index(INDEX)


def read_predictions(path: str | Path | io.StringIO) -> pd.DataFrame:
    """Return the columns of NAME.csv as texts, times in one form; an unknown speaker is missing."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False, na_values={SPEAKER: [""]})
    for column in table.columns.intersection(INDEX[1:]):
        # pandas omits digits that are zero in the whole column
        table[column] = [str(time) for time in pd.to_timedelta(table[column])]
    return table


def _check_score(path: Path, table: pd.DataFrame, group: str | None, stated: float | None) -> None:
    """Check that predictions have the UAR that is stated in scores.yaml; None = none is stated."""
    if stated is None or table.empty:
        return
    from paraclap.evaluation.metrics import mean_uar, recall_counts  # takes a second to import

    groups = table[group] if group else None
    counts = recall_counts(table[TRUTH], table[PREDICTION], table[SPEAKER], groups)[:, None]
    uar, _ = mean_uar([(counts, None)], intervals=False)
    if not np.isclose(uar, stated, rtol=0, atol=1e-6):
        raise ComparisonError(
            f"{path} has a UAR of {uar:.4f}, {path.parent / SCORES} one of {stated:.4f}: they are "
            "not of the same evaluation, which may have been interrupted; evaluate the model again"
        )


def read_results(folder: str | Path, name: str | None = None) -> Evaluated:
    """Read an output folder of evaluate.py.

    Args:
        folder: its path.
        name: in tables; None = that of the folder.

    Raises:
        ComparisonError: if the folder has no zero-shot scores.
    """
    folder = Path(folder)
    path = folder / SCORES
    if not path.is_file():
        raise ComparisonError(f"{folder} has no {SCORES}, expected an output folder of evaluate")
    about = read_yaml(path, ComparisonError)
    if not isinstance(about, dict) or not about.get("corpora"):
        raise ComparisonError(f"{path} has no zero-shot scores")
    for task in about["corpora"]:
        scores = about["corpora"][task] if isinstance(about["corpora"], dict) else None
        if not isinstance(scores, dict) or not {"target", "prompt_set"} <= scores.keys():
            raise ComparisonError(
                f"{path} has no target and prompt set for {task}; evaluate the model again with "
                "this version"
            )
    return Evaluated(name or folder.resolve().name, folder, about)


def read_all(folders: Sequence[str | Path]) -> list[Evaluated]:
    """Read several output folders, FOLDER or NAME=FOLDER; those of the same name have their path.

    Raises:
        ComparisonError: see `read_results`.
    """
    results = [_read_named(folder) for folder in folders]
    names = [evaluated.name for evaluated in results]
    return [
        Evaluated(str(e.folder), e.folder, e.about) if names.count(e.name) > 1 else e
        for e in results
    ]


def _read_named(folder: str | Path) -> Evaluated:
    """Read FOLDER or NAME=FOLDER; an existing folder is never divided at its "="."""
    path = Path(folder).expanduser()
    name, sign, given = str(folder).partition("=")
    if sign and name and given and not path.exists():
        return read_results(Path(given).expanduser(), name)
    return read_results(path)
