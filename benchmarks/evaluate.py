"""Speed of evaluation against a plain loop: float32, one clip at a time, texts for every clip.

    python -m benchmarks.evaluate
    python -m benchmarks.evaluate --variants eager eager.bf16 compile compile.bf16 onnx
    python -m benchmarks.evaluate --device cuda --variants eager eager.bf16 --batch-seconds 240
    python -m benchmarks.evaluate --encoder whisper --seconds 3 3

The encoders have the size of the published model, or of the installed one (Whisper base, MiniLM),
and random weights; clips are noise. The plain way with Whisper is that of transformers: each clip
padded to 30 s, all layers, and the mean over the frames of the clip. Silence takes part in its
attention, so its cosines differ.
A variant is ENGINE or ENGINE.PRECISION, see paraclap/model/engines.py; "onnx" is exported first
(`pip install "paraclap[onnx]"`). Ratios are those of each round, median and range. With random
weights all embeddings are similar, so the changes of cosines do not show what bfloat16 does to a
trained model.
"""

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from transformers import WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from benchmarks.encoders import MINILM, WHISPER_BASE
from benchmarks.plain import original_forward
from benchmarks.report import command_line, parse, report
from benchmarks.timing import alternate, markdown_table, ratios
from paraclap.evaluation.embed import embed_texts, embed_waveforms
from paraclap.evaluation.prompt_sets import class_prompts
from paraclap.model.build import build_model
from paraclap.model.engines import fast_model
from paraclap.model.fast_on_cpu import fast_on_cpu
from paraclap.model.modeling_paraclap import (
    MEL_HOP,
    PUBLISHED_CONFIG,
    SAMPLING_RATE,
    ParaCLAPConfig,
    ParaCLAPFeatureExtractor,
    ParaCLAPModel,
    ParaCLAPProcessor,
    receptive_field,
)
from paraclap.model.onnx import export_onnx, load_onnx
from paraclap.model.towers import train_tokenizer
from paraclap.settings import ModelSettings, TowerSettings

EMOTIONS = ("angry", "happy", "sad", "neutral", "fearful", "disgusted", "surprised", "calm")
TEXTS = [class_prompts(emotion, "emotion", "sentence")[0] for emotion in EMOTIONS]
PLAIN = "plain"
LAYERS = [1, 2, 3, 4, 5]  # of configs/whisper.yaml


def build(encoder: str = "published") -> tuple[ParaCLAPModel, ParaCLAPProcessor]:
    """Build a model with random weights and its processor."""
    torch.manual_seed(0)
    if encoder == "whisper":
        towers = {"audio": TowerSettings(config=WHISPER_BASE), "text": TowerSettings(config=MINILM)}
        settings = ModelSettings(**towers, audio_layers=LAYERS, text_pooling="mean")
        model, processor = build_model(settings, TEXTS)
        return model.eval(), processor
    model = fast_on_cpu(ParaCLAPModel(ParaCLAPConfig(**PUBLISHED_CONFIG)).eval())
    tokenizer = train_tokenizer(TEXTS, 200)
    shortest = receptive_field(model.config.audio_config)
    return model, ParaCLAPProcessor(ParaCLAPFeatureExtractor(min_samples=shortest), tokenizer)


def make_clips(count: int, shortest: float, longest: float) -> list[np.ndarray]:
    """Generate noise of different durations [s], (T,) float32."""
    rng = np.random.default_rng(0)
    sizes = rng.uniform(shortest, longest, count) * SAMPLING_RATE
    return [0.1 * rng.standard_normal(round(size), np.float32) for size in sizes]


@torch.no_grad()
def plain(
    model: ParaCLAPModel, processor: ParaCLAPProcessor, clips: Sequence[np.ndarray]
) -> np.ndarray:
    """Compute cosines (B, K) one clip at a time, and embed the texts for every clip."""
    rows = []
    for clip in clips:
        inputs = processor(
            text=TEXTS, audio=[clip], sampling_rate=SAMPLING_RATE, padding=True,
            return_tensors="pt",
        ).to(model.device)  # fmt: skip
        inputs.pop("padding_mask")  # a single clip has no padding
        with original_forward(model):
            outputs = model(**inputs)
        rows.append((outputs.audio_embeds @ outputs.text_embeds.T).cpu())
    return torch.cat(rows).numpy()


def whisper_encoder(model: ParaCLAPModel) -> WhisperEncoder:
    """Return the encoder of transformers with the weights of a model."""
    base = model.audio_branch.base
    encoder = WhisperEncoder(base.config).eval().to(model.device)
    encoder.load_state_dict(base.state_dict())
    return encoder


