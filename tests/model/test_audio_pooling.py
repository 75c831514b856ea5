"""Pooling of the audio tower, against references: single, padded, frozen and exported clips."""

import copy

import numpy as np
import pytest
import torch

from paraclap.model.build import build_model, load_model
from paraclap.model.frozen import FrozenEncoder
from paraclap.model.modeling_paraclap import (
    AUDIO_LAYERS,
    AUDIO_POOLINGS,
    ParaCLAPConfig,
    ParaCLAPModel,
)
from paraclap.model.onnx import export_onnx, without_weight_norm
from paraclap.settings import MelSettings, OptimSettings
from paraclap.training.encoding import prepare_encoders
from paraclap.training.losses import ContrastiveLoss
from paraclap.training.optim import parameter_groups
from paraclap.training.step import TrainingStep
from tiny_models import RATE, TEXTS, TINY_AUDIO, TINY_MEL, batch_of, embed

ALL = [(pooling, layers) for pooling in AUDIO_POOLINGS for layers in AUDIO_LAYERS]


def tower(settings, pooling="mean", layers="last", **audio):
    """A tiny model in evaluation mode with random pooling weights."""
    settings.audio_pooling, settings.audio_layers = pooling, layers
    settings.audio.config |= audio
    torch.manual_seed(0)
    model, processor = build_model(settings, TEXTS)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.audio_branch.named_parameters():
            if not name.startswith("base."):
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model.eval(), processor


def reference_layers(model, waveform):
    """Frames of one waveform (T,) in each layer, in float64."""
    base = copy.deepcopy(model.audio_branch.base).double()
    inputs = torch.from_numpy(waveform).double()[None]
    with torch.no_grad():
        outputs = base(inputs, output_hidden_states=True)
    return [s[0].numpy() for s in (*outputs.hidden_states[:-1], outputs.last_hidden_state)]


def reference(model, waveform):
    """Pooled frames of one waveform (T,) in float64, layer by layer, with numpy."""
    branch = model.audio_branch
    states = reference_layers(model, waveform)
    learned = {n: p.detach().numpy() for n, p in branch.named_parameters()}
    weighted = "layer_weights" in learned
    shares = np.exp(learned["layer_weights"]) if weighted else np.ones(1)
    pooled = 0.0
    chosen = states if weighted else states[-1:]
    for share, frames in zip(shares / shares.sum(), chosen, strict=True):
        if branch.pooling == "attention":
            scores = np.exp(frames @ learned["attention"])
            found = (scores[:, None] * frames).sum(axis=0) / scores.sum()
        else:
            parts = [frames.mean(axis=0), np.sqrt(frames.var(axis=0) + 1e-6)]
            found = np.concatenate(parts[: AUDIO_POOLINGS[branch.pooling]])
        pooled = pooled + share * found
    return pooled


@pytest.mark.parametrize("pooling, layers", ALL)
def test_padded_batch_is_pooled_like_the_reference(settings, waveforms, pooling, layers):
    model, processor = tower(settings, pooling, layers)
    extractor = processor.feature_extractor
    clips = [*waveforms, np.full(extractor.min_samples, 0.1, np.float32)]  # the last: one frame
    batch = extractor(clips, sampling_rate=RATE, samples=80_000, return_tensors="pt")
    model.double()
    pooled = model.pool("audio", batch["input_values"].double(), batch["padding_mask"])
    found = model.audio_branch.combine(pooled).detach().numpy()
    for row, clip in enumerate(clips):
        expected = reference(model, batch["input_values"][row, : len(clip)].numpy())
        np.testing.assert_allclose(found[row], expected, atol=1e-9)


@pytest.mark.parametrize("pooling, layers", [("attention", "last"), ("mean", "weighted")])
def test_pooling_weights_are_uniform_at_initialisation(settings, waveforms, pooling, layers):
    settings.audio_pooling, settings.audio_layers = pooling, layers
    model, processor = build_model(settings, TEXTS)
    batch = processor.feature_extractor(waveforms, sampling_rate=RATE, return_tensors="pt")
    branch = model.eval().audio_branch
    with torch.no_grad():
        outputs = branch.base(batch["input_values"][:1], output_hidden_states=True)
        found = branch.combine(branch(batch["input_values"][:1], None)[1])
    lower = outputs.hidden_states[:-1] if layers == "weighted" else ()
    expected = torch.stack([*lower, outputs.last_hidden_state]).mean(dim=(0, 2))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("pooling, layers", ALL)
