"""A training run: its data, its model, its progress, and one training step."""

import copy
import dataclasses
import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from paraclap.data.dataset import CaptionDataset, Collate
from paraclap.data.loader import Loader
from paraclap.data.sampler import TrainingBatches
from paraclap.distributed import broadcast, device_named, rank, sum_in_place, world_size
from paraclap.evaluation.embedding_cache import DiskEmbeddingCache, encoder_fingerprint
from paraclap.evaluation.encoded import has_base_encoder
from paraclap.files import default_cache, write_text
from paraclap.model.modeling_paraclap import ParaCLAPModel, ParaCLAPProcessor
from paraclap.settings import Settings, SettingsError
from paraclap.training.checkpoint import VERSIONS, Checkpointer, refuse_changes
from paraclap.training.data import TrainingData, training_batches, training_dataset
from paraclap.training.encoding import Batch, shortest_masked
from paraclap.training.learner import Learner
from paraclap.training.optim import seed_step
from paraclap.training.resources import Stopwatch
from paraclap.training.step import DivergenceError, Gradients
from paraclap.training.validation import Validator

COUNTERS = ("step", "best", "validated", "skipped", "skipped_in_a_row")
DUMP = "nonfinite.json"


class Trainer:
    """A training run.

    Attributes:
        output: run folder.
        data: training and validation clips.
        learner: model, loss and optimiser.
        validate: validation of the model.
        checkpointer: checkpoints and models in the run folder.
        whole_steps: number of steps of the whole run, which the schedule is based on.
        steps: number of steps until this run stops, at most `train.max_steps`.
        step: number of completed steps.
        best: best validation score, see `train.criterion`; None before the first validation.
        validated: step of the last validation.
        skipped: number of steps skipped because they were not finite.
        stopwatch: time per step.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.output = Path(settings.output)
        train = settings.train
        self.device = device_named(train.device)
        if train.batch_size < world_size():
            raise SettingsError(
                f"train.batch_size is {train.batch_size}, expected at least 1 clip for each of "
                f"{world_size()} processes"
            )
        self.data = TrainingData(settings)
        self.whole_steps = self.data.epochs * self.data.steps_per_epoch
        self.steps = min(self.whole_steps, train.max_steps or self.whole_steps)
        self.validate = Validator(self.data, train)
        _ = self.data.recordings  # written by all processes, without the timeout of a broadcast
        self.fingerprints = broadcast(self.data.fingerprints() if rank() == 0 else None)
        self.learner = Learner(settings, self.data, self.device, self.whole_steps)
        self.validate.check_prompts(self.learner.processor)
        self.data.warn_of_truncation(self.learner.processor.tokenizer)
        self.step = self.validated = 0
        self.best: float | None = None
        self.skipped = self.skipped_in_a_row = 0
        self.stopwatch = Stopwatch()
        self.checkpointer = Checkpointer(
            self.output, settings, self.data.trained_on if rank() == 0 else None
        )

    @property
    def model(self) -> ParaCLAPModel:
        """Model on its device."""
        return self.learner.model

    @property
    def processor(self) -> ParaCLAPProcessor:
        """Processor of the model."""
        return self.learner.processor

    @functools.cached_property
    def cache(self) -> DiskEmbeddingCache | None:
        """Cache of a frozen audio encoder, see `open_cache`."""
        frozen = "audio" in self.model.frozen
        return self.open_cache(has_base_encoder(self.model)) if frozen else None

    def open_cache(self, is_pretrained: bool) -> DiskEmbeddingCache | None:
        """Return the cache of the audio encoder as it is now, see `data.embeddings`."""
        folder = self.settings.data.embeddings
        if folder == "auto":
            folder = default_cache() if is_pretrained else None
        if folder is None:
            return None
        return DiskEmbeddingCache(folder, encoder_fingerprint(self.model, self.processor))

    def dataset(self) -> CaptionDataset:
        """Training clips with captions, without audio if its embeddings are precomputed."""
        repeat_short = not self.model.audio_branch.supports_padding
        read = self.learner.gradients.encoder.clips is None
        return training_dataset(self.data, repeat_short, read)

    def batches(self) -> TrainingBatches:
        """Batches of the remaining steps, until the next part is unfrozen."""
        ends = [end for end in self.learner.unfreezing.values() if end > self.step]
        end = max(self.step, min([*ends, self.steps]))  # resumed runs may be beyond `max_steps`
        return training_batches(self.data, self.step, end)

    def loader(self) -> Loader:
        """These batches as tensors."""
        data, bucket = self.settings.data, self.settings.train.bucket
        least, mel = 0, getattr(self.processor.feature_extractor, "mel", None)
        if "audio" not in self.model.frozen:
            least = shortest_masked(self.model.audio_branch.base, mel)
        # A tokenizer must not be set up while another thread uses it, so the threads that read
        # ahead use a copy, which is set up here.
        processor = copy.deepcopy(self.processor)
        processor.tokenizer("", padding=True, truncation=True)
        return Loader(
            self.dataset(),
            Collate(processor, None if bucket else data.crop_seconds, least),
            self.batches(),
            data.workers,
            data.timeout,
            pin_memory=self.device.type == "cuda",
        )

    def unfreeze(self) -> None:
        """Unfreeze the parts that are trained from the next step on.

        Start a new loader afterwards, because batches read before may lack audio.
        """
        if parts := self.learner.unfreeze(self.step):
            tqdm.write(f"step {self.step + 1}: unfreezing {' and '.join(parts)}")

    def training_step(self, batch: Batch) -> dict[str, float | None]:
        """Train on a batch; returns the values to log.

        A step whose loss or gradient is not finite is skipped and counted.

        Raises:
            DivergenceError: after more than `train.max_skipped` such steps in a row.
        """
        lr = self.learner.set_learning_rates(self.step)
        seed_step(self.settings.train.seed, self.step, rank())
        gradients = self.learner.gradients(batch)  # forward, backward, clip
        if gradients.is_finite:
            self.learner.update()
            self.skipped_in_a_row = 0
        else:
            self._skip(gradients, batch["row"])
        self.step += 1
        matches = (batch["matches"][0] == 1).sum().item()
        matches, distinct = sum_in_place(torch.tensor([matches, gradients.distinct])).tolist()
        return {
            "loss": _finite(gradients.loss.item()),
            "lr": lr,
            "logit_scale": self.model.logit_scale.exp().item(),
            "gradient_norm": _finite(gradients.norm.item()),
            "matches_per_clip": matches / len(batch["row"]),
            "distinct_captions": distinct / len(batch["row"]),
            "skipped": self.skipped,
        }

    def _skip(self, gradients: Gradients, rows: Sequence[int]) -> None:
        """Count a step that is not finite and write its clips to `DUMP`."""
        self.learner.optimizer.zero_grad()
        self.skipped += 1
        self.skipped_in_a_row += 1
        files = [self.data.train_table.index[row][0] for row in rows]
        reason = _dump(self.output, self.step + 1, gradients, files)
        if self.skipped_in_a_row > self.settings.train.max_skipped:
            raise DivergenceError(
                f"{reason}: {self.skipped_in_a_row} steps in a row are not finite; try a smaller "
                "optim.lr or train.precision=fp32"
            )
        tqdm.write(f"{reason}: skipped")

    def state(self) -> dict[str, Any]:
        """Everything that resuming needs; random states and batches follow from the step."""
        return {
            **{name: getattr(self, name) for name in COUNTERS},
            "criterion": self.validate.criterion,
            **self.learner.state(),
            "settings": dataclasses.asdict(self.settings),
            "fingerprints": self.fingerprints,
            "versions": VERSIONS,
        }

    def save(self) -> None:
        """Write a checkpoint, unless there is one of this step.

        Raises:
            DivergenceError: if a weight is not finite; older checkpoints are unchanged.
        """
        if name := self.learner.nonfinite_weight():
            raise DivergenceError(f"step {self.step}: {name} is not finite; nothing was saved")
        self.checkpointer.save(self.state())

    def resume(self, state: Mapping[str, Any] | None) -> None:
        """Continue from a state; None = start anew, and remove an earlier run in the folder.

        Raises:
            SettingsError: naming data that have changed, unless `train.force` is set.
        """
        if state is not None:
            then, versions = state["fingerprints"], state["versions"]
            now = self.fingerprints
            changed = [
                name for name in dict.fromkeys([*now, *then]) if then.get(name) != now.get(name)
            ]
            refuse_changes([f"the {name}" for name in changed], self.settings)
            if versions != VERSIONS:
                print(f"checkpoint of {versions}, now {VERSIONS}: results may differ slightly")
            self.restore(state)
            print(f"resumed {self.output} at step {self.step}")
        self.checkpointer.remove_later_than(None if state is None else self.step)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        self.learner.load_state(state)
        for name in COUNTERS:
            setattr(self, name, state[name])
        if state["criterion"] != self.validate.criterion:
            self.best = None


def _finite(value: float) -> float | None:
    """Return the value, or None if it is not finite, because JSON has no NaN."""
    return value if math.isfinite(value) else None


def _dump(output: Path, step: int, gradients: Gradients, files: list[str]) -> str:
    """Write loss, norm and clips of a step to `DUMP`; returns them as text."""
    loss, norm = gradients.loss.item(), gradients.norm.item()
    dump = {"step": step, "loss": str(loss), "norm": str(norm), "clips": files}
    if rank() == 0:
        output.mkdir(parents=True, exist_ok=True)
        write_text(output / DUMP, json.dumps(dump, indent=1) + "\n")
    return f"step {step}: loss {loss}, gradient norm {norm}, clips {files}"
