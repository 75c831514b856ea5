r"""Which ideas help: every recipe of ideas.py on the same speakers and seeds, in one table.

    PARACLAP_DATA=/data python -m experiments.ablation -o experiments
    python -m experiments.ablation --data /data -o experiments --ideas "without level" --seeds 3
    python -m experiments.ablation --data /data -o experiments --final
    python -m experiments.ablation --data /data -o experiments --tower mel --directions ravdess

The data folder holds ravdess/ and emodb/. Models train on one of them, by train.py, and are asked
about both. Ideas are chosen on validation speakers alone; --final also looks at test speakers and
at the rest of the other corpus, for the published recipe, the chosen one and closed-set baselines.

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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import features
import train
from benchmarks.results import commit, processor
from corpora import scored_classes
from datasets import FunctionalClips
from evaluate import answer
from experiments import baselines, table
from experiments.ideas import (
    CHOSEN,
    CORPORA_COMPARED,
    DIRECTIONS,
    HEARD_CHOSEN,
    HEARD_PUBLISHED,
    NEW_WORDS,
    PARTS,
    PRETRAINED,
    PUBLISHED,
    SENTENCES,
    TOWER,
    TOWERS,
    UNUSED_WORDS,
    Corpus,
    Recipe,
    same_class,
    speakers_of,
)
from functionals import read_functionals
from models import load_model
from preprocessing import template_creation
from queries import Queries, queries_for
from scoring import score
from settings import FREE_KEYS, Settings, flatten, read_settings

FINAL = {TOWER: (PUBLISHED, CHOSEN)}
FINAL |= dict.fromkeys(("wav2vec2", "mel"), (HEARD_PUBLISHED, HEARD_CHOSEN))
BASELINE_SEED = 0
HEAD = """\
# Which ideas help

