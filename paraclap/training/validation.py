"""Validation of a run on held-out speakers, with the code of evaluate.py."""

import warnings

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn

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
from paraclap.evaluation.metrics import score
from paraclap.evaluation.prompts import prompts_for
from paraclap.evaluation.report import with_interval
from paraclap.evaluation.tasks import ZeroShotTask, task_prompts, warn_of_labels
from paraclap.evaluation.zero_shot import evaluate_task, known_speakers
from paraclap.model.modeling_paraclap import ParaCLAPModel, ParaCLAPProcessor
from paraclap.settings import SettingsError, TrainSettings, corpora_of
from paraclap.training.caption_scores import CaptionScores, drawn_clips
from paraclap.training.data import TrainingData
from paraclap.training.loggers import Log
from paraclap.training.tables import catalogue_names

SCORES = ("UAR", "ACC", "F1", "chance")
LIMITS = ("UAR_low", "UAR_high")
RANK_SCORES = ("AUC", "Spearman")
CAPTION_SCORES = ("R@1", "R@1_chance", "validation_loss")
CRITERIA = {
    "UAR": ("UAR", "chance"),
    "R@1": ("R@1", "R@1_chance"),
    "loss": ("validation_loss", None),
}
"""Value of `train.criterion` -> its score, and that of chance."""

Answers = dict[str, pd.DataFrame]


class Validator:
    """Validation clips, their classes and their captions.

    Clips without a label of `train.target` are used if the criterion is not the UAR, or if no clip
    of their corpus has one.

    Attributes:
        data: clips of the run.
        task: target and prompt set.
        criterion: "UAR", "R@1" or "loss", see `train.criterion`.
        tables: name of the corpus -> corpus table of its validation clips; without `data.corpora`,
            the name of a single corpus is "".
        labelled: name of the corpus -> which of them have a label; only corpora with labels.
        captioned: name of the corpus -> their captions, and the rows of these; only corpora
            with two distinct captions.
        pooled: name of the corpus -> its clips as pooled by the audio encoder while it is frozen.
    """

    def __init__(self, data: TrainingData, settings: TrainSettings) -> None:
        self.data = data
        self.pooled: dict[str, torch.Tensor] = {}
        self.task = ZeroShotTask("validation", settings.target, settings.prompts)
        tables = _corpus_tables(data)
        labelled = {name: _has_label(table, settings) for name, table in tables.items()}
        self.criterion = settings.criterion
        if self.criterion == "auto":
            self.criterion = "UAR" if any(map(np.any, labelled.values())) else "R@1"
        self.tables: dict[str, pd.DataFrame] = {}
        self.labelled: dict[str, np.ndarray] = {}
        self.captioned: dict[str, tuple[np.ndarray, CaptionScores]] = {}
        for name, table in tables.items():
            self._add(name, table, labelled[name])
        if tables and not (self.labelled if self.criterion == "UAR" else self.captioned):
            self._refuse(settings)

    def _add(self, name: str, table: pd.DataFrame, labelled: np.ndarray) -> None:
        """Add the clips of a corpus, now, so that faults stop the run before it starts."""
        if labelled.any():
            warn_of_labels(table[labelled], self.task)
            if self.criterion == "UAR":
                table, labelled = table[labelled], labelled[labelled]
            self.labelled[name] = labelled
        rows = drawn_clips(len(table))
        if not labelled.any() and len(rows) < len(table):
            print(f"validation on {len(rows)} of {len(table)} clips, drawn at random")
            table, rows = table.iloc[rows], np.arange(len(rows))
        captions = CaptionScores(table.iloc[rows], self.data.settings)
        if len(captions.texts) > 1:
            self.captioned[name] = rows, captions
            if self.criterion == "R@1" and captions.speakers is None:
                print("no validation clip has a speaker: intervals of R@1 are over clips")
        if name in self.labelled or name in self.captioned:
            self.tables[name] = table

    def _refuse(self, settings: TrainSettings) -> None:
        """Stop if the criterion was set; "auto" leaves a run without validation."""
        self.tables = {}
        if settings.criterion == "UAR":
            raise SettingsError(
                f"train.criterion is UAR, but no validation clip has a label in {settings.target}"
            )
        if settings.criterion != "auto":
            raise SettingsError(
                f"train.criterion is {settings.criterion}, expected validation clips with at "
                "least two distinct captions"
            )

    def __len__(self) -> int:
        return sum(map(len, self.tables.values()))

    def check_prompts(self, processor: ParaCLAPProcessor) -> None:
        """Raise `PromptError` if the tokenizer maps two prompts to the same tokens."""
        for name, labelled in self.labelled.items():
            check_tokens(processor, task_prompts(self.tables[name][labelled], self.task))

    def is_better(self, score: float, best: float | None) -> bool:
        """Return whether a score is better than the best one so far, which wins a tie."""
        if best is None:
            return True
        return score < best if self.criterion == "loss" else score > best

    def __call__(
        self,
        model: ParaCLAPModel,
        processor: ParaCLAPProcessor,
        bfloat16: bool = False,
        cache: DiskEmbeddingCache | None = None,
        objective: nn.Module | None = None,
    ) -> tuple[dict[str, float], Answers]:
        """Score a model, under bfloat16 autocast if the run trains under it.

        Clips are encoded once while the audio encoder is frozen, and looked up in its `cache`.

        Returns:
            UAR with its interval (`UAR_low`, `UAR_high`), ACC, F1, chance, AUC and Spearman (see
            `evaluate_task`) and the recall of each class, if there are labels; the values of
            `CaptionScores`, with the loss if `objective` is not None; and by corpus the predictions
            with the true classes. With several corpora, scores are means over the corpora that have
            them, without an interval, beside the scores of each corpus.
        """
        was_training = model.training
        model.eval()
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bfloat16):
            results = {
                name: self.score_corpus(name, model, processor, cache, objective)
                for name in self.tables
            }
        model.train(was_training)
        found = {
            name: [scores[name] for scores, _ in results.values() if name in scores]
            for name in (*SCORES, *CAPTION_SCORES)
        }
        means = {name: float(np.mean(values)) for name, values in found.items() if values}
        if len(found["UAR"]) == 1:  # the interval of a single corpus, whatever its name
            (scores,) = (scores for scores, _ in results.values() if "UAR" in scores)
            means |= {name: scores[name] for name in LIMITS if name in scores}
        each = {
            f"{name}.{corpus}" if corpus else name: value
            for corpus, (scores, _) in results.items()
            for name, value in scores.items()
        }
        answers = {name: table for name, (_, table) in results.items() if table is not None}
        return means | each, answers

    def score_corpus(
        self,
        name: str,
        model: ParaCLAPModel,
        processor: ParaCLAPProcessor,
        cache: DiskEmbeddingCache | None = None,
        objective: nn.Module | None = None,
    ) -> tuple[dict[str, float], pd.DataFrame | None]:
        """Score a model in evaluation mode on the validation clips of one corpus."""
        audio = self._embed(name, model, processor, cache)
        chosen, answers = {}, None
        if name in self.labelled:
            labelled = self.labelled[name]
            scores, answers = evaluate_task(
                model,
                processor,
                self.tables[name][labelled],
                audio[labelled],
                self.task,
                intervals=False,
            )
            chosen = {name: scores[name] for name in (*SCORES, *RANK_SCORES) if name in scores}
            chosen |= {f"recall/{label}": recall for label, recall in scores["recall"].items()}
            speakers = known_speakers(self.tables[name].loc[answers.index])
            interval = score(answers["truth"], answers["prediction"], speakers)["interval"]
            if interval is not None:
                chosen |= dict(zip(LIMITS, interval, strict=True))
        if name in self.captioned:
            rows, captions = self.captioned[name]
            chosen |= captions(model, processor, audio[rows], objective)
        return broadcast(chosen), answers

    def _embed(
        self,
        name: str,
        model: ParaCLAPModel,
        processor: ParaCLAPProcessor,
        cache: DiskEmbeddingCache | None,
    ) -> np.ndarray:
        """Embed the clips of a corpus, which are kept as pooled by a frozen encoder."""
        table = self.tables[name]
        clips = ClipDataset(table, self.data.recordings, self.data.functionals_of(table))
        workers = self.data.settings.data.workers
        if "audio" not in model.frozen or clips.functionals is not None:
            return embed_clips(model, processor, clips, workers=workers).numpy()
        if name not in self.pooled:
            self.pooled[name] = pooled_clips(model, processor, clips, cache, workers)
        return project_clips(model, self.pooled[name]).numpy()


