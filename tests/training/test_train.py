"""Training runs: learning, exact resume, and steps that are not finite."""

import json
import math
import signal

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from training_runs import (
    FROZEN,
    REPOSITORY,
    rows,
    same,
    same_runs,
    train_until,
    weights,
)

from paraclap.audio.recordings import Files
from paraclap.cli import evaluate, train
from paraclap.errors import ParaCLAPError
from paraclap.model.build import build_model, load_model
from paraclap.signals import Stopped, StopRequests
from paraclap.training import loop, trainer
from paraclap.training.checkpoint import list_checkpoints, load_newest
from paraclap.training.config import SettingsError, read_settings
from paraclap.training.losses import SIGMOID_BIAS
from paraclap.training.resources import duration


def test_run_folder_is_complete_and_can_be_evaluated(config, corpus, tmp_path):
    run = loop.train(read_settings([config, "train.loggers=[tensorboard]"]))
    output = tmp_path / "run"
    assert run.step == run.steps == 2 * (len(run.data.train_table) // 5)
    names = {path.name for path in output.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "best", "last", "checkpoints"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert yaml.safe_load((output / "config.yaml").read_text())["optim"]["lr"] == 0.01
    training = [row for row in rows(output) if "loss" in row]
    assert [row["step"] for row in training] == list(range(1, run.steps + 1))
    assert all(
        {"lr", "logit_scale", "clips_per_second"} <= set(row) and math.isfinite(row["loss"])
        for row in training
    )
    assert [row["step"] for row in rows(output) if "UAR" in row][-1] == run.steps
    assert len(list_checkpoints(output / "checkpoints")) == 2
    model, _ = load_model(output / "last")
    attributes = model.config.provenance.pop("attributes")
    assert attributes["gender"]["female"] == ["female", "gender", "woman"]
    assert model.config.provenance == {
        "audio_encoder": None,
        "text_encoder": None,
        "corpora": ["paraclap-synthetic"],
        "clips": 24,
        "speakers": 2,
        "epochs": 2,
        "seed": run.settings.train.seed,
    }
    arguments = [str(output), str(corpus), "-o", str(tmp_path / "results"), "--split", "test"]
    assert evaluate.main(arguments) == 0


def test_validation_gives_the_scores_of_evaluate(config, corpus, tmp_path):
    run = loop.train(read_settings([config, "train.prompts=sentence"]))
    logged = [row for row in rows(tmp_path / "run") if "UAR" in row][-1]
    results = tmp_path / "results"
    arguments = [str(tmp_path / "run" / "last"), str(corpus), "-o", str(results)]
    evaluate.main([*arguments, "--split", "dev", "--prompts", "sentence"])
    scored = yaml.safe_load((results / "scores.yaml").read_text())["corpora"]
    figures = next(iter(scored.values()))
    assert run.step == logged["step"]
    assert {key: figures[key] for key in ("UAR", "ACC", "F1")} == pytest.approx(
        {key: logged[key] for key in ("UAR", "ACC", "F1")}
    )


def test_a_model_learns_its_training_clips(config, tmp_path):
    fast = ["train.epochs=25", "train.validate_every=1000", "captions.style=emotion"]
    loop.train(read_settings([config, *fast, "captions.paraphrases=false"]))
    losses = [row["loss"] for row in rows(tmp_path / "run") if "loss" in row]
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])


