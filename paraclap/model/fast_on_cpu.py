"""Faster forward passes on a CPU: linear layers by oneDNN, convolutions without copies.

    model = fast_on_cpu(model)

`build_model` and `load_model` call it. It is not part of modeling_paraclap.py, so that published
models need no operation of torch without documentation.
"""

import functools
import weakref

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import FunctionCtx

LINEAR = "_linear_pointwise"  # of oneDNN, as torch.compile calls it
ONEDNN_ROWS = 16  # of a matrix; products of fewer rows are no faster by oneDNN


def fast_on_cpu(module: nn.Module) -> nn.Module:
    """Replace forward passes of submodules by faster ones of equal results; returns the module.

    Linear layers in float32 are computed by oneDNN, see `_linear`. Convolutions followed by a layer
    norm keep their states as (B, N, H) in memory, see `_convolution`. The original forward passes
    run elsewhere than on a CPU, and while a model is compiled, traced or exported. `torch.func`
    does not support the faster ones.
    """
    for layer in module.modules():
        conv, norm = getattr(layer, "conv", None), getattr(layer, "layer_norm", None)
        if type(layer) is nn.Linear:
            layer.forward = functools.partial(_linear, _Reference(layer))
        elif isinstance(conv, nn.Conv1d) and isinstance(norm, nn.LayerNorm):
            layer.forward = functools.partial(_convolution, _Reference(layer))
    return module


class _Reference:
    """A layer in its own forward pass, without a cycle that would keep models in memory."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = weakref.ref(layer)

    def __reduce__(self) -> tuple:
        return _Reference, (self.layer(),)  # in a copy or a file, the layer that has it


@functools.cache
def _has_onednn() -> bool:
    """Return whether oneDNN was found to be faster on such a processor, and torch offers it."""
    is_built = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, LINEAR)
    return is_built and "AVX" in torch.backends.cpu.get_cpu_capability()


def _runs_eagerly_on_cpu(tensor: torch.Tensor) -> bool:
    """Return whether a tensor is on a CPU, and no operation is recorded."""
    recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return tensor.device.type == "cpu" and not recorded


def _linear(reference: _Reference, inputs: torch.Tensor) -> torch.Tensor:
    """Forward pass of a linear layer; torch uses MKL, which does not use AVX-512 on AMD."""
    layer = reference.layer()
    weight = layer.weight
    if (
        _runs_eagerly_on_cpu(inputs)
        and inputs.dtype == weight.dtype == torch.float32
        and inputs.numel() >= ONEDNN_ROWS * weight.shape[1]
        and inputs.shape[-1] == weight.shape[1]  # else the error of torch names the sizes
        and not torch.is_autocast_enabled("cpu")
        and _has_onednn()
    ):
        rows = inputs.reshape(-1, inputs.shape[-1]).contiguous()
        return _Linear.apply(rows, weight, layer.bias).view(*inputs.shape[:-1], -1)
    return F.linear(inputs, weight, layer.bias)


def _product(
    left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Return left @ right.T + bias by oneDNN, each matrix or its transpose contiguous.

    oneDNN has no products of nothing, and those of a gradient must have gradients themselves if
    autograd is enabled (`create_graph`).
    """
    if not left.numel() or torch.is_grad_enabled() or not _has_onednn():
        return F.linear(left, right, bias)
    return getattr(torch.ops.mkldnn, LINEAR)(left, right, bias, "none", [], "")


class _Linear(torch.autograd.Function):
    """`F.linear` of rows by oneDNN."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        # Torch keeps no input of a frozen layer either.
        ctx.save_for_backward(rows if ctx.needs_input_grad[1] else None, weight)
        return _product(rows, weight, bias)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        gradient, wanted = gradient.contiguous(), ctx.needs_input_grad
        return (
            _product(gradient, weight.T) if wanted[0] else None,
            _product(gradient.T, rows.T) if wanted[1] else None,
            gradient.sum(dim=0) if wanted[2] else None,
        )


def _convolution(reference: _Reference, states: torch.Tensor) -> torch.Tensor:
    """Forward pass of convolution, layer norm and activation, (B, C, N) to (B, H, N).

    torch copies states to (B, C, N) in memory for the convolution, and the backward pass of the
    activation is slow if its operands differ in layout.
    """
    layer = reference.layer()
    conv = layer.conv
    plain = (conv.groups, conv.padding, conv.dilation) == (1, (0,), (1,))
    if not (plain and _runs_eagerly_on_cpu(states)):
        return type(layer).forward(layer, states)
    frames = states.transpose(1, 2).contiguous()
    if torch.is_autocast_enabled("cpu") or frames.dtype != torch.float32:
        frames = _convolved(frames, conv.weight, conv.bias, conv.stride[0])
    else:
        frames = _Convolution.apply(frames, conv.weight, conv.bias, conv.stride[0])
    return layer.activation(layer.layer_norm(frames)).transpose(1, 2)


def _images(tensor: torch.Tensor) -> torch.Tensor:
    """Return (B, C, N) as (B, C, 1, N), channels last in memory."""
    return tensor.unsqueeze(2).contiguous(memory_format=torch.channels_last)


def _convolved(
    frames: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, stride: int
) -> torch.Tensor:
    """Return the convolution (B, N', H) of frames (B, N, C)."""
    images = F.conv2d(_images(frames.transpose(1, 2)), _images(weight), bias, (1, stride))
    return images.squeeze(2).transpose(1, 2).contiguous()


class _Convolution(torch.autograd.Function):
    """`_convolved` with the gradient of the weight as a matrix product.

    In float32 that of oneDNN takes ten times as long as the other two convolutions together.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        frames: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        stride: int,
    ) -> torch.Tensor:
        ctx.save_for_backward(frames, weight)
        ctx.stride = stride
        return _convolved(frames, weight, bias, stride)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        frames, weight = ctx.saved_tensors
        gradient = gradient.contiguous()
        rows, wanted = gradient.flatten(0, 1), ctx.needs_input_grad
        of_frames = of_weight = None
        if wanted[0]:
            images = _images(gradient.transpose(1, 2)), _images(frames.transpose(1, 2))
            of_frames, _, _ = torch.ops.aten.convolution_backward(
                *images, _images(weight), None, (1, ctx.stride), (0, 0), (1, 1), False, (0, 0), 1,
                (True, False, False),
            )  # fmt: skip
            of_frames = of_frames.squeeze(2).transpose(1, 2)
        if wanted[1]:
            size, channels, width = weight.shape
            windows = frames.unfold(1, width, ctx.stride).transpose(2, 3)  # (B, N', width, C)
            windows = windows.reshape(len(rows), width * channels)
            of_weight = _product(rows.T, windows.contiguous().T)
            of_weight = of_weight.view(size, width, channels).transpose(1, 2)
        return of_frames, of_weight, rows.sum(dim=0) if wanted[2] else None, None