def _has_label(table: pd.DataFrame, settings: TrainSettings) -> np.ndarray:
    """Return which clips have a scored label.

    Labels need not exist for the default target; with "auto" as the criterion, those of a single
    class, as of a few speakers held out, are not scored.
    """
    nothing, target = np.zeros(len(table), bool), settings.target
    if target not in table and target == TrainSettings().target:
        return nothing
    labels = scored_classes(table, target)
    if settings.criterion == "auto" and labels.nunique() == 1:
        if len(prompts_for(table, target, settings.prompts)) == 1:
            warnings.warn(
                f"the {target} of all validation clips is {labels.dropna().iloc[0]}, so they are "
                "not scored by UAR",
                stacklevel=3,
            )
            return nothing
    return labels.notna().to_numpy()


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


def log_figures(
    log: Log, step: int, target: str, scores: dict[str, float], answers: Answers
) -> dict[str, Figure]:
    """Log the confusion matrix and the mean similarities of each corpus, if there is a logger.

    Those of more than `DRAWN_CLASSES` classes are not drawn.

    Returns:
        corpus -> confusion matrix.
    """
    drawn: dict[str, Figure] = {}
    if log.writer is None:
        return drawn
    for corpus, part in answers.items():
        uar, low, high = (scores.get(f"{n}.{corpus}".rstrip(".")) for n in ("UAR", *LIMITS))
        uar = with_interval(uar, None if low is None else (low, high))
        title = f"{corpus} {target}, step {step}\ndev UAR {uar}".strip()
        prompts = [column.removeprefix("cosine.") for column in part.filter(regex=r"^cosine\.")]
        if len(prompts) > DRAWN_CLASSES:
            continue
        figures = {
            "confusion": plot_confusion(part, prompts, title),
            "similarity": plot_similarities(part, title),
        }
        for name, figure in figures.items():
            log.image(step, f"validation/{name}.{corpus}".rstrip("."), to_pixels(figure))
        drawn[corpus] = figures["confusion"]
    return drawn
