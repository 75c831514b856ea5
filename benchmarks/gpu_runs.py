"""Sections of `benchmarks.gpu` that run train.py on a corpus of noise."""

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.gpu_bench import FAILED, Bench, Rows, durations
from benchmarks.gpu_steps import CROP
from paraclap.model.engines import has_bfloat16

ROOT = Path(__file__).resolve().parents[1]
EMOTIONS = ("anger", "happiness", "sadness", "neutral")
SPEAKERS = 20
STEPS = 6  # of the run that is stopped half-way
FIRST = 3  # steps that are not counted


def write_corpus(folder: Path, clips: int) -> list[str]:
    """Write noise and a table of labels; returns the arguments of train.py for it."""
    import soundfile

    table = folder / "labels.csv"
    if not table.exists():
        rows, rng = [], np.random.default_rng(0)
        noise = rng.integers(-3000, 3000, 2**22, dtype=np.int16)
        for number, seconds in enumerate(durations(clips)):
            samples = round(seconds * 16_000)
            first = int(rng.integers(len(noise) - samples))
            soundfile.write(folder / f"{number:05}.wav", noise[first : first + samples], 16_000)
            emotion = EMOTIONS[number % len(EMOTIONS)]
            rows.append((f"{number:05}.wav", emotion, f"speaker{number % SPEAKERS:02}", "train"))
        with table.open("w", newline="") as stream:
            csv.writer(stream).writerows([("file", "emotion", "speaker", "split"), *rows])
    return [f"data.root={folder}", f"data.captions={table}", "data.validation_speakers=0"]


def train(arguments: Sequence[str], launcher: Sequence[str] = ()) -> str:
    """Run train.py; returns what it printed.

    Raises:
        RuntimeError: with its last line, if it fails.
    """
    command = [*(launcher or [sys.executable]), str(ROOT / "train.py"), *arguments]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise RuntimeError(f"train.py exited with {done.returncode}: {last}")
    return done.stdout


def resume(bench: Bench) -> Rows:
    """Whether a resumed run ends with the same weights, and what precision=auto selects."""
    from safetensors.torch import load_file

    folder = bench.folder / "resume"
    folder.mkdir()
    size = 8 if bench.small else 64
    corpus = write_corpus(folder, 2 * size)
    common = [
        *("configs/small.yaml", *corpus, f"train.device={bench.device}", "train.epochs=20"),
        *("text_pretraining.steps=0", f"train.batch_size={size}", "train.loggers=[]"),
        *("optim.warmup_steps=1", "train.validate_every=1000", "train.precision=auto"),
    ]
    printed: list[str] = []

    def run(name: str, steps: int) -> dict[str, torch.Tensor]:
        arguments = [*common, f"output={folder / name}", f"train.max_steps={steps}"]
        printed.append(train(arguments))
        return load_file(folder / name / "last" / "model.safetensors")

    def compared(name: str, *steps: int) -> Sequence[object]:
        other = [run(name, until) for until in steps][-1]
        if len(steps) > 1 and "resumed" not in printed[-1]:
            raise RuntimeError("the second run did not resume")
        differ = [name for name in whole if not torch.equal(whole[name], other[name])]
        if differ:
            largest = max((whole[name] - other[name]).abs().max().item() for name in differ)
            return f"{len(differ)} of {len(whole)} tensors differ, by at most {largest:.0e}", FAILED
        return f"{len(whole)} tensors are equal", "ok"

    def automatic() -> Sequence[object]:
        chosen = re.search(r"steps, (.*)", printed[0])[1]  # device and precision
        expected = "bfloat16" if has_bfloat16(bench.device) else "float32"
        return chosen, "ok" if chosen.endswith(expected) else FAILED

    whole = run("whole", STEPS)
    yield "train.precision=auto", automatic
    yield "resumed run", partial(compared, "stopped", STEPS // 2, STEPS)
    yield "the same run again", partial(compared, "again", STEPS)


def runs(bench: Bench) -> Rows:
    """Real training runs of the default recipe from packed audio, on one and on several GPUs."""
    folder = bench.folder / "clips"
    folder.mkdir()
    size, clips = (4, 40) if bench.small else (64, 2560)
    corpus = write_corpus(folder, clips)
    config = bench.folder / "run.yaml"
    config.write_text(yaml.safe_dump(run_settings(bench, size)))
    packed = f"data.waveform_cache={bench.folder / 'packed'}"
    count = max(1, torch.cuda.device_count() if bench.device.type == "cuda" else 1)
    speeds: list[float] = []

    def measured(name: str, processes: int, workers: int, *more: str) -> Sequence[object]:
        launcher = []
        if processes > 1:
            options = ["--standalone", f"--nproc-per-node={processes}"]
            launcher = [sys.executable, "-m", "torch.distributed.run", *options]
        output = bench.folder / name
        arguments = [str(config), *corpus, f"output={output}", f"data.workers={workers}", *more]
        train([*arguments, f"train.batch_size={size * processes}"], launcher)
        speed, waiting = rates(output / "metrics.jsonl", size * processes)
        speeds.append(speed)
        return workers, f"{speed:.1f}", f"{speed / speeds[0]:.2f}", f"{waiting:.1%}"

    names = ("0", "2") if bench.small else ("2", "8")
    yield "files", partial(measured, "files", 1, int(names[-1]))
    for workers in names:
        yield "packed audio", partial(measured, f"packed-{workers}", 1, int(workers), packed)
    if count == 1:
        yield "several GPUs", lambda: ("", "not run: one GPU", "", "")
        return
    workers = int(names[-1])
    yield f"packed audio, {count} GPUs", partial(measured, "several", count, workers, packed)


def run_settings(bench: Bench, size: int) -> dict[str, Any]:
    """Return the settings of configs/paraclap.yaml with random weights."""
    settings = yaml.safe_load((ROOT / "configs/paraclap.yaml").read_text())
    config = bench.published.config
    keep = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads")
    audio, text = config.audio_config.to_diff_dict(), config.text_config.to_dict()
    settings["model"] |= {
        "audio": {"config": {**_plain_values(audio), "layerdrop": 0.0}},
        "text": {"config": {name: text[name] for name in (*keep, "intermediate_size")}},
    }
    settings["data"] = {"crop_seconds": CROP}
    settings["train"] = {
        "device": str(bench.device),
        "epochs": 2,
        "batch_size": size,
        "log_every": 1,
        "validate_every": 10_000,
        "save_every": 10_000,
        "loggers": [],
    }
    return settings


def _plain_values(config: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a configuration that a YAML file holds."""
    ignored = ("transformers_version", "dtype", "architectures")
    return {name: value for name, value in config.items() if name not in ignored}


def rates(metrics: Path, size: int) -> tuple[float, float]:
    """Return clips/s and the share of time spent waiting for data, without the first steps."""
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    rows = [row for row in rows if "clips_per_second" in row][FIRST:]
    seconds = np.array([size / row["clips_per_second"] for row in rows])
    waiting = np.array([row["waiting"] for row in rows])
    return size * len(rows) / seconds.sum(), (seconds * waiting).sum() / seconds.sum()
