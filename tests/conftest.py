"""Fixtures: tiny real towers and a small synthetic corpus with features and captions.

With PARACLAP_TORTURE=FILE.md in the environment, the outcome of every fault and bad input is
written there as a table. A test takes part by a marker with the row of the list and the fault; the
fixture `happened` notes the outcome.

    @pytest.mark.torture(37, "scale of the logits pushed to 200")
    def test_...(happened):
        ...
        happened(f"clamped to {scale:.0f}")
"""

import copy
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[1])
sys.path[:] = [*(folder for folder in sys.path if folder not in ("", ROOT)), ROOT]

import numpy as np
import pytest
import soundfile
import torch
import yaml

from paraclap.cli import features, template_creation
from paraclap.corpora import synthetic
from paraclap.model.build import build_model
from paraclap.model.modeling_paraclap import ParaCLAPConfig
from paraclap.settings import ModelSettings, TowerSettings
from small_corpora import make_corpus, write
from tiny_models import TEXTS, TINY_AUDIO, TINY_TEXT, Reference

TORTURE = pytest.StashKey[list[tuple[int, str, str]]]()


def pytest_configure(config):
    config.stash[TORTURE] = []


@pytest.fixture
def happened(request):
    """Note the outcome of the fault under test, for the table."""
    notes = request.node.user_properties

    def note(text, row=None, done=None):
        notes.append(("torture", (row, done, text)))

    return note


def torture_rows(item, report):
    """Rows of the table that a finished test fills: (row, what was done, what happened)."""
    notes = [value for name, value in item.user_properties if name == "torture"]
    rows = [note for note in notes if note[0] is not None]
    noted = "; ".join(text for row, _, text in notes if row is None)
    parameters = f" [{item.callspec.id}]" if hasattr(item, "callspec") else ""
    for marker in item.iter_markers("torture"):
        row, done = marker.args
        outcome = noted or item.originalname.removeprefix("test_").replace("_", " ")
        if report.outcome != "passed":
            outcome = f"**{report.outcome}**: {report.longreprtext[-200:]}"
        rows.append((row, done + parameters, outcome))
    return rows


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.when == "call" or report.outcome != "passed":
        item.config.stash[TORTURE].extend(torture_rows(item, report))
    return report


