r"""Figures of the learned embedding space: projection, similarities, and recall of each class.

    python -m experiments.figures --data /data

Requires the runs and rows of both recipes, from `python -m experiments.ablation --final`. Draws

- space.png: clips and prompts in the plane of the prompts' first principal components, seed 1;
- similarities.png: mean cosine of the clips of each class and each prompt, mean over seeds;
- recalls.png: recall of each class, with 95 % intervals over speakers and seeds.
"""

import argparse
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
from experiments import results
from experiments.ablation import DONE, add_folders, functionals_of, prompts_of, settings_of
from experiments.corpora import DIRECTIONS, PreparedCorpus, prepare, same_class
from experiments.recipes import CHOSEN_SENTENCES, EGEMAPS, PUBLISHED_SENTENCES
from paraclap.evaluation.embed import embed_classes, embed_clips
from paraclap.model.build import load_model
from paraclap.style import FORMATS, PAGE, SMALL, styled, write_figure

STYLES: Mapping[str, tuple[str, str]] = {
    # class -> colour (Okabe and Ito, distinct also to colour-blind readers) and marker
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
SIZES = (12, 110, 50)  # marker area of clips, prompts worded as captions, and synonyms
LEGEND = ("clip", "prompt, words of captions", "prompt, synonyms")
TITLES = {"ravdess": "RAVDESS", "emodb": "EmoDB"}
PART, OTHER = "test", "test, other corpus"
RECIPES = (PUBLISHED_SENTENCES, CHOSEN_SENTENCES)
SEEDS = (1, 2, 3)
WORDS = {"words of captions": None, "synonyms": "synonyms"}
"""Name in the figures -> group of `WORDINGS`."""
COLOURS = 256


@dataclass
class Space:
    """Embeddings of the clips of a part and of the prompts.

    Attributes:
        truth: class of each clip (B,).
        audio: embeddings of the clips (B, D), unit length.
        texts: name of `WORDS` -> class -> embedding of the prompt (D,), unit length.
    """

    truth: np.ndarray
    audio: np.ndarray
    texts: dict[str, dict[str, np.ndarray]]


def space_of(recipe: str, seed: int, own: PreparedCorpus, work: Path) -> Space:
    """Embed the test clips and the prompts with a trained recipe.

    Raises:
        FileNotFoundError: if there is no run with these settings.
    """
    settings = settings_of(EGEMAPS, recipe, seed, own, work)
    if not Path(settings.output, DONE).exists():
        raise FileNotFoundError(f"{work} has no run of {recipe!r}, seed {seed}, on {own.name}")
    model, processor = load_model(settings.output)
    model.eval()
    rows = own.clips(PART)
    clips = functionals_of(own, rows, model.config.audio_config.names)
    texts = {}
    for name, group in WORDS.items():
        prompts = prompts_of(settings, rows, group)
        embedded = embed_classes(model, processor, prompts).numpy()
        texts[name] = dict(zip(map(same_class, prompts), embedded, strict=True))
    truth = rows["emotion"].map(same_class).to_numpy()
    return Space(truth, embed_clips(model, processor, clips).numpy(), texts)


# --- Projection ----------------------------------------------------------------------------------

Places = Mapping[str, Mapping[str, np.ndarray]]
"""Name of `WORDS` -> class -> position of its prompt (2,)."""


def project(space: Space) -> tuple[np.ndarray, Places, float]:
    """Project clips and prompts onto the first two principal components of the prompts.

    Clips and prompts are centred separately, since what all prompts have in common changes no
    prediction. The components are those of the prompts worded as captions.

    Returns:
        Positions of the clips (B, 2) and of the prompts, and the explained variance of the prompts.
    """
    texts = [vector for prompts in space.texts.values() for vector in prompts.values()]
    prompts = _centred(np.stack(texts))
    plain = next(iter(space.texts.values()))
    plane = PCA(2, svd_solver="full").fit(prompts[: len(plain)])
    rest = iter(plane.transform(prompts))
    places = {name: {label: next(rest) for label in texts} for name, texts in space.texts.items()}
    return plane.transform(_centred(space.audio)), places, plane.explained_variance_ratio_.sum()


def _centred(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors - vectors.mean(axis=0)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@styled
def draw_spaces(spaces: Sequence[Space], title: str) -> Figure:
    """Draw the spaces of two recipes side by side."""
    figure = Figure(figsize=(PAGE, 4.2))
    figure.suptitle(title)
    for axes, space, name in zip(figure.subplots(1, 2), spaces, NAMES, strict=True):
        share = _draw_space(axes, space)
        axes.set_title(f"{name} ({share:.0%} of the prompts' variance)")
    for size, name in zip(SIZES, LEGEND, strict=True):
        axes.scatter([], [], s=size, color="white", edgecolors="black", label=name)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _draw_space(axes: Axes, space: Space) -> float:
    clips, prompts, share = project(space)
    plain, synonyms = prompts.values()
    for label, (colour, marker) in STYLES.items():
        if label not in plain:
            continue
        options = {"marker": marker, "color": colour, "edgecolors": "black"}
        points = clips[space.truth == label].T
        axes.scatter(*points, s=SIZES[0], linewidths=0.3, alpha=0.8, label=label, **options)
        for place, size in zip((plain[label], synonyms[label]), SIZES[1:], strict=True):
            axes.scatter(*place, s=size, linewidths=1.6, zorder=3, **options)
    names = (f"{which} principal component of the prompts" for which in ("first", "second"))
    axes.set(xticks=[], yticks=[], **dict(zip(("xlabel", "ylabel"), names, strict=True)))
    return share


# --- Similarities --------------------------------------------------------------------------------


def similarities(spaces: Sequence[Space], name: str) -> pd.DataFrame:
    """Return the mean cosine of the clips of each class (row) and each prompt (column).

    Args:
        spaces: of each seed.
        name: of `WORDS`.
    """
    found = []
    for space in spaces:
        prompts = space.texts[name]
        cosines = pd.DataFrame(space.audio @ np.stack(list(prompts.values())).T, columns=prompts)
        found.append(cosines.groupby(space.truth).mean())
    mean = sum(found) / len(found)
    order = [label for label in STYLES if label in mean.index]
    return mean.loc[order, order]


@styled
def draw_similarities(tables: Sequence[Mapping[str, pd.DataFrame]], title: str) -> Figure:
    """Draw the similarities of recipes (rows) for different prompts (columns)."""
    figure = Figure(figsize=(PAGE, 6.4))
    figure.suptitle(title)
    grid = figure.subplots(2, 2, sharey=True)
    for row, of_recipe, name in zip(grid, tables, NAMES, strict=True):
        limit = max(np.abs(cosines.to_numpy()).max() for cosines in of_recipe.values())
        for axes, (words, cosines) in zip(row, of_recipe.items(), strict=True):
            shown = _draw_matrix(axes, cosines, limit)
            axes.set_title(f"{name}, {words}")
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
        options = {"fontsize": SMALL, "weight": weight, "color": colour}
        axes.text(column, row, text, ha="center", va="center", **options)
    axes.set_xticks(range(len(cosines)), cosines.columns, rotation=45, ha="right")
    axes.set_yticks(range(len(cosines)), cosines.index)
    return shown


# --- Recall of each class ------------------------------------------------------------------------


@styled
def draw_recalls(rows: pd.DataFrame) -> Figure:
    """Draw the recalls of both recipes for both training corpora and both test corpora.

    Args:
        rows: of `results.read`.

    Raises:
        ValueError: if a recipe has no row of a part.
    """
    figure = Figure(figsize=(PAGE, 2.6 * len(DIRECTIONS)))
    grid = figure.subplots(len(DIRECTIONS), 2, sharey=True, squeeze=False)
    for line, (trained_on, (other, _)) in zip(grid, DIRECTIONS.items(), strict=True):
        pairs = ((trained_on, PART), (f"{trained_on} -> {other}", OTHER))
        for axes, tested, pair in zip(line, (trained_on, other), pairs, strict=True):
            means = _draw_bars(axes, [_counts(rows, recipe, *pair) for recipe in RECIPES])
            title = f"trained on {TITLES[trained_on]}, tested on {TITLES[tested]}"
            uars = ", ".join(f"{name}: {uar:.2f}" for name, uar in zip(NAMES, means, strict=True))
            axes.set_title(f"{title}\nUAR, {uars}")
        line[0].set_ylabel("recall")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    return figure


def _counts(rows: pd.DataFrame, recipe: str, direction: str, part: str) -> list[results.Counts]:
    keys = {"tower": EGEMAPS, "recipe": recipe, "direction": direction, "part": part}
    chosen = rows[(rows[list(keys)] == list(keys.values())).all(axis=1)].sort_values("seed")
    if chosen.empty:
        raise ValueError(f"no results for {keys}: run experiments.ablation first")
    return chosen["counts"].tolist()


def _draw_bars(axes: Axes, of_recipes: Sequence[Sequence[results.Counts]]) -> list[float]:
    """Draw grouped bars; returns the UAR of each recipe."""
    means = []
    for number, (runs, name, colour) in enumerate(zip(of_recipes, NAMES, SIDES, strict=True)):
        recalls = results.recalls(runs)
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


# --- Command line --------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw all figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_folders(parser)
    parser.add_argument("-o", "--output", type=Path, default=PICTURES, help="of the figures")
    parser.add_argument("--format", choices=FORMATS, default="png", help="of the figures")
    options = parser.parse_args(arguments)
    own = prepare(next(iter(DIRECTIONS)), options.data, options.work)
    spaces = [[space_of(recipe, seed, own, options.work) for seed in SEEDS] for recipe in RECIPES]
    near = [{name: similarities(of_seeds, name) for name in WORDS} for of_seeds in spaces]
    title = f"{TITLES[own.name]}, {PART} speakers"
    figures = {
        "space": draw_spaces([of_seeds[0] for of_seeds in spaces], title),
        "similarities": draw_similarities(near, f"{title}; highest similarity of each row in bold"),
        "recalls": draw_recalls(results.read(options.work / results.FILE)),
    }
    options.output.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        path = options.output / f"{name}.{options.format}"
        write_figure(figure, path)
        if options.format == "png":
            shrink(path, path, COLOURS)


if __name__ == "__main__":
    try:
        main()
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"figures.py: {error}")
