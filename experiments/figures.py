r"""Pictures of what a recipe learns: the space, what is near to what, and the recall of each class.

    python -m experiments.figures --data /data --work runs/ablation
    python -m experiments.figures --data /data --work runs/ablation --part test

It comes after `python -m experiments.ablation --ideas ...` of the two recipes compared, whose runs
are in --work and whose rows are in --results; for --part test, after --final. Draws

- space.png: clips and prompts in the plane in which prompts differ most (PCA), seed 1;
- similarities.png: mean cosine of the clips of each class and each prompt, mean of the seeds;
- recalls.png: recall of each class, with 95 % intervals over speakers and seeds.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.decomposition import PCA

from docs.pictures import PICTURES, shrink
from experiments import table
from experiments.ablation import Tables, asked_of, prepare, queries_of, recipe_hash, settings_of
from experiments.ideas import (
    CHOSEN_PRETRAINED,
    CORPORA_COMPARED,
    DIRECTIONS,
    PRETRAINED,
    TOWER,
    WORDINGS,
    same_class,
)
from paraclap.data.dataset import FunctionalClips
from paraclap.evaluation.embed import embed_classes, embed_clips
from paraclap.model.build import load_model

STYLES: Mapping[str, tuple[str, str]] = {
    # class -> colour (of Okabe and Ito, who chose them for every kind of sight) and marker
    "angry": ("#D55E00", "^"),
    "bored": ("#999999", "h"),
    "calm": ("#56B4E9", "o"),
    "disgusted": ("#009E73", "s"),
    "fearful": ("#CC79A7", "v"),
    "happy": ("#E69F00", "D"),
    "neutral": ("#000000", "P"),
    "sad": ("#0072B2", "X"),
    "surprised": ("#F0E442", "p"),
}
SIDES = ("#999999", "#0072B2")  # published, ours
NAMES = ("published recipe", "our recipe")
SIZES = (22, 210, 90)  # of clips, and of prompts in words of captions and in others
LEGEND = ("clip", "prompt, words of captions", "prompt, words never used")
SPELT = {"ravdess": "RAVDESS", "emodb": "EmoDB"}
CROSS = {"validation": "cross validation", "test": "cross"}
NEW_WORDS = next(iter(WORDINGS))
DRAWN = ("space", "similarities", "recalls")
WIDTH = 9.0  # inches
DPI = 130
COLOURS = 256


@dataclass
class Space:
    """What a run makes of the clips of a part.

    Attributes:
        truth: class of each clip (B,).
        audio: embeddings of the clips (B, D), unit length.
        texts: wording -> class -> embedding of the prompt (D,), unit length.
    """

    truth: np.ndarray
    audio: np.ndarray
    texts: dict[str, dict[str, np.ndarray]]


def space_of(idea: str, seed: int, part: str, own: Tables, work: Path) -> Space:
    """Embed clips and prompts with the run of an idea.

    Raises:
        FileNotFoundError: if it has not been trained, or was trained with other settings.
    """
    settings = settings_of(TOWER, idea, seed, [own], work)
    done = Path(settings.output) / "ablation.json"
    if not done.exists() or json.loads(done.read_text())["recipe"] != recipe_hash(settings):
        raise FileNotFoundError(f"{work} has no run of {idea!r}, seed {seed}, on {own.name}")
    model, reader = load_model(settings.output)
    model.eval()
    rows = asked_of(part, own, own)
    measured = own.functionals.loc[rows.index, model.config.audio_config.names]
    clips = FunctionalClips(rows, own.root, measured.to_numpy(np.float32))
    texts = {}
    for wording in (part, f"{part}, {NEW_WORDS}"):
        prompts = queries_of(settings, rows, wording)
        embedded = embed_classes(model, reader, prompts).numpy()
        texts[wording] = dict(zip(map(same_class, prompts), embedded, strict=True))
    truth = rows["emotion"].map(same_class).to_numpy()
    return Space(truth, embed_clips(model, reader, clips).numpy(), texts)


# --- Clips and prompts in two dimensions -------------------------------------------------------


Places = Mapping[str, Mapping[str, np.ndarray]]
"""Wording -> class -> where its prompt lies (2,)."""


def flatten_space(space: Space) -> tuple[np.ndarray, Places, float]:
    """Places of clips (B, 2) and of prompts in the plane in which the prompts differ most.

    The mean of the clips and that of the prompts are taken away first: what all prompts have in
    common changes no answer, and would take the first axis. The plane is that of the first two
    principal components of the prompts in words of captions.

    Returns:
        Places of the clips and of the prompts, and the share of the variance of those prompts that
        the plane holds.
    """
    texts = [vector for prompts in space.texts.values() for vector in prompts.values()]
    prompts = _centred(np.stack(texts))
    plain = next(iter(space.texts.values()))
    plane = PCA(2, svd_solver="full").fit(prompts[: len(plain)])
    rest = iter(plane.transform(prompts))
    named = {
        wording: {label: next(rest) for label in asked} for wording, asked in space.texts.items()
    }
    return plane.transform(_centred(space.audio)), named, plane.explained_variance_ratio_.sum()


def _centred(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors - vectors.mean(axis=0)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def draw_spaces(spaces: Sequence[Space], title: str) -> Figure:
    """Draw the spaces of recipes side by side."""
    figure = Figure(figsize=(WIDTH, 5.6), dpi=DPI, layout="constrained")
    figure.suptitle(title)
    for axes, space, name in zip(figure.subplots(1, 2), spaces, NAMES, strict=True):
        share = _draw_space(axes, space)
        axes.set_title(f"{name} ({share:.0%} of the prompts' variance)", fontsize=10)
    for size, name in zip(SIZES, LEGEND, strict=True):
        axes.scatter([], [], s=size, color="white", edgecolors="black", label=name)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _draw_space(axes: Axes, space: Space) -> float:
    clips, prompts, share = flatten_space(space)
    plain, new = prompts.values()
    for label, (colour, marker) in STYLES.items():
        if label not in plain:
            continue
        options = {"marker": marker, "color": colour, "edgecolors": "black"}
        points = clips[space.truth == label].T
        axes.scatter(*points, s=SIZES[0], linewidths=0.3, alpha=0.8, label=label, **options)
        for place, size in zip((plain[label], new[label]), SIZES[1:], strict=True):
            axes.scatter(*place, s=size, linewidths=1.6, zorder=3, **options)
    axes.set(xticks=[], yticks=[])
    return share


# --- What is near to what ------------------------------------------------------------------------


def similarities(spaces: Sequence[Space], wording: str) -> pd.DataFrame:
    """Mean cosine of the clips of each class (row) and each prompt (column), mean of the spaces."""
    found = []
    for space in spaces:
        prompts = space.texts[wording]
        cosines = pd.DataFrame(space.audio @ np.stack(list(prompts.values())).T, columns=prompts)
        found.append(cosines.groupby(space.truth).mean())
    mean = sum(found) / len(found)
    order = [label for label in STYLES if label in mean.index]
    return mean.loc[order, order]


def draw_similarities(tables: Sequence[Mapping[str, pd.DataFrame]], title: str) -> Figure:
    """Draw similarities of recipes (rows) asked in different words (columns)."""
    figure = Figure(figsize=(WIDTH, 8.4), dpi=DPI, layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(2, 2, sharey=True)
    for row, of_recipe, name in zip(grid, tables, NAMES, strict=True):
        limit = max(np.abs(cosines.to_numpy()).max() for cosines in of_recipe.values())
        for axes, (wording, cosines) in zip(row, of_recipe.items(), strict=True):
            shown = _draw_matrix(axes, cosines, limit)
            axes.set_title(f"{name}, {wording}", fontsize=10)
        row[0].set_ylabel("clips of")
        figure.colorbar(shown, ax=row, label="mean cosine", shrink=0.8)
    for axes in grid[1]:
        axes.set_xlabel("prompt for")
    return figure


def _draw_matrix(axes: Axes, cosines: pd.DataFrame, limit: float) -> object:
    shown = axes.imshow(cosines, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    nearest = cosines.to_numpy().argmax(axis=1)
    for (row, column), cosine in np.ndenumerate(cosines.to_numpy()):
        colour = "white" if abs(cosine) > 0.6 * limit else "black"
        weight = "bold" if nearest[row] == column else "normal"
        text = f"{round(cosine, 2) + 0.0:.2f}".replace("0.", ".")  # never -.00
        axes.text(
            column, row, text, ha="center", va="center", color=colour, fontsize=7.5, weight=weight
        )
    axes.set_xticks(range(len(cosines)), cosines.columns, rotation=45, ha="right")
    axes.set_yticks(range(len(cosines)), cosines.index)
    return shown


# --- Recall of each class -----------------------------------------------------------------------


def draw_recalls(rows: pd.DataFrame, ideas: Sequence[str], part: str) -> Figure:
    """Draw the recalls of two recipes, for the speakers of the same corpus and of the other one.

    Args:
        rows: of results.csv, see `table.read`.
        ideas: the two recipes.
        part: one of `CROSS`.

    Raises:
        ValueError: if a recipe has no row of a part.
    """
    figure = Figure(figsize=(WIDTH, 3.45 * len(DIRECTIONS)), dpi=DPI, layout="constrained")
    grid = figure.subplots(len(DIRECTIONS), 2, sharey=True, squeeze=False)
    for line, (trained_on, (other, _)) in zip(grid, DIRECTIONS.items(), strict=True):
        for axes, (where, asked) in zip(
            line, ((part, trained_on), (CROSS[part], other)), strict=True
        ):
            chosen = rows[(rows["part"] == where) & (rows["direction"].str.startswith(trained_on))]
            means = _draw_bars(axes, [_counts(chosen, idea, where) for idea in ideas])
            title = f"trained on {SPELT[trained_on]}, asked about {SPELT[asked]}"
            uars = ", ".join(f"{name}: {uar:.2f}" for name, uar in zip(NAMES, means, strict=True))
            axes.set_title(f"{title}\nUAR, {uars}", fontsize=9)
        line[0].set_ylabel("recall")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    return figure


def _counts(rows: pd.DataFrame, idea: str, part: str) -> list[table.Counts]:
    counts = rows[rows["idea"] == idea].sort_values("seed")["counts"].tolist()
    if not counts:
        raise ValueError(f"no results of {idea!r}, part {part!r}: run experiments.ablation first")
    return counts


def _draw_bars(axes: Axes, of_recipes: Sequence[Sequence[table.Counts]]) -> list[float]:
    """Draw bars beside each other; returns the UAR of each recipe."""
    means = []
    for number, (runs, name, colour) in enumerate(zip(of_recipes, NAMES, SIDES, strict=True)):
        recalls = table.recalls(runs)
        recalls.index = recalls.index.map(same_class)
        recalls = recalls.loc[[label for label in STYLES if label in recalls.index]]
        places = np.arange(len(recalls)) + 0.4 * (number - 0.5)
        mean = recalls["mean"]
        spread = [mean - recalls["low"].clip(upper=mean), recalls["high"].clip(lower=mean) - mean]
        axes.bar(places, mean, 0.38, color=colour, label=name)
        axes.errorbar(places, mean, spread, fmt="none", ecolor="black", capsize=2, linewidth=1)
        means.append(mean.mean())
    axes.axhline(1 / len(recalls), color="black", linestyle="--", linewidth=1, label="chance")
    axes.set_xticks(range(len(recalls)), recalls.index, rotation=30, ha="right")
    axes.set_ylim(0, 1.03)
    return means


# --- Command line ------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw all pictures; returns the exit code."""
    options = _parse(arguments)
    own = prepare(options.trained_on, options.data, options.work)
    spaces = [
        [space_of(idea, seed, options.part, own, options.work) for seed in _seeds(options)]
        for idea in options.recipes
    ]
    new = f"{options.part}, {NEW_WORDS}"
    wordings = {"words of captions": options.part, NEW_WORDS: new}
    near = [{name: similarities(s, key) for name, key in wordings.items()} for s in spaces]
    rows = table.read(options.results)
    about = f"{SPELT[own.name]}, {options.part} speakers"
    drawn = (
        draw_spaces([s[0] for s in spaces], about),
        draw_similarities(near, f"{about}; the nearest prompt in bold"),
        draw_recalls(rows, options.recipes, options.part),
    )
    for name, figure in zip(DRAWN, drawn, strict=True):
        path = options.output / f"{name}.png"
        options.output.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
        print(f"{path}: {shrink(path, path, COLOURS) / 1024:.0f} KiB")
    return 0


def _seeds(options: argparse.Namespace) -> range:
    return range(1, options.seeds + 1)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", default=os.environ.get("PARACLAP_DATA"), help="folder of the corpora")
    add("--work", type=Path, default=Path("runs/ablation"), help="of tables and runs")
    add("--results", type=Path, default=Path("experiments/results.csv"), help="rows of the runs")
    add("-o", "--output", type=Path, default=PICTURES, help="folder of the pictures")
    add("--recipes", nargs=2, default=[PRETRAINED, CHOSEN_PRETRAINED], metavar="IDEA")
    add("--part", choices=list(CROSS), default="validation", help="whose speakers")
    add("--trained-on", choices=list(CORPORA_COMPARED), default=next(iter(CORPORA_COMPARED)))
    add("--seeds", type=int, default=3, help="1 to this")
    options = parser.parse_args(arguments)
    if options.data is None:
        parser.error("give --data, or set PARACLAP_DATA")
    return options


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"figures.py: {error}")
