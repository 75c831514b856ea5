"""Time, memory and disk of the commands of docs/reproduce.md, on synthetic speech.

    python -m benchmarks.reproduce
    python -m benchmarks.reproduce --recipes paper paraclap whisper --clips 400 --workers 8
    python -m benchmarks.reproduce --device cuda --clips 4000 --workers 16

Writes a corpus in the layout of MSP-Podcast, synthetic voices of 2.75 to 11 s, and pretrained
encoders of the published sizes with random weights (Whisper base and MiniLM for `whisper`), then
runs the commands in processes of their own. Scores mean nothing. One epoch is trained, with one
validation. "start" is the time that does not grow with the number of clips: that of the same
command on a few clips, where this can be measured.
"""

import csv
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from transformers import (
    BertConfig,
    BertModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
    WhisperConfig,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from benchmarks.encoders import MINILM, WHISPER_BASE
from benchmarks.memory import process_memory
from benchmarks.report import command_line, parse, report
from benchmarks.timing import GIB, markdown_table
from paraclap.audio import SAMPLING_RATE
from paraclap.corpora.synthetic_speakers import draw_prosody, make_speakers
from paraclap.corpora.synthetic_voice import render
from paraclap.model.modeling_paraclap import PUBLISHED_CONFIG
from paraclap.model.towers import train_tokenizer

REPOSITORY = Path(__file__).resolve().parents[1]
SHORTEST, LONGEST, MEAN = 2.75, 11.0, 5.8  # s, of an utterance of MSP-Podcast
PARTS = {"Train": 0.8, "Development": 0.1, "Test1": 0.1}
EMOTIONS = {"A": "anger", "H": "happiness", "S": "sadness", "N": "neutral"}
SPEAKERS = 40
RECIPES = {
    "paper": ("--templates", "published", "--labelled-only"),
    "paraclap": (),
    "whisper": (),
}
"""Configuration -> arguments of template_creation.py."""
VOCABULARY = 30_522  # of BERT
FEW = 40  # clips of the small corpus


@dataclass(frozen=True)
class Stage:
    """Cost of a command: wall-clock and CPU time [s], peak memory [GiB]."""

    wall: float
    cpu: float
    memory: float


def durations(count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw lengths of utterances [s]: a beta distribution with the limits and the mean."""
    share = (MEAN - SHORTEST) / (LONGEST - SHORTEST)
    return SHORTEST + (LONGEST - SHORTEST) * rng.beta(2 * share, 2 * (1 - share), count)


def write_corpus(root: Path, clips: int) -> float:
    """Write a corpus in the layout of MSP-Podcast; returns its length [s]."""
    (root / "Audios").mkdir(parents=True)
    (root / "Labels").mkdir()
    speakers, seconds = make_speakers(SPEAKERS), durations(clips, np.random.default_rng(0))
    limits = np.cumsum([*PARTS.values()]) * SPEAKERS
    rows = []
    for number, length in enumerate(seconds):
        rng = np.random.default_rng([clips, number])  # no clip in common: embeddings are cached
        speaker, code = (
            number % SPEAKERS,
            [*EMOTIONS][(number + number // SPEAKERS) % len(EMOTIONS)],
        )
        pieces: list[np.ndarray] = []
        while sum(map(len, pieces)) < length * SAMPLING_RATE:
            prosody = draw_prosody(speakers[speaker], EMOTIONS[code], rng)
            pieces.append(render(speakers[speaker], prosody, rng))
        name = f"MSP-PODCAST_{number:06}.wav"
        waveform = np.concatenate(pieces)[: round(length * SAMPLING_RATE)]
        soundfile.write(root / "Audios" / name, waveform, SAMPLING_RATE)
        part = [*PARTS][int(np.searchsorted(limits, speaker, side="right"))]
        gender = speakers[speaker].gender.capitalize()
        rows.append((name, code, *rng.uniform(1, 7, 3).round(3), speaker, gender, part))
    columns = "FileName EmoClass EmoAct EmoVal EmoDom SpkrID Gender Split_Set".split()
    with open(root / "Labels" / "labels_consensus.csv", "w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return float(seconds.sum())


def write_encoders(folder: Path, recipes: Sequence[str]) -> None:
    """Save pretrained encoders with random weights under the names that the recipes use."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer([*EMOTIONS.values()], 200)

    def save_text(name: str, config: dict) -> None:
        BertModel(BertConfig(**config)).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)

    if {"paper", "paraclap"} & {*recipes}:
        name = "wav2vec2-large-robust-12-ft-emotion-msp-dim"
        audio = Wav2Vec2Config(**without_type(PUBLISHED_CONFIG["audio_config"]))
        Wav2Vec2Model(audio).save_pretrained(folder / name)
        save_text("bert-base-uncased", without_type(PUBLISHED_CONFIG["text_config"]))
    if "whisper" in recipes:
        WhisperEncoder(WhisperConfig(**without_type(WHISPER_BASE))).save_pretrained(
            folder / "whisper-base"
        )
        save_text("all-MiniLM-L6-v2", without_type(MINILM) | {"vocab_size": VOCABULARY})


def without_type(config: Mapping) -> dict:
    """Return a configuration without its model type."""
    return {key: value for key, value in config.items() if key != "model_type"}


def run(folder: Path, *command: object) -> Stage:
    """Run a script of this repository in its own process.

    Raises:
        RuntimeError: if it fails.
    """
    environment = {
        **os.environ,
        "PARACLAP_ENCODERS": str(folder / "encoders"),
        "PARACLAP_CACHE": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
    }
    script, *arguments = map(str, command)
    words = [sys.executable, str(REPOSITORY / script), *arguments]
    start = time.perf_counter()
    with (folder / "log.txt").open("wb") as log:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        process = subprocess.Popen(
            words, cwd=REPOSITORY, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, process_memory("VmHWM", process.pid))
            time.sleep(0.05)
    if process.returncode:
        raise RuntimeError(f"{' '.join(words)} failed: {(folder / 'log.txt').read_text()[-2000:]}")
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Stage(wall, cpu, peak / GIB)


def stages(
    folder: Path, corpus: Path, recipe: str, workers: int, batch: int, device: str
) -> Iterator[tuple[str, Stage]]:
    """Run the commands of a recipe; yields the names of the stages and their cost."""
    results = folder / f"{corpus.name}-{recipe}"
    results.mkdir()
    features = folder / f"{corpus.name}.parquet"
    captions, model = results / "captions.parquet", results / "run"
    source = f"msp-podcast={corpus}"
    if not features.exists():
        yield (
            "features.py",
            run(folder, "features.py", source, "-o", features, "--workers", workers),
        )
    script = "preprocessing/template_creation.py"
    yield script, run(folder, script, features, "-o", captions, *RECIPES[recipe])
    settings = [f"train.device={device}", f"data.workers={workers}", "train.epochs=1"]
    settings += [f"data.root={corpus}", f"data.captions={captions}", f"output={model}"]
    settings += [f"train.batch_size={batch}", "train.save_every=9999999"]
    settings += ["train.validate_every=9999999"]
    yield f"train.py {recipe}.yaml", run(folder, "train.py", f"configs/{recipe}.yaml", *settings)
    options = ["--split", "test", "-o", results / "scores", "--device", device]
    yield "evaluate.py", run(folder, "evaluate.py", model, source, *options)


def size(folder: Path) -> float:
    """Return the size of all files of a folder [GiB]."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / GIB


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = command_line(__doc__, __spec__.name)
    add = parser.add_argument
    add("--recipes", nargs="+", choices=RECIPES, default=[*RECIPES], help="(all)")
    add("--clips", type=int, default=200, help="(%(default)s)")
    add("--workers", type=int, default=2, help="(%(default)s)")
    add("--batch", type=int, default=16, help="clips in a training step (%(default)s)")
    add("--device", default="cpu", help="(%(default)s)")
    options = parse(parser, arguments)
    if options.clips <= FEW:  # the costs of a clip are differences to those of a few
        parser.error(f"--clips {options.clips}, expected more than {FEW}")
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        seconds = write_corpus(folder / "corpus", options.clips)
        write_corpus(folder / "few", FEW)
        write_encoders(folder / "encoders", options.recipes)
        for recipe in options.recipes:
            how = (recipe, options.workers, options.batch, options.device)
            few = dict(stages(folder, folder / "few", *how))
            for name, cost in stages(folder, folder / "corpus", *how):
                growth = (cost.wall - few[name].wall) / (options.clips - FEW)
                start = max(0.0, cost.wall - options.clips * growth)
                numbers = (cost.wall, cost.cpu, start, max(0.0, 1000 * growth))
                rows.append((recipe, name, *(f"{s:.1f}" for s in numbers), f"{cost.memory:.2f}"))
            run_size = size(folder / f"corpus-{recipe}" / "run")
            print(f"{recipe}: run folder {run_size:.2f} GiB", file=sys.stderr)
            rows.append((recipe, f"run folder: {run_size:.2f} GiB", *[""] * 5))
        audio = size(folder / "corpus" / "Audios")
    about = f"{options.clips} clips, {seconds / 3600:.2f} h, {audio:.3f} GiB"
    about += f"; batches of {options.batch}, {options.workers} workers"
    head = ("recipe", "command", "wall [s]", "CPU [s]", "start [s]", "s per 1,000 clips")
    table = markdown_table((*head, "memory [GiB]"), rows)
    title = f"Reproduction, {', '.join(options.recipes)}, {options.device}"
    report(title, f"{about}\n\n{table}", options)


if __name__ == "__main__":
    main()
