r"""Leave one corpus out: train on two of RAVDESS, EmoDB and nEMO, test zero-shot on the third.

    python -m experiments.transfer --data /data --encoders /encoders
    python -m experiments.transfer --data /data --recipes paper chosen --seeds 1 --corpora emodb
    python -m experiments.transfer --data /data --folds -o docs/results.md

The data folder contains ravdess/, emodb/ and nemo/; the folder of the encoders, by default that in
the environment variable PARACLAP_ENCODERS, has local copies of the pretrained encoders (otherwise
they come from the Hub). Runs train as train.py does, and select the checkpoint on validation
speakers of the training corpora (`corpora.PARTITIONS`). All clips of the third corpus are tested:

- plain, and adapted: the mean embedding of these clips, without labels, is subtracted;
- gender, and prompts with words that occur in no caption (wordings.yaml);
- beside it a closed-set probe, logistic regression on the same frozen features.

--folds is a cross-validation over the speakers of each corpus instead, which tests each speaker
once. One row per run and part is appended to results.csv in --work; rows that exist with the same
settings are not computed again. The tables replace those between the marks of --output.
"""

import argparse
import functools
import hashlib
import itertools
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.pipeline import Pipeline

from experiments import baselines, results
from experiments.ablation import Predictor, add_folders, run, settings_hash
from experiments.corpora import (
    PARTITIONS,
    WORDINGS,
    Corpus,
    EvaluationSet,
    Partition,
    divided,
    folds_of,
    read_labels,
    same_class,
)
from experiments.recipes import TOWERS, WHISPER
from experiments.transfer_tables import (
    ADAPTED,
    PARTS,
    PLAIN,
    PROBE,
    VALIDATION,
    tables,
    write_between_marks,
)
from paraclap.corpora.table import scored_classes
from paraclap.data.dataset import ClipDataset
from paraclap.evaluation.adaptation import reference_of
from paraclap.evaluation.embed import embed_clips
from paraclap.evaluation.embedding_cache import DiskEmbeddingCache
from paraclap.evaluation.encoded import open_cache, pooled_clips
from paraclap.evaluation.prompts import Prompts, prompts_for
from paraclap.evaluation.zero_shot import classify_embeddings
from paraclap.files import default_cache
from paraclap.model.build import build_model, load_model
from paraclap.model.modeling_paraclap import ENCODERS, ParaCLAPModel, ParaCLAPProcessor
from paraclap.model.towers import base_encoders
from paraclap.settings import ModelSettings, Settings
from paraclap.training import loop
from paraclap.training.config import read_settings

FOLD_STEPS = 250  # about the mean of the runs on two corpora
SMALLEST = 1e-6  # added to standard deviations
WEIGHTS = ("best", "last", "checkpoints")
"""Folders of a run that are removed after its evaluation."""


# --- What is trained on and tested ---------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """Corpora to train on, or a fold of one, and the evaluation sets of their models."""

    trained_on: tuple[Corpus, ...]
    tests: tuple[EvaluationSet, ...]

    @property
    def name(self) -> str:
        """Of the run folders."""
        return "-".join(f"{corpus.name}{corpus.fold}" for corpus in self.trained_on)

    @property
    def is_fold(self) -> bool:
        """Whether a fold of one corpus is trained on."""
        return self.trained_on[0].fold != ""


def leave_out(left_out: str, corpora: Mapping[str, Corpus]) -> Plan:
    """Return the plan that trains on all corpora but one, and tests that one."""
    trained_on = {name: corpus for name, corpus in corpora.items() if name != left_out}
    own, tested = " + ".join(trained_on), corpora[left_out]
    validation = (
        EvaluationSet(f"{own} -> {name}", VALIDATION, corpus, corpus.clips("validation"))
        for name, corpus in trained_on.items()
    )
    tests = _parts(f"{own} -> {left_out}", tested, tested.labels)
    return Plan(tuple(trained_on.values()), (*validation, *tests))


def fold_plans(corpus: Corpus, work: Path) -> Iterator[Plan]:
    """Yield a plan for each fold of a corpus."""
    for number, partition in enumerate(_folds(corpus)):
        fold = divided(corpus, partition, work, str(number))
        yield Plan((fold,), tuple(_parts(corpus.name, fold, fold.clips("test"))))


def _folds(corpus: Corpus) -> list[Partition]:
    return folds_of(PARTITIONS[corpus.name], corpus.labels)


def _parts(direction: str, corpus: Corpus, clips: pd.DataFrame) -> Iterator[EvaluationSet]:
    for name, part in PARTS.items():
        if name != VALIDATION:
            yield EvaluationSet(direction, name, corpus, clips, part.wording)


