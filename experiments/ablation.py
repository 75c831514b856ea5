r"""Which ideas help: every recipe of ideas.py on the same speakers and seeds, in one table.

    PARACLAP_DATA=/data python -m experiments.ablation -o experiments
    python -m experiments.ablation --data /data -o experiments --ideas "without level" --seeds 3
    python -m experiments.ablation --data /data -o experiments --final
    python -m experiments.ablation --data /data -o experiments --directions both --ideas ...
    python -m experiments.ablation --data /data -o experiments --folds
    python -m experiments.ablation --data /data -o experiments --tower mel --directions ravdess

The data folder holds ravdess/ and emodb/. Models train on one of them, by train.py, and are asked
about both; with the direction "both" they train on both at once. Ideas are chosen on validation
speakers alone; --words also asks about these in words that no caption has. --final also looks at
test speakers and at the rest of the other corpus, for the published recipe, the chosen one and
closed-set baselines. --folds tests every speaker of a corpus once, by a model that was trained on
others; captions and standards are those of its own training speakers. That is for the end, too.

Appends a row for each run and part to results.csv, and writes RESULTS.md from it. What is in the
CSV already, with the same settings, is not done again. Features, captions and runs are kept in
--work.
"""

import argparse
import datetime
import hashlib
import itertools
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.results import commit, processor
from experiments import baselines, table
from experiments.ideas import (
    BOTH,
    CHOSEN,
    CORPORA_COMPARED,
    DIRECTIONS,
    FOLD,
    HEARD_CHOSEN,
    HEARD_PUBLISHED,
    ON_ONE_CORPUS,
    PARTS,
    PRETRAINED,
    PUBLISHED,
    SECTIONS,
    SENTENCES,
    TOWER,
    TOWERS,
    UNCHOSEN,
    WORDINGS,
    Corpus,
    Recipe,
    folds_of,
    same_class,
    speakers_of,
)
from paraclap.cli import features as cli_features
from paraclap.cli import template_creation
from paraclap.corpora.table import scored_classes
from paraclap.data.dataset import FunctionalClips
from paraclap.data.functionals import read_functionals
from paraclap.evaluation.metrics import score
from paraclap.evaluation.prompts import Prompts, prompts_for
from paraclap.evaluation.zero_shot import answer
from paraclap.model.build import load_model
from paraclap.settings import Settings
from paraclap.training import loop
from paraclap.training.config import flatten, is_free, read_settings

FINAL = {TOWER: (PUBLISHED, CHOSEN)}
FINAL |= dict.fromkeys(("wav2vec2", "mel"), (HEARD_PUBLISHED, HEARD_CHOSEN))
BASELINE_SEED = 0
HEAD = """\
# Which ideas help

Written by `{command}` ({processor}), which asks more with
--words, --directions both and --tower, and in the end with --final and --folds. Towers: {tower}.
Mean UAR over seeds; 95 % intervals over speakers and seeds, those of differences paired. "Cross"
parts are of the corpus that was not trained on: `cross` is everyone but the validation speakers;
"both" was trained on both corpora at once. Ideas are chosen on validation parts alone; the
validation part has also chosen the checkpoint (of the baselines: C), so figures there are too
high. Test parts were looked at for "both, without level, limit 2" and, when that turned out to
forget gender, for "class_prompts, without level, limit 2". Two speakers make a validation part: its
intervals are coarse. In "folds" each speaker is tested once, by a model of other speakers. A
sentence encoder is all-MiniLM-L6-v2, frozen; every other text tower starts from random weights and
learns from captions alone; differences are to the published recipe with the same text tower. CPU s:
of one training run, one thread.
"""


