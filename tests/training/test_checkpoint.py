"""Checkpoints: complete or absent, damaged ones skipped, no code executed from data."""

import pickle

import pytest
import torch
from training_runs import damage

from paraclap.files import atomic_folder
from paraclap.training.checkpoint import (
    CheckpointError,
    list_checkpoints,
    load_checkpoint,
    load_newest,
    save_checkpoint,
)


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