@pytest.mark.torture(27, "control: another seed")
def test_equal_seeds_give_equal_weights_and_others_do_not(config, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        output = f"output={tmp_path / name}"
        loop.train(read_settings([config, output, f"train.seed={seed}", "train.epochs=1"]))
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


AUGMENTED = ("data.augment.gain=0.5", "data.augment.noise=0.5", "data.augment.speed=0.5")
AUGMENTED += ("data.augment.reverb=0.5", "train.bucket=true")
UNFROZEN = (*FROZEN, "train.unfreeze={audio: 0.5, text: 5}", "optim.layer_decay=0.5")


@pytest.mark.torture(26, "run dies after a step, step, number of workers and options")
@pytest.mark.parametrize(
    "step, workers, options",
    [
        (4, 0, ()),
        (5, 2, ()),
        (7, 0, ("loss.name=sigmoid", "train.micro_batch=2", "train.checkpoint_activations=true")),
        (5, 0, (*FROZEN, "data.embeddings=OUT")),
        (7, 0, FROZEN),
        (4, 2, ("model.freeze=[audio]", "train.unfreeze={audio: 5}")),  # resumed before unfreezing
        (5, 0, (*UNFROZEN, "train.save_every=4")),  # at the step of unfreezing
        (7, 0, UNFROZEN),  # after it
        (5, 2, AUGMENTED),
    ],
)
def test_resumed_run_equals_an_uninterrupted_one(
    config, tmp_path, monkeypatch, step, workers, options
):
    config = [config, *(option.replace("OUT", str(tmp_path / "kept")) for option in options)]
    whole, parts = (f"output={tmp_path / name}" for name in ("whole", "parts"))
    loop.train(read_settings([*config, whole]))
    arguments = [*config, parts, f"data.workers={workers}"]
    train_until(monkeypatch, step, arguments)
    resumed = loop.train(read_settings(arguments))
    assert resumed.step == resumed.steps
    assert same(weights(tmp_path / "whole", "best"), weights(tmp_path / "parts", "best"))
    assert same_runs(tmp_path / "whole", tmp_path / "parts")


def test_precomputed_embeddings_change_no_bit_of_a_run(config, tmp_path, monkeypatch):
    opened = []
    for way in ("crop", "read"):
        read = getattr(Files, way)
        monkeypatch.setattr(Files, way, lambda *a, read=read: opened.append(a) or read(*a))
    for name in ("precomputed", "read"):
        arguments = [config, *FROZEN, "train.validate_every=1000", f"output={tmp_path / name}"]
        run = loop.train(read_settings(arguments))
        training = len(run.data.train_table) if name == "precomputed" else 5 * run.steps
        opens = len(run.validate) + training
        assert len(opened) == opens
        opened.clear()
        monkeypatch.setattr(loop, "precompute", lambda *a: None)
    assert same(weights(tmp_path / "precomputed"), weights(tmp_path / "read"))
    losses = [
        [row["loss"] for row in rows(tmp_path / n) if "loss" in row]
        for n in ("precomputed", "read")
    ]
    assert losses[0] == losses[1]


def test_signal_while_precomputing_keeps_embeddings(config, tmp_path, capsys):
    kept = f"data.embeddings={tmp_path / 'kept'}"
    run = loop.Trainer(read_settings([config, *FROZEN, kept]))
    requests = StopRequests()
    requests.received = signal.SIGTERM
    with pytest.raises(Stopped, match="SIGTERM: .* precomputing .* continues from there"):
        loop.precompute(run, requests)
    assert run.learner.gradients.encoder.clips is None
    assert "audio embeddings" not in capsys.readouterr().err  # "all from the cache" was not true
    requests.received = None
    loop.precompute(run, requests)
    assert "audio embeddings: 24 clips" in capsys.readouterr().err
    assert len(run.learner.gradients.encoder.clips) == 24


@pytest.mark.parametrize("every, stated", [(8, False), (9, True)])
def test_a_single_validation_is_stated_before_the_first_step(config, every, stated, capsys):
    options = [f"train.validate_every={every}", "text_pretraining.steps=0"]
    loop.train(read_settings([config, *options]))
    lines = capsys.readouterr().out.splitlines()
    line = (
        "the run is validated once, at its end, so best equals last: train.validate_every is "
        f"{every}, the run has 8 steps"
    )
    assert (line in lines) == stated
    assert not stated or lines.index(line) < next(i for i, t in enumerate(lines) if "dev UAR" in t)


def test_dry_run_prints_memory_and_time_and_is_resumed_exactly(config, tmp_path, capsys):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    loop.train(read_settings([config, f"output={whole}"]))
    assert train.main([config, f"output={parts}", "train.max_steps=2"]) == 0
    printed = capsys.readouterr().out
    assert "peak memory" in printed and "s per step" in printed and "8 steps take about" in printed
    assert [row["step"] for row in rows(parts)] == [1, 2, 2]  # the last one is the validation
    assert (parts / "last").is_dir() and load_newest(parts / "checkpoints")["step"] == 2
    resumed = loop.train(read_settings([config, f"output={parts}"]))
    assert resumed.step == 8 and same(weights(whole), weights(parts))
    assert loop.train(read_settings([config, f"output={parts}", "train.max_steps=2"])).step == 8


@pytest.mark.parametrize("least, epochs", [(8, 2), (9, 3)])
def test_few_clips_are_trained_for_more_epochs(config, least, epochs):
    run = loop.Trainer(read_settings([config, f"train.min_steps={least}"]))
    assert run.steps == run.whole_steps == 4 * epochs
    assert run.learner.model.config.provenance["epochs"] == epochs


@pytest.mark.parametrize(
    "seconds, text", [(1.25, "1.25 seconds"), (150, "2.5 minutes"), (86_400, "24.0 hours")]
)
def test_durations_have_a_fitting_unit(seconds, text):
    assert duration(seconds) == text


def test_sigmoid_bias_learns_and_is_part_of_the_checkpoint(config):
    run = loop.Trainer(read_settings([config, "loss.name=sigmoid"]))
    run.training_step(next(iter(run.loader())))
    state = run.state()["objective"]["bias"]
    assert (
        state.item() != SIGMOID_BIAS and run.learner.objective.bias in run.learner.optimizer.state
    )


@pytest.mark.torture(27, "control: resumed with weights alone")
def test_resuming_without_the_optimiser_differs(config, tmp_path, monkeypatch):
    """Control of the tests of exact resume."""
    whole, parts = (f"output={tmp_path / name}" for name in ("whole", "parts"))
    loop.train(read_settings([config, whole]))
    train_until(monkeypatch, 7, [config, parts])
    original = loop.Trainer.restore

    def restore(self, state):
        fresh = self.learner.optimizer.state_dict()
        original(self, state)
        self.learner.optimizer.load_state_dict(fresh)

    monkeypatch.setattr(loop.Trainer, "restore", restore)
    loop.train(read_settings([config, parts]))
    assert not same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


@pytest.mark.torture(33, "settings or captions changed between start and resume")
def test_resuming_with_other_settings_or_captions_is_refused(config, captions, tmp_path):
    config = [config, "model.freeze=[audio]", "train.unfreeze={audio: 4}"]
    loop.train(read_settings(config))
    other = tmp_path / "other.parquet"
    pd.read_parquet(captions).iloc[1:].to_parquet(other)
    for change, named in {
        "optim.lr=0.02": "optim.lr",
        "captions.style=published": "captions.style",
        "train.epochs=3": "train.epochs",
        "loss.name=sigmoid": "loss.name",
        "train.unfreeze={audio: 5}": "train.unfreeze.audio",
        f"data.captions={other}": "the captions table",
    }.items():
        with pytest.raises(SettingsError, match=f"changed since its checkpoint: {named}[,;]"):
            loop.train(read_settings([*config, change]))


def test_starting_anew_removes_the_old_run(config, tmp_path):
    loop.train(read_settings([config]))
    loop.train(read_settings([config, "train.resume=never", "train.epochs=1"]))
    training = [row["step"] for row in rows(tmp_path / "run") if "loss" in row]
    assert training == list(range(1, len(training) + 1)) and len(training) < 20


@pytest.mark.torture(34, "loss that is not finite, by")
@pytest.mark.parametrize("where", ["input_values", "weights"])
def test_step_that_is_not_finite_changes_nothing_and_is_counted(config, where):
    run = loop.Trainer(read_settings([config]))
    batch = next(iter(run.loader()))
    if where == "input_values":
        batch["input_values"][2, 5] = float("nan")
    else:
        with torch.no_grad():
            run.model.audio_projection.linear1.weight.fill_(1e38)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    values = run.training_step(batch)
    assert values["skipped"] == run.skipped == 1 and values["gradient_norm"] is None
    assert same(before, run.model.state_dict()) and not run.learner.optimizer.state
    assert run.step == 1  # the next batch has its turn


@pytest.mark.torture(34, "steps in a row that are not finite")
def test_too_many_steps_that_are_not_finite_stop_and_name_the_clips(config, tmp_path):
    run = loop.Trainer(read_settings([config, "train.max_skipped=2"]))
    good = next(iter(run.loader()))
    bad = {**good, "input_values": torch.full_like(good["input_values"], torch.nan)}
    file = run.data.train_table.index[bad["row"][2]][0]
    for batch in (bad, bad, good, bad, bad):  # the good one between them starts the count again
        run.training_step(batch)
    with pytest.raises(FloatingPointError, match=file):
        run.training_step(bad)
    dump = json.loads((tmp_path / "run" / trainer.DUMP).read_text())
    assert dump["step"] == 6 and file in dump["clips"] and dump["loss"] == "nan"


@pytest.mark.torture(34, "learning rate of 1e20")
def test_a_learning_rate_out_of_range_leaves_a_finite_checkpoint(config, tmp_path):
    arguments = [config, "optim.lr=1e20", "optim.audio_lr=1e20", "optim.clip_norm=0"]
    with pytest.raises(FloatingPointError):
        loop.train(read_settings([*arguments, "train.save_every=1", "train.epochs=20"]))
    newest = load_newest(tmp_path / "run" / "checkpoints")
    assert newest["step"] and all(w.isfinite().all() for w in newest["model"].values())


@pytest.mark.torture(34, "weight that is infinite when a checkpoint is due")
def test_weights_that_are_not_finite_are_never_saved(config, tmp_path):
    run = loop.Trainer(read_settings([config]))
    run.save()
    with torch.no_grad():
        run.model.text_projection.linear2.weight[0, 0] = torch.inf
    run.step = 1
    with pytest.raises(FloatingPointError, match="text_projection.linear2"):
        run.save()
    assert [p.name for p in list_checkpoints(tmp_path / "run" / "checkpoints")] == ["step_00000000"]


@pytest.mark.torture(39, "batch of one, or fewer clips than a batch")
@pytest.mark.parametrize("size, reason", [(1, "at least 2"), (1000, r"only \d+ clips")])
def test_batches_of_one_or_of_too_many_clips_are_refused(config, size, reason):
    with pytest.raises(ValueError, match=reason):
        loop.Trainer(read_settings([config, f"train.batch_size={size}"]))


def test_logit_scale_is_clamped_in_training(config):
    run = loop.Trainer(read_settings([config]))
    with torch.no_grad():
        run.model.logit_scale.fill_(200.0)
    run.model.clamp_logit_scale()
    values = run.training_step(next(iter(run.loader())))
    assert values["logit_scale"] <= 100.001 and math.isfinite(values["loss"])


def test_positives_decide_the_loss(config):
    losses = {}
    for positives in ("own", "matching"):
        run = loop.Trainer(read_settings([config, f"loss.positives={positives}"]))
        batch = next(iter(run.loader()))
        batch["matches"] = tuple(map(torch.ones_like, batch["matches"]))
        losses[positives] = run.training_step(batch)["loss"]
    assert losses["own"] != losses["matching"]


def test_paper_configuration_trains_projections_over_pretrained_encoders(
    config, settings, captions, corpus, tmp_path
):
    source, processor = build_model(settings, ["emotion is anger"])
    source.audio_branch.base.save_pretrained(tmp_path / "audio")
    source.text_branch.base.save_pretrained(tmp_path / "text")
    processor.tokenizer.save_pretrained(tmp_path / "text")
    arguments = [
        str(REPOSITORY / "configs" / "paper.yaml"),
        f"model.audio.name={tmp_path / 'audio'}",
        f"model.text.name={tmp_path / 'text'}",
        f"data.root={corpus}",
        f"data.captions={captions}",
        "data.validation_split=dev",
        "data.workers=0",
        f"output={tmp_path / 'paper'}",
        "train.epochs=2",
        "train.batch_size=12",
    ]
    loop.train(read_settings(arguments))
    after = weights(tmp_path / "paper")
    before = source.state_dict()
    branches = [name for name in after if "_branch." in name]
    assert len(branches) > 50
    assert all(torch.equal(after[name], before[name]) for name in branches)
    assert len([row for row in rows(tmp_path / "paper") if "UAR" in row]) == 1


def test_a_model_overfits_one_batch(config):
    """A model that cannot do this has a broken gradient somewhere."""
    still = ["model.audio.config.hidden_dropout=0", "model.audio.config.mask_time_prob=0"]
    still += ["model.projection_dropout=0", "captions.style=published", "loss.positives=own"]
    rates = ["optim.lr=3e-3", "optim.audio_lr=3e-3", "optim.text_lr=3e-3", "train.epochs=100"]
    run = loop.Trainer(read_settings([config, *still, *rates]))
    batch = next(iter(run.loader()))
    assert len(set(batch["captions"])) == len(batch["captions"])
    run.model.train()
    losses = [run.training_step(batch)["loss"] for _ in range(150)]
    assert losses[0] > 1.0 and losses[-1] < 0.05


def test_missing_audio_and_wrong_prompt_sets_stop_a_run_before_the_model_is_built(
    config, tmp_path, monkeypatch
):
    monkeypatch.setattr(trainer, "Learner", lambda *_: pytest.fail("the model was built"))
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(SettingsError, match="48 of 48 audio files .* do not exist below"):
        loop.train(read_settings([config, f"data.root={tmp_path / 'elsewhere'}"]))
    with pytest.raises(ParaCLAPError, match="unknown prompt set 'unknown'"):
        loop.train(read_settings([config, "train.prompts=unknown"]))