def test_saved_model_and_folded_weight_norm_give_the_same_embeddings(
    settings, waveforms, tmp_path, pooling, layers
):
    model, processor = tower(settings, pooling, layers)
    for part in (model, processor):
        part.save_pretrained(tmp_path)
    expected = embed(model, processor, waveforms)
    assert torch.equal(embed(*load_model(tmp_path), waveforms), expected)
    folded = without_weight_norm(model)
    torch.testing.assert_close(embed(folded, processor, waveforms), expected, atol=1e-5, rtol=0)


def test_mean_of_the_last_layer_has_the_names_of_the_published_weights(tiny):
    names = [name for name, _ in tiny[0].audio_branch.named_parameters()]
    assert all(name.startswith("base.") for name in names)


def test_gradient_of_clips_of_one_frame_is_finite(settings):
    model, processor = tower(settings, "mean_std")
    batch = processor.feature_extractor(
        [np.full(10, 0.1, np.float32)] * 2, sampling_rate=RATE, return_tensors="pt"
    )
    model.get_audio_features(**batch).pooler_output[:, 0].sum().backward()
    gradients = [p.grad for p in model.audio_branch.parameters() if p.grad is not None]
    assert gradients and all(torch.isfinite(gradient).all() for gradient in gradients)


# --- Training ------------------------------------------------------------------------------------


def precise_batch(processor):
    batch = batch_of(processor)
    return batch | {"input_values": batch["input_values"].double()}


def gradients_of(step, batch):
    step(batch)
    named = step.model.named_parameters()
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


NO_DROPOUT = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
NO_DROPOUT |= {"feat_proj_dropout": 0.0, "mask_time_prob": 0.0}


def trainable(settings, pooling, layers, freeze=()):
    settings.text.config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    settings.projection_dropout = 0.0
    model, processor = tower(settings, pooling, layers, **NO_DROPOUT)
    return model.freeze(freeze).double().train(), processor


@pytest.mark.parametrize("pooling, layers", [("mean_std", "weighted"), ("attention", "last")])
def test_micro_batches_and_checkpointing_give_the_gradients_of_the_whole(settings, pooling, layers):
    model, processor = trainable(settings, pooling, layers)
    batch = precise_batch(processor)
    expected = gradients_of(TrainingStep(model, ContrastiveLoss(), "own"), batch)
    prepare_encoders(model, checkpoint_activations=True)
    step = TrainingStep(model, ContrastiveLoss(), "own", micro_batch=2)
    for name, gradient in gradients_of(step, batch).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-10, rtol=1e-7, msg=name)


@pytest.mark.parametrize("pooling", ["mean", "mean_std"])
def test_cached_layers_of_a_frozen_encoder_give_the_same_gradients(settings, pooling):
    model, processor = trainable(settings, pooling, "weighted", ["audio"])
    batch = precise_batch(processor)
    step = TrainingStep(model, ContrastiveLoss(), "own")
    expected = gradients_of(step, batch)
    assert expected["audio_branch.layer_weights"].abs().max() > 0
    assert not any(name.startswith("audio_branch.base.") for name in expected)
    step.clips = FrozenEncoder(model, "audio")(batch["input_values"], batch["padding_mask"])
    assert step.clips.shape == (4, 3 * 32 * AUDIO_POOLINGS[pooling])
    for name, gradient in gradients_of(step, batch).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-12, rtol=1e-9, msg=name)


def test_pooling_weights_have_the_learning_rate_of_the_projections(settings):
    model, _ = tower(settings, "attention", "weighted")
    groups = parameter_groups(model, OptimSettings(lr=3.0, audio_lr=2.0))
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    branch = model.audio_branch
    assert rates[id(branch.layer_weights)] == rates[id(branch.attention)] == 3.0
    assert {rates[id(p)] for p in branch.base.parameters()} == {2.0}


