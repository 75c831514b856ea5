"""Zero-shot classification: each clip gets the class whose prompt embedding is nearest.

Letters: B clips, K classes, D embedding size.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from paraclap.audio.recordings import Recordings
from paraclap.corpora.table import HIGH, LOW, scored_classes
from paraclap.data.dataset import ClipDataset
from paraclap.evaluation.embed import class_probabilities, embed_classes, embed_clips
from paraclap.evaluation.metrics import calibration, score, score_numbers, score_poles
from paraclap.evaluation.tasks import ZeroShotTask, task_prompts
from paraclap.model.modeling_paraclap import ParaCLAPModel, ParaCLAPProcessor


def classify_embeddings(
    model: ParaCLAPModel,
    processor: ParaCLAPProcessor,
    index: pd.Index,
    audio: np.ndarray,
    prompts: Mapping[str, Sequence[str]],
) -> pd.DataFrame:
    """Predict the class whose prompt embedding is nearest to each clip, from embeddings (B, D).

    Returns:
        `prediction`, `confidence` (its probability: softmax of the scaled cosines) and the cosine
        of each class, `cosine.CLASS`.

    Raises:
        PromptError: if two classes share a prompt.
    """
    cosines = audio @ embed_classes(model, processor, prompts).numpy().T
    predictions = pd.DataFrame(cosines, index, [f"cosine.{name}" for name in prompts])
    prediction = np.array(list(prompts), dtype=object)[cosines.argmax(axis=1)]
    predictions.insert(0, "prediction", prediction)
    predictions.insert(1, "confidence", class_probabilities(model, cosines).max(axis=1))
    return predictions


def classify_clips(
    model: ParaCLAPModel,
    processor: ParaCLAPProcessor,
    table: pd.DataFrame,
    recordings: str | Path | Recordings,
    prompts: Mapping[str, Sequence[str]],
    clips: ClipDataset | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Embed the clips of a corpus table and classify them, see `classify_embeddings`.

    The model is in evaluation mode meanwhile. The clips are read from `recordings` (a folder, or
    another way to read them), unless `clips` is a dataset of the same clips; `options` are those of
    `embed_clips`.
    """
    was_training = model.training
    model.eval()
    clips = clips or ClipDataset(table, recordings)
    audio = embed_clips(model, processor, clips, **options)
    predictions = classify_embeddings(model, processor, table.index, audio.numpy(), prompts)
    model.train(was_training)
    return predictions


def evaluate_task(
    model: ParaCLAPModel,
    processor: ParaCLAPProcessor,
    table: pd.DataFrame,
    audio: np.ndarray,
    task: ZeroShotTask,
    intervals: bool = True,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Classify the clips of a corpus table by their embeddings (B, D), and score the predictions.

    Evaluation and validation both use it; the latter without `intervals`.

    Returns:
        Scores of `metrics.score`, of `score_poles` for two classes or a numeric target and of
        `score_numbers` for the latter, with `calibration`, `target`, `prompt_set`, `averaged_over`,
        `prompts`, `unused_prompts` (classes without clips) and `excluded` (number of clips without
        a label or a prompt); and the table of `classify_embeddings` with the column `truth`.

    Raises:
        CorpusError, PromptError: see `task_prompts`.
    """
    prompts = task_prompts(table, task)
    labels = scored_classes(table, task.target)
    has_prompt = labels.isin(list(prompts)).to_numpy()
    kept, truth = table[has_prompt], labels[has_prompt]
    predictions = classify_embeddings(model, processor, kept.index, audio[has_prompt], prompts)
    predictions.insert(0, "truth", truth)
    groups = None if task.averaged_over is None else kept[task.averaged_over]
    scores = score(truth, predictions["prediction"], known_speakers(kept), groups, intervals)
    cosines = predictions[[f"cosine.{name}" for name in prompts]].to_numpy()
    scores["calibration"] = calibration(truth, class_probabilities(model, cosines), list(prompts))
    scores |= _rank_scores(model, processor, table, audio, task.target, prompts, intervals)
    scores |= {
        "target": task.target,
        "prompt_set": task.prompt_set,
        "averaged_over": task.averaged_over,
        "prompts": {name: list(texts) for name, texts in prompts.items()},
        "unused_prompts": sorted(set(prompts) - set(truth)),
        "excluded": len(table) - len(truth),
    }
    return scores, predictions


def _rank_scores(
    model: ParaCLAPModel,
    processor: ParaCLAPProcessor,
    table: pd.DataFrame,
    audio: np.ndarray,
    target: str,
    prompts: Mapping[str, Sequence[str]],
    intervals: bool,
) -> dict[str, Any]:
    """Return the threshold-free scores of two classes or of a numeric target, or none."""
    is_number = pd.api.types.is_numeric_dtype(table[target])
    poles = [LOW, HIGH] if is_number else list(prompts)
    if len(poles) != 2 or not set(poles) <= set(prompts):
        return {}
    first, second = embed_classes(model, processor, {p: prompts[p] for p in poles}).numpy()
    towards_second = audio @ (second - first)
    classes = scored_classes(table, target)
    one_of_two = classes.isin(poles).to_numpy()
    if classes[one_of_two].nunique() < 2:
        return {}
    is_second = (classes[one_of_two] == poles[1]).to_numpy()
    speakers = known_speakers(table[one_of_two])
    scores = score_poles(towards_second[one_of_two], is_second, speakers, intervals)
    if is_number:
        known = table[target].notna().to_numpy()
        numbers = table.loc[known, target].to_numpy(np.float64)
        speakers = known_speakers(table[known])
        scores |= score_numbers(towards_second[known], numbers, speakers, intervals)
    return scores


def known_speakers(table: pd.DataFrame) -> pd.Series | None:
    """Return the speakers of the clips, some of which may be missing; None if all are."""
    return table["speaker"] if "speaker" in table and table["speaker"].notna().any() else None
