"""The model against references: towers, masks, loss, freezing, published weights."""

import copy
import hashlib
import math

import numpy as np
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import BertConfig, BertModel, Wav2Vec2Config, Wav2Vec2Model

from paraclap.model import modeling_paraclap
from paraclap.model.build import build_model
from paraclap.model.modeling_paraclap import (
    MAX_LOGIT_SCALE,
    PUBLISHED_CONFIG,
    ParaCLAPConfig,
    ParaCLAPFeatureExtractor,
    ParaCLAPModel,
    clip_loss,
    receptive_field,
    scaled_cosines,
)
from tiny_models import RATE, embed

# --- Objectives ----------------------------------------------------------------------------------


def reference_loss(logits, targets):
    """float64 numpy: cross entropy of normalised targets over rows and over columns."""
    total = 0.0
    for scores, weights in ((logits, targets), (logits.T, targets.T)):
        log_softmax = scores - np.log(np.exp(scores).sum(1, keepdims=True))
        total += -(weights / weights.sum(1, keepdims=True) * log_softmax).sum(1).mean() / 2
    return total


@pytest.mark.parametrize("rows, columns", [(5, 5), (4, 7)])
def test_clip_loss_equals_float64_reference(rows, columns):
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(rows, columns)) * 5, rng.random((rows, columns))
    loss = clip_loss(torch.from_numpy(logits), torch.from_numpy(targets))
    assert loss.item() == pytest.approx(reference_loss(logits, targets), abs=1e-12)
    square = logits[:, :rows]
    loss = clip_loss(torch.from_numpy(square))
    assert loss.item() == pytest.approx(reference_loss(square, np.eye(rows)), abs=1e-12)


def test_loss_of_constant_logits_is_ln_of_the_batch_size():
    assert clip_loss(torch.zeros(6, 6)).item() == pytest.approx(math.log(6), abs=1e-6)


def test_duplicate_captions_are_not_negatives_with_matching_targets():
    # Clips 0 and 1 share a caption and are separated from clip 2 perfectly.
    logits = torch.tensor([[30.0, 30.0, -30.0], [30.0, 30.0, -30.0], [-30.0, -30.0, 30.0]])
    logits.requires_grad_()
    clip_loss(logits, torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]])).backward()
    assert logits.grad.abs().max() < 1e-6
    logits.grad = None
    clip_loss(logits).backward()
    assert logits.grad.abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_are_computed_in_float32(dtype):
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    loss = clip_loss(logits)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(clip_loss(logits.float()).item(), abs=1e-6)


def test_autocast_leaves_logits_in_float32():
    a = torch.nn.functional.normalize(torch.randn(4, 8, generator=torch.manual_seed(0)), dim=-1)
    scale = torch.tensor(MAX_LOGIT_SCALE)
    with torch.autocast("cpu", torch.bfloat16):
        inside = scaled_cosines(a, a, scale)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, scaled_cosines(a, a, scale))


@pytest.mark.parametrize("targets", [torch.ones(2, 3), torch.tensor([[1.0, 0.0], [0.0, 0.0]])])
def test_clip_loss_refuses_wrong_shapes_and_clips_without_a_match(targets):
    with pytest.raises(ValueError, match=r"targets are|at least one match"):
        clip_loss(torch.zeros(2, 2), targets)


def test_logit_scale_stays_within_its_limits(tiny):
    model, _ = tiny
    for value, expected in ((200.0, MAX_LOGIT_SCALE), (-3.0, 0.0), (2.0, 2.0)):
        with torch.no_grad():
            model.logit_scale.fill_(value)
        model.clamp_logit_scale()
        assert model.logit_scale.item() == pytest.approx(expected)


# --- Towers --------------------------------------------------------------------------------------


