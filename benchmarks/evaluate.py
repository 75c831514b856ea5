"""Speed of evaluation against the plain way: float32, one clip at a time, texts for every clip.

    python -m benchmarks.evaluate
    python -m benchmarks.evaluate --ways eager eager.bf16 compile compile.bf16 onnx --threads 2
    python -m benchmarks.evaluate --device cuda --ways eager eager.bf16 --batch-seconds 240

The encoders have the size of the published model and random weights. All ways are measured in this
process, alternating, on the same noise of 1 to 10 s, together with the largest change of a cosine.
A way is ENGINE or ENGINE.PRECISION, see paraclap/model/engines.py; "onnx" is exported first
(`pip install "paraclap[onnx]"`). Ratios are those of median wall time and of median CPU time, which
depends less on other load. Memory is the peak of the process including the weights of all ways.
With random weights the embeddings of all clips are similar, so a change of 1e-3 does not show what
bfloat16 does to a trained model.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paraclap.evaluation.embed import embed_texts, embed_waveforms
from paraclap.evaluation.prompt_sets import class_prompts
from paraclap.model.engines import fast_model
from paraclap.model.modeling_paraclap import (
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
from paraclap.training.resources import peak_memory

EMOTIONS = ("angry", "happy", "sad", "neutral", "fearful", "disgusted", "surprised", "calm")
TEXTS = [class_prompts(emotion, "emotion", "sentence")[0] for emotion in EMOTIONS]
SHORTEST, LONGEST = 1.0, 10.0  # s
PLAIN = "plain"
GIB = 2**30
PEAK = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Measured:
    """Measurements of one way: wall and CPU time of each turn [s], memory [GiB], cosines (B, K)."""

    wall: list[float]
    cpu: list[float]
    memory: float
    cosines: np.ndarray


def build(config: dict[str, Any], seed: int) -> tuple[ParaCLAPModel, ParaCLAPProcessor]:
    """Build a model with random weights and its processor."""
    torch.manual_seed(seed)
    model = ParaCLAPModel(ParaCLAPConfig(**config)).eval()
    tokenizer = train_tokenizer(TEXTS, 200)
    shortest = receptive_field(model.config.audio_config)
    return model, ParaCLAPProcessor(ParaCLAPFeatureExtractor(min_samples=shortest), tokenizer)


def make_clips(count: int, seed: int) -> list[np.ndarray]:
    """Generate noise of various durations and colours, (T,) float32."""
    rng = np.random.default_rng(seed)
    clips = []
    for seconds in rng.uniform(SHORTEST, LONGEST, count):
        noise = rng.standard_normal(round(seconds * SAMPLING_RATE))
        smooth = np.exp(-np.arange(64) / rng.uniform(1, 16))
        noise = np.convolve(noise, smooth / np.linalg.norm(smooth), "same")
        clips.append((0.1 * noise).astype(np.float32))
    return clips


@torch.no_grad()
def plain(
    model: ParaCLAPModel, processor: ParaCLAPProcessor, clips: Sequence[np.ndarray]
) -> np.ndarray:
    """Cosines (B, K) computed naively: one clip at a time, texts embedded for every clip."""
    rows = []
    for clip in clips:
        inputs = processor(
            text=TEXTS, audio=[clip], sampling_rate=SAMPLING_RATE, padding=True,
            return_tensors="pt",
        ).to(model.device)  # fmt: skip
        inputs.pop("padding_mask")  # a single clip has no padding
        outputs = model(**inputs)
        rows.append((outputs.audio_embeds @ outputs.text_embeds.T).cpu())
    return torch.cat(rows).numpy()


def ours(
    model: Any, processor: ParaCLAPProcessor, clips: Sequence[np.ndarray], batch_seconds: float
) -> np.ndarray:
    """Compute cosines (B, K) as evaluate.py does."""
    audio = embed_waveforms(model, processor, clips, batch_seconds)
    return (audio @ embed_texts(model, processor, TEXTS).T).numpy()


def timed(work: Callable[[], np.ndarray], device: torch.device) -> tuple[float, float, np.ndarray]:
    """Run `work`: wall time [s], CPU time [s] and its result."""
    before = time.perf_counter(), time.process_time()
    cosines = work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - before[0], time.process_time() - before[1], cosines


def measure(
    ways: dict[str, Callable[[Sequence[np.ndarray]], np.ndarray]],
    clips: Sequence[np.ndarray],
    repeat: int,
    device: torch.device,
) -> dict[str, Measured]:
    """Run all ways in turns, after a warm-up that is not measured."""
    results = {name: Measured([], [], 0.0, np.empty(0)) for name in ways}
    for name, way in ways.items():
        print(f"{name}: warming up", flush=True)
        for clip in (clips[0], clips[1]):  # the second size makes the compiled graph dynamic
            way([clip])
    for turn in range(repeat):
        for name, way in ways.items():
            _forget_peak(device)
            wall, cpu, cosines = timed(lambda way=way: way(clips), device)
            on_gpu = torch.cuda.max_memory_allocated() / GIB if device.type == "cuda" else 0.0
            memory = on_gpu or peak_memory()
            old = results[name]
            results[name] = Measured(
                [*old.wall, wall], [*old.cpu, cpu], max(old.memory, memory), cosines
            )
            print(f"turn {turn + 1}, {name}: {wall:.1f} s, {cpu:.1f} s of the CPU", flush=True)
    return results


def _forget_peak(device: torch.device) -> None:
    """Reset the peak memory; without support of the system it is that of all ways so far."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif PEAK.exists():
        PEAK.write_text("5")  # see proc(5): resets the peak resident set size


