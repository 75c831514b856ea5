"""features.py on real Dask and Ray clusters of this machine; skipped where they are not installed.

The workers are started as on a cluster: in another folder, without this repository in their path.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from paraclap.acoustics import merge
from paraclap.cli import features

REPOSITORY = Path(__file__).resolve().parents[2]
OPTIONS = ["--feature-set", "captions", "--chunk", "4"]


@pytest.fixture
def expected(toy, tmp_path):
    """Bytes of the table of `toy` and a bad file, as one local worker writes it."""
    (toy / "page.wav").write_text("<html></html>")
    output = tmp_path / "local.parquet"
    arguments = [toy, "-o", output, *OPTIONS, "--workers", 1, "--max-reject", 0.1]
    assert features.main([str(argument) for argument in arguments]) == 0
    return output.read_bytes()


def start(toy, output, *options):
    command = [sys.executable, REPOSITORY / "features.py", toy, "-o", output, *OPTIONS, *options]
    return subprocess.Popen(
        [*map(str, command), "--max-reject", "0.1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd="/",
    )


def parts_of(output):
    return sorted(merge.beside(output, "parts").glob("part-*.parquet"))


@pytest.fixture
def dask_cluster(tmp_path, faulty_decoder):
    """A scheduler and two workers with slow readers: (address, worker processes)."""
    pytest.importorskip("distributed")
    address = tmp_path / "scheduler.json"
    environment = {**os.environ, "PYTHONPATH": faulty_decoder, "SECONDS_A_CLIP": "0.2"}

    def run(name, *options):
        module = [sys.executable, "-m", f"distributed.cli.dask_{name}", "--no-dashboard"]
        return subprocess.Popen(
            [*module, "--scheduler-file", str(address), *options],
            cwd=tmp_path,
            env=environment,
            stderr=subprocess.DEVNULL,
        )

    scheduler = run("scheduler", "--port", "0", "--host", "127.0.0.1")
    workers = [run("worker", "--nthreads", "1", "--no-nanny") for _ in range(2)]
    try:
        deadline = time.monotonic() + 60
        while not (address.exists() and address.read_text()):
            assert time.monotonic() < deadline and scheduler.poll() is None
            time.sleep(0.05)
        yield json.loads(address.read_text())["address"], workers
    finally:
        for process in (*workers, scheduler):
            process.kill()
            process.wait()


def test_killed_dask_worker_loses_nothing_and_doubles_nothing(
    toy, expected, tmp_path, dask_cluster
):
    address, workers = dask_cluster
    output = tmp_path / "dask.parquet"
    process = start(toy, output, "--backend", "dask", "--scheduler", address)
    deadline = time.monotonic() + 120
    while len(parts_of(output)) < 3:
        assert time.monotonic() < deadline and process.poll() is None, process.stdout.read()
        time.sleep(0.01)
    finished = {path: path.stat().st_mtime_ns for path in parts_of(output)}
    workers[0].kill()
    assert workers[0].wait() == -signal.SIGKILL, "the kill must have hit a running worker"
    assert process.poll() is None, "it must have hit in the middle"
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 0, printed
    assert output.read_bytes() == expected
    assert finished.items() <= {path: path.stat().st_mtime_ns for path in parts_of(output)}.items()
    clips = pd.read_parquet(output).index.get_level_values("file")
    assert clips.is_unique and len(clips) == 40
    (counts,) = re.findall(r"(\d+) parts measured, (\d+) were there", printed)
    assert sum(map(int, counts)) == len(parts_of(output)) == 14


@pytest.mark.parametrize("backend, module", [("dask", "distributed"), ("ray", "ray")])
def test_cluster_made_on_the_spot_writes_the_same_bytes(toy, expected, tmp_path, backend, module):
    pytest.importorskip(module)
    output = tmp_path / f"{backend}.parquet"
    process = start(toy, output, "--backend", backend, "--workers", "2")
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    assert output.read_bytes() == expected


def test_missing_requirement_names_the_file_to_install(toy, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "distributed", None)
    arguments = [str(toy), "-o", str(tmp_path / "f.parquet"), "--backend", "dask"]
    assert features.main(arguments) == 1
    assert "requirements-cluster.txt" in capsys.readouterr().err


def test_scheduler_without_backend_is_refused(toy, tmp_path, capsys):
    arguments = [str(toy), "-o", str(tmp_path / "f.parquet"), "--scheduler", "tcp://x:1"]
    assert features.main(arguments) == 1
    assert "--scheduler needs --backend" in capsys.readouterr().err
