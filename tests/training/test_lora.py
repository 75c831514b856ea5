"""Runs with LoRA: what is trained, saved, resumed and refused."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from training_runs import REPOSITORY, rows, same, same_runs, train_until, trained, weights
from transformers import WhisperConfig, WhisperModel

from paraclap.errors import MissingPackageError
from paraclap.model.build import load_model
from paraclap.model.lora import is_adapter, merged_state
from paraclap.model.modeling_paraclap import load_encoder
from paraclap.model.publish import publish
from paraclap.model.sources import ModelError
from paraclap.settings import SettingsError
from paraclap.training import loop
from paraclap.training.checkpoint import load_newest
from paraclap.training.config import check_paths, read_settings
from tiny_models import TINY_WHISPER, batch_of, save_encoders

peft = pytest.importorskip("peft")
HEADS = ("audio_projection.", "text_projection.", "logit_scale")
LORA = "model.lora={towers: [audio, text], targets: [q_proj, v_proj, query, value], dropout: 0.1}"


@pytest.fixture
def encoders(tmp_path):
    """Folder of tiny pretrained encoders."""
    folder = save_encoders(tmp_path / "encoders")
    torch.manual_seed(4)
    WhisperModel(WhisperConfig(**TINY_WHISPER)).save_pretrained(folder / "tiny-whisper")
    return folder


@pytest.fixture
def arguments(config, encoders):
    """Arguments of a run with pretrained encoders and LoRA in both."""
    settings = yaml.safe_load(Path(config).read_text())
    for branch, name in (("audio", "tiny-speech"), ("text", "tiny-words")):
        settings["model"][branch] = {"name": str(encoders / name)}
    Path(config).write_text(yaml.safe_dump(settings))
    drawn = "model.audio.config={hidden_dropout: 0.2, mask_time_prob: 0.2}"
    return [config, LORA, "model.normalise_waveform=false", drawn]


def bases(state):
    return {name: weight for name, weight in state.items() if ".base." in name}


def test_adapters_and_heads_alone_are_trained(arguments, tmp_path):
    run = loop.Trainer(read_settings(arguments))
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    optimised = {name.removeprefix("model.") for name, _ in run.learner._optimized()}
    assert optimised == {n for n in before if is_adapter(n) or n.startswith(HEADS)}
    run = loop.train(read_settings(arguments))
    for name, parameter in run.model.named_parameters():
        assert torch.equal(parameter, before[name]) != (name in optimised), name
    checkpoint = load_newest(tmp_path / "run" / "checkpoints")
    assert checkpoint["model"].keys() == optimised
    saved = weights(tmp_path / "run")
    changed = {n for n, w in bases(saved).items() if not torch.equal(w, before.get(n, w))}
    assert not changed  # names of layers with adapters differ
    assert not any(is_adapter(name) or "base_layer" in name for name in saved)


def test_merged_model_and_adapters_equal_the_trained_model(arguments, encoders, tmp_path):
    run = loop.train(read_settings([*arguments, "optim.audio_lr=0.05", "optim.text_lr=0.05"]))
    trained, folder = run.model.eval(), tmp_path / "run" / "last"
    loaded, processor = load_model(folder)
    batch = batch_of(processor)
    inputs = {name: batch[name] for name in ("input_values", "padding_mask")}
    texts = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        for kind, tensors in (("audio", inputs), ("text", texts)):
            expected, found = (
                getattr(model, f"get_{kind}_features")(**tensors).pooler_output
                for model in (trained, loaded)
            )
            assert (expected - found).abs().max() < 1e-5
        base, _ = load_encoder(encoders / "tiny-speech", loaded.audio_branch.base.config)
        base = base.eval()
        plain = base(inputs["input_values"]).last_hidden_state
        adapted = peft.PeftModel.from_pretrained(base, folder / "adapter" / "audio").eval()
        found = adapted(inputs["input_values"]).last_hidden_state
        expected = loaded.audio_branch.base(inputs["input_values"]).last_hidden_state
    assert (found - expected).abs().max() < 1e-5 < 1e-3 < (plain - expected).abs().max()
    stated = json.loads((folder / "adapter" / "audio" / "adapter_config.json").read_text())
    assert (stated["r"], stated["lora_alpha"], stated["base_model_name_or_path"]) == (
        *(8, 16),
        "tiny-speech",
    )


def test_resumed_run_equals_an_uninterrupted_one(arguments, tmp_path, monkeypatch):
    whole, stopped = f"output={tmp_path / 'whole'}", f"output={tmp_path / 'stopped'}"
    loop.train(read_settings([*arguments, whole]))
    train_until(monkeypatch, 5, [*arguments, stopped])
    loop.train(read_settings([*arguments, stopped]))
    assert same_runs(tmp_path / "whole", tmp_path / "stopped")
    first, second = (tmp_path / run / "last" / "adapter" for run in ("whole", "stopped"))
    for path in first.rglob("*.safetensors"):
        assert path.read_bytes() == (second / path.relative_to(first)).read_bytes()


@pytest.fixture
def still(arguments):
    """Arguments of a run that draws nothing but clips and captions."""
    audio = ("hidden", "attention", "activation", "feat_proj")
    audio = ", ".join([*(f"{name}_dropout: 0" for name in audio), "mask_time_prob: 0"])
    text = "hidden_dropout_prob: 0, attention_probs_dropout_prob: 0"
    arguments = [part for part in arguments if "audio.config" not in part]
    arguments += ["model.projection_dropout=0", "model.lora.dropout=0", "data.crop_seconds=0.4"]
    return [*arguments, f"model.audio.config={{{audio}}}", f"model.text.config={{{text}}}"]


@pytest.mark.parametrize("choice", ["train.micro_batch=2", "train.checkpoint_activations=true"])
def test_gradients_of_adapters_are_the_same_with_less_memory(still, choice):
    found = []
    for choices in ([], [choice]):
        run = loop.Trainer(read_settings([*still, *choices]))
        run.model.train()
        run.learner.gradients.backward(next(iter(run.loader())))
        found.append({n: p.grad for n, p in run.model.named_parameters() if p.requires_grad})
    assert any(is_adapter(name) and bool(g.any()) for name, g in found[0].items())
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-3, atol=1e-5)


def test_several_processes_train_as_one(together, still, tmp_path):
    losses = {}
    for world in (1, 2):
        run = together(world, trained, [*still, f"output={tmp_path / str(world)}"])
        assert run.codes == [0] * world, run.errors
        assert all(result == run.results[0] for result in run.results)
        losses[world] = [row["loss"] for row in rows(tmp_path / str(world)) if "loss" in row]
    assert losses[1] == pytest.approx(losses[2], rel=1e-3)


def test_resuming_refuses_another_base_encoder_and_other_adapters(arguments, encoders, tmp_path):
    loop.train(read_settings([*arguments, "train.max_steps=3"]))
    with pytest.raises(SettingsError, match=r"model\.lora\.rank"):
        loop.train(read_settings([*arguments, "model.lora.rank=4"]))
    with pytest.raises(SettingsError, match="do not fit the settings"):
        loop.train(read_settings([*arguments, "model.lora.rank=4", "train.force=true"]))
    path = encoders / "tiny-speech" / "model.safetensors"
    other = {name: weight * 1.01 for name, weight in load_file(path).items()}
    save_file(other, path, {"format": "pt"})
    with pytest.raises(SettingsError, match=r"frozen audio_branch\.base are not those"):
        loop.train(read_settings(arguments))


@pytest.mark.parametrize("crop", ["random", "centre"])
def test_standardised_layers_of_whisper_with_adapters(arguments, encoders, tmp_path, crop):
    arguments = [
        *(arguments[0], f"model.audio.name={encoders / 'tiny-whisper'}", "optim.audio_lr=0.01"),
        *("model.audio_layers=[1,2]", "model.audio_standardise=true", f"data.crop={crop}"),
        f"data.embeddings={tmp_path / 'cache'}",
    ]
    frozen = [*arguments, "model.freeze=[audio,text]", "data.crop=centre"]
    arguments += ["model.lora.towers=[audio]", "model.freeze=[text]"]
    reference = loop.train(read_settings([*frozen, f"output={tmp_path / 'frozen'}"])).model
    run = loop.train(read_settings(arguments))
    assert len(list((tmp_path / "cache").iterdir())) == 1  # read what the frozen run has written
    branch = run.model.audio_branch
    for name in ("mean", "deviation"):  # of the base encoder, before it was adapted
        expected = getattr(reference.audio_branch, name)
        torch.testing.assert_close(getattr(branch, name), expected, rtol=0, atol=1e-6)
    layers = branch.base.layers
    moved = [float(layer.self_attn.q_proj.lora_B.default.weight.abs().max()) for layer in layers]
    assert moved[0] > 0 and moved[1] > 0 and moved[2] == 0  # the third layer is not computed


def test_run_continues_from_merged_weights_and_none_are_left_out(arguments, tmp_path):
    first, second = tmp_path / "run", tmp_path / "second"
    loop.train(read_settings(arguments))
    settings = yaml.safe_load(Path(arguments[0]).read_text())
    settings |= {"model": {"start": str(first)}, "output": str(second)}
    (tmp_path / "second.yaml").write_text(yaml.safe_dump(settings))
    again = [str(tmp_path / "second.yaml"), "data.validation_speakers=0"]
    again += ["model.lora.towers=[audio]", "model.freeze=[text,audio_convolutions]"]
    run = loop.Trainer(read_settings(again))
    assert same(merged_state(run.model), weights(first, "best"))
    assert run.learner.constant.keys() == {"audio_branch.base", "text_branch.base"}
    run = loop.train(read_settings(again))
    changed = {n for n, w in weights(first, "best").items() if (w != weights(second)[n]).any()}
    assert {
        name.rpartition(".")[0].rpartition(".")[2] for name in bases(dict.fromkeys(changed))
    } == {*("q_proj", "v_proj")}
    for folder in (first, second):
        with pytest.raises(ModelError, match="no encoder that was frozen"):
            publish(folder, tmp_path / "heads", heads=True)
    assert not (load_model(publish(first, tmp_path / "whole"))[0].config.base_encoders)


def test_keep_old_interpolates_merged_weights(arguments, tmp_path):
    first, saved = tmp_path / "run", []
    loop.train(read_settings(arguments))
    settings = yaml.safe_load(Path(arguments[0]).read_text()) | {"model": {"start": str(first)}}
    (tmp_path / "second.yaml").write_text(yaml.safe_dump(settings))
    again = [str(tmp_path / "second.yaml"), "data.validation_speakers=0", "model.freeze=[text]"]
    again += ["model.lora.towers=[audio]", "optim.audio_lr=0.05"]
    for share in (0, 0.75):
        output = f"output={tmp_path / str(share)}"
        run = loop.train(read_settings([*again, f"train.keep_old={share}", output]))
        saved.append(weights(run.output))
    old, (new, kept) = weights(first, "best"), saved
    name = "audio_branch.base.encoder.layers.0.attention.q_proj.weight"
    assert (new[name] - old[name]).abs().max() > 1e-3
    for name, weight in kept.items():
        expected = 0.75 * old[name] + 0.25 * new[name]
        torch.testing.assert_close(weight, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("model.freeze=[audio]", "audio is in model.lora.towers and in model.freeze"),
        ("model.freeze=[audio_projection,text]", "text is in model.lora.towers and"),
        ("model.audio.name=null", "the audio encoder has random weights"),
        ("model.lora.towers=[]", "model.lora.towers is empty"),
        ("model.lora.targets=[]", "model.lora.targets is empty"),
        ("model.lora.towers=[speech]", r"model\.lora\.towers is \['speech'\]"),
        ("model.lora.rank=0", r"model\.lora\.rank is 0, expected at least 1"),
        ("model.lora.ranks=0", r"model\.lora\.ranks is unknown"),
        ("train.unfreeze={audio_convolutions: 2}", "audio is in model.lora.towers"),
        ("model.audio_standardise=true", None),
    ],
)
def test_settings_that_exclude_each_other_are_refused(arguments, given, message):
    given = [given, "model.audio.config={model_type: wav2vec2}"] if "null" in given else [given]
    if message is None:
        return check_paths(read_settings([*arguments, *given]))
    with pytest.raises(SettingsError, match=message):
        check_paths(read_settings([*arguments, *given]))


def test_peft_is_imported_for_lora_alone_and_named_if_missing(arguments, monkeypatch):
    for path in (REPOSITORY / "paraclap").rglob("*.py"):  # it takes seconds to import
        assert not re.search(r"^(from|import) peft", path.read_text(), re.MULTILINE), path
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"peft is not installed: .*\[lora\]"):
        check_paths(read_settings(arguments))
