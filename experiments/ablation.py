r"""Compare the recipes of recipes.py on RAVDESS and EmoDB: same speakers, same seeds, one table.

    python -m experiments.ablation --data /data
    python -m experiments.ablation --data /data --recipes base chosen --seeds 1
    python -m experiments.ablation --data /data --final --recipes published chosen
    python -m experiments.ablation --data /data --folds --recipes published chosen
    python -m experiments.ablation --data /data --tower mel --directions ravdess

The data folder contains ravdess/ and emodb/. Each model is trained on one of them and evaluated on
both. By default only validation speakers are evaluated, on which recipes are chosen; --final
evaluates test speakers and all other speakers of the second corpus, also with prompts whose words
occur in no caption (wordings.yaml). --folds is a cross-validation that tests each speaker once,
with caption edges and feature standards fitted to the training speakers of the fold.

Features, captions and runs are kept in --work, and so is results.csv, to which one row per run and
part is appended; rows that exist with the same settings are not computed again. The tables are
written to results.md.
"""

import argparse
import functools
import hashlib
import itertools
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments import baselines, results
from experiments.corpora import (
    DIRECTIONS,
    FOLD,
    PARTS,
    WORDINGS,
    EvaluationSet,
    PreparedCorpus,
    evaluation_sets,
    folds_of,
    prepare,
    prepare_folds,
    same_class,
)
from experiments.recipes import EGEMAPS, TOWERS, WHISPER
from paraclap.corpora.table import scored_classes
from paraclap.data.dataset import ClipDataset
from paraclap.evaluation.prompts import Prompts, prompts_for
from paraclap.evaluation.zero_shot import classify_clips
from paraclap.model.build import load_model
from paraclap.settings import Settings
from paraclap.training import loop
from paraclap.training.config import flatten, is_free, read_settings

DONE = "experiment.done"
"""File in a run folder that marks a completed run."""
Predictor = Callable[[EvaluationSet], pd.DataFrame]
"""Returns `truth` and `prediction` of each clip."""


# --- Recipes -------------------------------------------------------------------------------------


@functools.cache
def settings_hash(arguments: tuple[str, ...]) -> str:
    """Hash the settings of a recipe that differ from the defaults, without paths.

    Settings added later do not change the hash.
    """
    default = flatten(asdict(Settings()))
    changed = {
        key: value
        for key, value in flatten(asdict(read_settings([*arguments, "output=unused"]))).items()
        if not is_free(key) and (key not in default or default[key] != value)
    }
    if name := changed.get("model.text.name"):
        changed["model.text.name"] = Path(name).name
    return hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:8]


def settings_of(
    tower: str, recipe: str, seed: int, trained_on: PreparedCorpus, work: Path
) -> Settings:
    """Return the settings of a run."""
    arguments = TOWERS[tower][recipe]
    name = f"{trained_on.name}{trained_on.fold}-{tower}-{settings_hash(arguments)}-{seed}"
    data = f"waveform_cache={work / 'waveforms'}"
    if tower == EGEMAPS:
        data = f"features={trained_on.features}"
    return read_settings(
        [
            *arguments,
            f"data.root={trained_on.root}",
            f"data.captions={trained_on.captions}",
            f"data.{data}",
            f"train.seed={seed}",
            "train.resume=never",
            f"output={work / 'runs' / name}",
        ]
    )


def train(settings: Settings) -> None:
    """Train, unless the run is complete; keeps the best model alone."""
    folder = Path(settings.output)
    if (folder / DONE).exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    loop.train(settings)
    for part in ("checkpoints", "last"):
        shutil.rmtree(folder / part, ignore_errors=True)
    (folder / DONE).touch()