@torch.no_grad()
def plain_whisper(
    model: ParaCLAPModel,
    processor: ParaCLAPProcessor,
    encoder: WhisperEncoder,
    clips: Sequence[np.ndarray],
) -> np.ndarray:
    """Compute cosines (B, K) as `plain`, with the encoder and the extractor of transformers."""
    extractor = WhisperFeatureExtractor(encoder.config.num_mel_bins)
    rows = []
    for clip in clips:
        inputs = extractor(clip, sampling_rate=SAMPLING_RATE, return_tensors="pt").to(model.device)
        states = encoder(inputs.input_features, output_hidden_states=True).hidden_states
        frames = -(-len(clip) // (2 * MEL_HOP))
        pooled = torch.cat([states[layer][:, :frames].mean(dim=1) for layer in LAYERS], dim=-1)
        texts = processor(text=TEXTS, padding=True, return_tensors="pt").to(model.device)
        with original_forward(model):
            text = model.get_text_features(texts.input_ids, texts.attention_mask).pooler_output
            rows.append((model.project("audio", pooled) @ text.T).cpu())
    return torch.cat(rows).numpy()


def ours(
    model: Any, processor: ParaCLAPProcessor, batch_seconds: float, clips: Sequence[np.ndarray]
) -> np.ndarray:
    """Compute cosines (B, K) as evaluate.py does."""
    audio = embed_waveforms(model, processor, clips, batch_seconds)
    return (audio @ embed_texts(model, processor, TEXTS).T).numpy()


def engine_of(name: str, model: ParaCLAPModel, processor: ParaCLAPProcessor, folder: Path) -> Any:
    """Return the model of a variant."""
    engine, _, precision = name.partition(".")
    if engine == "onnx":
        export_onnx(model, processor, folder)
        return load_onnx(folder)[0]
    return fast_model(model, engine, precision or "fp32")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = command_line(__doc__, __spec__.name)
    add = parser.add_argument
    add("--variants", nargs="+", default=["eager", "compile"], help="ENGINE or ENGINE.PRECISION")
    add("--encoder", choices=("published", "whisper"), default="published", help="(%(default)s)")
    lengths = "shortest and longest clip [s] (1 10)"
    add("--seconds", nargs=2, type=float, default=(1.0, 10.0), metavar="SECONDS", help=lengths)
    add("--clips", type=int, default=20, help="(%(default)s)")
    add("--rounds", type=int, default=3, help="(%(default)s)")
    add("--batch-seconds", type=float, default=0.0, help="padded audio per batch; 0 = single clips")
    add("--device", default="cpu", help="(%(default)s)")
    options = parse(parser, arguments)
    device, (model, processor) = torch.device(options.device), build(options.encoder)
    model, clips = model.to(device), make_clips(options.clips, *options.seconds)
    variants = {PLAIN: partial(plain, model, processor)}
    if options.encoder == "whisper":
        variants = {PLAIN: partial(plain_whisper, model, processor, whisper_encoder(model))}
    with tempfile.TemporaryDirectory() as temporary:
        for name in options.variants:
            engine = engine_of(name, model, processor, Path(temporary) / "onnx")
            variants[name] = partial(ours, engine, processor, options.batch_seconds)
        for variant in variants.values():  # the second size makes a compiled graph dynamic
            variant(clips[:1])
            variant(clips[1:2])
        calls = {name: partial(variant, clips) for name, variant in variants.items()}
        runs = alternate(calls, options.rounds, device)
    reference, rows = runs[PLAIN], []
    for name, found in runs.items():
        change = np.abs(found[-1].result - reference[-1].result).max()
        speed = f"{len(clips) / median(run.wall for run in found):.2f}"
        clocks = (ratios(reference, found), ratios(reference, found, "cpu"))
        memory = f"{max(run.memory for run in found):.2f}"
        rows.append((name, speed, *clocks, memory, f"{change:.1e}"))
    seconds = sum(map(len, clips)) / SAMPLING_RATE
    about = f"{len(clips)} clips of {seconds:.0f} s together, {len(TEXTS)} prompts, {device.type}"
    head = ("variant", "clips/s", "ratio", "ratio of CPU time", "memory [GiB]")
    table = markdown_table((*head, "largest change of a cosine"), rows)
    title = "Evaluation" if options.encoder == "published" else "Evaluation, Whisper base"
    report(f"{title}, {device.type}", f"{about}\n\n{table}", options)


if __name__ == "__main__":
    main()
