"""Faster forward passes on a CPU give the outputs and gradients of torch's own."""

import copy
import gc
import io
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import Wav2Vec2Config
from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2FeatureEncoder

from paraclap.model import fast_on_cpu as module_of
from paraclap.model.fast_on_cpu import ONEDNN_ROWS, fast_on_cpu


def gradients(module: nn.Module, inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    inputs = inputs.clone().requires_grad_()
    output = module(inputs)
    weights = torch.linspace(-1, 1, output.numel()).view(output.shape)
    (output * weights).sum().backward()
    return output.detach(), inputs.grad, *(parameter.grad for parameter in module.parameters())


def assert_alike(module: nn.Module, inputs: torch.Tensor, tolerance: float = 1e-5) -> None:
    expected = gradients(copy.deepcopy(module), inputs)
    found = gradients(fast_on_cpu(module), inputs)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance * theirs.abs().max().item())


def test_outputs_can_be_changed_in_place() -> None:  # as SpecAugment does
    layer = fast_on_cpu(nn.Linear(48, 32))
    output = layer(torch.ones(2, ONEDNN_ROWS, 48))
    output[0] = 0.0
    output.sum().backward()
    assert layer.bias.grad.eq(ONEDNN_ROWS).all()


def convolutions(**options: object) -> nn.Module:
    encoder = Wav2Vec2FeatureEncoder(Wav2Vec2Config(feat_extract_norm="layer", **options)).train()
    encoder._requires_grad = False  # which transformers would set on the input
    return encoder


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(2 * ONEDNN_ROWS, 48), (3, ONEDNN_ROWS, 48), (2, 48), (48,)])
def test_linear_layers(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    assert_alike(nn.Linear(48, 32, bias=bias), torch.randn(shape))


def test_linear_layer_of_transposed_inputs_and_constant_gradients() -> None:
    torch.manual_seed(0)
    layer, inputs = fast_on_cpu(nn.Linear(48, 32)), torch.randn(48, 64).T
    layer(inputs).sum().backward()
    torch.testing.assert_close(layer.weight.grad, inputs.sum(0).expand(32, -1), rtol=1e-4, atol=0)
    torch.testing.assert_close(layer(inputs), F.linear(inputs, layer.weight, layer.bias))


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_convolutions_with_layer_norm(bias: bool, stride: int) -> None:
    torch.manual_seed(0)
    shape = {"conv_dim": [16, 24, 8], "conv_kernel": [10, 3, 2], "conv_stride": [5, stride, 2]}
    encoder = convolutions(conv_bias=bias, num_feat_extract_layers=3, **shape)
    assert_alike(copy.deepcopy(encoder), torch.randn(2, 803))
    assert_alike(encoder, torch.randn(1, 800))


def test_bfloat16_differs_by_rounding_only() -> None:
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        assert_alike(convolutions(conv_dim=[16] * 7), torch.randn(2, 4000), 0.05)
        assert_alike(nn.Linear(48, 32), torch.randn(64, 48), 0.05)


def test_a_copy_computes_with_its_own_weights() -> None:
    layer = fast_on_cpu(nn.Linear(48, 32))
    other = copy.deepcopy(layer)
    nn.init.zeros_(other.weight)
    nn.init.zeros_(other.bias)
    assert other(torch.ones(64, 48)).eq(0).all()
    assert layer(torch.ones(64, 48)).ne(0).any()


def test_torch_without_the_product_of_onednn_computes_its_own(monkeypatch):
    monkeypatch.setattr(module_of, "LINEAR", "_not_there")
    module_of._has_onednn.cache_clear()
    try:
        layer, inputs = fast_on_cpu(nn.Linear(48, 32)), torch.randn(64, 48)
        assert not module_of._has_onednn()
        assert torch.equal(layer(inputs), F.linear(inputs, layer.weight, layer.bias))
        encoder = convolutions(conv_dim=[16, 8], conv_kernel=[10, 3], conv_stride=[5, 2])
        assert_alike(encoder, torch.randn(2, 803))
    finally:
        module_of._has_onednn.cache_clear()


def test_layers_are_freed_with_their_last_reference() -> None:
    encoder = fast_on_cpu(convolutions(conv_dim=[8], conv_kernel=[4], conv_stride=[2]))
    modules = fast_on_cpu(nn.ModuleList([nn.Linear(4, 4), encoder]))
    weights = [weakref.ref(weight) for weight in modules.parameters()]
    gc.disable()
    try:
        del encoder, modules
        assert weights and not any(weight() is not None for weight in weights)
    finally:
        gc.enable()


def test_a_loaded_model_computes_with_its_own_weights() -> None:
    stream = io.BytesIO()
    torch.save(fast_on_cpu(nn.Sequential(nn.Linear(48, 32))), stream)
    stream.seek(0)
    loaded = torch.load(stream, weights_only=False)
    nn.init.zeros_(loaded[0].weight)
    assert loaded(torch.ones(64, 48)).eq(loaded[0].bias).all()


def test_batches_without_clips_have_gradients() -> None:
    encoder = fast_on_cpu(convolutions(conv_dim=[8] * 7))
    for module, size in ((encoder, 800), (fast_on_cpu(nn.Linear(48, 32)), 48)):
        inputs = torch.ones(0, size, requires_grad=True)
        module(inputs).sum().backward()
        assert inputs.grad.shape == inputs.shape
        assert all(weight.grad.eq(0).all() for weight in module.parameters())


def test_gradients_of_gradients() -> None:
    torch.manual_seed(0)

    def second(module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        inputs = inputs.clone().requires_grad_()
        (first,) = torch.autograd.grad(module(inputs).pow(2).sum(), inputs, create_graph=True)
        return torch.autograd.grad(first.pow(2).sum(), inputs)[0]

    shape = {"conv_dim": [8, 8], "conv_kernel": [10, 3], "conv_stride": [5, 2]}
    for module, inputs in (
        (nn.Linear(48, 32), torch.randn(64, 48)),
        (convolutions(num_feat_extract_layers=2, **shape), torch.randn(2, 803)),
    ):
        expected = second(copy.deepcopy(module).double(), inputs.double())
        found = second(fast_on_cpu(module), inputs).double()
        assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def test_traced_layers_are_those_of_torch() -> None:
    layer, inputs = fast_on_cpu(nn.Linear(48, 32)), torch.randn(64, 48)
    expected = F.linear(inputs, layer.weight, layer.bias)
    assert torch.equal(torch.jit.trace(layer, inputs)(inputs), expected)


def test_a_wrong_size_is_named() -> None:
    with pytest.raises(RuntimeError, match="40x47 and 48x32"):
        fast_on_cpu(nn.Linear(48, 32))(torch.ones(40, 47))


def test_frozen_layers_keep_no_inputs_for_the_backward_pass() -> None:
    layer, inputs = fast_on_cpu(nn.Linear(48, 32)), torch.ones(64, 48, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor.shape), lambda _: None
    ):
        layer(inputs)
        assert inputs.shape in kept
        kept.clear()
        layer.requires_grad_(False)(inputs)
        assert kept == [layer.weight.shape]