Written by `{command}` ({processor}). Towers: {tower}; mean UAR over seeds; 95 % intervals over
speakers and seeds, those of differences paired. "Cross" parts are of the corpus that was not
trained on: `cross` is everyone but the validation speakers. Ideas are chosen on validation parts
alone; the validation part has also chosen the checkpoint (of the baselines: C), so figures there
are too high. Two speakers make a validation part: its intervals are coarse. A sentence encoder is
all-MiniLM-L6-v2, frozen; every other text tower starts from random weights and learns from captions
alone; differences are to the published recipe with the same text tower. CPU s: of one training run,
one thread.
"""


@dataclass
class Tables:
    """What is known of a corpus: labels, functionals, and where captions and audio are."""

    name: str
    corpus: Corpus
    labels: pd.DataFrame
    functionals: pd.DataFrame
    features: Path
    captions: Path
    root: str

    def part(self, part: str) -> pd.DataFrame:
        """Rows of the speakers of a part."""
        everyone = sorted(self.labels["speaker"].unique())
        return self.labels[self.labels["speaker"].isin(speakers_of(self.corpus, part, everyone))]


def prepare(name: str, data: str, work: Path) -> Tables:
    """Measure and caption a corpus, unless that is done already.

    Raises:
        RuntimeError: if one of the scripts fails; it says why.
    """
    corpus = CORPORA_COMPARED[name]
    measured, captions = work / f"{name}.features.parquet", work / f"{name}.captions.parquet"
    work.mkdir(parents=True, exist_ok=True)
    if not measured.exists():
        _succeed(features.main([corpus.source.format(data=data), "-o", str(measured)]))
    if not captions.exists():
        parts = ["--validation-speakers", ",".join(corpus.validation)]
        parts += ["--test-speakers", ",".join(corpus.test)]
        _succeed(template_creation.main([str(measured), "-o", str(captions), *parts]))
    labels = pd.read_parquet(measured)
    labels.attrs["corpus"] = name
    functionals = read_functionals(measured)
    root = corpus.root.format(data=data)
    return Tables(name, corpus, labels, functionals, measured, captions, root)


def _succeed(code: int) -> None:
    if code:
        raise RuntimeError("a table could not be made, see above")


def settings_of(tower: str, idea: str, seed: int, tables: Tables, work: Path) -> Settings:
    """What a run of an idea is told."""
    name = hashlib.sha256(f"{tower} {idea} {seed} {tables.name}".encode()).hexdigest()[:12]
    pack = work / "packs" / tables.name
    return read_settings(
        [
            *TOWERS[tower][idea].arguments(),
            f"data.root={tables.root}",
            f"data.features={tables.features}" if tower == TOWER else f"data.packed={pack}",
            f"data.captions={tables.captions}",
            f"train.seed={seed}",
            "train.resume=never",
            f"output={work / 'runs' / name}",
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
        if key not in FREE_KEYS and (key not in default or default[key] != value)
    }
    if name := told.get("model.text.name"):
        told["model.text.name"] = Path(name).name
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:8]


def asked_of(part: str, own: Tables, other: Tables) -> pd.DataFrame:
    """Clips of a part that are asked about."""
    crosses, _ = PARTS[part]
    if not crosses:
        return own.part(part)
    rows = other.part(part)
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


def queries_of(settings: Settings, rows: pd.DataFrame, part: str) -> Queries:
    """Queries of the classes of clips, as the validation of the run asked or in new words."""
    queries = queries_for(rows, "emotion", settings.train.queries)
    if part == NEW_WORDS:
        words = {label: UNUSED_WORDS[same_class(label)] for label in queries}
        queries = {n: (f"the speaker sounds {how}", voice) for n, (how, voice) in words.items()}
    found = set(scored_classes(rows, "emotion"))
    return {name: wordings for name, wordings in queries.items() if name in found}


def answers_of(settings: Settings, rows: pd.DataFrame, tables: Tables, part: str) -> pd.DataFrame:
    """What the best model of a run says of clips."""
    model, reader = load_model(settings.output)
    queries = queries_of(settings, rows, part)
    truth = scored_classes(rows, "emotion")
    clips = None
    if model.audio_branch.reads_functionals:
        measured = tables.functionals.loc[rows.index, model.config.audio_config.names]
        clips = FunctionalClips(rows, tables.root, measured.to_numpy(np.float32))
    answers = answer(model, reader, rows, tables.root, queries, clips)
    answers.insert(0, "truth", truth)
    return answers


def run_idea(idea: str, seed: int, own: Tables, other: Tables, options: argparse.Namespace) -> None:
    """Train, unless the run is there, and append a row for each part that has none."""
    settings = settings_of(options.tower, idea, seed, own, options.work)
    about = {
        "tower": options.tower,
        "direction": f"{own.name} -> {other.name}",
        "idea": idea,
        "seed": seed,
        "recipe": recipe_hash(settings),
    }
    missing = [part for part in parts_of(options) if not is_known(options.csv, about, part)]
    if not missing:
        return
    seconds = trained(settings, about["recipe"])
    for part in missing:
        tables = other if PARTS[part][0] else own
        rows = asked_of(part, own, other)
        figures = row_of(answers_of(settings, rows, tables, part), rows)
        table.append(
            options.csv, about | figures | stamp() | {"part": part, "cpu_seconds": seconds}
        )
        print(f"{about['direction']}, {idea}, seed {seed}, {part}: {figures['UAR']:.3f}")


def trained(settings: Settings, recipe: str) -> float:
    """Train, and return the CPU time [s]; a run of the same recipe is taken as it is."""
    done = Path(settings.output) / "ablation.json"
    if done.exists() and (told := json.loads(done.read_text()))["recipe"] == recipe:
        return told["cpu_seconds"]
    shutil.rmtree(settings.output, ignore_errors=True)
    before = time.process_time()
    train.train(settings)
    seconds = round(time.process_time() - before, 1)
    for folder in ("checkpoints", "last"):
        shutil.rmtree(Path(settings.output) / folder, ignore_errors=True)
    done.write_text(json.dumps({"recipe": recipe, "cpu_seconds": seconds}))
    return seconds


def run_baseline(name: str, own: Tables, other: Tables, options: argparse.Namespace) -> None:
    """Fit a closed-set baseline, and append a row for each part that has none."""
    about = {
        "tower": TOWER,
        "direction": f"{own.name} -> {other.name}",
        "idea": name,
        "seed": BASELINE_SEED,
        "recipe": "closed",
    }
    parts = [part for part in parts_of(options) if part != NEW_WORDS]  # it cannot be asked in any
    missing = [part for part in parts if not is_known(options.csv, about, part)]
    if not missing:
        return
    before = time.process_time()
    fitted = baselines.fit(
        name,
        *(
            (own.functionals.loc[rows.index], rows["emotion"].map(same_class))
            for rows in (own.part("train"), own.part("validation"))
        ),
    )
    seconds = round(time.process_time() - before, 1)
    for part in missing:
        tables, rows = other if PARTS[part][0] else own, asked_of(part, own, other)
        truth = rows["emotion"].map(same_class)
        said = baselines.predict(fitted, tables.functionals.loc[rows.index], sorted(set(truth)))
        figures = row_of(pd.DataFrame({"truth": truth, "prediction": said}), rows)
        table.append(
            options.csv, about | figures | stamp() | {"part": part, "cpu_seconds": seconds}
        )
        print(f"{about['direction']}, {name}, {part}: {figures['UAR']:.3f}")


def parts_of(options: argparse.Namespace) -> list[str]:
    """Parts that are looked at."""
    return [part for part, (_, is_final) in PARTS.items() if options.final or not is_final]


def is_known(path: Path, about: Mapping[str, Any], part: str) -> bool:
    """Whether the CSV has this row."""
    rows = table.read(path)
    same = np.ones(len(rows), bool)
    for name, value in (about | {"part": part}).items():
        same &= (rows[name].astype(str) == str(value)).to_numpy()
    return bool(same.any())


def stamp() -> dict[str, str]:
    """Commit and date of now."""
    return {"commit": commit(), "date": datetime.datetime.now(datetime.UTC).date().isoformat()}


def write_page(options: argparse.Namespace, prepared: Mapping[str, Tables]) -> None:
    """Write RESULTS.md from the CSV; rows of recipes that have changed are left out."""
    rows = table.read(options.csv)
    tables = next(iter(prepared.values()))
    head = HEAD.format(
        command="python -m experiments.ablation; python -m experiments.ablation --final",
        processor=processor(),
        tower=", ".join(tower for tower in TOWERS if tower in set(rows["tower"])),
    )
    notes = Path(__file__).parent / "NOTES.md"
    text = ""
    for tower, recipes in TOWERS.items():
        own = _current(rows[rows["tower"] == tower], tower, tables, options.work)
        references = {idea: _reference(tower, recipe) for idea, recipe in recipes.items()}
        references |= dict.fromkeys(baselines.BASELINES, PUBLISHED)
        if len(own):
            text += table.page(own, references, head if tower == TOWER else f"# Tower: {tower}")
    (options.output / "RESULTS.md").write_text(text + (notes.read_text() if notes.exists() else ""))


def _current(rows: pd.DataFrame, tower: str, tables: Tables, work: Path) -> pd.DataFrame:
    """Rows of the recipes of a tower as they are now, in the order of the page."""
    closed = dict.fromkeys(baselines.BASELINES, "closed")
    recipes = {
        (idea, seed): recipe_hash(settings_of(tower, idea, seed, tables, work))
        for idea in TOWERS[tower]
        for seed in sorted(set(rows["seed"]) - {BASELINE_SEED})
    }
    wanted = [
        closed.get(idea) or recipes.get((idea, seed))
        for idea, seed in zip(rows["idea"], rows["seed"], strict=True)
    ]
    rows = rows[rows["recipe"] == pd.Series(wanted, rows.index, dtype=object)]
    return rows.sort_values("part", key=lambda parts: parts.map(list(PARTS).index), kind="stable")


def _reference(tower: str, recipe: Recipe) -> str:
    """The published recipe with the same towers."""
    if tower != TOWER:
        return HEARD_PUBLISHED
    return PRETRAINED if recipe.config == SENTENCES else PUBLISHED


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing; returns the exit code."""
    options = _parse(arguments)
    prepared = {name: prepare(name, options.data, options.work) for name in CORPORA_COMPARED}
    pairs = [(prepared[name], prepared[DIRECTIONS[name][0]]) for name in options.directions]
    for baseline, pair in itertools.product(baselines.BASELINES, pairs):
        if options.tower == TOWER:
            run_baseline(baseline, *pair, options)
    for seed in range(1, options.seeds + 1):  # outermost: a command may be stopped at any time
        for idea, pair in itertools.product(options.ideas, pairs):
            run_idea(idea, seed, *pair, options)
    write_page(options, prepared)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", default=os.environ.get("PARACLAP_DATA"), help="folder of the corpora")
    add("-o", "--output", type=Path, default=Path("experiments"), help="of CSV and page")
    add("--work", type=Path, default=Path("runs/ablation"), help="of tables and runs")
    add("--tower", choices=list(TOWERS), default=TOWER, help="what hears the clips")
    about = (f"of {tower}: {'; '.join(ideas)}" for tower, ideas in TOWERS.items())
    add("--ideas", nargs="+", metavar="IDEA", help=". ".join(about))
    add("--directions", nargs="+", choices=list(DIRECTIONS), default=list(DIRECTIONS))
    add("--seeds", type=int, default=3, help="1 to this")
    add("--final", action="store_true", help="look at test speakers and test corpora")
    options = parser.parse_args(arguments)
    if options.data is None:
        parser.error("give --data, or set PARACLAP_DATA")
    known = TOWERS[options.tower]
    usual = [idea for idea, recipe in known.items() if not recipe.on_request]
    options.ideas = options.ideas or (list(FINAL[options.tower]) if options.final else usual)
    if unknown := set(options.ideas) - set(known):
        parser.error(f"{sorted(unknown)} of tower {options.tower}, expected some of {list(known)}")
    options.csv = options.output / "results.csv"
    return options


if __name__ == "__main__":
    sys.exit(main())
