"""Validation by captions: retrieval, loss, which model is the best, and what it costs."""

import numpy as np
import pandas as pd
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_runs import FROZEN, rows, same_runs, train_until, weights

from paraclap.evaluation.bootstrap import cluster_interval
from paraclap.model.modeling_paraclap import ParaCLAPModel, clip_loss
from paraclap.training import caption_scores, loop
from paraclap.training.config import SettingsError, read_settings
from paraclap.training.data import TrainingData
from paraclap.training.losses import ContrastiveLoss
from paraclap.training.validation import CRITERIA, Validator

LABELS = ["emotion", "gender", "arousal", "valence", "dominance"]


@pytest.fixture
def stored(captions, tmp_path):
    """Write a changed captions table; returns the option with it."""

    def store(change):
        change(pd.read_parquet(captions)).to_parquet(tmp_path / "changed.parquet")
        return f"data.captions={tmp_path / 'changed.parquet'}"

    return store


@pytest.fixture
def unlabelled(stored):
    """Option with a captions table without any label."""
    return stored(lambda table: table.drop(columns=LABELS, errors="ignore"))


def validator(*arguments):
    """Validator of a run."""
    settings = read_settings(arguments)
    return Validator(TrainingData(settings), settings.train)


def validated(run):
    """Rows of the validations of a run."""
    return [row for row in rows(run) if "R@1" in row]


def events(run):
    """Tags of the scalars in the TensorBoard events of a run."""
    found = EventAccumulator(str(run))
    found.Reload()
    return set(found.Tags()["scalars"])


# --- The criterion -------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", CRITERIA)
def test_best_is_the_first_model_with_the_best_score(config, tmp_path, capsys, criterion):
    arguments = [config, f"train.criterion={criterion}", "train.validate_every=1"]
    run = loop.train(read_settings(arguments))
    scores = [row[CRITERIA[criterion][0]] for row in validated(tmp_path / "run")]
    best = min(scores) if criterion == "loss" else max(scores)
    assert len(scores) == 8 and run.best == best
    shown = capsys.readouterr()
    assert (shown.out + shown.err).count(f", dev {criterion} ") == 8
    first = [f"output={tmp_path / 'first'}", f"train.max_steps={scores.index(best) + 1}"]
    loop.train(read_settings([*arguments, *first]))
    found, expected = weights(tmp_path / "run", "best"), weights(tmp_path / "first", "last")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_run_without_labels_is_validated_by_retrieval(config, unlabelled, tmp_path, capsys):
    run = loop.train(read_settings([config, unlabelled, "train.loggers=[tensorboard]"]))
    found = validated(tmp_path / "run")
    assert run.validate.criterion == "R@1" and len(run.validate) == 24
    assert run.best == max(row["R@1"] for row in found)
    scalars = events(tmp_path / "run")
    assert {"validation/R_at_1", "validation/loss", "validation/text_to_audio/R_at_5"} <= scalars
    for row in found:
        assert "UAR" not in row and row["validation_loss"] > 0
        both = [row[f"{name}/R@1"] for name in ("text_to_audio", "audio_to_text")]
        assert row["R@1"] == pytest.approx(sum(both) / 2)
        assert 0 < row["R@1_chance"] < 1 and row["text_to_audio/mean_rank"] >= 1
    assert "dev R@1" in "".join(capsys.readouterr())


@pytest.mark.parametrize("choice", ["UAR", "R@1", "loss"])
def test_partly_labelled_clips_count_wholly_unless_the_uar_chooses(config, stored, choice):
    def change(table):
        rare = (table["split"] == "dev") & (table["emotion"] == "anger")
        return table.assign(emotion=table["emotion"].mask(rare))

    found = validator(config, stored(change), f"train.criterion={choice}")
    labelled = int(found.labelled[""].sum())
    assert labelled < 24 and len(found) == (labelled if choice == "UAR" else 24)
    assert len(found.captioned[""][1].captions) == len(found)


