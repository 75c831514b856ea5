"""ParaCLAP as two ONNX files: export, verified against torch, and inference with onnxruntime.

The folder holds audio.onnx (`input_values` (B, T) float32, `padding_mask` (B, T) int64) and
text.onnx (`input_ids`, `attention_mask` (K, L) int64), each with one output `embeddings`, (B, D) or
(K, D) of unit length, for any batch size and length; with int8 also audio.int8.onnx and
text.int8.onnx; configuration and processor of the model; and onnx.json.

Shapes: B clips, K texts, T samples, L tokens, D embedding size.
"""

import copy
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize
from transformers.initialization import no_init_weights
from transformers.modeling_outputs import BaseModelOutputWithPooling

from paraclap.cores import usable_cores
from paraclap.errors import MissingPackageError
from paraclap.files import atomic_folder
from paraclap.model.hashes import ONNX, check_hashes, write_hashes
from paraclap.model.modeling_paraclap import (
    SAMPLING_RATE,
    AudioBranch,
    ParaCLAPConfig,
    ParaCLAPModel,
    ParaCLAPProcessor,
)
from paraclap.model.sources import ModelError, ModelNotFoundError

OPSET = 20
TOLERANCE = 1e-4
"""Largest allowed difference from torch in a component of an embedding."""
INT8_TOLERANCE = 0.02
"""Largest allowed distance (1 - cosine) of an int8 embedding from that of torch."""
QUANTIZED = ["MatMul", "Gemm"]
TOWERS = {"audio": ("input_values", "padding_mask"), "text": ("input_ids", "attention_mask")}
OUTPUT = "embeddings"
CHECKED_SECONDS = ((1.0,), (0.3, 2.5), (5.0, 0.7, 3.1, 3.1), (12.0,))
"""Durations of the clips in each compared batch [s]; a batch of the shortest clip is added."""
CHECKED_TEXTS = (
    ("angry",),
    ("a calm deep voice speaking slowly", "the speaker sounds sad", "loud"),
    ("pitch is high and intensity is low and jitter is normal and emotion is anger " * 3,),
)


