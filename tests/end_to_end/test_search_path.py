"""Third-party code imports Hugging Face's `datasets`, although datasets.py lies beside the scripts.

The real scripts run beside a stand-in for `paraclap` that starts no training: it imports a
third-party module, which imports `datasets`, in the main process and in forked and spawned workers.
"""

import ast
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPTS = [
    path.relative_to(REPOSITORY)
    for path in (*REPOSITORY.glob("*.py"), *REPOSITORY.glob("preprocessing/*.py"))
    if path.name != "datasets.py"
]
MAIN = """
import json
import multiprocessing

def find(sender):
    import third_party
    sender.send(third_party.OWNER)

def main():
    import third_party
    found = [third_party.OWNER]
    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        receiver, sender = context.Pipe(duplex=False)
        worker = context.Process(target=find, args=[sender])
        worker.start()
        sender.close()  # so that a worker that fails ends the wait
        found.append(receiver.recv())
        worker.join()
    print(json.dumps(found))
    return 0
"""
STAND_INS = {
    "site/datasets/__init__.py": "OWNER = 'Hugging Face'",
    "site/third_party.py": "from datasets import OWNER",
    "other/third_party.py": "from datasets import OWNER",
    "clone/datasets.py": "OWNER = 'ParaCLAP'",
    "clone/paraclap/__init__.py": "",
    "clone/paraclap/cli/__init__.py": "def run(main, name):\n    return main()",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A clone with the real scripts, and site folders with and without a package `datasets`."""
    folder = tmp_path_factory.mktemp("search_path")
    for script in SCRIPTS:
        (folder / "clone" / script).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / script, folder / "clone" / script)
    files = {f"clone/paraclap/cli/{script.stem}.py": MAIN for script in SCRIPTS}
    # a spawned worker imports the public names of models.py once more
    names = (
        "def __getattr__(name):\n    return None if name[0] != '_' else object.__getattr__(name)"
    )
    for node in ast.walk(ast.parse((REPOSITORY / "models.py").read_text())):
        if isinstance(node, ast.ImportFrom) and re.match(r"paraclap\.(?!cli)", node.module):
            files[f"clone/{node.module.replace('.', '/')}.py"] = names
    for name, text in (STAND_INS | files).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def owners(script, site, **options):
    """Return whose `datasets` the main, a forked and a spawned process found."""
    command = [sys.executable, "-S", str(script)]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    options = {"capture_output": True, "text": True, "timeout": 60, **options}
    run = subprocess.run(command, env=environment, check=False, **options)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_third_party_code_finds_its_package(folder, script):
    assert owners(folder / "clone" / script, folder / "site") == ["Hugging Face"] * 3


def test_third_party_code_finds_its_package_behind_a_symbolic_link(folder):
    link = folder / "link"
    link.symlink_to(folder / "clone")
    assert owners("train.py", folder / "site", cwd=link) == ["Hugging Face"] * 3
    assert owners(link / "train.py", folder / "site") == ["Hugging Face"] * 3


@pytest.mark.parametrize("script", [Path("train.py"), Path("preprocessing/synthetic_corpus.py")])
def test_without_the_package_datasets_py_is_found(folder, script):
    assert owners(folder / "clone" / script, folder / "other") == ["ParaCLAP"] * 3


def test_without_the_lines_of_the_scripts_datasets_py_would_hide_the_package(folder):
    script = folder / "clone" / "bare.py"
    lines = (REPOSITORY / "train.py").read_text().splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith("sys.path[:] =")]
    assert len(kept) == len(lines) - 1
    script.write_text("".join(kept))
    assert owners(script, folder / "site") == ["ParaCLAP"] * 3


def test_datasets_py_has_the_public_names():
    names = runpy.run_path(str(REPOSITORY / "datasets.py"))
    assert names["CaptionDataset"].__module__ == "paraclap.data.dataset"
    assert set(names["__all__"]) <= names.keys()
