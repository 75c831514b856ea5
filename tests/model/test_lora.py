"""Adapters of encoders: every family adapts, and the merged model and the saved adapters agree."""

import pytest
import torch

from paraclap.model.build import build_model
from paraclap.model.lora import add_adapters, is_adapter, merged_state, save_adapters
from paraclap.model.modeling_paraclap import FunctionalsConfig, FunctionalsModel
from paraclap.model.sources import ModelError
from paraclap.settings import LoraSettings, ModelSettings, TowerSettings
from tiny_models import TINY_AUDIO, TINY_MEL, TINY_TEXT, TINY_WHISPER, batch_of

peft = pytest.importorskip("peft")

FAMILIES = {
    "wav2vec2": (TINY_AUDIO, ["q_proj", "v_proj"]),
    "hubert": (TINY_AUDIO | {"model_type": "hubert"}, ["q_proj", "v_proj"]),
    "wavlm": (TINY_AUDIO | {"model_type": "wavlm"}, ["q_proj", "v_proj", "output_dense"]),
    "whisper": (TINY_WHISPER, ["q_proj", "v_proj"]),
    "wav2vec2-bert": (TINY_MEL, ["linear_q", "linear_v"]),
}
TEXT = ["query", "value"]


def adapted(audio, targets, towers=("audio", "text"), **options):
    """A tiny model with adapters that are not zero, in evaluation mode, and its processor."""
    towers_of = {"audio": TowerSettings(config=audio), "text": TowerSettings(config=TINY_TEXT)}
    torch.manual_seed(0)
    model, processor = build_model(ModelSettings(**towers_of, projection_dim=24), ["angry", "sad"])
    before = model.eval().state_dict()
    add_adapters(model, LoraSettings(list(towers), targets=list(targets), **options), {})
    assert all(torch.equal(merged_state(model)[name], before[name]) for name in before)
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if is_adapter(name):
            weight.data = torch.randn(weight.shape, generator=generator) / 4
    return model.eval(), processor


def embeddings(model, processor):
    """Both kinds of embeddings of a batch, with a graph."""
    batch = batch_of(processor)
    audio = model.get_audio_features(batch["input_values"], batch["padding_mask"])
    text = model.get_text_features(batch["input_ids"], batch["attention_mask"])
    return torch.cat([audio.pooler_output, text.pooler_output])


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_have_an_effect_and_merge(family):
    audio, targets = FAMILIES[family]
    model, processor = adapted(audio, [*targets, *TEXT])
    found = embeddings(model, processor)
    (found * torch.randn(found.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    for name, weight in model.named_parameters():
        if ".base." in name:
            assert weight.requires_grad == is_adapter(name)
        if is_adapter(name):
            assert weight.grad.abs().max() > 0, name
    plain, _ = build_model(
        ModelSettings(
            audio=TowerSettings(config=audio),
            text=TowerSettings(config=TINY_TEXT),
            projection_dim=24,
        ),
        ["angry", "sad"],
    )
    plain.load_state_dict(merged_state(model))
    with torch.no_grad():
        merged = embeddings(plain.eval(), processor)
    assert (merged - found).abs().max() < 1e-5
    for name in merged_state(model):  # they are in the towers alone
        assert not is_adapter(name) and "base_layer" not in name


@pytest.mark.parametrize("family", FAMILIES)
def test_peft_loads_the_saved_adapters_into_the_base_encoder(family, tmp_path):
    audio, targets = FAMILIES[family]
    model, processor = adapted(audio, [*targets, *TEXT])
    save_adapters(model, tmp_path)
    for branch, inputs in (("audio", "input_values"), ("text", "input_ids")):
        base = model.get_submodule(f"{branch}_branch.base")
        state = {n.replace(".base_layer", ""): w for n, w in base.state_dict().items()}
        torch.manual_seed(3)
        encoder = type(base)(base.config).eval()
        encoder.load_state_dict({n: w for n, w in state.items() if not is_adapter(n)})
        loaded = peft.PeftModel.from_pretrained(encoder, tmp_path / branch)
        if family == "wavlm":  # peft itself does not adapt weights that are read
            loaded = loaded.merge_and_unload()
        batch = batch_of(processor, lengths=(9000,) * 4)[inputs]
        with torch.no_grad():
            expected, found = (m.eval()(batch).last_hidden_state for m in (base, loaded))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("audio", "options", "message"),
    [
        (TINY_AUDIO, {}, r"audio encoder \(type wav2vec2\) has no .* query or value; .* q_proj"),
        (TINY_AUDIO, {"targets": ["q_proj"], "towers": ["text"]}, "type bert.* dense, key, query"),
        (TINY_AUDIO, {"targets": ["q_proj"]}, "text encoder .*has no linear layer q_proj; "),
        (TINY_AUDIO, {"targets": ["q_proj", "word"]}, "no linear layer word"),
        (TINY_AUDIO, {"targets": ["encoder"]}, "no linear layer encoder"),  # but it is a module
        (
            FAMILIES["wavlm"][0],
            {"targets": ["q_proj", *TEXT], "dropout": 0.1},
            "WavLM .*expected 0",
        ),
    ],
)
def test_wrong_targets_are_refused_with_those_that_exist(audio, options, message):
    with pytest.raises(ModelError, match=message):
        adapted(audio, **({"targets": TEXT, "towers": ["audio", "text"]} | options))


def test_network_on_functionals_has_no_adapters(tiny):
    model, _ = tiny
    model.audio_branch.base = FunctionalsModel(FunctionalsConfig(names=["a"]))
    with pytest.raises(ModelError, match="functionals"):
        add_adapters(model, LoraSettings(["audio"], targets=["first"]), {})
