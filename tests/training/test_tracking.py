"""tracking.py: metrics.jsonl always, loggers by name, and none of them stops a run."""

import json
import math
import sqlite3
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from paraclap.cli import train
from paraclap.evaluation import report
from paraclap.training import loggers as tracking
from paraclap.training import loop, rehearsal, trainer
from paraclap.training.config import SettingsError, read_settings
from paraclap.training.loggers import LOGGERS, Log

PIXELS = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)


def rows(output):
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def events(output):
    """Everything that TensorBoard shows of a folder."""
    accumulator = EventAccumulator(str(output), size_guidance={"images": 0, "tensors": 0})
    accumulator.Reload()
    return accumulator


# --- TensorBoard ---------------------------------------------------------------------------------


def test_tensorboard_shows_figures_memory_norms_recalls_pictures_and_captions(config, tmp_path):
    settings = read_settings([config, "train.loggers=[tensorboard]"])
    sampled = loop.Trainer(settings).sample_captions()
    run = loop.train(settings)
    shown = events(tmp_path / "run")
    scalars = set(shown.Tags()["scalars"])
    assert {f"train/{n}" for n in ("loss", "lr", "logit_scale", "gradient_norm")} <= scalars
    assert {f"train/{n}" for n in ("clips_per_second", "waiting", "memory_gib")} <= scalars
    assert {f"train/weight_norm/{part}" for part in trainer.PARTS} <= scalars
    assert {f"validation/recall/{name}" for name in set(run.classes)} <= scalars
    assert set(shown.Tags()["images"]) == {"validation/confusion", "validation/similarity"}
    assert [image.step for image in shown.Images("validation/confusion")] == [4, 8]
    (captions,) = (tag for tag in shown.Tags()["tensors"] if tag.startswith("captions"))
    text = shown.Tensors(captions)[0].tensor_proto.string_val[0].decode()
    assert all(row.caption in text and row.file in text for row in sampled.itertuples())
    logged = {row["step"]: row["loss"] for row in rows(tmp_path / "run") if "loss" in row}
    shown = {event.step: event.value for event in shown.Scalars("train/loss")}
    assert shown == pytest.approx(logged)


def test_captions_that_are_shown_are_those_of_the_first_batch(config):
    run = loop.Trainer(read_settings([config]))
    shown, batch = run.sample_captions(), next(iter(run.loader()))
    assert shown["caption"].tolist() == batch["captions"]
    assert shown["file"].tolist() == [run.train_table.index[row][0] for row in batch["row"]]


def test_norms_of_weights_are_those_of_numpy(config):
    run = loop.Trainer(read_settings([config]))
    norms = run.condition()
    for part in trainer.PARTS:
        weights = run.model.get_submodule(part).parameters()
        expected = np.linalg.norm(np.concatenate([w.detach().double().ravel() for w in weights]))
        assert norms[f"weight_norm/{part}"] == pytest.approx(expected, rel=1e-5)


def test_memory_is_that_of_the_process():
    before = tracking.memory_in_use(torch.device("cpu"))["memory_gib"]
    taken = np.ones(2**25)  # 0.25 GiB
    after = tracking.memory_in_use(torch.device("cpu"))["memory_gib"]
    assert after - before == pytest.approx(taken.nbytes / tracking.GIB, abs=0.02)
    assert tracking.peak_memory() >= after - 0.001


def test_resumed_events_hide_what_came_after_the_checkpoint(tmp_path):
    with Log(tmp_path, 0) as log:
        for step in (1, 2, 3):
            log.write(step, {"loss": 10.0 + step}, "train")
    with Log(tmp_path, 2) as log:
        log.write(3, {"loss": 3.0}, "train")
    shown = [(event.step, event.value) for event in events(tmp_path).Scalars("train/loss")]
    assert shown == [(1, 11.0), (2, 12.0), (3, 3.0)]
    assert [row["loss"] for row in rows(tmp_path)] == [11.0, 12.0, 3.0]


def test_bar_shows_loss_rate_and_share_of_waiting(config, capfd):
    loop.train(read_settings([config]))
    bar = capfd.readouterr().err
    assert "clip/s" in bar and "loss=" in bar and "waiting=" in bar


# --- Failures ------------------------------------------------------------------------------------


class FailingLogger:
    """Fails in the method that is named."""

    package = "json"
    told = ()
    fault = "scalars"

    def __init__(self, output, step, settings):
        self._tell("open")

    def _tell(self, method, *arguments):
        type(self).told += (method,)
        if method == self.fault:
            raise OSError(f"{method}: no network for secret-of-the-environment")

    def scalars(self, *arguments):
        self._tell("scalars")

    def image(self, *arguments):
        self._tell("image")

    def text(self, *arguments):
        self._tell("text")

    def close(self, finished):
        self._tell("close")


