"""Training step, evaluation and text encoding beside other libraries, on the CPU.

    python -m benchmarks.peers
    python -m benchmarks.peers --encoders FOLDER
    python -m benchmarks.peers --small --rounds 1

Ours has the speech encoder of Whisper base and the text encoder of all-MiniLM-L6-v2, with random
weights, or those of `whisper-base` and `all-MiniLM-L6-v2` in `--encoders`. Beside it, in one run
with the same clips, threads and type (float32):

- "plain": the same encoders in the way of the published code, see `benchmarks.train_step` and
  `benchmarks.evaluate`.
- `ClapModel` of transformers, with a text encoder of the same size. Its audio encoder, HTSAT, is
  part of it: about as large as that of Whisper base, but a Swin transformer, for sound at 48 kHz
  in windows of 10 s, to which shorter clips are repeated and longer ones cut. Its clips are noise
  at 48 kHz, so that resampling is not counted.
- sentence-transformers, with the text encoder of ours and its weights
  (`pip install "paraclap[sentence-transformers]"`).

open_clip is left out: release 3.3.0 has no audio encoder, and importing it requires torchvision.

A step includes forward and backward pass and the optimiser. Ratios are relative to the first row of
each group, median and range over the rounds; a first round is not counted. Memory is the growth to
the peak of a call; the models lie in memory before.
"""

import copy
import importlib.util
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from benchmarks import evaluate, lora
from benchmarks.gpu_bench import TINY, TINY_WHISPER, durations
from benchmarks.plain import original_forward
from benchmarks.report import command_line, parse, report
from benchmarks.timing import Run, alternate, markdown_table, ratios
from paraclap.evaluation.embed import embed_texts
from paraclap.model.build import build_model
from paraclap.model.modeling_paraclap import SAMPLING_RATE, ParaCLAPModel, ParaCLAPProcessor
from paraclap.settings import ModelSettings, TowerSettings
from paraclap.training.losses import ContrastiveLoss
from paraclap.training.step import TrainingStep

CROP = 5.0  # s
CLAP_RATE = 48_000  # Hz
CLAP_BATCH = 16
LEVELS = ("high", "low", "normal")
QUALITIES = ("pitch", "intensity", "jitter", "shimmer", "duration")
TINY_HTSAT = {"patch_embeds_hidden_size": 12, "hidden_size": 96, "depths": [1, 1, 1, 1]}
TINY_HTSAT |= {"num_attention_heads": [1, 2, 2, 2]}

Model = tuple[ParaCLAPModel, ParaCLAPProcessor]
Step = Callable[[], object]


def make_texts(count: int) -> list[str]:
    """Return captions of 1 to 5 phrases, all different."""
    rng, texts = np.random.default_rng(0), dict.fromkeys(evaluate.TEXTS)
    while len(texts) < count:
        chosen = rng.permutation(QUALITIES)[: rng.integers(1, 6)]
        phrases = [f"{name} is {rng.choice(LEVELS)}" for name in chosen]
        texts[" and ".join([*phrases, f"speaker {len(texts)} sounds {rng.choice(LEVELS)}"])] = None
    return [*texts][:count]


def build_ours(texts: Iterable[str], encoders: Path | None, small: bool) -> Model:
    """Build a model and its processor."""
    audio, text = TowerSettings(), TowerSettings()
    if encoders:
        audio.name, text.name = str(encoders / "whisper-base"), str(encoders / "all-MiniLM-L6-v2")
    else:
        audio.config = lora.CONFIG["audio_config"] | (TINY_WHISPER if small else {})
        text.config = lora.CONFIG["text_config"] | (TINY["text_config"] if small else {})
    settings = ModelSettings(
        audio=audio,
        text=text,
        audio_layers=lora.CONFIG["audio_layers"],
        text_pooling="mean",
        projection_dim=lora.CONFIG["projection_dim"],
    )
    torch.manual_seed(0)
    model, processor = build_model(settings, texts)
    return model.eval(), processor


def build_clap(ours: ParaCLAPModel, small: bool) -> transformers.ClapModel:
    """Build a ClapModel with a text encoder of the size of ours."""
    text = ours.config.text_config
    sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
    text = {name: getattr(text, name) for name in (*sizes, "intermediate_size")}
    config = transformers.ClapConfig(
        text_config=text,
        audio_config=TINY_HTSAT if small else {},
        projection_dim=ours.config.projection_dim,
    )
    torch.manual_seed(0)
    return transformers.ClapModel(config).eval()


# --- Training step -------------------------------------------------------------------------------


def clap_step(model: transformers.ClapModel, frozen: bool, batch: Mapping[str, Any]) -> Step:
    """Return a step of a ClapModel; frozen encoders have no backward pass."""
    model = copy.deepcopy(model)
    if frozen:
        model.audio_model.requires_grad_(False)
        model.text_model.requires_grad_(False)
    return _with_update(model, lambda: model(**batch, return_loss=True).loss.backward())