def prompts_of(settings: Settings, clips: pd.DataFrame, wording: str | None) -> Prompts:
    """Return prompts of the classes of clips, as in validation or from a group of `WORDINGS`."""
    prompts = prompts_for(clips, "emotion", settings.train.prompts)
    found = set(scored_classes(clips, "emotion"))
    return {
        label: texts if wording is None else WORDINGS[wording][same_class(label)]
        for label, texts in prompts.items()
        if label in found
    }


def predict(settings: Settings, tested: EvaluationSet) -> pd.DataFrame:
    """Return `truth` and `prediction` of the best model of a run."""
    corpus, clips = tested.corpus, tested.clips
    model, processor = load_model(settings.output)
    prompts = prompts_of(settings, clips, tested.wording)
    functionals = None
    if model.audio_branch.reads_functionals:
        functionals = functionals_of(corpus, clips, model.config.audio_config.names)
    answers = classify_clips(model, processor, clips, corpus.root, prompts, functionals)
    return answers.assign(truth=scored_classes(clips, "emotion"))


def functionals_of(
    corpus: PreparedCorpus, clips: pd.DataFrame, names: Sequence[str]
) -> ClipDataset:
    """Return a dataset of the functionals of some clips."""
    measured = corpus.functionals.loc[clips.index, names]
    return ClipDataset(clips, corpus.root, measured.to_numpy(np.float32))


# --- Runs ----------------------------------------------------------------------------------------


def run(
    keys: Mapping[str, Any],
    tests: Sequence[EvaluationSet],
    path: Path,
    fit: Callable[[], Predictor],
) -> None:
    """Fit and evaluate one model, as far as its rows are missing in the CSV file.

    Args:
        keys: columns that identify the model.
        tests: evaluation sets.
        path: of the CSV file.
        fit: returns the predictions of the model.
    """
    done = {tuple(row) for row in results.read(path)[results.KEYS].astype("str").to_numpy()}
    missing = []
    for tested in tests:
        place = {"direction": tested.direction, "part": tested.part, "fold": tested.corpus.fold}
        row = {**keys, **place}
        if tuple(str(row[key]) for key in results.KEYS) not in done:
            missing.append((tested, row))
    predictions = fit() if missing else None
    for tested, row in missing:
        counts = results.count(predictions(tested), tested.clips["speaker"])
        results.append(path, {**row, "counts": counts})
        name = ", ".join(str(row[key]) for key in ("direction", "recipe", "part", "fold", "seed"))
        print(f"{name}: {results.summary([counts])['mean']:.3f}")


def fit_recipe(settings: Settings) -> Predictor:
    """Train a recipe."""
    train(settings)
    return functools.partial(predict, settings)


def fit_baseline(name: str, trained_on: PreparedCorpus) -> Predictor:
    """Fit a closed-set baseline."""
    parts = (trained_on.clips(part) for part in ("train", "validation"))
    fitted = baselines.fit(
        name,
        *((trained_on.functionals.loc[p.index], p["emotion"].map(same_class)) for p in parts),
    )

    def predict_classes(tested: EvaluationSet) -> pd.DataFrame:
        truth = tested.clips["emotion"].map(same_class)
        functionals = tested.corpus.functionals.loc[tested.clips.index]
        prediction = baselines.predict(fitted, functionals, sorted(set(truth)))
        return pd.DataFrame({"truth": truth, "prediction": prediction})

    return predict_classes


def plans_of(
    options: argparse.Namespace, prepared: Mapping[str, PreparedCorpus]
) -> list[tuple[PreparedCorpus, list[EvaluationSet]]]:
    """Return training corpora or folds, each with its evaluation sets."""
    corpora = [prepared[name] for name in options.directions]
    if options.folds:
        folds = [fold for corpus in corpora for fold in prepare_folds(corpus, options.work)]
        return [(f, [EvaluationSet(f.name, FOLD, f, f.clips("test"))]) for f in folds]
    others = [prepared[DIRECTIONS[name][0]] for name in options.directions]
    pairs = zip(corpora, others, strict=True)
    return [(own, [*evaluation_sets(own, other, options.final)]) for own, other in pairs]


