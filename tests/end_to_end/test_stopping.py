"""Stopping a run: kills, signals, damaged checkpoints, full disks, workers that die."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.utils.data
from training_runs import ENVIRONMENT, REPOSITORY, damage, same_runs, start, wait_for_step

from paraclap import signals
from paraclap.data.loader import WorkerError
from paraclap.files import atomic_folder
from paraclap.signals import REQUEUE, StopRequests, leave_signals_to_the_parent
from paraclap.training import checkpoint, loop
from paraclap.training.checkpoint import (
    CheckpointError,
    list_checkpoints,
    load_newest,
    save_checkpoint,
)
from paraclap.training.config import SettingsError, read_settings


@pytest.fixture
def one_thread():
    """As many threads here as in the processes that are started: sums depend on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.torture(28, "signal in the middle of a run")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_signal_saves_requeues_and_resumes_exactly(config, tmp_path, one_thread, number):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    loop.train(read_settings([config, f"output={whole}"]))
    workers = "data.workers=2" if number == signal.SIGTERM else "data.workers=0"
    arguments = [config, f"output={parts}", workers, "train.save_every=1"]
    process = start(*arguments)
    wait_for_step(process, parts)
    os.killpg(process.pid, number)  # as schedulers do: its workers get it too
    _, printed = process.communicate(timeout=120)
    assert process.returncode == (130 if number == signal.SIGINT else REQUEUE), printed
    assert f"{number.name}: " in printed and "saved at step" in printed
    step = load_newest(parts / "checkpoints")["step"]
    assert 1 <= step and not (parts / "last").exists()
    loop.train(read_settings(arguments))
    assert same_runs(whole, parts)


@pytest.mark.torture(26, "kill -9 after the first checkpoint")
def test_killed_process_resumes_to_the_same_weights(config, tmp_path, one_thread):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    loop.train(read_settings([config, f"output={whole}"]))
    process = start(config, f"output={parts}", "train.save_every=1")
    wait_for_step(process, parts)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (parts / "last").exists()  # it was killed before the end
    loop.train(read_settings([config, f"output={parts}"]))
    assert same_runs(whole, parts)


class Slow(torch.utils.data.Dataset):
    """Numbers that take a while."""

    def __len__(self):
        return 20

    def __getitem__(self, number):
        time.sleep(0.05)
        return number


def read_while_the_group_gets(number, init):
    """Read items by two workers, while all processes of this group get a signal."""
    os.setpgrp()
    with StopRequests() as requests:
        loader = torch.utils.data.DataLoader(Slow(), num_workers=2, worker_init_fn=init)
        read = []
        for item in loader:
            if item == 2:
                subprocess.run(["sh", "-c", f"kill -{number.value} -{os.getpid()}"])
            read.append(int(item))
    assert requests.received == number
    return read


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_workers_continue_when_all_processes_get_a_signal(together, number):
    run = together(1, read_while_the_group_gets, number, leave_signals_to_the_parent)
    assert run.results == [list(range(20))], run.errors


def exit_code_after(number, is_protected):
    """Exit code of a process that gets a signal from another one than its parent."""
    started, finish = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        signal.signal(number, signal.SIG_DFL)
        if is_protected:
            leave_signals_to_the_parent(0)
        os.write(started[1], b".")
        os.read(finish[0], 1)
        os._exit(7)
    os.read(started[0], 1)
    subprocess.run(["sh", "-c", f"kill -{number.value} {child}"], check=True)
    os.write(finish[1], b".")
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_signals_end_a_process_unless_it_leaves_them_to_its_parent(number):
    assert exit_code_after(number, is_protected=True) == 7
    assert exit_code_after(number, is_protected=False) == -number


@pytest.mark.parametrize("grace, code", [(60.0, 7), (0.0, 0)])
def test_workers_on_systems_without_sigwaitinfo_end_after_a_while(monkeypatch, grace, code):
    """macOS does not report which process sent a signal."""
    monkeypatch.delattr(signal, "sigwaitinfo")
    monkeypatch.setattr(signals, "GRACE", grace)
    monkeypatch.setattr(os, "read", read_slowly)
    assert exit_code_after(signal.SIGTERM, is_protected=True) == code


def read_slowly(descriptor, count, read=os.read):
    content = read(descriptor, count)
    time.sleep(0.2)  # the signal has its effect
    return content


def end_a_worker():
    loader = torch.utils.data.DataLoader(
        Slow(), num_workers=1, worker_init_fn=leave_signals_to_the_parent
    )
    iterator = iter(loader)
    next(iterator)
    (worker,) = iterator._workers
    worker.terminate()
    worker.join(10)
    return worker.exitcode


def test_a_worker_is_ended_by_its_parent(together):
    assert together(1, end_a_worker).results == [0]


