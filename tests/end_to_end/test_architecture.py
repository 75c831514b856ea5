"""The house: imports point one way, every configuration loads, scripts run where they are put."""

import ast
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from paraclap.training.config import flatten, read_settings

REPOSITORY = Path(__file__).resolve().parents[2]
ROOMS = {path.stem: path for path in REPOSITORY.glob("*.py")}
ALLOWED = {
    "audio": set(),
    "augmentation": set(),
    "readers": set(),
    "caption_tables": set(),
    "catalogue": {"readers"},
    "corpora": {"audio", "catalogue", "readers"},
    "prompts": {"corpora"},
    "modeling_paraclap": set(),
    "model_card": set(),
    "models": {"checkpoints", "model_card", "modeling_paraclap", "onnx_towers"},
    "onnx_towers": {"checkpoints", "modeling_paraclap"},
    "checkpoints": set(),
    "smile": set(),
    "extraction": {"audio", "smile"},
    "functionals": {"models", "smile"},
    "isolation": {"extraction"},
    "parts": {"extraction", "isolation"},
    "features": {"audio", "corpora", "extraction", "isolation", "parts", "smile"},
    "packed": {"audio"},
    "datasets": {"audio", "augmentation", "caption_tables", "corpora"},
    "batch_orders": set(),
    "scoring": set(),
    "probing": {"scoring"},
    "reports": set(),
    "embeddings": {"audio", "batch_orders", "datasets", "models", "processes"},
    "engines": {"models", "onnx_towers"},
    "descriptions": {"extraction", "parts", "smile"},
    "paraclap": {"audio", "descriptions", "embeddings", "models", "onnx_towers", "prompts"},
    "clip_index": {"audio", "embeddings", "paraclap", "reports"},
    "approximate": {"clip_index"},
    "search": {
        "approximate",
        "audio",
        "clip_index",
        "corpora",
        "embeddings",
        "paraclap",
        "reports",
    },
    "page": {"audio", "clip_index", "descriptions", "paraclap", "search"},
    "app": {"audio", "clip_index", "page", "paraclap"},
    "predict": {"audio", "corpora", "embeddings", "paraclap", "prompts", "reports"},
    "evaluate": {
        "audio",
        "corpora",
        "datasets",
        "embeddings",
        "engines",
        "models",
        "packed",
        "probing",
        "processes",
        "prompts",
        "reports",
        "scoring",
    },
    "label_captions": {"corpora"},
    "settings": {"augmentation", "datasets", "models", "tracking"},
    "frozen": {"datasets", "embeddings", "models"},
    "steps": {"frozen", "models", "objectives", "optimisation", "processes", "class_prompts"},
    "class_prompts": {"datasets", "models"},
    "optimisation": {"modeling_paraclap", "models", "settings"},
    "stopping": set(),
    "processes": {"stopping"},
    "objectives": {"models", "processes"},
    "tracking": set(),
    "training_tables": {
        "augmentation",
        "caption_tables",
        "datasets",
        "functionals",
        "label_captions",
        "prompts",
        "settings",
    },
    "training_run": {
        "audio",
        "batch_orders",
        "caption_tables",
        "checkpoints",
        "corpora",
        "datasets",
        "evaluate",
        "frozen",
        "functionals",
        "modeling_paraclap",
        "models",
        "objectives",
        "optimisation",
        "packed",
        "processes",
        "class_prompts",
        "prompts",
        "reports",
        "scoring",
        "settings",
        "steps",
        "stopping",
        "tracking",
        "training_tables",
    },
    "rehearsal": {
        "batch_orders",
        "training_run",
        "settings",
        "tracking",
        "training_tables",
    },
    "train": {
        "audio",
        "checkpoints",
        "corpora",
        "packed",
        "processes",
        "rehearsal",
        "reports",
        "training_run",
        "settings",
        "stopping",
        "tracking",
        "training_tables",
    },
}
MEASURING = [
    "audio",
    "augmentation",
    "caption_tables",
    "corpora",
    "descriptions",
    "extraction",
    "features",
    "isolation",
    "packed",
    "parts",
    "probing",
    "prompts",
    "scoring",
    "smile",
]
PREPROCESSING = sorted((REPOSITORY / "preprocessing").glob("*.py"))
PACKAGES = {"template_creation": {"captioning"}}  # script of preprocessing -> folders beside it
CAPTIONING = {p.stem: p for p in (REPOSITORY / "preprocessing" / "captioning").glob("*.py")}
CAPTIONING_ALLOWED = {
    "__init__": set(),
    "input_errors": set(),
    "columns": set(),
    "hashing": {"columns"},
    "templates": {"input_errors"},
    "phrases": {"templates"},
    "feature_tables": {"columns", "input_errors", "templates"},
    "survey": {"columns", "feature_tables", "hashing", "input_errors", "phrases", "templates"},
    "edges": {"columns", "feature_tables", "input_errors", "phrases", "survey", "templates"},
    "edges_file": {"edges", "input_errors", "templates"},
    "captions": {
        "columns",
        "edges",
        "feature_tables",
        "hashing",
        "input_errors",
        "phrases",
        "survey",
        "templates",
    },
    "summary": {"captions", "edges", "feature_tables", "templates"},
    "caption_files": {
        "captions",
        "columns",
        "edges",
        "edges_file",
        "feature_tables",
        "templates",
    },
    "picture": {
        "caption_files",
        "captions",
        "edges",
        "feature_tables",
        "input_errors",
        "phrases",
        "survey",
        "templates",
    },
    "command": {
        "caption_files",
        "captions",
        "edges",
        "edges_file",
        "feature_tables",
        "input_errors",
        "phrases",
        "picture",
        "summary",
        "survey",
        "templates",
    },
}
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


