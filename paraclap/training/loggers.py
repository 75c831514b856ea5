"""Logs of a run: metrics.jsonl always, TensorBoard and Weights & Biases by `train.loggers`.

    train.loggers=[tensorboard]     # the default: events in the run folder
    train.loggers=[wandb]           # TensorBoard events, synchronised to Weights & Biases

WANDB_MODE, WANDB_PROJECT and WANDB_API_KEY configure Weights & Biases; WANDB_MODE=offline needs no
network.
"""

import importlib.util
import json
import os
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from paraclap.files import OutputError, reading, write_text
from paraclap.settings import SettingsError

PROJECT = "paraclap"


def check_loggers(names: Sequence[str]) -> None:
    """Check that the packages of these loggers are installed, before a long run starts.

    Raises:
        SettingsError: naming the missing package.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise SettingsError(
                f'train.loggers: {name} is not installed: pip install "paraclap[tracking]"'
            )


class Log:
    """metrics.jsonl and the loggers; after a resume, rows beyond the checkpoint are dropped.

    Attributes:
        path: of metrics.jsonl.
        writer: TensorBoard writer, or None without loggers.
        run: run of Weights & Biases, or None.
    """

    def __init__(
        self,
        output: Path,
        step: int,
        loggers: Sequence[str] = ("tensorboard",),
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = output / "metrics.jsonl"
        self._drop_rows_after(step)
        self.run = _start_wandb(output, step, settings or {}) if "wandb" in loggers else None
        self.writer = None
        self._fault: BaseException | None = None
        self._hook = threading.excepthook
        if loggers:
            from torch.utils.tensorboard import SummaryWriter  # slow, and not always used

            threading.excepthook = self._note_fault
            with self._writing_events():
                self.writer = SummaryWriter(str(output), purge_step=step + 1)

    def _note_fault(self, fault: threading.ExceptHookArgs) -> None:
        """Keep a system error of the thread that writes events, which would print a traceback."""
        if isinstance(fault.exc_value, OSError):
            self._fault = fault.exc_value
        else:
            self._hook(fault)

    @contextmanager
    def _writing_events(self) -> Iterator[None]:
        """Raise system errors of writing TensorBoard events, now or before, as `OutputError`."""
        try:
            yield
            if self._fault is not None:
                raise self._fault
        except OSError as error:
            reason = error.strerror or error
            raise OutputError(
                f"events in {self.path.parent} cannot be written: {reason}"
            ) from error

    def _drop_rows_after(self, step: int) -> None:
        """Drop rows of later steps, and with a warning those that cannot be read."""
        if not self.path.exists():
            return
        with reading(self.path, OutputError):
            lines = self.path.read_bytes().decode(errors="replace").splitlines()
        steps = [_step_of(line) for line in lines]
        if None in steps[:-1]:  # the last line of a killed run may be cut off
            warnings.warn(f"{self.path}: {steps.count(None)} rows cannot be read", stacklevel=3)
        rows = zip(lines, steps, strict=True)
        kept = [line for line, at in rows if at is not None and at <= step]
        if kept != lines:
            write_text(self.path, "".join(line + "\n" for line in kept))

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self.close(finished=kind is None)

    def write(self, step: int, values: Mapping[str, float | None], prefix: str) -> None:
        """Add one row; loggers show its values under `prefix`.

        Raises:
            OutputError: if it cannot be written, as on a full disk.
        """
        try:
            with self.path.open("a") as stream:
                stream.write(json.dumps({"step": step, **values}) + "\n")
        except OSError as error:
            raise OutputError(f"{self.path} cannot be written: {error.strerror}") from error
        if self.writer is not None:
            with self._writing_events():
                for name, value in values.items():
                    if value is not None:  # TensorBoard has no tags with "@"
                        tag = name.removeprefix(f"{prefix}_").replace("@", "_at_")
                        self.writer.add_scalar(f"{prefix}/{tag}", value, step)

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Add an image (H, W, 3) uint8."""
        if self.writer is not None:
            with self._writing_events():
                self.writer.add_image(name, pixels, step, dataformats="HWC")

    def text(self, step: int, name: str, text: str) -> None:
        """Add a text in Markdown."""
        if self.writer is not None:
            with self._writing_events():
                self.writer.add_text(name, text, step)

    def audio(self, step: int, name: str, waveform: np.ndarray, rate: int, caption: str) -> None:
        """Add a recording (T,) with its caption; `rate` is its sampling rate [Hz]."""
        if self.writer is not None:
            loudest = max(np.abs(waveform).max(initial=0), 1)  # TensorBoard clips
            with self._writing_events():
                self.writer.add_audio(name, waveform[None] / loudest, step, rate)
                self.writer.add_text(name, caption, step)

    def settings(self, settings: Mapping[str, Any], score: Mapping[str, float]) -> None:
        """Add settings and final scores of a run, to compare runs by (TensorBoard: HParams)."""
        if self.writer is not None:
            from torch.utils.tensorboard.summary import hparams

            numbers = {key: value for key, value in settings.items() if _is_number(value)}
            texts = {key: str(settings[key]) for key in settings.keys() - numbers.keys()}
            with self._writing_events():
                for summary in hparams(texts | numbers, dict(score)):
                    self.writer.file_writer.add_summary(summary)
                for name, value in score.items():
                    self.writer.add_scalar(name, value)

    def close(self, finished: bool = True) -> None:
        """Write everything; an unfinished run of Weights & Biases can be resumed."""
        try:
            if self.writer is not None:
                with self._writing_events():
                    self.writer.close()
        except OutputError:
            if finished:
                raise
        finally:
            threading.excepthook = self._hook
            if self.run is not None:
                self.run.finish(exit_code=0 if finished else 1)


def _start_wandb(output: Path, step: int, settings: Mapping[str, Any]) -> Any:
    """Start or resume a run of Weights & Biases that mirrors the TensorBoard events.

    Raises:
        SettingsError: if Weights & Biases cannot be reached or refuses the run.
    """
    import wandb  # optional

    if step == 0:  # not the unfinished run of an earlier start in this folder
        (output / "wandb" / "wandb-resume.json").unlink(missing_ok=True)
    try:
        return wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=output.name,
            dir=str(output),
            resume="auto",
            config=dict(settings),
            sync_tensorboard=True,
            settings=wandb.Settings(console="off", disable_git=True, silent=True),
        )
    except wandb.errors.Error as error:
        raise SettingsError(f"train.loggers: wandb cannot start: {error}") from error


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _step_of(line: str) -> float | None:
    """Step of a row; None = the row is damaged."""
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        return None
    step = row.get("step") if isinstance(row, dict) else None
    return step if isinstance(step, int) else None
