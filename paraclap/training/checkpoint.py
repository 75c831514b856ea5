"""Checkpoints of a run: complete or absent, checked by hash, the newest good one wins.

A checkpoint is a folder `checkpoints/step_00000100` with `state.pt` and its SHA-256. It is written
beside its place and renamed when whole, so a kill or a full disk leaves the previous one as it was.
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
    """No checkpoint can be used, although there are some, or none can be written."""


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int) -> None:
    """Write the state after `step` steps, then remove all but the newest `keep` checkpoints.

    Args:
        folder: the run's `checkpoints` folder.
        step: number of steps done.
        state: tensors, numbers, text and containers of them.
        keep: number of checkpoints to keep, at least 1.

    Raises:
        CheckpointError: if it cannot be written, as on a full disk; older ones are as they were.
    """
    path = checkpoint_path(folder, step)
    try:
        with atomic_folder(path) as temporary:
            _write(state, temporary / STATE)
            (temporary / HASH).write_text(file_sha256(temporary / STATE))
    except OSError as error:
        older = list_checkpoints(folder)
        left = f"the last good one is {older[-1]}" if older else "there is no older one"
        reason = error.__cause__ or error
        raise CheckpointError(
            f"{path} cannot be written ({reason}); {left}. Free space or give another output, "
            "then give the same command again"
        ) from error
    for old in list_checkpoints(folder)[: -max(keep, 1)]:
        shutil.rmtree(old)


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint after `step` steps is."""
    return folder / f"step_{step:08d}"


def _write(state: dict[str, Any], path: Path) -> None:
    """Save a state; torch tells a failed write as a RuntimeError, which hides the reason."""
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
    """State of the newest checkpoint that is whole; None if there are no checkpoints.

    Warns of every checkpoint that had to be passed over.

    Raises:
        CheckpointError: if there are checkpoints and none is good; a run must not start from
            zero unasked.
    """
    faults = []
    for path in reversed(list_checkpoints(folder)):
        try:
            return load_checkpoint(path)
        except CheckpointError as error:
            warnings.warn(str(error), stacklevel=2)
            faults.append(str(error))
    if faults:
        raise CheckpointError("no checkpoint is usable: " + "; ".join(faults))
    return None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """State of one checkpoint folder, on the CPU.

    Raises:
        CheckpointError: if the folder is incomplete, its content was changed or would run code.
    """
    state, hashed = path / STATE, path / HASH
    if not state.is_file() or not hashed.is_file():
        raise CheckpointError(f"{path} is incomplete, expected {STATE} and {HASH}")
    if file_sha256(state) != hashed.read_text().strip():
        raise CheckpointError(f"{state} does not have the hash of {HASH}: damaged")
    try:
        return torch.load(state, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{state} holds more than tensors and numbers: {error}") from error
