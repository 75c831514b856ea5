"""Whisper's encoder as the audio tower, from files of the encoder alone and of whole models."""

import os
from pathlib import Path

import audformat
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from transformers import (
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperModel,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from paraclap.audio import AudioError
from paraclap.data.dataset import ClipDataset
from paraclap.evaluation.embed import embed_clips
from paraclap.model.build import build_model
from paraclap.model.modeling_paraclap import WHISPER_ENCODER, WhisperTower, whisper_frames
from paraclap.model.onnx import export_onnx
from paraclap.model.sources import ModelError
from paraclap.settings import ModelSettings, TowerSettings
from tiny_models import RATE, TINY_TEXT, TINY_WHISPER, embed

CLIPS = (48_000, 16_000, 23_457, 400)


def settings_of(name=None, **options):
    config = {} if name else TINY_WHISPER
    text = TowerSettings(config=TINY_TEXT)
    return ModelSettings(audio=TowerSettings(name and str(name), config), text=text, **options)


def model_of(settings):
    torch.manual_seed(0)
    model, processor = build_model(settings, ["angry", "sad"])
    return model.eval(), processor


@pytest.fixture(scope="module", params=[(WhisperModel, 80), (WhisperForConditionalGeneration, 128)])
def whole(request, tmp_path_factory):
    """Folder of a tiny Whisper with its decoder, in half precision, with its extractor."""
    kind, bins = request.param
    folder = tmp_path_factory.mktemp("whisper")
    torch.manual_seed(1)
    options = {key: value for key, value in TINY_WHISPER.items() if key != "model_type"}
    kind(WhisperConfig(**options, num_mel_bins=bins)).half().save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=bins).save_pretrained(folder)
    return folder


def encoder_of(folder):
    """The encoder as transformers loads and computes it."""
    names = {r"^(model\.)?encoder\.": ""}
    encoder = WhisperEncoder.from_pretrained(folder, dtype=torch.float32, key_mapping=names)
    return encoder.eval()


@pytest.fixture
def waveforms():
    rng = np.random.default_rng(0)
    return [0.1 * rng.standard_normal(count).astype(np.float32) for count in CLIPS]


@pytest.mark.parametrize("bins", [80, 128])
@pytest.mark.parametrize("samples", [480_000, 479_999])
def test_frames_equal_transformers_on_30_seconds(bins, samples):
    waveform = 0.1 * np.random.default_rng(0).standard_normal(samples).astype(np.float32)
    extractor = WhisperFeatureExtractor(feature_size=bins)
    padded = np.pad(waveform, (0, 480_000 - samples))
    expected = extractor(padded, sampling_rate=RATE).input_features[0].T
    np.testing.assert_allclose(whisper_frames(padded, bins), expected, atol=1e-5)


def test_30_seconds_equal_the_forward_pass_of_transformers(whole):
    encoder, (model, processor) = encoder_of(whole), model_of(settings_of(whole))
    waveforms = [0.1 * torch.randn(480_000, generator=torch.Generator().manual_seed(0)).numpy()]
    theirs = WhisperFeatureExtractor.from_pretrained(whole)
    inputs = theirs(waveforms, sampling_rate=RATE, return_tensors="pt").input_features
    frames = processor.feature_extractor(waveforms, sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        expected = encoder(inputs, output_hidden_states=True)
        found = model.audio_branch.base(frames["input_values"], output_hidden_states=True)
    for ours, reference in zip(
        (*found.hidden_states, found.last_hidden_state),
        (*expected.hidden_states, expected.last_hidden_state),
        strict=True,
    ):
        torch.testing.assert_close(ours, reference, atol=1e-5, rtol=0)


def test_decoders_are_not_reported_as_unexpected_weights(whole):
    options = {"key_mapping": WHISPER_ENCODER, "output_loading_info": True}
    _, report = WhisperTower.from_pretrained(whole, **options)
    assert not report["unexpected_keys"] and not report["missing_keys"]


@pytest.mark.parametrize("pooling", ["mean", "mean_std", "attention"])
@pytest.mark.parametrize("layers", ["last", "weighted", [1, 2]])
def test_padding_does_not_change_embeddings(waveforms, pooling, layers):
    model, processor = model_of(settings_of(audio_pooling=pooling, audio_layers=layers))
    together = embed(model, processor, waveforms)
    alone = torch.cat([embed(model, processor, [waveform]) for waveform in waveforms])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_whole_models_and_encoders_alone_give_the_same_tower(whole, waveforms, tmp_path):
    model, processor = model_of(settings_of(whole))
    encoder = WhisperEncoder(model.config.audio_config)
    encoder.load_state_dict(model.audio_branch.base.state_dict())
    encoder.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"has no preprocessor_config\.json"):
        other, _ = model_of(settings_of(tmp_path))
    tower = other.audio_branch.base
    assert isinstance(tower, WhisperTower)
    assert tower.conv1.weight.dtype == torch.float32
    for name, tensor in model.audio_branch.base.state_dict().items():
        assert torch.equal(tensor, tower.state_dict()[name]), name
    for name, tensor in encoder_of(whole).state_dict().items():
        assert torch.equal(tensor, tower.state_dict()[name]), name


