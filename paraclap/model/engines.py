"""Ways to compute the embeddings of a model, chosen by name.

    model, processor = load_engine("runs/small", engine="compile")
    model, processor = load_engine("runs/small", precision="bf16")
    model, processor = load_engine("out/small-onnx", engine="onnx")

    eager    the model as it was trained: the reference
    compile  torch.compile, weight norm folded (needs a C++ compiler; the first clips take a minute)
    onnx     a folder of `models.py export`, computed by onnxruntime

In float32 all give the embeddings of `eager` up to rounding. bfloat16 is for hardware that supports
it; it changes cosines in the third decimal.
"""

import warnings
from pathlib import Path

import torch
from torch import nn

from paraclap.model.build import load_model
from paraclap.model.modeling_paraclap import ParaCLAPModel, ParaCLAPProcessor
from paraclap.model.onnx import OnnxModel, load_onnx, without_weight_norm
from paraclap.model.sources import ENGINES, PRECISIONS, ModelError


def fast_model(
    model: ParaCLAPModel, engine: str = "eager", precision: str = "fp32"
) -> ParaCLAPModel:
    """Return a model that computes the same embeddings with another engine or precision.

    Args:
        model: in evaluation mode; left unchanged, but weights are shared.
        engine: "eager" or "compile".
        precision: "fp32", or "bf16" for matrix products and convolutions in bfloat16.

    Raises:
        ModelError: if there is no such engine or precision.
    """
    offered = tuple(name for name in ENGINES if name != "onnx")
    if engine not in offered or precision not in PRECISIONS:
        raise ModelError(
            f"engine {engine!r} in {precision!r}, expected one of {offered} in one of {PRECISIONS}"
        )
    if (engine, precision) == ("eager", "fp32"):
        return model
    fast = without_weight_norm(model)
    if precision == "bf16":
        if not has_bfloat16(model.device):
            warnings.warn("this processor has no bfloat16, float32 will be faster", stacklevel=2)
        _use_bfloat16(fast)
        if engine == "eager" and fast.device.type == "cpu":
            _use_frame_convolutions(fast)
    if engine == "compile":
        for branch in (fast.audio_branch, fast.text_branch):
            branch.base.compile(dynamic=True)
    return fast


def _use_bfloat16(model: ParaCLAPModel) -> None:
    """Embed under autocast, and round once the weights that it would round for every batch."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d):
            for name, parameter in module.named_parameters(recurse=False):
                rounded = nn.Parameter(parameter.detach().bfloat16(), requires_grad=False)
                setattr(module, name, rounded)
    autocast = torch.autocast(model.device.type, torch.bfloat16)
    model.get_audio_features = autocast(model.get_audio_features)
    model.get_text_features = autocast(model.get_text_features)


def _use_frame_convolutions(model: ParaCLAPModel) -> None:
    """Replace the convolutions of an encoder of the wav2vec2 family, if layer norms follow them."""
    base = model.audio_branch.base
    layers = getattr(getattr(base, "feature_extractor", None), "conv_layers", ())
    if layers and all(isinstance(getattr(one, "layer_norm", None), nn.LayerNorm) for one in layers):
        base.feature_extractor = FrameConvolutions(layers)


class FrameConvolutions(nn.Module):
    """Convolutions, layer norms and activations of a wav2vec2 encoder, with channels last.

    Each convolution is a matrix product over overlapping windows of its input. In bfloat16 on a
    CPU this is faster than convolutions, between which the layer norms need transposed copies; in
    float32 it is slower.

    Shapes: B clips, T samples, C channels, N frames.
    """

    def __init__(self, conv_layers: nn.ModuleList) -> None:
        super().__init__()
        self.sizes = [(one.conv.kernel_size[0], one.conv.stride[0]) for one in conv_layers]
        self.layers = nn.ModuleList()
        for one in conv_layers:
            weight = one.conv.weight.transpose(1, 2).flatten(1)  # (C, window)
            linear = nn.Linear(weight.shape[1], len(weight), bias=False, device="meta")
            linear.weight = nn.Parameter(weight, requires_grad=False)
            linear.bias = one.conv.bias
            self.layers.append(nn.Sequential(linear, one.layer_norm, one.activation))

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        """Encode waveforms (B, T): (B, C, N)."""
        states = input_values[..., None].to(self.layers[0][0].weight.dtype)
        for (size, stride), layer in zip(self.sizes, self.layers, strict=True):
            states = states.contiguous()
            clips, length, channels = states.shape
            frames = (length - size) // stride + 1
            windows = states.as_strided(
                (clips, frames, size * channels), (length * channels, stride * channels, 1)
            )
            states = layer(windows.flatten(0, 1)).unflatten(0, (clips, frames))
        return states.transpose(1, 2)


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device computes in bfloat16 rather than emulating it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16") or found.get("bf16"))


def load_engine(
    source: str | Path,
    engine: str = "eager",
    precision: str = "fp32",
    device: torch.device | str = "cpu",
) -> tuple[ParaCLAPModel | OnnxModel, ParaCLAPProcessor]:
    """Load a model and its processor for embedding, see the top of this file.

    Raises:
        ModelError: for an unknown engine or precision, or `onnx` in another precision than fp32 or
            on another device than the CPU; see also `load_model` and `load_onnx`.
    """
    if engine == "onnx":
        if precision != "fp32" or torch.device(device).type != "cpu":
            raise ModelError(f"engine onnx is fp32 on the CPU alone, not {precision} on {device}")
        return load_onnx(source)
    model, processor = load_model(source, device)
    return fast_model(model, engine, precision), processor
