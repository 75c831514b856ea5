"""Cores are those of the affinity and of the control group, shared by the processes of a node."""

import os

import pytest
import torch

from paraclap import cores
from paraclap.cli import features
from paraclap.cores import loader_workers, usable_cores
from paraclap.distributed import device_named
from paraclap.settings import SettingsError
from paraclap.training.config import read_settings

V2 = "0::/job/step\n"
V1 = "5:memory:/job\n4:cpu,cpuacct:/job\n"


def written(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


@pytest.fixture
def machine(monkeypatch):
    def of(count):
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(count)))

    return of


@pytest.mark.parametrize("count", [2, 8, 64])
def test_without_limits_all_cores_are_used(machine, tmp_path, count):
    machine(count)
    assert usable_cores(tmp_path, {}) == count
    assert usable_cores(written(tmp_path, {"proc/self/cgroup": V2}), {}) == count
    written(tmp_path, {"sys/fs/cgroup/job/step/cpu.max": "max 100000\n"})
    assert usable_cores(tmp_path, {}) == count


@pytest.mark.parametrize(
    "quota, expected", [("200000", 2), ("350000", 3), ("50000", 1), ("9900000", 64)]
)
@pytest.mark.parametrize("version", [1, 2])
def test_quota_of_a_control_group_limits(machine, tmp_path, version, quota, expected):
    machine(64)
    if version == 2:
        files = {"sys/fs/cgroup/job/cpu.max": f"{quota} 100000\n"}  # of the group above
        files |= {"proc/self/cgroup": V2, "sys/fs/cgroup/job/step/cpu.max": "max 100000\n"}
    else:
        folder = "sys/fs/cgroup/cpu/job"
        files = {f"{folder}/cpu.cfs_quota_us": f"{quota}\n", "proc/self/cgroup": V1}
        files |= {f"{folder}/cpu.cfs_period_us": "100000\n"}
        files |= {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n"}
        files |= {"sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}
    assert usable_cores(written(tmp_path, files), {}) == expected


def test_processes_of_a_node_share_its_cores(machine, tmp_path):
    machine(64)
    assert usable_cores(tmp_path, {"LOCAL_WORLD_SIZE": "4"}) == 16
    assert usable_cores(tmp_path, {"LOCAL_WORLD_SIZE": "100"}) == 1
    assert usable_cores(tmp_path, {"LOCAL_WORLD_SIZE": "0"}) == 64


@pytest.mark.parametrize(
    "group", ["", "\n", "0\n", "0:\n", "cpu\n", b"0::/\xff\n", "0::/../../job\n", V2, V1]
)
@pytest.mark.parametrize(
    "quota", ["", "\n", "200000\n", "x y\n", "200000 0\n", b"\xff 1\n", "1 2 3"]
)
def test_damaged_files_of_control_groups_limit_nothing(machine, tmp_path, group, quota):
    machine(4)
    for folder in ("", "job/", "job/step/", "cpu/job/"):
        path = tmp_path / "sys/fs/cgroup" / folder
        path.mkdir(parents=True, exist_ok=True)
        for name in ("cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us"):
            (path / name).write_bytes(quota if isinstance(quota, bytes) else quota.encode())
    (tmp_path / "proc/self").mkdir(parents=True)
    content = group if isinstance(group, bytes) else group.encode()
    (tmp_path / "proc/self/cgroup").write_bytes(content)
    assert 1 <= usable_cores(tmp_path, {}) <= 4


def test_automatic_workers_are_bounded(monkeypatch):
    for count, expected in ((2, 2), (64, 8)):
        monkeypatch.setattr(cores, "usable_cores", lambda count=count: count)
        assert loader_workers() == expected


def test_features_are_measured_on_all_usable_cores_by_default(monkeypatch):
    monkeypatch.setattr(features, "usable_cores", lambda: 5)
    command = ["/data", "-o", "f.parquet"]
    assert features.parse_arguments(command).workers == 5
    assert features.parse_arguments([*command, "--workers", "3"]).workers == 3


@pytest.mark.parametrize(("given", "expected"), [("auto", loader_workers()), ("0", 0), ("3", 3)])
def test_workers_are_a_number_or_automatic(given, expected):
    assert read_settings([f"data.workers={given}"]).data.workers == expected


@pytest.mark.parametrize("given", ["many", "-1", "1.5", "true"])
def test_other_workers_are_refused(given):
    with pytest.raises(SettingsError, match="data.workers"):
        read_settings([f"data.workers={given}"])


def test_torch_has_at_most_as_many_threads_as_cores(monkeypatch):
    before = torch.get_num_threads()
    try:
        for usable, expected in ((1, 1), (64, before)):
            torch.set_num_threads(before)
            monkeypatch.setattr("paraclap.distributed.usable_cores", lambda usable=usable: usable)
            device_named("cpu")
            assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)
