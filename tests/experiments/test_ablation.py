"""Recipe comparison: partitions share no speaker, UAR equals scikit-learn, runs are reused."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score

from experiments import ablation, baselines, corpora, figures, recipes, results
from experiments.corpora import (
    CORPORA_COMPARED,
    FOLD,
    PARTS,
    SPEAKERS,
    WORDINGS,
    Corpus,
    folds_of,
    same_class,
    speakers_of,
)
from experiments.recipes import EGEMAPS, TOWERS, Recipe
from paraclap.captions.templates import default_descriptors
from paraclap.data.label_captions import caption_labels
from paraclap.model.build import load_model
from paraclap.training.config import read_settings

PITCH = "F0semitoneFrom27.5Hz_sma3nz_amean"
QUICK = [
    "train.epochs=1",
    "train.batch_size=8",
    "text_pretraining.steps=1",
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
    """Two names of the synthetic corpus with features, and two recipes."""
    speakers = sorted(pd.read_parquet(captions)["speaker"].unique())
    toy = Corpus(str(corpus), str(corpus), tuple(speakers[:2]), tuple(speakers[2:4]))
    toys, directions = {"emodb": toy, "another": toy}, {"emodb": ("another", True)}
    quick = {recipes.PUBLISHED: Recipe(QUICK), "larger steps": Recipe([*QUICK, "optim.lr=1e-2"])}
    towers = {EGEMAPS: quick, "mel": {recipes.PUBLISHED: Recipe([*QUICK, *QUICK_MEL])}}
    for module in (ablation, corpora, figures):
        monkeypatch.setattr(module, "CORPORA_COMPARED", toys)
        monkeypatch.setattr(module, "DIRECTIONS", directions)
    monkeypatch.setattr(ablation, "TOWERS", towers)
    work = tmp_path / "work"
    work.mkdir()
    for name in toys:
        (work / f"{name}.features.parquet").symlink_to(captions.parent / "features.parquet")
    options = ["--data", ".", "--work", str(work), "--results", str(tmp_path / "results.csv")]
    return [*options, "--seeds", "1"], tmp_path


def forbid_training(monkeypatch):
    monkeypatch.setattr(ablation.loop, "train", lambda settings: pytest.fail("trained again"))


def test_each_run_is_trained_once_and_test_speakers_need_final(small, monkeypatch):
    options, folder = small
    assert ablation.main(options) == 0
    rows = results.read(folder / "results.csv")
    assert set(rows["part"]) == {"validation", "validation, other corpus"}
    assert len(rows) == 2 * (len(baselines.BASELINES) + 2)
    forbid_training(monkeypatch)
    with pytest.raises(SystemExit):
        ablation.main([*options, "--final"])
    both = ["--recipes", *ablation.TOWERS[EGEMAPS]]
    assert ablation.main([*options, "--final", *both]) == 0
    again = results.read(folder / "results.csv")
    assert again.iloc[: len(rows)].equals(rows) and set(again["part"]) == set(PARTS)
    page = (folder / "results.md").read_text()
    assert page.count("## ") == len(PARTS) and page.count("| larger steps |") == len(PARTS)
    monkeypatch.setitem(figures.TITLES, "another", "another")
    drawn = [*both, "--trained-on", "emodb", "-o", str(folder / "drawn")]
    assert figures.main([*options, *drawn]) == 0
    assert {path.stem for path in (folder / "drawn").iterdir()} == set(figures.DRAWN)


def test_folds_test_each_speaker_once_with_captions_and_standards_of_others(
    small, monkeypatch, captions
):
    options, folder = small
    options = [*options, "--folds", "--recipes", recipes.PUBLISHED]
    assert ablation.main(options) == 0
    rows = results.read(folder / "results.csv")
    everyone = set(pd.read_parquet(captions)["speaker"])
    folds = len(everyone) // 2
    for _, fold in rows.groupby(["direction", "recipe"]):
        assert fold["fold"].tolist() == list(range(folds))
        tested = [speaker for counts in fold["counts"] for speaker in counts]
        assert sorted(tested) == sorted(everyone)
    assert set(rows["part"]) == {FOLD} and set(rows["direction"]) == {"emodb"}
    work = folder / "work"
    prepared = corpora.prepare_folds(corpora.prepare("emodb", ".", work), work)
    edges, standards = set(), set()
    for fold in prepared:
        written = pd.read_parquet(fold.captions)
        tested = set(rows["counts"][rows["fold"] == fold.fold].iloc[0])
        assert set(written.loc[written["split"] == "test", "speaker"]) == tested
        edges.add((work / f"{fold.key}.captions.edges.json").read_text())
        training = written.index[written["split"] == "train"]
        run = ablation.settings_of(EGEMAPS, recipes.PUBLISHED, 1, fold, work).output
        tower = load_model(run)[0].audio_branch.base
        found = tower.mean[tower.config.names.index(PITCH)].item()
        assert found == pytest.approx(fold.functionals.loc[training, PITCH].mean(), rel=1e-5)
        standards.add(found)
    assert len(edges) == len(standards) == folds
    assert f"## {FOLD}" in (folder / "results.md").read_text()
    forbid_training(monkeypatch)
    assert ablation.main(options) == 0
    assert results.read(folder / "results.csv").equals(rows)


def test_other_towers_are_trained_on_waveforms(small):
    options, folder = small
    assert ablation.main([*options, "--tower", "mel"]) == 0
    assert set(results.read(folder / "results.csv")["tower"]) == {"mel"}
    assert (folder / "results.md").read_text().count("| mel | published |") == 2
    with pytest.raises(SystemExit):
        ablation.main([*options, "--tower", "mel", "--recipes", "larger steps"])


# --- Partitions and recipes ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "corpus, everyone",
    [("ravdess", [f"{n:02}" for n in range(1, 25)]), ("emodb", ["03", *map(str, range(10, 19))])],
)
def test_folds_share_no_speaker_between_their_parts(corpus, everyone):
    folds = folds_of(CORPORA_COMPARED[corpus], everyone[::-1])
    assert sorted(speaker for fold in folds for speaker in fold.test) == everyone
    assert len(folds) == {"ravdess": 6, "emodb": 5}[corpus]
    for fold in folds:
        assert len(fold.validation) == 2 and not set(fold.validation) & set(fold.test)


@pytest.mark.parametrize("name", CORPORA_COMPARED)
def test_partitions_share_no_speaker(name):
    everyone = [f"{n:02}" for n in (range(1, 25) if name == "ravdess" else (3, *range(8, 17)))]
    of = {which: set(speakers_of(CORPORA_COMPARED[name], which, everyone)) for which in SPEAKERS}
    own = [of[which] for which in ("train", "validation", "test")]
    assert sum(map(len, own)) == len(everyone) and set.union(*own) == set(everyone)
    assert of["not validation"] == set(everyone) - of["validation"]


def test_only_validation_speakers_are_evaluated_before_the_end():
    for name, part in PARTS.items():
        assert part.is_final == (part.speakers != "validation"), name


@pytest.mark.parametrize(
    ("tower", "recipe"), [(t, name) for t, of in TOWERS.items() for name in of]
)
def test_every_recipe_is_a_valid_configuration_with_a_row_in_the_results(tower, recipe):
    read_settings(TOWERS[tower][recipe].arguments())
    page = recipes.FOLDER.joinpath("RESULTS.md").read_text()
    assert f"| {tower} | {recipe} |" in page


def test_configuration_is_the_chosen_recipe():
    config = recipes.FOLDER.parent / "configs" / "egemaps.yaml"
    chosen, offered = (
        ablation.settings_hash(read_settings([*arguments, "output=x"]))
        for arguments in (TOWERS[EGEMAPS][recipes.CHOSEN].arguments(), [str(config)])
    )
    assert offered == chosen


@pytest.mark.parametrize("name", baselines.BASELINES)
def test_baseline_predicts_only_classes_of_the_test_set(name):
    rng = np.random.default_rng(0)
    classes = pd.Series(rng.choice(["a", "b", "c"], 90))
    features = pd.DataFrame(rng.normal(size=(90, 3)) + 3 * np.eye(3)[classes.map("abc".index)])
    fitted = baselines.fit(name, (features, classes), (features, classes))
    features.iloc[0, 0] = np.nan
    predicted = baselines.predict(fitted, features, ["a", "c", "never seen"])
    assert set(predicted) == {"a", "c"}
    assert (predicted == classes)[classes != "b"].mean() > 0.9


# --- Figures -------------------------------------------------------------------------------------


def test_uar_from_counts_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    truth, predicted = (pd.Series(rng.choice(["a", "b", "c"], 60)) for _ in range(2))
    answers = pd.DataFrame({"truth": truth, "prediction": predicted})
    counts = results.count(answers, pd.Series(np.arange(60) % 4))
    found = results.summary([counts])
    assert found["mean"] == pytest.approx(balanced_accuracy_score(truth, predicted))
    assert found["interval"][0] < found["mean"] < found["interval"][1]
    assert json.loads(json.dumps(counts)) == counts


def test_difference_is_paired_over_speakers():
    """Speakers differ a lot; one recipe is better by one clip of ten for each of them."""
    better, worse = (
        {str(s): {"x": [2 * s + more, 10], "y": [5, 10]} for s in range(4)} for more in (1, 0)
    )
    found = results.summary([better, better], [worse, worse, worse])
    assert found["mean"] == pytest.approx(0.05)
    assert found["interval"] == pytest.approx([0.05, 0.05])
    low, high = results.summary([better])["interval"]
    assert high - low > 0.1


def test_interval_includes_the_variance_over_seeds():
    runs = [{"1": {"x": [hits, 10]}, "2": {"x": [hits, 10]}} for hits in (2, 8)]
    assert results.summary(runs) == {"mean": 0.5, "interval": pytest.approx([0.2, 0.8])}


def test_folds_are_pooled_over_speakers_and_incomplete_runs_dropped():
    runs = [
        {"tower": "t", "direction": "a", "recipe": recipe, "seed": seed, "fold": fold}
        | {"counts": {str(fold): {"x": [fold + seed, 5], "y": [fold, 10 * fold + 1]}}}
        for recipe, folds in (("whole", 3), ("partial", 2))
        for seed in (1, 2)
        for fold in range(folds)
    ]
    whole = results.pooled(pd.DataFrame(runs), {"a": 3}, {"a": []})
    assert whole["recipe"].tolist() == ["whole"] * 2 and whole["seed"].tolist() == [1, 2]
    assert results.summary([whole["counts"].iloc[0]])["mean"] == pytest.approx(
        (6 / 15 + 3 / 33) / 2
    )
    fewer = results.pooled(pd.DataFrame(runs), {"a": 3}, {"a": ["2"]})
    assert results.summary([fewer["counts"].iloc[0]])["mean"] == pytest.approx(
        (3 / 10 + 1 / 12) / 2
    )


def test_rows_are_read_as_written_and_other_columns_refused(tmp_path):
    path = tmp_path / "folder" / "results.csv"
    row = {"tower": "t", "recipe": "a, b", "settings": "0123", "counts": {"s": {"x": [1, 2]}}}
    results.append(path, row)
    results.append(path, row | {"fold": 3})
    read = results.read(path)
    assert read["counts"].tolist() == [row["counts"]] * 2
    assert read["settings"].tolist() == ["0123"] * 2 and read["fold"].iloc[1] == 3
    path.write_text("tower,other\n")
    with pytest.raises(ValueError, match="tower,other"):
        results.append(path, row)


# --- Unseen words --------------------------------------------------------------------------------

CLASSES = tuple(WORDINGS["German"])
FUNCTION_WORDS = {"a", "an", "and", "at", "from", "in", "of", "to", "with"}
UNLABELLED = ("arousal", "valence", "dominance")  # neither corpus has these labels
STEMS = ("anger", "angr", "bore", "boring", "calm", "disgust", "fear", "happ", "sad", "surpris")


def words_of(text):
    cleaned = "".join(c if c.isalpha() else " " for c in text.lower())
    return cleaned.split()


@pytest.fixture(scope="module")
def caption_words(tmp_path_factory):
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


@pytest.mark.parametrize("group", WORDINGS)
def test_unseen_words_occur_in_no_caption(caption_words, group):
    of_class, known = caption_words
    assert {"angry", "loud", "anger"} <= known
    frame = set.intersection(*of_class) | (FUNCTION_WORDS & known)
    prompts = WORDINGS[group]
    words = {word for texts in prompts.values() for text in texts for word in words_of(text)}
    assert words & known <= frame
    assert not [word for word in words if word.startswith(STEMS)]


@pytest.mark.parametrize("group", WORDINGS)
def test_classes_have_equally_many_distinct_prompts(group):
    prompts = WORDINGS[group]
    assert set(prompts) == set(CLASSES) == {same_class(label) for label in CLASSES}
    assert len({len(texts) for texts in prompts.values()}) == 1
    texts = [text for wordings in prompts.values() for text in wordings]
    assert len(set(texts)) == len(texts)
