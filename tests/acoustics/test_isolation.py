import os
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from paraclap.acoustics import worker_pool
from paraclap.acoustics.extraction import Clip

EXPECTED = {
    "segfault.wav": (8_001, "process", "crash", "SIGSEGV"),
    "abort.wav": (8_002, "process", "crash", "SIGABRT"),
    "exit.wav": (8_003, "process", "crash", "exit code 3"),
    "hang.wav": (8_004, "process", "timeout", "no answer within"),
    "memory.wav": (8_005, "read", "MemoryError", ""),
}


@pytest.fixture
def faults(faulty_decoder, monkeypatch):
    """Let a file's number of frames decide what its decoder does in processes started from now."""
    monkeypatch.setenv("PYTHONPATH", faulty_decoder)
    worker_pool.stop_children()
    yield
    worker_pool.stop_children()


@pytest.fixture
def clips(tmp_path, voice):
    """Three good clips, five bad ones, three good ones."""
    root = tmp_path / "clips"
    root.mkdir()
    names = [f"good{number}.wav" for number in range(6)]
    for number, name in enumerate(names):
        soundfile.write(root / name, voice(0.4, f0=100 + 20 * number), 16_000)
    for name, (frames, *_) in EXPECTED.items():
        soundfile.write(root / name, voice(1.0)[:frames], 16_000)
    return [Clip(str(root), name) for name in [*names[:3], *EXPECTED, *names[3:]]]


def runs(process: Path) -> bool:
    """Tell whether a process of /proc is neither gone nor a zombie."""
    try:
        return "State:\tZ" not in (process / "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def measured(clips, timeout=60.0):
    results = dict(worker_pool.measure_clips(clips, "captions", timeout))
    assert sorted(results) == list(range(len(clips))), "every clip once"
    return {clips[position].file: records for position, records in results.items()}


def test_crash_hang_and_memory_cost_only_their_clip(faults, clips):
    good = [clip for clip in clips if clip.file.startswith("good")]
    alone = measured(good)
    started = time.monotonic()
    found = measured(clips, timeout=1.5)
    # Beside others it may be a suspect already, when one of these ends their process.
    assert time.monotonic() - started > 1.5, "the hanging clip must have hung, alone"
    for clip in good:
        ((before,), (after,)) = alone[clip.file], found[clip.file]
        assert not after.error
        np.testing.assert_array_equal(before.values, after.values)
    for name, (_, stage, error, message) in EXPECTED.items():
        (record,) = found[name]
        assert (record.stage, record.error) == (stage, error)
        assert message in record.message


def test_child_is_used_again(clips):
    worker_pool.stop_children()
    measured(clips[:2])
    first = worker_pool._CHILDREN.idle["captions"][0].process.pid
    measured(clips[:2])
    (child,) = worker_pool._CHILDREN.idle["captions"]
    assert child.process.pid == first
    child.process.kill()
    child.process.wait()
    assert not measured(clips[:1])["good0.wav"][0].error, "a dead one is replaced"
    worker_pool.stop_children()
    assert not worker_pool._CHILDREN.idle


def test_child_that_cannot_start_is_an_error(monkeypatch):
    worker_pool.stop_children()
    monkeypatch.setattr(worker_pool, "PROGRAM", "import sys; sys.exit(7)")
    with pytest.raises(worker_pool.ChildError, match="ended with exit code 7"):
        worker_pool.Child("captions")


def test_hanging_child_does_not_outlive_a_killed_parent(faults, clips, tmp_path):
    hang = next(clip for clip in clips if clip.file == "hang.wav")
    parent = os.fork()
    if not parent:
        child = worker_pool.Child("captions")
        child.send(0, hang)
        (tmp_path / "pid.tmp").write_text(str(child.process.pid))
        os.rename(tmp_path / "pid.tmp", tmp_path / "pid")
        time.sleep(1_000)
    while not (tmp_path / "pid").exists():
        time.sleep(0.05)
    child = Path("/proc") / (tmp_path / "pid").read_text()
    if not child.parent.is_dir():
        pytest.skip("no /proc here")
    assert runs(child), "it must be there to be gone"
    os.kill(parent, 9)
    os.waitpid(parent, 0)
    deadline = time.monotonic() + 10
    while runs(child):
        assert time.monotonic() < deadline, "still there after 10 s"
        time.sleep(0.1)
