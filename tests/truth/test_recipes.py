"""Recipes, splits and settings do what they state."""

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from paraclap.cli import evaluate
from paraclap.corpora import table as corpora
from paraclap.corpora.catalogue import CORPORA, Corpus
from paraclap.corpora.labels import in_split, normalise_labels, split_name, split_names
from paraclap.evaluation import metrics
from paraclap.evaluation.bootstrap import cluster_interval
from paraclap.model.build import load_model
from paraclap.settings import DataSettings, Settings, SettingsError
from paraclap.training.config import read_settings
from paraclap.training.data import TrainingData
from paraclap.training.tables import split_table
from paraclap.training.validation import Validator

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


def arousal_of(clips):
    """Numbers of clips, in their own order, some of them missing."""
    numbers = np.random.default_rng(0).normal(size=len(clips))
    return np.where(np.arange(len(clips)) % 11, numbers, np.nan)


@pytest.fixture
def merged(monkeypatch, corpus, captions, tmp_path):
    """The synthetic corpus as one whose classes are merged, and its captions table."""

    def read(root):
        rows = corpora.read_corpus(root).reset_index()
        return rows.assign(arousal=arousal_of(rows))

    classes = {"anger": "anger", "fear": "anger", "happiness": "joy", "sadness": "sadness"}
    classes |= {"neutral": "neutral", "boredom": None}
    published = {name: f"a voice of {name}" for name in ("anger", "joy", "neutral", "sadness")}
    toy = Corpus("toy", "Toy", read, "", classes=classes, published=published)
    monkeypatch.setitem(CORPORA, "toy", toy)
    table = pq.read_table(captions)
    numbers = pd.Series(arousal_of(range(len(table))), corpora.read_corpus(corpus).index)
    frame = table.to_pandas().assign(arousal=numbers)
    path = tmp_path / "captions.parquet"
    frame.to_parquet(path)
    stored = pq.read_table(path)
    about = json.dumps({"name": "toy", "corpus": "toy"}).encode()
    pq.write_table(
        stored.replace_schema_metadata({**stored.schema.metadata, b"paraclap": about}), path
    )
    return f"toy={corpus}", path


@pytest.mark.parametrize(
    "target, prompts",
    [("emotion", "published"), ("emotion", "sentence"), ("gender", "word"), ("arousal", "caption")],
)
def test_validation_gives_the_figures_of_evaluation(
    merged, model_folder, config, tmp_path, target, prompts
):
    source, captions = merged
    options = f"train.target={target}", f"train.prompts={prompts}", f"data.captions={captions}"
    settings = read_settings([config, *options])
    logged, _ = Validator(TrainingData(settings), settings.train)(*load_model(model_folder))
    command = [str(model_folder), source, "--split", "dev", "-o", str(tmp_path / "results")]
    evaluate.main([*command, "--targets", target, "--prompts", prompts])
    scores = yaml.safe_load((tmp_path / "results" / "scores.yaml").read_text())["corpora"]
    (figures,) = scores.values()
    figures |= {f"recall/{name}": recall for name, recall in figures["recall"].items()}
    assert logged == pytest.approx({name: figures[name] for name in logged})
    assert figures["classes"] == {"emotion": 4, "gender": 2, "arousal": 2}[target]
    assert ("Spearman" in logged) == (target == "arousal")


# --- Settings on resuming ------------------------------------------------------------------------

# --- Encoders and precision ----------------------------------------------------------------------

# --- Intervals -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def speakers_that_differ():
    """Truth, predictions and speakers of 300 clips; half of the ten speakers are at chance."""
    truth = np.tile(["a", "b", "c"], 100)
    speakers = np.repeat([f"{number}" for number in range(10)], 30).astype(object)
    at_chance = speakers < "5"
    return truth, np.where(at_chance, "a", truth), speakers


@pytest.mark.parametrize("unknown, tolerance", [(1, 0.02), (10, 0.05)])
@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_unknown_speakers_leave_the_interval_over_the_known_ones(
    speakers_that_differ, unknown, tolerance, missing
):
    truth, prediction, speakers = speakers_that_differ
    expected = metrics.score(truth, prediction, speakers)["interval"]
    some = speakers.copy()
    some[:: len(some) // unknown] = missing
    scores = metrics.score(truth, prediction, some)
    assert scores["interval"] == pytest.approx(expected, abs=tolerance)
    assert (scores["speakers"], scores["unknown_speakers"]) == (10, unknown)
    value = (prediction == truth).astype(float)
    for speaker in (speakers, some):  # ranks and retrieval
        interval = cluster_interval(lambda rows: value[rows].mean(), speaker)
        assert interval == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize(
    "unknown, remark",
    [(1, "1 of 72 clips have no speaker; each counts as a"), (72, "no speakers are known, so")],
)
def test_report_states_unknown_speakers(model_folder, corpus, tmp_path, capsys, unknown, remark):
    table = corpora.read_corpus(corpus).reset_index()
    table.loc[: unknown - 1, "speaker"] = None
    table = table[["file", "emotion", "speaker"]]
    path = corpus.parent / f"unknown{unknown}.csv"
    table.assign(file="synthetic/" + table["file"]).to_csv(path, index=False)
    options = ["-o", str(tmp_path / "results"), *(["--probe"] if unknown == 1 else [])]
    assert evaluate.main([str(model_folder), str(path), *options]) == 0
    assert f"unknown{unknown}: {remark}" in capsys.readouterr().out
    assert remark in (tmp_path / "results" / "scores.md").read_text()
    scores = yaml.safe_load((tmp_path / "results" / "scores.yaml").read_text())
    if unknown == 1:
        assert scores["probe"][f"unknown{unknown}"]["clips"] == 71


# --- Fine-tuning from every recipe ---------------------------------------------------------------