# --- Zero-shot predictions -----------------------------------------------------------------------


def settings_of(recipe: str, seed: int, plan: Plan, work: Path) -> Settings:
    """Return the settings of a run."""
    name = f"{plan.name}-{settings_hash(_arguments(recipe, plan.is_fold))}-{seed}"
    return read_settings(
        [
            *_arguments(recipe, plan.is_fold),
            *(f"data.corpora.{corpus.name}.root={corpus.root}" for corpus in plan.trained_on),
            *(f"data.corpora.{c.name}.captions={c.captions}" for c in plan.trained_on),
            f"train.seed={seed}",
            "train.resume=never",
            f"output={work / 'runs' / name}",
        ]
    )


class ZeroShot:
    """Predictions of the best model of a run, which embeds the clips of a direction once."""

    def __init__(self, settings: Settings) -> None:
        self.prompt_set = settings.train.prompts
        self.model, self.processor = load_model(settings.output)
        self.embedded: dict[str, np.ndarray] = {}

    def __call__(self, tested: EvaluationSet) -> pd.DataFrame:
        """Return `truth` and `prediction` of each clip."""
        part, clips = PARTS[tested.part], tested.clips
        audio = self.embeddings(tested)
        if part.adapted:
            audio = reference_of(audio, tested.corpus.name).centred(audio)
        prompts = self.prompts(tested)
        answers = classify_embeddings(self.model, self.processor, clips.index, audio, prompts)
        return answers.assign(truth=scored_classes(clips, part.target))

    def embeddings(self, tested: EvaluationSet) -> np.ndarray:
        """Return the embeddings of the clips."""
        if tested.direction not in self.embedded:
            clips = ClipDataset(tested.clips, tested.corpus.root)
            cache = _cache(self.model, self.processor)
            audio = embed_clips(self.model, self.processor, clips, cache=cache)
            self.embedded[tested.direction] = audio.numpy()
        return self.embedded[tested.direction]

    def prompts(self, tested: EvaluationSet) -> Prompts:
        """Return the prompts of the classes, as in validation or from a group of `WORDINGS`."""
        prompts = prompts_for(tested.clips, PARTS[tested.part].target, self.prompt_set)
        if tested.wording is None:
            return prompts
        return {label: WORDINGS[tested.wording][same_class(label)] for label in prompts}


def fit_recipe(settings: Settings) -> Predictor:
    """Train a recipe."""
    shutil.rmtree(settings.output, ignore_errors=True)
    loop.train(settings)
    predictor = ZeroShot(settings)
    for name in WEIGHTS:
        shutil.rmtree(Path(settings.output) / name, ignore_errors=True)
    return predictor


# --- Closed-set probe ----------------------------------------------------------------------------


def probe_hash(settings: ModelSettings) -> str:
    """Hash the settings that the frozen features depend on."""
    audio = settings.audio, settings.audio_layers, settings.audio_pooling
    level = settings.normalise_waveform, settings.input_gain
    return hashlib.sha256(repr((*audio, *level)).encode()).hexdigest()[:8]


@torch.inference_mode()
def frozen_features(settings: ModelSettings, corpus: Corpus) -> pd.DataFrame:
    """Return the pooled layers of the pretrained audio encoder."""
    model, processor = build_model(settings, ())
    model.eval()
    model.config.base_encoders = base_encoders(model, settings, ())
    clips, cache = ClipDataset(corpus.labels, corpus.root), _cache(model, processor)
    pooled = pooled_clips(model, processor, clips, cache, progress=corpus.name)
    return pd.DataFrame(pooled.numpy(), corpus.labels.index)


def _cache(model: ParaCLAPModel, processor: ParaCLAPProcessor) -> DiskEmbeddingCache | None:
    """Return the embedding cache of evaluate.py."""
    folder = default_cache()
    return None if folder is None else open_cache(folder, model, processor)


