"""benchmarks/train_step.py and results.py: ways that agree, sections that replace their like."""

import copy
import re
import sys

import pytest
from conftest import TINY_AUDIO, TINY_TEXT

from benchmarks import results, train_step


@pytest.fixture
def small(monkeypatch, tmp_path):
    published = copy.deepcopy(train_step.PUBLISHED_CONFIG)
    published |= {"audio_config": TINY_AUDIO, "projection_dim": 24}
    published["text_config"] = {**TINY_TEXT, "vocab_size": 30_522}
    monkeypatch.setattr(train_step, "PUBLISHED_CONFIG", published)
    monkeypatch.setattr(train_step, "SECONDS", 0.5)
    monkeypatch.setattr(train_step, "peak_flops", lambda *a: 1e9)
    monkeypatch.setattr(results, "RESULTS", tmp_path / "RESULTS.md")


def test_ways_of_the_benchmark_agree(small, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", "--batch", "3", "--rounds", "2", "--micro", "2"])
    train_step.main()
    printed = capsys.readouterr().out
    assert printed.count("| published |") == 3 and printed.count("| audio |") == 4
    apart = re.findall(r"differ by at most ([^,]+), weights.*in norm ([^ ]+) of", printed)
    assert len(apart) == 2
    assert all(float(value) < 1e-3 for pair in apart for value in pair)


def test_a_section_is_replaced_and_the_others_stay(tmp_path, monkeypatch):
    path = tmp_path / "RESULTS.md"
    monkeypatch.setattr(results, "commit", lambda: "abc1234")
    for title, report in (("B", "first"), ("A", "other"), ("B", "second\n\n### part")):
        results.record(title, report, path)
    text = path.read_text()
    assert text.startswith(results.HEAD.splitlines()[0])
    assert re.findall("^## (.*)$", text, flags=re.MULTILINE) == ["A", "B"]
    assert "second\n\n### part" in text and "other" in text and "first" not in text
    assert text.count("commit abc1234") == 2 and text.count("cores, load") == 2


def test_what_a_benchmark_prints_is_recorded_once(tmp_path, capsys):
    path = tmp_path / "RESULTS.md"
    for figure in (1, 2):
        with results.recorded("Loading", True, path):
            print(f"two lines\nof text\n| a |\n|---|\n| {figure} |")
    with results.recorded("Other", False, path):
        print("not kept")
    text = path.read_text()
    assert text.count("## Loading") == 1 and "Other" not in text
    assert "two lines\n\nof text\n\n| a |\n|---|\n| 2 |\n" in text and "| 1 |" not in text
    assert "| 1 |" in capsys.readouterr().out
