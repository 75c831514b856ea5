"""Training and evaluation on shards: the results of the files that they were made of."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from training_runs import same_runs, train_until

from paraclap import shards as command
from paraclap.cli import evaluate, predict
from paraclap.settings import SettingsError
from paraclap.training import loop
from paraclap.training.config import read_settings


@pytest.fixture
def packed(corpus, tmp_path):
    """The synthetic corpus in 12 shards or more."""
    folder = tmp_path / "packed"
    assert command.main([str(corpus), "-o", str(folder), "--megabytes", "0.5"]) == 0
    assert len(list(folder.glob("*.tar"))) > 8
    return folder


def test_training_on_shards_equals_training_on_files(config, packed, tmp_path):
    arguments = [config, "train.epochs=1", "data.workers=0"]
    loop.train(read_settings([*arguments, f"output={tmp_path / 'files'}"]))
    options = [f"output={tmp_path / 'shards'}", f"data.root={packed}", "data.shuffled_shards=0"]
    loop.train(read_settings([*arguments, *options]))
    assert same_runs(tmp_path / "files", tmp_path / "shards")


def test_captions_of_the_members_give_the_same_training(config, corpus, captions, tmp_path):
    arguments = [config, "train.epochs=1", "data.workers=0"]
    loop.train(read_settings([*arguments, f"output={tmp_path / 'files'}"]))
    root = tmp_path / "packed"
    assert command.main([str(captions), "--root", str(corpus), "-o", str(root)]) == 0
    own = yaml.safe_load(Path(config).read_text())
    own["data"] = {key: v for key, v in own["data"].items() if key not in ("root", "captions")}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    arguments[0] = str(tmp_path / "own.yaml")
    for keys in ([f"data.root={root}"], [f"data.captions={root}"]):
        loop.train(read_settings([*arguments, *keys, f"output={tmp_path / 'shards'}"]))
        assert same_runs(tmp_path / "files", tmp_path / "shards")
        shutil.rmtree(tmp_path / "shards")


def test_shards_of_audio_and_text_train_with_free_captions(config, corpus, tmp_path):
    files = sorted(str(path.relative_to(corpus)) for path in corpus.rglob("*.wav"))
    rows = [f"{file},A voice {number % 7}.\n" for number, file in enumerate(files)]
    (tmp_path / "own.csv").write_text("file,caption\n" + "".join(rows))
    root = tmp_path / "packed"
    assert command.main([str(tmp_path / "own.csv"), "--root", str(corpus), "-o", str(root)]) == 0
    arguments = [
        config,
        "train.max_steps=2",
        f"data.captions={root}",
        "data.root=null",
        "data.validation_speakers=0",
    ]
    run = loop.train(read_settings([*arguments, f"output={tmp_path / 'run'}"]))
    assert set(run.data.texts()) == {f"A voice {k}." for k in range(7)}


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_run_on_shards_equals_an_uninterrupted_one(
    config, packed, tmp_path, monkeypatch, workers
):
    arguments = [config, f"data.root={packed}", "data.shuffled_shards=2", f"data.workers={workers}"]
    arguments += ["train.epochs=1", "train.save_every=2"]
    loop.train(read_settings([*arguments, "data.workers=0", f"output={tmp_path / 'whole'}"]))
    stopped = [*arguments, f"output={tmp_path / 'stopped'}"]
    train_until(monkeypatch, 3, stopped)
    loop.train(read_settings(stopped))
    assert same_runs(tmp_path / "whole", tmp_path / "stopped")


def test_resuming_on_other_shards_is_refused(config, corpus, packed, tmp_path, monkeypatch):
    arguments = [config, "train.epochs=1", "train.save_every=2", f"output={tmp_path / 'run'}"]
    arguments += ["data.workers=0", "data.shuffled_shards=2"]
    train_until(monkeypatch, 3, [*arguments, f"data.root={packed}"])
    assert command.main([str(corpus), "-o", str(tmp_path / "x"), "--megabytes", "0.4"]) == 0
    for root in (tmp_path / "x", corpus):
        with pytest.raises(SettingsError, match="the shards"):
            loop.train(read_settings([*arguments, f"data.root={root}"]))


def test_evaluation_on_shards_equals_that_on_files(tiny, corpus, packed, tmp_path):
    model, processor = tiny
    for part in (model, processor):
        part.save_pretrained(tmp_path / "model")
    for name, source in (("files", corpus), ("shards", packed)):
        arguments = [str(tmp_path / "model"), f"mine={source}", "--split", "dev", "--no-cache"]
        assert evaluate.main([*arguments, "-o", str(tmp_path / name)]) == 0
    scores = [(tmp_path / name / "mine.csv").read_text() for name in ("files", "shards")]
    assert scores[0] == scores[1]


def test_prediction_on_shards_equals_that_on_files(tiny, corpus, packed, tmp_path, capsys):
    for part in tiny:
        part.save_pretrained(tmp_path / "model")
    scores = []
    for source in (corpus, packed):
        output = tmp_path / f"{source.name}.csv"
        given = [str(tmp_path / "model"), str(source), "--prompts", "angry", "sad"]
        assert predict.main([*given, "-o", str(output)]) == 0
        table = pd.read_csv(output)
        table["file"] = table["file"].str.removeprefix(str(source))
        scores.append(table.sort_values("file", ignore_index=True))
    pd.testing.assert_frame_equal(*scores)  # in another order, batches are padded otherwise
