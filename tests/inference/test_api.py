"""The Python interface: signals of any rate, scores, windows, descriptions."""

import numpy as np
import pandas as pd
import pytest
import scipy.special
import soundfile
import soxr
import torch

from paraclap.acoustics import egemaps
from paraclap.acoustics.extraction import measure
from paraclap.audio import AudioError
from paraclap.audio.reading import read_audio
from paraclap.captions.templates import LEVELS
from paraclap.errors import ParaCLAPError
from paraclap.inference import measurement
from paraclap.inference.api import ParaCLAP
from paraclap.inference.classifier import NEUTRAL_PROMPTS

PROMPTS = ["an angry voice", "a calm voice"]


@pytest.fixture
def paraclap(tiny):
    return ParaCLAP(*tiny)


@pytest.fixture
def clip(corpus):
    return sorted(corpus.rglob("*.wav"))[3]


def test_signal_of_any_rate_is_embedded_like_its_file(paraclap, tmp_path):
    rng = np.random.default_rng(1)
    signal = rng.uniform(-0.4, 0.4, (44_100, 2)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", signal, 44_100, subtype="FLOAT")
    from_file = paraclap.embed_waveforms([read_audio(tmp_path / "a.wav")])[0]
    assert paraclap.embed_audio(signal, 44_100) == pytest.approx(from_file, abs=1e-6)
    assert np.linalg.norm(from_file) == pytest.approx(1, abs=1e-5)
    mono = soxr.resample(signal.mean(axis=1), 44_100, 16_000, quality="HQ")
    assert paraclap.embed_audio(mono, 16_000) == pytest.approx(from_file, abs=1e-5)
    assert np.abs(paraclap.embed_audio(mono, 8_000) - from_file).max() > 1e-3


def test_integers_of_full_scale_equal_their_floats(paraclap):
    samples = np.random.default_rng(2).integers(-9000, 9000, 16_000)
    as_float = paraclap.embed_audio(samples / 32768, 16_000)
    assert np.array_equal(paraclap.embed_audio(samples.astype(np.int16), 16_000), as_float)


@pytest.mark.parametrize(
    ("signal", "rate", "reason"),
    [
        (np.zeros((1, 16_000), np.float32), 16_000, "channels"),
        (np.zeros((4, 4, 4), np.float32), 16_000, "channels"),
        (np.zeros(100, np.float32), 100, "sample_rate"),
        (np.zeros(0, np.float32), 16_000, "empty"),
        (np.zeros(100, np.uint8), 16_000, "type"),
        (np.full(100, np.nan, np.float32), 16_000, "non_finite"),
        (np.full(100, 9000.0, np.float32), 16_000, "range"),
    ],
)
def test_invalid_signals_are_refused(paraclap, signal, rate, reason):
    with pytest.raises(AudioError) as caught:
        paraclap.embed_audio(signal, rate)
    assert caught.value.reason == reason


def test_scores_are_the_softmax_of_scaled_cosines(paraclap, clip):
    row = paraclap.score(clip, PROMPTS).iloc[0]
    audio = paraclap.embed_audio(*soundfile.read(clip))
    texts = paraclap.embed_text([*PROMPTS, *NEUTRAL_PROMPTS]).astype(np.float64)
    neutral = texts[2:].mean(axis=0)
    neutral /= np.linalg.norm(neutral)
    cosines = np.append(texts[:2] @ audio, neutral @ audio)
    scale = paraclap.model.logit_scale.exp().item()
    assert [row[f"cosine.{q}"] for q in PROMPTS] == pytest.approx(cosines[:2], abs=1e-5)
    expected = scipy.special.softmax(scale * cosines[:2])
    assert [row[f"probability.{q}"] for q in PROMPTS] == pytest.approx(expected, abs=1e-5)
    none = scipy.special.softmax(scale * cosines)[2]
    assert row["none_of_these"] == pytest.approx(none, abs=1e-5)
    assert row["prediction"] == PROMPTS[int(cosines[:2].argmax())]
    assert row["confidence"] == pytest.approx(expected.max(), abs=1e-5)


def test_neutral_prompt_shares_the_probability_with_none_of_these(paraclap, clip, monkeypatch):
    monkeypatch.setattr("paraclap.inference.classifier.NEUTRAL_PROMPTS", ("a calm voice",))
    row = paraclap.score(clip, ["a calm voice"]).iloc[0]
    assert row["confidence"] == 1
    assert row["none_of_these"] == pytest.approx(0.5, abs=1e-6)


def test_template_is_applied_to_each_prompt(paraclap, clip):
    plain = paraclap.score(clip, ["the speaker sounds sad", "the speaker sounds proud"])
    templated = paraclap.score(clip, ["sad", "proud"], template="the speaker sounds {}")
    assert templated["cosine.sad"][0] == plain["cosine.the speaker sounds sad"][0]
    for wrong in ("no place", "{} and {}"):
        with pytest.raises(ValueError, match="template"):
            paraclap.score(clip, ["sad"], template=wrong)


@pytest.mark.parametrize("prompts", [[], ["a", "a"], [" "]])
def test_missing_and_repeated_prompts_are_refused(paraclap, prompts):
    with pytest.raises(ValueError, match="prompt"):
        paraclap.classifier(prompts)


def test_a_string_instead_of_a_list_is_refused(paraclap):
    for method in (paraclap.classifier, paraclap.embed_text):
        with pytest.raises(TypeError, match="list"):
            method("angry")


# --- Windows -------------------------------------------------------------------------------------


def test_each_window_scores_like_that_segment_alone(paraclap, tmp_path):
    signal = np.random.default_rng(3).uniform(-0.3, 0.3, 50_000).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", signal, 16_000)
    table = paraclap.score_windows(tmp_path / "a.wav", PROMPTS, window=1, hop=0.5)
    assert table["end"].iloc[-1] == 50_000 / 16_000 and len(table) == 6
    for row in table.itertuples():
        waveform = read_audio(tmp_path / "a.wav", row.start, row.end)
        alone = paraclap.score((waveform, 16_000), PROMPTS).iloc[0]
        for prompt in PROMPTS:
            column = f"cosine.{prompt}"
            assert table[column][row.Index] == pytest.approx(alone[column], abs=1e-5)


# --- Descriptions --------------------------------------------------------------------------------


def test_description_holds_the_levels_and_phrases_of_the_captions_table(paraclap, corpus, captions):
    edges = captions.with_name("captions.edges.json")
    stored = pd.read_parquet(captions)
    for row in (0, 17):
        file = stored.index[row][0]
        description = paraclap.describe(corpus / file, edges)
        for name in ("pitch", "intensity", "jitter"):
            assert description.table.loc[name, "level"] == stored[f"{name}_level"].iloc[row]
            assert description.table.loc[name, "phrase"] in stored["captions"].iloc[row]
            assert description.table.loc[name, "phrase"] in description.caption
        assert {"emotion", "gender"} <= set(description.table.index)
        assert description.table.loc["gender", "prediction"] in ("female", "male")
        assert "not measured" in str(description) and description.caption in str(description)


def test_predicted_level_has_the_nearest_prompts(paraclap, clip, captions):
    table = paraclap.describe(clip, captions.with_name("captions.edges.json")).table
    phrases = measurement.level_phrases()["pitch"]
    row = paraclap.score(clip, phrases).iloc[0]
    assert table.loc["pitch", "prediction"] == row["prediction"]
    assert table.loc["pitch", "confidence"] == pytest.approx(row["confidence"], abs=1e-6)


def test_unvoiced_clip_has_no_phrase_about_pitch(captions):
    noise = 0.1 * np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    edges = captions.with_name("captions.edges.json")
    table = measurement.measured_levels(noise, edges)
    assert measure(egemaps.Extractor("captions"), noise).quality == "unvoiced"
    assert table.loc["pitch", ["level", "phrase"]].isna().all()
    assert table.loc["intensity", "level"] in LEVELS


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_unavailable_device_is_named(model_folder, device):
    with pytest.raises(ParaCLAPError, match=device):
        ParaCLAP.from_pretrained(model_folder, device)


def test_single_embeddings_have_the_model_size(paraclap):
    assert paraclap.embed_audio(np.ones(8000) / 9, 16_000).shape == (24,)
    assert paraclap.embed_text(["a", "b"]).shape == (2, 24)
    assert torch.is_grad_enabled()
