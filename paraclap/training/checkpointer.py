"""Saving and resuming: checkpoints, and the models `best` and `last` of a run."""

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError

from paraclap.distributed import broadcast, meet, rank
from paraclap.files import atomic_folder
from paraclap.model.modeling_paraclap import ParaCLAPModel, ParaCLAPProcessor
from paraclap.settings import Settings, SettingsError
from paraclap.training.checkpoint import (
    CheckpointError,
    checkpoint_path,
    load_checkpoint,
    load_newest,
    save_checkpoint,
)
from paraclap.training.config import changed_keys

VERSIONS = {"torch": str(torch.__version__), "transformers": transformers.__version__}


class Checkpointer:
    """Checkpoints and models in the folder of a run; process 0 writes, the others wait.

    Attributes:
        output: run folder.
        settings: of the run.
        step: step of the last checkpoint written by this process, or None.
        time: when it was written [s].
    """

    def __init__(self, output: Path, settings: Settings) -> None:
        self.output = output
        self.settings = settings
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
        """Write the model and its processor to the folder `name`.

        Raises:
            CheckpointError: if it cannot be written; an earlier model is unchanged.
        """
        if rank() == 0:
            try:
                with atomic_folder(self.output / name) as folder:
                    model.save_pretrained(folder)
                    processor.save_pretrained(folder)
            except (OSError, SafetensorError) as error:
                raise CheckpointError(
                    f"{self.output / name} cannot be written ({error.__cause__ or error}); free "
                    "disk space, then run the same command again"
                ) from error
        meet()

    def load(self) -> dict[str, Any] | None:
        """Return the state to resume from, as set by `train.resume`; None = start anew.

        Process 0 chooses the checkpoint, and the others read the same one.
        """
        choice, state = self.settings.train.resume, None
        if rank() == 0:
            if choice == "never":
                shutil.rmtree(self.folder, ignore_errors=True)
                (self.output / "metrics.jsonl").unlink(missing_ok=True)
            else:
                auto = choice == "auto"
                state = load_newest(self.folder) if auto else load_checkpoint(Path(choice))
        step = broadcast(None if state is None else state["step"])
        if step is not None and state is None:
            path = checkpoint_path(self.folder, step) if choice == "auto" else Path(choice)
            state = load_checkpoint(path)
        return state


def refuse_changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Check that the state of a checkpoint has the settings and data of the current state.

    Raises:
        SettingsError: naming what has changed, unless `train.force` is set.
    """
    changed = changed_keys(then["settings"], now["settings"])
    changed += [
        f"the {name}"
        for name, value in now["fingerprints"].items()
        if then["fingerprints"][name] != value
    ]
    if changed and not now["settings"]["train"]["force"]:
        raise SettingsError(
            f"cannot resume {now['settings']['output']}: changed since its checkpoint: "
            f"{', '.join(changed)}; set another output, train.resume=never, or train.force=true "
            "to resume anyway"
        )
    if changed:
        print(f"resumed although changed: {', '.join(changed)}")
    if then["versions"] != VERSIONS:
        print(f"checkpoint of {then['versions']}, now {VERSIONS}: results may differ slightly")
