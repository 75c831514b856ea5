"""Training in several processes: results of one process, and faults of one process."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from training_runs import (
    CPU,
    ENVIRONMENT,
    PLAIN,
    REPOSITORY,
    rows,
    same_runs,
    trained,
    wait_for_step,
)

from paraclap import distributed
from paraclap.audio.augment import TRANSFORMS
from paraclap.audio.reading import AudioError
from paraclap.data.dataset import CaptionDataset
from paraclap.signals import REQUEUE
from paraclap.training import checkpoint, loop, trainer
from paraclap.training.checkpoint import list_checkpoints, load_newest
from paraclap.training.config import read_settings


@pytest.fixture
def impatient(monkeypatch):
    """Shorter waiting times, but long enough for a busy machine."""
    for name, seconds in {"BEAT": 0.3, "PATIENCE": 1.0, "GRACE": 5.0}.items():
        monkeypatch.setattr(distributed, name, seconds)


# --- The same as one process ---------------------------------------------------------------------


def gradients(arguments):
    """Loss and gradients of the first batch in float64."""
    with distributed.processes(CPU, 60):
        run = loop.Trainer(read_settings(arguments))
        run.model.double().train()
        batch = next(iter(run.loader()))
        batch["input_values"] = batch["input_values"].double()
        run.learner.objective.double()
        loss, _ = run.learner.gradients.backward(batch)
        found = {n: p.grad for n, p in run.model.named_parameters() if p.requires_grad}
        return {"loss": loss, "gradients": found, "rows": batch["row"], "own": batch["own"]}


@pytest.mark.parametrize(
    "choices",
    [
        ["loss.name=sigmoid", "data.class_sampling_exponent=0.5"],
        ["loss.positives=own", "train.micro_batch=2"],
        ["loss.class_prompts=0.5", "loss.alignment=0.5"],
    ],
    ids=str,
)
def test_loss_and_gradients_equal_those_of_one_process(
    together, config, captions, tmp_path, choices
):
    table = pd.read_parquet(captions)
    table["corpus"] = np.resize(["one", "two"], len(table))
    table.to_parquet(tmp_path / "two corpora.parquet")
    arguments = [
        *(config, *PLAIN, *choices, "data.crop_seconds=0.4"),
        f"data.captions={tmp_path / 'two corpora.parquet'}",
    ]
    (one,) = together(1, gradients, arguments).results
    assert one["own"] == [0, 1, 2, 3, 4]
    for world in (2, 3):
        run = together(world, gradients, arguments)
        assert run.codes == [0] * world, run.errors
        assert sum((result["own"] for result in run.results), []) == one["own"]  # 5 in 2 or 3 parts
        for result in run.results:
            assert result["rows"] == one["rows"]
            assert torch.isclose(result["loss"], one["loss"], rtol=1e-9, atol=0)
            for name, expected in one["gradients"].items():
                found = result["gradients"][name]
                if expected is None:
                    assert found is None
                else:
                    assert (found - expected).norm() <= 1e-6 * expected.norm() + 1e-12, name


UNFROZEN = ["model.freeze=[audio,text]", "train.unfreeze={audio: 4, text: 5}", "data.crop=centre"]


AUGMENTED = [f"data.augment.{name}=0.5" for name in TRANSFORMS]


@pytest.mark.parametrize("choices", [[], UNFROZEN, AUGMENTED], ids=["all", "unfrozen", "augmented"])
def test_order_and_validation_equal_those_of_one_process(together, config, tmp_path, choices):
    seen = {}
    for world in (1, 3):
        arguments = [config, *PLAIN, f"output={tmp_path / str(world)}", "data.crop_seconds=0.4"]
        arguments += choices
        run = together(world, trained, arguments)
        assert run.codes == [0] * world, run.errors
        assert all(result == run.results[0] for result in run.results)  # weights are the same
        seen[world] = rows(tmp_path / str(world))
    assert len(seen[1]) == len(seen[3]) == 8 + 2
    for one, several in zip(seen[1], seen[3], strict=True):
        assert one.keys() == several.keys()
        compared = ["loss", "logit_scale", "matches_per_clip", "UAR", "R@1", "validation_loss"]
        for name in set(compared) & one.keys():
            assert one[name] == pytest.approx(several[name], rel=1e-3), name


# --- Stopping and resuming ------------------------------------------------------------------------


def stopped_at(step, number, arguments):
    """Train; the last process gets a signal in this step."""
    original = loop.Trainer.training_step

    def with_signal(self, batch):
        values = original(self, batch)
        if self.step == step and distributed.rank() == distributed.world_size() - 1:
            os.kill(os.getpid(), number)
        return values

    loop.Trainer.training_step = with_signal  # of a forked process
    return trained(arguments)


@pytest.mark.parametrize(
    "number, choices",
    [(signal.SIGTERM, []), (signal.SIGUSR1, []), (signal.SIGTERM, UNFROZEN)],
    ids=["SIGTERM", "SIGUSR1", "before unfreezing"],
)
def test_a_signal_to_one_process_stops_all_and_the_run_resumes_exactly(
    together, config, tmp_path, number, choices
):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    config = [config, *choices]
    assert together(3, trained, [*config, f"output={whole}"]).codes == [0, 0, 0]
    arguments = [*config, f"output={parts}"]
    run = together(3, stopped_at, 4, number, arguments)  # 4: a validation is due
    assert run.codes == [REQUEUE] * 3, run.errors
    assert all(f"{number.name}: " in text and "at step 4 of 8" in text for text in run.results)
    assert load_newest(parts / "checkpoints")["step"] == 4
    assert load_newest(parts / "checkpoints")["validated"] < 4
    run = together(3, trained, arguments)
    assert run.codes == [0, 0, 0], run.errors
    assert same_runs(whole, parts)


# --- Faults --------------------------------------------------------------------------------------


def faulty(fault, arguments):
    FAULTS[fault]()
    return trained(arguments)


def in_step(act):
    """Let `act(batch)` happen in the third step of process 1."""
    original = loop.Trainer.training_step

    def step(self, batch):
        if self.step == 2 and distributed.rank() == 1:
            act(batch)
        return original(self, batch)

    loop.Trainer.training_step = step


def in_save(act):
    original = checkpoint.save_checkpoint

    def save(*arguments):
        act()
        original(*arguments)

    checkpoint.save_checkpoint = save


def full():
    raise OSError(errno.ENOSPC, "No space left on device")


FAULTS = {
    "nan": lambda: in_step(lambda batch: batch["input_values"].fill_(torch.nan)),
    "killed": lambda: in_step(lambda batch: os.kill(os.getpid(), signal.SIGKILL)),
    "hangs": lambda: in_step(lambda batch: time.sleep(1000)),
    "full": lambda: in_save(full),
}


def test_nan_in_one_process_is_skipped_by_all(together, config, tmp_path):
    run = together(2, faulty, "nan", [config])
    assert run.codes == [0, 0], run.errors
    assert run.results[0] == run.results[1]
    steps = [row for row in rows(tmp_path / "run") if "loss" in row]
    assert [row["loss"] is None for row in steps] == [False, False, True] + [False] * 5
    assert [row["skipped"] for row in steps] == [0, 0] + [1] * 6
    assert len(json.loads((tmp_path / "run" / trainer.DUMP).read_text())["clips"]) == 5


def test_a_full_disk_of_process_0_stops_all_with_the_reason(together, impatient, config, tmp_path):
    run = together(3, faulty, "full", [config])
    assert run.codes == [1, 1, 1]
    assert run.results[0] == "OSError: [Errno 28] No space left on device"
    for result in run.results[1:]:
        assert result == "PeerError: process 0: OSError: [Errno 28] No space left on device"
    assert not list_checkpoints(tmp_path / "run" / "checkpoints")


@pytest.mark.parametrize(
    "fault, codes, reason",
    [
        ("killed", [1, -signal.SIGKILL], "process 1 exited without an error message"),
        ("hangs", [1, 1], "process 1 did not answer in time"),
    ],
)
def test_a_lost_process_stops_all_with_the_reason(
    together, impatient, config, fault, codes, reason
):
    run = together(2, faulty, fault, [config, "train.timeout=10"])
    assert run.codes == codes, run.errors
    assert f"PeerError: {reason}" in run.results[0]


def test_an_unreadable_clip_of_one_process_is_named_by_all(together, impatient, config):
    (probe,) = together(1, gradients, [config]).results
    row = probe["rows"][-1]  # of the last process

    def unreadable(arguments):
        original = CaptionDataset.__getitem__

        def read(self, draw):
            if draw[1] == row:
                raise AudioError("silent", f"row {row}: no sound")
            return original(self, draw)

        CaptionDataset.__getitem__ = read
        return trained(arguments)

    run = together(3, unreadable, [config])
    assert run.codes == [1, 1, 1]
    assert all(f"AudioError: row {row}: no sound" in result for result in run.results), run.results


@pytest.mark.parametrize(
    "settings",
    [
        ["model.freeze=[audio,text]"],
        ["model.freeze=[audio]", "data.crop=centre"],
        ["model.audio.config.layerdrop=0.5", "model.audio.config.mask_time_prob=0.0"],
    ],
    ids=["frozen", "precomputed", "layerdrop"],
)
def test_parameters_unused_in_some_steps_are_allowed(together, config, settings, tmp_path):
    run = together(2, trained, [config, *settings])
    assert run.codes == [0, 0], run.errors
    assert run.results[0] == run.results[1]
    assert len(rows(tmp_path / "run")) == 10


def test_more_processes_than_clips_in_a_batch_are_refused(together, impatient, config):
    run = together(3, trained, [config, "train.batch_size=2"])
    assert run.codes == [1, 1, 1]
    assert all("each of 3 processes" in result for result in run.results)


# --- torchrun ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_torchrun_passes_the_signal_on_and_the_run_resumes_exactly(
    together, config, tmp_path, number
):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    longer = [config, "train.epochs=20", "train.validate_every=1000"]
    assert together(2, trained, [*longer, f"output={whole}"], limit=300).codes == [0, 0]
    command = [Path(sys.executable).with_name("torchrun"), "--nproc-per-node=2", "--standalone"]
    command += ["--signals-to-handle=SIGTERM,SIGUSR1", "train.py", *longer, f"output={parts}"]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    wait_for_step(process, parts)
    process.send_signal(number)
    _, printed = process.communicate(timeout=300)
    assert process.returncode != 0 and "saved at step" in printed
    assert not (parts / "last").exists()
    assert together(2, trained, [*longer, f"output={parts}"], limit=300).codes == [0, 0]
    assert same_runs(whole, parts)