@pytest.mark.torture(28, "SIGUSR1 between a step and its validation")
def test_a_step_stopped_before_its_validation_is_validated_on_resuming(
    config, tmp_path, one_thread, monkeypatch
):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    loop.train(read_settings([config, f"output={whole}"]))
    original = loop.Trainer.training_step

    def step_with_signal(self, batch):
        values = original(self, batch)
        if self.step == 4:  # validation is due after this step
            os.kill(os.getpid(), signal.SIGUSR1)
        return values

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "training_step", step_with_signal)
        with pytest.raises(loop.Stopped) as stopped:
            loop.train(read_settings([config, f"output={parts}"]))
    assert stopped.value.code == REQUEUE
    assert load_newest(parts / "checkpoints")["validated"] < 4
    loop.train(read_settings([config, f"output={parts}"]))
    assert same_runs(whole, parts)


@pytest.mark.torture(28, "SIGTERM while a checkpoint is written")
def test_signal_while_saving_waits_for_the_whole_checkpoint(config, tmp_path, monkeypatch):
    original = checkpoint.save_checkpoint

    def save_with_signal(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        original(*arguments)

    monkeypatch.setattr(checkpoint, "save_checkpoint", save_with_signal)
    with pytest.raises(loop.Stopped):
        loop.train(read_settings([config]))
    assert load_newest(tmp_path / "run" / "checkpoints")["step"] == 3


@pytest.fixture
def whole_and_stopped(config, tmp_path):
    """A whole run, and one of the same settings whose checkpoints are of steps 3, 6 and 8."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    loop.train(read_settings([config, f"output={whole}", "train.keep=9"]))
    shutil.copytree(whole, parts)
    shutil.rmtree(parts / "last")
    return whole, parts


@pytest.mark.torture(29, "newest checkpoint truncated, flipped, empty, without hash")
def test_damaged_checkpoints_are_skipped_and_the_result_is_equal(
    config, whole_and_stopped, happened
):
    whole, parts = whole_and_stopped
    for how in ("truncated", "flipped", "empty", "unhashed"):
        shutil.rmtree(parts)
        shutil.copytree(whole, parts)
        newest = list_checkpoints(parts / "checkpoints")[-1]
        damage(newest, how)
        with pytest.warns(UserWarning, match=newest.name):
            loop.train(read_settings([config, f"output={parts}", "train.keep=9"]))
        assert same_runs(whole, parts)
    happened("warned of, the one before it was taken; losses and weights equal to the bit")


@pytest.mark.torture(32, "every checkpoint damaged")
def test_a_run_with_damaged_checkpoints_alone_does_not_start_anew(config, whole_and_stopped):
    _, parts = whole_and_stopped
    for path in list_checkpoints(parts / "checkpoints"):
        damage(path, "flipped")
    with pytest.warns(UserWarning), pytest.raises(CheckpointError, match="step_00000003"):
        loop.train(read_settings([config, f"output={parts}", "train.keep=9"]))


@pytest.mark.torture(33, "audio changed between start and resume")
def test_changed_audio_is_refused_on_resuming_unless_forced(config, corpus, tmp_path, capsys):
    copy = tmp_path / "corpus"
    shutil.copytree(corpus, copy)
    arguments = [config, f"data.root={copy}", "train.epochs=1"]
    run = loop.train(read_settings(arguments))
    file = copy / run.data.train_table.index[0][0]
    file.write_bytes(file.read_bytes() + b"\0\0")
    with pytest.raises(SettingsError, match="the audio"):
        loop.train(read_settings(arguments))
    loop.train(read_settings([*arguments, "train.force=true"]))
    assert "resumed although changed: the audio" in capsys.readouterr().out


LIMIT = """
import resource, signal, sys, torch
from pathlib import Path
from paraclap.training.checkpoint import save_checkpoint
folder = Path(sys.argv[1])
state = {"step": 1, "weights": torch.arange(50_000)}
save_checkpoint(folder, 1, state, 2)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
save_checkpoint(folder, 2, state, 2)
"""


@pytest.mark.torture(31, "disk full while a checkpoint is written (RLIMIT_FSIZE)")
def test_full_disk_keeps_the_last_checkpoint(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", LIMIT, str(tmp_path)],
        cwd=REPOSITORY,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 1
    assert "step_00000002 cannot be written" in result.stderr and "File too large" in result.stderr
    assert "step_00000001. Free disk space" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]
    assert torch.equal(load_newest(tmp_path)["weights"], torch.arange(50_000))


@pytest.mark.torture(31, "disk full while metrics.jsonl is written (/dev/full)")
def test_log_that_cannot_be_written_stops_with_the_reason(config, tmp_path, monkeypatch):
    output = tmp_path / "run"

    class FullLog(loop.Log):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.path = Path("/dev/full")

    monkeypatch.setattr(loop, "Log", FullLog)
    run = loop.Trainer(read_settings([config]))
    run.save()
    with pytest.raises(OSError, match="No space left"):
        loop.train(read_settings([config]))
    assert [path.name for path in list_checkpoints(output / "checkpoints")] == ["step_00000000"]
    assert load_newest(output / "checkpoints")["step"] == 0


@pytest.mark.torture(30, "kill between the two renames of a folder")
def test_a_kill_between_two_renames_loses_nothing(tmp_path):
    (tmp_path / ".best.old").mkdir()
    (tmp_path / ".best.old" / "file").write_text("good")
    with pytest.raises(OSError, match="full"), atomic_folder(tmp_path / "best"):
        raise OSError("full")
    assert (tmp_path / "best" / "file").read_text() == "good"


@pytest.mark.torture(30, "kill -9 while a checkpoint is written")
@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_kill_while_saving_always_leaves_a_checkpoint(tmp_path, kills, happened):
    state = {"weights": torch.zeros(1_000_000)}
    save_checkpoint(tmp_path, 0, {"step": 0, **state}, 2)
    rng, newest = random.Random(3), 0
    done = 0
    while done < kills or not newest:  # a busy machine may take longer for the first save
        done += 1
        child = os.fork()
        if child == 0:  # saves until it is killed
            for step in range(newest + 1, newest + 10_000):
                save_checkpoint(tmp_path, step, {"step": step, **state}, 2)
        time.sleep(rng.uniform(0.02, 0.2) * max(1, done / kills))
        os.kill(child, signal.SIGKILL)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        step = load_newest(tmp_path)["step"]  # a warning would mean that a half one has its name
        assert step >= newest
        newest = step
    happened(f"{done} kills among {newest} saves; the newest whole checkpoint loaded every time")


class Faulty(torch.utils.data.Dataset):
    """Items of another dataset; workers that read row 7 crash or hang."""

    def __init__(self, inner, fault):
        self.inner, self.fault = inner, fault

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, draw):
        if draw[1] == 7:
            os.kill(os.getpid(), signal.SIGSEGV) if self.fault == "crash" else time.sleep(600)
        return self.inner[draw]

    def files(self, draws):
        return self.inner.files(draws)


@pytest.mark.torture(42, "worker of the loader dies or hangs")
@pytest.mark.parametrize(
    "fault, timeout, message", [("crash", 300, "Segmentation|exited"), ("hang", 8, "timed out")]
)
def test_lost_worker_is_an_error_that_names_its_clips(config, monkeypatch, fault, timeout, message):
    original = loop.Trainer.dataset
    monkeypatch.setattr(loop.Trainer, "dataset", lambda self: Faulty(original(self), fault))
    run = loop.Trainer(read_settings([config]))
    file = run.data.train_table.index[7][0]
    arguments = [config, "data.workers=1", f"data.timeout={timeout}", "train.resume=never"]
    with pytest.raises(WorkerError, match=message) as stopped:
        loop.train(read_settings(arguments))
    assert file in str(stopped.value)


def killed_run(arguments, run, kills, seed):
    """Give the same command until it ends by itself, killing it `kills` times on the way."""
    rng, done = random.Random(seed), 0
    while True:
        process = start(*arguments)
        known = {p.name for p in list_checkpoints(run / "checkpoints")}
        while done < kills and process.poll() is None:
            if {p.name for p in list_checkpoints(run / "checkpoints")} - known:
                time.sleep(rng.uniform(0, 0.3))
                process.kill()
                break
            time.sleep(0.005)
        _, printed = process.communicate(timeout=300)
        if process.returncode == 0:
            return done
        assert process.returncode == -signal.SIGKILL, printed
        done += 1


@pytest.mark.torture(26, "kill -9 at 20 random moments, number of workers")
@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_twenty_kills_at_random_moments_change_no_bit(
    config, tmp_path, one_thread, workers, happened
):
    arguments = [config, "train.epochs=20", "train.save_every=1", f"data.workers={workers}"]
    arguments.append("train.loggers=[tensorboard]")
    whole, parts, other = (tmp_path / name for name in ("whole", "parts", "other"))
    loop.train(read_settings([*arguments, f"output={whole}"]))
    assert killed_run([*arguments, f"output={parts}"], parts, 20, seed=workers) == 20
    assert same_runs(whole, parts)
    loop.train(read_settings([*arguments, f"output={other}", "train.seed=1"]))
    assert not same_runs(whole, other)  # control of the comparison
    steps = load_newest(parts / "checkpoints")["step"]
    happened(
        f"20 kills in {steps} steps: losses and weights equal to the bit; another seed differs"
    )
