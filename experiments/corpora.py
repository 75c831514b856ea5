"""Corpora, speaker partitions, prompts and evaluation sets of the experiments."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from paraclap.cli import features as cli_features
from paraclap.cli import template_creation
from paraclap.corpora.labels import emotion_key
from paraclap.corpora.table import read_corpus
from paraclap.data.functionals import read_functionals
from paraclap.evaluation.folds import Partition, partitions
from paraclap.evaluation.prompt_sets import class_words
from paraclap.evaluation.prompts import Prompts
from paraclap.files import make_folder, parse_yaml, write_text

PARTITIONS: dict[str, Partition] = {
    "ravdess": Partition(("19", "20"), ("21", "22", "23", "24")),
    "emodb": Partition(("11", "14"), ("15", "16")),
    "nemo": Partition(("IC0", "TP0"), ("KD0", "KS0")),
}
"""Odd actors of RAVDESS are male; in EmoDB 11 and 15, in nEMO TP0 and KS0, the others female."""
DIRECTIONS: dict[str, tuple[str, bool]] = {"ravdess": ("emodb", False), "emodb": ("ravdess", True)}
"""Training corpus -> the other test corpus, and whether its unseen classes are excluded."""
WORDINGS: Mapping[str, Prompts] = parse_yaml(
    Path(__file__).with_name("wordings.yaml").read_text(encoding="utf-8")
)
"""Group -> class -> prompts whose words occur in no caption."""


def same_class(label: str) -> str:
    """Return the adjective of an emotion, the same for both word forms ("anger", "angry")."""
    return class_words("emotion")[label]["adjective"]


def folds_of(partition: Partition, labels: pd.DataFrame) -> list[Partition]:
    """Return one partition per fold, each with as many speakers as a given one, in their order."""
    speakers = sorted(labels["speaker"].unique())
    numbers = {name: place // len(partition.test) for place, name in enumerate(speakers)}
    validated = len(partition.validation)
    found = partitions(labels["emotion"], labels["speaker"], numbers, validated)
    if missing := -len(speakers) % len(partition.test):
        # the last fold, which is shorter, skips as many speakers, as in the published results
        skipped = tuple(speakers[missing : missing + validated])
        found[-1] = replace(found[-1], validation=skipped)
    return found


# --- Features and captions -----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A corpus or a fold of it.

    Attributes:
        name: of the corpus.
        partition: of its speakers.
        root: folder of the audio.
        labels: corpus table.
        captions: path of the captions table, or of a table of labels.
        fold: number; empty = the fixed partition.
    """

    name: str
    partition: Partition
    root: Path
    labels: pd.DataFrame
    captions: Path
    fold: str = ""

    def clips(self, part: str) -> pd.DataFrame:
        """Return the labels of "train", "validation", "test" or "not validation" speakers."""
        validation, test = (
            self.labels["speaker"].isin(speakers)
            for speakers in (self.partition.validation, self.partition.test)
        )
        masks = {
            "train": ~validation & ~test,
            "validation": validation,
            "test": test,
            "not validation": ~validation,
        }
        return self.labels[masks[part]]


@dataclass(frozen=True, kw_only=True)
class PreparedCorpus(Corpus):
    """A corpus with its functionals.

    Attributes:
        functionals: same index as the labels.
        features: path of their table.
    """

    functionals: pd.DataFrame
    features: Path


def prepare(name: str, data: Path, work: Path) -> PreparedCorpus:
    """Extract features of a corpus and write captions, unless the files exist."""
    root, partition = data / name, PARTITIONS[name]
    features, captions = work / f"{name}.features.parquet", work / f"{name}.captions.parquet"
    work.mkdir(parents=True, exist_ok=True)
    if not features.exists():
        _succeed(cli_features.main([f"{name}={root}", "-o", str(features)]))
    _write_captions(features, captions, partition)
    labels = pd.read_parquet(features)
    labels.attrs["corpus"] = name
    return PreparedCorpus(
        name=name,
        partition=partition,
        root=root,
        labels=labels,
        captions=captions,
        functionals=read_functionals(features),
        features=features,
    )


