"""models.py: towers, masks, losses, freezing, saving; against hand-computed references."""

import copy
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor

from models import (
    MAX_LOGIT_SCALE,
    ParaCLAPConfig,
    ParaCLAPFeatureExtractor,
    ParaCLAPModel,
    ParaCLAPProcessor,
    TowerSettings,
    build_model,
    clip_loss,
    load_model,
    receptive_field,
    scaled_cosines,
    train_tokenizer,
)

RATE = 16_000


def embed(model, processor, waveforms, **options):
    batch = processor.feature_extractor(
        waveforms, sampling_rate=RATE, return_tensors="pt", **options
    )
    with torch.no_grad():
        return model.get_audio_features(**batch).pooler_output


# --- Objectives ----------------------------------------------------------------------------------


def test_clip_loss_of_two_pairs_equals_hand_computation():
    logits = torch.tensor([[3.0, 1.0], [0.0, 2.0]], dtype=torch.float64)
    rows = [math.log(1 + math.exp(-2)), math.log(1 + math.exp(-2))]
    columns = [math.log(1 + math.exp(-3)), math.log(1 + math.exp(-1))]
    expected = (sum(rows) / 2 + sum(columns) / 2) / 2
    assert clip_loss(logits).item() == pytest.approx(expected, abs=1e-12)


def reference_loss(logits, targets):
    """float64 numpy: cross entropy of normalised targets over rows and over columns."""
    total = 0.0
    for scores, weights in ((logits, targets), (logits.T, targets.T)):
        log_softmax = scores - np.log(np.exp(scores).sum(1, keepdims=True))
        total += -(weights / weights.sum(1, keepdims=True) * log_softmax).sum(1).mean() / 2
    return total


@pytest.mark.parametrize("rows, columns", [(5, 5), (4, 7)])
def test_clip_loss_with_targets_equals_float64_reference(rows, columns):
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(rows, columns)) * 5, rng.random((rows, columns))
    loss = clip_loss(torch.from_numpy(logits), torch.from_numpy(targets))
    assert loss.item() == pytest.approx(reference_loss(logits, targets), abs=1e-12)


def test_indistinguishable_clips_cost_ln_of_their_number():
    assert clip_loss(torch.zeros(6, 6)).item() == pytest.approx(math.log(6), abs=1e-6)


def test_duplicate_captions_are_no_counter_examples_with_matching_targets():
    # Clips 0 and 1 share a caption and are told apart from clip 2 perfectly.
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


def test_full_size_model_has_the_tensors_of_the_published_one():
    audio = AutoConfig.for_model(
        "wav2vec2",
        hidden_size=1024,
        num_hidden_layers=12,
        num_attention_heads=16,
        intermediate_size=4096,
        feat_extract_norm="layer",
        conv_bias=True,
        do_stable_layer_norm=True,
    )
    text = AutoConfig.for_model("bert")
    with torch.device("meta"):
        config = ParaCLAPConfig(audio_config=audio.to_dict(), text_config=text.to_dict())
        model = ParaCLAPModel(config)
    names = set(model.state_dict())
    assert len(names) == 438
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(276.3e6, abs=0.05e6)
    for branch in ("audio_projection", "text_projection"):
        kept = {f"{branch}.{name}" for name in ("linear1.weight", "linear2.weight")}
        assert kept | {f"{branch}.layer_norm.{n}" for n in ("weight", "bias")} <= names
    assert {"logit_scale", "text_branch.base.pooler.dense.weight"} <= names
    assert "audio_branch.base.masked_spec_embed" in names


def test_padding_does_not_change_embedding(tiny, waveforms):
    together = embed(*tiny, waveforms)
    alone = torch.cat([embed(*tiny, waveform) for waveform in waveforms])
    wide = embed(*tiny, waveforms, samples=80_000)
    assert (together - alone).abs().max() < 1e-5
    assert (wide - alone).abs().max() < 1e-5


def test_padding_without_mask_would_change_embedding(tiny, waveforms):
    model, processor = tiny
    batch = processor.feature_extractor(waveforms, sampling_rate=RATE, return_tensors="pt")
    with torch.inference_mode():
        blind = model.get_audio_features(batch["input_values"]).pooler_output
    assert (blind - embed(model, processor, waveforms)).abs().max() > 1e-3


def test_batch_order_does_not_change_embedding(tiny, waveforms):
    backwards = embed(*tiny, waveforms[::-1]).flip(0)
    assert (embed(*tiny, waveforms) - backwards).abs().max() < 1e-6


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


def test_group_norm_encoder_refuses_padding_and_takes_single_clips(settings, waveforms):
    settings.audio.config |= {"feat_extract_norm": "group", "do_stable_layer_norm": False}
    model, processor = build_model(settings, ["a"])
    model.eval()
    assert torch.isfinite(embed(model, processor, waveforms[0])).all()
    with pytest.raises(ValueError, match="group"):
        embed(model, processor, waveforms)


def test_forward_agrees_with_the_single_embeddings(tiny, waveforms):
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
def test_frozen_part_keeps_its_weights_and_the_others_learn(settings, waveforms, part):
    settings.freeze = [part]
    torch.manual_seed(0)
    model, processor = build_model(settings, ["a b c d"])
    before = copy.deepcopy(model.state_dict())
    one_step(model.train(), processor, waveforms)
    prefixes = {
        "audio": "audio_branch.",
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
    with pytest.raises(ValueError, match="ears"):
        tiny[0].freeze(["ears"])


# --- Saving, loading, building -------------------------------------------------------------------


@pytest.fixture
def saved(tiny, tmp_path):
    model, processor = tiny
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    return tmp_path


def test_saved_model_gives_the_same_embeddings(tiny, saved, waveforms):
    loaded, processor = load_model(saved)
    assert torch.equal(embed(loaded, processor, waveforms), embed(*tiny, waveforms))
    assert processor.feature_extractor.gain == 10.0
    ours = tiny[1].tokenizer("an angry voice!").input_ids
    assert processor.tokenizer("an angry voice!").input_ids == ours


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


def test_missing_weights_are_refused(saved):
    weights = load_file(saved / "model.safetensors")
    del weights["audio_projection.linear1.weight"]
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights.*audio_projection.linear1.weight"):
        load_model(saved)


def test_folder_without_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no model"):
        load_model(tmp_path)


def test_run_folder_stands_for_its_best_model(saved, tmp_path_factory, tiny, waveforms):
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
    with pytest.raises(ValueError, match=r"feature_projection.projection.weight"):
        build_model(settings, ["a"])


def test_tower_without_name_and_type_is_refused(settings):
    settings.audio = TowerSettings()
    with pytest.raises(ValueError, match=r"model\.audio"):
        build_model(settings, ["a"])


def test_tokenizer_is_the_same_for_any_order_and_reads_unseen_words():
    texts = ["pitch is high", "emotion is anger", "the speaker sounds sad"]
    ours, other = train_tokenizer(texts, 200), train_tokenizer(texts[::-1] * 2, 200)
    assert ours.get_vocab() == other.get_vocab()
    tokens = ours("Furious boredom").input_ids
    assert ours.unk_token_id not in tokens
    assert tokens[0] == ours.cls_token_id and tokens[-1] == ours.sep_token_id


# --- Waveforms in --------------------------------------------------------------------------------


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
