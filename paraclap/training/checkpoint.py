"""Checkpoints of a run, complete or absent and verified by hash, and its models.

A checkpoint is a folder `checkpoints/step_00000100` with `state.pt` and its SHA-256. It is written
under a temporary name and renamed, so a kill or a full disk leaves earlier checkpoints intact.
"""

import dataclasses
import pickle
import shutil
import time
import warnings
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError

from paraclap.data.trained_on import TrainedOn
from paraclap.distributed import broadcast, meet, rank
from paraclap.errors import ParaCLAPError
from paraclap.files import (
    ForeignFolderError,
    atomic_folder,
    file_sha256,
    read_yaml,
    reading,
    recover_folder,
)
from paraclap.model.hashes import write_hashes
from paraclap.model.lora import has_adapters, merged_state, save_adapters
from paraclap.model.modeling_paraclap import ParaCLAPModel, ParaCLAPProcessor
from paraclap.settings import Settings, SettingsError
from paraclap.training.config import changed_keys

STATE = "state.pt"
HASH = "state.pt.sha256"
STATE_KEYS = frozenset(
    ("step", "criterion", "settings", "fingerprints", "versions")
    + ("optimizer", "vocabulary", "constant")
)
CONFIG = "config.yaml"
MODELS = ("best", "last")
SUMMARY = "summary.md"
PICTURES = ("dev_confusion*.png", "training.png")
LOGS = ("metrics.jsonl", "nonfinite.json", "events.out.tfevents.*", SUMMARY, *PICTURES)
ONLY_AT_THE_START = (
    *("model.start", "model.audio.name", "model.text.name", "model.vocabulary_size"),
    "text_pretraining.",
)
"""Settings that do not affect a run after its first step."""
VERSIONS = {"torch": str(torch.__version__), "transformers": transformers.__version__}


class CheckpointError(ParaCLAPError, RuntimeError):
    """A checkpoint or model cannot be written, or no checkpoint can be read."""


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int) -> None:
    """Write the state after `step` steps, then remove all but the newest `keep` checkpoints.

    Args:
        folder: `checkpoints` in the run folder.
        step: number of completed steps.
        state: tensors, numbers, text and containers of them.
        keep: number of checkpoints to keep, at least 1.

    Raises:
        CheckpointError: if it cannot be written, as on a full disk; older ones are unchanged.
    """
    path = checkpoint_path(folder, step)
    try:
        with atomic_folder(path) as temporary:
            _write(state, temporary / STATE)
            (temporary / HASH).write_text(file_sha256(temporary / STATE))
    except OSError as error:
        older = list_checkpoints(folder)
        left = f"the latest checkpoint is {older[-1]}" if older else "there is no older checkpoint"
        raise CheckpointError(
            f"{path} cannot be written ({error.__cause__ or error}); {left}. Free disk space or "
            "set another output, then run the same command again"
        ) from error
    for old in list_checkpoints(folder)[: -max(keep, 1)]:
        shutil.rmtree(old, ignore_errors=True)  # otherwise after the next one


def checkpoint_path(folder: Path, step: int) -> Path:
    """Path of the checkpoint after `step` steps."""
    return folder / f"step_{step:08d}"


