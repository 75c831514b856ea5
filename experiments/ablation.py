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

One row per run and part is appended to --results, and the tables are written beside it, as .md.
Rows that exist with the same settings are not computed again. Features, captions and runs are kept
in --work.
"""

import argparse
import hashlib
import itertools
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments import baselines, results
from experiments.corpora import (
    CORPORA_COMPARED,
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
from experiments.recipes import EGEMAPS, PUBLISHED, PUBLISHED_SENTENCES, REFERENCES, TOWERS
from paraclap.corpora.table import scored_classes
from paraclap.data.dataset import FunctionalClips
from paraclap.evaluation.prompts import Prompts, prompts_for
from paraclap.evaluation.zero_shot import classify_clips
from paraclap.model.build import load_model
from paraclap.settings import Settings
from paraclap.training import loop
from paraclap.training.config import flatten, is_free, read_settings

HASH = "settings.sha256"
"""File in a run folder that marks a completed run."""


# --- Runs ----------------------------------------------------------------------------------------


def prompts_of(settings: Settings, clips: pd.DataFrame, wording: str | None) -> Prompts:
    """Return prompts of the classes of clips, as in validation or from a group of `WORDINGS`."""
    prompts = prompts_for(clips, "emotion", settings.train.prompts)
    if wording is not None:
        prompts = {label: WORDINGS[wording][same_class(label)] for label in prompts}
    found = set(scored_classes(clips, "emotion"))
    return {name: texts for name, texts in prompts.items() if name in found}


def settings_of(
    tower: str, recipe: str, seed: int, trained_on: PreparedCorpus, work: Path
) -> Settings:
    """Return the settings of a run."""
    name = f"{tower} {recipe} {seed} {trained_on.key}"
    folder = hashlib.sha256(name.encode()).hexdigest()[:12]
    data = f"features={trained_on.features}"
    if tower != EGEMAPS:
        data = f"waveform_cache={work / 'waveforms'}"
    return read_settings(
        [
            *TOWERS[tower][recipe].arguments(),
            f"data.root={trained_on.root}",
            f"data.captions={trained_on.captions}",
            f"data.{data}",
            f"train.seed={seed}",
            "train.resume=never",
            f"output={work / 'runs' / folder}",
        ]
    )


def settings_hash(settings: Settings) -> str:
    """Hash the settings that differ from the defaults, without paths.

    Settings added after a run do not change its hash.
    """
    default = flatten(asdict(Settings()))
    changed = {
        key: value
        for key, value in flatten(asdict(settings)).items()
        if not is_free(key) and (key not in default or default[key] != value)
    }
    if name := changed.get("model.text.name"):
        changed["model.text.name"] = Path(name).name
    return hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:8]


def is_complete(settings: Settings) -> bool:
    """Whether the run folder contains a completed run with these settings."""
    done = Path(settings.output) / HASH
    return done.exists() and done.read_text() == settings_hash(settings)


def train(settings: Settings) -> None:
    """Train, unless the run is complete; keeps the best model alone."""
    if is_complete(settings):
        return
    shutil.rmtree(settings.output, ignore_errors=True)
    loop.train(settings)
    for folder in ("checkpoints", "last"):
        shutil.rmtree(Path(settings.output) / folder, ignore_errors=True)
    (Path(settings.output) / HASH).write_text(settings_hash(settings))


def predict(settings: Settings, tested: EvaluationSet) -> pd.DataFrame:
    """Return `truth` and `prediction` of the best model of a run for each clip."""
    clips, prepared = tested.clips, tested.prepared
    model, reader = load_model(settings.output)
    wording = None if tested.part == FOLD else PARTS[tested.part].wording
    prompts = prompts_of(settings, clips, wording)
    functionals = None
    if model.audio_branch.reads_functionals:
        measured = prepared.functionals.loc[clips.index, model.config.audio_config.names]
        functionals = FunctionalClips(clips, prepared.root, measured.to_numpy(np.float32))
    answers = classify_clips(model, reader, clips, prepared.root, prompts, functionals)
    return answers.assign(truth=scored_classes(clips, "emotion"))


def run_recipe(
    recipe: str,
    seed: int,
    trained_on: PreparedCorpus,
    tests: Sequence[EvaluationSet],
    options: argparse.Namespace,
) -> None:
    """Train and evaluate one recipe, as far as its rows are missing."""
    settings = settings_of(options.tower, recipe, seed, trained_on, options.work)
    run = {"tower": options.tower, "recipe": recipe, "seed": seed}
    run["settings"] = settings_hash(settings)
    missing = missing_rows(tests, run, options.results)
    if missing:
        train(settings)
    for tested, row in missing:
        note(options.results, row, predict(settings, tested), tested.clips)


def run_baseline(
    name: str,
    trained_on: PreparedCorpus,
    tests: Sequence[EvaluationSet],
    options: argparse.Namespace,
) -> None:
    """Fit and evaluate a closed-set baseline, as far as its rows are missing."""
    tests = [t for t in tests if t.part == FOLD or PARTS[t.part].wording is None]
    run = {"tower": EGEMAPS, "recipe": name, "seed": 0, "settings": "closed"}
    missing = missing_rows(tests, run, options.results)
    if not missing:
        return
    parts = (trained_on.clips(partition) for partition in ("train", "validation"))
    fitted = baselines.fit(
        name,
        *((trained_on.functionals.loc[p.index], p["emotion"].map(same_class)) for p in parts),
    )
    for tested, row in missing:
        truth = tested.clips["emotion"].map(same_class)
        measured = tested.prepared.functionals.loc[tested.clips.index]
        prediction = baselines.predict(fitted, measured, sorted(set(truth)))
        answers = pd.DataFrame({"truth": truth, "prediction": prediction})
        note(options.results, row, answers, tested.clips)


def missing_rows(
    tests: Sequence[EvaluationSet], run: Mapping[str, Any], path: Path
) -> list[tuple[EvaluationSet, dict[str, Any]]]:
    """Return the evaluation sets that lack a row in the CSV, and the key columns of that row."""
    rows = results.read(path)
    missing = []
    for tested in tests:
        row = {**run, "direction": tested.direction, "part": tested.part}
        if tested.prepared.fold is not None:
            row["fold"] = tested.prepared.fold
        same = np.ones(len(rows), bool)
        for name, value in row.items():
            same &= (rows[name].astype(str) == str(value)).to_numpy()
        if not same.any():
            missing.append((tested, row))
    return missing


def note(path: Path, row: Mapping[str, Any], answers: pd.DataFrame, clips: pd.DataFrame) -> None:
    """Append the answers for some clips to the CSV."""
    counts = results.count(answers, clips["speaker"])
    results.append(path, {**row, "counts": counts})
    names = ("direction", "recipe", "part", "fold", "seed")
    run = ", ".join(f"{row[name]}" for name in names if name in row)
    print(f"{run}: {results.summary([counts])['mean']:.3f}")


# --- Tables --------------------------------------------------------------------------------------


def write_tables(options: argparse.Namespace, prepared: Mapping[str, PreparedCorpus]) -> None:
    """Write the tables of all rows whose recipe has not changed since."""
    rows = results.read(options.results)
    tables = next(iter(prepared.values()))
    current = {
        (tower, recipe, seed): settings_hash(settings_of(tower, recipe, seed, tables, options.work))
        for tower, recipes in TOWERS.items()
        for recipe in recipes
        for seed in set(rows["seed"])
    }
    keys = zip(rows["tower"], rows["recipe"], rows["seed"], strict=True)
    rows = rows[rows["settings"] == [current.get(key, "closed") for key in keys]]
    folds = {n: len(folds_of(p.corpus, p.labels["speaker"].unique())) for n, p in prepared.items()}
    validation = {name: p.corpus.validation for name, p in prepared.items()}
    whole = results.pooled(rows[rows["part"] == FOLD], folds, validation)
    rows = pd.concat([rows[rows["part"] != FOLD], whole])
    recipes = {tower: [*names] for tower, names in TOWERS.items()}
    recipes[EGEMAPS] += baselines.BASELINES
    references = {
        (tower, name): REFERENCES.get(name, PUBLISHED)
        for tower, names in recipes.items()
        for name in names
        if name not in (PUBLISHED, PUBLISHED_SENTENCES)
    }
    text = results.tables(rows, [*PARTS, FOLD], recipes, references)
    options.results.with_suffix(".md").write_text(text)


# --- Command line --------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing; returns the exit code."""
    options = _parse(arguments)
    prepared = {name: prepare(name, options.data, options.work) for name in CORPORA_COMPARED}
    plans = plans_of(options, prepared)
    if options.tower == EGEMAPS:
        for baseline, plan in itertools.product(baselines.BASELINES, plans):
            run_baseline(baseline, *plan, options)
    for seed in range(1, options.seeds + 1):  # outermost, so that an interrupted command is of use
        for recipe, plan in itertools.product(options.recipes, plans):
            run_recipe(recipe, seed, *plan, options)
    write_tables(options, prepared)
    return 0


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
    return [(own, evaluation_sets(own, other, options.final)) for own, other in pairs]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", default=os.environ.get("PARACLAP_DATA"), help="folder of the corpora")
    add("--work", type=Path, default=Path("runs/ablation"), help="folder of tables and runs")
    add("--results", type=Path, default=Path("runs/ablation/results.csv"), help="(%(default)s)")
    add("--tower", choices=list(TOWERS), default=EGEMAPS, help="audio encoder (%(default)s)")
    names = (f"{tower}: {'; '.join(recipes)}" for tower, recipes in TOWERS.items())
    add("--recipes", nargs="+", metavar="RECIPE", help=". ".join(names))
    add("--directions", nargs="+", choices=list(DIRECTIONS), default=list(DIRECTIONS))
    add("--seeds", type=int, default=3, help="number of seeds (%(default)s)")
    add = parser.add_mutually_exclusive_group().add_argument
    add("--final", action="store_true", help="also evaluate test speakers")
    add("--folds", action="store_true", help="test each speaker once by cross-validation")
    options = parser.parse_args(arguments)
    if options.data is None:
        parser.error("--data or PARACLAP_DATA is required")
    if (options.final or options.folds) and not options.recipes:
        parser.error("--final and --folds require --recipes: test speakers are not for choosing")
    known = TOWERS[options.tower]
    options.recipes = options.recipes or list(known)
    if unknown := set(options.recipes) - set(known):
        parser.error(f"{sorted(unknown)} of tower {options.tower}, expected some of {list(known)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
