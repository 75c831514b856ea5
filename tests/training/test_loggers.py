"""metrics.jsonl always, TensorBoard and Weights & Biases by setting."""

import errno
import os
import threading
import time
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from training_runs import rows

from paraclap.audio import SAMPLING_RATE
from paraclap.evaluation import figures
from paraclap.files import OutputError
from paraclap.training import loop, resources
from paraclap.training.config import SettingsError, read_settings
from paraclap.training.data import sample_captions, sample_clips, training_batches
from paraclap.training.learner import PARTS
from paraclap.training.loggers import Log

PIXELS = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)


def events(output):
    """Everything that TensorBoard shows of a folder."""
    accumulator = EventAccumulator(str(output), size_guidance={"images": 0, "tensors": 0})
    accumulator.Reload()
    return accumulator


# --- TensorBoard ---------------------------------------------------------------------------------


def test_tensorboard_has_scalars_images_and_captions(config, tmp_path):
    settings = read_settings([config, "train.loggers=[tensorboard]"])
    dataset = loop.Trainer(settings).dataset()
    run = loop.train(settings)
    shown = events(tmp_path / "run")
    scalars = set(shown.Tags()["scalars"])
    assert {f"train/{n}" for n in ("loss", "lr", "logit_scale", "gradient_norm")} <= scalars
    assert {f"train/{n}" for n in ("clips_per_second", "waiting", "memory_gib")} <= scalars
    assert {f"train/weight_norm/{part}" for part in PARTS} <= scalars
    classes = set(run.validate.tables[""]["emotion"])
    assert {f"validation/recall/{name}" for name in classes} <= scalars
    assert set(shown.Tags()["images"]) == {"validation/confusion", "validation/similarity"}
    assert [image.step for image in shown.Images("validation/confusion")] == [4, 8]
    (captions,) = (tag for tag in shown.Tags()["tensors"] if tag.startswith("captions"))
    text = shown.Tensors(captions)[0].tensor_proto.string_val[0].decode()
    assert text == sample_captions(run.data, dataset, training_batches(run.data, 0, 1))
    logged = {row["step"]: row["loss"] for row in rows(tmp_path / "run") if "loss" in row}
    shown = {event.step: event.value for event in shown.Scalars("train/loss")}
    assert shown == pytest.approx(logged)


def test_logged_captions_are_those_of_the_first_batch(config):
    run = loop.Trainer(read_settings([config]))
    shown = sample_captions(run.data, run.dataset(), run.batches())
    batch = next(iter(run.loader()))
    files = [run.data.train_table.index[row][0] for row in batch["row"]]
    lines = shown.splitlines()[2:]
    for line, file, caption in zip(lines, files, batch["captions"], strict=True):
        assert file in line and caption in line


def test_weight_norms_equal_those_of_numpy(config):
    run = loop.Trainer(read_settings([config]))
    norms = run.learner.weight_norms()
    for part in PARTS:
        weights = run.model.get_submodule(part).parameters()
        expected = np.linalg.norm(np.concatenate([w.detach().double().ravel() for w in weights]))
        assert norms[f"weight_norm/{part}"] == pytest.approx(expected, rel=1e-5)


def test_memory_is_that_of_the_process():
    before = resources.memory_in_use(torch.device("cpu"))["memory_gib"]
    taken = np.ones(2**25)  # 0.25 GiB
    after = resources.memory_in_use(torch.device("cpu"))["memory_gib"]
    assert after - before == pytest.approx(taken.nbytes / resources.GIB, abs=0.02)
    assert resources.peak_memory() >= after - 0.001


def test_resumed_events_hide_what_came_after_the_checkpoint(tmp_path):
    with Log(tmp_path, 0) as log:
        for step in (1, 2, 3):
            log.write(step, {"loss": 10.0 + step}, "train")
    time.sleep(1)  # event files are ordered by the second of their start
    with Log(tmp_path, 2) as log:
        log.write(3, {"loss": 3.0}, "train")
    shown = [(event.step, event.value) for event in events(tmp_path).Scalars("train/loss")]
    assert shown == [(1, 11.0), (2, 12.0), (3, 3.0)]
    assert [row["loss"] for row in rows(tmp_path)] == [11.0, 12.0, 3.0]


