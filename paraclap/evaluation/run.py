"""Evaluation of a model on corpora: embeddings, zero-shot and closed-set scores, retrieval."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse

from paraclap.acoustics.egemaps import Extractor, undefined_rules
from paraclap.audio.recordings import Files, Recordings
from paraclap.audio.waveform_cache import cache_waveforms
from paraclap.corpora import CorpusError
from paraclap.corpora.catalogue import CORPORA
from paraclap.corpora.table import scored_classes
from paraclap.data.captions import caption_texts, text_key
from paraclap.data.dataset import ClipDataset
from paraclap.data.functionals import measured_functionals
from paraclap.data.trained_on import untrained_classes
from paraclap.distributed import rank
from paraclap.evaluation.adaptation import reference_of
from paraclap.evaluation.embed import check_tokens, embed_clips, embed_texts
from paraclap.evaluation.figures import (
    DRAWN_CLASSES,
    plot_calibration,
    plot_confusion,
    score_title,
)
from paraclap.evaluation.report import Results
from paraclap.evaluation.retrieval import score_retrieval
from paraclap.evaluation.seen import TEST, seen_counts
from paraclap.evaluation.tasks import Source, scored_labels, task_prompts
from paraclap.evaluation.zero_shot import evaluate_task, known_speakers
from paraclap.files import safe_name, write_text
from paraclap.model.modeling_paraclap import (
    FunctionalsFeatureExtractor,
    ParaCLAPModel,
    ParaCLAPProcessor,
)
from paraclap.style import write_figure

DESCRIPTIONS = (  # no scores
    *("target", "prompt_set", "averaged_over", "prompts", "unused_prompts", "excluded"),
)


def evaluate(
    model: ParaCLAPModel,
    processor: ParaCLAPProcessor,
    sources: Sequence[Source],
    output: Path,
    closed_set: bool = False,
    waveform_cache: Path | None = None,
    adapt: bool = False,
    figure_format: str = "png",
    **options: Any,
) -> Results:
    """Evaluate a model on corpora; the predictions are written as CSV and as figures.

    Args:
        model: in evaluation mode.
        processor: of the model.
        sources: corpora with their tasks.
        output: existing folder.
        closed_set: also score logistic regression on the embeddings, and on the functionals of the
            sources, which are measured unless the sources have them.
        waveform_cache: folder to read audio from, written if needed; None reads the files.
        adapt: also score the embeddings minus the mean embedding of all clips of their source,
            with or without a label.
        figure_format: of the figures, one of `paraclap.style.FORMATS`.
        options: of `embed_clips`.

    Returns:
        The results; empty in all but the first of several processes.
    """
    results = Results()
    for source in sources:
        check_tasks(processor, source, closed_set)  # before a clip is embedded
    for source in sources:
        captions = None if source.captions is None else caption_texts(source.captions)
        chosen = source.is_labelled()
        if captions is not None:
            chosen |= source.table.index.isin(captions.index)
        if adapt:
            chosen[:] = True  # clips without a label are part of the mean
        table = source.table[chosen]
        clips = ClipDataset(table, _recordings(table, waveform_cache), examine=True)
        audio = embed_clips(model, processor, clips, progress=source.name, **options).numpy()
        if rank():
            continue  # the first process scores and writes
        adapted = reference_of(audio, source.name).centred(audio) if adapt else None
        inputs = {"embeddings": audio}
        if closed_set and source.tasks:
            inputs["eGeMAPS"] = _functionals(source, table, waveform_cache)
        probes: dict[tuple[str, ...], dict[str, Any]] = {}
        for task in source.tasks:
            scores, predictions = evaluate_task(model, processor, table, audio, task)
            labels = scored_labels(table, task).drop(columns="truth")
            predictions = predictions.join(labels)
            predictions["quality"] = pd.Series(clips.quality, table.index)[predictions.index]
            if adapted is not None:
                others, found = evaluate_task(model, processor, table, adapted, task)
                predictions["adapted_prediction"] = found["prediction"]
                scores["adapted"] = {"reference_clips": len(adapted)} | {
                    name: value for name, value in others.items() if name not in DESCRIPTIONS
                }
            scores |= _about_clips(source, predictions)
            scores["untrained"] = untrained_classes(model.config, task.target, scores["prompts"])
            scores["excluded"] += int((~chosen).sum())
            results.corpora[task.name] = scores
            write_predictions(output, task.name, scores, predictions, figure_format)
            corpus = CORPORA.get(table.attrs["corpus"])
            if corpus and task.target == corpus.target:
                results.references[task.name] = corpus.printed
            if closed_set:
                results.closed_set[task.name] = _closed_set(table, inputs, predictions, probes)
        if captions is not None:
            results.retrieval[source.name] = evaluate_retrieval(
                model, processor, table, audio, captions
            )
        if not source.tasks:
            results.unlabelled[source.name] = seen_counts(table, source.seen)["text"]
    return results


def _recordings(table: pd.DataFrame, waveform_cache: Path | None) -> Recordings:
    root = table.attrs["root"]
    if waveform_cache is None:
        return Files(root)
    return cache_waveforms(waveform_cache, root, table.index.get_level_values("file"))


def _about_clips(source: Source, predictions: pd.DataFrame) -> dict[str, Any]:
    """Return what else is stated about the scored clips."""
    scored, quality = source.table.loc[predictions.index], predictions["quality"]
    return {
        "split": TEST if source.only_test else None,
        "quality": quality[quality != ""].value_counts().to_dict(),
        "trained_on": seen_counts(scored, source.seen),
        "left_out": 0 if source.seen is None else len(source.seen) - len(source.table),
    }


def check_tasks(processor: ParaCLAPProcessor, source: Source, closed_set: bool = False) -> None:
    """Check everything about a source that does not depend on its audio.

    Raises:
        PromptError: see `check_tokens`.
        CorpusError: if speakers or captions are missing for closed-set scores or for retrieval.
        ProbeError: see `probe_folds`.
    """
    if closed_set:
        from paraclap.evaluation.probe import probe_folds  # here as in `_closed_set`
    for task in source.tasks:
        prompts = task_prompts(source.table, task)
        check_tokens(processor, prompts)
        if closed_set:
            classes = scored_classes(source.table, task.target)
            chosen = classes.isin(list(prompts)).to_numpy()
            truth, speakers = classes[chosen], _probe_speakers(source.table[chosen])
            known = speakers.notna().to_numpy()
            probe_folds(truth[known].to_numpy(), speakers[known].to_numpy())
    if source.captions is not None:
        _known_captions(source.table, caption_texts(source.captions))


def write_predictions(
    output: Path, name: str, scores: dict[str, Any], predictions: pd.DataFrame, suffix: str
) -> None:
    """Write the predictions, their confusion matrix unless it is too large, and calibration."""
    stem, title, classes = safe_name(name), score_title(name, scores), list(scores["prompts"])
    write_text(output / f"{stem}.csv", predictions.to_csv())
    if len(classes) <= DRAWN_CLASSES:
        figure = plot_confusion(predictions, classes, title)
        write_figure(figure, output / f"{stem}.confusion.{suffix}")
    figure = plot_calibration(scores["calibration"], title)
    write_figure(figure, output / f"{stem}.calibration.{suffix}")


def _functionals(source: Source, table: pd.DataFrame, waveform_cache: Path | None) -> np.ndarray:
    """Return the eGeMAPS functionals of the clips of a table (B, F), of its source or measured."""
    found = source.functionals
    if found is None:
        names = Extractor("egemaps").names
        extractor = FunctionalsFeatureExtractor(names=names, undefined=undefined_rules(names))
        recordings = _recordings(table, waveform_cache)
        labelled = table.index[table.index.isin(source.table.index[source.is_labelled()])]
        found = measured_functionals(extractor, recordings, labelled)
    return found.reindex(table.index).to_numpy()


def _closed_set(
    table: pd.DataFrame,
    inputs: Mapping[str, np.ndarray],
    predictions: pd.DataFrame,
    done: dict[tuple[str, ...], dict[str, Any]],
) -> dict[str, Any]:
    """Probe the clips with predictions, once for all prompt sets with the same clips."""
    from paraclap.evaluation.probe import probe  # takes 0.1 s to import

    chosen = table.index.isin(predictions.index)
    speakers = _probe_speakers(table[chosen])
    truth = predictions["truth"]
    key = tuple(truth.reindex(table.index).fillna(""))
    if key not in done:
        done[key] = {
            name: probe(values[chosen], truth, speakers) for name, values in inputs.items()
        }
    return done[key]


def _probe_speakers(table: pd.DataFrame) -> pd.Series:
    speakers = known_speakers(table)
    if speakers is None:
        raise CorpusError(f"--closed-set requires the speakers of {table.attrs['name']}")
    return speakers


def evaluate_retrieval(
    model: ParaCLAPModel,
    processor: ParaCLAPProcessor,
    table: pd.DataFrame,
    audio: np.ndarray,
    captions: pd.Series,
) -> dict[str, Any]:
    """Retrieve clips by caption and captions by clip; all clips of equal captions are relevant.

    Clips are given by their embeddings (B, D), captions as in `caption_texts`; clips of the corpus
    table without a caption are excluded.

    Returns:
        Scores of `score_retrieval`: `text_to_audio` over the distinct captions, and `audio_to_text`
        over the clips.

    Raises:
        CorpusError: if there are fewer than two distinct captions.
    """
    texts = _known_captions(table, captions)
    known = table.index.isin(texts.index)
    kinds, _ = pd.factorize(texts.map(text_key))
    owners = table.index[known].get_indexer(texts.index)
    matches = scipy.sparse.csr_array((np.ones(len(kinds), bool), (owners, kinds)))
    distinct = texts[~pd.Series(kinds).duplicated().to_numpy()].tolist()
    return score_retrieval(
        audio[known],
        embed_texts(model, processor, distinct).numpy(),
        lambda clips, captions: matches[clips, captions].toarray(),
        kinds,
        known_speakers(table[known]),
        owners=owners,
    )


def _known_captions(table: pd.DataFrame, captions: pd.Series) -> pd.Series:
    """Return the captions of the clips of a corpus table that have one."""
    texts = captions[captions.index.isin(table.index)]
    if (distinct := texts.nunique()) < 2:
        raise CorpusError(
            f"{len(texts)} of {len(table)} clips of {table.attrs['name']} have a caption, "
            f"{distinct} of them distinct; expected at least two"
        )
    return texts
