"""Fine-tuning a model with a table of labels."""

import json
from pathlib import Path

import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from paraclap.cli import train
from paraclap.corpora.table import read_corpus, scored_classes
from paraclap.data.label_captions import with_captions
from paraclap.errors import ParaCLAPError
from paraclap.evaluation.metrics import score
from paraclap.evaluation.prompts import prompts_for
from paraclap.evaluation.zero_shot import classify_clips
from paraclap.model.build import load_model
from paraclap.model.card import model_card
from paraclap.settings import SettingsError
from paraclap.training import loop
from paraclap.training.config import read_settings


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
    weights = run.model.state_dict()
    assert weights.keys() == stored.keys()
    assert all(torch.equal(weights[name], stored[name]) for name in stored)
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
    options = ["train.epochs=10", "optim.warmup_steps=1", "model.freeze=[]"]
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
    weights = load_file(start / "model.safetensors")
    name = "audio_projection.linear1.weight"
    tensor = weights.pop(name)
    if change == "unknown":
        weights |= {name: tensor, "stray": torch.zeros(1)}
    elif change == "shape":
        weights[name] = torch.zeros(3, 3)
    save_file(weights, start / "model.safetensors", metadata={"format": "pt"})
    settings = with_captions(read_settings(command))
    expected = {"missing": "1 weights", "unknown": "weights are unknown", "shape": "another shape"}
    with pytest.raises(ParaCLAPError, match=expected[change]):
        loop.Trainer(settings)


def test_labels_without_speakers_need_validation_speakers_0(command, labels, tmp_path):
    rows = [line.rsplit(",", 1)[0] for line in labels.read_text().splitlines()]
    labels.write_text("\n".join(rows) + "\n")
    with pytest.raises(SettingsError, match="data.validation_speakers=0"):
        loop.train(read_settings(command))
    run = loop.train(read_settings([*command, "data.validation_speakers=0"]))
    assert len(run.data.train_table) == 6
    assert (tmp_path / "mine" / "best" / "config.json").is_file()
