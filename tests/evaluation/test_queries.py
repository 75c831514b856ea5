"""prompts.py: prompt sets of every target, ensembles, files."""

import audformat
import numpy as np
import pandas as pd
import pytest

from paraclap.corpora import table as corpora
from paraclap.evaluation import prompts

TARGETS = sorted(prompts.WORDS)


def labelled(corpus=None, **columns):
    count = len(next(iter(columns.values())))
    index = audformat.segmented_index([f"{number}.wav" for number in range(count)])
    table = pd.DataFrame(columns, index=index)
    table.attrs = {"name": corpus or "mine", "root": "/", "corpus": corpus}
    return table


def test_every_target_with_words_has_a_template_in_every_set():
    assert set(prompts.PROMPTS) == set(prompts.WORDS)
    for templates in prompts.PROMPTS.values():
        assert list(templates) == list(prompts.PLAIN_PROMPTS)


@pytest.mark.parametrize("prompt_set", prompts.PLAIN_PROMPTS)
@pytest.mark.parametrize("target", TARGETS)
def test_classes_with_different_words_have_different_queries(target, prompt_set):
    words = prompts.WORDS[target]
    wordings = {c: prompts.word_class(c, target, prompt_set) for c in words}
    for first in words:
        for second in words:
            same = words[first] == words[second]
            assert (wordings[first] == wordings[second]) == same, (first, second)


@pytest.mark.parametrize("target", [*TARGETS, "dialect"])
def test_ensemble_is_every_other_set_but_the_papers(target):
    label = next(iter(prompts.WORDS.get(target, {"southern": None})))
    single = [prompts.word_class(label, target, name)[0] for name in prompts.PLAIN_PROMPTS]
    ensemble = prompts.word_class(label, target, "ensemble")
    assert set(ensemble) == set(single) and len(set(ensemble)) == len(ensemble)
    assert not [prompt for prompt in ensemble if "{" in prompt]


def test_sentences_use_the_adjective_and_captions_the_noun():
    for label, sentence, caption in (
        ("boredom", "the speaker sounds bored", "emotion is boredom"),
        ("fear", "the speaker sounds fearful", "emotion is fear"),
        ("disgust", "the speaker sounds disgusted", "emotion is disgust"),
        ("Happy", "the speaker sounds happy", "emotion is happiness"),
    ):
        assert prompts.word_class(label, "emotion", "sentence") == (sentence,)
        assert prompts.word_class(label, "emotion", "caption") == (caption,)


def test_published_words_are_those_of_the_corpus_and_the_label_elsewhere(monkeypatch):
    toy = corpora.Corpus(
        "toy", "", None, "", 0, {"W": "anger", "O": None}, {"anger": "rage"}, "", ""
    )
    monkeypatch.setitem(corpora.CORPORA, "toy", toy)
    assert prompts.prompts_for(labelled("toy", emotion=["W", "O"])) == {"anger": ("rage",)}
    assert prompts.prompts_for(labelled(emotion=["anger"])) == {"anger": ("anger",)}


def test_known_corpus_asks_for_all_its_classes_and_others_for_those_present():
    assert len(prompts.prompts_for(labelled("ravdess", emotion=["sad"]))) == 8
    table = labelled(emotion=["sad", "Anger", "ridiculed", np.nan])
    assert prompts.prompts_for(table, "emotion", "sentence") == {
        "Anger": ("the speaker sounds angry",),
        "ridiculed": ("the emotion of the speaker is ridiculed",),
        "sad": ("the speaker sounds sad",),
    }


def test_gender_is_asked_for_in_every_corpus():
    table = labelled("ravdess", gender=["male", "other"])
    assert prompts.prompts_for(table, "gender", "sentence") == {
        "female": ("the speaker is female",),
        "male": ("the speaker is male",),
        "other": ("the gender of the speaker is other",),
    }


@pytest.mark.parametrize("target", ["arousal", "valence", "dominance", "age"])
def test_numbers_are_asked_for_by_opposed_queries(target):
    table = labelled(**{target: [1.0, 2.0, 3.0]})
    asked = prompts.prompts_for(table, target, "sentence")
    assert list(asked) == ["low", "high"]
    assert asked["low"] != asked["high"]
    words = prompts.prompts_for(table, target, "word")
    assert prompts.prompts_for(table, target, "published") == words
    assert not {("low",), ("high",)} & set(words.values())


def test_wrong_query_sets_and_targets_are_named():
    table = labelled(emotion=["sad"])
    with pytest.raises(corpora.CorpusError, match="'published', 'word', 'sentence'"):
        prompts.prompts_for(table, "emotion", "paper")
    with pytest.raises(corpora.CorpusError, match="no likability"):
        prompts.prompts_for(table, "likability", "word")


def test_queries_are_loaded_from_yaml(tmp_path):
    path = tmp_path / "q.yaml"
    path.write_text("anger: this person is feeling angry\nsadness: [tears, sobs]\n")
    assert prompts.prompts_for(labelled(emotion=["sad"]), "emotion", str(path)) == {
        "anger": ("this person is feeling angry",),
        "sadness": ("tears", "sobs"),
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- anger\n",
        "no: refusal\n",
        "anger: 1\n",
        "a: ' '\n",
        "a: [\n",
        "a: !!set {}\n",
        "a: []\n",
        "a: [b, 1]\n",
    ],
)
def test_bad_query_files_are_refused(tmp_path, text):
    (tmp_path / "q.yaml").write_text(text)
    with pytest.raises(corpora.CorpusError, match=r"q\.yaml"):
        prompts.load_prompts(tmp_path / "q.yaml")
