"""The commands of docs/reproduce.md at toy size, with their costs."""

import numpy as np
import pytest

from benchmarks import reproduce
from paraclap.corpora.table import read_corpus
from tiny_models import TINY_TEXT

TINY = {"d_model": 32, "encoder_layers": 6, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}


def test_lengths_have_the_mean_and_the_limits():
    seconds = reproduce.durations(20_000, np.random.default_rng(1))
    assert seconds.mean() == pytest.approx(reproduce.MEAN, abs=0.05)
    assert reproduce.SHORTEST <= seconds.min() and seconds.max() <= reproduce.LONGEST


def test_generated_corpus_is_read_as_msp_podcast(tmp_path):
    reproduce.write_corpus(tmp_path / "corpus", 40)
    table = read_corpus(f"msp-podcast={tmp_path / 'corpus'}")
    assert len(table) == 40 and set(table["split"]) == {"train", "dev", "test"}
    assert table["emotion"].nunique() == 4 and table["speaker"].nunique() == 40


@pytest.mark.slow
def test_costs_of_a_recipe_are_measured(monkeypatch, capsys):
    monkeypatch.setattr(reproduce, "WHISPER_BASE", reproduce.WHISPER_BASE | TINY)
    monkeypatch.setattr(reproduce, "MINILM", TINY_TEXT)
    reproduce.main(["--recipes", "whisper", "--clips", "60", "--workers", "1"])
    lines = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if "|" in line]
    commands = [cells[1].strip() for cells in lines[2:]]
    assert commands[0] == "features.py" and commands[2] == "train.py whisper.yaml"
    assert all(float(cells[6]) > 0.05 for cells in lines[2:6])


def test_clips_too_few_for_a_difference_are_refused(capsys):
    with pytest.raises(SystemExit):
        reproduce.main(["--clips", str(reproduce.FEW)])
    assert f"--clips {reproduce.FEW}, expected more than" in capsys.readouterr().err
