import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from paraclap.files import OutputError
from paraclap.locks import InUseError, lock

REPOSITORY = Path(__file__).resolve().parents[1]
HOLDER = """
import sys, time
from paraclap.locks import lock
with lock(sys.argv[1], shared=len(sys.argv) > 2):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def hold():
    """A function that lets another process hold a lock, and returns the process."""
    processes = []

    def start(path, *options):
        command = [sys.executable, "-P", "-c", HOLDER, str(path), *options]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
        processes.append(process)
        assert process.stdout.readline() == b"held\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def test_lock_names_its_owner_and_is_lost_by_a_killed_one(tmp_path, hold):
    process = hold(tmp_path)
    with pytest.raises(InUseError, match=f"is in use by process {process.pid} on ") as caught:
        with lock(tmp_path):
            pass
    assert str(tmp_path) in str(caught.value)
    process.kill()
    process.wait()
    with lock(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    assert not list(tmp_path.iterdir()), "a released lock leaves no file"


def test_file_has_its_own_lock(tmp_path, hold):
    hold(tmp_path / "a.csv")
    with lock(tmp_path / "b.csv"), lock(tmp_path):
        pass
    with pytest.raises(InUseError), lock(tmp_path / "a.csv"):
        pass


def test_shared_locks_exclude_only_the_exclusive_one(tmp_path, hold):
    hold(tmp_path, "shared")
    with lock(tmp_path, shared=True):
        pass
    with pytest.raises(InUseError), lock(tmp_path):
        pass


def test_lock_is_not_inherited_by_a_forked_process(tmp_path):
    with lock(tmp_path):
        if not (child := os.fork()):
            time.sleep(60)
            os._exit(0)
    with lock(tmp_path):
        pass
    os.kill(child, 9)
    os.waitpid(child, 0)


def test_waiting_ends_with_the_other_process(tmp_path, hold, capsys):
    process = hold(tmp_path)
    command = ["sh", "-c", f"sleep 0.5; kill -9 {process.pid}"]
    with subprocess.Popen(command), lock(tmp_path, wait=True):
        pass
    assert f"waiting for process {process.pid} on" in capsys.readouterr().out


def test_folder_that_is_missing_or_cannot_be_written_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="No such file"), lock(tmp_path / "no" / "a.csv"):
        pass
