"""Where models are, and the model that is used without naming one."""

import shutil

import numpy as np
import pandas as pd
import pytest
import soundfile

from paraclap import ParaCLAP
from paraclap.cli import app, evaluate, predict, search
from paraclap.model import sources
from paraclap.model.hashes import weights_hash
from paraclap.model.sources import ModelNotFoundError, model_or_default


@pytest.fixture
def installed(model_folder, tmp_path, monkeypatch):
    """A stand-in for the model that is installed with the package, and clips to score."""
    shutil.copytree(model_folder, tmp_path / "stand-in")
    monkeypatch.setattr(sources, "PUBLISHED_MODEL", tmp_path / "stand-in")
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    for name in ("clip.wav", "mine/other.wav"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, 0.1 * rng.standard_normal(16_000), 16_000)
    (tmp_path / "runs" / "unfinished" / "checkpoints").mkdir(parents=True)
    return tmp_path / "stand-in"


@pytest.mark.parametrize("source", ["clip.wav", "mine", "mine/*.wav", "name=mine", "-"])
def test_sources_are_no_models(installed, source):
    assert model_or_default(source, ["more.wav"]) == (installed, [source, "more.wav"])


@pytest.mark.parametrize("model", ["stand-in", "USER/NAME"])
def test_models_are_models(installed, model):
    assert model_or_default(model, ["clip.wav"]) == (model, ["clip.wav"])


@pytest.mark.parametrize("model", ["stand-inn", "runs/none", "mine/none", "runs/unfinished"])
def test_mistyped_models_are_not_replaced(installed, model):
    with pytest.raises(ModelNotFoundError):
        model_or_default(model, ["clip.wav"])


def test_installation_without_a_model_says_so(installed):
    shutil.rmtree(installed)
    for call in (ParaCLAP.from_pretrained, lambda: model_or_default("clip.wav")):
        with pytest.raises(ModelNotFoundError, match="has no model of its own"):
            call()


def test_python_and_predict_use_the_installed_model(installed, capsys):
    assert predict.main(["clip.wav", "--prompts", "angry", "calm", "--format", "csv"]) == 0
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [  # no progress bar of transformers
        "predict.py: without MODEL, stand-in is used",
        "predict.py: check the recordings: of 1 clips, 1 unvoiced",
    ]
    named = ["stand-in", "clip.wav", "--prompts", "angry", "calm", "--format", "csv"]
    assert predict.main(named) == 0
    again = capsys.readouterr()
    assert again.out == printed.out and "MODEL" not in again.err
    scores = ParaCLAP.from_pretrained().score("clip.wav", ["angry", "calm"])
    best = pd.DataFrame(scores)["prediction"].iloc[0]
    assert f",{best}," in printed.out


def test_evaluate_uses_the_installed_model(installed, corpus, tmp_path, capsys):
    options = ["-o", "out", "--no-cache", "--device", "cpu"]
    assert evaluate.main([*options[:2], f"synthetic={corpus}", *options[2:]]) == 0
    assert "stand-in is used" in capsys.readouterr().err
    assert weights_hash(installed) in (tmp_path / "out" / "scores.yaml").read_text()
    assert evaluate.main(["stand-in", *options, str(corpus)]) == 0  # options in between


def test_evaluate_needs_a_source(installed, capsys):
    with pytest.raises(SystemExit):
        evaluate.main(["stand-in"])
    assert "required: SOURCE" in capsys.readouterr().err


def test_search_indexes_with_the_installed_model(installed, capsys):
    assert search.main(["index", "mine", "-o", "index", "--device", "cpu"]) == 0
    printed = capsys.readouterr()
    assert "stand-in is used" in printed.err and "1 clips, 1 newly" in printed.out
    named = ["index", "stand-in", "-o", "index", "mine", "clip.wav", "--device", "cpu"]
    assert search.main(named) == 0  # the same model
    assert "2 clips, 1 newly" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stand-in"], "required: SOURCE"),
        (["stand-in", "mine", "--aproximate"], "unrecognized arguments: --aproximate"),
    ],
)
def test_indexes_need_a_source_and_known_options(installed, capsys, arguments, message):
    with pytest.raises(SystemExit):
        search.main(["index", *arguments, "-o", "index"])
    assert message in capsys.readouterr().err


def test_page_opens_with_the_installed_model(installed, monkeypatch):
    served = []
    monkeypatch.setattr(app, "_serve", lambda options, *_: served.append(options.model))
    monkeypatch.setattr(app, "check_address", lambda *address: None)
    monkeypatch.setattr(app.importlib.util, "find_spec", lambda name: True)
    assert app.main([]) == 0
    assert served == [installed]
    with pytest.raises(ModelNotFoundError):
        app.main(["clip.wav"])
