"""Leave one corpus out: its speakers are not trained on, runs are computed once, columns agree."""

import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from transformers import WhisperConfig, WhisperModel

from experiments import corpora, recipes, results, transfer, transfer_tables
from experiments.corpora import Partition
from experiments.recipes import CHOSEN, PAPER, WHISPER
from experiments.transfer_tables import ADAPTED, PARTS, PLAIN, PROBE, VALIDATION, tables
from paraclap.data import trained_on
from paraclap.training.config import read_settings
from tiny_models import TINY_TEXT, TINY_WHISPER

NAMES = ("first", "second", "third")


@pytest.fixture
def small(monkeypatch, tmp_path, corpus):
    """Options and `work`: three names of the synthetic corpus and a tiny Whisper."""
    speakers = sorted(corpora.read_corpus(corpus)["speaker"].unique())
    toy = Partition(tuple(speakers[:2]), tuple(speakers[2:4]))
    for name in NAMES:
        (tmp_path / name).symlink_to(corpus)
    for module in (corpora, transfer):
        monkeypatch.setattr(module, "PARTITIONS", dict.fromkeys(NAMES, toy))
    torch.manual_seed(0)
    options = {key: value for key, value in TINY_WHISPER.items() if key != "model_type"}
    WhisperModel(WhisperConfig(**options)).save_pretrained(tmp_path / "encoders" / "tiny")
    quick = yaml.safe_load(Path(recipes.FROZEN).read_text())
    quick["model"] |= {"audio": {"name": "tests/tiny"}, "text": {"config": TINY_TEXT}}
    quick["model"]["audio_layers"] = [1, 2]
    quick["train"] |= {
        "epochs": 1,
        "precision": "fp32",
        "loggers": [],
        "batch_size": 8,
        "validate_every": 100,
    }
    quick["text_pretraining"] = {"steps": 1}
    (tmp_path / "quick.yaml").write_text(yaml.safe_dump(quick))
    towers = {WHISPER: {PAPER: (str(tmp_path / "quick.yaml"), *recipes.PUBLISHED_LOSS)}}
    towers[WHISPER][CHOSEN] = (str(tmp_path / "quick.yaml"),)
    for module in (recipes, transfer):
        monkeypatch.setattr(module, "TOWERS", towers)
    monkeypatch.setenv("PARACLAP_CACHE", str(tmp_path / "cache"))
    work = tmp_path / "work"
    folders = {"data": tmp_path, "encoders": tmp_path / "encoders", "work": work}
    return [word for key, path in folders.items() for word in (f"--{key}", str(path))], work


def test_documented_commands_are_the_recipes_of_the_table(monkeypatch):
    """Those of docs/reproduce.md on a corpus of labels, apart from what a run writes."""
    monkeypatch.chdir(recipes.FOLDER.parent)
    text = Path("docs/reproduce.md").read_text().replace("\\\n", "")
    commands = re.findall(r"^python train\.py (.* data\.captions=emodb\.csv .*)$", text, re.M)
    for command, recipe in zip(commands, (PAPER, CHOSEN), strict=True):
        given = shlex.split(command)
        data = [word for word in given if word.startswith(("data.root=", "data.cap", "output="))]
        expected = [word for word in recipes.TOWERS[WHISPER][recipe] if word not in recipes.QUICK]
        assert read_settings(given) == read_settings([*expected, *data])
        assert len(data) == 3


def test_left_out_corpora_are_tested_whole_and_runs_are_computed_once(small, monkeypatch):
    options, work = small
    options = [*options, "--seeds", "1", "--corpora", "third"]
    transfer.main(options)
    rows = results.read(work / "results.csv")
    found = rows.groupby(["recipe", "direction"])["part"].apply(set)
    everything = set(PARTS) - {VALIDATION}
    assert found[CHOSEN, "first + second -> third"] == everything
    assert found[PAPER, "first + second -> second"] == {VALIDATION}
    assert found[PROBE, "first + second -> third"] == {PLAIN, ADAPTED}
    clips = corpora.read_labels("third", work.parent, work)
    for part, counts in zip(rows["part"], rows["counts"], strict=True):
        speakers = set(clips.labels["speaker"])
        assert set(counts) == (set(clips.partition.validation) if part == VALIDATION else speakers)
    page = (work / "results.md").read_text()
    assert f"| third | {CHOSEN} | " in page and f"| third | {CHOSEN} - {PAPER} | " in page
    monkeypatch.setattr(transfer.loop, "train", lambda settings: pytest.fail("trained again"))
    transfer.main(options)
    assert results.read(work / "results.csv").equals(rows)
    assert (work / "results.md").read_text() == page
    assert not [*(work / "runs").rglob("*.safetensors")], "weights are not kept"


def test_folds_test_each_speaker_once(small, monkeypatch):
    options, work = small
    trained = {}
    monkeypatch.setattr(transfer, "WEIGHTS", ())
    transfer.main([*options, "--seeds", "1", "--folds", "--corpora", "first", "--recipes", CHOSEN])
    rows = results.read(work / "results.csv")
    for (_, part), chosen in rows.groupby(["recipe", "part"]):
        tested = [speaker for counts in chosen["counts"] for speaker in counts]
        assert len(tested) == len(set(tested)) == 6, part
    for run in (work / "runs").iterdir():
        clips = trained_on.load(run).clips
        trained[run.name.split("-")[0]] = set(clips["speaker"])
    for fold, counts in zip(rows["fold"], rows["counts"], strict=True):
        assert not trained[f"first{fold}"] & set(counts)
    assert "| first |" in (work / "results.md").read_text()
    assert len(rows.drop_duplicates(["recipe", "settings"])) == 2

    corpus = corpora.read_labels("first", work.parent, work)
    (plan, *_) = transfer.fold_plans(corpus, work)
    name = transfer.settings_of(CHOSEN, 1, plan, work).output
    monkeypatch.setattr(transfer, "FOLD_STEPS", 7)
    settings = transfer.settings_of(CHOSEN, 1, plan, work)
    assert settings.train.min_steps == 7 and settings.output != name, "rows of 250 steps are others"