def test_layers_beyond_the_highest_chosen_are_not_computed(waveforms):
    model, processor = model_of(settings_of(audio_layers=[1]))
    model.audio_branch.base.layers[1].register_forward_hook(lambda *_: pytest.fail("computed"))
    embed(model, processor, waveforms[:1])


def test_listed_layers_are_those_of_all(waveforms):
    model, processor = model_of(settings_of(audio_layers="weighted"))
    chosen, _ = model_of(settings_of(audio_layers=[0, 2, 3]))
    chosen.audio_branch.base.load_state_dict(model.audio_branch.base.state_dict())
    batch = processor.feature_extractor(waveforms, sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        every = model.pool("audio", **_inputs(batch)).unflatten(1, (4, -1))
        some = chosen.pool("audio", **_inputs(batch)).unflatten(1, (3, -1))
    torch.testing.assert_close(some, every[:, [0, 2, 3]])


def _inputs(batch):
    return {"inputs": batch["input_values"], "mask": batch["padding_mask"]}


@pytest.mark.parametrize("layers", ["first", [], [4], [-1], [1, 1], [1.5]])
def test_other_layers_are_refused(layers):
    with pytest.raises(ModelError, match="audio_layers is .*, expected one of"):
        model_of(settings_of(audio_layers=layers))


def test_clips_longer_than_its_positions_are_refused():
    _, processor = model_of(settings_of())
    with pytest.raises(ValueError, match=r"480001 samples\), this encoder reads at most 30 s; use"):
        processor.feature_extractor(np.zeros(480_001), sampling_rate=RATE)


def test_normalised_waveforms_do_not_depend_on_the_level(waveforms):
    model, processor = model_of(settings_of(normalise_waveform=True))
    quiet = [0.03 * waveform for waveform in waveforms]
    found = embed(model, processor, quiet), embed(model, processor, waveforms)
    torch.testing.assert_close(*found, atol=1e-4, rtol=0)


def test_saved_models_load_with_auto_classes(waveforms, tmp_path):
    from transformers import AutoModel, AutoProcessor

    model, processor = model_of(settings_of(audio_layers=[1, 2], audio_pooling="mean_std"))
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    expected = embed(model, processor, waveforms)
    torch.testing.assert_close(embed(*loaded, waveforms), expected, atol=0, rtol=0)


def test_export_computes_the_same(tmp_path):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    model, processor = model_of(settings_of(audio_layers=[1, 2], audio_pooling="mean_std"))
    assert max(export_onnx(model, processor, tmp_path / "o")["differences"].values()) <= 1e-4


def test_long_clips_are_named_with_the_limit_of_the_encoder(tmp_path):
    model, processor = model_of(settings_of())
    soundfile.write(tmp_path / "long.wav", np.full(31 * RATE, 0.1), RATE)
    clips = ClipDataset(pd.DataFrame(index=audformat.segmented_index(["long.wav"])), tmp_path)
    with pytest.raises(AudioError, match=r"long\.wav: clip of 31\.00 s, .* at most 30 s; give seg"):
        embed_clips(model, processor, clips)


@pytest.mark.slow
def test_published_weights_agree_with_transformers_and_do_not_depend_on_padding(waveforms):
    folder = Path(os.environ.get("PARACLAP_ENCODERS", "../shared/weights"), "whisper-base-encoder")
    if not folder.is_dir():
        pytest.skip(f"{folder} does not exist; PARACLAP_ENCODERS is the folder of encoders")
    settings = settings_of(folder, audio_layers="weighted", normalise_waveform=False)
    model, processor = model_of(settings)
    together = embed(model, processor, waveforms)
    alone = torch.cat([embed(model, processor, [waveform]) for waveform in waveforms])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    frames = torch.from_numpy(whisper_frames(np.resize(waveforms[0], 480_000), 80))[None]
    theirs = encoder_of(folder)
    with torch.no_grad():
        expected = theirs(frames.transpose(1, 2)).last_hidden_state
        found = model.audio_branch.base(frames).last_hidden_state
        exact = theirs.double()(frames.transpose(1, 2).double()).last_hidden_state
    # Single states of up to 24 differ by 1e-3 between float32 and float64, by either library.
    errors = [(states - exact).square().mean().sqrt().item() for states in (found, expected)]
    assert errors[0] < 1e-5 and errors[0] < 2 * errors[1]
