"""Recipe comparison: partitions share no speaker, UAR equals scikit-learn, runs are reused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score

from experiments import ablation, baselines, corpora, figures, recipes, results
from experiments.corpora import FOLD, PARTITIONS, PARTS, WORDINGS, Partition, folds_of, same_class
from experiments.recipes import EGEMAPS, TOWERS, WHISPER
from paraclap.captions.templates import default_descriptors
from paraclap.data.label_captions import caption_table
from paraclap.model.build import load_model
from paraclap.training.config import read_settings

PITCH = "F0semitoneFrom27.5Hz_sma3nz_amean"
PUBLISHED, LARGER = recipes.PUBLISHED, "larger steps"
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
    """Two names of the synthetic corpus with features, and two recipes; options and `work`."""
    speakers = sorted(pd.read_parquet(captions)["speaker"].unique())
    toy = Partition(tuple(speakers[:2]), tuple(speakers[2:4]))
    toys, directions = {"emodb": toy, "another": toy}, {"emodb": ("another", True)}
    quick = {PUBLISHED: (recipes.BASE, *QUICK), LARGER: (recipes.BASE, *QUICK, "optim.lr=1e-2")}
    towers = {EGEMAPS: quick, "mel": {PUBLISHED: (recipes.BASE, *QUICK, *QUICK_MEL)}}
    monkeypatch.setattr(corpora, "PARTITIONS", toys)
    for module in (ablation, corpora, figures):
        monkeypatch.setattr(module, "DIRECTIONS", directions)
    monkeypatch.setattr(ablation, "TOWERS", towers)
    work = tmp_path / "work"
    work.mkdir()
    for name in toys:
        (tmp_path / name).symlink_to(corpus)
        (work / f"{name}.features.parquet").symlink_to(captions.with_name("features.parquet"))
    return ["--data", str(tmp_path), "--work", str(work)], work


def forbid_training(monkeypatch):
    monkeypatch.setattr(ablation.loop, "train", lambda settings: pytest.fail("trained again"))


def test_each_run_is_trained_once_and_test_speakers_need_final(small, monkeypatch):
    folders, work = small
    options = [*folders, "--seeds", "1"]
    ablation.main(options)
    rows = results.read(work / "results.csv")
    assert set(rows["part"]) == {"validation", "validation, other corpus"}
    assert len(rows) == 2 * (len(baselines.BASELINES) + 2)
    forbid_training(monkeypatch)
    with pytest.raises(SystemExit):
        ablation.main([*options, "--final"])
    ablation.main([*options, "--final", "--recipes", PUBLISHED, LARGER])
    again = results.read(work / "results.csv")
    assert again.iloc[: len(rows)].equals(rows) and set(again["part"]) == set(PARTS)
    page = (work / "results.md").read_text()
    assert page.count("## ") == len(PARTS) and page.count(f"| {LARGER} |") == len(PARTS)
    monkeypatch.setitem(figures.TITLES, "another", "another")
    monkeypatch.setattr(figures, "RECIPES", (PUBLISHED, LARGER))
    monkeypatch.setattr(figures, "SEEDS", (1,))
    figures.main([*folders, "-o", str(work / "drawn")])
    assert len([*(work / "drawn").glob("*.png")]) == 3


def test_folds_test_each_speaker_once_with_captions_and_standards_of_others(
    small, monkeypatch, captions
):
    folders, work = small
    options = [*folders, "--seeds", "1", "--folds", "--recipes", PUBLISHED]
    ablation.main(options)
    rows = results.read(work / "results.csv")
    everyone = set(pd.read_parquet(captions)["speaker"])
    folds = len(everyone) // 2
    for _, fold in rows.groupby("recipe"):
        assert fold["fold"].tolist() == [str(number) for number in range(folds)]
        tested = [speaker for counts in fold["counts"] for speaker in counts]
        assert sorted(tested) == sorted(everyone)
    assert set(rows["part"]) == {FOLD} and set(rows["direction"]) == {"emodb"}
    edges, standards = set(), set()
    for fold in corpora.prepare_folds(corpora.prepare("emodb", work.parent, work), work):
        written = pd.read_parquet(fold.captions)
        tested = set(rows["counts"][rows["fold"] == fold.fold].iloc[0])
        assert set(written.loc[written["split"] == "test", "speaker"]) == tested
        edges.add(fold.captions.with_suffix(".edges.json").read_text())
        training = written.index[written["split"] == "train"]
        run = ablation.settings_of(EGEMAPS, PUBLISHED, 1, fold, work).output
        tower = load_model(run)[0].audio_branch.base
        found = tower.mean[tower.config.names.index(PITCH)].item()
        assert found == pytest.approx(fold.functionals.loc[training, PITCH].mean(), rel=1e-5)
        standards.add(found)
    assert len(edges) == len(standards) == folds
    assert f"## {FOLD}" in (work / "results.md").read_text()
    forbid_training(monkeypatch)
    ablation.main(options)
    assert results.read(work / "results.csv").equals(rows)


def test_other_towers_are_trained_on_waveforms(small):
    folders, work = small
    ablation.main([*folders, "--seeds", "1", "--tower", "mel"])
    assert set(results.read(work / "results.csv")["tower"]) == {"mel"}
    assert (work / "results.md").read_text().count("| mel | published |") == 2
    with pytest.raises(SystemExit):
        ablation.main([*folders, "--tower", "mel", "--recipes", LARGER])


# --- Partitions and recipes ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "corpus, everyone",
    [("ravdess", [f"{n:02}" for n in range(1, 25)]), ("emodb", ["03", *map(str, range(10, 19))])],
)
def test_parts_share_no_speaker_and_folds_test_each_once(corpus, everyone):
    labels = pd.DataFrame({"speaker": everyone[::-1], "emotion": "anger"})
    folds = folds_of(PARTITIONS[corpus], labels)
    assert sorted(speaker for fold in folds for speaker in fold.test) == everyone
    assert len(folds) == {"ravdess": 6, "emodb": 5}[corpus]
    for partition in (*folds, PARTITIONS[corpus]):
        assert len(partition.validation) == 2 and set(partition.validation) < set(everyone)
        assert not set(partition.validation) & set(partition.test)


@pytest.mark.parametrize(
    ("tower", "recipe"), [(t, name) for t, of in TOWERS.items() for name in of]
)
def test_every_recipe_is_a_valid_configuration_with_a_row_in_the_results(tower, recipe):
    read_settings(TOWERS[tower][recipe])
    if tower == WHISPER:  # tables of transfer.py
        assert f"| {recipe} |" in Path("docs/results.md").read_text()
    else:
        assert f"| {tower} | {recipe} |" in recipes.FOLDER.joinpath("RESULTS.md").read_text()


def test_configuration_is_the_chosen_recipe():
    config = recipes.FOLDER.parent / "configs" / "egemaps.yaml"
    chosen = TOWERS[EGEMAPS][recipes.CHOSEN]
    assert ablation.settings_hash((str(config),)) == ablation.settings_hash(chosen)


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
    runs = [dict.fromkeys("123", {"x": [hits, 10]}) for hits in (2, 8)]
    assert results.summary(runs) == {"mean": 0.5, "interval": pytest.approx([0.2, 0.8])}
    two = [{name: run[name] for name in "12"} for run in runs]
    assert results.summary(two) == {"mean": 0.5, "interval": None}


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


def test_rows_are_read_as_written(tmp_path):
    keys = {"tower": "t", "recipe": "a, b", "settings": "0123", "fold": ""}
    row = keys | {"counts": {"s": {"x": [1, 2]}}}
    for fold in ("", "3"):
        results.append(tmp_path / "results.csv", row | {"fold": fold})
    read = results.read(tmp_path / "results.csv")
    assert read["counts"].tolist() == [row["counts"]] * 2
    assert read["settings"].tolist() == ["0123"] * 2 and read["fold"].tolist() == ["", "3"]


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
    templates = ("paraclap", "wordings")
    caption_table(folder / "labels.csv", folder / "captions.parquet", templates)
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
