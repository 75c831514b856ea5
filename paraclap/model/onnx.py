"""ParaCLAP as two ONNX files: export with a proof that they compute the same, and use.

    python models.py export runs/small out/small-onnx --int8
    python predict.py --onnx out/small-onnx clip.wav --prompts angry calm

The folder holds audio.onnx (`input_values` (B, T) float32, `padding_mask` (B, T) int64) and
text.onnx (`input_ids`, `attention_mask` (K, L) int64), each with one output `embeddings` of unit
length (B, D), and weights in .data files beside them; with --int8 audio.int8.onnx and
text.int8.onnx; the configuration, processor and tokenizer of the model; and onnx.json: opset,
scale of the cosines, and the differences from torch that were measured. Batch and length are free.
An export whose embeddings differ from those of torch by more than `TOLERANCE` in any component
leaves nothing behind.

Needs requirements-onnx.txt; running needs onnxruntime alone. B clips, T samples, K texts, L tokens.
"""

import copy
import json
import math
from collections.abc import Mapping, Sequence
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

from paraclap.files import atomic_folder
from paraclap.model.modeling_paraclap import (
    SAMPLING_RATE,
    ParaCLAPConfig,
    ParaCLAPModel,
    ParaCLAPProcessor,
)

OPSET = 20
TOLERANCE = 1e-4
"""Largest difference of a component of an embedding from torch's."""
INT8_TOLERANCE = 0.02
"""Largest distance (1 - cosine) of an int8 embedding from torch's."""
ABOUT = "onnx.json"
QUANTIZED = ["MatMul", "Gemm"]
TOWERS = {"audio": ("input_values", "padding_mask"), "text": ("input_ids", "attention_mask")}
OUTPUT = "embeddings"
CHECKED_SECONDS = ((1.0,), (0.3, 2.5), (5.0, 0.7, 3.1, 3.1), (12.0,))
"""Durations of the clips of each compared batch [s]; the shortest possible clip is added."""
CHECKED_TEXTS = (
    ("angry",),
    ("a calm deep voice speaking slowly", "the speaker sounds sad", "loud"),
    ("pitch is high and intensity is low and jitter is normal and emotion is anger " * 3,),
)


class AudioTower(nn.Module):
    """Waveforms with their mask to embeddings, without the branches that a graph cannot take."""

    def __init__(self, model: ParaCLAPModel) -> None:
        super().__init__()
        self.branch, self.projection = model.audio_branch, model.audio_projection

    def forward(self, input_values: torch.Tensor, padding_mask: torch.Tensor) -> torch.Tensor:
        """Embed (B, T) with 1 where there is signal: (B, D)."""
        layers = self.branch.layers(input_values, padding_mask)
        pooled = self.branch.combine(self.branch.pool(layers, padding_mask))
        return F.normalize(self.projection(pooled), dim=-1)


class TextTower(nn.Module):
    """Tokens with their mask to embeddings."""

    def __init__(self, model: ParaCLAPModel) -> None:
        super().__init__()
        self.branch, self.projection = model.text_branch, model.text_projection

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Embed (K, L): (K, D)."""
        return F.normalize(self.projection(self.branch(input_ids, attention_mask)[1]), dim=-1)


# --- Export --------------------------------------------------------------------------------------


def export_onnx(
    model: ParaCLAPModel, processor: ParaCLAPProcessor, output: Path, int8: bool = False
) -> dict[str, Any]:
    """Write a model as ONNX, and compare it with torch.

    Args:
        model: in evaluation mode, on the CPU.
        processor: of the model.
        output: folder to write; it appears only if every comparison holds.
        int8: also write both towers with the weights of their linear layers in 8 bits.

    Returns:
        Content of onnx.json: `differences` by tower (largest difference of a component), and
        `int8_distances` (largest 1 - cosine).

    Raises:
        ImportError: naming the packages that are missing.
        ValueError: if the encoder reads functionals or cannot leave padding out, or a
            difference is too large.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        _package(name)
    if model.audio_branch.reads_functionals:
        raise ValueError("ONNX is for towers that hear waveforms; this one reads functionals")
    if not model.audio_branch.supports_padding:
        raise ValueError(
            "this speech encoder normalises over time (feat_extract_norm='group'), so a graph with"
            " a padding mask would give other embeddings; expected one with 'layer'"
        )
    audio, text = _checked_inputs(processor)
    about = {
        "opset": OPSET,
        "logit_scale": model.logit_scale.item(),
        "versions": {name: metadata.version(name) for name in ("torch", "onnx", "onnxruntime")},
    }
    with atomic_folder(output) as folder:
        plain = without_weight_norm(model)
        _export(AudioTower(plain), audio[1], folder / "audio.onnx")
        _export(TextTower(plain), text[1], folder / "text.onnx")
        model.config.save_pretrained(folder)
        processor.save_pretrained(folder)
        (folder / ABOUT).write_text(json.dumps(about))
        expected = _embeddings(model, audio, text)
        found = _embeddings(OnnxModel(folder), audio, text)
        about["differences"] = _differences(expected, found, _largest_difference, TOLERANCE)
        if int8:
            for tower in TOWERS:
                _quantize(folder / f"{tower}.onnx", folder / f"{tower}.int8.onnx")
            found = _embeddings(OnnxModel(folder, int8=True), audio, text)
            about["int8_distances"] = _differences(
                expected, found, _largest_distance, INT8_TOLERANCE
            )
        (folder / ABOUT).write_text(json.dumps(about, indent=2) + "\n")
    return about


