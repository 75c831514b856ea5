"""Learning rates by layer, and parts that are unfrozen later."""

import copy

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    HubertConfig,
    HubertModel,
    Wav2Vec2BertConfig,
    Wav2Vec2BertModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
)

from paraclap.model.build import build_model
from paraclap.settings import OptimSettings
from paraclap.training.config import SettingsError
from paraclap.training.optim import (
    OPTIMIZERS,
    layers_above,
    learning_rate_factor,
    new_optimizer,
    parameter_groups,
    seed_step,
    unfreeze_steps,
)
from tiny_models import TINY_AUDIO

SPEECH = {name: value for name, value in TINY_AUDIO.items() if name != "model_type"}
SPEECH["num_hidden_layers"] = 3
TEXT = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 50}
TEXT["intermediate_size"] = 64
SMALL_CONFORMER = {**TEXT, "add_adapter": True, "feature_projection_input_dim": 160}
DISTILLED = {"dim": 32, "n_layers": 3, "n_heads": 2, "hidden_dim": 64, "vocab_size": 50}

STABLE = {
    "masked_spec_embed": 3,
    "feature_extractor.conv_layers.0.conv.weight": 3,
    "feature_extractor.conv_layers.2.layer_norm.weight": 3,
    "feature_projection.projection.weight": 3,
    "encoder.pos_conv_embed.conv.bias": 3,
    "encoder.layers.0.attention.k_proj.weight": 2,
    "encoder.layers.1.layer_norm.weight": 1,
    "encoder.layers.2.final_layer_norm.bias": 0,
    "encoder.layer_norm.weight": 0,
}
ENCODERS = {
    "wav2vec2, normalised last": (Wav2Vec2Model, Wav2Vec2Config(**SPEECH), STABLE),
    "wav2vec2, normalised first": (
        Wav2Vec2Model,
        Wav2Vec2Config(**{**SPEECH, "do_stable_layer_norm": False}),
        {**STABLE, "encoder.layer_norm.weight": 3},
    ),
    "hubert": (HubertModel, HubertConfig(**SPEECH), STABLE),
    "wavlm": (WavLMModel, WavLMConfig(**SPEECH), STABLE),
    "wav2vec2-bert": (
        Wav2Vec2BertModel,
        Wav2Vec2BertConfig(**SMALL_CONFORMER),
        {
            "feature_projection.projection.weight": 3,
            "encoder.layers.0.ffn1.intermediate_dense.weight": 2,
            "encoder.layers.2.final_layer_norm.weight": 0,
            "adapter.layers.0.self_attn.linear_q.weight": 0,
        },
    ),
    "bert": (
        BertModel,
        BertConfig(**TEXT),
        {
            "embeddings.word_embeddings.weight": 3,
            "embeddings.LayerNorm.weight": 3,
            "encoder.layer.0.attention.self.query.weight": 2,
            "encoder.layer.1.output.dense.bias": 1,
            "encoder.layer.2.output.LayerNorm.weight": 0,
            "pooler.dense.weight": 0,
        },
    ),
    "distilbert": (
        DistilBertModel,
        DistilBertConfig(**DISTILLED),
        {
            "embeddings.word_embeddings.weight": 3,
            "transformer.layer.0.attention.q_lin.weight": 2,
            "transformer.layer.2.output_layer_norm.weight": 0,
        },
    ),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_layers_of_an_encoder_are_counted_from_the_top(name):
    kind, config, expected = ENCODERS[name]
    found = layers_above(kind(config))
    assert {part: found[part] for part in expected} == expected
    assert set(found.values()) == {0, 1, 2, 3}


def rates_of(model, optim):
    """Parameter -> its learning rate; each stands in one group."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {}
    for group in parameter_groups(model, optim):
        for parameter in group["params"]:
            assert names[id(parameter)] not in rates
            rates[names[id(parameter)]] = group["base_lr"]
    return rates


def test_learning_rates_decay_by_layer_in_both_encoders(tiny):
    model, _ = tiny
    rates = rates_of(model, OptimSettings(lr=5.0, audio_lr=2.0, text_lr=1.0, layer_decay=0.5))
    assert rates.keys() == {name for name, _ in model.named_parameters()}
    audio, text = "audio_branch.base.", "text_branch.base."
    expected = {
        f"{audio}encoder.layer_norm.weight": 2.0,
        f"{audio}encoder.layers.1.attention.k_proj.weight": 2.0,
        f"{audio}encoder.layers.0.attention.k_proj.weight": 1.0,
        f"{audio}feature_projection.projection.weight": 0.5,
        f"{audio}feature_extractor.conv_layers.2.conv.weight": 0.5,
        f"{text}pooler.dense.weight": 1.0,
        f"{text}encoder.layer.1.output.dense.weight": 1.0,
        f"{text}encoder.layer.0.output.dense.weight": 0.5,
        f"{text}embeddings.word_embeddings.weight": 0.25,
        "audio_projection.linear1.weight": 5.0,
        "logit_scale": 5.0,
    }
    assert {name: rates[name] for name in expected} == expected


@pytest.mark.parametrize("decay", [0.0, -0.5, 1.5])
def test_decay_out_of_range_is_refused(tiny, decay):
    with pytest.raises(SettingsError, match=f"layer_decay is {decay}"):
        parameter_groups(tiny[0], OptimSettings(layer_decay=decay))


def test_encoder_without_numbered_layers_is_refused_unless_it_is_frozen(settings):
    settings.text.config = {"model_type": "albert", "embedding_size": 16, "hidden_size": 32}
    settings.text.config |= {"num_attention_heads": 2, "intermediate_size": 64}
    model, _ = build_model(settings, ["sad"])
    with pytest.raises(SettingsError, match="type albert has none"):
        parameter_groups(model, OptimSettings(layer_decay=0.5))
    model.freeze(["text"])
    assert rates_of(model, OptimSettings(layer_decay=0.5))


# --- Unfreezing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("when, step", [(0.3, 3), (0.25, 2), (7, 7), (1.0, 1)])
def test_part_is_unfrozen_after_a_fraction_or_a_number_of_steps(when, step):
    assert unfreeze_steps({"audio": when}, ["audio", "text"], 10) == {"audio": step}


@pytest.mark.parametrize(
    "unfreeze, reason",
    [
        ({"text": 0.5}, r"text is not in model\.freeze=\['audio'\]"),
        ({"audio": 0.0}, "step 0 of 10"),
        ({"audio": 0.01}, "step 0 of 10"),
        ({"audio": -1}, "step -10 of 10"),
        ({"audio": 10}, "step 10 of 10"),
        ({"audio": 2.5}, r"step 2\.5 of 10"),
    ],
)
def test_unfreezing_outside_of_the_run_is_refused(unfreeze, reason):
    with pytest.raises(SettingsError, match=reason):
        unfreeze_steps(unfreeze, ["audio"], 10)


def test_unfrozen_part_is_warmed_up_and_then_follows_the_schedule():
    optim = OptimSettings(warmup_steps=10, schedule="cosine")
    at = [learning_rate_factor(step, 110, optim, start=60) for step in range(110)]
    usual = [learning_rate_factor(step, 110, optim) for step in range(110)]
    assert at[:60] == [0] * 60 and at[69:] == usual[69:]
    assert at[60] == pytest.approx(0.05) and at[64] == pytest.approx(usual[64] / 2)
    sudden = OptimSettings(warmup_steps=0, schedule="constant")
    assert [learning_rate_factor(step, 9, sudden, start=4) for step in (3, 4)] == [0, 1]


def test_groups_have_the_first_step_of_each_trained_parameter(tiny):
    model, _ = tiny
    model.freeze(["audio", "audio_convolutions", "text", "text_projection"])
    unfreeze = {"audio": 3, "audio_convolutions": 8, "text_projection": 5}
    starts = {}
    for group in parameter_groups(model, OptimSettings(layer_decay=0.5), unfreeze=unfreeze):
        starts |= {id(parameter): group["start"] for parameter in group["params"]}
    parts = {
        "audio_branch.base.feature_extractor": 8,  # frozen twice, so unfrozen twice
        "audio_branch": 3,
        "text_projection": 5,
        "text_branch": None,
    }
    for name, parameter in model.named_parameters():
        first = next((step for part, step in parts.items() if name.startswith(part)), 0)
        assert starts.get(id(parameter)) == first, name


def test_learning_rate_warms_up_and_falls_along_a_cosine():
    optim = OptimSettings(warmup_steps=10, schedule="cosine")
    factors = [learning_rate_factor(step, 110, optim) for step in range(111)]
    assert factors[0] == pytest.approx(0.1) and factors[9] == factors[10] == pytest.approx(1.0)
    assert factors[60] == pytest.approx(0.5) and factors[110] == pytest.approx(0.0, abs=1e-9)
    constant = OptimSettings(warmup_steps=0, schedule="constant")
    assert {learning_rate_factor(step, 9, constant) for step in range(9)} == {1.0}


def test_parameter_groups_hold_each_trainable_weight_once(tiny):
    model, _ = tiny
    model.freeze(["audio_convolutions"])
    groups = parameter_groups(
        model, OptimSettings(lr=3.0, audio_lr=2.0, text_lr=1.0, weight_decay=0.5)
    )
    found = {id(p): group for group in groups for p in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in groups)
    rates = {"audio_branch": 2.0, "text_branch": 1.0}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert id(parameter) not in found
            continue
        group = found[id(parameter)]
        assert group["base_lr"] == rates.get(name.split(".")[0], 3.0), name
        assert group["weight_decay"] == (0.5 if parameter.ndim > 1 else 0.0), name


@pytest.mark.parametrize("rate, expected", [(None, 3.0), (0.5, 0.5), (0.0, 0.0)])
def test_text_projection_has_its_own_rate(tiny, rate, expected):
    model, _ = tiny
    optim = OptimSettings(lr=3.0, text_projection_lr=rate)
    weight = model.text_projection.linear1.weight
    groups = parameter_groups(model, optim)
    found = [g for g in groups if any(p is weight for p in g["params"])]
    assert [group["base_lr"] for group in found] == [expected]


def test_a_step_is_seeded_by_its_number():
    def draw():
        return torch.rand(3).tolist(), np.random.rand(3).tolist()

    seed_step(1, 7)
    first = draw()
    draw()
    seed_step(1, 7)
    assert draw() == first
    seed_step(1, 8)
    assert draw() != first


@pytest.mark.parametrize("name", ["adamw", "adam"])
def test_optimiser_continues_checkpoints_of_the_unfused_one(name: str) -> None:
    optim = OptimSettings(name=name, lr=1e-2)

    def group(weight: torch.nn.Parameter) -> list[dict]:
        return [{"params": [weight], "lr": optim.lr, "weight_decay": 0.01}]

    weights = [torch.nn.Parameter(torch.linspace(-1, 1, 300).view(20, 15)) for _ in range(2)]
    fused = new_optimizer(optim, group(weights[0]))
    plain = OPTIMIZERS[name](group(weights[1]))
    for step in range(6):
        for weight in weights:
            weight.grad = (weight.detach() + step).sin()
        plain.step()
        if step == 2:
            weights[0].data.copy_(weights[1])
            loaded = fused.state_dict()
            loaded["state"] = copy.deepcopy(plain.state_dict()["state"])
            fused.load_state_dict(loaded)
        elif step > 2:
            fused.step()
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-6)
