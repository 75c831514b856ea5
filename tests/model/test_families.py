"""Every family of audio encoders that people name loads by the same setting, and pads honestly."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, Wav2Vec2FeatureExtractor

from paraclap.model.build import build_model
from paraclap.model.modeling_paraclap import AudioBranch
from paraclap.settings import MelSettings, ModelSettings, TowerSettings
from tiny_models import RATE, TINY_AUDIO, TINY_MEL, TINY_TEXT, embed

GROUP = {"feat_extract_norm": "group", "do_stable_layer_norm": False}
FAMILIES = {
    # family: configuration, whether clips can be padded
    "wav2vec2-layer": (TINY_AUDIO, True),
    "wav2vec2-group": (TINY_AUDIO | GROUP, False),
    "hubert": (TINY_AUDIO | {"model_type": "hubert"}, True),
    "wavlm": (TINY_AUDIO | {"model_type": "wavlm"}, True),
    "data2vec-audio": (
        TINY_AUDIO
        | {"model_type": "data2vec-audio", "num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 5},
        False,
    ),
    "wav2vec2-conformer": (TINY_AUDIO | {"model_type": "wav2vec2-conformer"}, False),
    "wav2vec2-bert": (TINY_MEL | {"feature_projection_input_dim": 48}, True),
}
MEL = MelSettings(bins=24, stride=2, normalisation="clip")


def pretrained(family, folder, **changes):
    """A tiny encoder saved to a folder in half precision, as many are published."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(**(FAMILIES[family][0] | changes))
    AutoModel.from_config(config).half().save_pretrained(folder)
    return folder


def model_of(folder, **options):
    audio, text = TowerSettings(str(folder)), TowerSettings(config=TINY_TEXT)
    torch.manual_seed(0)
    settings = ModelSettings(audio=audio, text=text, mel=MEL, **options)
    model, processor = build_model(settings, ["angry", "sad"])
    return model.eval(), processor


@pytest.fixture
def waveforms():
    rng = np.random.default_rng(0)
    return [0.1 * rng.standard_normal(count).astype(np.float32) for count in (16_000, 9_000, 4_321)]


@pytest.mark.filterwarnings("ignore:.*preprocessor_config")
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_nothing_or_is_refused(family, waveforms, tmp_path):
    model, processor = model_of(pretrained(family, tmp_path))
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
