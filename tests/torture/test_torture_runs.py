"""A training run is killed, or its disk is full, at each kind of change of the file system."""

import re
import signal

import pytest
import torch
from fault_injection import run
from training_runs import same, weights

from paraclap.cli import train

pytestmark = pytest.mark.slow


@pytest.fixture
def command(config, tmp_path, monkeypatch):
    """A function that returns the arguments of a run in a folder, with all that a run writes."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)  # a pool of threads does not survive a fork

    def arguments(folder):
        return [
            config,
            f"output={folder / 'run'}",
            f"data.waveform_cache={folder / 'cache'}",
            f"data.embeddings={folder / 'embeddings'}",
            "model.freeze=[audio]",
            "data.crop=centre",
            "train.loggers=[tensorboard]",
            *("train.epochs=1", "train.save_every=2", "train.validate_every=2", "train.keep=1"),
        ]

    return arguments


def kinds(changes):
    """Number of the first change of each kind: events and paths without numbers."""
    first = {}
    for number, change in enumerate(changes):
        first.setdefault(re.sub(r"[0-9a-f]{6,}|\d+", "*", change), number)
    return sorted(first.values())


@pytest.mark.parametrize("fault", ["kill", "full"])
def test_interrupted_runs_continue_to_the_same_model(command, tmp_path, fault, happened):
    (tmp_path / "whole").mkdir()
    whole = run(train.main, command(tmp_path / "whole"), tmp_path / "whole")
    assert whole.code == 0, whole.errors
    places = kinds(whole.changes)
    for at in places:
        folder = tmp_path / f"{fault}{at}"
        folder.mkdir()
        broken = run(train.main, command(folder), folder, fault, at)
        change = whole.changes[at]
        if fault == "kill":
            assert broken.code == -signal.SIGKILL, change
        assert "Traceback" not in broken.errors, (change, broken.errors)
        if broken.code == 0:  # the change was removed after the fault, or is not needed
            assert fault == "full"
        again = run(train.main, command(folder), folder)
        assert again.code == 0, (change, again.errors)
        for name in ("best", "last"):
            expected, found = (
                weights(tmp_path / "whole" / "run", name),
                weights(folder / "run", name),
            )
            assert same(expected, found), (change, name)
    happened(f"{len(places)} kinds of {len(whole.changes)} changes: all continue to the same model")
