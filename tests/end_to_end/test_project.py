"""What stands around the code: workflow, issue forms, citation, sets of requirements."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from docs import pictures
from experiments import figures

REPOSITORY = Path(__file__).resolve().parents[2]
GITHUB = REPOSITORY / ".github"
SETS = sorted(REPOSITORY.glob("requirements*.txt"))


def read(path):
    return yaml.safe_load(path.read_text())


def test_workflow_tests_every_supported_python_on_both_systems_and_may_only_read():
    text = (GITHUB / "workflows" / "test.yml").read_text()
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    assert "secrets" not in text
    matrix = workflow["jobs"]["test"]["strategy"]["matrix"]
    assert matrix == {
        "os": ["ubuntu-latest", "macos-latest"],
        "python": ["3.11", "3.12", "3.13"],
    }
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    actions = [step["uses"] for step in steps if "uses" in step]
    assert actions and all(re.fullmatch(r"actions/[\w-]+@v\d+", action) for action in actions)
    assert all("timeout-minutes" in job for job in workflow["jobs"].values())


def test_workflow_runs_what_the_makefile_runs():
    makefile = (REPOSITORY / "Makefile").read_text()
    steps = read(GITHUB / "workflows" / "test.yml")["jobs"]
    commands = {step["run"] for job in steps.values() for step in job["steps"] if "run" in step}
    for command in ("ruff check .", "ruff format --check .", "codespell"):
        assert command in commands and f"$(BIN)/{command}" in makefile
    tests = "python -m pytest --numprocesses 2 --dist loadfile"
    assert f'{tests} -m "not slow"' in commands
    assert f"$(BIN)/{tests}" in makefile and '$(TESTS) -m "not slow"' in makefile


@pytest.mark.parametrize("name", ["bug", "question"])
def test_issue_forms_have_what_github_asks_of_them(name):
    form = read(GITHUB / "ISSUE_TEMPLATE" / f"{name}.yml")
    assert {"name", "description", "body"} <= set(form)
    fields = [part for part in form["body"] if part["type"] != "markdown"]
    assert len({part["id"] for part in fields}) == len(fields) > 1
    for part in fields:
        assert part["type"] in {"input", "textarea", "dropdown", "checkboxes"}
        assert part["attributes"]["label"]


def test_citation_is_that_of_the_readme():
    citation = read(REPOSITORY / "CITATION.cff")
    assert citation["cff-version"] == "1.2.0" and citation["license"] == "MIT"
    paper = citation["preferred-citation"]
    bibtex = (REPOSITORY / "README.md").read_text().split("```bibtex\n")[1].split("```")[0]
    assert f"{{{paper['title']}}}" in bibtex and f"{{{paper['year']}}}" in bibtex
    names = [author["family-names"] for author in paper["authors"]]
    assert names == re.findall(r"\w+ (\w+)(?: and|\})", bibtex.split("author")[1].split("\n")[0])


def test_pictures_are_small_and_shown_and_can_be_drawn_again(tmp_path):
    pages = "".join(page.read_text() for page in pictures.PICTURES.parent.glob("*.md"))
    shown = re.findall(r"\(pictures/([\w-]+)\.png\)", pages)
    kept = {path.stem: path.stat().st_size for path in pictures.PICTURES.glob("*.png")}
    assert set(shown) == set(kept) == {*pictures.DRAWN, *figures.DRAWN}
    assert max(kept.values()) < 100 * 1024
    noise = np.random.default_rng(0).integers(0, 255, (40, 2400, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.png")
    size = pictures.shrink(tmp_path / "large.png", tmp_path / "out" / "small.png")
    with Image.open(tmp_path / "out" / "small.png") as small:
        assert small.size == (1200, 20)
        assert len(small.getcolors()) <= pictures.COLOURS
    assert size == (tmp_path / "out" / "small.png").stat().st_size


@pytest.mark.parametrize("path", SETS, ids=lambda path: path.stem)
def test_requirements_are_pinned_and_optional_ones_say_what_for(path):
    lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    named = [line for line in lines if not line.startswith(("#", "-r "))]
    assert named and all(re.match(r"^[\w.\[\]-]+==[\w.]+$", line.split(" #")[0]) for line in named)
    if path.stem not in ("requirements", "requirements-dev"):
        assert any(line.startswith("#") for line in lines)