class Tower(nn.Module):
    """Embeds clips or texts with a mask, without the data-dependent branches of the model."""

    def __init__(self, model: ParaCLAPModel, name: str) -> None:
        super().__init__()
        self.branch = model.get_submodule(f"{name}_branch")
        self.projection = model.get_submodule(f"{name}_projection")

    def forward(self, inputs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Embed waveforms (B, T) or tokens (K, L): (B, D) or (K, D)."""
        if isinstance(self.branch, AudioBranch):
            layers = self.branch.layers(inputs, mask)
            pooled = self.branch.combine(self.branch.pool(layers, mask))
        else:
            pooled = self.branch(inputs, mask)[1]
        return F.normalize(self.projection(pooled), dim=-1)


# --- Export --------------------------------------------------------------------------------------


def export_onnx(
    model: ParaCLAPModel,
    processor: ParaCLAPProcessor,
    output: Path,
    int8: bool = False,
    weights: str | None = None,
) -> dict[str, Any]:
    """Export a model to ONNX and compare the result with torch.

    Args:
        model: in evaluation mode, on the CPU.
        processor: of the model.
        output: folder to write; written only if every comparison holds.
        int8: also write both towers with the weights of their linear layers in 8 bits.
        weights: `hashes.weights_hash` of the model.

    Returns:
        Content of onnx.json: opset, logit scale, weights, versions, `differences` by tower (largest
        difference of a component) and with `int8` also `int8_distances` (largest 1 - cosine).

    Raises:
        MissingPackageError: if onnx, onnxscript or onnxruntime is not installed.
        ModelError: if the encoder reads functionals or does not support padding, or a difference
            is too large.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        _package(name)
    if model.audio_branch.reads_functionals:
        raise ModelError("ONNX export is for towers on waveforms; this one reads functionals")
    if not model.audio_branch.supports_padding:
        raise ModelError(
            "padding would change the embeddings of this speech encoder, which normalises or "
            "convolves over it; ONNX export needs padding"
        )
    batches = _checked_inputs(processor)
    about = {
        "opset": OPSET,
        "logit_scale": model.logit_scale.item(),
        "weights": weights,
        "versions": {name: metadata.version(name) for name in ("torch", "onnx", "onnxruntime")},
    }
    with atomic_folder(output) as folder:
        plain = without_weight_norm(model)
        for name in TOWERS:
            _export(Tower(plain, name), batches[name][1], folder / f"{name}.onnx")
        model.config.save_pretrained(folder)
        processor.save_pretrained(folder)
        (folder / ONNX).write_text(json.dumps(about))
        expected = _embeddings(model, batches)
        found = _embeddings(OnnxModel(folder), batches)
        about["differences"] = _largest(_difference, expected, found, TOLERANCE)
        if int8:
            for name in TOWERS:
                _quantize(folder / f"{name}.onnx", folder / f"{name}.int8.onnx")
            found = _embeddings(OnnxModel(folder, int8=True), batches)
            about["int8_distances"] = _largest(_distance, expected, found, INT8_TOLERANCE)
        (folder / ONNX).write_text(json.dumps(about, indent=2) + "\n")
        write_hashes(folder)
    return about


def _package(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingPackageError(name.split(".")[0], "onnx") from error


def without_weight_norm(model: ParaCLAPModel) -> ParaCLAPModel:
    """Return a copy with weight norm folded into plain weights; it shares all other weights."""
    with no_init_weights():  # a deep copy would share the parametrised classes
        plain = ParaCLAPModel(copy.deepcopy(model.config)).eval()
    plain.load_state_dict(model.state_dict(), assign=True)
    for module in plain.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
    return plain.requires_grad_(False)


def _checked_inputs(processor: ParaCLAPProcessor) -> dict[str, list[Mapping]]:
    """Return batches of clips (modulated noise) and of texts, of various sizes and lengths."""
    rng = np.random.default_rng(0)
    shortest = processor.feature_extractor.min_samples / SAMPLING_RATE
    audio = []
    for seconds in (*CHECKED_SECONDS, (shortest,)):
        times = [np.arange(max(round(s * SAMPLING_RATE), 1)) / SAMPLING_RATE for s in seconds]
        clips = [(0.1 * np.sin(3 * t) * rng.standard_normal(len(t))).astype("f4") for t in times]
        audio.append(
            processor.feature_extractor(clips, sampling_rate=SAMPLING_RATE, return_tensors="pt")
        )
    options = {"padding": True, "truncation": True, "return_tensors": "pt"}
    text = [processor.tokenizer(list(texts), **options) for texts in CHECKED_TEXTS]
    return {"audio": audio, "text": text}


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress what exporters log and warn about themselves, such as a missing torchvision."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.disable(disabled)


def _export(tower: nn.Module, example: Mapping[str, torch.Tensor], path: Path) -> None:
    name = path.stem
    size = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with _quiet():
        torch.onnx.export(
            tower.eval(),
            tuple(example[key] for key in TOWERS[name]),
            path,
            input_names=list(TOWERS[name]),
            output_names=[OUTPUT],
            dynamic_shapes=(size, size),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )


def _quantize(source: Path, target: Path) -> None:
    """Write a tower with 8-bit weights, one scale per output channel.

    One scale per matrix is too coarse for pretrained sentence encoders: 90 prompts of the installed
    model were .05 from torch on average, against .009.
    """
    quantization = _package("onnxruntime.quantization")
    with _quiet():
        quantization.quantize_dynamic(
            source,
            target,
            op_types_to_quantize=QUANTIZED,
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
        )


@torch.inference_mode()
def _embeddings(
    model: "ParaCLAPModel | OnnxModel", batches: Mapping[str, Sequence[Mapping]]
) -> dict[str, torch.Tensor]:
    """Return the embeddings of all batches, by tower."""
    methods = {"audio": model.get_audio_features, "text": model.get_text_features}
    return {
        tower: torch.cat(
            [
                methods[tower](*(batch[name] for name in names)).pooler_output
                for batch in batches[tower]
            ]
        )
        for tower, names in TOWERS.items()
    }


def _difference(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a - b).abs()


def _distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return 1 - (a * b).sum(dim=-1)


def _largest(
    measure: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    expected: Mapping[str, torch.Tensor],
    found: Mapping[str, torch.Tensor],
    tolerance: float,
) -> dict[str, float]:
    """Return the largest value of a measure by tower; refuse values above the tolerance."""
    values = {tower: measure(expected[tower], found[tower]).max().item() for tower in TOWERS}
    for tower, value in values.items():
        if not value <= tolerance:  # NaN as well
            raise ModelError(
                f"the {tower} tower in ONNX differs from torch by {value:.2g}, allowed are"
                f" {tolerance:g}; nothing is written"
            )
    return values


# --- Inference -----------------------------------------------------------------------------------


class OnnxModel:
    """The embeddings of an exported model, computed by onnxruntime on the CPU.

    Attributes are those of a `ParaCLAPModel` that embedding needs, and `paths`, a file per tower.
    """

    device = torch.device("cpu")
    audio_branch = SimpleNamespace(supports_padding=True)  # others are not exported

    def __init__(self, folder: str | Path, int8: bool = False) -> None:
        runtime = _package("onnxruntime")
        folder = Path(folder)
        if not (folder / ONNX).is_file():
            raise ModelNotFoundError(f"{folder} holds no {ONNX}; `models.py export` writes it")
        self.config = ParaCLAPConfig.from_pretrained(folder)
        about = json.loads((folder / ONNX).read_text(encoding="utf-8"))
        self.logit_scale = torch.tensor(about["logit_scale"])
        suffix = ".int8.onnx" if int8 else ".onnx"
        self.paths = {tower: folder / f"{tower}{suffix}" for tower in TOWERS}
        for path in self.paths.values():
            if not path.is_file():
                hint = "; export with --int8" if int8 else ""
                raise ModelNotFoundError(f"{path} does not exist{hint}")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = min(torch.get_num_threads(), usable_cores())
        self._sessions = {
            tower: runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            for tower, path in self.paths.items()
        }

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the bytes of each tower's files, for the fingerprint of caches."""
        return {
            f"{tower}_branch.{path.name}": torch.from_numpy(np.fromfile(path, np.uint8))
            for tower, graph in self.paths.items()
            for path in sorted(graph.parent.glob(f"{graph.name}*"))
        }

    def eval(self) -> "OnnxModel":
        """Return itself: it is always in evaluation mode."""
        return self

    def get_audio_features(
        self, input_values: torch.Tensor, padding_mask: torch.Tensor
    ) -> BaseModelOutputWithPooling:
        """Embed clips (B, T): `pooler_output` (B, D)."""
        return self._run("audio", input_values, padding_mask)

    def get_text_features(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> BaseModelOutputWithPooling:
        """Embed texts (K, L): `pooler_output` (K, D)."""
        return self._run("text", input_ids, attention_mask)

    def _run(self, tower: str, *inputs: torch.Tensor) -> BaseModelOutputWithPooling:
        values, mask = inputs
        feed = dict(zip(TOWERS[tower], (values.numpy(), mask.long().numpy()), strict=True))
        (embeddings,) = self._sessions[tower].run([OUTPUT], feed)
        return BaseModelOutputWithPooling(pooler_output=torch.from_numpy(embeddings))


def load_onnx(folder: str | Path, int8: bool = False) -> tuple[OnnxModel, ParaCLAPProcessor]:
    """Load an exported model and its processor.

    Raises:
        ModelNotFoundError: if the folder holds no such export.
        ModelError: if a file of it is damaged.
        MissingPackageError: if onnxruntime is not installed.
    """
    check_hashes(folder)
    processor = ParaCLAPProcessor.from_pretrained(folder, trust_remote_code=False)
    return OnnxModel(folder, int8), processor