def to_table(results: dict[str, Measured], clips: int) -> str:
    """Format measurements as a Markdown table; ratios are relative to `plain`."""
    lines = [
        "| way | clips/s | ratio | ratio of CPU time | peak memory [GiB] "
        "| largest change of a cosine |",
        "|---|---|---|---|---|---|",
    ]
    reference = results[PLAIN]
    wall, cpu = np.median(reference.wall), np.median(reference.cpu)
    for name, figures in results.items():
        change = np.abs(figures.cosines - reference.cosines).max()
        cells = [
            name,
            f"{clips / np.median(figures.wall):.2f}",
            f"{wall / np.median(figures.wall):.2f}",
            f"{cpu / np.median(figures.cpu):.2f}",
            f"{figures.memory:.2f}",
            "-" if name == PLAIN else f"{change:.1e}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def about(device: torch.device, clips: Sequence[np.ndarray]) -> str:
    """Describe clips and hardware in one line."""
    seconds = sum(map(len, clips)) / SAMPLING_RATE
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    else:
        found = torch.cpu.get_capabilities()
        units = [
            name for name in ("avx2", "avx512_f", "avx512_bf16", "amx_bf16") if found.get(name)
        ]
        where = f"{found['cpu_name']} ({', '.join(units)}), {torch.get_num_threads()} threads"
    return f"{len(clips)} clips of {seconds:.0f} s together, {len(TEXTS)} prompts; {where}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = _parse(arguments)
    device = torch.device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    model, processor = build(PUBLISHED_CONFIG, options.seed)
    model, clips = model.to(device), make_clips(options.clips, options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        ways = {PLAIN: lambda some: plain(model, processor, some)}
        for name in options.ways:
            engine, _, precision = name.partition(".")
            if engine == "onnx":
                export_onnx(model, processor, Path(temporary) / "onnx")
                chosen = load_onnx(Path(temporary) / "onnx")[0]
            else:
                chosen = fast_model(model, engine, precision or "fp32")
            ways[name] = lambda some, chosen=chosen: ours(
                chosen, processor, some, options.batch_seconds
            )
        results = measure(ways, clips, options.repeat, device)
    print(f"{about(device, clips)}; medians of {options.repeat} turns\n")
    print(to_table(results, len(clips)))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--ways", nargs="+", default=["eager", "compile"], help="ENGINE or ENGINE.PRECISION")
    add("--clips", type=int, default=20, help="(%(default)s)")
    add("--repeat", type=int, default=3, help="turns (%(default)s)")
    add("--threads", type=int, help="of torch")
    add("--batch-seconds", type=float, default=0.0, help="padded audio per batch; 0 = single clips")
    add("--device", default="cpu", help="(%(default)s)")
    add("--seed", type=int, default=0, help="of weights and clips (%(default)s)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
