"""Zero-shot validation of a run on held-out speakers, with the code of evaluate.py."""

import numpy as np
import pandas as pd
import torch

from paraclap.corpora.table import scored_classes
from paraclap.data.dataset import ClipDataset
from paraclap.distributed import broadcast
from paraclap.evaluation.embed import check_tokens, embed_clips
from paraclap.evaluation.embedding_cache import DiskEmbeddingCache
from paraclap.evaluation.encoded import pooled_clips, project_clips
from paraclap.evaluation.figures import (
    DRAWN_CLASSES,
    plot_confusion,
    plot_similarities,
    to_pixels,
)
from paraclap.evaluation.tasks import ZeroShotTask, task_prompts, warn_of_labels
from paraclap.evaluation.zero_shot import evaluate_task
from paraclap.model.modeling_paraclap import ParaCLAPModel, ParaCLAPProcessor
from paraclap.settings import TrainSettings, corpora_of
from paraclap.training.data import TrainingData
from paraclap.training.loggers import Log
from paraclap.training.tables import catalogue_names

SCORES = ("UAR", "ACC", "F1", "chance")
RANK_SCORES = ("AUC", "Spearman")


class Validator:
    """Validation clips and their classes.

    Attributes:
        data: clips of the run.
        task: target and prompt set.
        tables: name of the corpus -> corpus table of its validation clips with a label; without
            `data.corpora`, the name of a single corpus is "".
        pooled: name of the corpus -> its clips as pooled by the audio encoder while it is frozen.
    """

    def __init__(self, data: TrainingData, settings: TrainSettings) -> None:
        self.data = data
        self.pooled: dict[str, torch.Tensor] = {}
        self.task = ZeroShotTask("validation", settings.target, settings.prompts)
        self.tables = {
            name: labelled
            for name, table in _corpus_tables(data).items()
            if len(labelled := table[scored_classes(table, settings.target).notna()])
        }
        for table in self.tables.values():  # now, so that faults stop the run before it starts
            warn_of_labels(table, self.task)

    def __len__(self) -> int:
        return sum(map(len, self.tables.values()))

    def check_prompts(self, processor: ParaCLAPProcessor) -> None:
        """Raise `PromptError` if the tokenizer maps two prompts to the same tokens."""
        for table in self.tables.values():
            check_tokens(processor, task_prompts(table, self.task))

    def __call__(
        self,
        model: ParaCLAPModel,
        processor: ParaCLAPProcessor,
        bfloat16: bool = False,
        cache: DiskEmbeddingCache | None = None,
    ) -> tuple[dict[str, float], dict[str, pd.DataFrame]]:
        """Score a model, under bfloat16 autocast if the run trains under it.

        Clips are encoded once while the audio encoder is frozen, and looked up in its `cache`.

        Returns:
            UAR, ACC, F1, chance, AUC and Spearman (see `evaluate_task`) and the recall of each
            class, and by corpus the predictions with the true classes. With several corpora, scores
            are means over the corpora, beside the scores of each corpus.
        """
        was_training = model.training
        model.eval()
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bfloat16):
            results = {
                name: self.score_corpus(name, model, processor, cache) for name in self.tables
            }
        model.train(was_training)
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
        name: str,
        model: ParaCLAPModel,
        processor: ParaCLAPProcessor,
        cache: DiskEmbeddingCache | None = None,
    ) -> tuple[dict[str, float], pd.DataFrame]:
        """Score a model in evaluation mode on the validation clips of one corpus."""
        table = self.tables[name]
        clips = ClipDataset(table, self.data.recordings, self.data.functionals_of(table))
        workers = self.data.settings.data.workers
        if "audio" in model.frozen and clips.functionals is None:
            if name not in self.pooled:
                self.pooled[name] = pooled_clips(model, processor, clips, cache, workers)
            audio = project_clips(model, self.pooled[name]).numpy()
        else:
            audio = embed_clips(model, processor, clips, workers=workers).numpy()
        scores, answers = evaluate_task(model, processor, table, audio, self.task, intervals=False)
        recalls = {f"recall/{name}": recall for name, recall in scores["recall"].items()}
        chosen = {name: scores[name] for name in (*SCORES, *RANK_SCORES) if name in scores}
        return broadcast(chosen | recalls), answers


def _corpus_tables(data: TrainingData) -> dict[str, pd.DataFrame]:
    """Return the validation clips of each corpus, as a corpus table with its classes."""
    if data.validation_table.empty:
        return {}
    tables: dict[str, pd.DataFrame] = {}
    for name, part in data.by_corpus(data.validation_table).items():
        known = catalogue_names(corpora_of(data.settings.data)[name].captions)
        is_joint = name == "" and "" not in known
        parts = part.groupby("corpus", sort=False) if is_joint else [(name, part)]
        for corpus, rows in parts:
            tables[corpus] = rows.copy()
            tables[corpus].attrs = {
                "name": corpus or "validation",
                "corpus": known.get(corpus, known.get("")),
            }
    return tables


def log_figures(log: Log, step: int, target: str, answers: dict[str, pd.DataFrame]) -> None:
    """Log the confusion matrix and the mean similarities of each corpus, if there is a logger.

    Those of more than `DRAWN_CLASSES` classes are not drawn.
    """
    if log.writer is None:
        return
    for corpus, part in answers.items():
        title = f"{corpus} {target}, step {step}".strip()
        prompts = [column.removeprefix("score.") for column in part.filter(regex=r"^score\.")]
        if len(prompts) > DRAWN_CLASSES:
            continue
        figures = {
            "confusion": plot_confusion(part, prompts, title),
            "similarity": plot_similarities(part, title),
        }
        for name, figure in figures.items():
            log.image(step, f"validation/{name}.{corpus}".rstrip("."), to_pixels(figure))
