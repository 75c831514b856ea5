"""benchmarks/train_step.py: all ways of a training step give the same losses and weights."""

import copy
import re
import sys

import pytest

from benchmarks import train_step
from tiny_models import TINY_AUDIO, TINY_TEXT


@pytest.fixture
def small(monkeypatch):
    published = copy.deepcopy(train_step.PUBLISHED_CONFIG)
    published |= {"audio_config": TINY_AUDIO, "projection_dim": 24}
    published["text_config"] = {**TINY_TEXT, "vocab_size": 30_522}
    monkeypatch.setattr(train_step, "PUBLISHED_CONFIG", published)
    monkeypatch.setattr(train_step, "SECONDS", 0.5)
    monkeypatch.setattr(train_step, "peak_flops", lambda *a: 1e9)


def test_ways_of_the_benchmark_agree(small, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", "--batch", "3", "--rounds", "2", "--micro", "2"])
    train_step.main()
    printed = capsys.readouterr().out
    assert printed.count("| published |") == 3 and printed.count("| audio |") == 4
    apart = re.findall(r"differ by at most ([^,]+), weights.*in norm ([^ ]+) of", printed)
    assert len(apart) == 2
    assert all(float(value) < 1e-3 for pair in apart for value in pair)
