"""features.py on real Dask and Ray clusters of this machine; skipped where they are not installed.

Workers are started as on a cluster: in another folder, without this package on their path.
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
from paraclap.errors import MissingPackageError

REPOSITORY = Path(__file__).resolve().parents[2]
OPTIONS = ["--feature-set", "captions", "--chunk", "4"]


@pytest.fixture
def expected(toy, tmp_path):
    """Bytes of the feature table of `toy` and a bad file, written by one local worker."""
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


def stop(process):
    process.kill()
    return process.communicate()[0]


def chunks_of(output):
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


def test_killed_dask_worker_loses_and_repeats_no_chunk(toy, expected, tmp_path, dask_cluster):
    address, workers = dask_cluster
    output = tmp_path / "dask.parquet"
    process = start(toy, output, "--backend", "dask", "--scheduler", address)
    deadline = time.monotonic() + 120
    while len(chunks_of(output)) < 3:
        assert time.monotonic() < deadline and process.poll() is None, stop(process)
        time.sleep(0.01)
    finished = {path: path.stat().st_mtime_ns for path in chunks_of(output)}
    workers[0].kill()
    assert workers[0].wait() == -signal.SIGKILL
    assert process.poll() is None, "the worker must be killed in the middle of the run"
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 0, printed
    assert output.read_bytes() == expected
    assert finished.items() <= {path: path.stat().st_mtime_ns for path in chunks_of(output)}.items()
    clips = pd.read_parquet(output).index.get_level_values("file")
    assert clips.is_unique and len(clips) == 40
    (counts,) = re.findall(r"(\d+) chunks measured, (\d+) reused", printed)
    assert sum(map(int, counts)) == len(chunks_of(output)) == 14


@pytest.mark.parametrize("backend, module", [("dask", "distributed"), ("ray", "ray")])
def test_new_cluster_writes_the_same_bytes(toy, expected, tmp_path, backend, module):
    pytest.importorskip(module)
    output = tmp_path / f"{backend}.parquet"
    process = start(toy, output, "--backend", backend, "--workers", "2")
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    assert output.read_bytes() == expected


@pytest.mark.parametrize("backend, module", [("dask", "distributed"), ("ray", "ray")])
def test_missing_package_names_the_extra_to_install(toy, tmp_path, monkeypatch, backend, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPackageError, match=r'pip install "paraclap\[cluster\]"'):
        features.main([str(toy), "-o", str(tmp_path / "f.parquet"), "--backend", backend])


def test_scheduler_without_cluster_backend_is_rejected(capsys):
    with pytest.raises(SystemExit):
        features.main(["corpus", "-o", "f.parquet", "--scheduler", "tcp://x:1"])
    assert "--scheduler needs --backend" in capsys.readouterr().err
