"""Every family of audio encoders that people name loads by the same setting, and pads honestly."""

import json

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)

from paraclap.evaluation.embed import embed_waveforms
from paraclap.model.build import build_model
from paraclap.model.modeling_paraclap import AudioBranch
from paraclap.model.sources import ModelError
from paraclap.settings import MelSettings, ModelSettings, TowerSettings
from tiny_models import RATE, TINY_AUDIO, TINY_MEL, TINY_TEXT, TINY_WHISPER, embed

GROUP = {"feat_extract_norm": "group", "do_stable_layer_norm": False}
FAMILIES = {
    # family: configuration, whether clips can be padded
    "wav2vec2-layer": (TINY_AUDIO, True),
    "wav2vec2-group": (TINY_AUDIO | GROUP, False),
    "hubert": (TINY_AUDIO | {"model_type": "hubert"}, True),
    "hubert-group": (TINY_AUDIO | GROUP | {"model_type": "hubert"}, False),
    "wavlm": (TINY_AUDIO | {"model_type": "wavlm"}, True),
    "wavlm-group": (TINY_AUDIO | GROUP | {"model_type": "wavlm"}, False),
    "data2vec-audio": (
        TINY_AUDIO
        | {"model_type": "data2vec-audio", "num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 5},
        False,
    ),
    "wav2vec2-conformer": (TINY_AUDIO | {"model_type": "wav2vec2-conformer"}, False),
    "wav2vec2-bert": (TINY_MEL | {"feature_projection_input_dim": 48}, True),
    "whisper": (TINY_WHISPER, True),
    "whisper-128": (TINY_WHISPER | {"num_mel_bins": 128}, True),
}
MEL_BANDS = SeamlessM4TFeatureExtractor(feature_size=24, num_mel_bins=24)


def pretrained(family, folder, **changes):
    """A tiny encoder saved to a folder in half precision, as many are published."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(**(FAMILIES[family][0] | changes))
    AutoModel.from_config(config).half().save_pretrained(folder)
    if family == "wav2vec2-bert":
        MEL_BANDS.save_pretrained(folder)
    return folder


def model_of(folder, **options):
    audio, text = TowerSettings(str(folder)), TowerSettings(config=TINY_TEXT)
    torch.manual_seed(0)
    settings = ModelSettings(audio=audio, text=text, **options)
    model, processor = build_model(settings, ["angry", "sad"])
    return model.eval(), processor


@pytest.fixture
def waveforms():
    rng = np.random.default_rng(0)
    return [0.1 * rng.standard_normal(count).astype(np.float32) for count in (16_000, 9_000, 4_321)]


@pytest.mark.filterwarnings("ignore:.*preprocessor_config")
@pytest.mark.parametrize("layers", ["last", [0, 2]])
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_nothing_or_is_refused(family, layers, waveforms, tmp_path):
    model, processor = model_of(pretrained(family, tmp_path), audio_layers=layers)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.audio_branch.supports_padding == FAMILIES[family][1]
    if not model.audio_branch.supports_padding:
        with pytest.raises(ValueError, match="padding would change the embeddings"):
            embed(model, processor, waveforms)
        return
    together = embed(model, processor, waveforms)
    alone = torch.cat([embed(model, processor, [waveform]) for waveform in waveforms])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("override", [None, True, False])
def test_preprocessing_of_the_encoder_is_used(own, override, waveforms, tmp_path):
    folder = pretrained("wav2vec2-layer", tmp_path)
    extractor = Wav2Vec2FeatureExtractor(do_normalize=own)
    extractor.save_pretrained(folder)
    _, processor = model_of(folder, normalise_waveform=override)
    found = processor.feature_extractor(waveforms[0], sampling_rate=RATE)["input_values"][0]
    extractor.do_normalize = own if override is None else override
    expected = extractor(waveforms[0], sampling_rate=RATE, return_tensors="np").input_values[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert json.loads((folder / "preprocessor_config.json").read_text())["do_normalize"] is own


@pytest.mark.parametrize("family", [name for name, (_, pads) in FAMILIES.items() if not pads])
def test_refused_padding_would_have_changed_embeddings(family, waveforms, tmp_path, monkeypatch):
    model, processor = model_of(pretrained(family, tmp_path), normalise_waveform=False)
    monkeypatch.setattr(AudioBranch, "supports_padding", True)
    together = embed(model, processor, waveforms)
    alone = torch.cat([embed(model, processor, [waveform]) for waveform in waveforms])
    assert (together - alone).abs().max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_evaluation_is_unpadded_where_padding_cannot_be_masked(
    family, waveforms, tmp_path, recwarn
):
    model, processor = model_of(pretrained(family, tmp_path), normalise_waveform=False)
    found = embed_waveforms(model, processor, waveforms)
    alone = torch.cat([embed(model, processor, [waveform]) for waveform in waveforms])
    torch.testing.assert_close(found, alone, atol=1e-5, rtol=0)
    messages = [str(warning.message) for warning in recwarn]
    stated = any("one at a time, without padding" in message for message in messages)
    assert stated is not FAMILIES[family][1]


def test_log_mel_front_end_is_that_of_the_encoder_unless_set(waveforms, tmp_path):
    folder = pretrained("wav2vec2-bert", tmp_path)
    _, processor = model_of(folder)
    found = processor.feature_extractor(waveforms[0], sampling_rate=RATE)["input_values"][0]
    expected = MEL_BANDS(waveforms[0], sampling_rate=RATE, return_tensors="np")
    valid = int(expected.attention_mask[0].sum())
    np.testing.assert_allclose(found, expected.input_features[0, :valid], atol=2e-5)
    with pytest.raises(ModelError, match=r"frames of 48 values, .* gives 64"):
        model_of(folder, mel=MelSettings(bins=32, stride=2, normalisation="clip"))


@pytest.mark.parametrize("bins", [80, 128])
def test_frames_of_whisper_are_those_of_the_encoder(bins, waveforms, tmp_path):
    folder = pretrained("whisper", tmp_path, num_mel_bins=bins)
    extractor = WhisperFeatureExtractor(feature_size=bins)
    extractor.save_pretrained(folder)
    _, processor = model_of(folder)
    waveform = np.resize(waveforms[0], 30 * RATE)
    found = processor.feature_extractor(waveform, sampling_rate=RATE)["input_values"][0]
    expected = extractor(waveform, sampling_rate=RATE, return_tensors="np").input_features[0]
    np.testing.assert_allclose(found, expected.T, atol=1e-5)


WITH_LISTED_LAYERS = {
    # override of the name alone: tiny stand-in of as many layers, layerdrop as published
    "whisper-small": ("whisper", {"encoder_layers": 12}),
    "whisper-large-v3": ("whisper", {"encoder_layers": 32, "num_mel_bins": 128}),
    "wavlm-large": ("wavlm", {"num_hidden_layers": 24, "layerdrop": 0.1}),
    "w2v-bert-2.0": ("wav2vec2-bert", {"num_hidden_layers": 24, "layerdrop": 0.1}),
}


@pytest.mark.parametrize("name", WITH_LISTED_LAYERS)
def test_other_encoders_need_no_other_setting_than_their_name(name, waveforms, tmp_path):
    family, changes = WITH_LISTED_LAYERS[name]
    folder = pretrained(family, tmp_path, **changes)
    options = {"audio_layers": [1, 2, 3, 4, 5], "audio_pooling": "mean_std", "freeze": ["audio"]}
    model, processor = model_of(folder, normalise_waveform=True, **options)
    assert torch.isfinite(embed(model, processor, waveforms)).all()
    assert model.audio_branch.combined_size == 5 * 2 * model.audio_branch.base.config.hidden_size
    model.unfreeze()  # in training mode as well, every layer is computed
    batch = processor.feature_extractor(waveforms, sampling_rate=RATE, return_tensors="pt")
    model.train()
    model.audio_branch.layers(batch["input_values"], batch["padding_mask"])


def test_wrong_layers_are_refused_before_weights_are_read(tmp_path):
    folder = pretrained("wavlm", tmp_path)
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelError, match=r"audio_layers is \[9\], expected .* layers from 0 to 2"):
        model_of(folder, audio_layers=[9], normalise_waveform=False)