def test_full_size_model_has_the_tensors_of_the_published_weights():
    audio, text = ({**PUBLISHED_CONFIG[part]} for part in ("audio_config", "text_config"))
    with torch.device("meta"):
        model = ParaCLAPModel(ParaCLAPConfig(**copy.deepcopy(PUBLISHED_CONFIG)))
        bases = {
            "audio_branch": Wav2Vec2Model(Wav2Vec2Config(**audio)),
            "text_branch": BertModel(BertConfig(**text)),
        }
    expected = {"logit_scale": ()}
    for branch, base in bases.items():
        expected |= {f"{branch}.base.{n}": tuple(v.shape) for n, v in base.state_dict().items()}
    for head, width in (("audio_projection", 1024), ("text_projection", 768)):
        shapes = {"linear1.weight": (768, width), "linear2.weight": (768, 768)}
        shapes |= {"layer_norm.weight": (768,), "layer_norm.bias": (768,)}
        expected |= {f"{head}.{name}": shape for name, shape in shapes.items()}
    assert {name: tuple(v.shape) for name, v in model.state_dict().items()} == expected
    assert len(expected) == 438
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(276.3e6, abs=0.05e6)
    # shapes of the published encoders, independent of the defaults of transformers
    audio, text = "audio_branch.base", "text_branch.base"
    assert expected[f"{audio}.feature_extractor.conv_layers.0.conv.weight"] == (512, 1, 10)
    direction = f"{audio}.encoder.pos_conv_embed.conv.parametrizations.weight.original1"
    assert expected[direction] == (1024, 64, 128)
    assert expected[f"{text}.embeddings.word_embeddings.weight"] == (30522, 768)
    assert expected[f"{text}.encoder.layer.11.intermediate.dense.weight"] == (3072, 768)
    assert receptive_field(model.config.audio_config) == 400


def test_padding_does_not_change_embedding(tiny, waveforms):
    together = embed(*tiny, waveforms)
    alone = torch.cat([embed(*tiny, waveform) for waveform in waveforms])
    wide = embed(*tiny, waveforms, samples=80_000)
    assert (together - alone).abs().max() < 1e-5
    assert (wide - alone).abs().max() < 1e-5


def test_padding_without_mask_changes_embedding(tiny, waveforms):
    model, processor = tiny
    batch = processor.feature_extractor(waveforms, sampling_rate=RATE, return_tensors="pt")
    with torch.inference_mode():
        unmasked = model.get_audio_features(batch["input_values"]).pooler_output
    assert (unmasked - embed(model, processor, waveforms)).abs().max() > 1e-3


def test_text_padding_does_not_change_embedding(tiny):
    model, processor = tiny
    texts = ["sad", "the speaker sounds sad and the voice is loud"]
    with torch.inference_mode():
        both = model.get_text_features(
            **processor.tokenizer(texts, padding=True, return_tensors="pt")
        ).pooler_output
        alone = model.get_text_features(
            **processor.tokenizer(texts[:1], return_tensors="pt")
        ).pooler_output
    assert (both[:1] - alone).abs().max() < 1e-5


@pytest.mark.torture(39, "waveform of zeros")
def test_embeddings_have_unit_length_and_zero_input_is_finite(tiny, waveforms):
    embeddings = embed(*tiny, [*waveforms, np.zeros(8000, np.float32)])
    assert torch.isfinite(embeddings).all()
    assert torch.allclose(embeddings.norm(dim=-1), torch.ones(5), atol=1e-6)


def test_clip_shorter_than_the_receptive_field_is_embedded(tiny):
    model, processor = tiny
    field = receptive_field(model.config.audio_config)
    assert field == 40 + 7 * 20 + 3 * 160
    assert model.audio_branch.base._get_feat_extract_output_lengths(field) == 1
    assert model.audio_branch.base._get_feat_extract_output_lengths(field - 1) == 0
    short = np.full(10, 0.1, np.float32)
    long = np.full(5 * field, 0.1, np.float32)
    alone, together = embed(model, processor, short), embed(model, processor, [short, long])
    assert torch.isfinite(alone).all()
    assert (alone - together[:1]).abs().max() < 1e-5


