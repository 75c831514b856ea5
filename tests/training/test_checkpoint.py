"""Checkpoints: complete or absent, damaged ones skipped, no code executed from data."""

import pickle
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from training_runs import FROZEN, damage, same_runs, train_until, weights

from paraclap.files import atomic_folder
from paraclap.settings import SettingsError
from paraclap.training import loop
from paraclap.training.checkpoint import (
    CheckpointError,
    list_checkpoints,
    load_checkpoint,
    load_newest,
    save_checkpoint,
)
from paraclap.training.config import read_settings
from tiny_models import save_encoders


@pytest.fixture
def folder(tmp_path):
    """Checkpoints of steps 1, 2 and 3."""
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, {"step": step, "weights": torch.full((3,), step)}, keep=3)
    return tmp_path


def test_newest_checkpoint_is_loaded(folder):
    state = load_newest(folder)
    assert state["step"] == 3
    assert torch.equal(state["weights"], torch.full((3,), 3))


def test_only_the_newest_checkpoints_are_kept(folder):
    save_checkpoint(folder, 4, {"step": 4}, keep=2)
    assert [path.name for path in list_checkpoints(folder)] == ["step_00000003", "step_00000004"]


def test_no_checkpoints_is_not_an_error(tmp_path):
    assert load_newest(tmp_path) is None


@pytest.mark.torture(29, "checkpoint damaged by")
@pytest.mark.parametrize("how", ["truncated", "flipped", "empty", "unhashed"])
def test_damaged_checkpoint_is_skipped_with_a_warning(folder, how):
    damage(folder / "step_00000003", how)
    with pytest.warns(UserWarning, match="step_00000003"):
        assert load_newest(folder)["step"] == 2


@pytest.mark.torture(32, "every checkpoint flipped")
def test_damaged_checkpoints_alone_are_an_error(folder):
    for path in list_checkpoints(folder):
        damage(path, "flipped")
    with pytest.warns(UserWarning), pytest.raises(CheckpointError, match="step_00000001"):
        load_newest(folder)


def test_failed_write_keeps_the_old_folder_and_leaves_no_files(tmp_path):
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "file").write_text("old")
    with pytest.raises(OSError, match="disk full"), atomic_folder(tmp_path / "best") as new:
        (new / "file").write_text("half")
        raise OSError("disk full")
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
    assert (tmp_path / "best" / "file").read_text() == "old"
    with atomic_folder(tmp_path / "best") as new:
        (new / "file").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
    assert (tmp_path / "best" / "file").read_text() == "new"


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.torture(46, "code in a checkpoint of a run")
def test_code_in_a_checkpoint_is_not_executed(folder, tmp_path):
    marker = tmp_path / "executed"
    pickle.loads(pickle.dumps(Payload(str(marker))))
    assert marker.exists()  # the payload works
    marker.unlink()
    save_checkpoint(folder, 9, {"step": Payload(str(marker))}, keep=9)
    with pytest.raises(CheckpointError, match="more than tensors"):
        load_checkpoint(folder / "step_00000009")
    assert not marker.exists()


# --- Frozen encoders -----------------------------------------------------------------------------


@pytest.fixture
def frozen_run(config, tmp_path):
    """Arguments of a run with frozen pretrained encoders, and their folder."""
    encoders = save_encoders(tmp_path / "encoders")
    settings = yaml.safe_load(Path(config).read_text())
    for branch, name in (("audio", "tiny-speech"), ("text", "tiny-words")):
        settings["model"][branch] = {"name": str(encoders / name)}
    Path(config).write_text(yaml.safe_dump(settings))
    return [config, "model.normalise_waveform=false", *FROZEN], encoders


def test_checkpoints_hold_no_frozen_encoders_and_models_do(frozen_run, tmp_path, monkeypatch):
    arguments, encoders = frozen_run
    whole, stopped = f"output={tmp_path / 'whole'}", f"output={tmp_path / 'stopped'}"
    loop.train(read_settings([*arguments, whole]))
    train_until(monkeypatch, 5, [*arguments, stopped])
    checkpoint = load_newest(tmp_path / "stopped" / "checkpoints")
    assert not [name for name in checkpoint["model"] if ".base." in name]
    assert set(checkpoint["constant"]) == {"audio_branch.base", "text_branch.base"}
    loop.train(read_settings([*arguments, stopped]))
    assert same_runs(tmp_path / "whole", tmp_path / "stopped")
    assert [name for name in weights(tmp_path / "stopped") if ".base." in name]


def test_other_frozen_encoders_are_refused_on_resume(frozen_run, monkeypatch):
    arguments, encoders = frozen_run
    train_until(monkeypatch, 5, arguments)
    path = encoders / "tiny-words" / "model.safetensors"
    tensors = load_file(path)
    tensors["embeddings.word_embeddings.weight"] += 1e-6
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(SettingsError, match=r"frozen text_branch.base are not those of the check"):
        loop.train(read_settings(arguments))


def test_encoders_that_are_unfrozen_later_are_in_checkpoints(frozen_run, monkeypatch, tmp_path):
    arguments, _ = frozen_run
    arguments = [*arguments, "train.unfreeze={audio: 4}"]
    train_until(monkeypatch, 3, arguments)
    checkpoint = load_newest(tmp_path / "run" / "checkpoints")
    assert list(checkpoint["constant"]) == ["text_branch.base"]
    assert any(name.startswith("audio_branch.base.") for name in checkpoint["model"])