@dataclass
class Tables:
    """What is known of a corpus: labels, functionals, and where captions and audio are.

    Attributes:
        name: of the corpus.
        corpus: who is in which part.
        labels: index file, start, end.
        functionals: of the same clips.
        features: path of their table.
        captions: path.
        root: folder of the audio.
        fold: number, if it is one of `folds_of`.
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

    def of(self, which: str) -> pd.DataFrame:
        """Rows of some speakers, see `ideas.SPEAKERS`."""
        everyone = sorted(self.labels["speaker"].unique())
        return self.labels[self.labels["speaker"].isin(speakers_of(self.corpus, which, everyone))]


def prepare(name: str, data: str, work: Path) -> Tables:
    """Measure and caption a corpus, unless that is done already.

    Raises:
        RuntimeError: if one of the scripts fails; it says why.
    """
    corpus = CORPORA_COMPARED[name]
    measured, captions = work / f"{name}.features.parquet", work / f"{name}.captions.parquet"
    work.mkdir(parents=True, exist_ok=True)
    if not measured.exists():
        _succeed(cli_features.main([corpus.source.format(data=data), "-o", str(measured)]))
    _caption(measured, captions, corpus)
    labels = pd.read_parquet(measured)
    labels.attrs["corpus"] = name
    functionals = read_functionals(measured)
    root = corpus.root.format(data=data)
    return Tables(name, corpus, labels, functionals, measured, captions, root)


def _caption(measured: Path, captions: Path, corpus: Corpus) -> None:
    """Caption a corpus, with edges of its training speakers, unless that is done already."""
    if not captions.exists():
        parts = ["--validation-speakers", ",".join(corpus.validation)]
        parts += ["--test-speakers", ",".join(corpus.test)]
        _succeed(template_creation.main([str(measured), "-o", str(captions), *parts]))


def prepare_folds(tables: Tables, work: Path) -> list[Tables]:
    """Folds of a corpus, each with captions of its own."""
    corpora = folds_of(tables.corpus, tables.labels["speaker"].unique())
    folds = []
    for fold, corpus in enumerate(corpora):
        captions = work / f"{tables.name}.{fold}.captions.parquet"
        _caption(tables.features, captions, corpus)
        folds.append(replace(tables, corpus=corpus, captions=captions, fold=fold))
    return folds


def _succeed(code: int) -> None:
    if code:
        raise RuntimeError("a table could not be made, see above")


def settings_of(
    tower: str, idea: str, seed: int, trained_on: Sequence[Tables], work: Path
) -> Settings:
    """What a run of an idea is told."""
    name = f"{tower} {idea} {seed} {' '.join(tables.key for tables in trained_on)}"
    data = [] if tower == TOWER else [f"data.waveform_cache={work / 'packs'}"]
    for tables in trained_on:
        key = "data" if len(trained_on) == 1 else f"data.corpora.{tables.name}"
        data += [f"{key}.root={tables.root}", f"{key}.captions={tables.captions}"]
        data += [f"{key}.features={tables.features}"] if tower == TOWER else []
    return read_settings(
        [
            *TOWERS[tower][idea].arguments(),
            *data,
            f"train.seed={seed}",
            "train.resume=never",
            f"output={work / 'runs' / hashlib.sha256(name.encode()).hexdigest()[:12]}",
        ]
    )


def recipe_hash(settings: Settings) -> str:
    """Short name of what a run is told beyond the defaults, but for where things lie.

    Settings that are new since a run do not change its name.
    """
    default = flatten(asdict(Settings()))
    told = {
        key: value
        for key, value in flatten(asdict(settings)).items()
        if not is_free(key) and (key not in default or default[key] != value)
    }
    if name := told.get("model.text.name"):
        told["model.text.name"] = Path(name).name
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:8]


@dataclass
class Question:
    """Clips that a model is asked about, and where the answers are noted.

    Attributes:
        direction: trained on -> asked about; of folds the name of the corpus.
        part: of PARTS, or `FOLD`.
        tables: of the corpus.
        rows: of its labels.
    """

    direction: str
    part: str
    tables: Tables
    rows: pd.DataFrame


def questions_across(own: Tables, other: Tables, parts: Sequence[str]) -> list[Question]:
    """What a model of one corpus is asked."""
    direction = f"{own.name} -> {other.name}"
    return [
        Question(direction, part, other if PARTS[part].crosses else own, asked_of(part, own, other))
        for part in parts
    ]


def questions_of_both(corpora: Sequence[Tables], parts: Sequence[str]) -> list[Question]:
    """What a model of all corpora is asked: about their other speakers."""
    return [
        Question(f"{BOTH} -> {tables.name}", part, tables, tables.of(PARTS[part].speakers))
        for tables in corpora
        for part in parts
        if not PARTS[part].crosses
    ]


def questions_of_fold(tables: Tables) -> list[Question]:
    """What a model of a fold is asked: about its test speakers."""
    return [Question(tables.name, FOLD, tables, tables.of("test"))]


def asked_of(part: str, own: Tables, other: Tables) -> pd.DataFrame:
    """Clips of a part that are asked about."""
    speakers = PARTS[part].speakers
    if not PARTS[part].crosses:
        return own.of(speakers)
    rows = other.of(speakers)
    if not DIRECTIONS[own.name][1]:
        return rows
    known = {same_class(label) for label in own.labels["emotion"]}
    kept = rows[rows["emotion"].map(same_class).isin(known)]
    kept.attrs = rows.attrs
    return kept


def row_of(answers: pd.DataFrame, rows: pd.DataFrame) -> dict[str, Any]:
    """Figures of answers to the clips `rows`."""
    figures = score(answers["truth"], answers["prediction"], rows["speaker"].astype(str))
    low, high = figures["interval"] or (np.nan, np.nan)
    return {
        "UAR": round(figures["UAR"], 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "chance": round(figures["chance"], 4),
        "clips": figures["clips"],
        "counts": json.dumps(table.count(answers, rows["speaker"]), separators=(",", ":")),
    }


def queries_of(settings: Settings, rows: pd.DataFrame, part: str) -> Prompts:
    """Prompts of the classes of clips, as the validation of the run asked or in other words."""
    prompts = prompts_for(rows, "emotion", settings.train.prompts)
    if part != FOLD and (group := PARTS[part].wording) is not None:
        prompts = {label: WORDINGS[group][same_class(label)] for label in prompts}
    found = set(scored_classes(rows, "emotion"))
    return {name: wordings for name, wordings in prompts.items() if name in found}


def answers_of(settings: Settings, rows: pd.DataFrame, tables: Tables, part: str) -> pd.DataFrame:
    """What the best model of a run says of clips."""
    model, reader = load_model(settings.output)
    prompts = queries_of(settings, rows, part)
    truth = scored_classes(rows, "emotion")
    clips = None
    if model.audio_branch.reads_functionals:
        measured = tables.functionals.loc[rows.index, model.config.audio_config.names]
        clips = FunctionalClips(rows, tables.root, measured.to_numpy(np.float32))
    answers = answer(model, reader, rows, tables.root, prompts, clips)
    answers.insert(0, "truth", truth)
    return answers


def unanswered(
    questions: Sequence[Question], run: Mapping[str, Any], path: Path
) -> list[tuple[Question, dict[str, Any]]]:
    """Questions that the CSV has no row for, and what tells such a row from others."""
    rows = table.read(path)
    missing = []
    for question in questions:
        about = {**run, "direction": question.direction, "part": question.part}
        if question.tables.fold is not None:
            about["fold"] = question.tables.fold
        if not _has_row(rows, about):
            missing.append((question, about))
    return missing


def _has_row(rows: pd.DataFrame, about: Mapping[str, Any]) -> bool:
    same = np.ones(len(rows), bool)
    for name, value in about.items():
        same &= (rows[name].astype(str) == str(value)).to_numpy()
    return bool(same.any())


def note(
    path: Path, about: Mapping[str, Any], answers: pd.DataFrame, rows: pd.DataFrame, seconds: float
) -> None:
    """Append what was answered to a question about `rows` to the CSV."""
    figures = row_of(answers, rows)
    table.append(path, {**about, **figures, **stamp(), "cpu_seconds": seconds})
    told = [str(about[name]) for name in ("direction", "idea", "part", "fold") if name in about]
    print(f"{', '.join(told)}, seed {about['seed']}: {figures['UAR']:.3f}")


def run_idea(
    idea: str,
    seed: int,
    trained_on: Sequence[Tables],
    questions: Sequence[Question],
    options: argparse.Namespace,
) -> None:
    """Train, unless the run is there, and append a row for each question that has none."""
    settings = settings_of(options.tower, idea, seed, trained_on, options.work)
    recipe = recipe_hash(settings)
    run = {"tower": options.tower, "idea": idea, "seed": seed, "recipe": recipe}
    missing = unanswered(questions, run, options.csv)
    if not missing:
        return
    seconds = trained(settings, recipe)
    for question, about in missing:
        answers = answers_of(settings, question.rows, question.tables, question.part)
        note(options.csv, about, answers, question.rows, seconds)


def trained(settings: Settings, recipe: str) -> float:
    """Train, and return the CPU time [s]; a run of the same recipe is taken as it is."""
    done = Path(settings.output) / "ablation.json"
    if done.exists() and (told := json.loads(done.read_text()))["recipe"] == recipe:
        return told["cpu_seconds"]
    shutil.rmtree(settings.output, ignore_errors=True)
    before = time.process_time()
    loop.train(settings)
    seconds = round(time.process_time() - before, 1)
    for folder in ("checkpoints", "last"):
        shutil.rmtree(Path(settings.output) / folder, ignore_errors=True)
    done.write_text(json.dumps({"recipe": recipe, "cpu_seconds": seconds}))
    return seconds


def run_baseline(
    name: str,
    trained_on: Sequence[Tables],
    questions: Sequence[Question],
    options: argparse.Namespace,
) -> None:
    """Fit a closed-set baseline, and append a row for each question that has none."""
    questions = [q for q in questions if q.part == FOLD or PARTS[q.part].wording is None]
    run = {"tower": TOWER, "idea": name, "seed": BASELINE_SEED, "recipe": "closed"}
    missing = unanswered(questions, run, options.csv)
    if not missing:
        return
    before = time.process_time()
    fitted = baselines.fit(name, *(labelled(trained_on, part) for part in ("train", "validation")))
    seconds = round(time.process_time() - before, 1)
    for question, about in missing:
        rows = question.rows
        truth = rows["emotion"].map(same_class)
        measured = question.tables.functionals.loc[rows.index]
        said = baselines.predict(fitted, measured, sorted(set(truth)))
        answers = pd.DataFrame({"truth": truth, "prediction": said})
        note(options.csv, about, answers, rows, seconds)


def labelled(corpora: Sequence[Tables], which: str) -> tuple[pd.DataFrame, pd.Series]:
    """Functionals of some speakers of all corpora, and classes by one name in all of them."""
    rows = [(tables, tables.of(which)) for tables in corpora]
    functionals = pd.concat(tables.functionals.loc[part.index] for tables, part in rows)
    return functionals, pd.concat(part["emotion"].map(same_class) for _, part in rows)


def parts_of(final: bool = False, words: bool = False) -> list[str]:
    """Parts that are looked at: without `final` none that nothing may be chosen on."""
    return [
        name
        for name, part in PARTS.items()
        if final or not (part.is_final or (part.wording is not None and not words))
    ]


def stamp() -> dict[str, str]:
    """Commit and date of now."""
    return {"commit": commit(), "date": datetime.datetime.now(datetime.UTC).date().isoformat()}


def write_page(options: argparse.Namespace, prepared: Mapping[str, Tables]) -> None:
    """Write RESULTS.md from the CSV; rows of recipes that have changed are left out."""
    rows = table.read(options.csv)
    head = HEAD.format(
        command="python -m experiments.ablation",
        processor=processor(),
        tower=", ".join(tower for tower in TOWERS if tower in set(rows["tower"])),
    )
    notes = Path(__file__).parent / "NOTES.md"
    text = head
    for tower, recipes in TOWERS.items():
        own = _current(rows[rows["tower"] == tower], tower, prepared, options.work)
        references = {idea: _reference(tower, recipe) for idea, recipe in recipes.items()}
        references |= dict.fromkeys(baselines.BASELINES, PUBLISHED)
        if len(own):
            text += "\n" + table.page(own, references, f"# Tower: {tower}")
        if tower == TOWER:
            both = table.compared(own, list(prepared), ON_ONE_CORPUS)
            text += "".join(f"{line}\n" for line in both)
    (options.output / "RESULTS.md").write_text(text + (notes.read_text() if notes.exists() else ""))


def _current(
    rows: pd.DataFrame, tower: str, prepared: Mapping[str, Tables], work: Path
) -> pd.DataFrame:
    """Rows of the recipes of a tower as they are now, in the order of the page."""
    closed = dict.fromkeys(baselines.BASELINES, "closed")
    tables = next(iter(prepared.values()))
    recipes = {
        (idea, seed): recipe_hash(settings_of(tower, idea, seed, [tables], work))
        for idea in TOWERS[tower]
        for seed in sorted(set(rows["seed"]) - {BASELINE_SEED})
    }
    wanted = [
        closed.get(idea) or recipes.get((idea, seed))
        for idea, seed in zip(rows["idea"], rows["seed"], strict=True)
    ]
    rows = rows[rows["recipe"] == pd.Series(wanted, rows.index, dtype=object)]
    rows = pd.concat([rows[rows["part"] != FOLD], *pooled_folds(rows, prepared)])
    return rows.sort_values("part", key=lambda parts: parts.map(SECTIONS.index), kind="stable")


def _reference(tower: str, recipe: Recipe) -> str:
    """The published recipe with the same towers."""
    if tower != TOWER:
        return HEARD_PUBLISHED
    return PRETRAINED if recipe.config == SENTENCES else PUBLISHED


def pooled_folds(rows: pd.DataFrame, prepared: Mapping[str, Tables]) -> list[pd.DataFrame]:
    """Runs over all folds: with all speakers, and without those that ideas were chosen on."""
    counts = {
        name: len(folds_of(tables.corpus, tables.labels["speaker"].unique()))
        for name, tables in prepared.items()
    }
    pooled = table.pooled(rows[rows["part"] == FOLD], counts)
    chosen_on = {name: tables.corpus.validation for name, tables in prepared.items()}
    return [pooled, table.without(pooled, chosen_on).assign(part=UNCHOSEN)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing; returns the exit code."""
    options = _parse(arguments)
    prepared = {name: prepare(name, options.data, options.work) for name in CORPORA_COMPARED}
    plans = plans_of(options, prepared)
    if options.tower == TOWER:
        for baseline, plan in itertools.product(baselines.BASELINES, plans):
            run_baseline(baseline, *plan, options)
    for seed in range(1, options.seeds + 1):  # outermost: a command may be stopped at any time
        for idea, plan in itertools.product(options.ideas, plans):
            run_idea(idea, seed, *plan, options)
    write_page(options, prepared)
    return 0


