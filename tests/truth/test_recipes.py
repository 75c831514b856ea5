"""Recipes, splits and settings do what they state."""

import pandas as pd
import pytest

from paraclap.corpora.labels import in_split, normalise_labels, split_name, split_names
from paraclap.settings import DataSettings, Settings, SettingsError
from paraclap.training.tables import split_table

# --- Splits --------------------------------------------------------------------------------------

SPLIT_NAMES = {
    "train": "train Train TRAIN training trn TR train_set train-clean-100",
    "dev": "dev Dev devel development Development val validation valid Validation dev-other",
    "test": "test Test test1 test2 Test3 test_1 TE testing eval Evaluation",
}


@pytest.mark.parametrize(
    "name, split", [(name, split) for split in SPLIT_NAMES for name in SPLIT_NAMES[split].split()]
)
def test_names_of_splits_are_one_vocabulary(name, split):
    assert split_name(name) == split
    table = normalise_labels(pd.DataFrame({"split": [f" {name}", None]}), report=False)
    assert table["split"].tolist()[0] == split and table["split"].isna().tolist() == [False, True]


@pytest.mark.parametrize("name", ["train_dev", "fold 1", "held out", "Ohm"])
def test_other_names_of_splits_are_kept(name):
    assert split_name(name) == name.lower().replace("_", " ")


def test_evaluation_is_development_beside_a_test_part():
    assert split_name("evaluation", ["train", "evaluation", "test"]) == "dev"


def test_parts_of_a_split_stay_distinguishable():
    table = normalise_labels(
        pd.DataFrame({"split": ["Train", "Test1", "test2", "Development"]}), report=False
    )
    assert table["split"].tolist() == ["train", "test", "test", "dev"]
    wanted = {"test1": [1], "Test2": [2], "test": [1, 2], "validation": [3], "test3": []}
    for name, rows in wanted.items():
        assert table.index[in_split(table, name)].tolist() == rows, name
    assert {"test1", "test2", "dev"} <= set(split_names(table))


@pytest.mark.parametrize("written", ["development", "val", "validation", "Dev", "devel"])
@pytest.mark.parametrize("named", ["development", "validation", None])
def test_validation_uses_the_split_whatever_its_name(written, named):
    rows = {"speaker": list("aabbcc"), "split": ["Train", "train", written, written, "test", "TE"]}
    table = normalise_labels(pd.DataFrame(rows), report=False)
    settings = Settings(data=DataSettings(validation_split=named))
    train, validation = split_table(table, settings)
    assert train.index.tolist() == [0, 1] and validation.index.tolist() == [2, 3]


@pytest.mark.parametrize("key", ["train_split", "validation_split"])
def test_a_named_split_without_rows_is_an_error_with_those_found(key):
    table = normalise_labels(
        pd.DataFrame({"speaker": list("abcd"), "split": ["train", "train", "test1", "dev"]})
    )
    settings = Settings(data=DataSettings(**{key: "held-out"}))
    with pytest.raises(SettingsError, match=rf"data.{key}: no row has split 'held-out', found: "):
        split_table(table, settings)
    unsplit = table.drop(columns=["split", "original_split"])
    if key == "validation_split":
        with pytest.raises(SettingsError, match="the column split is missing"):
            split_table(unsplit, settings)


# --- Selecting rows for captions -----------------------------------------------------------------

# --- The published recipe ------------------------------------------------------------------------

# --- Validation and evaluation -------------------------------------------------------------------

# --- Settings on resuming ------------------------------------------------------------------------

# --- Encoders and precision ----------------------------------------------------------------------

# --- Intervals -----------------------------------------------------------------------------------

# --- Fine-tuning from every recipe ---------------------------------------------------------------
