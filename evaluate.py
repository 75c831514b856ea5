"""Ask a trained model about speech in words, and score its answers.

    python evaluate.py runs/demo data/synthetic -o results --split test --targets emotion gender
    python evaluate.py runs/small ravdess=/data/RAVDESS --speakers 21,22,23,24 -o results/ravdess
    python evaluate.py runs/small emodb=/data/emodb --queries sentence -o results/emodb
    python evaluate.py runs/small emodb=/data/emodb --queries my_queries.yaml -o results/mine

Each class is asked for by one text query; a clip gets the class whose query is nearest to it by
cosine. Nothing is fitted to the corpus that is scored. A SOURCE is NAME=ROOT of a known corpus, an
audformat database, a table beside its audio or a folder. With a YAML file of `class: query` lines,
classes without a line are left out, and their number is reported.

Written to the output folder, NAME being the corpus (and the target, unless that is the emotion):
scores.yaml (all figures, the queries and what was selected), NAME.csv (truth, prediction and one
cosine per class and clip) and NAME.png (confusion matrix). UAR is the mean recall of the classes
that occur (chance: one over their number); its 95 % interval resamples speakers, since clips of one
speaker resemble each other. It is coarse for a handful of speakers.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats
import torch
import torch.utils.data
import yaml
from matplotlib.figure import Figure
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, recall_score
from tqdm import tqdm

from audio import AudioError
from corpora import CorpusError, read_corpus, scored_classes
from datasets import ClipDataset, Collate, length_sorted_batches
from models import ParaCLAPModel, ParaCLAPProcessor, load_model

BATCH_SECONDS = 60.0  # padded audio in one batch
RESAMPLES = 2000
CONFIDENCE = 0.95
BOOTSTRAP_ELEMENTS = 4_000_000  # bounds the memory of the bootstrap

SELECTORS = {"split": "split", "speakers": "speaker"}  # option -> column


@torch.inference_mode()
def embed_texts(
    model: ParaCLAPModel, processor: ParaCLAPProcessor, texts: Sequence[str]
) -> torch.Tensor:
    """Embed texts in evaluation mode: (K, D) on the CPU, unit length."""
    tokens = processor.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
    tokens = tokens.to(model.device)
    return model.get_text_features(tokens.input_ids, tokens.attention_mask).pooler_output.cpu()


@torch.inference_mode()
def embed_clips(
    model: ParaCLAPModel,
    processor: ParaCLAPProcessor,
    clips: ClipDataset,
    batch_seconds: float = BATCH_SECONDS,
    workers: int = 0,
    progress: str | None = None,
) -> torch.Tensor:
    """Embed whole clips: (B, D) on the CPU in the order of `clips`, unit length.

    Args:
        model: in evaluation mode.
        processor: of the model.
        clips: what to embed.
        batch_seconds: padded audio per batch [s]; encoders that cannot leave padding out get
            one clip at a time.
        workers: processes that read audio.
        progress: text of the progress bar; None = no bar.

    Raises:
        AudioError: naming the first clip that cannot be read.
    """
    limit = batch_seconds if model.audio_branch.supports_padding else 0.0
    batches = length_sorted_batches(clips.durations(), limit)
    loader = torch.utils.data.DataLoader(
        clips, batch_sampler=batches, num_workers=workers, collate_fn=Collate(processor)
    )
    embeddings = torch.empty(len(clips), model.config.projection_dim)
    with tqdm(total=len(clips), desc=progress, unit="clip", disable=progress is None) as bar:
        for batch in loader:
            features = model.get_audio_features(
                batch["input_values"].to(model.device), batch["padding_mask"].to(model.device)
            )
            embeddings[batch["row"]] = features.pooler_output.float().cpu()
            bar.update(len(batch["row"]))
    return embeddings


def answer(
    model: ParaCLAPModel,
    processor: ParaCLAPProcessor,
    table: pd.DataFrame,
    root: str | Path,
    queries: Mapping[str, str],
    **options: Any,
) -> pd.DataFrame:
    """Give each clip of a table the class whose query is nearest.

    Args:
        model: put into evaluation mode here, and back afterwards.
        processor: of the model.
        table: corpus table whose index names the clips.
        root: folder of the clips.
        queries: class -> query.
        options: of `embed_clips`.

    Returns:
        Index of `table`, `prediction` and one cosine per class, `score.CLASS`.

    Raises:
        ValueError: if two classes share a query.
    """
    if len(set(queries.values())) < len(queries):
        raise ValueError(f"two classes share a query: {dict(queries)}")
    was_training = model.training
    model.eval()
    audio = embed_clips(model, processor, ClipDataset(table, root), **options)
    texts = embed_texts(model, processor, list(queries.values()))
    model.train(was_training)
    cosines = (audio @ texts.T).numpy()
    answers = pd.DataFrame(cosines, table.index, [f"score.{name}" for name in queries])
    answers.insert(0, "prediction", np.array(list(queries))[cosines.argmax(axis=1)])
    return answers


def score(
    truth: Sequence[str], prediction: Sequence[str], speakers: Sequence[str] | None = None
) -> dict[str, Any]:
    """Score answers over the classes that occur; a wrong answer of any class counts as wrong.

    Args:
        truth: classes.
        prediction: classes, also such that do not occur in `truth`.
        speakers: of the clips, for the interval; None = every clip counts as its own speaker.

    Returns:
        `UAR`, `ACC`, macro `F1`, `chance` (UAR of guessing), `interval` (95 %, of the UAR; None
        for a single speaker), `recall` by class, and the counts `clips`, `classes`, `speakers`.
    """
    truth, prediction = np.asarray(truth, dtype=object), np.asarray(prediction, dtype=object)
    classes = sorted(set(truth))
    options = {"labels": classes, "zero_division": 0}
    recalls = recall_score(truth, prediction, average=None, **options)
    clusters = np.arange(len(truth)) if speakers is None else np.asarray(speakers, dtype=object)
    return {
        "UAR": float(np.mean(recalls)),
        "interval": _interval(truth, prediction, clusters, classes),
        "ACC": float(accuracy_score(truth, prediction)),
        "F1": float(f1_score(truth, prediction, average="macro", **options)),
        "chance": 1 / len(classes),
        "clips": len(truth),
        "classes": len(classes),
        "speakers": None if speakers is None else len(set(clusters)),
        "recall": dict(zip(classes, map(float, recalls), strict=True)),
    }


def _interval(
    truth: np.ndarray, prediction: np.ndarray, clusters: np.ndarray, classes: list[str]
) -> list[float] | None:
    """Percentile bootstrap of the UAR over speakers (Field and Welsh 2007, cluster bootstrap)."""
    names, codes = np.unique(clusters, return_inverse=True)
    if len(names) < 2:
        return None
    is_class = truth[:, None] == np.array(classes, dtype=object)
    counts = np.zeros((2, len(names), len(classes)))  # right answers and all clips of a speaker
    np.add.at(counts[0], codes, is_class & (truth == prediction)[:, None])
    np.add.at(counts[1], codes, is_class)

    def uar(drawn: np.ndarray, axis: int) -> np.ndarray:
        hits, totals = (count[np.moveaxis(drawn, axis, -1)].sum(axis=-2) for count in counts)
        recalls = np.divide(hits, totals, out=np.full_like(hits, np.nan), where=totals > 0)
        return np.nanmean(recalls, axis=-1)  # a draw may lack a class altogether

    result = scipy.stats.bootstrap(
        (np.arange(len(names)),),
        uar,
        n_resamples=RESAMPLES,
        batch=max(1, BOOTSTRAP_ELEMENTS // (len(names) * len(classes))),
        confidence_level=CONFIDENCE,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    return [float(result.confidence_interval.low), float(result.confidence_interval.high)]


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


def evaluate_corpus(
    model: ParaCLAPModel,
    processor: ParaCLAPProcessor,
    table: pd.DataFrame,
    target: str,
    query_set: str,
    **options: Any,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Answer and score one target of one corpus.

    Args:
        model: in evaluation mode.
        processor: of the model.
        table: corpus table, with `root` in its attributes.
        target: column that holds the truth.
        query_set: name of a query set, or a YAML file of `class: query`.
        options: of `embed_clips`.

    Returns:
        Figures of `score`, with `target`, `queries`, `unused_queries` (classes that no clip has)
        and `left_out` (clips without a label or a query); and the answers with their truth.
    """
    is_file = Path(query_set).suffix in {".yaml", ".yml"}
    queries = load_queries(query_set) if is_file else queries_for(table, target, query_set)
    truth = scored_classes(table, target)
    truth = truth[truth.isin(list(queries))]
    if truth.empty:
        raise CorpusError(f"no clip of {table.attrs['name']} has a {target} that is asked for")
    kept = table.loc[truth.index]
    answers = answer(model, processor, kept, table.attrs["root"], queries, **options)
    answers.insert(0, "truth", truth)
    speakers = kept["speaker"] if "speaker" in kept and kept["speaker"].notna().all() else None
    figures = score(truth, answers["prediction"], speakers)
    figures |= {
        "target": target,
        "queries": queries,
        "unused_queries": sorted(set(queries) - set(truth)),
        "left_out": len(table) - len(truth),
    }
    return figures, answers


