"""Corpora, speaker partitions, prompts and evaluation sets of the comparison in RESULTS.md."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import yaml

from paraclap.cli import features as cli_features
from paraclap.cli import template_creation
from paraclap.data.functionals import read_functionals
from paraclap.evaluation.prompt_sets import class_words
from paraclap.evaluation.prompts import Prompts

# --- Corpora -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Corpus:
    """A corpus and its speaker partitions; all other speakers are in the training set.

    Attributes:
        source: argument of features.py; {data} is replaced by the folder of the corpora.
        root: folder of its audio files.
        validation: speakers on which checkpoints and recipes are chosen.
        test: speakers held out from every choice.
        folds: number of test and of validation speakers in each cross-validation fold.
    """

    source: str
    root: str
    validation: tuple[str, ...]
    test: tuple[str, ...]
    folds: tuple[int, int] = (2, 2)


CORPORA_COMPARED: dict[str, Corpus] = {
    "ravdess": Corpus(
        "ravdess={data}/ravdess", "{data}/ravdess", ("19", "20"), ("21", "22", "23", "24"), (4, 2)
    ),
    "emodb": Corpus("emodb={data}/emodb", "{data}/emodb", ("11", "14"), ("15", "16")),
}
"""Odd actors of RAVDESS are male; in EmoDB 11 and 15 are male, 14 and 16 female."""

DIRECTIONS: dict[str, tuple[str, bool]] = {"ravdess": ("emodb", False), "emodb": ("ravdess", True)}
"""Training corpus -> the other test corpus, and whether its unseen classes are excluded."""

SPEAKERS: Mapping[str, Callable[[Corpus, str], bool]] = {
    "train": lambda corpus, s: s not in (*corpus.validation, *corpus.test),
    "validation": lambda corpus, s: s in corpus.validation,
    "test": lambda corpus, s: s in corpus.test,
    "not validation": lambda corpus, s: s not in corpus.validation,
}
"""Partition -> whether it contains a speaker of a corpus."""


def speakers_of(corpus: Corpus, partition: str, everyone: Sequence[str]) -> list[str]:
    """Return the speakers of a partition of `SPEAKERS`."""
    return [speaker for speaker in everyone if SPEAKERS[partition](corpus, speaker)]


def folds_of(corpus: Corpus, everyone: Sequence[str]) -> list[Corpus]:
    """Return one partition per fold; each speaker is tested once, the next ones validate."""
    tested, validated = corpus.folds
    speakers = sorted(everyone)
    around = [*speakers, *speakers]
    return [
        replace(
            corpus,
            test=tuple(speakers[first : first + tested]),
            validation=tuple(around[first + tested : first + tested + validated]),
        )
        for first in range(0, len(speakers), tested)
    ]


def same_class(label: str) -> str:
    """Return the adjective of an emotion, the same for both word forms ("anger", "angry")."""
    return class_words("emotion")[label]["adjective"]


# --- Prompts and parts ---------------------------------------------------------------------------


def load_wordings() -> dict[str, Prompts]:
    """Read group -> class -> prompts whose words occur in no caption."""
    path = Path(__file__).with_name("wordings.yaml")
    groups = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {
        group: {label: tuple(wordings) for label, wordings in classes.items()}
        for group, classes in groups.items()
    }


WORDINGS: Mapping[str, Prompts] = load_wordings()


@dataclass(frozen=True)
class Part:
    """A test set: speakers, corpus and prompts.

    Attributes:
        speakers: partition of `SPEAKERS`.
        crosses: whether the clips come from the corpus that was not trained on.
        is_final: whether it is evaluated only with --final.
        wording: group of `WORDINGS`; None = the prompts of the validation of the run.
    """

    speakers: str
    crosses: bool = False
    is_final: bool = False
    wording: str | None = None


PARTS: Mapping[str, Part] = {
    "validation": Part("validation"),
    "validation, other corpus": Part("validation", crosses=True),
    "test": Part("test", is_final=True),
    "test, other corpus": Part("not validation", crosses=True, is_final=True),
    **{f"test, {group}": Part("test", is_final=True, wording=group) for group in WORDINGS},
}
FOLD = "cross-validation"


# --- Features and captions -----------------------------------------------------------------------


@dataclass
class PreparedCorpus:
    """Features and captions of a corpus or of a fold of it.

    Attributes:
        name: of the corpus.
        corpus: speaker partitions.
        labels: index file, start, end.
        functionals: same index.
        features: path of their table.
        captions: path.
        root: folder of the audio.
        fold: number; None = the fixed partition.
    """

    name: str
    corpus: Corpus
    labels: pd.DataFrame
    functionals: pd.DataFrame
    features: Path
    captions: Path
    root: str
    fold: int | None = None

    @property
    def key(self) -> str:
        """Corpus and fold."""
        return self.name if self.fold is None else f"{self.name}.{self.fold}"

    def clips(self, partition: str) -> pd.DataFrame:
        """Return the labels of the speakers in a partition of `SPEAKERS`."""
        everyone = sorted(self.labels["speaker"].unique())
        chosen = speakers_of(self.corpus, partition, everyone)
        return self.labels[self.labels["speaker"].isin(chosen)]


def prepare(name: str, data: str, work: Path) -> PreparedCorpus:
    """Extract features of a corpus and write captions, unless the files exist.

    Raises:
        RuntimeError: if a script fails.
    """
    corpus = CORPORA_COMPARED[name]
    features, captions = work / f"{name}.features.parquet", work / f"{name}.captions.parquet"
    work.mkdir(parents=True, exist_ok=True)
    if not features.exists():
        _succeed(cli_features.main([corpus.source.format(data=data), "-o", str(features)]))
    _write_captions(features, captions, corpus)
    labels = pd.read_parquet(features)
    labels.attrs["corpus"] = name
    functionals = read_functionals(features)
    root = corpus.root.format(data=data)
    return PreparedCorpus(name, corpus, labels, functionals, features, captions, root)


def prepare_folds(prepared: PreparedCorpus, work: Path) -> list[PreparedCorpus]:
    """Return the folds of a corpus, each with captions of its own."""
    folds = []
    for fold, corpus in enumerate(folds_of(prepared.corpus, prepared.labels["speaker"].unique())):
        captions = work / f"{prepared.name}.{fold}.captions.parquet"
        _write_captions(prepared.features, captions, corpus)
        folds.append(replace(prepared, corpus=corpus, captions=captions, fold=fold))
    return folds


def _write_captions(features: Path, captions: Path, corpus: Corpus) -> None:
    if not captions.exists():
        parts = ["--validation-speakers", ",".join(corpus.validation)]
        parts += ["--test-speakers", ",".join(corpus.test)]
        _succeed(template_creation.main([str(features), "-o", str(captions), *parts]))


def _succeed(code: int) -> None:
    if code:
        raise RuntimeError("features or captions could not be computed, see above")


# --- Evaluation sets -----------------------------------------------------------------------------


@dataclass
class EvaluationSet:
    """Clips on which a model is evaluated.

    Attributes:
        direction: name of the corpus, or "training corpus -> test corpus".
        part: of `PARTS`, or `FOLD`.
        prepared: the test corpus.
        clips: rows of its labels.
    """

    direction: str
    part: str
    prepared: PreparedCorpus
    clips: pd.DataFrame


def evaluation_sets(own: PreparedCorpus, other: PreparedCorpus, final: bool) -> list[EvaluationSet]:
    """Return the evaluation sets of a model trained on `own`."""
    sets = []
    for name, part in PARTS.items():
        if final or not part.is_final:
            direction = f"{own.name} -> {other.name}" if part.crosses else own.name
            tested = other if part.crosses else own
            sets.append(EvaluationSet(direction, name, tested, clips_of(name, own, other)))
    return sets


def clips_of(part: str, own: PreparedCorpus, other: PreparedCorpus) -> pd.DataFrame:
    """Return the clips of a part for a model trained on `own`."""
    speakers = PARTS[part].speakers
    if not PARTS[part].crosses:
        return own.clips(speakers)
    clips = other.clips(speakers)
    if not DIRECTIONS[own.name][1]:
        return clips
    known = {same_class(label) for label in own.labels["emotion"]}
    kept = clips[clips["emotion"].map(same_class).isin(known)]
    kept.attrs = clips.attrs
    return kept
