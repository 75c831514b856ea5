"""experiments/figures.py: the figures show the values in the table."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.container import BarContainer
from matplotlib.image import AxesImage

from experiments import figures, results
from experiments.corpora import WORDINGS
from experiments.figures import Space

CLASSES = ("angry", "calm", "sad")


def spaces(count=2, seed=0, noise=0.3):
    """Clips around the prompt of their class; clips and prompts far from each other."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        directions = np.linalg.qr(rng.normal(size=(16, 16)))[0]
        prompts, gap = directions[:3], directions[3]
        truth = np.repeat(CLASSES, 10)
        audio = prompts[np.repeat(range(3), 10)] + noise * rng.normal(size=(30, 16)) + 2 * gap
        new = prompts + noise * rng.normal(size=(3, 16)) - 2 * gap
        texts = {"plain": prompts - 2 * gap, "new": new}
        named = {
            wording: dict(zip(CLASSES, unit(vectors), strict=True))
            for wording, vectors in texts.items()
        }
        made.append(Space(truth, unit(audio), named))
    return made


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_projected_clips_are_nearest_to_the_prompt_of_their_class():
    space = spaces(1, noise=0.05)[0]
    clips, prompts, share = figures.project(space)
    assert share == pytest.approx(1.0)  # three prompts without their mean lie in a plane
    for wording in ("plain", "new"):
        places = np.stack(list(prompts[wording].values()))
        nearest = np.linalg.norm(clips[:, None] - places, axis=2).argmin(axis=1)
        assert (np.array(CLASSES)[nearest] == space.truth).all()


def test_similarities_are_mean_cosines_over_clips_and_seeds():
    made = spaces()
    found = figures.similarities(made, "new")
    for truth in CLASSES:
        for prompt in CLASSES:
            cosines = [
                np.mean([clip @ s.texts["new"][prompt] for clip in s.audio[s.truth == truth]])
                for s in made
            ]
            assert found.loc[truth, prompt] == pytest.approx(np.mean(cosines))
    drawn = figures.draw_similarities([{"a": found, "b": found}] * 2, "title")
    images = [i for axes in drawn.axes for i in axes.get_children() if isinstance(i, AxesImage)]
    assert len(images) == 4
    np.testing.assert_allclose(images[0].get_array(), found)


def rows_of(hits):
    """Rows of two seeds and all parts; each speaker has ten clips of each class."""
    return pd.DataFrame(
        {"tower": "egemaps", "direction": direction, "part": part, "recipe": recipe, "seed": seed}
        | {"counts": {s: {"anger": [right, 10], "sadness": [10 - right, 10]} for s in "ab"}}
        for own, other in (("ravdess", "emodb"), ("emodb", "ravdess"))
        for direction, part in ((own, figures.PART), (f"{own} -> {other}", figures.OTHER))
        for recipe, right in hits.items()
        for seed in (1, 2)
    )


def test_bars_are_recalls():
    rows = rows_of(dict(zip(figures.RECIPES, (3, 9), strict=True)))
    drawn = figures.draw_recalls(rows)
    assert len(drawn.axes) == 4
    for axes in drawn.axes:
        bars = [c for c in axes.containers if isinstance(c, BarContainer)]
        heights = [[bar.get_height() for bar in container] for container in bars]
        np.testing.assert_allclose(heights, [[0.3, 0.7], [0.9, 0.1]])
        assert [label.get_text() for label in axes.get_xticklabels()] == ["angry", "sad"]
    with pytest.raises(ValueError, match="no results for .*'chosen"):
        figures.draw_recalls(rows_of({figures.RECIPES[0]: 3}))


def test_recalls_have_intervals_over_speakers_and_seeds():
    """x differs between speakers, y between seeds, z has clips of one speaker only."""
    runs = [
        {
            "a": {"x": [2, 10], "y": [seed, 10], "z": [5, 10]},
            "b": {"x": [5, 10], "y": [seed, 10]},
            "c": {"x": [8, 10], "y": [seed, 10]},
        }
        for seed in (1, 9)
    ]
    found = results.recalls(runs)
    assert found["mean"].to_dict() == pytest.approx({"x": 0.5, "y": 0.5, "z": 0.5})
    assert found["low"].to_dict() == pytest.approx({"x": 0.2, "y": 0.1, "z": 0.5})
    assert found["high"].to_dict() == pytest.approx({"x": 0.8, "y": 0.9, "z": 0.5})
    found = results.recalls([{name: run[name] for name in "ab"} for run in runs])
    assert found[["low", "high"]].isna().all(axis=None) and found["mean"].notna().all()


def test_every_class_has_a_style_of_its_own():
    assert set(figures.STYLES) == set(WORDINGS["German"])
    for values in zip(*figures.STYLES.values(), strict=True):
        assert len(set(values)) == len(values)
