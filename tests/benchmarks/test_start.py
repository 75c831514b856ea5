"""Start at toy size: answers are checked by their exit code, and each way of evaluating runs."""

import pytest

from benchmarks import evaluate, start
from tiny_models import TINY_TEXT, TINY_WHISPER


def test_unexpected_exit_code_is_an_error(tmp_path):
    start.run(["-c", "raise SystemExit(2)"], tmp_path, (1, 2))
    with pytest.raises(RuntimeError, match="ended with 1"):
        start.run(["-c", "raise SystemExit(1)"], tmp_path)


@pytest.mark.slow
def test_answers_and_evaluations_are_timed(monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "WHISPER_BASE", TINY_WHISPER)
    monkeypatch.setattr(evaluate, "MINILM", TINY_TEXT)
    monkeypatch.setattr(evaluate, "LAYERS", [1, 2])
    start.main(["--commands", "evaluate", "--rounds", "1"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    names = [line.split("|")[1].strip() for line in rows if "---" not in line]
    expected = [f"evaluate, {what}" for what in start.KINDS]
    ways = ["evaluate.py, not cached", "evaluate.py, cached"]
    head = ["command", start.PASS, start.PACKAGE, *expected]
    assert names == [*head, "ten clips of 3 s", start.PLAIN, start.CLASSES, *ways]
