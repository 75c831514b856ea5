"""engines.py: faster ways give the embeddings of the model as it was trained."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from paraclap.cli import evaluate
from paraclap.evaluation.embed import audio_fingerprint, embed_texts, embed_waveforms
from paraclap.model import engines
from paraclap.model.build import build_model
from paraclap.model.engines import MatrixConvolution, fast_model, load_engine

PROMPTS = ("an angry voice", "the speaker sounds sad", "calm")


def embeddings_of(model, processor, waveforms):
    return embed_waveforms(model, processor, waveforms), embed_texts(model, processor, PROMPTS)


@pytest.mark.parametrize(
    "kernel, stride, channels", [(10, 5, 1), (3, 2, 8), (2, 2, 8), (4, 4, 3), (7, 2, 2), (2, 3, 4)]
)
@pytest.mark.parametrize("batch, extra", [(1, 0), (3, 1), (2, 4)])
def test_convolution_as_matrix_products_equals_the_convolution(
    kernel, stride, channels, batch, extra
):
    torch.manual_seed(0)
    layer = nn.Module()
    layer.conv = nn.Conv1d(channels, 6, kernel, stride).double()
    layer.layer_norm, layer.activation = nn.LayerNorm(6).double(), nn.GELU()
    states = torch.randn(batch, kernel + 3 * stride + extra, channels).double()
    with torch.inference_mode():
        convolved = layer.conv(states.transpose(1, 2)).transpose(1, 2)
        expected = layer.activation(layer.layer_norm(convolved))
        found = MatrixConvolution(layer)(states)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("engine", ["matrix", pytest.param("compile", marks=pytest.mark.slow)])
def test_engine_gives_the_embeddings_of_the_model(tiny, waveforms, engine):
    model, processor = tiny
    if engine == "compile" and not shutil.which("g++"):
        pytest.skip("no compiler")
    expected = embeddings_of(model, processor, waveforms)
    fast = fast_model(model, engine)
    for one, other in zip(expected, embeddings_of(fast, processor, waveforms), strict=True):
        assert not torch.equal(one, torch.zeros_like(one))
        assert torch.allclose(one, other, atol=1e-6)
    for clip in waveforms:  # alone, without a mask
        single = [embed_waveforms(m, processor, [clip]) for m in (model, fast)]
        assert torch.allclose(*single, atol=1e-6)


@pytest.mark.filterwarnings("ignore:this processor has no bfloat16")
def test_engine_leaves_the_model_as_it_was(tiny, waveforms):
    model, processor = tiny
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = embeddings_of(model, processor, waveforms)
    fast_model(model, "matrix", "bf16")
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    again = embeddings_of(model, processor, waveforms)
    assert all(torch.equal(a, b) for a, b in zip(expected, again, strict=True))
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.filterwarnings("ignore:this processor has no bfloat16")
@pytest.mark.parametrize("engine", ["eager", "matrix"])
def test_bfloat16_is_autocast_with_weights_rounded_once(tiny, waveforms, engine):
    model, processor = tiny
    exact = embeddings_of(model, processor, waveforms)
    autocast = engines.FastModel(model, bfloat16=True)
    if engine == "matrix":
        autocast.use_matrix_products()
    fast = fast_model(model, engine, "bf16")
    for way, dtype in ((autocast, torch.float32), (fast, torch.bfloat16)):
        weights = {w.dtype for n, w in way.state_dict().items() if n.endswith("dense.weight")}
        assert weights == {dtype}
    expected = embeddings_of(autocast, processor, waveforms)
    for one, other, true in zip(
        embeddings_of(fast, processor, waveforms), expected, exact, strict=True
    ):
        assert one.dtype == torch.float32
        assert torch.allclose(one, other, atol=1e-6)
        assert ((one * true).sum(dim=1) > 0.99).all() and not torch.equal(one, true)


def test_encoder_that_normalises_over_time_keeps_its_convolutions(settings, waveforms):
    settings.audio.config |= {"feat_extract_norm": "group", "do_stable_layer_norm": False}
    model, processor = build_model(settings, PROMPTS)
    model.eval()
    expected = embeddings_of(model, processor, waveforms)
    found = embeddings_of(fast_model(model, "matrix"), processor, waveforms)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(expected, found, strict=True))


@pytest.mark.filterwarnings("ignore:this processor has no bfloat16")
def test_caches_of_other_precisions_have_other_names(tiny):
    model, processor = tiny
    ways = [("eager", "fp32"), ("matrix", "fp32"), ("matrix", "bf16")]
    names = {audio_fingerprint(fast_model(model, *way), processor) for way in ways}
    assert len(names) == 3


@pytest.mark.parametrize("way", [("fast", "fp32"), ("eager", "fp8"), ("onnx", "fp32")])
def test_ways_that_are_not_offered_are_refused(tiny, way):
    with pytest.raises(ValueError, match="expected one of"):
        fast_model(tiny[0], *way)


def test_onnx_is_refused_in_another_precision(tmp_path):
    with pytest.raises(ValueError, match="fp32 on the cpu"):
        load_engine(tmp_path, "onnx", "bf16")


def test_processor_without_bfloat16_is_told(tiny, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    with pytest.warns(UserWarning, match="no bfloat16"):
        fast_model(tiny[0], "eager", "bf16")


def scores_of(model, corpus, output, *options):
    arguments = [str(model), str(corpus), "-o", str(output), "--no-cache", "--device", "cpu"]
    assert evaluate.main([*arguments, "--split", "test", *options]) == 0
    return yaml.safe_load((Path(output) / "scores.yaml").read_text())["corpora"]


@pytest.mark.filterwarnings("ignore:this processor has no bfloat16")
def test_scores_are_the_same_by_every_engine(tiny, corpus, tmp_path, monkeypatch):
    model, processor = tiny
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (plain,) = scores_of(folder, corpus, tmp_path / "eager").values()
    (found,) = scores_of(folder, corpus, tmp_path / "m", "--engine", "matrix").values()
    assert found["recall"] == plain["recall"]
    assert found["calibration"]["ECE"] == pytest.approx(plain["calibration"]["ECE"], abs=1e-6)
    used = []
    monkeypatch.setattr(engines.FastModel, "get_audio_features", counting(engines.FastModel, used))
    (rounded,) = scores_of(folder, corpus, tmp_path / "b", "--precision", "bf16").values()
    assert set(used) == {True} and rounded["clips"] == plain["clips"]


def counting(kind, used):
    original = kind.get_audio_features

    def get_audio_features(self, *inputs):
        used.append(self.bfloat16)
        return original(self, *inputs)

    return get_audio_features


def test_onnx_engine_scores_as_the_model_does(tiny, corpus, tmp_path):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    from paraclap.model.onnx import export_onnx

    model, processor = tiny
    export_onnx(model, processor, tmp_path / "onnx")
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    plain = scores_of(tmp_path / "model", corpus, tmp_path / "eager")
    exported = scores_of(tmp_path / "onnx", corpus, tmp_path / "o", "--engine", "onnx")
    (a,), (b,) = plain.values(), exported.values()
    assert {k: a[k] for k in ("UAR", "recall")} == {k: b[k] for k in ("UAR", "recall")}
    onnx, _ = load_engine(tmp_path / "onnx", "onnx")
    assert np.isfinite(onnx.logit_scale.item())
    assert audio_fingerprint(onnx, processor) != audio_fingerprint(model, processor)
