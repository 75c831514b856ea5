"""evaluate.py: answers, scores against scikit-learn and hand computation, files, selections."""

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from sklearn.metrics import balanced_accuracy_score

import corpora
import evaluate
from datasets import ClipDataset

EMOTIONS = ["anger", "boredom", "fear", "happiness", "neutral", "sadness"]


@pytest.fixture(scope="module")
def answers():
    """Random truth and predictions of 5 classes, clustered by 12 speakers."""
    rng = np.random.default_rng(0)
    classes = np.array(list("abcde"), dtype=object)
    truth = rng.choice(classes, 600)
    right = rng.random(600) < 0.5
    prediction = np.where(right, truth, rng.choice(classes, 600))
    return truth, prediction, rng.integers(12, size=600).astype(str)


@pytest.fixture
def saved_model(tiny, tmp_path):
    folder = tmp_path / "model"
    for part in tiny:
        part.save_pretrained(folder)
    return folder


# --- Scores --------------------------------------------------------------------------------------


def test_scores_equal_scikit_learn(answers):
    truth, prediction, speakers = answers
    figures = evaluate.score(truth, prediction, speakers)
    assert figures["UAR"] == pytest.approx(balanced_accuracy_score(truth, prediction))
    assert figures["ACC"] == pytest.approx((truth == prediction).mean())
    assert figures["chance"] == pytest.approx(0.2)
    assert (figures["clips"], figures["classes"], figures["speakers"]) == (600, 5, 12)


def test_scores_of_a_small_case_equal_hand_computation():
    # a: 1 of 2 right, b: 1 of 1 right, "c" is answered but never true
    figures = evaluate.score(["a", "a", "b"], ["a", "c", "b"])
    assert figures["UAR"] == pytest.approx((0.5 + 1.0) / 2)
    assert figures["ACC"] == pytest.approx(2 / 3)
    assert figures["F1"] == pytest.approx((2 / 3 + 1.0) / 2)
    assert figures["classes"] == 2 and figures["chance"] == 0.5
    assert figures["recall"] == {"a": 0.5, "b": 1.0}


def slow_bootstrap(truth, prediction, speakers, resamples=400):
    """Resample speakers one draw at a time, recalls counted clip by clip."""
    rng = np.random.default_rng(1)
    names = np.unique(speakers)
    values = []
    for _ in range(resamples):
        rows = np.concatenate(
            [np.flatnonzero(speakers == n) for n in rng.choice(names, len(names))]
        )
        values.append(balanced_accuracy_score(truth[rows], prediction[rows]))
    return np.quantile(values, [0.025, 0.975])


def test_interval_agrees_with_a_plain_bootstrap_over_speakers(answers):
    interval = evaluate.score(*answers)["interval"]
    assert interval == pytest.approx(slow_bootstrap(*answers), abs=0.01)
    assert evaluate.score(*answers)["interval"] == interval


def test_interval_is_wider_when_clips_of_a_speaker_agree():
    truth = np.tile(["a", "b"], 200)
    speakers = np.repeat(np.arange(10), 40)
    prediction = np.where(speakers < 5, truth, "a")  # half of the speakers are not understood
    low, high = evaluate.score(truth, prediction, speakers)["interval"]
    naive_low, naive_high = evaluate.score(truth, prediction)["interval"]
    assert high - low > 2 * (naive_high - naive_low)


def test_single_speaker_has_no_interval():
    assert evaluate.score(["a", "b"], ["a", "a"], ["s", "s"])["interval"] is None


# --- Answers -------------------------------------------------------------------------------------


def test_answers_are_the_nearest_queries_one_clip_at_a_time(tiny, corpus):
    model, processor = tiny
    table = corpora.read_corpus(corpus).iloc[::7]
    queries = {name: f"the speaker sounds {name}" for name in EMOTIONS}
    answers = evaluate.answer(model, processor, table, corpus, queries, batch_seconds=9.0)
    texts = evaluate.embed_texts(model, processor, list(queries.values()))
    clips = ClipDataset(table, corpus)
    for row in range(len(table)):
        batch = processor.feature_extractor(
            clips[row]["waveform"], sampling_rate=16_000, return_tensors="pt"
        )
        with torch.no_grad():
            cosines = (model.get_audio_features(**batch).pooler_output @ texts.T)[0]
        given = answers.iloc[row]
        assert given[[f"score.{n}" for n in EMOTIONS]].to_numpy(float) == pytest.approx(
            cosines.numpy(), abs=1e-5
        )
        assert given["prediction"] == EMOTIONS[int(cosines.argmax())]


