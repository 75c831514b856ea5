"""What is seen of a run: metrics.jsonl always, and beside it the loggers of `train.loggers`.

    train.loggers=[tensorboard]             # the default: events in the run folder
    train.loggers=[tensorboard,wandb]       # WANDB_MODE=offline needs no network
    train.loggers=[mlflow]                  # MLFLOW_TRACKING_URI, or mlflow.db beside the run

wandb and mlflow are installed with requirements-tracking.txt and imported only if named. A logger
that fails is told once and left out, and the run goes on: metrics.jsonl has every figure.
"""

import json
import math
import os
import re
import resource
import secrets
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Protocol

import numpy as np
import torch

from paraclap.files import write_text

LOGGER_RUNS = "loggers.json"  # what a resumed run is called by each logger
PROJECT = "paraclap"
SECRET_NAMES = re.compile(r"TOKEN|KEY|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
SHORTEST_SECRET = 6  # characters; shorter values are no secrets and would blank out words
LONGEST_PARAMETER = 500  # characters; MLflow refuses some that are longer
GIB = 2**30


class Logger(Protocol):
    """What is told to each logger."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Show values by name."""

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Show a picture (H, W, 3) uint8."""

    def text(self, step: int, name: str, text: str) -> None:
        """Show a text in Markdown."""

    def close(self, finished: bool) -> None:
        """Write what is held; `finished` tells whether the run came to its end."""


class TensorBoard:
    """Events in the run folder; on resuming, what was after the checkpoint is hidden."""

    package = "tensorboard"

    def __init__(self, output: Path, step: int, settings: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(output), purge_step=step + 1)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add one point to the curve of each name."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Add a picture (H, W, 3)."""
        self._writer.add_image(name, pixels, step, dataformats="HWC")

    def text(self, step: int, name: str, text: str) -> None:
        """Add a text."""
        self._writer.add_text(name, text, step)

    def close(self, finished: bool) -> None:
        """Write what is held."""
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases; WANDB_MODE, WANDB_PROJECT and WANDB_API_KEY are its own."""

    package = "wandb"

    def __init__(self, output: Path, step: int, settings: Mapping[str, Any]) -> None:
        self._wandb = package("wandb")
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=output.name,
            dir=str(output),
            id=run_name(output, "wandb", step, lambda: secrets.token_hex(4)),
            resume="allow",
            config=dict(settings),
            settings=self._wandb.Settings(console="off", disable_git=True, silent=True),
        )
        # a resumed run may repeat steps, which wandb's own counter would refuse
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add one row."""
        self._run.log({"step": step, **values})

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Add a picture (H, W, 3)."""
        self._run.log({"step": step, name: self._wandb.Image(pixels)})

    def text(self, step: int, name: str, text: str) -> None:
        """Put a text into the summary of the run."""
        self._run.summary[name] = text

    def close(self, finished: bool) -> None:
        """Hand over what is held."""
        self._run.finish(exit_code=0 if finished else 1)


class MLflow:
    """A run of MLflow in MLFLOW_TRACKING_URI, or in `mlflow.db` beside the run folder."""

    package = "mlflow"

    def __init__(self, output: Path, step: int, settings: Mapping[str, Any]) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when it is imported
        mlflow = package("mlflow")
        self._entities = package("mlflow.entities")
        beside = output.resolve().parent
        store = os.environ.get("MLFLOW_TRACKING_URI")
        self._client = mlflow.MlflowClient(tracking_uri=store or f"sqlite:///{beside}/mlflow.db")
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        place = None if store else (beside / "mlflow_artifacts").as_uri()
        number = (
            experiment.experiment_id
            if experiment
            else self._client.create_experiment(name, artifact_location=place)
        )
        started: list[str] = []

        def start() -> str:
            started.append(self._client.create_run(number, run_name=output.name).info.run_id)
            return started[0]

        self._run = run_name(output, "mlflow", step, start)
        if started:
            for name, value in settings.items():
                self._client.log_param(self._run, name, str(value)[:LONGEST_PARAMETER])
        else:
            self._client.update_run(self._run, status="RUNNING")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add one point to the curve of each name."""
        now = int(time.time() * 1000)  # ms
        metrics = [
            self._entities.Metric(re.sub(r"[^A-Za-z0-9_\-./ :]", "_", name), value, now, step)
            for name, value in values.items()
        ]
        self._client.log_batch(self._run, metrics=metrics)

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Write a picture (H, W, 3) as an artifact."""
        self._client.log_image(self._run, pixels, f"{name}/{step:08d}.png")

    def text(self, step: int, name: str, text: str) -> None:
        """Write a text as an artifact."""
        self._client.log_text(self._run, text, f"{name}.md")

    def close(self, finished: bool) -> None:
        """Tell that the run is over."""
        self._client.set_terminated(self._run, "FINISHED" if finished else "KILLED")


LOGGERS: dict[str, type[TensorBoard | WeightsAndBiases | MLflow]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}


def package(name: str) -> ModuleType:
    """Import what a logger needs.

    Raises:
        ImportError: naming the file of requirements, if it is missing.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(
            f"train.loggers: {name} is missing: pip install -r requirements-tracking.txt"
        ) from error


def check_loggers(names: Sequence[str]) -> None:
    """Import what these loggers need, before a long run starts without them.

    Raises:
        ImportError: naming the file of requirements.
    """
    for name in names:
        package(LOGGERS[name].package)


def run_name(output: Path, logger: str, step: int, start: Callable[[], str]) -> str:
    """Name by which a logger knows the run of this folder; one from step 0 gets a new one."""
    path = output / LOGGER_RUNS
    known = json.loads(path.read_text()) if path.is_file() else {}
    if step == 0 or logger not in known:
        known[logger] = start()
        write_text(path, json.dumps(known) + "\n")
    return known[logger]


class Log:
    """metrics.jsonl and loggers; on resuming, rows after the checkpoint are dropped.

    Attributes:
        path: of metrics.jsonl.
        loggers: name -> logger, those that still work.
    """

    def __init__(
        self,
        output: Path,
        step: int,
        loggers: Sequence[str] = ("tensorboard",),
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = output / "metrics.jsonl"
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        kept = [line for line in lines if _step_of(line) <= step]
        write_text(self.path, "".join(line + "\n" for line in kept))
        self.loggers: dict[str, Logger] = {}
        for name in loggers:
            try:
                self.loggers[name] = LOGGERS[name](output, step, settings or {})
            except Exception as error:  # whatever fails in a logger, the run is worth more
                _warn(name, error)

    def __enter__(self) -> "Log":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(finished=error is None)

    def write(self, step: int, values: Mapping[str, float | None], prefix: str) -> None:
        """Add one row; loggers show its values under `prefix`."""
        with self.path.open("a") as stream:
            stream.write(json.dumps({"step": step, **values}) + "\n")
        shown = {f"{prefix}/{name}": v for name, v in values.items() if v is not None}
        self._tell(lambda logger: logger.scalars(step, shown))

    def image(self, step: int, name: str, draw: Callable[[], np.ndarray]) -> None:
        """Show a picture (H, W, 3) uint8; it is drawn only if a logger will show it."""
        if not self.loggers:
            return
        try:
            pixels = draw()
        except Exception as error:  # a picture less is no reason to stop either
            _warn(f"drawing {name}", error)
            return
        self._tell(lambda logger: logger.image(step, name, pixels))

    def text(self, step: int, name: str, text: str) -> None:
        """Show a text in Markdown."""
        self._tell(lambda logger: logger.text(step, name, text))

    def close(self, finished: bool = True) -> None:
        """Let loggers write what they hold."""
        self._tell(lambda logger: logger.close(finished))
        self.loggers.clear()

    def _tell(self, tell: Callable[[Logger], None]) -> None:
        """Tell every logger; one that fails is left out from here on."""
        for name, logger in list(self.loggers.items()):
            try:
                tell(logger)
            except Exception as error:  # whatever fails in a logger, the run is worth more
                del self.loggers[name]
                _warn(name, error)


def _warn(name: str, error: Exception) -> None:
    reason = without_secrets(f"{type(error).__name__}: {error}", os.environ)
    warnings.warn(
        f"train.loggers: {name} failed and is left out ({reason}); metrics.jsonl has every figure",
        stacklevel=3,
    )


def without_secrets(text: str, environment: Mapping[str, str]) -> str:
    """Return a text without the values of variables whose name says that they are secret."""
    for name, value in environment.items():
        if SECRET_NAMES.search(name) and len(value) >= SHORTEST_SECRET:
            text = text.replace(value, f"<{name}>")
    return text


def memory_in_use(device: torch.device) -> dict[str, float]:
    """Memory [GiB]: of this process, and on a GPU the most that tensors have taken so far."""
    memory = {"memory_gib": _resident() / GIB}
    if device.type == "cuda":
        memory["gpu_memory_gib"] = torch.cuda.max_memory_allocated(device) / GIB
    return memory


def peak_memory() -> float:
    """Most memory that this process has had [GiB]."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / GIB  # bytes or KiB


def _resident() -> float:
    """Memory of this process [bytes]; where the system does not tell, the most it has had."""
    statm = Path("/proc/self/statm")
    if not statm.is_file():
        return peak_memory() * GIB
    return int(statm.read_text().split()[1]) * resource.getpagesize()


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except json.JSONDecodeError:  # the last line of a killed run may be cut off
        return math.inf
