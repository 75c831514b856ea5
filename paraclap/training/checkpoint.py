"""Checkpoints of a run: complete or absent, verified by hash.

A checkpoint is a folder `checkpoints/step_00000100` with `state.pt` and its SHA-256. It is written
under a temporary name and renamed, so a kill or a full disk leaves earlier checkpoints intact.
"""

import pickle
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch

from paraclap.errors import ParaCLAPError
from paraclap.files import atomic_folder, file_sha256

STATE = "state.pt"
HASH = "state.pt.sha256"


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
        shutil.rmtree(old)


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
    if file_sha256(state) != hashed.read_text().strip():
        raise CheckpointError(f"{state} is damaged: its hash is not that of {HASH}")
    try:
        return torch.load(state, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{state} contains more than tensors and numbers: {error}") from error
