"""Zero-shot evaluation: classify clips by prompts, score, retrieve, report."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml

from paraclap.audio.recordings import Files, Recordings
from paraclap.audio.waveform_cache import cache_waveforms
from paraclap.corpora.catalogue import CORPORA
from paraclap.corpora.readers import CorpusError
from paraclap.corpora.table import HIGH, LOW, read_corpus, scored_classes
from paraclap.data.captions import caption_texts
from paraclap.data.dataset import ClipDataset
from paraclap.distributed import rank
from paraclap.evaluation.embed import (
    EmbeddingCache,
    audio_fingerprint,
    embed_classes,
    embed_clips,
    embed_texts,
    probabilities_of,
)
from paraclap.evaluation.metrics import (
    calibration,
    score,
    score_numbers,
    score_poles,
    score_retrieval,
)
from paraclap.evaluation.probe import probe
from paraclap.evaluation.prompts import PUBLISHED, prompts_for
from paraclap.evaluation.report import (
    markdown_page,
    plot_answers,
    recall_rows,
    retrieval_rows,
    score_rows,
)
from paraclap.files import atomic_write, write_text
from paraclap.model.engines import load_engine
from paraclap.model.modeling_paraclap import ParaCLAPModel, ParaCLAPProcessor

SELECTORS = {"split": "split", "speakers": "speaker"}  # option -> column
TEXT_BATCH = 256


@dataclass(frozen=True)
class Question:
    """One thing to ask of a corpus.

    Attributes:
        name: of its figures and files.
        target: column of labels.
        prompt_set: name of a prompt set, or a YAML file.
        averaged_over: column whose values are scored apart, and then averaged; None = all at once.
    """

    name: str
    target: str
    prompt_set: str
    averaged_over: str | None = None


@dataclass
class Results:
    """Everything that was measured: name -> figures."""

    corpora: dict[str, dict[str, Any]] = field(default_factory=dict)
    probe: dict[str, dict[str, Any]] = field(default_factory=dict)
    retrieval: dict[str, dict[str, Any]] = field(default_factory=dict)
    references: dict[str, Mapping[str, float]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


# --- Answers -------------------------------------------------------------------------------------


def classify(
    model: ParaCLAPModel,
    processor: ParaCLAPProcessor,
    index: pd.Index,
    audio: np.ndarray,
    prompts: Mapping[str, Sequence[str]],
) -> pd.DataFrame:
    """Give each clip the class whose prompt is nearest.

    Args:
        model: in evaluation mode.
        processor: of the model.
        index: of the clips (B,).
        audio: their embeddings (B, D).
        prompts: class -> wordings, whose embeddings are averaged.

    Returns:
        `prediction`, `confidence` (probability of that class: softmax of the scaled cosines) and
        one cosine per class, `score.CLASS`.

    Raises:
        ValueError: if two classes share a wording.
    """
    cosines = audio @ embed_classes(model, processor, prompts).numpy().T
    answers = pd.DataFrame(cosines, index, [f"score.{name}" for name in prompts])
    best = probabilities_of(model, cosines).max(axis=1)
    prediction = np.array(list(prompts), dtype=object)[cosines.argmax(axis=1)]
    answers.insert(0, "prediction", prediction)
    answers.insert(1, "confidence", best)
    return answers


def answer(
    model: ParaCLAPModel,
    processor: ParaCLAPProcessor,
    table: pd.DataFrame,
    recordings: str | Path | Recordings,
    prompts: Mapping[str, Sequence[str]],
    clips: ClipDataset | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Embed the clips of a corpus table, and classify them.

    Args:
        model: put into evaluation mode here, and back afterwards.
        processor: of the model.
        table: corpus table whose index names the clips.
        recordings: folder of the clips, or where else they are read.
        prompts: class -> wordings.
        clips: the same clips, read in another way; None = from their files.
        options: of `embeddings.embed_clips`.

    Returns:
        See `classify`.
    """
    was_training = model.training
    model.eval()
    clips = clips or ClipDataset(table, recordings)
    audio = embed_clips(model, processor, clips, **options)
    answers = classify(model, processor, table.index, audio.numpy(), prompts)
    model.train(was_training)
    return answers


