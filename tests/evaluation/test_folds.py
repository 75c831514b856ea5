"""Folds over speakers: each is tested once, training parts have all classes, faults are named."""

import numpy as np
import pandas as pd
import pytest

from paraclap.evaluation.folds import FoldError, column_numbers, fold_numbers, partitions

CLASSES = ["anger", "calm", "joy", "sadness"]


def clips(speakers=12, each=8, seed=0):
    """Speakers with different proportions of four classes."""
    rng = np.random.default_rng(seed)
    names = np.repeat([f"s{n:02}" for n in range(speakers)], each)
    shares = rng.dirichlet(np.full(4, 0.7), speakers)
    truth = np.concatenate([rng.choice(CLASSES, each, p=p) for p in shares])
    return pd.DataFrame({"truth": truth, "speaker": names})


@pytest.mark.parametrize("folds", [2, 5, None])
@pytest.mark.parametrize("validation", [0, 2])
@pytest.mark.parametrize("seed", range(3))
def test_each_speaker_is_tested_once_and_training_has_all_classes(folds, validation, seed):
    table = clips(seed=seed)
    numbers = fold_numbers(table["truth"], table["speaker"], folds)
    found = partitions(table["truth"], table["speaker"], numbers, validation)
    assert len(found) == (folds or 12)
    tested = [speaker for part in found for speaker in part.test]
    assert sorted(tested) == sorted(table["speaker"].unique())
    for part in found:
        splits = part.splits(table["speaker"])
        assert set(table["truth"][splits == "train"]) == set(table["truth"])
        assert set(table["speaker"][splits == "test"]) == set(part.test)
        assert set(table["speaker"][splits == "dev"]) == set(part.validation)
        assert len(part.validation) == validation and not set(part.validation) & set(part.test)


def test_folds_are_stratified_and_do_not_depend_on_the_order_of_clips():
    table = clips(speakers=40, each=20)
    numbers = fold_numbers(table["truth"], table["speaker"], 4)
    shuffled = table.sample(frac=1, random_state=0)
    shares = pd.crosstab(table["speaker"].map(numbers), table["truth"], normalize="index")
    naive = pd.crosstab(table["speaker"].str[1:].astype(int) % 4, table["truth"], normalize="index")
    assert shares.std().max() < 0.05 < naive.std().max()
    assert fold_numbers(shuffled["truth"], shuffled["speaker"], 4).keys() == numbers.keys()


def test_speaker_without_whom_a_class_is_lost_does_not_validate():
    table = pd.DataFrame(
        [(s, c) for s in "abcdef" for c in ("calm", "joy")] + [(s, "rare") for s in "bd"],
        columns=["speaker", "truth"],
    )
    numbers = fold_numbers(table["truth"], table["speaker"], None)
    found = partitions(table["truth"], table["speaker"], numbers, 2)
    assert [part.validation for part in found[:2]] == [("b", "c"), ("c", "e")]


def test_speakers_of_missing_names_are_in_no_part():
    table = clips()
    part = partitions(*(table[c] for c in table), fold_numbers(*(table[c] for c in table), 3), 1)[0]
    speakers = table["speaker"].where(table.index > 3, None)
    assert part.splits(speakers)[:4].isna().all() and part.splits(speakers)[4:].notna().all()


def test_folds_of_a_column_are_its_values():
    table = clips().assign(session=lambda t: t["speaker"].str[1:].astype(int) // 5)
    numbers = column_numbers(table["session"], table["speaker"])
    assert [numbers[s] for s in ("s00", "s04", "s05", "s11")] == [0, 0, 1, 2]
    with pytest.raises(FoldError, match="1 clips of speaker .* have no value in the column"):
        column_numbers(table["session"].where(table.index != 3), table["speaker"])
    with pytest.raises(FoldError, match="several values in the column other"):
        column_numbers(pd.Series(range(len(table)), name="other"), table["speaker"])
    with pytest.raises(FoldError, match="column one has 1 value"):
        column_numbers(pd.Series("x", table.index, name="one"), table["speaker"])


def test_impossible_folds_are_refused():
    table = clips(speakers=3)
    with pytest.raises(FoldError, match="3 speakers cannot be divided into 5 folds"):
        fold_numbers(table["truth"], table["speaker"], 5)
    with pytest.raises(FoldError, match="a class of 5 clips, the largest has 2"):
        fold_numbers(pd.Series([*"aabbcc"]), pd.Series([*"uvwxyz"]), 5)
    table = pd.DataFrame({"truth": [*"abab", "c"], "speaker": [*"uuvvw"]})
    numbers = fold_numbers(table["truth"], table["speaker"], None)
    with pytest.raises(
        FoldError, match="fold 3: only the tested speakers w have clips of c.*leave it out$"
    ):
        partitions(table["truth"], table["speaker"], numbers, 0)
    table = table[:4]
    numbers = fold_numbers(table["truth"], table["speaker"], None)
    with pytest.raises(FoldError, match="fold 1: 0 speakers can be held out .* expected 1"):
        partitions(table["truth"], table["speaker"], numbers, 1)
