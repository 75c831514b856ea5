"""Ways to compute the embeddings of a model, chosen by name.

    model, processor = load_engine("runs/small", engine="compile")
    model, processor = load_engine("runs/small", precision="bf16")
    model, processor = load_engine("out/small-onnx", engine="onnx")

    eager    the model as it was trained: the reference
    compile  torch.compile, weight norm folded (needs a C++ compiler; the first clips take a minute)
    onnx     a folder of `models.py export`, computed by onnxruntime

In float32 all give the embeddings of `eager` up to rounding. bfloat16 is for hardware that supports
it; it changes cosines in the third decimal. Shapes: B clips, K texts, T samples, L tokens, D
embedding size.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from paraclap.model.build import load_model
from paraclap.model.modeling_paraclap import ParaCLAPModel, ParaCLAPProcessor
from paraclap.model.onnx import OnnxModel, load_onnx, without_weight_norm
from paraclap.model.sources import ENGINES, PRECISIONS, ModelError


class FastModel:
    """The embeddings of a model, compiled or in bfloat16; the model itself stays as it is.

    Attributes:
        model: copy whose weight norm is folded; it shares all other weights.
        bfloat16: whether matrix products and convolutions are in bfloat16.
    """

    def __init__(self, model: ParaCLAPModel, bfloat16: bool = False) -> None:
        self.model = without_weight_norm(model)
        self.bfloat16 = bfloat16
        self.config, self.device, self.logit_scale = model.config, model.device, model.logit_scale
        self.audio_branch = self.model.audio_branch

    def compile(self) -> None:
        """Compile both encoders for inputs of any size."""
        for branch in (self.model.audio_branch, self.model.text_branch):
            branch.base.compile(dynamic=True)

    def round_weights(self) -> None:
        """Store in bfloat16 the weights that autocast would round for every batch."""
        for module in self.model.modules():
            if isinstance(module, nn.Linear | nn.Conv1d):
                for name, parameter in module.named_parameters(recurse=False):
                    rounded = nn.Parameter(parameter.detach().bfloat16(), requires_grad=False)
                    setattr(module, name, rounded)

    def eval(self) -> "FastModel":
        """Return itself: it is always in evaluation mode."""
        return self

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the weights that embeddings are computed with; caches are named after them."""
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
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)
        with torch.inference_mode(), autocast:
            yield


def fast_model(
    model: ParaCLAPModel, engine: str = "eager", precision: str = "fp32"
) -> ParaCLAPModel | FastModel:
    """Return a model that computes the same embeddings with another engine or precision.

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
    bfloat16 = precision == "bf16"
    if bfloat16 and model.device.type == "cpu" and not _has_bfloat16():
        warnings.warn("this processor has no bfloat16, float32 will be faster", stacklevel=2)
    fast = FastModel(model, bfloat16)
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
        ModelError: for an unknown engine or precision, or `onnx` in another precision than fp32 or
            on another device than the CPU; see also `load_model` and `load_onnx`.
    """
    if engine == "onnx":
        if precision != "fp32" or torch.device(device).type != "cpu":
            raise ModelError(f"engine onnx is fp32 on the CPU alone, not {precision} on {device}")
        return load_onnx(source)
    model, processor = load_model(source, device)
    return fast_model(model, engine, precision), processor