def evaluate_target(
    model: ParaCLAPModel,
    processor: ParaCLAPProcessor,
    table: pd.DataFrame,
    audio: np.ndarray,
    question: Question,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Ask one question of one corpus, and score the answers.

    Args:
        model: in evaluation mode.
        processor: of the model.
        table: corpus table.
        audio: embeddings of its clips (B, D).
        question: what is asked.

    Returns:
        Figures of `scoring.score`, with `calibration`, `target`, `prompt_set`, `prompts`,
        `unused_prompts` (classes that no clip has), `excluded` (clips without a label or a prompt),
        for two opposed classes those of `score_poles`, and for numbers those of `score_numbers`;
        and the answers with their truth.
    """
    prompts = prompts_for(table, question.target, question.prompt_set)
    labels = scored_classes(table, question.target)
    asked = labels.isin(list(prompts)).to_numpy()
    if not asked.any():
        raise CorpusError(
            f"no clip of {table.attrs['name']} has a {question.target} that is asked for"
        )
    kept, truth = table[asked], labels[asked]
    answers = classify(model, processor, kept.index, audio[asked], prompts)
    answers.insert(0, "truth", truth)
    speakers, groups = known_speakers(kept), question.averaged_over
    figures = score(
        truth, answers["prediction"], speakers, None if groups is None else kept[groups]
    )
    cosines = answers[[f"score.{name}" for name in prompts]].to_numpy()
    probabilities = probabilities_of(model, cosines)
    figures["calibration"] = calibration(truth, probabilities, list(prompts))
    figures |= _opposed(model, processor, table, audio, question.target, prompts)
    figures |= {
        "target": question.target,
        "prompt_set": question.prompt_set,
        "prompts": {name: list(wordings) for name, wordings in prompts.items()},
        "unused_prompts": sorted(set(prompts) - set(truth)),
        "excluded": len(table) - len(truth),
    }
    return figures, answers


def _opposed(
    model: ParaCLAPModel,
    processor: ParaCLAPProcessor,
    table: pd.DataFrame,
    audio: np.ndarray,
    target: str,
    prompts: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """Figures that need no threshold: of numbers asked for by two poles, or of two classes."""
    is_number = pd.api.types.is_numeric_dtype(table[target])
    poles = [LOW, HIGH] if is_number else list(prompts)
    if len(poles) != 2 or not set(poles) <= set(prompts):
        return {}
    asked = {name: prompts[name] for name in poles}
    first, second = embed_classes(model, processor, asked).numpy()
    towards_second = audio @ (second - first)
    classes = scored_classes(table, target)
    one_of_two = classes.isin(poles).to_numpy()
    if classes[one_of_two].nunique() < 2:
        return {}
    kept = table[one_of_two]
    is_second = (classes[one_of_two] == poles[1]).to_numpy()
    figures = score_poles(towards_second[one_of_two], is_second, known_speakers(kept))
    if is_number:
        known = table[target].notna().to_numpy()
        numbers = table.loc[known, target].to_numpy(np.float64)
        speakers = known_speakers(table[known])
        figures |= score_numbers(towards_second[known], numbers, speakers)
    return figures


def known_speakers(table: pd.DataFrame) -> pd.Series | None:
    """Speakers of the clips; None if any is unknown."""
    known = "speaker" in table and table["speaker"].notna().all()
    return table["speaker"] if known else None


def evaluate_retrieval(
    model: ParaCLAPModel,
    processor: ParaCLAPProcessor,
    table: pd.DataFrame,
    audio: np.ndarray,
    captions: pd.Series,
) -> dict[str, Any]:
    """Find clips by caption and captions by clip; equal captions are all right.

    Args:
        model: in evaluation mode.
        processor: of the model.
        table: corpus table.
        audio: embeddings of its clips (B, D).
        captions: text of each clip, on the index of the table; clips without one are left out.

    Returns:
        Figures of `scoring.score_retrieval`: `text_to_audio` over the distinct captions, and
        `audio_to_text` over the clips.

    Raises:
        CorpusError: if fewer than two clips, or captions, are there.
    """
    texts = captions.reindex(table.index)
    known = texts.notna().to_numpy()
    kinds, distinct = pd.factorize(texts[known])
    if len(distinct) < 2:
        raise CorpusError(
            f"{known.sum()} of {len(table)} clips of {table.attrs['name']} have a caption, "
            f"{len(distinct)} of them distinct; expected at least two"
        )
    parts = [
        embed_texts(model, processor, distinct[first : first + TEXT_BATCH].tolist())
        for first in range(0, len(distinct), TEXT_BATCH)
    ]
    clips, texts = audio[known], torch.cat(parts).numpy()
    numbers = np.arange(len(distinct))
    return {
        "text_to_audio": score_retrieval(texts, clips, numbers, kinds),
        "audio_to_text": score_retrieval(
            clips, texts, kinds, numbers, known_speakers(table[known])
        ),
    }


# --- What is scored ------------------------------------------------------------------------------


def select(table: pd.DataFrame, **wanted: Sequence[str] | None) -> pd.DataFrame:
    """Keep the rows of the named splits and speakers; None keeps all.

    Raises:
        CorpusError: if the table lacks the column or a value that was asked for.
    """
    for option, values in wanted.items():
        if values is None:
            continue
        column = SELECTORS[option]
        if column not in table:
            raise CorpusError(f"--{option}: the corpus has no column {column!r}")
        unknown = sorted(set(values) - set(table[column]))
        if unknown:
            known = sorted(table[column].dropna().unique())
            raise CorpusError(f"--{option}: {unknown} not in the corpus, which has {known}")
        table = table[table[column].isin(values)]
    return table


def select_published(table: pd.DataFrame) -> pd.DataFrame:
    """Keep the part of a corpus that the paper scores.

    Raises:
        CorpusError: if it is no corpus of CORPORA, or the part is not there.
    """
    if table.attrs["corpus"] is None:
        raise CorpusError(
            f"--protocol paper: {table.attrs['name']} is no known corpus, give it as NAME=ROOT"
        )
    for column, value in CORPORA[table.attrs["corpus"]].part.items():
        found = table[column].dropna().unique() if column in table else []
        if value not in found:
            raise CorpusError(
                f"--protocol paper: {table.attrs['name']} has no {column} {value!r}, "
                f"only {sorted(found)}"
            )
        table = table[table[column] == value]
    return table


def questions_for(table: pd.DataFrame, options: argparse.Namespace) -> list[Question]:
    """What is asked of a corpus, by protocol or by the options."""
    corpus = table.attrs["name"]
    if options.protocol:
        known = CORPORA[table.attrs["corpus"]]
        return [Question(corpus, known.target, PUBLISHED, known.averaged_over)]
    questions = []
    for target in options.targets:
        for prompt_set in options.prompts:
            parts = [corpus, *([target] if target != "emotion" else [])]
            parts += [Path(prompt_set).stem] if len(options.prompts) > 1 else []
            questions.append(Question(".".join(parts), target, prompt_set))
    return questions


def _scored_rows(table: pd.DataFrame, questions: Sequence[Question]) -> np.ndarray:
    """Rows with a label for any of the questions."""
    known = [scored_classes(table, question.target).notna() for question in questions]
    return np.any(known, axis=0)


def evaluate(options: argparse.Namespace, device: torch.device) -> None:
    """Embed, ask, score and write as the options of the command line say."""
    model, processor = load_engine(options.model, options.engine, options.precision, str(device))
    cache = None
    if options.cache is not None:
        cache = EmbeddingCache(options.cache, audio_fingerprint(model, processor))
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    results = Results()
    for source, table, captions in _read_sources(options):
        questions = questions_for(table, options)
        taken = [q.name for q in questions if q.name in results.corpora]
        if taken:
            raise CorpusError(f"{source}: two sets of figures are called {taken[0]}")
        scored = _scored_rows(table, questions)
        if captions is not None:
            scored |= table.index.isin(captions.index)
        exclude, table = int((~scored).sum()), table[scored]
        audio = embed_clips(
            model,
            processor,
            ClipDataset(table, _recordings(table, options)),
            batch_seconds=options.batch_seconds,
            workers=options.workers,
            progress=table.attrs["name"],
            cache=cache,
        ).numpy()
        if rank():
            continue  # the first process scores and writes
        probes: dict[tuple[str, ...], dict[str, Any]] = {}
        for question in questions:
            figures, answers = evaluate_target(model, processor, table, audio, question)
            figures["excluded"] += exclude
            _keep(results, output, table, question, figures, answers)
            if options.probe:
                results.probe[question.name] = _probe(table, audio, answers, probes)
        if captions is not None:
            results.retrieval[table.attrs["name"]] = evaluate_retrieval(
                model, processor, table, audio, captions
            )
    if rank() == 0:
        _report(results, options, output)


def _read_sources(
    options: argparse.Namespace,
) -> list[tuple[str, pd.DataFrame, pd.Series | None]]:
    """Return each source with its selected table, and its captions if there are any."""
    captions = options.retrieval or [None] * len(options.sources)
    sources = []
    for source, path in zip(options.sources, captions, strict=True):
        table = read_corpus(source)
        if options.protocol:
            table = select_published(table)
        else:
            table = select(table, split=options.split, speakers=options.speakers)
        texts = None if path is None else caption_texts(pd.read_parquet(path))
        sources.append((source, table, texts))
    return sources


def _recordings(table: pd.DataFrame, options: argparse.Namespace) -> Recordings:
    """Where the clips of a corpus are read: from their files, or from a pack of them."""
    root = table.attrs["root"]
    if options.waveform_cache is None:
        return Files(root)
    return cache_waveforms(options.waveform_cache, root, table.index.get_level_values("file"))


def _probe(
    table: pd.DataFrame,
    audio: np.ndarray,
    answers: pd.DataFrame,
    done: dict[tuple[str, ...], dict[str, Any]],
) -> dict[str, Any]:
    """Probe the clips that were asked about; the words do not matter, so once for all of them."""
    chosen = table.index.isin(answers.index)
    speakers = known_speakers(table[chosen])
    if speakers is None:
        raise CorpusError(f"--probe: {table.attrs['name']} does not tell the speaker of every clip")
    truth = answers["truth"]
    key = tuple(truth.reindex(table.index).fillna(""))
    if key not in done:
        done[key] = probe(audio[chosen], truth, speakers)
    return done[key]


def _keep(
    results: Results,
    output: Path,
    table: pd.DataFrame,
    question: Question,
    figures: dict[str, Any],
    answers: pd.DataFrame,
) -> None:
    """Add figures to the results, and write answers and picture."""
    name = question.name
    results.corpora[name] = figures
    with atomic_write(output / f"{name}.csv") as temporary:
        answers.to_csv(temporary)
    title = f"{name}: UAR {figures['UAR']:.3f} (chance {figures['chance']:.3f})"
    picture = plot_answers(answers, list(figures["prompts"]), figures["calibration"], title)
    with atomic_write(output / f"{name}.png") as temporary:
        picture.savefig(temporary, format="png")
    known = CORPORA.get(table.attrs["corpus"])
    if known and question.target == known.target:
        results.references[name] = known.printed
    if figures["excluded"]:
        results.remarks.append(
            f"{name}: {figures['excluded']} clips excluded (no label, or no prompt for it)"
        )
    if figures["unused_prompts"]:
        results.remarks.append(f"{name}: no clip is {', '.join(figures['unused_prompts'])}")


def _report(results: Results, options: argparse.Namespace, output: Path) -> None:
    """Print the tables, and write scores.yaml and scores.md."""
    if options.reference and not options.protocol:
        results.remarks.append(
            "the figures in print were scored by the protocol of the paper (--protocol paper)"
        )
    about = {
        "model": str(options.model),
        "protocol": options.protocol,
        "prompt_set": options.prompts[0] if len(options.prompts) == 1 else options.prompts,
        "split": options.split,
        "speakers": options.speakers,
    }
    measured = {name: getattr(results, name) for name in ("corpora", "probe", "retrieval")}
    document = about | {name: figures for name, figures in measured.items() if figures}
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    write_text(output / "scores.yaml", text)
    references = results.references if options.reference else {}
    tables = [score_rows(results.corpora, results.probe, references)]
    if results.retrieval:
        tables.append(retrieval_rows(results.retrieval))
    page = markdown_page(about, [*tables, recall_rows(results.corpora)], results.remarks)
    write_text(output / "scores.md", page)
    for lines in (*(table.to_string(index=False) for table in tables), *results.remarks):
        print(lines)
    print(f"prompts: {', '.join(options.prompts)}; written to {output}")
