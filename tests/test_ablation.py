"""experiments/: parts share no speaker, figures are those of scikit-learn, nothing runs twice."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score

from experiments import ablation, baselines, ideas, table
from experiments.ideas import CORPORA_COMPARED, IDEAS, PARTS, TOWERS, Corpus, Recipe, speakers_of
from settings import read_settings

QUICK = [
    "train.epochs=1",
    "train.batch_size=8",
    "text_stage.steps=1",
    "train.validate_every=100",
    "model.audio.config.hidden_size=16",
    "model.text.config.num_hidden_layers=1",
]
QUICK_MEL = [
    "model.audio.config.model_type=wav2vec2-bert",
    "model.audio.config.num_hidden_layers=1",
    "model.audio.config.num_attention_heads=2",
    "model.mel.bins=24",
    "model.mel.stride=4",
]


@pytest.fixture
def small(monkeypatch, tmp_path, corpus, captions):
    """Two names of the synthetic corpus, measured already, and two recipes."""
    speakers = sorted(pd.read_parquet(captions)["speaker"].unique())
    toy = Corpus(str(corpus), str(corpus), tuple(speakers[:2]), tuple(speakers[2:4]))
    toys = {"emodb": toy, "another": toy}
    recipes = {ideas.PUBLISHED: Recipe(QUICK), "larger steps": Recipe([*QUICK, "optim.lr=1e-2"])}
    heard = {ideas.HEARD_PUBLISHED: Recipe([*QUICK, *QUICK_MEL])}
    for module, name, value in (
        (ablation, "CORPORA_COMPARED", toys),
        (ablation, "DIRECTIONS", {"emodb": ("another", True)}),
        (ablation, "TOWERS", {"egemaps": recipes, "mel": heard}),
        (ablation, "FINAL", {"egemaps": (ideas.PUBLISHED,)}),
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
    assert set(again["part"].iloc[len(rows) :]) == {"test", ideas.NEW_WORDS, "cross"}
    page = (folder / "RESULTS.md").read_text()  # a section for each part, and the notes
    assert page.count("## ") == 5 + 1 and page.count("| larger steps |") == 2
    assert np.isnan(again["seed"]).sum() == 0 and (again["chance"] > 0).all()


def test_towers_that_hear_clips_have_sections_of_their_own(small):
    options, folder = small
    assert ablation.main([*options, "--tower", "mel"]) == 0
    rows = table.read(folder / "results.csv")
    assert set(rows["tower"]) == {"mel"} and set(rows["part"]) == {"validation", "cross validation"}
    page = (folder / "RESULTS.md").read_text()
    assert "# Tower: mel" in page and page.count(f"| {ideas.HEARD_PUBLISHED} |") == 2
    with pytest.raises(SystemExit):
        ablation.main([*options, "--tower", "mel", "--ideas", "larger steps"])


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
    parts = {p: set(speakers_of(CORPORA_COMPARED[name], p, everyone)) for p in ("train", *PARTS)}
    own = [parts[p] for p in ("train", "validation", "test")]
    assert sum(map(len, own)) == len(everyone) and set.union(*own) == set(everyone)
    assert parts["cross"] == set(everyone) - parts["cross validation"]


@pytest.mark.parametrize("tower, idea", [(t, i) for t, known in TOWERS.items() for i in known])
def test_every_idea_is_a_configuration(tower, idea):
    read_settings(TOWERS[tower][idea].arguments())


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


def test_new_words_are_in_no_caption_of_these_classes(captions):
    known = " ".join(pd.read_parquet(captions)["captions"].explode()).lower()
    assert "angry" in known
    for how, voice in ideas.UNUSED_WORDS.values():
        for word in {how, *voice.split()} - {"a", "an", "voice", "full", "of"}:
            assert not re.search(rf"\b{word}\b", known), word
