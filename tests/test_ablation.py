"""experiments/: parts share no speaker, figures are those of scikit-learn, nothing runs twice."""

import argparse
import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score
from transformers import BertTokenizer

from experiments import ablation, baselines, figures, ideas, table, wordings
from experiments.ideas import (
    CORPORA_COMPARED,
    IDEAS,
    PARTS,
    SPEAKERS,
    Corpus,
    Recipe,
    speakers_of,
)
from experiments.wordings import words_of
from label_captions import caption_labels
from preprocessing.captioning.templates import default_descriptors
from settings import read_settings

QUICK = [
    "train.epochs=1",
    "train.batch_size=8",
    "text_stage.steps=1",
    "train.validate_every=100",
    "model.audio.config.hidden_size=16",
    "model.text.config.num_hidden_layers=1",
]


@pytest.fixture
def small(monkeypatch, tmp_path, corpus, captions):
    """Two names of the synthetic corpus, measured already, and two recipes."""
    speakers = sorted(pd.read_parquet(captions)["speaker"].unique())
    toy = Corpus(str(corpus), str(corpus), tuple(speakers[:2]), tuple(speakers[2:4]))
    toys = {"emodb": toy, "another": toy}
    recipes = {ideas.PUBLISHED: Recipe(QUICK), "larger steps": Recipe([*QUICK, "optim.lr=1e-2"])}
    for module, name, value in (
        (ablation, "CORPORA_COMPARED", toys),
        (ablation, "DIRECTIONS", {"emodb": ("another", True)}),
        (ablation, "IDEAS", recipes),
        (ablation, "FINAL", (ideas.PUBLISHED,)),
    ):
        monkeypatch.setattr(module, name, value)
    (tmp_path / "work").mkdir()
    for name in toys:
        link = tmp_path / "work" / f"{name}.features.parquet"
        link.symlink_to(captions.parent / "features.parquet")
    options = ["--data", ".", "-o", str(tmp_path), "--work", str(tmp_path / "work")]
    return [*options, "--seeds", "1"], tmp_path


def test_command_measures_each_run_once_and_keeps_test_speakers_for_the_end(small, monkeypatch):
    options, folder = small
    assert ablation.main(options) == 0
    rows = table.read(folder / "results.csv")
    assert set(rows["part"]) == {"validation", "cross validation"}
    assert len(rows) == 2 * (len(baselines.BASELINES) + 2)
    monkeypatch.setattr(ablation.train, "train", lambda settings: pytest.fail("trained again"))
    assert ablation.main([*options, "--final"]) == 0
    again = table.read(folder / "results.csv")
    assert again.iloc[: len(rows)].equals(rows)
    in_words = [part for part in PARTS if PARTS[part].wording]
    assert set(again["part"].iloc[len(rows) :]) == {"test", "cross", *in_words}
    page = (folder / "RESULTS.md").read_text()  # a section for each part, and the notes
    assert page.count("## ") == len(PARTS) + 1 and page.count("| larger steps |") == 2
    assert np.isnan(again["seed"]).sum() == 0 and (again["chance"] > 0).all()
    drawn = ["--trained-on", "emodb", "--recipes", *ablation.IDEAS, "-o", str(folder / "drawn")]
    drawn += ["--results", str(folder / "results.csv")]
    monkeypatch.setattr(figures, "DIRECTIONS", ablation.DIRECTIONS)
    monkeypatch.setitem(figures.SPELT, "another", "another")
    assert figures.main([*options[:2], *options[4:], *drawn]) == 0
    assert {path.name for path in (folder / "drawn").iterdir()} == {
        f"{name}.png" for name in figures.DRAWN
    }


def test_figures_of_a_row_follow_from_its_counts():
    rng = np.random.default_rng(0)
    truth, said = (pd.Series(rng.choice(["a", "b", "c"], 60)) for _ in range(2))
    answers = pd.DataFrame({"truth": truth, "prediction": said})
    counts = table.count(answers, pd.Series(np.arange(60) % 4))
    found = table.summary([counts])
    assert found["mean"] == pytest.approx(balanced_accuracy_score(truth, said))
    assert found["interval"][0] < found["mean"] < found["interval"][1]
    assert json.loads(json.dumps(counts)) == counts


def test_difference_is_paired_over_speakers():
    """Speakers differ a lot; one recipe is better by one clip of ten for each of them."""
    better, worse = (
        {str(s): {"x": [2 * s + more, 10], "y": [5, 10]} for s in range(4)} for more in (1, 0)
    )
    found = table.summary([better, better], [worse, worse, worse])
    assert found["mean"] == pytest.approx(0.05)
    assert found["interval"] == pytest.approx([0.05, 0.05])
    low, high = table.summary([better])["interval"]
    assert high - low > 0.1


def test_interval_knows_seeds():
    runs = [{"1": {"x": [hits, 10]}, "2": {"x": [hits, 10]}} for hits in (2, 8)]
    assert table.summary(runs) == {"mean": 0.5, "interval": pytest.approx([0.2, 0.8])}