def test_probe_recovers_classes_and_adapts_to_an_offset():
    """A constant offset of the tested corpus misleads the plain probe, not the adapted one."""
    rng = np.random.default_rng(0)

    def made(name, speakers, offset):
        rows = [(s, label) for s in speakers for label in "xyz" for _ in range(20)]
        labels = pd.DataFrame(rows, columns=["speaker", "emotion"])
        labels.index = pd.Index([f"{name}{n}" for n in range(len(labels))])
        values = 6 * np.eye(3)[labels["emotion"].map("xyz".index)] + rng.normal(size=(len(rows), 3))
        features[name] = pd.DataFrame(values + offset, labels.index)
        partition = Partition((speakers[0],), ())
        return corpora.Corpus(
            name=name, partition=partition, root=None, labels=labels, captions=None
        )

    features: dict = {}
    own = {name: made(name, ["1", "2", "3"], 0) for name in ("a", "b")}
    plan = transfer.leave_out("c", {**own, "c": made("c", ["4", "5"], [9, 0, 0])})
    predict = transfer.fit_probe(plan, lambda corpus: features[corpus.name])
    right = {}
    for tested in plan.tests:
        if tested.part in (PLAIN, ADAPTED):
            answers = predict(tested)
            right[tested.part] = (answers["truth"] == answers["prediction"]).mean()
    assert right[PLAIN] < 0.7 < 0.95 < right[ADAPTED]


# --- Table ---------------------------------------------------------------------------------------


def row(part, counts, recipe=CHOSEN, direction="a + b -> c", seed=1, fold=""):
    keys = {"tower": WHISPER, "direction": direction, "part": part, "fold": fold}
    return {**keys, "recipe": recipe, "seed": seed, "settings": "", "counts": counts}


def hits(**recalls):
    return {s: {name: [count, 10] for name, count in recalls.items()} for s in "123"}


def cells_of(page, corpus, recipe):
    cells = [[cell.strip() for cell in line[1:-1].split("|")] for line in page.splitlines()]
    head, _, *lines = cells
    (found,) = (line for line in lines if line[:2] == [corpus, recipe])
    return dict(zip(head, found, strict=True))


def test_columns_are_uars_of_their_classes_and_words():
    rows = [
        row(PLAIN, hits(x=8, y=6, z=1)),
        row("synonyms", hits(x=4, y=4, z=2)),
        row(PLAIN, hits(x=5, y=6, z=1), recipe=PAPER),
        row(VALIDATION, hits(x=9), direction="a + b -> a"),
        row(VALIDATION, hits(x=4, y=6), direction="a + b -> b"),
        row(VALIDATION, hits(x=0), direction="b + c -> b"),
    ]
    classes = {"a": {"x"}, "b": {"x", "y"}, "c": {"x", "y", "z"}}
    page = tables(pd.DataFrame(rows), classes, {}, [PAPER, CHOSEN])
    cells = cells_of(page, "c", CHOSEN)
    assert cells["UAR"].startswith(".500 [") and cells["trained classes"].startswith(".700 [")
    assert cells["absent classes"].startswith(".100 [")
    assert cells["synonyms"].startswith(".333 [") and cells["synonyms"].endswith(", 67%")
    assert cells["validation"].startswith(f".{round(1000 * (0.9 + 0.4 + 0.6) / 3)}")
    difference = cells_of(page, "c", f"{CHOSEN} - {PAPER}")
    assert difference["UAR"] == "+.100 [+.100, +.100]"
    assert "gender" not in page, "columns without values are left out"


def test_folds_are_pooled_and_means_are_over_corpora():
    rows = [
        row(PLAIN, {s: {"x": [5 + number, 10]}}, direction=name, fold=s)
        for number, name in enumerate(("a", "b"))
        for s in "012"
    ]
    page = tables(pd.DataFrame(rows), {"a": {"x"}, "b": {"x"}}, {"a": 3, "b": 3}, [CHOSEN])
    assert cells_of(page, "a", CHOSEN)["UAR"] == ".500 [.500, .500]"
    assert cells_of(page, "mean", CHOSEN)["UAR"] == ".550"
    assert tables(pd.DataFrame(rows[:1]), {"a": {"x"}}, {"a": 3}, [CHOSEN]) == ""


def test_only_the_lines_between_the_marks_are_replaced(tmp_path):
    page = tmp_path / "page.md"
    transfer_tables.write_between_marks(page, "t", "| new |")
    assert page.read_text() == "<!-- t -->\n\n| new |\n\n<!-- end of t -->\n"
    page.write_text("before\n<!-- t -->\n\nold\n\n<!-- end of t -->\nafter\n")
    transfer_tables.write_between_marks(page, "t", "| new |")
    assert page.read_text() == "before\n<!-- t -->\n\n| new |\n\n<!-- end of t -->\nafter\n"
    page.write_text("no marks")
    with pytest.raises(ValueError, match="has no lines"):
        transfer_tables.write_between_marks(page, "t", "| new |")
