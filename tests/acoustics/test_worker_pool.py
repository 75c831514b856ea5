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
    """Make decoders of new processes fail, depending on the number of frames of a file."""
    monkeypatch.setenv("PYTHONPATH", faulty_decoder)
    worker_pool.stop_workers()
    yield
    worker_pool.stop_workers()


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
    """Return whether a process of /proc is running."""
    try:
        return "State:\tZ" not in (process / "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def measured(clips, timeout=60.0):
    results = dict(worker_pool.measure_clips(clips, "captions", timeout))
    assert sorted(results) == list(range(len(clips))), "every clip once"
    return {clips[position].file: records for position, records in results.items()}


def test_crash_hang_and_memory_error_affect_only_their_own_clip(faults, clips):
    good = [clip for clip in clips if clip.file.startswith("good")]
    alone = measured(good)
    started = time.monotonic()
    found = measured(clips, timeout=1.5)
    assert time.monotonic() - started > 1.5, "the clip must hang until the timeout"
    for clip in good:
        ((before,), (after,)) = alone[clip.file], found[clip.file]
        assert not after.error
        np.testing.assert_array_equal(before.values, after.values)
    for name, (_, stage, error, message) in EXPECTED.items():
        (record,) = found[name]
        assert (record.stage, record.error) == (stage, error)
        assert message in record.message


def test_worker_is_reused_while_alive(clips):
    worker_pool.stop_workers()
    measured(clips[:2])
    first = worker_pool._IDLE["captions"][0].process.pid
    measured(clips[:2])
    (worker,) = worker_pool._IDLE["captions"]
    assert worker.process.pid == first
    worker.process.kill()
    worker.process.wait()
    assert not measured(clips[:1])["good0.wav"][0].error, "a dead worker is replaced"
    worker_pool.stop_workers()
    assert not any(worker_pool._IDLE.values())


def test_worker_that_cannot_start_is_an_error(monkeypatch):
    worker_pool.stop_workers()
    monkeypatch.setattr(worker_pool, "PROGRAM", "import sys; sys.exit(7)")
    with pytest.raises(worker_pool.WorkerError, match="ended with exit code 7"):
        worker_pool.Worker("captions")


def test_hanging_worker_does_not_outlive_a_killed_parent(faults, clips, tmp_path):
    hang = next(clip for clip in clips if clip.file == "hang.wav")
    parent = os.fork()
    if not parent:
        worker = worker_pool.Worker("captions")
        worker.send(0, hang)
        (tmp_path / "pid.tmp").write_text(str(worker.process.pid))
        os.rename(tmp_path / "pid.tmp", tmp_path / "pid")
        time.sleep(1_000)
    while not (tmp_path / "pid").exists():
        time.sleep(0.05)
    worker = Path("/proc") / (tmp_path / "pid").read_text()
    if not worker.parent.is_dir():
        pytest.skip("no /proc here")
    assert runs(worker)
    os.kill(parent, 9)
    os.waitpid(parent, 0)
    deadline = time.monotonic() + 10
    while runs(worker):
        assert time.monotonic() < deadline, "still there after 10 s"
        time.sleep(0.1)