def write_tables(path: Path, prepared: Mapping[str, PreparedCorpus]) -> None:
    """Write the tables of all rows whose recipe has not changed since."""
    rows = results.read(path)
    current = {
        (tower, recipe): settings_hash(arguments)
        for tower, recipes in TOWERS.items()
        for recipe, arguments in recipes.items()
    }
    keys = zip(rows["tower"], rows["recipe"], strict=True)
    rows = rows[rows["settings"] == [current.get(key, "closed") for key in keys]]
    folds = {
        name: len(folds_of(corpus.partition, corpus.labels)) for name, corpus in prepared.items()
    }
    validation = {name: corpus.partition.validation for name, corpus in prepared.items()}
    whole = results.pooled(rows[rows["part"] == FOLD], folds, validation)
    rows = pd.concat([rows[rows["part"] != FOLD], whole])
    recipes = {tower: [*names] for tower, names in TOWERS.items()}
    recipes[EGEMAPS] += baselines.BASELINES
    path.with_suffix(".md").write_text(results.tables(rows, [*PARTS, FOLD], recipes))


# --- Command line --------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing."""
    options = _parse(arguments)
    path = options.work / results.FILE
    names = dict.fromkeys(name for own, (other, _) in DIRECTIONS.items() for name in (own, other))
    prepared = {name: prepare(name, options.data, options.work) for name in names}
    plans = plans_of(options, prepared)
    if options.tower == EGEMAPS:
        for name, (corpus, tests) in itertools.product(baselines.BASELINES, plans):
            keys = {"tower": EGEMAPS, "recipe": name, "seed": 0, "settings": "closed"}
            tests = [tested for tested in tests if tested.wording is None]
            run(keys, tests, path, functools.partial(fit_baseline, name, corpus))
    for seed in range(1, options.seeds + 1):  # outermost, so that an interrupted command is of use
        for recipe, (corpus, tests) in itertools.product(options.recipes, plans):
            keys = {"tower": options.tower, "recipe": recipe, "seed": seed}
            keys["settings"] = settings_hash(TOWERS[options.tower][recipe])
            settings = settings_of(options.tower, recipe, seed, corpus, options.work)
            run(keys, tests, path, functools.partial(fit_recipe, settings))
    write_tables(path, prepared)


def add_folders(parser: argparse.ArgumentParser, name: str = "ablation") -> None:
    """Add the options that name folders."""
    data = os.environ.get("PARACLAP_DATA")
    parser.add_argument(
        "--data", type=Path, default=data, required=data is None, help="folder of the corpora"
    )
    work = Path("runs") / name
    parser.add_argument("--work", type=Path, default=work, help="of tables and runs (%(default)s)")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_folders(parser)
    add = parser.add_argument
    towers = [tower for tower in TOWERS if tower != WHISPER]  # see transfer.py
    add("--tower", choices=towers, default=EGEMAPS, help="audio encoder (%(default)s)")
    names = (f"{tower}: {'; '.join(TOWERS[tower])}" for tower in towers)
    add("--recipes", nargs="+", metavar="RECIPE", help=". ".join(names))
    add("--directions", nargs="+", choices=list(DIRECTIONS), default=list(DIRECTIONS))
    add("--seeds", type=int, default=3, help="number of seeds (%(default)s)")
    add = parser.add_mutually_exclusive_group().add_argument
    add("--final", action="store_true", help="also evaluate test speakers")
    add("--folds", action="store_true", help="test each speaker once by cross-validation")
    options = parser.parse_args(arguments)
    if (options.final or options.folds) and not options.recipes:
        parser.error("--final and --folds require --recipes: test speakers are not for choosing")
    known = TOWERS[options.tower]
    options.recipes = options.recipes or list(known)
    if unknown := set(options.recipes) - set(known):
        parser.error(f"{sorted(unknown)} of tower {options.tower}, expected some of {list(known)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
