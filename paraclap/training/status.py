"""What a run prints: where it is, its loss, and the scores of its validations.

    epoch 3/40, step 100/280, loss 3.10, dev UAR .33 [.27, .40] best

The loss is the mean over the steps since the line before. A line comes with each validation and,
without a terminal, once a minute.
"""

import math
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tqdm import tqdm

from paraclap.distributed import rank
from paraclap.progress import LINE_SECONDS
from paraclap.training.validation import CRITERIA

if TYPE_CHECKING:
    from paraclap.training.trainer import Trainer


class Status:
    """Lines on a run, and on a terminal a bar.

    Attributes:
        trainer: the run.
        losses: of the steps since the last line, as far as they are finite.
        bar: clips of the run, once it is entered as a context.
    """

    def __init__(self, trainer: "Trainer") -> None:
        self.trainer = trainer
        self.losses: list[float] = []
        self.bar: tqdm | None = None
        self._printed = trainer.stopwatch.total()

    def __enter__(self) -> "Status":
        size = self.trainer.settings.train.batch_size
        self.bar = tqdm(
            total=self.trainer.steps * size,
            initial=self.trainer.step * size,
            unit="clip",
            desc="train",
            mininterval=2,
            disable=rank() > 0 or not sys.stderr.isatty(),
        )
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def step(self, loss: float | None, waiting: float) -> None:
        """Count a step with its loss and the share of its time spent waiting for audio."""
        if loss is not None:
            self.losses.append(loss)
        self.bar.update(self.trainer.settings.train.batch_size)
        shown = math.nan if loss is None else loss
        self.bar.set_postfix(loss=f"{shown:.3f}", waiting=f"{waiting:.0%}", refresh=False)
        is_late = self.trainer.stopwatch.total() - self._printed > LINE_SECONDS
        if is_late and not sys.stderr.isatty():
            self._print("")

    def validation(self, scores: Mapping[str, float], is_best: bool) -> None:
        """Print the score that chooses the model, and whether it is the best one so far."""
        score = score_text(scores, self.trainer.validate.criterion)
        self._print(f", dev {score}{' best' if is_best else ''}")

    def _print(self, more: str) -> None:
        loss = f", loss {sum(self.losses) / len(self.losses):.2f}" if self.losses else ""
        tqdm.write(f"{place(self.trainer, self.trainer.step)}{loss}{more}")
        self.losses = []
        self._printed = self.trainer.stopwatch.total()


def place(trainer: "Trainer", step: int) -> str:
    """Return epoch and step with their totals as text."""
    each = trainer.data.steps_per_epoch
    epoch, epochs = (max(1, math.ceil(number / each)) for number in (step, trainer.steps))
    return f"epoch {epoch}/{epochs}, step {step}/{trainer.steps}"


def score_text(scores: Mapping[str, float], criterion: str) -> str:
    """Return the score of a criterion with its interval, as far as known: UAR .33 [.27, .40]."""
    name, _ = CRITERIA[criterion]
    low, high = scores.get(f"{name}_low"), scores.get(f"{name}_high")
    limits = "" if low is None or high is None else f" [{short(low)}, {short(high)}]"
    return f"{criterion} {short(scores[name])}{limits}"


def short(score: float, digits: int = 2) -> str:
    """Return a score with this number of decimals and no zero before them, as in papers."""
    text = f"{score:.{digits}f}"
    return text.replace("0.", ".", 1) if abs(score) < 1 else text