def prepare_folds(corpus: PreparedCorpus, work: Path) -> list[PreparedCorpus]:
    """Return the folds of a corpus, each with captions of its own."""
    folds = []
    for fold, partition in enumerate(folds_of(corpus.partition, corpus.labels)):
        captions = work / f"{corpus.name}.{fold}.captions.parquet"
        _write_captions(corpus.features, captions, partition)
        folds.append(replace(corpus, partition=partition, captions=captions, fold=str(fold)))
    return folds


def read_labels(name: str, data: Path, work: Path) -> Corpus:
    """Read the labels of a corpus; classes have the same name in all corpora.

    There are no test speakers.
    """
    labels, partition = read_corpus(f"{name}={data / name}"), PARTITIONS[name]
    labels["emotion"] = labels["emotion"].map(emotion_key)
    labels.attrs["corpus"] = None  # prompts are those of any table of labels
    corpus = Corpus(name=name, partition=partition, root=data / name, labels=labels, captions=work)
    return divided(corpus, Partition(partition.validation, ()), work)


def divided(corpus: Corpus, partition: Partition, work: Path, fold: str = "") -> Corpus:
    """Return a corpus with another partition, and a table of labels with these splits."""
    captions = work / "labels" / f"{corpus.name}{fold and '.'}{fold}.csv"
    table = corpus.labels[["emotion", "speaker", "gender"]]
    table = table.assign(split=partition.splits(table["speaker"]))
    make_folder(captions.parent)
    write_text(captions, table.reset_index("file").to_csv(index=False))
    return replace(corpus, partition=partition, captions=captions, fold=fold)


def _write_captions(features: Path, captions: Path, partition: Partition) -> None:
    if not captions.exists():
        held_out = ["--validation-speakers", ",".join(partition.validation)]
        held_out += ["--test-speakers", ",".join(partition.test)]
        _succeed(template_creation.main([str(features), "-o", str(captions), *held_out]))


def _succeed(code: int) -> None:
    if code:
        raise RuntimeError("features or captions could not be computed, see above")


# --- Evaluation sets -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A kind of evaluation set.

    Attributes:
        speakers: argument of `PreparedCorpus.clips`.
        crosses: whether the clips come from the corpus that was not trained on.
        wording: group of `WORDINGS`; None = the prompts of the validation of the run.
    """

    speakers: str
    crosses: bool = False
    wording: str | None = None


PARTS: Mapping[str, Part] = {
    "validation": Part("validation"),
    "validation, other corpus": Part("validation", crosses=True),
    "test": Part("test"),
    "test, other corpus": Part("not validation", crosses=True),
    **{f"test, {group}": Part("test", wording=group) for group in WORDINGS},
}
FOLD = "cross-validation"


@dataclass(frozen=True)
class EvaluationSet:
    """Clips and prompts on which a model is evaluated.

    Attributes:
        direction: name of the corpus, or "training corpus -> test corpus".
        part: of `PARTS`, or `FOLD`.
        corpus: the test corpus.
        clips: rows of its labels.
        wording: see `Part`.
    """

    direction: str
    part: str
    corpus: Corpus
    clips: pd.DataFrame
    wording: str | None = None


def evaluation_sets(
    own: PreparedCorpus, other: PreparedCorpus, final: bool
) -> Iterator[EvaluationSet]:
    """Yield the evaluation sets of a model trained on `own`, test speakers only if `final`."""
    for name, part in PARTS.items():
        if part.speakers != "validation" and not final:
            continue
        tested, direction = own, own.name
        if part.crosses:
            tested, direction = other, f"{own.name} -> {other.name}"
        clips = tested.clips(part.speakers)
        if part.crosses and DIRECTIONS[own.name][1]:
            known = {same_class(label) for label in own.labels["emotion"]}
            clips = clips[clips["emotion"].map(same_class).isin(known)]
        yield EvaluationSet(direction, name, tested, clips, part.wording)
