"""Training runs in tests: start, stop and compare them."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from paraclap import distributed
from paraclap.training import loop
from paraclap.training.checkpoint import list_checkpoints
from paraclap.training.config import read_settings

REPOSITORY = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
PATIENCE = 300  # s; longer than any step takes on a busy machine

FROZEN = ("model.freeze=[audio,text]", "data.crop=centre")
"""Options of a run whose audio embeddings are precomputed."""


CPU = torch.device("cpu")
PLAIN = [  # nothing is drawn but clips and captions
    "model.projection_dropout=0.0",
    *(
        f"model.audio.config.{name}=0.0"
        for name in ("hidden_dropout", "attention_dropout", "activation_dropout", "mask_time_prob")
    ),
    *(
        f"model.text.config.{name}=0.0"
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob")
    ),
]


class StoppedError(Exception):
    """Ends a run in the middle, as a kill would."""


def weights(run, name="last"):
    """Weights of the model `last` or `best` in a run folder."""
    return load_file(Path(run) / name / "model.safetensors")


def same(first, second):
    """Whether two state dicts are bit-equal."""
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def rows(run):
    """Rows of metrics.jsonl."""
    return [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]


def same_runs(first, second):
    """Whether weights, losses and scores of two run folders are bit-equal."""
    kept = ("step", "loss", "UAR", "lr", "gradient_norm", "logit_scale")
    histories = [
        [{key: row[key] for key in kept if key in row} for row in rows(run)]
        for run in (first, second)
    ]
    return histories[0] == histories[1] and same(weights(first), weights(second))


def damage(checkpoint, how):
    """Damage a checkpoint."""
    path = checkpoint / "state.pt"
    content = bytearray(path.read_bytes())
    match how:
        case "truncated":
            path.write_bytes(content[: len(content) // 2])
        case "flipped":
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
        case "empty":
            path.write_bytes(b"")
        case "unhashed":
            path.with_name("state.pt.sha256").unlink()


def train_until(monkeypatch, step, arguments):
    """Train, and end the run after `step` steps as a kill would."""
    original = loop.Trainer.training_step

    def training_step(self, batch):
        if self.step == step:
            raise StoppedError
        return original(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "training_step", training_step)
        with pytest.raises(StoppedError):
            loop.train(read_settings(arguments))


def start(*arguments):
    """Start train.py in a process group of its own, with one thread."""
    return subprocess.Popen(
        [sys.executable, "train.py", *map(str, arguments)],
        cwd=REPOSITORY,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_step(process, run, step=1):
    """Wait until a run has a checkpoint of this step or a later one."""
    deadline = time.monotonic() + PATIENCE
    while not any(p.name >= f"step_{step:08d}" for p in list_checkpoints(run / "checkpoints")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def trained(arguments):
    """Train in this process and those beside it; returns the sum of each weight."""
    settings = read_settings(arguments)
    with distributed.processes(CPU, settings.train.timeout):
        run = loop.train(settings)
    return {name: value.double().sum() for name, value in run.model.state_dict().items()}