@pytest.mark.slow
@pytest.mark.parametrize("encoder", [TINY_AUDIO, TINY_MEL | {"conformer_conv_dropout": 0.0}])
def test_compiled_encoder_gives_the_same_gradients(settings, encoder):
    settings.audio.config, settings.mel = dict(encoder), MelSettings(bins=24, stride=4)
    model, processor = trainable(settings, "mean_std", "weighted")
    batch = precise_batch(processor)
    step = TrainingStep(model, ContrastiveLoss(), "own")
    expected = gradients_of(step, batch)
    prepare_encoders(model, compiled=True)
    for name, gradient in gradients_of(step, batch).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-8, rtol=1e-5, msg=name)


# --- Refusals ------------------------------------------------------------------------------------


def test_attention_above_a_frozen_encoder_is_refused(settings):
    settings.freeze = ["audio"]
    settings.audio_pooling = "attention"
    with pytest.raises(ValueError, match="cannot freeze audio with audio_pooling 'attention'"):
        build_model(settings, TEXTS)


def test_layerdrop_and_weighted_layers_are_refused(settings):
    settings.audio.config["layerdrop"] = 0.1
    settings.audio_layers = "weighted"
    with pytest.raises(ValueError, match="layerdrop"):
        build_model(settings, TEXTS)


@pytest.mark.parametrize("given", [{"audio_pooling": "max"}, {"audio_layers": "first"}])
def test_unknown_names_are_refused(tiny, given):
    known = tiny[0].config.to_dict()
    config = ParaCLAPConfig(**{**known, **given})
    with pytest.raises(ValueError, match=next(iter(given))):
        ParaCLAPModel(config)


def test_std_of_functionals_is_refused():
    audio = {"model_type": "egemaps", "names": ["a"]}
    text = {"model_type": "bert", "num_hidden_layers": 1}
    config = ParaCLAPConfig(audio_config=audio, text_config=text, audio_pooling="mean_std")
    with pytest.raises(ValueError, match="single frame"):
        ParaCLAPModel(config)


@pytest.mark.slow  # not slow for the poolings of test_onnx.py and test_mel.py
def test_export_computes_the_same(settings, tmp_path):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    about = export_onnx(*tower(settings, "attention", "weighted"), tmp_path / "o")
    assert max(about["differences"].values()) < 1e-4


@pytest.mark.parametrize("pooling", ["mean", "mean_std"])
def test_listed_layers_are_concatenated_and_standardised(settings, waveforms, pooling):
    last = settings.audio.config["num_hidden_layers"]
    settings.audio_standardise = True
    model, processor = tower(settings, pooling, [last, 0])
    branch = model.audio_branch
    batch = processor.feature_extractor(waveforms, sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        pooled = model.pool("audio", batch["input_values"], batch["padding_mask"])
        assert torch.equal(branch.combine(pooled), pooled.clamp(-5, 5))  # before it is fitted
    rows = zip(batch["input_values"].numpy(), waveforms, strict=True)
    states = [reference_layers(model, row[: len(waveform)]) for row, waveform in rows]
    parts = AUDIO_POOLINGS[pooling]
    moments = [
        [(f.mean(0), np.sqrt(f.var(0) + 1e-6))[:parts] for f in (s[last], s[0])] for s in states
    ]
    expected = np.array(moments).reshape(len(states), -1)
    np.testing.assert_allclose(pooled.numpy(), expected, atol=1e-5)
    branch.standardise_by(pooled)
    found = branch.combine(pooled).detach().numpy()
    standardised = (expected - expected.mean(0)) / expected.std(0)
    usual = expected.std(0) > 1e-3
    np.testing.assert_allclose(found[:, usual], standardised[:, usual], atol=5e-2)
    far = branch.combine(pooled + 1e3).detach()
    assert far.max() == far.min() == 5


def test_standardisation_and_layers_survive_saving(settings, waveforms, tmp_path):
    settings.audio_standardise, settings.audio_dropout = True, 0.5
    model, processor = tower(settings, "mean", [1, 2])
    batch = processor.feature_extractor(waveforms, sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        model.audio_branch.standardise_by(
            model.pool("audio", batch["input_values"], batch["padding_mask"])
        )
        expected = model.get_audio_features(**batch).pooler_output
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, _ = load_model(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded.get_audio_features(**batch).pooler_output, expected)
    assert loaded.audio_branch.dropout.p == 0.5
