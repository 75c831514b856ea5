"""Building models from settings, saving and loading them."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoFeatureExtractor, AutoModel, AutoProcessor

from paraclap.model.build import build_model, load_model
from paraclap.model.modeling_paraclap import (
    ParaCLAPFeatureExtractor,
    ParaCLAPModel,
    ParaCLAPProcessor,
)
from paraclap.model.sources import ModelError, ModelNotFoundError
from paraclap.model.towers import train_tokenizer
from paraclap.settings import TowerSettings
from tiny_models import RATE, TINY_AUDIO, embed


@pytest.fixture
def saved(tiny, tmp_path):
    model, processor = tiny
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    return tmp_path


def test_saving_and_loading_show_no_progress(tiny, tmp_path, capsys):
    tiny[0].save_pretrained(tmp_path)
    ParaCLAPModel.from_pretrained(tmp_path)
    assert capsys.readouterr().err == ""


def test_saved_model_gives_the_same_embeddings(tiny, saved, waveforms):
    loaded, processor = load_model(saved)
    assert torch.equal(embed(loaded, processor, waveforms), embed(*tiny, waveforms))
    assert processor.feature_extractor.gain == 10.0
    ours = tiny[1].tokenizer("an angry voice!").input_ids
    assert processor.tokenizer("an angry voice!").input_ids == ours


def test_loaded_weights_are_aligned_like_those_of_training(saved):
    loaded, _ = load_model(saved)
    assert not [name for name, w in loaded.state_dict().items() if w.data_ptr() % 64]


def test_processor_saved_after_truncation_takes_long_clips(tiny, tmp_path, waveforms):
    model, processor = tiny
    processor.tokenizer(["some words"], padding=True, truncation=True)  # kept in its file
    processor.save_pretrained(tmp_path)
    loaded = ParaCLAPProcessor.from_pretrained(tmp_path)
    assert "max_length" in loaded.tokenizer.init_kwargs
    options = {"sampling_rate": RATE, "padding": True, "return_tensors": "pt"}
    batch = loaded(text=["sad", "an angry voice"], audio=waveforms, **options)
    assert batch["input_values"].shape == (4, 40_001)
    with torch.no_grad():
        assert model(**batch).logits_per_audio.shape == (4, 2)


def test_auto_classes_load_the_saved_folder(saved):
    assert isinstance(AutoModel.from_pretrained(saved), ParaCLAPModel)
    assert isinstance(AutoProcessor.from_pretrained(saved), ParaCLAPProcessor)
    assert isinstance(AutoFeatureExtractor.from_pretrained(saved), ParaCLAPFeatureExtractor)


@pytest.mark.torture(48, "model folder whose weights lack a tensor")
def test_missing_weights_are_refused(saved):
    weights = load_file(saved / "model.safetensors")
    del weights["audio_projection.linear1.weight"]
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights.*audio_projection.linear1.weight"):
        load_model(saved)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda w: w | {"stray": torch.ones(1)}, "1 weights are unknown, the first is 'stray'"),
        (
            lambda w: w | {"logit_scale": torch.ones(2)},
            "1 weights are of another shape",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(saved, change, message):
    weights = change(load_file(saved / "model.safetensors"))
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=message):
        load_model(saved)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_damaged_files_are_refused_in_one_sentence(saved, file):
    content = (saved / file).read_bytes()
    (saved / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError) as caught:
        load_model(saved)
    assert str(saved) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.torture(48, "model folder that is empty or missing")
def test_folder_without_model_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(ModelNotFoundError, match="holds no model"):
        load_model(tmp_path)
    for missing in (tmp_path / "none", "none", "runs/none"):
        with pytest.raises(ModelNotFoundError, match="does not exist"):
            load_model(missing)


def test_unavailable_hub_name_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ModelError, match=r"^nobody/no-model is no folder here, and cannot be loaded [^\n]+$"
    ):
        load_model("nobody/no-model")


def test_run_folder_loads_its_best_model(saved, tmp_path_factory, tiny, waveforms):
    run = tmp_path_factory.mktemp("run")
    (run / "best").symlink_to(saved)
    assert torch.equal(embed(*load_model(run), waveforms), embed(*tiny, waveforms))


def test_pretrained_towers_are_loaded_from_folders(settings, tmp_path, waveforms):
    source, processor = build_model(settings, ["some words"])
    source.audio_branch.base.save_pretrained(tmp_path / "audio")
    source.text_branch.base.save_pretrained(tmp_path / "text")
    processor.tokenizer.save_pretrained(tmp_path / "text")
    settings.audio = TowerSettings(str(tmp_path / "audio"), {"mask_time_prob": 0.2})
    settings.text = TowerSettings(str(tmp_path / "text"))
    model, _ = build_model(settings, ["other words"])
    for branch in ("audio_branch", "text_branch"):
        ours, theirs = (getattr(m, branch).state_dict() for m in (model, source))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert model.config.audio_config.mask_time_prob == 0.2


def test_pretrained_tower_with_missing_weights_is_refused(settings, tmp_path):
    source, _ = build_model(settings, ["a"])
    source.audio_branch.base.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["feature_projection.projection.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    settings.audio = TowerSettings(str(tmp_path))
    with pytest.raises(ModelError, match=r"feature_projection.projection.weight"):
        build_model(settings, ["a"])


@pytest.mark.parametrize(
    "branch, tower, message",
    [
        ("audio", TowerSettings(), r"model\.audio needs"),
        ("audio", TowerSettings("no-such-folder"), r"model\.audio\.name no-such-folder"),
        ("text", TowerSettings("no-such-folder"), "tokenizer no-such-folder"),
        ("audio", TowerSettings(None, {"model_type": "none"}), r"model\.audio\.config"),
        ("audio", TowerSettings(None, {**TINY_AUDIO, "hidden": 3}), "hidden is unknown"),
        ("audio", TowerSettings(None, {**TINY_AUDIO, "left_out": []}), "called exclude now"),
        ("audio", TowerSettings(None, {**TINY_AUDIO, "hidden_size": "a"}), "hidden_size"),
    ],
)
def test_wrong_towers_are_refused_in_one_sentence(settings, branch, tower, message):
    setattr(settings, branch, tower)
    with pytest.raises(ModelError, match=message) as caught:
        build_model(settings, ["a"])
    assert "\n" not in str(caught.value)


def test_tokenizer_is_independent_of_order_and_encodes_unseen_words():
    texts = ["pitch is high", "emotion is anger", "the speaker sounds sad"]
    ours, other = train_tokenizer(texts, 200), train_tokenizer(texts[::-1] * 2, 200)
    assert ours.get_vocab() == other.get_vocab()
    tokens = ours("Furious boredom").input_ids
    assert ours.unk_token_id not in tokens
    assert tokens[0] == ours.cls_token_id and tokens[-1] == ours.sep_token_id


@pytest.mark.parametrize(
    "file, change",
    [
        ("config.json", []),
        ("config.json", 3),
        ("config.json", {"projection_dim": -1}),
        ("config.json", {"audio_config": {"hidden_size": 0}}),
        ("config.json", {"quantization_config": True}),
        ("config.json", {"dtype": "evil"}),
        ("processor_config.json", []),
        ("processor_config.json", {"feature_extractor": 3}),
        ("tokenizer_config.json", {"pad_token": 3}),
        ("tokenizer.json", []),
    ],
)
def test_malformed_files_of_a_model_end_in_one_sentence(model_folder, tmp_path, file, change):
    shutil.copytree(model_folder, tmp_path / "model")
    path = tmp_path / "model" / file
    content = json.loads(path.read_text()) | change if isinstance(change, dict) else change
    path.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"^[^\n]+$"):
        load_model(tmp_path / "model")
