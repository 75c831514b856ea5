"""The house: imports point one way, every configuration loads, scripts run where they are put."""

import ast
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import train
from settings import flatten, read_settings

REPOSITORY = Path(train.__file__).resolve().parent
ROOMS = {path.stem: path for path in REPOSITORY.glob("*.py")}
ALLOWED = {
    "audio": set(),
    "readers": set(),
    "catalogue": {"readers"},
    "corpora": {"audio", "catalogue", "readers"},
    "queries": {"corpora"},
    "modeling_paraclap": set(),
    "model_card": set(),
    "models": {"checkpoints", "model_card", "modeling_paraclap", "onnx_towers"},
    "onnx_towers": {"checkpoints", "modeling_paraclap"},
    "checkpoints": set(),
    "smile": set(),
    "extraction": {"audio", "smile"},
    "isolation": {"extraction"},
    "parts": {"extraction", "isolation"},
    "features": {"audio", "corpora", "extraction", "isolation", "parts", "smile"},
    "datasets": {"audio", "corpora"},
    "scoring": set(),
    "probing": {"scoring"},
    "reports": set(),
    "embeddings": {"audio", "datasets", "models"},
    "descriptions": {"extraction", "parts", "smile"},
    "paraclap": {"audio", "descriptions", "embeddings", "models", "onnx_towers", "queries"},
    "clip_index": {"audio", "embeddings", "paraclap", "reports"},
    "search": {"audio", "clip_index", "corpora", "embeddings", "paraclap", "reports"},
    "page": {"audio", "clip_index", "descriptions", "paraclap", "search"},
    "app": {"audio", "clip_index", "page", "paraclap"},
    "predict": {"audio", "corpora", "embeddings", "paraclap", "queries", "reports"},
    "evaluate": {
        "audio",
        "corpora",
        "datasets",
        "embeddings",
        "models",
        "probing",
        "queries",
        "reports",
        "scoring",
    },
    "settings": {"datasets", "models"},
    "optimisation": {"models", "settings"},
    "stopping": set(),
    "tracking": set(),
    "train": {
        "audio",
        "checkpoints",
        "corpora",
        "datasets",
        "evaluate",
        "models",
        "optimisation",
        "queries",
        "reports",
        "scoring",
        "settings",
        "stopping",
        "tracking",
    },
}
MEASURING = [
    "audio",
    "corpora",
    "descriptions",
    "extraction",
    "features",
    "isolation",
    "parts",
    "probing",
    "queries",
    "scoring",
    "smile",
]
PREPROCESSING = sorted((REPOSITORY / "preprocessing").glob("*.py"))
CONFIGS = sorted((REPOSITORY / "configs").glob("*.yaml"))
SCRIPTS = [
    "train.py",
    "corpora.py",
    "models.py",
    "features.py",
    "evaluate.py",
    "predict.py",
    "search.py",
    "app.py",
    *(f"preprocessing/{p.name}" for p in PREPROCESSING),
]


def imported(path):
    """Top-level names of every import of a file, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names.add(node.module.split(".")[0])
    return names


def test_every_room_is_known():
    assert set(ROOMS) == set(ALLOWED)


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_imports_point_one_way(room):
    assert imported(ROOMS[room]) & set(ROOMS) <= ALLOWED[room]


@pytest.mark.parametrize("room", MEASURING)
def test_measuring_needs_no_torch(room):
    assert not imported(ROOMS[room]) & {"torch", "transformers"}


@pytest.mark.parametrize("path", PREPROCESSING, ids=lambda path: path.stem)
def test_preprocessing_files_stand_alone(path):
    assert not imported(path) & (set(ROOMS) | {"preprocessing"} | {p.stem for p in PREPROCESSING})


@pytest.mark.parametrize("path", list(ROOMS.values()) + PREPROCESSING, ids=lambda path: path.stem)
def test_nothing_unsafe_or_forbidden_is_used(path):
    forbidden = {"audtorch", "torchaudio", "torchvision", "torchcodec", "accelerate", "lightning"}
    assert not imported(path) & forbidden
    text = path.read_text()
    unsafe = (
        "weights_only=False",
        "strict=False",
        "trust_remote_code=True",
        "except:",
        "yaml.load(",
    )
    assert not [word for word in unsafe if word in text]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configuration_loads(path):
    settings = read_settings([str(path), "data.root=."])
    stored = flatten(yaml.safe_load(path.read_text()))
    flat = flatten(dataclasses.asdict(settings))
    assert stored and set(stored) <= set(flat)


def run(arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        timeout=300,
    )


HELP = """
import os, runpy, sys
import audformat, matplotlib.figure, omegaconf, opensmile, pyarrow.parquet, sklearn.metrics, torch
from transformers import AutoModel, BertModel, PreTrainedModel, Wav2Vec2Model
folder, *scripts = sys.argv[1:]
for number, script in enumerate(scripts):
    child = os.fork()
    if not child:
        with open(f"{folder}/{number}", "w") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        sys.argv, sys.path[0] = [script, "--help"], os.path.dirname(script)
        runpy.run_path(script, run_name="__main__")
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
"""Runs each script as `python SCRIPT --help` does; what is slow to import is imported once."""


@pytest.fixture(scope="module")
def helps(tmp_path_factory):
    """Exit code and output of `--help` of each script."""
    folder = tmp_path_factory.mktemp("helps")
    result = run(["-c", HELP, str(folder), *SCRIPTS])
    assert result.returncode == 0, result.stderr
    texts = [(folder / str(number)).read_text() for number in range(len(SCRIPTS))]
    codes = map(int, result.stdout.split())
    return dict(zip(SCRIPTS, zip(codes, texts, strict=True), strict=True))


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_tells_the_commands(script, helps):
    code, text = helps[script]
    assert code == 0, text
    assert f"python {script}" in text


def test_scripts_find_our_datasets_where_another_package_has_that_name(tmp_path):
    other = tmp_path / "datasets"
    other.mkdir()
    (other / "__init__.py").write_text("raise ImportError('the other datasets')")
    elsewhere = run(["-c", "import datasets"], PYTHONPATH=str(tmp_path), PYTHONSAFEPATH="1")
    assert "the other datasets" in elsewhere.stderr  # it is importable
    for script in ("train.py", "evaluate.py"):
        result = run([script, "--help"], PYTHONPATH=str(tmp_path))
        assert result.returncode == 0, result.stderr


def test_importing_changes_no_file(tmp_path):
    code = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); import {', '.join(sorted(ROOMS))}"
    result = subprocess.run(
        [sys.executable, "-B", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert not list(tmp_path.iterdir())
