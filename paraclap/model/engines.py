"""Ways to compute embeddings, chosen by name; what is asked of a model stays the same.

    model, processor = load_engine("runs/small", engine="matrix")
    model, processor = load_engine("runs/small", engine="compile", precision="bf16")
    model, processor = load_engine("out/small-onnx", engine="onnx")

    eager    the model as it was trained: the reference
    matrix   weight norm folded into plain weights, and the convolutions over the waveform as matrix
             products, whose result is laid out as the layers after them read it
    compile  the same, compiled by torch (needs a C++ compiler; the first clips take a minute)
    onnx     a folder of `models.py export`, computed by onnxruntime

In float32 all give the embeddings of `eager` but for rounding. bfloat16 is for hardware that has
it, and moves cosines in the third decimal. B clips, T samples, N frames, C channels.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from paraclap.model.build import load_model
from paraclap.model.modeling_paraclap import ParaCLAPModel, ParaCLAPProcessor
from paraclap.model.onnx import OnnxModel, load_onnx, without_weight_norm

ENGINES = ("eager", "matrix", "compile", "onnx")
PRECISIONS = ("fp32", "bf16")


class MatrixConvolutions(nn.Module):
    """The convolutions of a wav2vec2-like encoder, one or two matrix products for each layer.

    Args:
        encoder: `feature_extractor` with layer norm after each convolution.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MatrixConvolution(layer) for layer in encoder.conv_layers)

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        """Waveforms (B, T) to (B, C, N), a view of (B, N, C)."""
        states = input_values[..., None]
        for layer in self.layers:
            states = layer(states)
        return states.transpose(1, 2)


class MatrixConvolution(nn.Module):
    """Convolution, layer norm and activation on (B, T, C); for inference alone.

    The first `stride` steps of all windows are rows of a matrix that lies in memory already, and so
    are the next ones: one product for each such part of the kernel, and no window is copied.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        (self.kernel,), (self.stride,) = layer.conv.kernel_size, layer.conv.stride
        taps = layer.conv.weight.detach().permute(0, 2, 1)  # (C', kernel, C)
        self.taps = nn.ParameterList(
            nn.Parameter(part.flatten(1).contiguous(), requires_grad=False)
            for part in taps.split(self.stride, dim=1)
        )
        self.bias = layer.conv.bias
        self.norm, self.activation = layer.layer_norm, layer.activation

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(B, T, C) to (B, N, C')."""
        states = states.contiguous()
        batch, steps, channels = states.shape
        windows = (steps - self.kernel) // self.stride + 1
        strides = (steps * channels, self.stride * channels, 1)

        def rows(part: int) -> torch.Tensor:
            size = (batch, windows, self.taps[part].shape[1])
            return states.as_strided(size, strides, part * self.stride * channels)

        result = F.linear(rows(0), self.taps[0], self.bias)
        for part in range(1, len(self.taps)):
            taps = self.taps[part].T.to(result.dtype).expand(batch, -1, -1)
            result.baddbmm_(rows(part).to(result.dtype), taps)
        return self.activation(self.norm(result))


class FastModel:
    """What `embeddings.py` asks of a model, computed in another way; the model itself is kept.

    Attributes:
        model: copy whose weight norm is folded; it shares all other weights.
        bfloat16: whether matrix products and convolutions are in bfloat16.
    """

    def __init__(self, model: ParaCLAPModel, bfloat16: bool = False) -> None:
        self.model = without_weight_norm(model)
        self.bfloat16 = bfloat16
        self.config, self.device, self.logit_scale = model.config, model.device, model.logit_scale
        self.audio_branch = self.model.audio_branch

    def use_matrix_products(self) -> None:
        """Replace convolutions that are followed by layer norm, if the encoder has any."""
        base = self.audio_branch.base
        if self.audio_branch.supports_padding and hasattr(base, "freeze_feature_encoder"):
            base.feature_extractor = MatrixConvolutions(base.feature_extractor)

    def compile(self) -> None:
        """Compile both encoders for inputs of any size."""
        for branch in (self.model.audio_branch, self.model.text_branch):
            branch.base.compile(dynamic=True)

    def round_weights(self) -> None:
        """Keep in bfloat16 what autocast would round for every clip anew."""
        for module in self.model.modules():
            if isinstance(module, nn.Linear | nn.Conv1d | MatrixConvolution):
                for name, parameter in module.named_parameters(recurse=False):
                    setattr(module, name, _rounded(parameter))
                if isinstance(module, MatrixConvolution):
                    module.taps = nn.ParameterList(_rounded(part) for part in module.taps)

    def eval(self) -> "FastModel":
        """Return itself: it knows nothing but evaluation."""
        return self

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Weights as they are computed with, for the name of a cache."""
        return self.model.state_dict()

    def get_audio_features(
        self, input_values: torch.Tensor, padding_mask: torch.Tensor | None = None
    ) -> BaseModelOutputWithPooling:
        """Embed clips (B, T): `pooler_output` (B, D)."""
        with self._precision():
            return self.model.get_audio_features(input_values, padding_mask)

    def get_text_features(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> BaseModelOutputWithPooling:
        """Embed texts (K, L): `pooler_output` (K, D)."""
        with self._precision():
            return self.model.get_text_features(input_ids, attention_mask)

    @contextmanager
    def _precision(self) -> Iterator[None]:
        enabled = torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)
        with torch.inference_mode(), enabled:
            yield


def _rounded(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(parameter.detach().bfloat16(), requires_grad=False)


def fast_model(
    model: ParaCLAPModel, engine: str = "eager", precision: str = "fp32"
) -> ParaCLAPModel | FastModel:
    """Return what computes the embeddings of a model as `engine` and `precision` say.

    Raises:
        ValueError: for a name that is not offered.
    """
    if engine not in ENGINES[:-1] or precision not in PRECISIONS:
        raise ValueError(
            f"{engine} in {precision}, expected one of {ENGINES[:-1]} in one of {PRECISIONS}"
        )
    if (engine, precision) == ("eager", "fp32"):
        return model
    bfloat16 = precision == "bf16"
    if bfloat16 and model.device.type == "cpu" and not _has_bfloat16():
        warnings.warn("this processor has no bfloat16, float32 will be faster", stacklevel=2)
    fast = FastModel(model, bfloat16)
    if engine != "eager":
        fast.use_matrix_products()
    if bfloat16:
        fast.round_weights()
    if engine == "compile":
        fast.compile()
    return fast


def _has_bfloat16() -> bool:
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16") or found.get("bf16"))


def load_engine(
    source: str | Path,
    engine: str = "eager",
    precision: str = "fp32",
    device: torch.device | str = "cpu",
) -> tuple[ParaCLAPModel | FastModel | OnnxModel, ParaCLAPProcessor]:
    """Load a model and its processor for embedding, see the top of this file.

    Raises:
        FileNotFoundError: if the folder holds no model, or for `onnx` no export.
        ImportError: if onnxruntime is missing.
        ValueError: for `onnx` in another precision or on another device.
    """
    if engine == "onnx":
        if precision != "fp32" or torch.device(device).type != "cpu":
            raise ValueError(f"engine onnx is fp32 on the cpu alone, not {precision} on {device}")
        return load_onnx(source)
    model, processor = load_model(source, device)
    return fast_model(model, engine, precision), processor