def test_labels_choose_by_default_and_a_mistyped_target_is_an_error(config, unlabelled):
    assert validator(config).criterion == "UAR"
    with pytest.raises(Exception, match="the table has no emotoin"):
        validator(config, unlabelled, "train.target=emotoin")


def test_one_class_of_labels_is_validated_by_retrieval(config, stored):
    option = stored(lambda t: t.assign(emotion=t["emotion"].mask(t["split"] == "dev", "anger")))
    with pytest.warns(UserWarning, match="the emotion of all validation clips is anger"):
        found = validator(config, option)
    assert found.criterion == "R@1" and len(found) == 24 and not found.labelled


def test_an_impossible_criterion_is_an_error(config, unlabelled, stored):
    with pytest.raises(SettingsError, match="criterion is UAR, but no validation clip has a label"):
        validator(config, unlabelled, "train.criterion=UAR")

    def same(table):
        captions = {"captions": [["a voice"]] * len(table)}
        return table.drop(columns=LABELS, errors="ignore").assign(
            **captions, caption_descriptors=[["pitch"]] * len(table)
        )

    option = stored(same)
    with pytest.raises(SettingsError, match="at least two distinct captions"):
        validator(config, option, "train.criterion=R@1")
    assert len(validator(config, option)) == 0, "trained without validation"


def test_resumed_run_keeps_the_best_score(config, unlabelled, tmp_path, monkeypatch):
    arguments = [config, unlabelled, "train.validate_every=1"]
    whole = loop.train(read_settings([*arguments, f"output={tmp_path / 'whole'}"]))
    arguments.append(f"output={tmp_path / 'parts'}")
    train_until(monkeypatch, 6, arguments)
    parts = loop.train(read_settings(arguments))
    assert parts.best == whole.best and same_runs(tmp_path / "whole", tmp_path / "parts")
    assert validated(tmp_path / "whole") == validated(tmp_path / "parts")
    found, expected = (weights(tmp_path / name, "best") for name in ("parts", "whole"))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_another_criterion_starts_with_no_best_score(config, monkeypatch):
    train_until(monkeypatch, 6, [config, "train.criterion=loss"])
    with pytest.raises(SettingsError, match=r"changed since its checkpoint: train\.criterion"):
        loop.train(read_settings([config, "train.criterion=R@1"]))
    run = loop.train(read_settings([config, "train.criterion=R@1", "train.force=true"]))
    assert 0 < run.best <= 1, "not a loss"


def test_a_tie_keeps_the_earlier_model(config):
    for criterion, better in (("UAR", 0.6), ("R@1", 0.6), ("loss", 0.4)):
        found = validator(config, f"train.criterion={criterion}")
        assert found.is_better(0.5, None) and found.is_better(better, 0.5)
        assert not found.is_better(0.5, 0.5) and not found.is_better(0.5, better)


# --- Scores --------------------------------------------------------------------------------------


@pytest.fixture
def scored(tiny, config, unlabelled):
    """Scores of a model, with embeddings of the clips and what they are scored with."""
    found = validator(config, unlabelled, "train.batch_size=7")
    scores, _ = found(*tiny, objective=ContrastiveLoss())
    audio = found._embed("", *tiny, None)
    return scores, audio, found.captioned[""][1], tiny


def test_every_true_caption_is_a_correct_answer(scored):
    scores, audio, captions, (model, processor) = scored
    texts = captions._embed(model, processor).numpy()
    table = pd.DataFrame(audio @ texts.T)
    ranks = []
    for row, (cosines, matches) in enumerate(zip(table.to_numpy(), captions.matches, strict=True)):
        known = ~np.isnan(matches)
        order = np.argsort(-cosines[known])
        ranks.append(1 + int(np.flatnonzero(matches[known][order] == 1)[0]))
        assert matches[captions.captions[row]] == 1, "its own caption"
    ranks = np.array(ranks)
    for depth in (1, 5, 10):
        expected = (ranks <= depth).mean()
        assert scores[f"audio_to_text/R@{depth}"] == pytest.approx(expected)
    assert scores["audio_to_text/median_rank"] == np.median(ranks)
    assert scores["audio_to_text/mean_rank"] == pytest.approx(ranks.mean())