def plain_step(model: ParaCLAPModel, frozen: bool, batch: Mapping[str, Any]) -> Step:
    """Return a step as published: frozen weights have a backward pass, but are not optimised."""
    model = copy.deepcopy(model)
    if frozen:
        model.text_branch.requires_grad_(False)
    tensors = {name: value for name, value in batch.items() if torch.is_tensor(value)}
    unchanged = (model.audio_branch,) if frozen else ()

    def backward() -> None:
        with original_forward(model):
            model(**tensors, return_loss=True).loss.backward()

    return _with_update(model, backward, unchanged)


def our_step(
    model: ParaCLAPModel, frozen: Sequence[str], batch: Mapping[str, Any], cached: bool = False
) -> Step:
    """Return a `TrainingStep`; with `cached`, audio embeddings are precomputed."""
    model = copy.deepcopy(model).freeze(frozen)
    step = TrainingStep(model, ContrastiveLoss(), "own")
    if cached:
        step.encoder.clips = step.encoder.audio(batch, [])
    return _with_update(model, partial(step, batch))


def _with_update(
    model: nn.Module, backward: Callable[[], object], unchanged: Sequence[nn.Module] = ()
) -> Step:
    """Return a step that ends with AdamW on all trained parameters but those of `unchanged`."""
    left_out = {parameter for module in unchanged for parameter in module.parameters()}
    trained = [p for p in model.parameters() if p.requires_grad and p not in left_out]
    optimizer = torch.optim.AdamW(trained, lr=1e-5)

    def step() -> None:
        model.zero_grad()
        backward()
        optimizer.step()

    return step


