"""Engines give the embeddings of the model they were made from."""

import shutil

import pytest
import torch

from paraclap.cli import evaluate
from paraclap.evaluation.embed import embed_texts, embed_waveforms
from paraclap.evaluation.embedding_cache import audio_fingerprint
from paraclap.model import engines
from paraclap.model.build import build_model
from paraclap.model.engines import FrameConvolutions, fast_model, load_engine
from paraclap.model.onnx import without_weight_norm
from paraclap.model.sources import ModelError

PROMPTS = ("an angry voice", "the speaker sounds sad", "calm")
without_bfloat16 = pytest.mark.filterwarnings("ignore:this processor has no bfloat16")


def embeddings_of(model, processor, waveforms):
    return embed_waveforms(model, processor, waveforms), embed_texts(model, processor, PROMPTS)


@pytest.mark.slow
def test_compiled_engine_gives_the_embeddings_of_the_model(tiny, waveforms):
    model, processor = tiny
    if not shutil.which("g++"):
        pytest.skip("no compiler")
    expected = embeddings_of(model, processor, waveforms)
    compiled = fast_model(model, "compile")
    for one, other in zip(expected, embeddings_of(compiled, processor, waveforms), strict=True):
        assert not torch.equal(one, torch.zeros_like(one))
        assert torch.allclose(one, other, atol=1e-6)
    for clip in waveforms:  # one clip, without a mask
        single = [embed_waveforms(m, processor, [clip]) for m in (model, compiled)]
        assert torch.allclose(*single, atol=1e-6)


@without_bfloat16
def test_engine_leaves_the_model_unchanged(tiny, waveforms):
    model, processor = tiny
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = embeddings_of(model, processor, waveforms)
    fast_model(model, "eager", "bf16")
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    again = embeddings_of(model, processor, waveforms)
    assert all(torch.equal(a, b) for a, b in zip(expected, again, strict=True))
    assert all(parameter.requires_grad for parameter in model.parameters())


@without_bfloat16
def test_bfloat16_equals_autocast_of_float32_weights(tiny, waveforms):
    model, processor = tiny
    exact = embeddings_of(model, processor, waveforms)
    fast = fast_model(model, "eager", "bf16")
    weights = {w.dtype for n, w in fast.state_dict().items() if n.endswith("dense.weight")}
    assert weights == {torch.bfloat16}
    plain = without_weight_norm(model)
    plain.audio_branch.base.feature_extractor = FrameConvolutions(
        plain.audio_branch.base.feature_extractor.conv_layers
    )
    with torch.autocast("cpu", torch.bfloat16):
        expected = embeddings_of(plain, processor, waveforms)
    for one, other, true in zip(
        embeddings_of(fast, processor, waveforms), expected, exact, strict=True
    ):
        assert one.dtype == torch.float32
        assert torch.allclose(one, other, atol=1e-6)
        assert ((one * true).sum(dim=1) > 0.99).all() and not torch.equal(one, true)


@pytest.mark.parametrize("family", ["wav2vec2", "hubert", "wavlm"])
def test_convolutions_as_matrix_products_are_equal(settings, waveforms, family):
    settings.audio.config |= {"model_type": family}
    model, processor = build_model(settings, ["a"])
    expected = embed_waveforms(model.eval(), processor, waveforms)
    base = model.audio_branch.base
    base.feature_extractor = FrameConvolutions(base.feature_extractor.conv_layers)
    assert torch.allclose(embed_waveforms(model, processor, waveforms), expected, atol=1e-6)


@without_bfloat16
def test_precisions_do_not_share_a_cache(tiny):
    model, processor = tiny
    ways = [("eager", "fp32"), ("eager", "bf16")]
    assert len({audio_fingerprint(fast_model(model, *way), processor) for way in ways}) == 2


@pytest.mark.parametrize("way", [("matrix", "fp32"), ("eager", "fp8"), ("onnx", "fp32")])
def test_unknown_engines_and_precisions_are_refused(tiny, way):
    with pytest.raises(ModelError, match="expected one of"):
        fast_model(tiny[0], *way)


def test_onnx_in_bfloat16_is_refused(tmp_path):
    with pytest.raises(ModelError, match="fp32 on the CPU"):
        load_engine(tmp_path, "onnx", "bf16")


def test_bfloat16_warns_on_processors_without_it(tiny, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    with pytest.warns(UserWarning, match="no bfloat16"):
        fast_model(tiny[0], "eager", "bf16")


@without_bfloat16
def test_evaluation_in_bfloat16_uses_it(model_folder, corpus, tmp_path, monkeypatch):
    original, used = engines.load_engine, []

    def load_engine(*given):
        model, processor = original(*given)
        used.append(model.audio_projection.linear1.weight.dtype)
        return model, processor

    monkeypatch.setattr(engines, "load_engine", load_engine)
    arguments = [str(model_folder), str(corpus), "-o", str(tmp_path), "--device", "cpu"]
    assert evaluate.main([*arguments, "--no-cache", "--split", "test", "--precision", "bf16"]) == 0
    assert used == [torch.bfloat16]