def plot_confusion(answers: pd.DataFrame, classes: Sequence[str], title: str) -> Figure:
    """Draw counts, shaded by the share of the true class; rows are what the clips are."""
    present = [name for name in classes if name in set(answers["truth"])]
    matrix = confusion_matrix(answers["truth"], answers["prediction"], labels=list(classes))
    matrix = matrix[[list(classes).index(name) for name in present]]
    shares = matrix / matrix.sum(axis=1, keepdims=True)
    figure = Figure(figsize=(2.2 + 0.75 * len(classes), 1.9 + 0.6 * len(present)), dpi=120)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    figure.colorbar(image, ax=axes, label="share of the true class")
    for (row, column), count in np.ndenumerate(matrix):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(count), ha="center", va="center", color=colour)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(present)), present)
    axes.set(xlabel="answer", ylabel="truth", title=title)
    figure.tight_layout()
    return figure


def format_scores(scores: Mapping[str, Mapping[str, Any]]) -> str:
    """Lay the figures out as a table, one line per corpus and target."""
    rows = []
    for name, figures in scores.items():
        interval = figures["interval"]
        rows.append(
            {
                "corpus": name,
                "clips": figures["clips"],
                "speakers": figures["speakers"] or "-",
                "classes": figures["classes"],
                "chance": f"{figures['chance']:.3f}",
                "UAR": f"{figures['UAR']:.3f}",
                "95 %": f"{interval[0]:.3f}-{interval[1]:.3f}" if interval else "-",
                "ACC": f"{figures['ACC']:.3f}",
                "F1": f"{figures['F1']:.3f}",
            }
        )
    return pd.DataFrame(rows).to_string(index=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parse(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, processor = load_model(options.model, options.device or device)
    tables = [
        select(read_corpus(source), split=options.split, speakers=options.speakers)
        for source in options.sources
    ]
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    scores: dict[str, dict[str, Any]] = {}
    for table in tables:
        for target in options.targets:
            name = table.attrs["name"] + ("" if target == "emotion" else f".{target}")
            if name in scores:
                raise CorpusError(f"two sources are called {name}")
            scores[name], answers = evaluate_corpus(
                model,
                processor,
                table,
                target,
                options.queries,
                batch_seconds=options.batch_seconds,
                workers=options.workers,
                progress=name,
            )
            answers.to_csv(output / f"{name}.csv")
            title = f"{name}: UAR {scores[name]['UAR']:.3f} (chance {scores[name]['chance']:.3f})"
            plot_confusion(answers, list(scores[name]["queries"]), title).savefig(
                output / f"{name}.png"
            )
    _write_scores(output / "scores.yaml", options, scores)
    print(format_scores(scores))
    _print_remarks(scores)
    print(f"queries: {options.queries}; written to {output}")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("model", help="run folder, its best/ or last/, or a Hub name")
    add("sources", nargs="+", metavar="SOURCE", help="corpora, e.g. ravdess=/data/RAVDESS")
    add("-o", "--output", default="results", help="folder for scores and plots")
    add("--queries", default="published", help="published, sentence, or a YAML file")
    add("--targets", nargs="+", default=["emotion"], metavar="COLUMN", help="labels asked for")
    add("--split", type=_comma_list, help="only these splits, e.g. test")
    add("--speakers", type=_comma_list, help="only these speakers, e.g. 21,22,23,24")
    add("--batch-seconds", type=float, default=BATCH_SECONDS, help="padded audio per batch [s]")
    add("--workers", type=int, default=0, help="processes that read audio")
    add("--device", help="cpu, cuda, cuda:1; default: a GPU if there is one")
    return parser.parse_args(arguments)


def _comma_list(text: str) -> list[str]:
    return [value.strip() for value in text.split(",") if value.strip()]


def _write_scores(path: Path, options: argparse.Namespace, scores: Mapping[str, Any]) -> None:
    document = {
        "model": str(options.model),
        "query_set": options.queries,
        "split": options.split,
        "speakers": options.speakers,
        "corpora": dict(scores),
    }
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
    temporary.replace(path)


def _print_remarks(scores: Mapping[str, Mapping[str, Any]]) -> None:
    for name, figures in scores.items():
        if figures["left_out"]:
            print(f"{name}: {figures['left_out']} clips left out (no label, or no query for it)")
        if figures["unused_queries"]:
            print(f"{name}: no clip is {', '.join(figures['unused_queries'])}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (AudioError, CorpusError, OSError, ValueError) as error:
        sys.exit(f"evaluate.py: {error}")
