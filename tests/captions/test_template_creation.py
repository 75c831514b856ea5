"""The command line of template_creation.py."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from small_corpora import run

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("program", ["preprocessing/template_creation.py", "-m"])
def test_preview_needs_no_input(program):
    name = ["preprocessing.template_creation"] if program == "-m" else []
    command = [sys.executable, program, *name, "--preview", "5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == ""
    assert "example" in done.stdout and done.stdout.count("first wordings:") == 5


def test_preview_of_published_templates_has_captions_of_training(capsys):
    assert run("--templates", "published", "--preview", 2) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7 and "paraphrased" not in "".join(lines), "there are no paraphrases"
    for first, trained in zip(lines[2::3], lines[3::3], strict=True):
        phrases = first.removeprefix("  first wordings: ")
        assert trained == f"  in training:    speaker {phrases}"


def test_preview_draws_captions_of_training(capsys):
    assert run("--preview", 20) == 0
    printed = capsys.readouterr().out
    drawn = re.findall(r"^  in training:    (.*)$", printed, re.M)
    assert len(drawn) == 20
    assert {text.count(" and ") for text in drawn} == {1, 2, 3, 4}, "one to four and the emotion"
    assert printed.count("paraphrased:") == 20


def test_summary_and_preview_need_no_output(features, tmp_path, capsys):
    assert run(features, "--preview", 3, "--descriptors", "pitch,emotion") == 0
    printed = capsys.readouterr().out
    assert "60 rows, 0 without any phrase" in printed and printed.count("paraphrased:") == 3
    assert re.search(r"^pitch +low 18, normal 24, high 18; normal: .* semitones", printed, re.M)
    assert re.search(r"^emotion +anger 15, neutral 15, sad 15, undefined 15$", printed, re.M)
    assert list(tmp_path.iterdir()) == [features]


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "absent.parquet -o out.parquet",
        "features.parquet",
        "features.parquet -o features.parquet",
        "features.parquet -o out.parquet --quantiles 0.7 0.3",
        "features.parquet -o out.parquet --test-speakers 99",
        "features.parquet -o out.parquet --labelled-only --filter-emotions sad,anger,neutral",
        "features.parquet -o out.parquet --edges broken.txt",
        "features.parquet -o out.parquet --templates broken.txt",
        "broken.txt -o out.parquet",
        "captions.parquet -o out.parquet",
    ],
)
def test_errors_are_one_sentence_without_output(features, monkeypatch, capsys, arguments):
    monkeypatch.chdir(features.parent)
    run("features.parquet", "-o", "captions.parquet")
    Path("broken.txt").write_text("not: [closed")
    before = features.read_bytes()
    capsys.readouterr()
    assert run(*arguments.split()) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if not line.startswith("warning: ")] == lines[-1:]
    assert lines[-1].startswith("template_creation.py: ")
    assert not Path("out.parquet").exists() and features.read_bytes() == before
