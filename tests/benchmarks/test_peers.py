"""The comparison with other libraries at toy size."""

import re

import pytest

from benchmarks import peers


def test_texts_are_different_and_of_several_lengths():
    texts = peers.make_texts(300)
    assert len(set(texts)) == 300 and len({len(text.split()) for text in texts}) > 4


def test_every_peer_has_a_row_and_ours_gives_the_results_of_the_same_encoders(capsys):
    pytest.importorskip("sentence_transformers")
    peers.main(["--small", "--rounds", "1"])
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith("|")][2:]
    rows = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]
    assert {row[:2] for row in rows} >= {
        ("training step, all weights", "ClapModel"),
        ("training step, projections", "ours, cached layers"),
        ("evaluation", "plain"),
        ("texts", "sentence-transformers"),
    }
    changes = [
        float(number) for number in re.findall(r"largest change of a [a-z ]+ (\S+e-\d+)", out)
    ]
    assert len(changes) == 2 and max(changes) < 1e-5