def imported(path, level=0):
    """Top-level names of every import of a file, also inside functions; level 1: of `.name`."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import) and not level:
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == level:
            found = [node.module] if node.module else [alias.name for alias in node.names]
            names |= {name.split(".")[0] for name in found}
    return names


def relative_levels(path):
    tree = ast.walk(ast.parse(path.read_text()))
    return {node.level for node in tree if isinstance(node, ast.ImportFrom)} - {0}


def test_every_room_is_known():
    assert set(ROOMS) == set(ALLOWED)


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_imports_point_one_way(room):
    assert imported(ROOMS[room]) & set(ROOMS) <= ALLOWED[room]
    assert not relative_levels(ROOMS[room])  # a script is no part of a package


@pytest.mark.parametrize("room", MEASURING)
def test_measuring_needs_no_torch(room):
    assert not imported(ROOMS[room]) & {"torch", "transformers"}


@pytest.mark.parametrize("path", PREPROCESSING, ids=lambda path: path.stem)
def test_preprocessing_scripts_import_only_the_folder_of_their_own_rooms(path):
    ours = {*ROOMS, "preprocessing", "captioning", *(p.stem for p in PREPROCESSING)}
    own = PACKAGES.get(path.stem, set())
    assert imported(path) & ours == own  # run by path
    assert imported(path, level=1) == own  # run by -m, or imported
    assert relative_levels(path) <= {1}


def test_every_captioning_room_is_known():
    assert set(CAPTIONING) == set(CAPTIONING_ALLOWED)


@pytest.mark.parametrize("room", sorted(CAPTIONING_ALLOWED))
def test_captioning_rooms_import_each_other_one_way_and_nothing_else_of_ours(room):
    path, allowed = CAPTIONING[room], CAPTIONING_ALLOWED[room]
    assert imported(path, level=1) == allowed and relative_levels(path) <= {1}
    assert not imported(path) & {*ROOMS, "preprocessing", "captioning", "torch", "transformers"}
    for other in allowed:
        assert room not in CAPTIONING_ALLOWED[other]


@pytest.mark.parametrize("way", ["by path", "by -m", "by import"])
def test_template_creation_runs_from_any_folder_and_leaves_the_path_alone(way, tmp_path):
    script = REPOSITORY / "preprocessing" / "template_creation.py"
    (tmp_path / "captioning").mkdir()  # what else has that name is not found instead
    (tmp_path / "captioning" / "__init__.py").write_text("raise ImportError('another captioning')")
    code = "from preprocessing import template_creation as t; raise SystemExit(t.main(['{}']))"
    arguments, path = {
        "by path": ([str(script), "--dump-templates"], str(tmp_path)),
        "by -m": (["-m", "preprocessing.template_creation", "--dump-templates"], str(REPOSITORY)),
        "by import": (["-c", code.format("--dump-templates")], str(REPOSITORY)),
    }[way]
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("pitch:")
    assert "sys.path" not in script.read_text()


@pytest.mark.parametrize(
    "path", [*ROOMS.values(), *PREPROCESSING, *CAPTIONING.values()], ids=lambda path: path.stem
)
def test_nothing_unsafe_or_forbidden_is_used(path):
    forbidden = {"audtorch", "torchaudio", "torchvision", "torchcodec", "accelerate", "lightning"}
    optional = {"wandb", "mlflow"}  # imported by name, if a setting names them
    assert not imported(path) & (forbidden | optional)
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


@pytest.mark.torture(53, "every module imported in an empty folder")
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
