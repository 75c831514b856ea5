"""Fine-tuning: every form of start model, with labels or captions, in every configuration."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file
from training_runs import same, same_runs, train_until, weights

from paraclap import cli
from paraclap.cli import models, train
from paraclap.corpora.table import read_corpus, scored_classes
from paraclap.data.label_captions import with_captions
from paraclap.data.trained_on import untrained
from paraclap.errors import ParaCLAPError
from paraclap.evaluation.metrics import score
from paraclap.evaluation.prompts import PromptError, prompts_for
from paraclap.evaluation.zero_shot import classify_clips
from paraclap.model import sources
from paraclap.model.build import build_model, load_model
from paraclap.model.card import model_card
from paraclap.model.publish import convert
from paraclap.model.towers import base_encoders, train_tokenizer
from paraclap.settings import ModelSettings, SettingsError, TowerSettings
from paraclap.training import loop
from paraclap.training.config import CONFIGS, read_settings
from tiny_models import TEXTS, save_encoders


@pytest.fixture
def labels(tmp_path, voice):
    """Six files of three speakers, loud when angry, and a table of their labels."""
    rows = []
    for number in range(6):
        name = f"clip{number}.wav"
        level = (1, 0.05)[number % 2]
        soundfile.write(tmp_path / name, level * voice(0.4, f0=100 + 20 * number), 16_000)
        rows.append(f"{name},{['angry', 'weary of it'][number % 2]},{'abc'[number // 2]}")
    (tmp_path / "my.csv").write_text("\n".join(["file,emotion,speaker", *rows]) + "\n")
    return tmp_path / "my.csv"


@pytest.fixture
def start(tiny, tmp_path):
    """Folder of a model with provenance."""
    model, processor = tiny
    model.config.provenance = {
        "audio_encoder": "audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim",
        "text_encoder": None,
        "corpora": ["msp-podcast"],
        "clips": 7,
    }
    model.save_pretrained(tmp_path / "start")
    processor.save_pretrained(tmp_path / "start")
    return tmp_path / "start"


@pytest.fixture
def command(start, labels, tmp_path):
    """The one command of the documentation, for a few steps."""
    return [
        "configs/finetune.yaml",
        f"model.start={start}",
        f"data.captions={labels}",
        f"output={tmp_path / 'mine'}",
        "data.validation_speakers=1",
        "data.workers=0",
        "train.batch_size=2",
        "train.epochs=2",
        "train.device=cpu",
        "train.precision=fp32",
    ]


def test_fine_tuning_starts_with_all_weights_of_the_model(command, start):
    settings = with_captions(read_settings([*command, "train.seed=5"]))
    run = loop.Trainer(settings)
    stored = load_file(start / "model.safetensors")
    assert same(run.model.state_dict(), stored)
    _, processor = load_model(start)
    assert run.processor.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    assert run.processor.feature_extractor.gain == 10.0
    assert not run.model.text_branch.base.embeddings.word_embeddings.weight.requires_grad


def test_fine_tuned_model_keeps_the_provenance_of_its_start(command, labels, tmp_path, capsys):
    assert train.main(command) == 0
    model, processor = load_model(tmp_path / "mine")
    facts = model.config.provenance
    assert facts["audio_encoder"].startswith("audeering/") and facts["text_encoder"] is None
    assert facts["start"] == "start" and facts["before"] == {"corpora": ["msp-podcast"], "clips": 7}
    assert facts["corpora"] == ["my"] and facts["clips"] == 4
    assert str(tmp_path) not in json.dumps(facts)
    card = model_card("mine", model.config, 1, True)
    assert "- start: start\n" in card and "  - corpora: msp-podcast\n" in card
    assert "license: cc-by-nc-sa-4.0" in card, "licences of the start are inherited"
    capsys.readouterr()
    assert train.main(command) == 0
    assert "resumed" in capsys.readouterr().out
    assert Path(tmp_path / "mine" / "captions.parquet").is_file()


def test_fine_tuning_learns_the_labels(command, labels):
    rates = ["optim.lr=0.01", "optim.audio_lr=0.001", "optim.text_projection_lr=0.001"]
    words = [f"text_pretraining.{option}" for option in ("steps=50", "lr=0.01", "batch_size=4")]
    options = ["train.epochs=10", "optim.warmup_steps=1", "model.freeze=[]", "train.keep_old=0"]
    settings = read_settings([*command, *rates, *words, *options])

    def recall(source):
        table = read_corpus(labels)
        prompts = prompts_for(table, "emotion", "sentence")
        answers = classify_clips(*load_model(source), table, labels.parent, prompts)
        return score(scored_classes(table), answers["prediction"])["UAR"]

    assert recall(settings.model.start) == 0.5
    run = loop.train(settings)
    assert recall(run.output / "last") == 1.0


def test_frozen_encoders_keep_their_weights_and_projections_learn(command, start, tmp_path):
    loop.train(read_settings([*command, "model.freeze=[audio,text]"]))
    before = load_file(start / "model.safetensors")
    after = load_file(tmp_path / "mine" / "last" / "model.safetensors")
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"audio_projection", "text_projection", "logit_scale"}


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_incomplete_start_is_refused(command, start, change):
    stored = load_file(start / "model.safetensors")
    name = "audio_projection.linear1.weight"
    tensor = stored.pop(name)
    if change == "unknown":
        stored |= {name: tensor, "stray": torch.zeros(1)}
    elif change == "shape":
        stored[name] = torch.zeros(3, 3)
    save_file(stored, start / "model.safetensors", metadata={"format": "pt"})
    settings = with_captions(read_settings(command))
    expected = {"missing": "1 weights", "unknown": "weights are unknown", "shape": "another shape"}
    with pytest.raises(ParaCLAPError, match=expected[change]):
        loop.Trainer(settings)


def test_labels_without_speakers_are_all_trained_on_without_validation(command, labels, tmp_path):
    rows = [line.rsplit(",", 1)[0] for line in labels.read_text().splitlines()]
    labels.write_text("\n".join(rows) + "\n")
    run = loop.train(read_settings([*command, "data.validation_speakers=0"]))
    assert len(run.data.train_table) == 6
    assert (tmp_path / "mine" / "best" / "config.json").is_file()


def test_labels_without_speakers_hold_files_out(command, labels, tmp_path):
    """The only file held out here has one class and one caption: there is nothing to choose by."""
    rows = [line.rsplit(",", 1)[0] for line in labels.read_text().splitlines()]
    labels.write_text("\n".join(rows) + "\n")
    with pytest.warns(UserWarning, match="emotion of all validation clips is"):
        run = loop.train(read_settings(command))
    assert len(run.data.train_table) == 5 and len(run.validate) == 0 and run.best is None
    assert (tmp_path / "mine" / "best" / "config.json").is_file()
    with pytest.raises(PromptError, match="emotion has prompts for one class"):
        loop.Trainer(with_captions(read_settings([*command, "train.criterion=UAR"])))


def test_keep_old_interpolates_what_is_saved_and_not_what_is_trained(command, start, tmp_path):
    states = []
    for share in (0, 0.75):
        output = f"output={tmp_path / str(share)}"
        run = loop.train(read_settings([*command, f"train.keep_old={share}", output]))
        states.append(weights(run.output))
        trained = dict(run.model.state_dict())
        assert same(trained, states[0])
    old, (new, kept) = load_file(start / "model.safetensors"), states
    assert not same(old, new) and new.keys() == kept.keys()
    for name, weight in kept.items():
        torch.testing.assert_close(weight, 0.75 * old[name] + 0.25 * new[name])
    assert same(kept, weights(tmp_path / "0.75", "best")), "validated at the last step"


def test_run_with_keep_old_resumes_bit_for_bit(command, tmp_path, monkeypatch):
    options = ["train.keep_old=0.5", "train.save_every=1", "train.log_every=1"]
    whole = [*command, *options, f"output={tmp_path / 'whole'}"]
    loop.train(read_settings(whole))
    train_until(monkeypatch, 2, [*command, *options])
    loop.train(read_settings([*command, *options]))
    assert same_runs(tmp_path / "whole", tmp_path / "mine")


def test_keep_old_requires_a_start(config):
    with pytest.raises(SettingsError, match="train.keep_old requires a trained model"):
        loop.train(read_settings([config, "train.keep_old=0.5"]))


# --- Every start, every configuration ------------------------------------------------------------


FORMS = ("run", "best", "last", "hub", "installed", "heads", "converted")
RECIPES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))  # combined with every form in turn
ROWS = [
    *((form, RECIPES[place % len(RECIPES)], "labels") for place, form in enumerate(FORMS)),
    *((form, RECIPES[place % len(RECIPES)], "captions") for place, form in enumerate(FORMS, 3)),
    *((form, RECIPES[place % len(RECIPES)], "texts") for place, form in enumerate(FORMS, 5)),
]


def cached_from_the_hub(folder, cache, monkeypatch):
    """Copy a model folder to where a download from the Hub would be; returns its name there."""
    repository = cache / "models--me--tiny"
    shutil.copytree(folder, repository / "snapshots" / "0123456")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123456")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return "me/tiny"


def published_heads(folder, monkeypatch):
    """Publish a model without its frozen encoders, which are elsewhere; returns its folder."""
    monkeypatch.setenv("PARACLAP_ENCODERS", str(save_encoders(folder / "encoders")))
    towers = {"audio": TowerSettings("me/tiny-speech"), "text": TowerSettings("me/tiny-words")}
    settings = ModelSettings(**towers, projection_dim=24, freeze=["audio", "text"])
    model, processor = build_model(settings, TEXTS)
    model.config.base_encoders = base_encoders(model, settings, ())
    for part in (model, processor):
        part.save_pretrained(folder / "whole")
    arguments = ["publish", str(folder / "whole"), str(folder / "heads"), "--heads"]
    assert models.main(arguments) == 0
    return folder / "heads"


@pytest.fixture
def start_of(start, published, tmp_path, monkeypatch):
    """A function that returns the value of `model.start` in one of `FORMS`."""

    def make(form):
        match form:
            case "hub":
                return cached_from_the_hub(start, tmp_path / "hub", monkeypatch)
            case "installed":
                monkeypatch.setattr(sources, "PUBLISHED_MODEL", start)
                return "installed"
            case "heads":
                return published_heads(tmp_path, monkeypatch)
            case "converted":
                train_tokenizer(TEXTS, 150).save_pretrained(tmp_path / "words")
                _, config, path = published
                return convert(path, tmp_path / "converted", tmp_path / "words", config)
        for name in ("best", "last"):
            shutil.copytree(start, tmp_path / "runs" / name)
        return tmp_path / "runs" / ("" if form == "run" else form)

    return make


@pytest.mark.parametrize("form, recipe, data", ROWS)
def test_every_start_is_fine_tuned_in_every_configuration(
    form, recipe, data, start_of, labels, captions, corpus, tmp_path, capsys
):
    start = start_of(form)
    if data == "texts":
        labels.write_text(labels.read_text().replace("emotion", "caption"))
    table = [f"data.captions={labels}"]
    if data == "captions":
        table = [f"data.root={corpus}", f"data.captions={captions}"]
    limits = ["train.max_steps=1", "train.batch_size=2", "data.workers=0", "train.device=cpu"]
    options = [*limits, "data.validation_speakers=1", "train.loggers=[]"]
    arguments = [f"model.start={start}", *table, f"output={tmp_path / 'mine'}", *options]
    assert train.main([str(CONFIGS / f"{recipe}.yaml"), *arguments]) == 0
    defines_model = recipe != "finetune"
    assert ("model.start replaces the model of" in capsys.readouterr().out) == defines_model
    before, _ = load_model(start)
    after, _ = load_model(tmp_path / "mine" / "last")
    assert after.config.audio_config.to_dict() == before.config.audio_config.to_dict()
    assert after.config.projection_dim == 24
    assert not torch.equal(after.logit_scale, before.logit_scale)
    name = {"hub": "me/tiny", "installed": "start", "run": "runs"}.get(form, form)
    assert after.config.provenance["start"] == name


@pytest.mark.parametrize(
    "columns, options, said",
    [
        (("file", "emotion", "speaker"), ["train.batch_size=64"], "batch_size is 64, but"),
        (("file", "emotion", "speaker"), [], "validation on speakers "),
        (("file", "emotion"), [], "validation on 5 of 50 files"),
        (("file", "emotion", "one"), ["data.validation_speakers=0"], "50 training clips, 0 valid"),
        (("file", "emotion", "one"), [], "data.validation_speakers is 1, expected less than the 1"),
    ],
)
def test_fifty_lines_of_old_and_new_classes(
    columns, options, said, command, start, labels, voice, capsys
):
    config = json.loads((start / "config.json").read_text())
    config["provenance"]["attributes"] = {"emotion": {"anger": ["angry"], "fear": ["fear"]}}
    (start / "config.json").write_text(json.dumps(config))
    names = [f"clip{number}.wav" for number in range(50)]
    for number, name in enumerate(names):
        soundfile.write(labels.parent / name, voice(0.2, f0=100 + 2 * number), 16_000)
    table = pd.DataFrame({"file": names, "emotion": ["angry", "weary of it"] * 25, "one": "x"})
    table["speaker"] = ["ab"[number // 25] for number in range(50)]
    table = table[list(columns)].rename(columns={"one": "speaker"})
    table.to_csv(labels, index=False)
    options = ["train.batch_size=16", "train.max_steps=2", *options]
    code = cli.run(lambda: train.main([*command, *options]), "train.py")
    printed = capsys.readouterr()
    assert said in printed.out + printed.err
    assert (code == 1) == (said in printed.err)
    if code == 0:
        model, _ = load_model(labels.parent / "mine")
        prompts = ["the speaker sounds angry", "weary of it", "fear", "a boring voice"]
        assert untrained(model.config, prompts) == ["a boring voice"]


@pytest.mark.parametrize("other", ["encoder", "checkpoint.pth.tar", "captions", "nowhere", "a/b"])
def test_other_starts_are_refused_in_one_sentence(
    other, published, captions, command, tmp_path, monkeypatch, capsys
):
    start = {
        "encoder": save_encoders(tmp_path / "encoders") / "tiny-speech",
        "checkpoint.pth.tar": published[2],
        "captions": captions,
    }.get(other, other)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    arguments = [*command, f"model.start={start}"]
    assert cli.run(lambda: train.main(arguments), "train.py") == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("train.py: ") and str(start) in error
    assert not (tmp_path / "mine" / "best").exists()


def test_typed_model_keys_beside_a_start_are_refused_and_those_of_a_file_ignored(tmp_path, capsys):
    mel, start = str(CONFIGS / "mel.yaml"), "model.start=installed"
    settings = read_settings([mel, start])
    assert settings.model == ModelSettings("installed", freeze=["text"])
    assert settings.text_pretraining.steps == 0 and settings.train.epochs == 40
    assert "model.projection_dropout, text_pretraining are ignored" in capsys.readouterr().out
    assert read_settings([mel, start, "model.start=null"]).model == read_settings([mel]).model
    assert read_settings([start]).output == "runs/finetuned"
    assert read_settings([mel, start, "text_pretraining.steps=3"]).text_pretraining.steps == 3
    written = tmp_path / "own.yaml"
    written.write_text("model: {start: installed, projection_dim: 8}")
    for arguments in ([mel, start, "model.audio_pooling=mean_std"], [str(written)]):
        with pytest.raises(SettingsError, match="model.start defines the whole model, model"):
            read_settings(arguments)