def torture_table(rows):
    """Rows in order, as a table in Markdown."""
    lines = ["| row | fault or bad input | what happened |", "|---|---|---|"]
    for row, done, outcome in sorted(rows, key=lambda entry: entry[0]):
        cells = (text.replace("|", r"\|").replace("\n", " ") for text in (done, outcome))
        lines.append(f"| {row or ''} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def pytest_sessionfinish(session):
    rows = session.config.stash[TORTURE]
    if (target := os.environ.get("PARACLAP_TORTURE")) and rows:
        Path(target).write_text(torture_table(rows), encoding="utf-8")


@pytest.fixture(scope="session", autouse=True)
def cache_of_embeddings(tmp_path_factory):
    """Keep the user's cache out of the tests, and the tests out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARACLAP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def published(tmp_path):
    """A tiny checkpoint in the published form: its reference, its configuration, its path."""
    text = {**TINY_TEXT, "vocab_size": 150}
    reference = Reference(TINY_AUDIO, text, dimensions=24)
    config = ParaCLAPConfig(audio_config=TINY_AUDIO, text_config=text, projection_dim=24)
    (tmp_path / "published").mkdir()
    path = tmp_path / "published" / "best.pth.tar"
    torch.save(reference.state_dict(), path)
    return reference, config, path


FAULTY_DECODER = """
import os, signal, time
import soundfile

FAULTS = {
    8_001: lambda: os.kill(os.getpid(), signal.SIGSEGV),
    8_002: os.abort,
    8_003: lambda: os._exit(3),
    8_004: lambda: time.sleep(1_000),
    8_005: lambda: bytearray(1 << 50),
}
read = soundfile.SoundFile.read

def faulty(self, *arguments, **keywords):
    time.sleep(float(os.environ.get("SECONDS_A_CLIP", 0)))
    FAULTS.get(self.frames, bool)()
    return read(self, *arguments, **keywords)

soundfile.SoundFile.read = faulty
"""


@pytest.fixture(scope="session")
def faulty_decoder(tmp_path_factory):
    """A PYTHONPATH with which decoders fail as C libraries do, by the number of frames of a file.

    With SECONDS_A_CLIP in the environment they are slow, so that a run can be met in the middle.
    """
    folder = tmp_path_factory.mktemp("decoder")
    (folder / "sitecustomize.py").write_text(FAULTY_DECODER)
    return str(folder)


@pytest.fixture
def toy(tmp_path, voice):
    """A folder of forty short clips; with `--chunk 4` a dozen parts."""
    root = tmp_path / "toy"
    root.mkdir()
    for number in range(40):
        soundfile.write(root / f"clip{number:02}.wav", voice(0.1 + 0.01 * number), 16_000)
    return root


@pytest.fixture
def settings():
    """Random tiny towers; free to change."""
    return ModelSettings(
        audio=TowerSettings(config=copy.deepcopy(TINY_AUDIO)),
        text=TowerSettings(config=copy.deepcopy(TINY_TEXT)),
        projection_dim=24,
        input_gain=10.0,
    )


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """Folder of a tiny model from random weights; read only."""
    towers = {"audio": TowerSettings(config=TINY_AUDIO), "text": TowerSettings(config=TINY_TEXT)}
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    for part in build_model(ModelSettings(**towers, projection_dim=24, input_gain=10.0), TEXTS):
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def tiny(settings):
    """A fresh tiny model in evaluation mode, and its processor."""
    torch.manual_seed(0)
    model, processor = build_model(settings, TEXTS)
    return model.eval(), processor


@pytest.fixture
def waveforms():
    """Noise bursts of different length and level, (T,) float32 at 16 kHz."""
    rng = np.random.default_rng(7)
    return [
        (level * rng.standard_normal(samples)).astype(np.float32)
        for level, samples in [(0.1, 16_000), (0.02, 40_001), (0.3, 9_999), (0.05, 25_000)]
    ]


@pytest.fixture(scope="session")
def voice():
    """A function that makes a buzz (T,) like a vowel: harmonics that fall by 12 dB an octave."""

    def make(seconds=1.0, rate=16_000, f0=120.0, seed=0):
        time = np.arange(round(seconds * rate)) / rate
        harmonics = np.arange(1, int(7_000 / f0))
        phases = np.random.default_rng(seed).uniform(0, 2 * np.pi, len(harmonics))
        waves = np.sin(2 * np.pi * f0 * np.outer(harmonics, time) + phases[:, None])
        return 0.2 * (waves / harmonics[:, None] ** 2).sum(axis=0)

    return make


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Synthetic audformat database: 6 speakers, 6 emotions, 72 clips; read only."""
    root = tmp_path_factory.mktemp("corpus") / "synthetic"
    synthetic.write_corpus(root, speakers=6, clips_per_emotion=2, seed=1)
    return root


@pytest.fixture(scope="session")
def captions(corpus, tmp_path_factory):
    """Captions table of `corpus`; read only."""
    folder = tmp_path_factory.mktemp("captions")
    measured = [str(corpus), "-o", str(folder / "features.parquet"), "--workers", "2"]
    assert features.main([*measured, "--max-reject", "0"]) == 0
    arguments = [str(folder / "features.parquet"), "-o", str(folder / "captions.parquet")]
    assert template_creation.main(arguments) == 0
    return folder / "captions.parquet"


@pytest.fixture(name="features")
def small_features(tmp_path):
    """Features of a small corpus that was made up; free to change."""
    return write(make_corpus(), tmp_path / "features.parquet")


@pytest.fixture
def config(captions, corpus, tmp_path):
    """Arguments of a short run: 24 clips to train on, 8 steps."""
    audio = {**TINY_AUDIO, "hidden_dropout": 0.2, "mask_time_prob": 0.2}
    settings = {
        "output": str(tmp_path / "run"),
        "model": {
            "audio": {"config": audio},
            "text": {"config": TINY_TEXT},
            "projection_dim": 24,
            "input_gain": 10.0,
        },
        "data": {"root": str(corpus), "captions": str(captions), "crop_seconds": 1.0},
        "optim": {"lr": 0.01, "audio_lr": 0.001, "text_lr": 0.001, "warmup_steps": 2},
        "train": {
            "epochs": 2,
            "batch_size": 5,
            "validate_every": 4,
            "save_every": 3,
            "log_every": 1,
            "loggers": [],
            "precision": "fp32",
            "device": "cpu",
        },
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    return str(path)


class Together:
    """Outcome of processes that ran one function together.

    Attributes:
        results: by process: what the function returned, or its error as text.
        codes: exit codes, negative for a signal.
        errors: what each wrote to the standard error.
        seconds: until the last had ended.
    """

    def __init__(self, codes, results, errors, seconds):
        self.codes, self.results, self.errors, self.seconds = codes, results, errors, seconds


def _free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def _run_one(number, world, port, folder, function, arguments):
    """In a forked process: run the function under the environment that torchrun would give."""
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    stream = (folder / f"{number}.err").open("w", buffering=1)
    os.dup2(stream.fileno(), 2)
    sys.stderr = stream
    try:
        result, code = function(*arguments), 0
    except BaseException as error:
        traceback.print_exc(file=stream)
        result, code = f"{type(error).__name__}: {error}", getattr(error, "code", 1)
    torch.save(result, folder / f"{number}.tmp")
    (folder / f"{number}.tmp").rename(folder / f"{number}.pt")
    os._exit(code)


@pytest.fixture
def together(tmp_path_factory, monkeypatch):
    """A function that runs another in several processes that know each other; forked, so quick.

    What the test patched before is patched in them. Those that run longer than `limit` [s] fail
    the test.
    """
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(world, function, *arguments, limit=300):
        folder, port, start = tmp_path_factory.mktemp("together"), _free_port(), time.monotonic()
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # a pool of threads does not survive a fork
        children = []
        for number in range(world):
            children.append(os.fork())
            if children[-1] == 0:
                _run_one(number, world, port, folder, function, arguments)
        torch.set_num_threads(threads)
        codes = {}
        try:
            while len(codes) < world:
                for number in set(range(world)) - set(codes):
                    ended, status = os.waitpid(children[number], os.WNOHANG)
                    if ended:
                        codes[number] = os.waitstatus_to_exitcode(status)
                assert time.monotonic() < start + limit, f"only {codes} ended in {limit} s"
                time.sleep(0.01)
        finally:
            for number in set(range(world)) - set(codes):
                os.kill(children[number], signal.SIGKILL)
                os.waitpid(children[number], 0)
        stored = [folder / f"{number}.pt" for number in range(world)]
        results = [
            torch.load(path, weights_only=True) if path.exists() else None for path in stored
        ]
        errors = [(folder / f"{number}.err").read_text() for number in range(world)]
        ordered = [codes[number] for number in range(world)]
        return Together(ordered, results, errors, time.monotonic() - start)

    return run