@pytest.mark.parametrize("fault", ["open", "scalars", "image", "text", "close"])
def test_failing_logger_is_told_once_and_the_run_goes_on(tmp_path, monkeypatch, fault):
    failing = type("Failing", (FailingLogger,), {"fault": fault})
    monkeypatch.setitem(LOGGERS, "wandb", failing)
    monkeypatch.setenv("WANDB_API_KEY", "secret-of-the-environment")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Log(tmp_path, 0, ["wandb", "tensorboard"]) as log:
            for step in (1, 2):
                log.write(step, {"loss": float(step), "norm": None}, "train")
                log.image(step, "validation/confusion", lambda: PIXELS)
                log.text(step, "captions", "| a |")
    assert failing.told[-1] == fault and failing.told.count(fault) == 1  # the fault fired
    (warning,) = (str(w.message) for w in caught if w.category is UserWarning)
    assert f"wandb failed and is left out (OSError: {fault}: no network" in warning
    assert "secret-of" not in warning and "<WANDB_API_KEY>" in warning
    assert [row["loss"] for row in rows(tmp_path)] == [1.0, 2.0]
    assert len(events(tmp_path).Scalars("train/loss")) == 2  # the other logger goes on


def test_picture_that_cannot_be_drawn_is_told_and_loggers_stay(tmp_path):
    with Log(tmp_path, 0) as log:
        with pytest.warns(UserWarning, match="drawing validation/confusion failed .*ZeroDivision"):
            log.image(1, "validation/confusion", lambda: 1 / 0)
        log.write(1, {"loss": 1.0}, "train")
    assert len(events(tmp_path).Scalars("train/loss")) == 1


def test_nothing_is_drawn_for_nobody(tmp_path):
    drawn = []
    with Log(tmp_path, 0, []) as log:
        log.image(1, "validation/confusion", lambda: drawn.append(1))
    assert not drawn