def training_steps(
    ours: Model, clap: transformers.ClapModel, texts: Sequence[str], size: int
) -> dict[str, dict[str, Step]]:
    """Return the steps by what is trained."""
    model, processor = ours
    rng = np.random.default_rng(0)
    captions = [texts[row % max(2, size // 2)] for row in range(size)]
    tokens = processor.tokenizer(captions, padding=True, return_tensors="pt")
    tokens = {name: tokens[name] for name in ("input_ids", "attention_mask")}
    batch = {**processor.feature_extractor(
        [0.1 * rng.standard_normal(round(CROP * SAMPLING_RATE), np.float32) for _ in captions],
        sampling_rate=SAMPLING_RATE, return_tensors="pt",
    ), **tokens}  # fmt: skip
    batch |= {"own": [*range(size)], "row": [*range(size)]}
    batch["matches"] = (torch.eye(size), torch.eye(size))
    at_48_khz = [0.1 * rng.standard_normal(round(CROP * CLAP_RATE), np.float32) for _ in captions]
    of_clap = {**clap_features(at_48_khz), **tokens}
    return {
        "all weights": {
            "ClapModel": clap_step(clap, False, of_clap),
            "plain": plain_step(model, False, batch),
            "ours": our_step(model, (), batch),
        },
        "projections": {
            "ClapModel": clap_step(clap, True, of_clap),
            "plain": plain_step(model, True, batch),
            "ours": our_step(model, ("audio", "text"), batch),
            "ours, cached layers": our_step(model, ("audio", "text"), batch, cached=True),
        },
    }


# --- Evaluation and texts ------------------------------------------------------------------------


def clap_features(clips: Sequence[np.ndarray]) -> Mapping[str, torch.Tensor]:
    """Return input features of clips at 48 kHz, in windows of 10 s."""
    extractor = transformers.ClapFeatureExtractor(truncation="rand_trunc", padding="repeatpad")
    return extractor([*clips], sampling_rate=CLAP_RATE, return_tensors="pt")


@torch.inference_mode()
def clap_cosines(
    model: transformers.ClapModel, tokens: Mapping[str, torch.Tensor], clips: Sequence[np.ndarray]
) -> torch.Tensor:
    """Compute cosines (B, K) in batches, with texts embedded once."""
    texts = model.get_text_features(**tokens).pooler_output
    rows = []
    for first in range(0, len(clips), CLAP_BATCH):
        features = clap_features(clips[first : first + CLAP_BATCH])
        rows.append(model.get_audio_features(**features).pooler_output)
    return torch.cosine_similarity(torch.cat(rows)[:, None], texts[None], dim=-1)


def evaluations(
    ours: Model, clap: transformers.ClapModel, count: int, batch_seconds: float
) -> dict[str, Step]:
    """Return zero-shot evaluations of `count` clips."""
    rng, seconds = np.random.default_rng(0), durations(count)
    clips = [0.1 * rng.standard_normal(round(s * SAMPLING_RATE), np.float32) for s in seconds]
    at_48_khz = [0.1 * rng.standard_normal(round(s * CLAP_RATE), np.float32) for s in seconds]
    tokens = ours[1].tokenizer(evaluate.TEXTS, padding=True, return_tensors="pt")
    tokens = {name: tokens[name] for name in ("input_ids", "attention_mask")}
    return {
        "ClapModel": partial(clap_cosines, clap, tokens, at_48_khz),
        "plain": partial(evaluate.plain, *ours, clips),
        "ours": partial(evaluate.ours, *ours, batch_seconds, clips),
    }


def text_encoders(ours: Model, texts: Sequence[str], folder: Path) -> dict[str, Step]:
    """Return ways to embed texts with the same weights: (K, D)."""
    model, processor = ours
    variants: dict[str, Step] = {}
    if importlib.util.find_spec("sentence_transformers"):
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

        model.text_branch.base.save_pretrained(folder)
        processor.tokenizer.save_pretrained(folder)
        size = model.config.text_config.hidden_size
        modules = [Transformer(str(folder)), Pooling(size, "mean")]
        peer = SentenceTransformer(modules=modules, device="cpu")

        @torch.inference_mode()
        def embed() -> torch.Tensor:
            pooled = peer.encode([*texts], convert_to_tensor=True, show_progress_bar=False)
            return model.project("text", pooled)

        variants["sentence-transformers"] = embed
    variants["ours"] = lambda: embed_texts(model, processor, texts)
    return variants


# --- Tables --------------------------------------------------------------------------------------


def rows_of(
    group: str, runs: Mapping[str, Sequence[Run]], count: int
) -> Iterable[tuple[object, ...]]:
    """Yield a row of each variant; the first one is the reference."""
    reference = next(iter(runs.values()))
    for name, found in runs.items():
        speed = f"{count / median(run.wall for run in found):,.2f}"
        clocks = (ratios(reference, found), ratios(reference, found, "cpu"))
        yield group, name, speed, *clocks, f"{max(run.memory for run in found):.2f}"


def sizes(model: nn.Module, audio: str, text: str) -> str:
    """Return the numbers of parameters of both encoders."""
    parts = (sum(p.numel() for p in model.get_submodule(n).parameters()) for n in (audio, text))
    return " + ".join(f"{part / 1e6:.1f}" for part in parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = command_line(__doc__, __spec__.name)
    add = parser.add_argument
    add("--encoders", type=Path, help="folder of whisper-base and all-MiniLM-L6-v2")
    add("--small", action="store_true", help="tiny encoders and few clips")
    add("--batch", type=int, default=8, help="clips of a training step (%(default)s)")
    add("--clips", type=int, default=200, help="of an evaluation (%(default)s)")
    add("--texts", type=int, default=1000, help="to encode (%(default)s)")
    add("--batch-seconds", type=float, default=60.0, help="of evaluation (%(default)s)")
    add("--rounds", type=int, default=3, help="(%(default)s)")
    options = parse(parser, arguments)
    if options.small:
        options.batch, options.clips, options.texts = 2, 3, 40
    texts = make_texts(options.texts)
    ours = build_ours(texts, options.encoders, options.small)
    clap = build_clap(ours[0], options.small)
    rows: list[tuple[object, ...]] = []

    def measure(group: str, variants: Mapping[str, Step], count: int) -> dict[str, list[Run]]:
        runs = alternate(variants, 1 + options.rounds)
        runs = {name: found[1:] for name, found in runs.items()}
        rows.extend(rows_of(group, runs, count))
        return runs

    for trained, steps in training_steps(ours, clap, texts, options.batch).items():
        measure(f"training step, {trained}", steps, options.batch)
    runs = measure(
        "evaluation", evaluations(ours, clap, options.clips, options.batch_seconds), options.clips
    )
    changes = [_change("cosine", runs["plain"], runs["ours"])]
    with tempfile.TemporaryDirectory() as folder:
        runs = measure("texts", text_encoders(ours, texts, Path(folder)), options.texts)
    if "sentence-transformers" in runs:
        changes.append(_change("text embedding", runs["sentence-transformers"], runs["ours"]))
    about = (
        f"{options.batch} clips of {CROP:g} s in a step, {options.clips} clips evaluated, "
        f"{options.texts} texts, {torch.get_num_threads()} threads, float32; million parameters of "
        f"audio and text encoder: ClapModel {sizes(clap, 'audio_model', 'text_model')}, ours "
        f"{sizes(ours[0], 'audio_branch', 'text_branch')}; {', '.join(changes)}"
    )
    head = ("task", "variant", "clips or texts/s", "ratio", "ratio of CPU time", "memory [GiB]")
    report("Peers", f"{about}\n\n{markdown_table(head, rows)}", options)


def _change(name: str, reference: Sequence[Run], runs: Sequence[Run]) -> str:
    """Largest difference of two results, in words."""
    first, second = (np.asarray(found[-1].result) for found in (reference, runs))
    return f"largest change of a {name} {np.abs(first - second).max():.1e}"


if __name__ == "__main__":
    sys.exit(main())