def plans_of(
    options: argparse.Namespace, prepared: Mapping[str, Tables]
) -> list[tuple[list[Tables], list[Question]]]:
    """What is trained on, and what is asked then."""
    if options.folds:
        names = [name for name in options.directions if name in prepared]
        folds = [fold for name in names for fold in prepare_folds(prepared[name], options.work)]
        return [([fold], questions_of_fold(fold)) for fold in folds]
    everything = list(prepared.values())
    parts = parts_of(options.final, options.words)
    plans = []
    for name in options.directions:
        if name == BOTH:
            plans.append((everything, questions_of_both(everything, parts)))
        else:
            own, other = prepared[name], prepared[DIRECTIONS[name][0]]
            plans.append(([own], questions_across(own, other, parts)))
    return plans


def add_places(parser: argparse.ArgumentParser) -> None:
    """Options for where corpora, results and runs are."""
    add = parser.add_argument
    add("--data", default=os.environ.get("PARACLAP_DATA"), help="folder of the corpora")
    add("-o", "--output", type=Path, default=Path("experiments"), help="of CSV and page")
    add("--work", type=Path, default=Path("runs/ablation"), help="of tables and runs")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add_places(parser)
    add("--tower", choices=list(TOWERS), default=TOWER, help="what hears the clips")
    about = (f"of {tower}: {'; '.join(ideas)}" for tower, ideas in TOWERS.items())
    add("--ideas", nargs="+", metavar="IDEA", help=". ".join(about))
    add("--directions", nargs="+", choices=[*DIRECTIONS, BOTH], default=list(DIRECTIONS))
    add("--seeds", type=int, default=3, help="1 to this")
    add("--words", action="store_true", help="also ask in words never used, see wordings.yaml")
    add = parser.add_mutually_exclusive_group().add_argument
    add("--final", action="store_true", help="look at test speakers and test corpora; in all words")
    add("--folds", action="store_true", help="test each speaker of a corpus once")
    options = parser.parse_args(arguments)
    if options.data is None:
        parser.error("give --data, or set PARACLAP_DATA")
    known = TOWERS[options.tower]
    usual = [idea for idea, recipe in known.items() if not recipe.on_request]
    at_the_end = options.final or options.folds
    options.ideas = options.ideas or (list(FINAL[options.tower]) if at_the_end else usual)
    if unknown := set(options.ideas) - set(known):
        parser.error(f"{sorted(unknown)} of tower {options.tower}, expected some of {list(known)}")
    options.csv = options.output / "results.csv"
    return options


if __name__ == "__main__":
    sys.exit(main())