def test_group_norm_encoders_are_evaluated_one_clip_at_a_time(settings, corpus):
    settings.audio.config |= {"feat_extract_norm": "group", "do_stable_layer_norm": False}
    model, processor = evaluate_model(settings)
    clips = ClipDataset(corpora.read_corpus(corpus).iloc[:5], corpus)
    assert torch.isfinite(evaluate.embed_clips(model, processor, clips)).all()


def evaluate_model(settings):
    from models import build_model

    model, processor = build_model(settings, ["a"])
    return model.eval(), processor


def test_model_is_left_in_the_mode_it_was_in(tiny, corpus):
    model, processor = tiny
    table = corpora.read_corpus(corpus).iloc[:2]
    evaluate.answer(model.train(), processor, table, corpus, {"a": "x", "b": "y"})
    assert model.training


def test_classes_with_one_query_are_refused(tiny, corpus):
    table = corpora.read_corpus(corpus).iloc[:2]
    with pytest.raises(ValueError, match="share a query"):
        evaluate.answer(*tiny, table, corpus, {"a": "x", "b": "x"})


# --- Command line --------------------------------------------------------------------------------


def test_command_writes_scores_answers_and_pictures(saved_model, corpus, tmp_path, capsys):
    output = tmp_path / "results"
    arguments = [str(saved_model), str(corpus), "-o", str(output), "--split", "test"]
    assert evaluate.main([*arguments, "--targets", "emotion", "gender"]) == 0
    printed = capsys.readouterr().out
    scores = yaml.safe_load((output / "scores.yaml").read_text())
    assert scores["split"] == ["test"] and scores["query_set"] == "published"
    for name, classes in (("paraclap-synthetic", 6), ("paraclap-synthetic.gender", 2)):
        figures = scores["corpora"][name]
        answers = pd.read_csv(output / f"{name}.csv")
        assert figures["clips"] == len(answers) == 24
        assert figures["chance"] == pytest.approx(1 / classes)
        expected = balanced_accuracy_score(answers["truth"], answers["prediction"])
        assert figures["UAR"] == pytest.approx(expected)
        assert f"{figures['UAR']:.3f}" in printed
        assert (output / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        columns = [c for c in answers if c.startswith("score.")]
        best = answers[columns].idxmax(axis=1).str.removeprefix("score.")
        assert (best == answers["prediction"]).all()


def test_query_file_leaves_other_classes_out_and_says_so(saved_model, corpus, tmp_path, capsys):
    queries = tmp_path / "queries.yaml"
    queries.write_text("anger: an enraged voice\nsadness: a gloomy voice\njoy: a merry voice\n")
    output = tmp_path / "results"
    evaluate.main([str(saved_model), str(corpus), "-o", str(output), "--queries", str(queries)])
    figures = yaml.safe_load((output / "scores.yaml").read_text())["corpora"]["paraclap-synthetic"]
    assert figures["classes"] == 2 and figures["clips"] == 24 and figures["left_out"] == 48
    assert figures["unused_queries"] == ["joy"]
    assert figures["queries"]["anger"] == "an enraged voice"
    printed = capsys.readouterr().out
    assert "48 clips left out" in printed and "no clip is joy" in printed


@pytest.mark.parametrize(
    "selection, message",
    [({"speakers": ["99"]}, "99"), ({"split": ["holdout"]}, "holdout"), ({"split": ["x"]}, "dev")],
)
def test_selecting_what_is_not_there_names_what_is(corpus, selection, message):
    with pytest.raises(corpora.CorpusError, match=message):
        evaluate.select(corpora.read_corpus(corpus), **selection)


def test_selection_keeps_the_named_speakers(corpus):
    table = corpora.read_corpus(corpus)
    speaker = sorted(table["speaker"].unique())[0]
    chosen = evaluate.select(table, speakers=[speaker])
    assert set(chosen["speaker"]) == {speaker} and chosen.attrs["root"] == str(corpus)


def test_unreadable_clip_stops_the_evaluation_and_is_named(tiny, corpus, tmp_path):
    table = corpora.read_corpus(corpus).iloc[:2]
    for file, *_ in table.index:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes((corpus / file).read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"\.wav"):
        evaluate.embed_clips(*tiny, ClipDataset(table, tmp_path))


def test_confusion_matrix_shows_counts_of_present_classes():
    answers = pd.DataFrame({"truth": ["a", "a", "b"], "prediction": ["a", "c", "b"]})
    axes = evaluate.plot_confusion(answers, ["a", "b", "c"], "t").axes[0]
    assert [text.get_text() for text in axes.texts] == ["1", "0", "1", "0", "1", "0"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c"]