def fit_probe(plan: Plan, features: Callable[[Corpus], pd.DataFrame]) -> Predictor:
    """Fit the closed-set probe to the frozen features of each corpus.

    For the adapted part, the clips of each corpus that are trained or validated on, and those that
    are tested, are standardised by their own mean and standard deviation.
    """

    def scaled(clips: pd.DataFrame, corpus: Corpus, by: pd.DataFrame | None) -> pd.DataFrame:
        table = features(corpus).loc[clips.index]
        if by is None:
            return table
        others = features(corpus).loc[by.index]
        return (table - others.mean()) / (others.std() + SMALLEST)

    @functools.cache
    def fitted(adapted: bool) -> Pipeline:
        examples = []
        for part in ("train", "validation"):
            clips = [(corpus.clips(part), corpus) for corpus in plan.trained_on]
            by = [c.labels.drop(c.clips("test").index) if adapted else None for _, c in clips]
            tables = [scaled(*pair, others) for pair, others in zip(clips, by, strict=True)]
            examples.append((pd.concat(tables), pd.concat([c["emotion"] for c, _ in clips])))
        return baselines.fit("logistic regression", *examples)

    def predict(tested: EvaluationSet) -> pd.DataFrame:
        adapted, truth = PARTS[tested.part].adapted, tested.clips["emotion"]
        table = scaled(tested.clips, tested.corpus, tested.clips if adapted else None)
        prediction = baselines.predict(fitted(adapted), table, sorted(set(truth)))
        return pd.DataFrame({"truth": truth, "prediction": prediction})

    return predict


# --- Command line --------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, and write the tables."""
    options = _parse(arguments)
    if options.encoders is not None:
        os.environ[ENCODERS] = str(options.encoders)
    work, path = options.work, options.work / results.FILE
    corpora = {name: read_labels(name, options.data, work) for name in PARTITIONS}
    plans = [leave_out(name, corpora) for name in options.corpora]
    if options.folds:
        plans = [plan for name in options.corpora for plan in fold_plans(corpora[name], work)]
    model = settings_of(options.recipes[-1], 0, plans[0], work).model
    features = _features(model)
    for plan in plans:
        tests = [tested for tested in plan.tests if tested.part in (PLAIN, ADAPTED)]
        keys = {"recipe": PROBE, "seed": 0, "settings": probe_hash(model)}
        run({"tower": WHISPER, **keys}, tests, path, functools.partial(fit_probe, plan, features))
    for seed in range(1, options.seeds + 1):  # outermost, so that an interrupted command is of use
        for recipe, plan in itertools.product(options.recipes, plans):
            settings = settings_of(recipe, seed, plan, work)
            hashed = settings_hash(_arguments(recipe, plan.is_fold))
            keys = {"recipe": recipe, "seed": seed, "settings": hashed}
            fit = functools.partial(fit_recipe, settings)
            run({"tower": WHISPER, **keys}, plan.tests, path, fit)
    page = options.output or work / "results.md"
    write_page(page, results.read(path), corpora, probe_hash(model))


def _features(settings: ModelSettings) -> Callable[[Corpus], pd.DataFrame]:
    """Return `frozen_features` of each corpus, computed once."""
    known: dict[str, pd.DataFrame] = {}

    def features(corpus: Corpus) -> pd.DataFrame:
        if corpus.name not in known:
            known[corpus.name] = frozen_features(settings, corpus)
        return known[corpus.name]

    return features


def write_page(page: Path, rows: pd.DataFrame, corpora: Mapping[str, Corpus], probe: str) -> None:
    """Write the tables of all rows whose settings have not changed since."""
    kinds = itertools.product(TOWERS[WHISPER], (False, True))
    current = {kind: settings_hash(_arguments(*kind)) for kind in kinds}
    keys = zip(rows["recipe"], rows["fold"] != "", strict=True)
    rows = rows[rows["settings"] == [current.get(key, probe) for key in keys]]
    classes = {name: set(corpus.labels["emotion"]) for name, corpus in corpora.items()}
    folds = {name: len(_folds(corpus)) for name, corpus in corpora.items()}
    write_between_marks(page, "transfer", tables(rows, classes, folds, list(TOWERS[WHISPER])))


def _arguments(recipe: str, is_fold: bool) -> tuple[str, ...]:
    """Return the arguments of a recipe, on a fold with `FOLD_STEPS` steps or some more."""
    arguments = TOWERS[WHISPER][recipe]
    return (*arguments, f"train.min_steps={FOLD_STEPS}") if is_fold else arguments


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_folders(parser, "transfer")
    add = parser.add_argument
    add("--encoders", type=Path, help="folder of local copies of the encoders")
    known = list(TOWERS[WHISPER])
    add(
        "--recipes",
        nargs="+",
        choices=known,
        default=known,
        metavar="RECIPE",
        help="; ".join(known),
    )
    corpora = list(PARTITIONS)
    add("--corpora", nargs="+", choices=corpora, default=corpora, help="that are tested")
    add("--seeds", type=int, default=3, help="number of seeds (%(default)s)")
    add("--folds", action="store_true", help="cross-validation over speakers of each corpus")
    add("-o", "--output", type=Path, help="page of the tables (results.md in --work)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
