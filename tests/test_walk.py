"""The walk of the README at toy size, by subprocess: corpus, features, captions, run, scores."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

import train

REPOSITORY = Path(train.__file__).resolve().parent
TOY = [
    "model.audio.config.num_hidden_layers=1",
    "model.text.config.num_hidden_layers=1",
    "train.epochs=2",
    "train.batch_size=4",
]


def script(*arguments, check=True):
    result = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        timeout=600,
    )
    assert not check or result.returncode == 0, result.stderr
    return result


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """Everything that the five commands of `make demo` leave."""
    folder = tmp_path_factory.mktemp("walk")
    names = ("corpus", "features.parquet", "captions.parquet", "run", "results")
    corpus, features, captions, run, results = (folder / name for name in names)
    size = ["--speakers", 6, "--clips-per-emotion", 1]
    script("preprocessing/synthetic_corpus.py", "-o", corpus, *size)
    script("features.py", corpus, "-o", features, "--workers", 2)
    script("preprocessing/template_creation.py", features, "-o", captions)
    data = [f"data.root={corpus}", f"data.captions={captions}", f"output={run}"]
    script("train.py", "configs/demo.yaml", *data, *TOY)
    options = ["--split", "test", "--queries", "sentence", "--targets", "emotion", "gender"]
    printed = script("evaluate.py", run, corpus, *options, "-o", results).stdout
    return folder, printed


def test_walk_ends_in_scores_of_unseen_speakers(walk):
    folder, printed = walk
    scores = yaml.safe_load((folder / "results" / "scores.yaml").read_text())["corpora"]
    table = pd.read_parquet(folder / "captions.parquet")
    tested = table[table["split"] == "test"]
    assert not set(tested["speaker"]) & set(table[table["split"] == "train"]["speaker"])
    targets = {figures["target"]: figures for figures in scores.values()}
    assert set(targets) == {"emotion", "gender"}
    for target, chance in (("emotion", 1 / 6), ("gender", 1 / 2)):
        assert targets[target]["clips"] == len(tested)
        assert targets[target]["chance"] == pytest.approx(chance)
        assert f"{targets[target]['UAR']:.3f}" in printed


def test_python_of_the_readme_runs(walk):
    folder, _ = walk
    code = (REPOSITORY / "README.md").read_text().split("```python\n")[1].split("```")[0]
    clip = next((folder / "corpus" / "audio").rglob("*.wav"))
    code = code.replace("runs/ravdess", str(folder / "run")).replace("clip.wav", str(clip))
    printed = script("-c", code).stdout
    first, second = (float(number) for number in re.findall(r"\d\.\d+(?:e-\d+)?", printed))
    assert first + second == pytest.approx(1, abs=1e-3)


def test_nothing_absolute_stands_in_the_tables(walk):
    folder, _ = walk
    for name in ("features.parquet", "captions.parquet"):
        files = pd.read_parquet(folder / name).index.get_level_values("file")
        assert not [file for file in files if file.startswith("/") or ".." in file]


def test_scripts_fail_with_a_sentence_and_not_a_traceback(walk, tmp_path):
    folder, _ = walk
    commands = [
        ["features.py", f"ravdess={tmp_path}", "-o", tmp_path / "f.parquet"],
        [
            "preprocessing/template_creation.py",
            tmp_path / "no.parquet",
            "-o",
            tmp_path / "c.parquet",
        ],
        ["train.py", "configs/demo.yaml", f"data.root={tmp_path}", "data.captions=no.parquet"],
        [
            "evaluate.py",
            tmp_path / "no" / "model" / "here",
            folder / "corpus",
            "-o",
            tmp_path / "r",
        ],
    ]
    for command in commands:
        result = script(*command, check=False)
        assert result.returncode != 0, command
        assert "Traceback" not in result.stderr, result.stderr
        assert result.stderr.strip(), command


def test_planted_token_is_in_no_output(walk, tmp_path, monkeypatch):
    folder, _ = walk
    secret = "hf_PlantedTokenThatNobodyMayKeep"
    monkeypatch.setenv("HF_TOKEN", secret)
    data = [f"data.root={folder / 'corpus'}", f"data.captions={folder / 'captions.parquet'}"]
    result = script("train.py", "configs/demo.yaml", *data, f"output={tmp_path / 'run'}", *TOY)
    assert secret not in result.stdout + result.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 5
    assert not [path for path in written if secret.encode() in path.read_bytes()]