def test_tensorboard_has_settings_clips_and_validation_loss(config, tmp_path):
    settings = read_settings([config, "train.loggers=[tensorboard]"])
    dataset = loop.Trainer(settings).dataset()
    run = loop.train(settings)
    shown = events(tmp_path / "run")
    assert "validation/loss" in shown.Tags()["scalars"]
    clips = sample_clips(run.data, dataset, training_batches(run.data, 0, 1))
    assert shown.Tags()["audio"] == [f"clips/{number}" for number in (1, 2, 3)]
    for number, (waveform, caption) in enumerate(clips, 1):
        (audio,) = shown.Audio(f"clips/{number}")
        assert audio.sample_rate == SAMPLING_RATE and audio.length_frames == len(waveform)
        (text,) = shown.Tensors(f"clips/{number}/text_summary")
        assert text.tensor_proto.string_val[0].decode() == caption
    plugin = shown.SummaryMetadata("_hparams_/session_start_info").plugin_data
    content = HParamsPluginData.FromString(plugin.content).session_start_info.hparams
    assert content["optim.lr"].number_value == settings.optim.lr
    assert "output" not in content and "data.root" not in content
    assert shown.Scalars("best/UAR")[0].value == pytest.approx(run.best)


def test_unknown_logger_is_refused(config):
    with pytest.raises(SettingsError, match="tensorboard"):
        read_settings([config, "train.loggers=[tensorbord]"])


def test_missing_package_stops_at_the_start_with_what_to_install(config, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    settings = read_settings([config, "train.loggers=[wandb]"])
    with pytest.raises(SettingsError, match=r"pip install .paraclap\[tracking\]"):
        loop.train(settings)
    assert not (tmp_path / "run").exists()


# --- Weights & Biases ----------------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, and nothing of the user's settings."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "wandb-cache"))
    monkeypatch.delenv("WANDB_PROJECT", raising=False)


@pytest.mark.slow
def test_wandb_resumes_an_unfinished_run_and_starts_anew_at_step_zero(tmp_path, offline):
    pytest.importorskip("wandb")
    names = []
    for start, finished in ((0, False), (2, False), (0, True)):
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            log = Log(tmp_path, start, ["wandb"], {"optim.lr": 0.01})
        log.text(start, "captions", "| the speaker sounds angry |")
        for step in (start + 1, start + 2):
            log.write(step, {"loss": 1.0 / step, "norm": None}, "train")
        log.image(start + 2, "validation/confusion", PIXELS)
        names.append(log.run.id)
        log.close(finished)
    assert names[0] == names[1] != names[2]
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("run-*.wandb"))
    assert b"train/loss" in stored and b"optim.lr" in stored
    assert [row["loss"] for row in rows(tmp_path)] == [1.0, 0.5]


@pytest.mark.torture(51, "HF_TOKEN and WANDB_API_KEY in the environment, every logger")
@pytest.mark.parametrize("loggers", ["tensorboard", "wandb"])
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


def test_similarity_plot_has_mean_cosines_of_classes_and_prompts():
    answers = pd.DataFrame(
        {
            "truth": ["b", "b", "a"],
            "cosine.a": [0.1, 0.3, 0.9],
            "cosine.b": [0.5, 0.7, 0.0],
            "cosine.c": [0.0, 0.0, 0.0],
        }
    )
    figure = figures.plot_similarities(answers, "t")
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == [
        "0.90", "0.00", "0.00", "0.20", "0.60", "0.00"
    ]  # fmt: skip
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c"]
    pixels = figures.to_pixels(figure)
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    assert pixels.min() < 50 and pixels.max() == 255


def test_confusion_plot_has_the_counts_of_the_predictions():
    answers = pd.DataFrame({"truth": ["a", "a", "b"], "prediction": ["a", "b", "b"]})
    axes = figures.plot_confusion(answers, ["a", "b"], "t").axes[0]
    assert [text.get_text() for text in axes.texts] == ["50", "50", "100"]


def test_events_that_cannot_be_written_stop_with_the_reason(tmp_path, monkeypatch, capfd):
    hook = threading.excepthook
    log = Log(tmp_path, 0)

    def fail(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", fail)
    with pytest.raises(OutputError, match="events in .* cannot be written: No space left"), log:
        for step in range(50):
            log.write(step, {"loss": 1.0}, "train")
            time.sleep(0.01)
    assert threading.excepthook is hook and "Traceback" not in capfd.readouterr().err