def test_failing_logger_changes_no_weight(config, tmp_path, monkeypatch):
    plain = loop.train(read_settings([config, "train.epochs=1"]))
    monkeypatch.setitem(LOGGERS, "wandb", FailingLogger)
    arguments = [config, "train.epochs=1", f"output={tmp_path / 'b'}", "train.loggers=[wandb]"]
    with pytest.warns(UserWarning, match="wandb failed"):
        failing = loop.train(read_settings(arguments))
    assert failing.step == failing.steps
    pairs = zip(plain.model.parameters(), failing.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_logger_without_a_name_of_the_table_is_refused(config):
    with pytest.raises(SettingsError, match="tensorboard"):
        read_settings([config, "train.loggers=[tensorbord]"])


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_missing_package_is_told_at_the_start_with_what_to_install(
    config, tmp_path, monkeypatch, name
):
    monkeypatch.setitem(sys.modules, name, None)  # as if it was not installed
    settings = read_settings([config, f"train.loggers=[{name}]"])
    with pytest.raises(ImportError, match=r"requirements-tracking\.txt"):
        loop.train(settings)
    assert not (tmp_path / "run").exists()


def test_secrets_are_taken_out_of_texts():
    environment = {"HF_TOKEN": "hf_abcdef", "HOME": "/home/me", "EMPTY_KEY": "", "SHORT_KEY": "a"}
    text = tracking.without_secrets("hf_abcdef at /home/me", environment)
    assert text == "<HF_TOKEN> at /home/me"


# --- Weights & Biases, MLflow --------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, and nothing of the user's settings."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "wandb-cache"))
    for name in ("WANDB_PROJECT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)


def resumed_log(output, logger):
    """A log of two parts, as of a run that is stopped once; each tells everything there is."""
    for start, finished in ((0, False), (2, True)):
        log = Log(output, start, [logger], {"optim.lr": 0.01, "long": "x" * 10_000})
        log.text(start, "captions", "| the speaker sounds angry |")
        for step in (start + 1, start + 2):
            log.write(step, {"loss": 1.0 / step, "recall/sad, or so": None}, "train")
            log.write(step, {"recall/sad, or so": 0.5}, "validation")
        log.image(start + 2, "validation/confusion", lambda: PIXELS)
        assert logger in log.loggers  # nothing failed
        log.close(finished)


def test_mlflow_keeps_a_resumed_run_in_one_without_network(tmp_path, offline):
    pytest.importorskip("mlflow")
    (tmp_path / "runs" / "small").mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        resumed_log(tmp_path / "runs" / "small", "mlflow")
    with sqlite3.connect(tmp_path / "runs" / "mlflow.db") as store:
        assert store.execute("select name, status from runs").fetchall() == [("small", "FINISHED")]
        points = store.execute(
            "select step, value from metrics where key = 'train/loss' order by step"
        ).fetchall()
        assert [step for step, _ in points] == [1, 2, 3, 4]
        assert points[3][1] == pytest.approx(0.25)
        keys = {key for (key,) in store.execute("select distinct key from metrics")}
        assert keys == {"train/loss", "validation/recall/sad_ or so"}
        assert ("optim.lr", "0.01") in store.execute("select key, value from params").fetchall()
    artifacts = {path.name for path in (tmp_path / "runs" / "mlflow_artifacts").rglob("*.*")}
    assert artifacts == {"captions.md", "00000002.png", "00000004.png"}
    assert not list(tmp_path.glob("mlruns"))


def test_wandb_keeps_a_resumed_run_in_one_without_network(tmp_path, offline):
    pytest.importorskip("wandb")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        resumed_log(tmp_path, "wandb")
    names = {path.name for path in (tmp_path / "wandb").glob("offline-run-*")}
    identity = json.loads((tmp_path / tracking.LOGGER_RUNS).read_text())["wandb"]
    assert names and {name.rsplit("-", 1)[1] for name in names} == {identity}
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("run-*.wandb"))
    assert b"train/loss" in stored and b"optim.lr" in stored and b"sounds angry" in stored
    assert list(tmp_path.rglob("confusion*.png"))


@pytest.mark.torture(51, "HF_TOKEN and WANDB_API_KEY in the environment, every logger")
@pytest.mark.parametrize("loggers", ["tensorboard", "wandb", "mlflow"])
def test_secrets_of_the_environment_are_written_nowhere(
    config, tmp_path, monkeypatch, capfd, offline, happened, loggers
):
    pytest.importorskip(loggers)
    letters = np.random.default_rng(1)
    planted = {
        name: prefix + "".join(letters.choice(list("abcdef0123456789"), 40))
        for name, prefix in (("HF_TOKEN", "hf_"), ("WANDB_API_KEY", ""))
    }
    for name, value in planted.items():
        monkeypatch.setenv(name, value)
    loop.train(read_settings([config, "train.epochs=1", f"train.loggers=[{loggers}]"]))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 8
    captured = capfd.readouterr()
    written = {path: path.read_bytes() for path in files}
    written["printed"] = (captured.out + captured.err).encode()
    for value in planted.values():
        assert not [path for path, content in written.items() if value.encode() in content]
    happened(f"in none of {len(files)} files, nor in what was printed")


# --- Pictures ------------------------------------------------------------------------------------


def test_picture_of_similarities_shows_mean_cosines_of_classes_and_queries():
    answers = pd.DataFrame(
        {
            "truth": ["b", "b", "a"],
            "score.a": [0.1, 0.3, 0.9],
            "score.b": [0.5, 0.7, 0.0],
            "score.c": [0.0, 0.0, 0.0],
        }
    )
    figure = report.plot_similarities(answers, "t")
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == [
        "0.90", "0.00", "0.00", "0.20", "0.60", "0.00"
    ]  # fmt: skip
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c"]
    pixels = report.to_pixels(figure)
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    assert pixels.min() < 50 and pixels.max() == 255


def test_picture_of_confusion_has_the_counts_of_the_answers():
    answers = pd.DataFrame({"truth": ["a", "a", "b"], "prediction": ["a", "b", "b"]})
    axes = report.plot_confusion(answers, ["a", "b"], "t").axes[0]
    assert [text.get_text() for text in axes.texts] == ["50%\n1", "50%\n1", "0%\n0", "100%\n1"]


# --- Dry run -------------------------------------------------------------------------------------


def test_dry_run_tells_memory_and_time_and_keeps_nothing(config, tmp_path, capsys):
    before = {path for path in tmp_path.rglob("*")}
    assert train.main([config, "train.dry_run=true", "data.workers=1"]) == 0
    told = capsys.readouterr().out
    for words in ("batch of 5 clips", "step in", "validation on", "memory:", "for 2 epochs"):
        assert words in told, told
    assert set(tmp_path.rglob("*")) == before
    run = loop.train(read_settings([config]))  # starts at step 0, as if nothing had been
    assert rows(run.output)[0]["step"] == 1


def test_dry_run_leaves_an_earlier_run_as_it_is_and_tells_what_does_not_fit(config, tmp_path):
    loop.train(read_settings([config, "train.epochs=1"]))
    output = tmp_path / "run"
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    with pytest.raises(SettingsError, match="train.epochs"):
        rehearsal.dry_run(read_settings([config, "train.dry_run=true"]))
    never = [config, "train.dry_run=true", "train.resume=never"]
    rehearsal.dry_run(read_settings(never))
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "argument, message",
    [("data.root=/nowhere", "no folder"), ("train.batch_size=1000", "do not fill a batch")],
)
def test_dry_run_finds_what_would_stop_the_run(config, argument, message):
    with pytest.raises(ValueError, match=message):
        rehearsal.dry_run(read_settings([config, "train.dry_run=true", argument]))


def test_dry_run_refuses_steps_that_are_not_finite(config, monkeypatch, tmp_path):
    monkeypatch.setattr(
        loop.Trainer, "loader", lambda self, original=loop.Trainer.loader: poisoned(original(self))
    )
    with pytest.raises(FloatingPointError, match="dry run"):
        rehearsal.dry_run(read_settings([config, "train.dry_run=true"]))
    assert not (tmp_path / "run").exists()


def poisoned(batches):
    """Batches with one value that is not a number."""
    for batch in batches:
        batch["input_values"][0, 0] = math.nan
        yield batch


@pytest.mark.parametrize(
    "seconds, words",
    [(1.25, "1.2 seconds"), (119, "119.0 seconds"), (150, "2.5 minutes"), (86_400, "24.0 hours")],
)
def test_durations_are_told_in_units_that_fit(seconds, words):
    assert rehearsal._duration(seconds) == words
