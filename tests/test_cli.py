import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import paraclap.cli
from paraclap.errors import ParaCLAPError

REPOSITORY = Path(__file__).resolve().parents[1]


def test_warnings_and_errors_for_users_are_one_line_each(capsys):
    def main():
        warnings.warn("2 files are skipped", stacklevel=1)
        warnings.warn("for developers", RuntimeWarning, stacklevel=1)
        raise ParaCLAPError("no files are left")

    with pytest.warns(RuntimeWarning):
        assert paraclap.cli.run(main, "features.py") == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["warning: 2 files are skipped", "features.py: no files are left"]


@pytest.mark.parametrize(("given", "used"), [(None, "passive"), ("active", "active")])
def test_idle_threads_sleep_unless_the_user_sets_otherwise(given, used, monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    found = []

    def policy() -> int:
        found.append(os.environ["OMP_WAIT_POLICY"])
        return 0

    assert paraclap.cli.run(policy, "train.py") == 0 and found == [used]


@pytest.mark.parametrize("script", ["train.py", "evaluate.py", "predict.py"])
def test_scripts_do_not_import_torch_before_threads_sleep(script):
    code = f"""
import os, runpy, sys
sys.argv = ["{script}", "--help"]
try:
    runpy.run_path("{script}", run_name="__main__")
except SystemExit:
    print("torch" in sys.modules, os.environ["OMP_WAIT_POLICY"], file=sys.stderr)
"""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ran.stderr.splitlines()[-1] == "False passive"