@pytest.mark.parametrize("name", CORPORA_COMPARED)
def test_parts_share_no_speaker(name):
    everyone = {"ravdess": [f"{n:02}" for n in range(1, 25)]}.get(
        name, [f"{n:02}" for n in (3, *range(8, 17))]
    )
    of = {which: set(speakers_of(CORPORA_COMPARED[name], which, everyone)) for which in SPEAKERS}
    own = [of[which] for which in ("train", "validation", "test")]
    assert sum(map(len, own)) == len(everyone) and set.union(*own) == set(everyone)
    assert of["not validation"] == set(everyone) - of["validation"]


def test_only_the_end_looks_at_other_than_validation_speakers():
    for name, part in PARTS.items():
        assert part.is_final == (part.speakers != "validation"), name


@pytest.mark.parametrize("final, words", [(False, False), (False, True), (True, False)])
def test_words_never_used_are_asked_in_at_the_end_or_if_that_is_asked_for(final, words):
    looked_at = ablation.parts_of(argparse.Namespace(final=final, words=words))
    in_words = {PARTS[part].wording for part in looked_at} - {None}
    assert in_words == (set(ideas.WORDINGS) if final or words else set())
    assert final or not any(PARTS[part].is_final for part in looked_at)


@pytest.mark.parametrize("idea", IDEAS)
def test_every_idea_is_a_configuration(idea):
    read_settings(IDEAS[idea].arguments())


@pytest.mark.parametrize("name", baselines.BASELINES)
def test_baseline_says_only_classes_that_are_asked_for(name):
    rng = np.random.default_rng(0)
    classes = pd.Series(rng.choice(["a", "b", "c"], 90))
    features = pd.DataFrame(rng.normal(size=(90, 3)) + 3 * np.eye(3)[classes.map("abc".index)])
    fitted = baselines.fit(name, (features, classes), (features, classes))
    features.iloc[0, 0] = np.nan
    said = baselines.predict(fitted, features, ["a", "c", "never seen"])
    assert set(said) == {"a", "c"}
    assert (said == classes)[classes != "b"].mean() > 0.9


def test_configuration_is_the_chosen_recipe():
    chosen, offered = (
        ablation.recipe_hash(read_settings([*given, "output=x"]))
        for given in (IDEAS[ideas.CHOSEN].arguments(), [str(ideas.CHOSEN_CONFIG)])
    )
    assert offered == chosen


# --- Words never used ----------------------------------------------------------------------------

CLASSES = tuple(wordings.load_wordings()["in German"])
FUNCTION_WORDS = {"a", "an", "and", "at", "from", "in", "of", "to", "with"}
UNLABELLED = ("arousal", "valence", "dominance")  # neither corpus has these labels
STEMS = ("anger", "angr", "bore", "boring", "calm", "disgust", "fear", "happ", "sad", "surpris")


@pytest.fixture(scope="module")
def worded(tmp_path_factory):
    """Words of the captions of each class, and those of all captions, levels included."""
    folder = tmp_path_factory.mktemp("worded")
    labels = pd.DataFrame({"file": [f"{c}.wav" for c in CLASSES], "emotion": CLASSES})
    labels["gender"] = "female"
    for file in labels["file"]:
        (folder / file).touch()
    labels.to_csv(folder / "labels.csv", index=False)
    caption_labels(folder / "labels.csv", folder / "captions.parquet")
    captions = pd.read_parquet(folder / "captions.parquet")["captions"].map(" ".join)
    of_class = [set(words_of(text)) for text in captions]
    assert len(of_class) == len(CLASSES) == 9
    measured = [d for d in default_descriptors() if d.kind == "level" and d.default]
    phrases = [p for d in measured if d.name not in UNLABELLED for p in d.phrases.values()]
    levels = {word for some in phrases for text in some for word in words_of(text)}
    return of_class, set.union(levels, *of_class)


@pytest.mark.parametrize("group", ideas.WORDINGS)
def test_new_words_are_in_no_caption(worded, group):
    of_class, known = worded
    assert {"angry", "loud", "anger"} <= known
    frame = set.intersection(*of_class) | (FUNCTION_WORDS & known)
    asked = ideas.WORDINGS[group]
    words = {word for texts in asked.values() for text in texts for word in words_of(text)}
    assert words & known <= frame
    assert not [word for word in words if word.startswith(STEMS)]


@pytest.mark.parametrize("group", ideas.WORDINGS)
def test_every_class_is_asked_for_alike_and_by_no_wording_of_another(group):
    asked = ideas.WORDINGS[group]
    assert set(asked) == set(CLASSES) == {ideas.same_class(label) for label in CLASSES}
    assert len({len(texts) for texts in asked.values()}) == 1
    texts = [text for wordings in asked.values() for text in wordings]
    assert len(set(texts)) == len(texts)


def test_pieces_of_words_are_counted():
    vocabulary = {piece: n for n, piece in enumerate(["[UNK]", "calm", "##er", "a", "voice"])}
    tokenizer = BertTokenizer(vocab=vocabulary)
    found = wordings.count_pieces(tokenizer, ["A calmer voice", "calm!", "wütend"])
    assert found == {"words": 5, "pieces": 6, "unknown": 1}
