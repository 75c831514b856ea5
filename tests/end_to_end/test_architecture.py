"""Folders import from below alone; what scripts promise before they import anything heavy."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from paraclap.training.config import flatten, read_settings

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "paraclap"
FLOORS = (  # each imports from floors below, and from its own folder
    {"shards", "embed", "compare", "crossval"},
    {"cli"},
    {"training", "inference"},
    {"evaluation"},
    {"data"},
    {"model", "acoustics"},
    {"corpora"},
    {"captions", "audio"},
    {"settings", "locks", "distributed"},
    {"parquet", "style"},
    {"files", "progress", "cores"},
    {"errors", "signals"},
)
FLOOR = {folder: number for number, floor in enumerate(FLOORS) for folder in floor}
MODULES = sorted(PACKAGE.rglob("*.py"))
UNSAFE = (
    r"weights_only=False",
    r"load_state_dict\(.*strict=False",
    r"trust_remote_code=True",
    r"yaml\.(?:\w+_)?load\(",
    r"OmegaConf\.(?:load|from_dotlist)\(",
)
SCRIPTS = ["train", "evaluate", "features", "predict", "search", "app", "models"]
SCRIPTS += ["preprocessing/template_creation", "preprocessing/synthetic_corpus"]


def imports(path):
    """Dotted names of everything that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_folders_import_from_below_alone(path):
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    own = "cli" if path.stem == "__main__" else own  # a command line
    at_root = {script.stem for script in REPOSITORY.glob("*.py")} - {"datasets"}
    for name in imports(path):
        top, *inner = name.split(".")
        assert top not in at_root
        if top == "paraclap" and inner[0] in FLOOR and own in FLOOR and inner[0] != own:
            assert FLOOR[inner[0]] > FLOOR[own], f"{own} imports {name}"


def test_every_folder_has_a_floor_and_is_installed():
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    files = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert folders | files == set(FLOOR)
    setuptools = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert {f"paraclap.{folder}" for folder in folders} < set(setuptools["packages"])
    installed = {
        path
        for package, patterns in setuptools["package-data"].items()
        for pattern in patterns
        for path in REPOSITORY.joinpath(*package.split(".")).glob(pattern)
    }
    data = {path for path in PACKAGE.rglob("*.*") if path.suffix not in (".py", ".pyc")}
    assert data == installed & data and len(data) > 5


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_unsafe_or_unwanted_is_used(path):
    unwanted = {"audtorch", "torchaudio", "torchvision", "torchcodec", "accelerate", "lightning"}
    assert not {name.split(".")[0] for name in imports(path)} & unwanted
    assert not re.findall(f".*(?:{'|'.join(UNSAFE)}).*", path.read_text())


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_loader_of_transformers_refuses_code_of_a_model(path):
    ours = ("ParaCLAP", "ParaCLAPConfig")  # take no such argument, and have no code to load
    for call in ast.walk(ast.parse(path.read_text())):
        name = ast.unparse(call.func) if isinstance(call, ast.Call) else ""
        owner, _, method = name.rpartition(".")
        if method in ("from_config", "from_pretrained") and owner not in (*ours, "super()"):
            trust = {word.arg: ast.unparse(word.value) for word in call.keywords}
            assert trust.get("trust_remote_code") == "False", f"{path}:{call.lineno}: {name}"


def test_pinned_requirements_are_the_dependencies_of_the_package():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    wanted = {r.name: r.specifier for r in map(Requirement, project["dependencies"])}
    lines = (REPOSITORY / "requirements.txt").read_text().splitlines()
    pinned = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    assert {requirement.name for requirement in pinned} == set(wanted)
    for requirement in pinned:
        (pin,) = requirement.specifier
        assert pin.operator == "==" and pin.version in wanted[requirement.name]


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").glob("*.yaml")), ids=str)
def test_configuration_loads(path):
    assert flatten(yaml.safe_load(path.read_text()))
    read_settings([str(path), "data.root=."])


def run(arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        timeout=300,
    )


HEAVY = {
    *("torch", "transformers", "gradio", "opensmile", "sklearn", "scipy", "matplotlib"),
    *("pandas", "pyarrow", "audformat", "soundfile", "omegaconf"),
}
COMMANDS = {script: [str(REPOSITORY / f"{script}.py")] for script in SCRIPTS}
COMMANDS |= {
    f"-m paraclap.{module}": ["-m", f"paraclap.{module}"]
    for module in ("corpora", "shards", "embed", "compare", "crossval")
}
WRONG = {
    "train": ["optim.lrr=1"],
    "evaluate": ["model", "corpus", "--no-such"],
    "features": ["corpus", "-o", "features.parquet", "--no-such"],
    "predict": ["--no-such"],
    "search": ["query", "index", "text", "--no-such"],
    "app": ["model", "--no-such"],
    "models": ["publish", "model", "folder", "--no-such"],
    "preprocessing/template_creation": ["features.parquet", "-o", "x.parquet", "--no-such"],
    "preprocessing/synthetic_corpus": ["-o", "corpus", "--no-such"],
    "-m paraclap.corpora": ["corpus", "--no-such"],
    "-m paraclap.shards": ["corpus", "-o", "folder", "--no-such"],
    "-m paraclap.embed": ["model", "corpus", "-o", "x.parquet", "--no-such"],
    "-m paraclap.compare": ["a", "b", "--no-such"],
    "-m paraclap.crossval": ["optim.lrr=1"],
}


def imported(command, arguments):
    """Return a finished command, and the packages that it imported."""
    timed = run(["-X", "importtime", *COMMANDS[command], *arguments], PYTHONPATH=str(REPOSITORY))
    return timed, {line.rpartition("|")[2].strip() for line in timed.stderr.splitlines()}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_the_command_and_imports_nothing_heavy(command):
    timed, packages = imported(command, ["--help"])
    assert timed.returncode == 0, timed.stderr
    assert f"python {command}{'' if command.startswith('-m') else '.py'}" in timed.stdout
    assert not packages & HEAVY


@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_argument_is_named_before_anything_heavy_is_imported(command):
    timed, packages = imported(command, WRONG[command])
    assert timed.returncode in (1, 2)
    shown = [line for line in timed.stderr.splitlines() if not line.startswith("import time:")]
    assert "Traceback" not in timed.stderr and WRONG[command][-1].split("=")[0] in shown[-1]
    is_merged = WRONG[command] == ["optim.lrr=1"]  # with YAML, by OmegaConf
    assert not packages & (HEAVY - {"omegaconf"} if is_merged else HEAVY)


@pytest.mark.torture(53, "every module imported in an empty folder")
def test_importing_changes_no_file(tmp_path):
    names = (path.relative_to(REPOSITORY).with_suffix("").parts for path in MODULES)
    modules = [".".join(name) for name in names if name[-1] != "__main__"]
    code = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); import {', '.join(modules)}"
    result = subprocess.run(
        [sys.executable, "-P", "-B", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert not list(tmp_path.iterdir())