def _package(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f"{name} is missing: pip install -r requirements-onnx.txt") from error


def without_weight_norm(model: ParaCLAPModel) -> ParaCLAPModel:
    """Return a copy whose normalised weights are plain ones, and shares all others."""
    with no_init_weights():  # a deep copy would share the classes
        plain = ParaCLAPModel(copy.deepcopy(model.config)).eval()
    plain.load_state_dict(model.state_dict(), assign=True)
    for module in plain.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
    return plain.requires_grad_(False)


def _checked_inputs(processor: ParaCLAPProcessor) -> tuple[list[Mapping], list[Mapping]]:
    """Batches of clips (noise under a slow swell) and texts, of different sizes and lengths."""
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
    return audio, [processor.tokenizer(list(texts), **options) for texts in CHECKED_TEXTS]


def _export(tower: nn.Module, example: Mapping[str, torch.Tensor], path: Path) -> None:
    name = path.stem
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    torch.onnx.export(
        tower.eval(),
        tuple(example[key] for key in TOWERS[name]),
        path,
        input_names=list(TOWERS[name]),
        output_names=[OUTPUT],
        dynamic_shapes=dict.fromkeys(TOWERS[name], free),
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )


def _quantize(source: Path, target: Path) -> None:
    """Write a tower with weights in 8 bits, one scale for each matrix.

    A scale for each channel was farther from torch (1.6e-3 and 1.5e-4 on a trained audio tower).
    """
    quantization = _package("onnxruntime.quantization")
    quantization.quantize_dynamic(
        source, target, op_types_to_quantize=QUANTIZED, weight_type=quantization.QuantType.QInt8
    )


@torch.inference_mode()
def _embeddings(
    model: "ParaCLAPModel | OnnxModel", audio: Sequence[Mapping], text: Sequence[Mapping]
) -> dict[str, list[torch.Tensor]]:
    """Embeddings of each batch by tower."""
    methods = {"audio": model.get_audio_features, "text": model.get_text_features}
    batches = {"audio": audio, "text": text}
    return {
        tower: [
            methods[tower](*(batch[name] for name in names)).pooler_output
            for batch in batches[tower]
        ]
        for tower, names in TOWERS.items()
    }


def _largest_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


def _largest_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((1 - (a * b).sum(dim=-1)).max())


def _differences(
    expected: Mapping[str, list], found: Mapping[str, list], measure: Any, tolerance: float
) -> dict[str, float]:
    """Largest value of a measure by tower, which must not exceed the tolerance."""
    values = {
        tower: max(measure(a, b) for a, b in zip(expected[tower], found[tower], strict=True))
        for tower in expected
    }
    for tower, value in values.items():
        if math.isnan(value) or value > tolerance:
            raise ValueError(
                f"the {tower} tower in ONNX differs from torch by {value:.2g}, allowed are"
                f" {tolerance:g}; nothing is written"
            )
    return values


# --- Use -----------------------------------------------------------------------------------------


class OnnxModel:
    """What `embeddings.py` asks of a model, computed by onnxruntime on the CPU.

    Attributes:
        config: of the model that was exported.
        logit_scale: logarithm of the factor on the cosines.
        device: of the tensors that go in.
        paths: tower -> its graph.
    """

    device = torch.device("cpu")
    audio_branch = SimpleNamespace(supports_padding=True)  # others are not exported

    def __init__(self, folder: str | Path, int8: bool = False) -> None:
        runtime = _package("onnxruntime")
        folder = Path(folder)
        if not (folder / ABOUT).is_file():
            raise FileNotFoundError(f"{folder} holds no {ABOUT}; `models.py export` writes it")
        self.config = ParaCLAPConfig.from_pretrained(folder)
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        self.logit_scale = torch.tensor(about["logit_scale"])
        suffix = ".int8.onnx" if int8 else ".onnx"
        self.paths = {tower: folder / f"{tower}{suffix}" for tower in TOWERS}
        for path in self.paths.values():
            if not path.is_file():
                hint = "; export with --int8" if int8 else ""
                raise FileNotFoundError(f"{path} does not exist{hint}")
        self._sessions = {
            tower: runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
            for tower, path in self.paths.items()
        }

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Content of the files of each tower, for the name of a cache."""
        return {
            f"{tower}_branch.{path.name}": torch.from_numpy(np.fromfile(path, np.uint8))
            for tower, graph in self.paths.items()
            for path in sorted(graph.parent.glob(f"{graph.name}*"))
        }

    def eval(self) -> "OnnxModel":
        """Return itself: it knows nothing but evaluation."""
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
        feed = dict(zip(TOWERS[tower], (tensor.numpy() for tensor in inputs), strict=True))
        (embeddings,) = self._sessions[tower].run([OUTPUT], feed)
        return BaseModelOutputWithPooling(pooler_output=torch.from_numpy(embeddings))


def load_onnx(folder: str | Path, int8: bool = False) -> tuple[OnnxModel, ParaCLAPProcessor]:
    """Load an exported model and its processor.

    Raises:
        FileNotFoundError: if the folder holds no such export.
        ImportError: if onnxruntime is missing.
    """
    return OnnxModel(folder, int8), ParaCLAPProcessor.from_pretrained(folder)
