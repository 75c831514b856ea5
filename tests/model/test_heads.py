"""Models published without the weights of their frozen encoders, which are fetched by name."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, BertModel, Wav2Vec2Model

from paraclap.cli import models
from paraclap.model.build import build_model, load_model
from paraclap.model.modeling_paraclap import ParaCLAPModel, encoder_hash
from paraclap.model.sources import ModelError
from paraclap.model.towers import base_encoders
from paraclap.settings import ModelSettings, TowerSettings
from tiny_models import TEXTS, embed, save_encoders

NAMES = {"audio": "nobody/tiny-speech", "text": "nobody/tiny-words"}
HUB = [part for branch, name in NAMES.items() for part in (f"--base-{branch}", name)]


@pytest.fixture
def encoders(tmp_path, monkeypatch):
    """Folder of two tiny pretrained encoders, one of them in half precision."""
    folder = save_encoders(tmp_path / "encoders")
    monkeypatch.setenv("PARACLAP_ENCODERS", str(folder))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return folder


def trained(encoders, output, freeze=("audio", "text"), start=None, names=None):
    """Save a model on these encoders as training does."""
    names = names or {"audio": encoders / "tiny-speech", "text": encoders / "tiny-words"}
    towers = {branch: TowerSettings(str(name)) for branch, name in names.items()}
    settings = ModelSettings(
        **({} if start else towers),
        start=start,
        projection_dim=24,
        normalise_waveform=False,
        freeze=list(freeze),
    )
    torch.manual_seed(2)
    model, processor = build_model(settings, TEXTS)
    model.config.base_encoders = base_encoders(model, settings, ())
    model.save_pretrained(output)
    processor.save_pretrained(output)
    return model.eval(), processor


@pytest.fixture
def heads(encoders, tmp_path):
    """Folder of a model without its encoders."""
    trained(encoders, tmp_path / "run")
    output = tmp_path / "heads"
    assert models.main(["publish", str(tmp_path / "run"), str(output), "--heads", *HUB]) == 0
    return output


def embeddings(model, processor, waveforms):
    tokens = processor.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        texts = model.get_text_features(tokens.input_ids, tokens.attention_mask).pooler_output
    return torch.cat([embed(model, processor, waveforms), texts])


def test_heads_give_the_embeddings_of_the_whole_model(heads, tmp_path, waveforms):
    weights = load_file(heads / "model.safetensors")
    assert len(weights) == 9 and not any(".base." in name for name in weights)
    whole = embeddings(*load_model(tmp_path / "run"), waveforms)
    model, processor = load_model(heads)
    assert torch.equal(embeddings(model, processor, waveforms), whole)
    model.save_pretrained(tmp_path / "again")  # with the encoders
    processor.save_pretrained(tmp_path / "again")
    shutil.rmtree(tmp_path / "encoders")
    assert torch.equal(embeddings(*load_model(tmp_path / "again"), waveforms), whole)


@pytest.mark.parametrize("options", [(), ("--heads", *HUB)])
def test_published_folder_has_no_path_of_this_machine(encoders, tmp_path, options):
    trained(encoders, tmp_path / "run")
    assert str(encoders) in (tmp_path / "run" / "config.json").read_text()
    output = tmp_path / "published"
    assert models.main(["publish", str(tmp_path / "run"), str(output), *options]) == 0
    for path in output.glob("*.json"):
        assert str(tmp_path) not in path.read_text(), path.name


def test_encoders_of_another_precision_have_the_same_hash(heads, encoders, waveforms):
    audio = Wav2Vec2Model.from_pretrained(encoders / "tiny-speech", dtype=torch.float32)
    text = BertModel.from_pretrained(encoders / "tiny-words")
    hashes = [encoder_hash(audio), encoder_hash(text)]
    assert hashes == [encoder_hash(audio.half()), encoder_hash(text.half())]
    text.save_pretrained(encoders / "tiny-words")
    load_model(heads)


@pytest.mark.parametrize("place", ["tiny-words", "nobody--tiny-words", "tiny-words-encoder"])
def test_encoders_are_found_by_their_names(heads, encoders, place):
    (encoders / "tiny-words").rename(encoders / place)
    load_model(heads)


def test_training_takes_the_folders_of_the_names_of_the_hub(encoders, tmp_path):
    model, _ = trained(encoders, tmp_path / "run", names=NAMES)
    found = model.config.base_encoders
    assert {branch: origin["name"] for branch, origin in found.items()} == NAMES
    assert [origin["revision"] for origin in found.values()] == [None, None]
    assert models.main(["publish", str(tmp_path / "run"), str(tmp_path / "out"), "--heads"]) == 0
    load_model(tmp_path / "out")


def changed(folder, change):
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda folder: changed(
                folder / "tiny-words",
                lambda w: w | {"embeddings.word_embeddings.weight": torch.ones(150, 32)},
            ),
            r"tiny-words are not those that the model was trained with: their hash is \w+, exp",
        ),
        (
            lambda folder: changed(
                folder / "tiny-speech",
                lambda w: {name: t for name, t in w.items() if "attention" not in name},
            ),
            "tiny-speech are not those",
        ),
        (
            lambda folder: shutil.rmtree(folder / "tiny-speech"),
            r"nobody/tiny-speech is neither in the folder \$PARACLAP_ENCODERS \(/\S+\) nor",
        ),
    ],
)
def test_other_encoders_are_refused_in_one_sentence(heads, encoders, change, message):
    change(encoders)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(heads)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../tiny-words", "/etc", "a/b/c", ""])
def test_names_of_base_encoders_are_no_paths(heads, name):
    config = json.loads((heads / "config.json").read_text())
    config["base_encoders"]["text"]["name"] = name
    (heads / "config.json").write_text(json.dumps(config))
    (heads / "SHA256SUMS").unlink()
    with pytest.raises(ModelError, match="is no name of the Hub"):
        load_model(heads)


def test_only_frozen_pretrained_encoders_are_left_out(encoders, tmp_path):
    model, _ = trained(encoders, tmp_path / "run", freeze=["audio"])
    assert list(model.config.base_encoders) == ["audio"]
    command = ["publish", str(tmp_path / "run"), str(tmp_path / "heads"), "--heads"]
    for arguments, message in (
        (HUB, "--base-text: the text encoder of .* was trained"),
        ([], "'tiny-speech' is no name of the Hub.*--base-audio"),
    ):
        with pytest.raises(ModelError, match=message):
            models.main([*command, *arguments])
    models.main([*command, *HUB[:2]])
    branches = {name.split(".")[0] for name in load_file(tmp_path / "heads/model.safetensors")}
    assert "text_branch" in branches and "audio_branch" not in branches
    trained(encoders, tmp_path / "none", freeze=[])
    with pytest.raises(ModelError, match="has no encoder that was frozen in training"):
        models.main(["publish", str(tmp_path / "none"), str(tmp_path / "out"), "--heads"])


def test_fine_tuned_encoders_are_base_encoders_no_longer(heads, encoders, tmp_path):
    model, _ = trained(encoders, tmp_path / "second", freeze=["text"], start=str(heads))
    assert list(model.config.base_encoders) == ["text"]
    assert model.config.base_encoders["text"]["name"] == NAMES["text"]
    assert "stored" not in model.config.base_encoders["text"]


ALONE = """
import sys
sys.modules["paraclap"] = None
import torch
from transformers import AutoModel
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
waveform = torch.load(sys.argv[2])
with torch.no_grad():
    torch.save(model.get_audio_features(waveform[None]).pooler_output, sys.argv[2])
"""


def test_folder_loads_without_the_package(heads, tmp_path, waveforms):
    torch.save(torch.from_numpy(waveforms[0]), tmp_path / "waveform.pt")
    command = [sys.executable, "-c", ALONE, str(heads), str(tmp_path / "waveform.pt")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "newly initialized" not in done.stderr and "MISSING" not in done.stderr, done.stderr
    expected = embed(*load_model(heads), waveforms[:1])
    assert torch.allclose(torch.load(tmp_path / "waveform.pt"), expected, atol=1e-6)


def test_auto_model_loads_other_precisions(heads):
    model = AutoModel.from_pretrained(heads, dtype=torch.bfloat16)
    assert isinstance(model, ParaCLAPModel)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