def _write(state: dict[str, Any], path: Path) -> None:
    """Save a state; torch raises RuntimeError if a write fails, which hides the reason."""
    with path.open("wb") as stream:
        try:
            torch.save(state, stream)
        except RuntimeError as error:
            reason = error.__context__
            raise reason if isinstance(reason, OSError) else OSError(str(error)) from error


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a run, oldest first."""
    return sorted(folder.glob("step_*"))


def load_newest(folder: Path) -> dict[str, Any] | None:
    """Return the state of the newest intact checkpoint, or None if there are no checkpoints.

    Damaged checkpoints are skipped with a warning.

    Raises:
        CheckpointError: if all checkpoints are damaged, so that a run does not silently start anew.
    """
    faults = []
    for path in reversed(list_checkpoints(folder)):
        try:
            return load_checkpoint(path)
        except CheckpointError as error:
            warnings.warn(str(error), stacklevel=2)
            faults.append(str(error))
    if faults:
        raise CheckpointError("no checkpoint is intact: " + "; ".join(faults))
    return None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return the state in one checkpoint folder, on the CPU.

    Raises:
        CheckpointError: if the folder is incomplete or damaged, or its content would execute code.
    """
    state, hashed = path / STATE, path / HASH
    if not state.is_file() or not hashed.is_file():
        raise CheckpointError(f"{path} is incomplete, expected {STATE} and {HASH}")
    try:
        with reading(path, CheckpointError):
            if file_sha256(state).encode() != hashed.read_bytes().strip():
                raise CheckpointError(f"{state} is damaged: its hash is not that of {HASH}")
            return torch.load(state, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{state} contains more than tensors and numbers: {error}") from error


class Checkpointer:
    """Checkpoints and models in the folder of a run; process 0 writes, the others wait.

    Attributes:
        output: run folder.
        settings: of the run.
        record: what the model is trained on, written beside its weights.
        step: step of the last checkpoint written by this process, or None.
        time: when it was written [s].
    """

    def __init__(self, output: Path, settings: Settings, record: TrainedOn | None = None) -> None:
        self.output = output
        self.settings = settings
        self.record = record
        self.step: int | None = None
        self.time = time.monotonic()

    @property
    def folder(self) -> Path:
        """Folder of the checkpoints."""
        return self.output / "checkpoints"

    def is_late(self) -> bool:
        """Whether the last checkpoint is older than `train.save_minutes`."""
        minutes = self.settings.train.save_minutes
        return bool(minutes) and time.monotonic() - self.time > 60 * minutes

    def save(self, state: Mapping[str, Any]) -> None:
        """Write a checkpoint, unless there is one of this step.

        Args:
            state: see `Trainer.state`.

        Raises:
            CheckpointError: if it cannot be written.
        """
        step = state["step"]
        if self.step == step:
            return
        if rank() == 0:
            save_checkpoint(self.folder, step, dict(state), self.settings.train.keep)
        meet()
        self.step, self.time = step, time.monotonic()

    def save_model(self, name: str, model: ParaCLAPModel, processor: ParaCLAPProcessor) -> None:
        """Write the model, with its adapters merged and beside it, to the folder `name`.

        Raises:
            CheckpointError: if it cannot be written; an earlier model is unchanged.
        """
        if rank() == 0:
            try:
                with atomic_folder(self.output / name) as folder:
                    adapted = has_adapters(model)
                    model.save_pretrained(
                        folder, state_dict=merged_state(model) if adapted else None
                    )
                    if adapted:
                        save_adapters(model, folder / "adapter")
                    processor.save_pretrained(folder)
                    write_hashes(folder)
                    if self.record is not None:
                        self.record.save(folder)
            except (OSError, SafetensorError) as error:
                raise CheckpointError(
                    f"{self.output / name} cannot be written ({error.__cause__ or error}); free "
                    "disk space, then run the same command again"
                ) from error
        meet()

    def remove_later_than(self, step: int | None) -> None:
        """Remove checkpoints after a step, which were damaged or not resumed from; None = all.

        Otherwise they would be the newest ones, and the next resume would continue from them. With
        all checkpoints, models and logs are removed too, so that none is taken for a new one.
        """
        if rank() == 0:
            for path in list_checkpoints(self.folder):
                if step is None or path > checkpoint_path(self.folder, step):
                    shutil.rmtree(path)
            if step is None:
                for name in MODELS:
                    shutil.rmtree(self.output / name, ignore_errors=True)
                for pattern in LOGS:
                    for path in self.output.glob(pattern):
                        path.unlink()
        meet()


def check_run_folder(output: Path) -> None:
    """Refuse a folder of other programs, in which a run would replace files.

    Raises:
        ForeignFolderError: if it has files of the names of a run, and neither its configuration
            nor a checkpoint.
    """
    taken = [name for name in (CONFIG, *MODELS, "checkpoints") if (output / name).exists()]
    if not taken or list_checkpoints(output / "checkpoints"):
        return
    with suppress(CheckpointError, FileNotFoundError):
        settings = read_yaml(output / CONFIG, CheckpointError)
        if isinstance(settings, dict) and settings.keys() >= {"model", "data", "optim", "train"}:
            return
    raise ForeignFolderError(
        f"output={output} is no run folder, its {taken[0]} is not of train.py: set another one"
    )


def load_state(settings: Settings) -> dict[str, Any] | None:
    """Return the state to resume from, as set by `train.resume`; None = start anew.

    Process 0 chooses the checkpoint, and the others read the same one. What a killed process left
    behind is restored or removed before.

    Raises:
        CheckpointError: if checkpoints are damaged, or there is a finished model without one.
        SettingsError: naming settings that have changed, unless `train.force` is set.
    """
    output, choice, state = Path(settings.output), settings.train.resume, None
    folder = output / "checkpoints"
    if rank() == 0:
        for path in (*folder.glob(".step_*"), *(output / f".{name}.tmp" for name in MODELS)):
            recover_folder(path.with_name(path.name[1:].rpartition(".")[0]))
        if choice == "auto":
            state = load_newest(folder)
            if state is None and (output / "last").exists():
                raise CheckpointError(
                    f"{output} has a finished model but no checkpoint to resume from; set another "
                    "output, or train.resume=never to replace it"
                )
        elif choice != "never":
            state = load_checkpoint(Path(choice))
    step = broadcast(None if state is None else state["step"])
    if step is not None and state is None:
        path = checkpoint_path(folder, step) if choice == "auto" else Path(choice)
        state = load_checkpoint(path)
    if state is not None:
        if missing := STATE_KEYS - state.keys():
            raise CheckpointError(
                f"the checkpoint in {output} has no {min(missing)}, it is of another version of "
                "this program; set another output or train.resume=never"
            )
        _refuse_changed_settings(state["settings"], settings)
    return state


def _refuse_changed_settings(then: Mapping[str, Any], settings: Settings) -> None:
    changed = changed_keys(then, dataclasses.asdict(settings))
    if unused := [key for key in changed if key.startswith(ONLY_AT_THE_START)]:
        raise SettingsError(
            f"cannot resume {settings.output}: changed since its checkpoint: {', '.join(unused)}, "
            "with an effect on the first step only; set another output or train.resume=never"
        )
    refuse_changes(changed, settings)


def refuse_changes(changed: Collection[str], settings: Settings) -> None:
    """Refuse to resume from a checkpoint with other settings or data.

    Raises:
        SettingsError: naming what has changed, unless `train.force` is set.
    """
    if changed and not settings.train.force:
        raise SettingsError(
            f"cannot resume {settings.output}: changed since its checkpoint: "
            f"{', '.join(changed)}; set another output, train.resume=never, or train.force=true "
            "to resume anyway"
        )
    if changed:
        print(f"resumed although changed: {', '.join(changed)}")
