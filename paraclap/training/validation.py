"""Zero-shot validation of a run on held-out speakers, with the code of evaluate.py."""

import numpy as np
import pandas as pd

from paraclap.corpora.table import scored_classes
from paraclap.data.dataset import ClipDataset
from paraclap.distributed import broadcast
from paraclap.evaluation.figures import plot_confusion, plot_similarities, to_pixels
from paraclap.evaluation.metrics import score
from paraclap.evaluation.prompts import Prompts, prompts_for
from paraclap.evaluation.zero_shot import classify_clips
from paraclap.model.modeling_paraclap import ParaCLAPModel, ParaCLAPProcessor
from paraclap.settings import TrainSettings
from paraclap.training.data import TrainingData
from paraclap.training.loggers import Log

SCORES = ("UAR", "ACC", "F1", "chance")


class Validator:
    """Validation clips and their classes.

    Attributes:
        data: clips of the run.
        settings: of the run, for target and prompt set.
        classes: true class of each validation clip; clips without a class are not validated.
        prompts: corpus -> prompts of its classes.
    """

    def __init__(self, data: TrainingData, settings: TrainSettings) -> None:
        self.data = data
        self.settings = settings
        self.classes = pd.Series(dtype=str)
        if not data.validation_table.empty:
            parts = data.by_corpus(data.validation_table).values()
            self.classes = pd.concat(
                [scored_classes(part, settings.target).dropna() for part in parts]
            )
        self.prompts = {  # now, so that a wrong prompt set stops the run before it starts
            name: prompts_for(part, settings.target, settings.prompts)
            for name, part in self._tables().items()
        }

    def _tables(self) -> dict[str, pd.DataFrame]:
        if self.classes.empty:
            return {}
        return self.data.by_corpus(self.data.validation_table.loc[self.classes.index])

    def __call__(
        self, model: ParaCLAPModel, processor: ParaCLAPProcessor
    ) -> tuple[dict[str, float], dict[str, pd.DataFrame]]:
        """Score a model.

        Returns:
            UAR, ACC, F1, chance and the recall of each class, and by corpus the predictions with
            the true classes. With several corpora, scores are means over the corpora, beside the
            scores of each corpus.
        """
        results = {
            name: self.score_corpus(model, processor, part, self.prompts[name])
            for name, part in self._tables().items()
        }
        means = {
            name: float(np.mean([scores[name] for scores, _ in results.values()]))
            for name in SCORES
        }
        each = {
            f"{name}.{corpus}" if corpus else name: value
            for corpus, (scores, _) in results.items()
            for name, value in scores.items()
        }
        return means | each, {corpus: answers for corpus, (_, answers) in results.items()}

    def score_corpus(
        self,
        model: ParaCLAPModel,
        processor: ParaCLAPProcessor,
        table: pd.DataFrame,
        prompts: Prompts,
    ) -> tuple[dict[str, float], pd.DataFrame]:
        """Score a model on the validation clips of one corpus."""
        clips = ClipDataset(table, self.data.recordings, self.data.functionals_of(table))
        answers = classify_clips(model, processor, table, self.data.recordings, prompts, clips)
        answers.insert(0, "truth", self.classes.loc[table.index])
        scores = score(answers["truth"], answers["prediction"])
        recalls = {f"recall/{name}": recall for name, recall in scores["recall"].items()}
        return broadcast({name: scores[name] for name in SCORES} | recalls), answers


def log_figures(log: Log, step: int, target: str, answers: dict[str, pd.DataFrame]) -> None:
    """Log the confusion matrix and the mean similarities of each corpus, if there is a logger."""
    if log.writer is None:
        return
    for corpus, part in answers.items():
        title = f"{corpus} {target}, step {step}".strip()
        prompts = [column.removeprefix("score.") for column in part.filter(regex=r"^score\.")]
        figures = {
            "confusion": plot_confusion(part, prompts, title),
            "similarity": plot_similarities(part, title),
        }
        for name, figure in figures.items():
            log.image(step, f"validation/{name}.{corpus}".rstrip("."), to_pixels(figure))