def test_loss_is_that_of_training_in_fixed_batches(scored):
    scores, audio, captions, (model, _) = scored
    texts = captions._embed(*scored[3])
    order, total = np.random.default_rng(0).permutation(24), 0.0
    for part in np.array_split(order, 3):  # 24 clips in batches of about 7
        own = captions.captions[part]
        matches = torch.from_numpy(captions.matches[part][:, own])
        logits = model.logit_scale.exp() * torch.from_numpy(audio[part]) @ texts[own].T
        total += clip_loss(logits, matches).item() * len(part)
    assert scores["validation_loss"] == pytest.approx(total / 24, rel=1e-5)


@pytest.mark.parametrize("known", [True, False], ids=["speakers", "clips"])
def test_intervals_are_over_speakers_or_else_over_clips(config, stored, tiny, capsys, known):
    def change(table):
        table = table.drop(columns=[*LABELS, *([] if known else ["speaker"])], errors="ignore")
        return table.assign(split=table["split"].replace("test", "dev"))  # more speakers

    found = validator(config, stored(change))
    assert ("no validation clip has a speaker" in capsys.readouterr().out) != known
    scores, _ = found(*tiny)
    captions = found.captioned[""][1]
    audio, texts = found._embed("", *tiny, None), captions._embed(*tiny).numpy()
    nearest = np.where(np.isnan(captions.matches), -np.inf, audio @ texts.T).argmax(axis=1)
    hits = np.array([row[first] for row, first in zip(captions.matches, nearest, strict=True)])
    clusters = captions.speakers if known else range(len(hits))
    interval = cluster_interval(lambda rows: hits[rows].mean(), clusters)
    assert [scores[f"audio_to_text/R@1_{end}"] for end in ("low", "high")] == pytest.approx(
        interval
    )
    assert "text_to_audio/R@1_low" in scores


def test_scores_depend_neither_on_the_seed_nor_on_dropout(tiny, config, unlabelled):
    found = []
    for seed in (1, 2):
        run = validator(config, unlabelled, f"train.seed={seed}")
        tiny[0].train()
        found.append(run(*tiny, objective=ContrastiveLoss())[0])
        assert tiny[0].training
    tiny[0].eval()
    assert found[0] == found[1]


def test_of_many_clips_a_fixed_sample_is_used(config, unlabelled, monkeypatch, capsys, tiny):
    monkeypatch.setattr(caption_scores, "CLIPS", 10)
    sample = validator(config, unlabelled)
    assert len(sample) == 10 and "validation on 10 of 24 clips" in capsys.readouterr().out
    again = validator(config, unlabelled, "train.seed=9")
    assert again.tables[""].index.equals(sample.tables[""].index)
    labelled = validator(config)
    assert len(labelled) == 24 and len(labelled.captioned[""][1].captions) == 10
    assert labelled(*tiny)[0]["R@1"] == pytest.approx(sample(*tiny)[0]["R@1"], abs=0.5)


# --- Costs ---------------------------------------------------------------------------------------


def test_frozen_encoders_run_once(config, unlabelled, monkeypatch):
    """Over validation clips and captions; later validations only project."""
    run = loop.Trainer(read_settings([config, unlabelled, *FROZEN, "data.embeddings=null"]))
    encoded, plain = [], ParaCLAPModel.pool
    branch = type(run.model.audio_branch)
    statistics = branch.statistics

    def pool(self, branch, inputs, mask=None):
        encoded.append(branch)
        return plain(self, branch, inputs, mask)

    def of_audio(self, *inputs):
        encoded.append("audio")
        return statistics(self, *inputs)

    monkeypatch.setattr(ParaCLAPModel, "pool", pool)
    monkeypatch.setattr(branch, "statistics", of_audio)
    first = run.validate(run.model, run.processor, objective=run.learner.objective)[0]
    assert encoded == ["audio"] * 24 + ["text"]
    second = run.validate(run.model, run.processor, objective=run.learner.objective)[0]
    assert len(encoded) == 25 and first == second
