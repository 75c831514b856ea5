"""What a run prints, and its summary.md."""

import io
import re
import sys

import numpy as np
import pytest
from training_runs import rows

from paraclap.evaluation import metrics
from paraclap.progress import progress_bar, with_progress
from paraclap.training import loop, summary
from paraclap.training.config import read_settings
from paraclap.training.status import score_text, short

PLACE = r"epoch (\d)/2, step (\d)/8, loss (\d+\.\d\d)"
LINE = PLACE + r", dev UAR (1\.00|\.\d\d)( \[\S+, \S+\])?( best)?"


class Terminal(io.StringIO):
    """Standard error of a terminal."""

    def isatty(self):
        return True


def test_each_validation_is_one_line(config, tmp_path, capfd):
    run = loop.train(read_settings([config]))
    printed = capfd.readouterr()
    lines = [re.fullmatch(LINE, line) for line in printed.out.splitlines() if "step " in line]
    logged, (first, second) = rows(tmp_path / "run"), filter(None, lines)
    assert (first[1], first[2], second[1], second[2]) == ("1", "4", "2", "8")
    losses = [row["loss"] for row in logged if "loss" in row]
    assert [float(first[3]), float(second[3])] == pytest.approx(
        [np.mean(losses[:4]), np.mean(losses[4:])], abs=0.006
    )
    scores = [row for row in logged if "UAR" in row]
    assert [first[4], second[4]] == [short(row["UAR"]) for row in scores]
    assert first[6] == " best" and (second[6] is not None) == (run.best > scores[0]["UAR"])
    assert printed.err == ""  # no bar without a terminal


def test_intervals_are_those_of_the_metrics(config, tmp_path):
    run = loop.train(read_settings([config, "train.validate_every=8"]))
    scores, answers = run.validate(run.model, run.processor)
    table = answers[""]
    speakers = run.validate.tables[""]["speaker"].loc[table.index]
    expected = metrics.score(table["truth"], table["prediction"], speakers)["interval"]
    found = [scores.get("UAR_low"), scores.get("UAR_high")]
    assert found == (expected or [None, None])
    clips = metrics.score(table["truth"], table["prediction"], range(len(table)))["interval"]
    text = score_text({"UAR": 0.334, "UAR_low": clips[0], "UAR_high": 1.0}, "UAR")
    assert text == f"UAR .33 [{short(clips[0])}, 1.00]"


def test_chance_has_three_digits(config, tmp_path):
    loop.train(read_settings([config, "train.max_steps=1"]))
    chance = rows(tmp_path / "run")[-1]["chance"]
    assert f"(chance {chance:.3f})".replace("0.", ".") in (tmp_path / "run/summary.md").read_text()


@pytest.mark.parametrize(
    "score, text", [(0.334, ".33"), (0.0, ".00"), (1.0, "1.00"), (0.996, "1.00"), (2.345, "2.35")]
)
def test_scores_have_no_leading_zero(score, text):
    assert short(score) == text or text == "2.35" and short(score) in ("2.34", "2.35")


def test_terminal_shows_loss_rate_and_waiting_time(config, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    loop.train(read_settings([config]))
    bar = sys.stderr.getvalue()
    assert "clip/s" in bar and "loss=" in bar and "waiting=" in bar


def test_loops_below_a_minute_print_nothing_and_longer_ones_lines(monkeypatch, capfd):
    assert list(with_progress(range(3), 3, "short", "clip")) == [0, 1, 2]
    assert capfd.readouterr().err == ""
    monkeypatch.setattr("paraclap.progress.LINE_SECONDS", 0.0)
    with progress_bar(3, "long", "clip") as bar:
        bar.update(2)
    printed = capfd.readouterr().err
    assert "long: 2 of 3 clips" in printed and "\r" not in printed


def test_summary_names_command_data_scores_and_costs(config, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", config, "train.loggers=[tensorboard]"])
    run = loop.train(read_settings([config, "train.loggers=[tensorboard]"]))
    page = (tmp_path / "run" / "summary.md").read_text()
    table = dict(re.findall(r"^\| ([^|]+) \| (.+) \|$", page, re.MULTILINE))
    assert table["command"] == f"`train.py {config} 'train.loggers=[tensorboard]'`"
    assert re.match(r"[0-9a-f]{40}|not in a git clone", table["commit"])
    speakers = sorted(run.data.train_table["speaker"].unique())
    described = f"{len(run.data.train_table)} clips, {len(speakers)} speakers: "
    assert table["training"] == described + ", ".join(speakers)
    assert table["best"].startswith(f"dev UAR {short(run.best)}")
    assert "(steps 1 to 8)" in table["time"] and table["peak memory"].endswith(" GiB")
    pictures = re.findall(r"!\[.*\]\((.*)\)", page)
    assert pictures == ["dev_confusion.png", "training.png"]
    assert all((tmp_path / "run" / name).read_bytes()[1:4] == b"PNG" for name in pictures)
    again = loop.train(read_settings([config, "train.resume=never"]))
    assert again.best == run.best and not (tmp_path / "run" / "training.png").exists()


def test_summary_of_a_resumed_run_has_the_best_score_of_all(config, tmp_path):
    first = loop.train(read_settings([config, "train.max_steps=4"]))
    run = loop.train(read_settings([config]))
    row = summary.best_row(run)
    assert row["UAR"] == run.best >= first.best
    page = (tmp_path / "run" / "summary.md").read_text()
    assert "(steps 5 to 8)" in page and f"step {row['step']}/8" in page
