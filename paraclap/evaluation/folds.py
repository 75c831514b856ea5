"""Folds of a cross-validation over speakers: each speaker is tested once.

    numbers = fold_numbers(truth, speakers, 5)
    for partition in partitions(truth, speakers, numbers, validation=2):
        splits = partition.splits(speakers)  # "train", "dev" or "test" of each clip

Letters: B clips.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from paraclap.errors import ParaCLAPError
from paraclap.evaluation.bootstrap import label_codes

TRAIN, VALIDATION, TEST = "train", "dev", "test"


class FoldError(ParaCLAPError, ValueError):
    """The speakers or classes of the clips do not allow the folds."""


@dataclass(frozen=True)
class Partition:
    """Speakers that are held out; all others are trained on.

    Attributes:
        validation: speakers on which checkpoints and recipes are chosen.
        test: speakers held out from every choice.
    """

    validation: tuple[str, ...]
    test: tuple[str, ...]

    def splits(self, speakers: pd.Series) -> pd.Series:
        """Return the split of each clip; that of a missing speaker is missing."""
        held_out = dict.fromkeys(self.validation, VALIDATION) | dict.fromkeys(self.test, TEST)
        return speakers.map(held_out).fillna(TRAIN).where(speakers.notna(), None)


def stratified_folds(
    truth: np.ndarray, speakers: np.ndarray, folds: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return training and test rows of each fold; each speaker is in the test rows of one.

    The classes have similar proportions in all folds, as far as the speakers allow. Clips have
    classes (B,) and speakers (B,).
    """
    splits = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
    return list(splits.split(truth, truth, label_codes(speakers)))


def fold_numbers(truth: pd.Series, speakers: pd.Series, folds: int | None) -> dict[str, int]:
    """Return the fold of each speaker, from 0.

    Args:
        truth: class of each clip.
        speakers: of the same clips, all known.
        folds: number of folds; None = one for each speaker.

    Raises:
        FoldError: if there are fewer speakers than folds, or they cannot be divided into so many.
    """
    names = sorted(speakers.unique())
    if len(names) < (folds or 2):
        raise FoldError(f"{len(names)} speakers cannot be divided into {folds or 'several'} folds")
    if folds in (None, len(names)):
        return {name: number for number, name in enumerate(names)}
    if (largest := truth.value_counts().max()) < folds:
        raise FoldError(f"{folds} folds need a class of {folds} clips, the largest has {largest}")
    splits = stratified_folds(truth.to_numpy(str), speakers.to_numpy(), folds)
    numbers = {
        name: number
        for number, (_, tested) in enumerate(splits)
        for name in speakers.iloc[tested].unique()
    }
    if empty := folds - len(set(numbers.values())):
        raise FoldError(
            f"{empty} of {folds} folds would have no speaker, because the {len(names)} speakers "
            "have very different clips; use fewer folds"
        )
    return dict(sorted(numbers.items()))


def column_numbers(values: pd.Series, speakers: pd.Series) -> dict[str, int]:
    """Return the fold of each speaker from a column, such as the session of each clip.

    Raises:
        FoldError: if the column has fewer than two values, or a speaker none or several.
    """
    if missing := sorted(speakers[values.isna()].unique()):
        raise FoldError(
            f"{values.isna().sum()} clips of speaker {', '.join(missing)} have no value in the "
            f"column {values.name}, expected one fold for each speaker"
        )
    found = pd.DataFrame({"value": values.astype("str"), "speaker": speakers}).drop_duplicates()
    if repeated := found["speaker"][found["speaker"].duplicated()].tolist():
        raise FoldError(
            f"speaker {repeated[0]} has several values in the column {values.name}, expected one "
            "fold for each speaker"
        )
    names = sorted(found["value"].unique())
    if len(names) < 2:
        raise FoldError(f"the column {values.name} has {len(names)} value, expected at least two")
    found = found.sort_values("speaker")
    return {s: names.index(v) for s, v in zip(found["speaker"], found["value"], strict=True)}


def partitions(
    truth: Sequence[str], speakers: Sequence[str], numbers: Mapping[str, int], validation: int
) -> list[Partition]:
    """Return the partition of each fold: its speakers are tested, and the next ones validate.

    The next speakers are those of the next folds, around all of them. A speaker is passed over if
    a class would have no clip in the training part without them.

    Args:
        truth: class of each clip.
        speakers: of the same clips.
        numbers: fold of each speaker.
        validation: number of speakers for validation.

    Raises:
        FoldError: if the training part of a fold would lack a class, or speakers for validation.
    """
    counts = pd.crosstab(np.asarray(speakers, dtype=object), np.asarray(truth, dtype=object))
    folds = max(numbers.values()) + 1
    by_fold = [[name for name in numbers if numbers[name] == fold] for fold in range(folds)]
    found = []
    for fold, tested in enumerate(by_fold):
        training = counts.drop(index=tested)
        if lost := list(counts.columns[training.sum() == 0]):
            owners = list(counts.index[(counts[lost] > 0).any(axis=1)])
            hint = ", or use more folds" if ((counts[lost] > 0).sum() > 1).all() else ""
            raise FoldError(
                f"fold {fold + 1}: only the tested speakers {', '.join(owners)} have clips of "
                f"{', '.join(lost)}, so that no model is trained on this class; leave it out{hint}"
            )
        held_out: list[str] = []
        for name in sum(by_fold[fold + 1 :] + by_fold[:fold], []):
            rest = training.drop(index=name)
            if len(held_out) < validation and (rest.sum() > 0).all():
                held_out.append(name)
                training = rest
        if len(held_out) < validation:
            raise FoldError(
                f"fold {fold + 1}: {len(held_out)} speakers can be held out for validation, so "
                f"that clips of all classes are left for training, expected {validation} "
                "(data.validation_speakers)"
            )
        found.append(Partition(tuple(held_out), tuple(tested)))
    return found