def test_group_norm_encoder_refuses_padding_and_embeds_single_clips(settings, waveforms):
    settings.audio.config |= {"feat_extract_norm": "group", "do_stable_layer_norm": False}
    model, processor = build_model(settings, ["a"])
    model.eval()
    assert torch.isfinite(embed(model, processor, waveforms[0])).all()
    with pytest.raises(ValueError, match="padding would change"):
        embed(model, processor, waveforms)


def test_forward_agrees_with_separate_embeddings(tiny, waveforms):
    model, processor = tiny
    batch = processor(
        text=["sad", "loud"], audio=waveforms, sampling_rate=RATE, padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        outputs = model(**batch)
        texts = model.get_text_features(batch["input_ids"], batch["attention_mask"]).pooler_output
    audio = embed(model, processor, waveforms)
    assert outputs.logits_per_audio.shape == (4, 2)
    assert torch.equal(outputs.logits_per_text, outputs.logits_per_audio.T)
    expected = model.logit_scale.exp().item() * audio @ texts.T
    assert torch.allclose(outputs.logits_per_audio, expected, atol=1e-5)
    assert outputs.loss is None


def test_forward_refuses_unknown_inputs(tiny, waveforms):
    model, processor = tiny
    batch = processor(
        text=["sad"], audio=waveforms[0], sampling_rate=RATE, padding=True, return_tensors="pt"
    )
    with pytest.raises(TypeError, match="waveform"):
        model(**batch, waveform=1)


def test_encoder_without_frame_lengths_is_refused(settings):
    settings.audio.config = {**settings.text.config, "vocab_size": 10}
    with pytest.raises(ValueError, match="wav2vec2 family"):
        build_model(settings, ["a"])


# --- Freezing ------------------------------------------------------------------------------------


def one_step(model, processor, waveforms):
    batch = processor(
        text=["a", "b", "c", "d"],
        audio=waveforms,
        sampling_rate=RATE,
        padding=True,
        return_tensors="pt",
    )
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model(**batch, return_loss=True).loss.backward()
    optimizer.step()


@pytest.mark.parametrize("part", ["audio", "text", "audio_convolutions", "text_projection"])
def test_frozen_part_keeps_its_weights_and_the_others_are_trained(settings, waveforms, part):
    settings.freeze = [part]
    torch.manual_seed(0)
    model, processor = build_model(settings, ["a b c d"])
    before = copy.deepcopy(model.state_dict())
    one_step(model.train(), processor, waveforms)
    prefixes = {
        "audio": "audio_branch.base.",
        "text": "text_branch.",
        "audio_convolutions": "audio_branch.base.feature_extractor.",
        "text_projection": "text_projection.",
    }
    changed = {name for name, value in model.state_dict().items() if (value != before[name]).any()}
    assert not [name for name in changed if name.startswith(prefixes[part])]
    assert "audio_projection.linear1.weight" in changed


def test_frozen_branch_has_no_dropout_in_training_mode(settings, waveforms):
    settings.freeze = ["audio", "audio_projection"]
    model, processor = build_model(settings, ["a"])
    assert torch.equal(
        embed(model.train(), processor, waveforms), embed(model.train(), processor, waveforms)
    )
    free, processor = build_model(
        type(settings)(audio=settings.audio, text=settings.text, projection_dim=24), ["a"]
    )
    assert not torch.equal(
        embed(free.train(), processor, waveforms), embed(free.train(), processor, waveforms)
    )


def test_unknown_part_cannot_be_frozen(tiny):
    with pytest.raises(ValueError, match="decoder"):
        tiny[0].freeze(["decoder"])


# --- Published weights ---------------------------------------------------------------------------


def current_names(state):
    """Names of current libraries, without position_ids."""
    renamed = {"weight_g": "original0", "weight_v": "original1"}
    for old, new in renamed.items():
        prefix = "audio_branch.base.encoder.pos_conv_embed.conv."
        state[f"{prefix}parametrizations.weight.{new}"] = state.pop(prefix + old)
    del state["text_branch.base.embeddings.position_ids"]
    return state


def distributed_names(state):
    return {f"module.{name}": tensor for name, tensor in state.items()}


@pytest.mark.torture(47, "old names of tensors: position_ids, weight_g, module.")
@pytest.mark.parametrize("form", [dict, current_names, distributed_names])
def test_published_weights_give_the_embeddings_of_the_reference(published, waveforms, form):
    reference, config, path = published
    torch.save(form(torch.load(path, weights_only=True)), path)
    model = ParaCLAPModel.from_published(path, config)
    assert not model.training
    texts = [[2, 17, 3], [2, 140, 9, 33, 70, 3]]
    differences = []
    with torch.no_grad():
        for waveform in waveforms:
            ours = model.get_audio_features(torch.from_numpy(waveform)[None]).pooler_output
            differences.append(ours - reference.embed_clip(waveform))
        for tokens in texts:
            ours = model.get_text_features(torch.tensor([tokens])).pooler_output
            differences.append(ours - reference.embed_text(tokens))
    largest = max(difference.abs().max().item() for difference in differences)
    print(f"largest difference to the reference: {largest:.1e}")
    assert largest < 1e-5
    assert model.logit_scale.item() == 2.5
    clips = [reference.embed_clip(waveform) for waveform in waveforms]
    assert (clips[0] - clips[1]).abs().max() > 1e-3  # clips differ


def test_published_weights_record_their_file_and_hash(published):
    _, config, path = published
    config.provenance = {"corpora": ["one"]}
    found = ParaCLAPModel.from_published(path, config).config.provenance
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert found == {"corpora": ["one"], "file": "best.pth.tar", "sha256": digest}
    assert config.provenance == {"corpora": ["one"]}


def test_folder_with_the_published_file_is_read(published):
    _, config, path = published
    by_folder = ParaCLAPModel.from_published(path.parent, config).state_dict()
    by_file = ParaCLAPModel.from_published(str(path), config).state_dict()
    assert all(torch.equal(by_folder[name], by_file[name]) for name in by_file)


def test_weights_in_half_precision_become_float32(published):
    _, config, path = published
    state = torch.load(path, weights_only=True)
    torch.save({name: tensor.half() for name, tensor in state.items()}, path)
    model = ParaCLAPModel.from_published(path, config)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.torture(47, "weights with a tensor that does not fit")
@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda s: [s.pop("audio_projection.linear2.weight"), s.pop("logit_scale")],
            r"2 missing \(first: logit_scale\)",
        ),
        (lambda s: s.update(stray=torch.ones(1)), r"1 unexpected \(first: stray\)"),
        (
            lambda s: s.update({"audio_branch.base.embeddings.position_ids": torch.ones(1)}),
            r"1 unexpected \(first: audio_branch.base.embeddings.position_ids\)",
        ),
        (
            lambda s: s.update({"text_projection.linear1.weight": torch.ones(24, 31)}),
            r"1 of another shape.*linear1.weight \(24, 31\), expected \(24, 32\)",
        ),
        (
            lambda s: s.update({"module.logit_scale": s["logit_scale"]}),
            "'logit_scale' twice",
        ),
        (lambda s: s["logit_scale"].fill_(math.nan), "NaN or Inf, first 'logit_scale'"),
        (lambda s: s.update(epoch=3), "not a bare state dict"),
        (lambda s: s.update({1: torch.ones(1)}), "not a bare state dict"),
    ],
)
def test_published_weights_that_do_not_fit_are_refused_in_one_sentence(published, change, message):
    _, config, path = published
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)
    with pytest.raises(ValueError, match=message) as caught:
        ParaCLAPModel.from_published(path, config)
    assert "\n" not in str(caught.value)


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.torture(46, "code in weights of the published form")
def test_code_in_published_weights_is_not_executed(published, tmp_path):
    _, config, path = published
    marker = tmp_path / "executed"
    state = torch.load(path, weights_only=True)
    torch.save(state | {"payload": Payload(str(marker))}, path)
    torch.load(path, weights_only=False)  # the payload works
    assert marker.exists()
    marker.unlink()
    with pytest.raises(ValueError, match="checkpoints with code are not loaded"):
        ParaCLAPModel.from_published(path, config)
    assert not marker.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"<!doctype html>", b"version https://git-lfs", lambda whole: whole[:-1000]],
    ids=["empty", "page", "pointer", "cut"],
)
def test_damaged_checkpoint_is_refused(published, content):
    _, config, path = published
    path.write_bytes(content(path.read_bytes()) if callable(content) else content)
    with pytest.raises(ValueError, match="is damaged or contains more than tensors"):
        ParaCLAPModel.from_published(path, config)


