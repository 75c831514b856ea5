"""The log-mel tower: a front end equal to that of transformers, recording level, training."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from training_runs import PLAIN, trained
from transformers import AutoModel, AutoProcessor, SeamlessM4TFeatureExtractor

from paraclap.cli import evaluate
from paraclap.model.build import build_model, load_model
from paraclap.model.frozen import FrozenEncoder
from paraclap.model.modeling_paraclap import MEL_LEVEL, log_mel_frames
from paraclap.model.onnx import export_onnx
from paraclap.settings import MelSettings, TowerSettings
from paraclap.training import loop
from paraclap.training.config import read_settings
from tiny_models import RATE, TEXTS, TINY_MEL, embed

NORMALISATIONS = ["fixed", "clip"]


@pytest.fixture
def mel(settings):
    """Settings of a tiny log-mel tower; free to change."""
    settings.audio = TowerSettings(config=dict(TINY_MEL))
    settings.mel = MelSettings(bins=24, stride=4)
    settings.input_gain = 1.0
    return settings


def built(settings):
    torch.manual_seed(0)
    model, processor = build_model(settings, TEXTS)
    return model.eval(), processor


# --- Front end -----------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [4_000, 16_000, 16_161, 23_456])
@pytest.mark.parametrize("bins, stride", [(80, 2), (40, 3)])
def test_frames_equal_those_of_transformers(samples, bins, stride):
    theirs = SeamlessM4TFeatureExtractor(feature_size=bins, num_mel_bins=bins, stride=stride)
    rng = np.random.default_rng(0)
    waveform = (0.1 * np.sin(np.arange(samples) / 40) * rng.standard_normal(samples)).astype("f4")
    waveform[: samples // 8] = 0.0
    for normalised, normalisation in ((True, "clip"), (False, "fixed")):
        expected = theirs(
            waveform,
            sampling_rate=RATE,
            padding=False,
            return_tensors="np",
            do_normalize_per_mel_bins=normalised,
        )["input_features"][0]
        found = log_mel_frames(waveform, bins, stride, normalisation)
        if normalisation == "fixed":
            assert not found[:, -1].any()
            found = found[:, :-1] + MEL_LEVEL
        np.testing.assert_allclose(found, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("normalisation, depends", [("fixed", True), ("clip", False)])
def test_embedding_depends_on_level_only_with_fixed(mel, waveforms, normalisation, depends):
    mel.mel.normalisation = normalisation
    model, processor = built(mel)
    quiet, loud = embed(model, processor, waveforms[0]), embed(model, processor, 4 * waveforms[0])
    assert ((quiet - loud).abs().max() > 0.02) == depends


def test_unknown_normalisation_is_refused(waveforms):
    with pytest.raises(ValueError, match="normalisation is 'none'"):
        log_mel_frames(waveforms[0], 24, 4, "none")


# --- The model -----------------------------------------------------------------------------------


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("positions", [None, "relative_key", "relative"])
@pytest.mark.parametrize("pooling, layers", [("mean", "last"), ("mean_std", "weighted")])
def test_embedding_is_the_same_alone_batched_and_padded(
    mel, waveforms, normalisation, positions, pooling, layers
):
    mel.audio.config["position_embeddings_type"] = positions
    mel.mel.normalisation, mel.audio_pooling, mel.audio_layers = normalisation, pooling, layers
    both = built(mel)
    clips = [*waveforms, np.full(10, 0.1, np.float32), np.zeros(3000, np.float32)]
    together, wide = embed(*both, clips), embed(*both, clips, samples=80_000)
    alone = torch.cat([embed(*both, clip) for clip in clips])
    assert torch.isfinite(alone).all()
    assert (together - alone).abs().max() < 1e-5 and (wide - alone).abs().max() < 1e-5
    assert (alone[0] - alone[1]).abs().max() > 1e-3


def test_shortest_clip_is_one_frame(mel):
    _, processor = built(mel)
    extractor = processor.feature_extractor
    assert extractor.min_samples == 400 + 3 * 160
    batch = extractor([np.ones(1, np.float32)], sampling_rate=RATE)
    assert batch["input_values"].shape == (1, 1, 97) and batch["padding_mask"].tolist() == [[1]]
    batch = extractor([np.ones(1519, np.float32), np.ones(1520, np.float32)], sampling_rate=RATE)
    assert batch["padding_mask"].tolist() == [[1, 0], [1, 1]]


def test_saved_tower_loads_with_load_model_and_auto_classes(mel, waveforms, tmp_path):
    model, processor = built(mel)
    for part in (model, processor):
        part.save_pretrained(tmp_path)
    expected = embed(model, processor, waveforms)
    assert torch.equal(embed(*load_model(tmp_path), waveforms), expected)
    auto = AutoModel.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    assert torch.equal(embed(*auto, waveforms), expected)


@pytest.mark.parametrize("at_once", [1, 3])
def test_frozen_tower_is_embedded_row_by_row(mel, waveforms, at_once):
    model, processor = built(mel)
    model.freeze(["audio"]).train()
    batch = processor.feature_extractor(waveforms, sampling_rate=RATE, return_tensors="pt")
    found = FrozenEncoder(model, "audio", batch_size=at_once)(
        batch["input_values"], batch["padding_mask"]
    )
    expected = model.pool("audio", batch["input_values"], batch["padding_mask"])
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("positions", [None, pytest.param("relative_key", marks=pytest.mark.slow)])
def test_export_computes_the_same(mel, tmp_path, positions):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    mel.audio.config["position_embeddings_type"] = positions
    mel.audio_pooling, mel.audio_layers = "mean_std", "weighted"
    about = export_onnx(*built(mel), tmp_path / "o")
    assert max(about["differences"].values()) < 1e-4


def test_pretrained_tower_is_loaded_and_its_front_end_checked(mel, tmp_path, waveforms):
    mel.mel = MelSettings(bins=80, stride=2, normalisation="clip")
    source, _ = built(mel)
    source.audio_branch.base.save_pretrained(tmp_path)
    mel.audio = TowerSettings(str(tmp_path))
    model, processor = built(mel)
    ours, theirs = (m.audio_branch.base.state_dict() for m in (model, source))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert torch.isfinite(embed(model, processor, waveforms)).all()
    mel.mel.normalisation = "fixed"
    with pytest.raises(ValueError, match=r"frames of 160 values, .* gives 161"):
        built(mel)


def test_encoder_with_adapter_refuses_padding(mel, waveforms):
    mel.audio.config["add_adapter"] = True
    model, processor = built(mel)
    assert not model.audio_branch.supports_padding
    with pytest.raises(ValueError, match="padding would change"):
        embed(model, processor, waveforms)


def test_rotary_positions_are_refused(mel):
    mel.audio.config["position_embeddings_type"] = "rotary"
    with pytest.raises(ValueError, match="rotary"):
        build_model(mel, TEXTS)


@pytest.mark.parametrize("positions", [None, "relative_key", "relative"])
def test_training_continues_after_an_evaluation(mel, waveforms, positions):
    mel.audio.config["position_embeddings_type"] = positions
    model, processor = built(mel)
    batch = processor.feature_extractor(waveforms, sampling_rate=RATE, return_tensors="pt")
    with torch.inference_mode():
        model.get_audio_features(**batch)
    model.train().get_audio_features(**batch).pooler_output[:, 0].sum().backward()


def test_missing_convolutions_cannot_be_frozen(mel):
    mel.freeze = ["audio_convolutions"]
    with pytest.raises(ValueError, match="has none"):
        build_model(mel, TEXTS)


# --- Runs ----------------------------------------------------------------------------------------


def arguments(config, tmp_path):
    """A short run with a log-mel tower."""
    settings = yaml.safe_load(Path(config).read_text())
    settings["model"]["audio"]["config"] = {**TINY_MEL, "hidden_dropout": 0.2}
    settings["model"] |= {"mel": {"bins": 24, "stride": 4}, "input_gain": 1.0}
    settings["model"] |= {"audio_pooling": "attention", "audio_layers": "weighted"}
    path = tmp_path / "mel.yaml"
    path.write_text(yaml.safe_dump(settings))
    return [str(path)]


def test_resumed_run_equals_an_uninterrupted_one_and_is_evaluated(config, corpus, tmp_path):
    given = arguments(config, tmp_path)
    whole = loop.train(read_settings(given))
    run = loop.Trainer(read_settings([*given, f"output={tmp_path / 'again'}"]))
    run.output.mkdir()
    run.model.train()
    for batch in itertools.islice(run.loader(), 3):
        run.training_step(batch)
    run.save()
    resumed = loop.train(run.settings)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    results = ["-o", str(tmp_path / "results"), "--split", "test"]
    assert evaluate.main([str(whole.output), str(corpus), *results]) == 0
    assert (tmp_path / "results" / "scores.yaml").is_file()


def test_two_processes_learn_the_weights_of_one(together, config, tmp_path):
    still = [*PLAIN, "model.audio.config.conformer_conv_dropout=0.0"]
    given = [*arguments(config, tmp_path), *still, "train.epochs=1"]
    alone = trained([*given, f"output={tmp_path / 'one'}"])
    two = together(2, trained, [*given, f"output={tmp_path / 'two'}"])
    assert two.codes == [0, 0], two.errors
    for name, total in alone.items():
        torch.testing.assert_close(two.results[0][name], total, rtol=1e-4, atol=1e-4, msg=name)
