"""experiments/: parts share no speaker, figures are those of scikit-learn, nothing runs twice."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score
from transformers import BertTokenizer

from experiments import ablation, baselines, figures, ideas, missing_labels, table, wordings
from experiments.ideas import (
    CORPORA_COMPARED,
    PARTS,
    SPEAKERS,
    TOWER,
    TOWERS,
    Corpus,
    Recipe,
    folds_of,
    speakers_of,
)
from experiments.wordings import words_of
from paraclap.captions.templates import default_descriptors
from paraclap.data import captions as datasets
from paraclap.data.label_captions import caption_labels
from paraclap.model.build import load_model
from paraclap.training import loop
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
    in_words = [part for part in PARTS if PARTS[part].wording]
    assert set(again["part"].iloc[len(rows) :]) == {"test", "cross", *in_words}
    page = (folder / "RESULTS.md").read_text()  # a section for each part, and the notes
    assert page.count("## ") == len(PARTS) + 1 and page.count("| larger steps |") == 2
    assert np.isnan(again["seed"]).sum() == 0 and (again["chance"] > 0).all()
    drawn = [
        "--trained-on",
        "emodb",
        "--recipes",
        *ablation.TOWERS[TOWER],
        "-o",
        str(folder / "drawn"),
    ]
    drawn += ["--results", str(folder / "results.csv")]
    monkeypatch.setattr(figures, "DIRECTIONS", ablation.DIRECTIONS)
    monkeypatch.setitem(figures.SPELT, "another", "another")
    assert figures.main([*options[:2], *options[4:], *drawn]) == 0
    assert {path.name for path in (folder / "drawn").iterdir()} == {
        f"{name}.png" for name in figures.DRAWN
    }


def test_one_run_on_both_corpora_answers_about_each(small, monkeypatch):
    options, folder = small
    both = [*options, "--directions", "both"]
    assert ablation.main(both) == 0
    rows = table.read(folder / "results.csv")
    assert set(rows["part"]) == {"validation"}
    assert set(rows["direction"]) == {"both -> emodb", "both -> another"}
    assert len(rows) == 2 * (len(baselines.BASELINES) + 2)
    assert len(list((folder / "work" / "runs").iterdir())) == 2  # a run for each recipe
    config = next((folder / "work" / "runs").glob("*/config.yaml")).read_text()
    assert "corpora:\n    emodb:" in config
    monkeypatch.setattr(ablation.train, "train", lambda settings: pytest.fail("trained again"))
    assert ablation.main(both) == 0
    assert table.read(folder / "results.csv").equals(rows)


def test_folds_test_every_speaker_once_with_captions_and_standards_of_others(
    small, monkeypatch, captions
):
    options, folder = small
    published = {ideas.PUBLISHED: ablation.TOWERS[TOWER][ideas.PUBLISHED]}
    monkeypatch.setattr(ablation, "TOWERS", {TOWER: published})
    assert ablation.main([*options, "--folds"]) == 0
    rows = table.read(folder / "results.csv")
    everyone = set(pd.read_parquet(captions)["speaker"])
    folds = len(everyone) // 2
    for _, fold in rows.groupby(["direction", "idea"]):
        assert fold["fold"].tolist() == list(range(folds))
        tested = [speaker for counts in fold["counts"] for speaker in counts]
        assert sorted(tested) == sorted(everyone)
    assert set(rows["part"]) == {"folds"} and set(rows["direction"]) == {"emodb"}
    own = ablation.prepare("emodb", ".", folder / "work")
    measured = pd.read_parquet(own.features)
    edges, standards = set(), set()
    for fold in range(folds):
        parts = pd.read_parquet(folder / "work" / f"emodb.{fold}.captions.parquet")
        tested = set(rows["counts"][rows["fold"] == fold].iloc[0])
        assert set(parts.loc[parts["split"] == "test", "speaker"]) == tested
        edges.add((folder / "work" / f"emodb.{fold}.captions.edges.json").read_text())
        assert tested.isdisjoint(parts.loc[parts["split"] != "test", "speaker"])
        means = measured.loc[parts.index[parts["split"] == "train"], PITCH].mean()
        run = ablation.settings_of(
            TOWER, ideas.PUBLISHED, 1, [replace(own, fold=fold)], folder / "work"
        ).output
        tower = load_model(run)[0].audio_branch.base
        found = tower.mean[tower.config.names.index(PITCH)].item()
        assert found == pytest.approx(means, rel=1e-5)
        standards.add(found)
    assert len(edges) == len(standards) == folds
    page = (folder / "RESULTS.md").read_text()
    assert f"## {ideas.FOLD}: emodb" in page and f"## {ideas.UNCHOSEN}: emodb" in page
    monkeypatch.setattr(ablation.train, "train", lambda settings: pytest.fail("trained again"))
    assert ablation.main([*options, "--folds"]) == 0
    assert table.read(folder / "results.csv").equals(rows)


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
    assert folds[0].validation == tuple(sorted(everyone)[len(folds[0].test) :][:2])
    assert folds[-1].validation == tuple(sorted(everyone)[:2])


def test_rows_from_before_a_column_are_read_and_kept_as_they_are(tmp_path):
    path = tmp_path / "results.csv"
    old = [name for name in table.COLUMNS if name != "fold"]
    counts = '"{""s"":{""x"":[1,2]}}"'
    line = f"egemaps,a -> b,base,1,validation,.5,.4,.6,.1,9,1.0,r,c,2026-01-01,{counts}"
    path.write_text(f"{','.join(old)}\n{line}\n")
    before = table.read(path)
    assert before["UAR"].tolist() == [0.5] and before["fold"].isna().all()
    table.append(path, {"idea": "new", "counts": "{}", "fold": 3})
    text = path.read_text().splitlines()
    assert text[0] == ",".join(table.COLUMNS) and text[1] == line
    after = table.read(path)
    assert after["idea"].tolist() == ["base", "new"] and after["fold"].iloc[1] == 3
    assert after["counts"].iloc[0] == {"s": {"x": [1, 2]}}
    path.write_text("tower,other\n")
    with pytest.raises(ValueError, match="tower,other"):
        table.append(path, {})


def test_folds_are_pooled_to_the_figures_of_all_speakers():
    """As one table of all answers; a run that lacks a fold is left out."""
    runs = [
        {
            "direction": "a",
            "idea": idea,
            "seed": seed,
            "fold": fold,
            "cpu_seconds": fold,
            "clips": 9,
        }
        | {"counts": {str(fold): {"x": [fold + seed, 5], "y": [fold, 10 * fold + 1]}}}
        for idea, folds in (("whole", 3), ("partial", 2))
        for seed in (1, 2)
        for fold in range(folds)
    ]
    whole = table.pooled(pd.DataFrame(runs), {"a": 3})
    assert whole["clips"].tolist() == [27] * 2 and whole["cpu_seconds"].tolist() == [1.0] * 2
    assert whole["idea"].tolist() == ["whole"] * 2 and whole["seed"].tolist() == [1, 2]
    assert table.summary([whole["counts"].iloc[0]])["mean"] == pytest.approx((6 / 15 + 3 / 33) / 2)
    fewer = table.without(whole, {"a": ["2"]})
    assert table.summary([fewer["counts"].iloc[0]])["mean"] == pytest.approx((3 / 10 + 1 / 12) / 2)
    assert table.pooled(pd.DataFrame(runs)[lambda t: t["idea"] == "partial"], {"a": 3}).empty


def test_gain_over_the_other_corpus_counts_shared_classes_alone():
    def row(direction, part, **cells):
        counts = {speaker: cells for speaker in ("1", "2")}
        return {"direction": direction, "part": part, "idea": "i", "seed": 1, "counts": counts}

    rows = [
        row("both -> a", "validation", x=[8, 10], calm=[0, 10]),
        row("a -> b", "validation", x=[5, 10], calm=[1, 10]),
        row("b -> a", "cross validation", x=[2, 10]),
    ]
    lines = table.compared(pd.DataFrame(rows), ["a", "b"], {"i": "i", "not run": "i"})
    assert sum(line.startswith("## ") for line in lines) == 1  # none about b
    told = [cell.strip() for cell in lines[-1].split("|")[1:-1]]
    assert told[1:4] == ["0.400", "0.300", "+0.100"] and told[5:7] == ["0.200", "+0.600"]


def test_labels_are_taken_from_training_clips_alone(captions):
    whole = pd.read_parquet(captions)
    fewer = missing_labels.without_labels(whole, 0.4, seed=1)
    is_train = whole["split"] == "train"
    tells = pd.Series(["emotion" in names for names in fewer["caption_descriptors"]], fewer.index)
    assert tells[~is_train].all() and 0.1 < tells[is_train].mean() < 0.7
    assert (fewer["emotion"].notna() == tells).all()
    for (_, before), (_, after) in zip(whole.iterrows(), fewer.iterrows(), strict=True):
        pairs, left = (
            [*zip(row["captions"], row["caption_descriptors"], strict=True)]
            for row in (before, after)
        )
        assert left == [
            pair for pair in pairs if pd.notna(after["emotion"]) or pair[1] != "emotion"
        ]


class Trained:
    """train.py, and whether a pair of clip and caption could be unknown in each run."""

    def __init__(self):
        self.unknown = []

    def train(self, settings):
        caption = datasets.Caption("", (("emotion", "emotion is anger"),))
        self.unknown.append(bool(datasets.match_matrix([{"pitch": ["high"]}], [caption]).isnan()))
        return loop.train(settings)


def test_missing_labels_are_unknown_to_one_model_and_different_to_the_other(
    small, monkeypatch, capsys
):
    options, _ = small
    for name in ("CORPORA_COMPARED", "DIRECTIONS"):
        monkeypatch.setattr(missing_labels, name, getattr(ablation, name))
    monkeypatch.setattr(missing_labels, "EMOTION_ONLY", "larger steps")
    monkeypatch.setattr(ablation, "train", trained := Trained())
    known = datasets.match_matrix
    assert missing_labels.main([*options, "--directions", "emodb"]) == 0
    assert trained.unknown == [False, True] and datasets.match_matrix is known
    assert capsys.readouterr().out.count("| emodb -> another |") == 2


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
    of = {which: set(speakers_of(CORPORA_COMPARED[name], which, everyone)) for which in SPEAKERS}
    own = [of[which] for which in ("train", "validation", "test")]
    assert sum(map(len, own)) == len(everyone) and set.union(*own) == set(everyone)
    assert of["not validation"] == set(everyone) - of["validation"]


def test_only_the_end_looks_at_other_than_validation_speakers():
    for name, part in PARTS.items():
        assert part.is_final == (part.speakers != "validation"), name


@pytest.mark.parametrize("final, words", [(False, False), (False, True), (True, False)])
def test_words_never_used_are_asked_in_at_the_end_or_if_that_is_asked_for(final, words):
    looked_at = ablation.parts_of(final=final, words=words)
    in_words = {PARTS[part].wording for part in looked_at} - {None}
    assert in_words == (set(ideas.WORDINGS) if final or words else set())
    assert final or not any(PARTS[part].is_final for part in looked_at)


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
        for given in (TOWERS[TOWER][ideas.CHOSEN].arguments(), [str(ideas.CHOSEN_CONFIG)])
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