def test_hash_is_checked_before_loading(published):
    _, config, path = published
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert ParaCLAPModel.from_published(path, config, sha256=digest.upper())
    path.write_bytes(b"neither a checkpoint nor of that hash")
    with pytest.raises(ValueError, match=f"expected {digest}"):
        ParaCLAPModel.from_published(path, config, sha256=digest)


def test_missing_published_weights_are_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        ParaCLAPModel.from_published(tmp_path / "best.pth.tar")
    with pytest.raises(FileNotFoundError, match="there is no file runs/best.pth.tar"):
        ParaCLAPModel.from_published("runs/best.pth.tar")
    with pytest.raises(FileNotFoundError, match="contains no best.pth.tar"):
        ParaCLAPModel.from_published(tmp_path)

    def offline(*arguments):
        raise LocalEntryNotFoundError(f"{arguments} cannot be had offline")

    monkeypatch.setattr(modeling_paraclap, "hf_hub_download", offline)
    with pytest.raises(OSError, match="download it from https://huggingface.co/KeiKinn/paraclap"):
        ParaCLAPModel.from_published()


# --- Feature extractor ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "waveform, options, message",
    [
        (np.ones(800, np.float32), {"sampling_rate": 8000}, "8000 Hz given, expected 16000"),
        (np.ones(800, np.float32), {}, "no sampling_rate"),
        (np.ones((2, 800), np.float32), {"sampling_rate": RATE}, "mono"),
        (np.ones(0, np.float32), {"sampling_rate": RATE}, "no samples"),
        (np.full(800, np.nan, np.float32), {"sampling_rate": RATE}, "non-finite"),
        (np.ones(800, np.float32), {"sampling_rate": RATE, "samples": 500}, "longer than"),
    ],
)
def test_feature_extractor_refuses(waveform, options, message):
    with pytest.raises(ValueError, match=message):
        ParaCLAPFeatureExtractor()(waveform, **options)


def test_feature_extractor_keeps_the_level():
    waveform = np.linspace(-0.5, 0.5, 1000, dtype=np.float32)
    batch = ParaCLAPFeatureExtractor()([waveform, waveform[:600]], sampling_rate=RATE)
    assert np.array_equal(batch["input_values"][0], waveform)
    assert batch["padding_mask"].sum(axis=1).tolist() == [1000, 600]
    assert not batch["input_values"][1, 600:].any()
    doubled = ParaCLAPFeatureExtractor(gain=2.0)(waveform, sampling_rate=RATE)
    assert np.array_equal(doubled["input_values"][0], 2 * waveform)


def test_mean_text_pooling_ignores_padding(settings):
    settings.text_pooling = "mean"
    model, processor = build_model(settings, ["the voice is loud", "pitch is high"])
    model.eval()
    texts = ["loud", "the voice is loud and pitch is high"]
    padded = processor.tokenizer(texts, padding=True, return_tensors="pt")
    together = model.pool("text", padded.input_ids, padded.attention_mask)
    for row, text in zip(together, texts, strict=True):
        tokens = processor.tokenizer(text, return_tensors="pt").input_ids
        states = model.text_branch.base(input_ids=tokens).last_hidden_state[0]
        torch.testing.assert_close(row, states.mean(dim=0), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model.pool("text", tokens)[0], row, atol=1e-5, rtol=1e-5)
    model.config.text_pooling = "last"
    with pytest.raises(ValueError, match="'last', expected one of"):
        type(model)(model.config)
