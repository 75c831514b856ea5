"""Prompt sets of every target, ensembles, prompt files."""

import audformat
import numpy as np
import pandas as pd
import pytest

from paraclap.captions.templates import default_descriptors, phrases_of
from paraclap.corpora import table as corpora
from paraclap.evaluation.prompt_sets import (
    PLAIN_TEMPLATES,
    TEMPLATES,
    WORDS,
    class_prompts,
    class_words,
)
from paraclap.evaluation.prompts import PromptError, load_prompts, prompts_for

TARGETS = sorted(WORDS)


def labelled(corpus=None, **columns):
    count = len(next(iter(columns.values())))
    index = audformat.segmented_index([f"{number}.wav" for number in range(count)])
    table = pd.DataFrame(columns, index=index)
    table.attrs = {"name": corpus or "mine", "root": "/", "corpus": corpus}
    return table


def test_every_target_with_words_has_a_template_in_every_set():
    assert set(TEMPLATES) == set(WORDS)
    for templates in TEMPLATES.values():
        assert list(templates) == list(PLAIN_TEMPLATES)


@pytest.mark.parametrize("prompt_set", PLAIN_TEMPLATES)
@pytest.mark.parametrize("target", TARGETS)
def test_classes_with_different_words_have_different_prompts(target, prompt_set):
    words = class_words(target)
    texts = {c: class_prompts(c, target, prompt_set) for c in words}
    for first in words:
        for second in words:
            same = words[first] == words[second]
            assert (texts[first] == texts[second]) == same, (first, second)


@pytest.mark.parametrize("target", [*TARGETS, "dialect"])
def test_ensemble_holds_every_set_except_published(target):
    label = next(iter(class_words(target) or ["southern"]))
    single = [class_prompts(label, target, name)[0] for name in PLAIN_TEMPLATES]
    ensemble = class_prompts(label, target, "ensemble")
    assert set(ensemble) == set(single) and len(set(ensemble)) == len(ensemble)
    assert not [prompt for prompt in ensemble if "{" in prompt]


def test_emotions_of_the_caption_templates_have_prompts():
    assert class_prompts("joy", "emotion", "voice") == ("the voice expresses happiness",)
    assert class_prompts("annoyed", "emotion", "voice") == ("the voice expresses annoyance",)
    assert class_prompts("calm", "emotion", "voice") == ("the voice expresses calmness",)


def test_sentences_use_the_adjective_and_captions_the_noun():
    for label, sentence, caption in (
        ("boredom", "the speaker sounds bored", "emotion is boredom"),
        ("fear", "the speaker sounds fearful", "emotion is fear"),
        ("disgust", "the speaker sounds disgusted", "emotion is disgust"),
        ("Happy", "the speaker sounds happy", "emotion is happiness"),
    ):
        assert class_prompts(label, "emotion", "sentence") == (sentence,)
        assert class_prompts(label, "emotion", "caption") == (caption,)


def test_prompts_of_the_caption_set_are_first_phrases_of_captions():
    emotion = next(d for d in default_descriptors() if d.name == "emotion")
    for label in class_words("emotion"):
        assert class_prompts(label, "emotion", "caption") == phrases_of(emotion, label)[:1], label


def test_published_prompts_are_those_of_the_corpus_and_otherwise_the_label(monkeypatch):
    classes, published = {"W": "anger", "O": None}, {"anger": "rage"}
    toy = corpora.Corpus("toy", "", None, "", classes=classes, published=published)
    monkeypatch.setitem(corpora.CORPORA, "toy", toy)
    assert prompts_for(labelled("toy", emotion=["W", "O"])) == {"anger": ("rage",)}
    assert prompts_for(labelled(emotion=["anger"])) == {"anger": ("anger",)}


def test_known_corpora_have_all_their_classes_and_others_those_present():
    assert len(prompts_for(labelled("ravdess", emotion=["sad"]))) == 8
    table = labelled(emotion=["sad", "Anger", "ridiculed", np.nan])
    assert prompts_for(table, "emotion", "sentence") == {
        "anger": ("the speaker sounds angry",),
        "ridiculed": ("the emotion of the speaker is ridiculed",),
        "sad": ("the speaker sounds sad",),
    }


def test_gender_has_both_classes_in_every_corpus():
    table = labelled("ravdess", gender=["male", "other"])
    assert prompts_for(table, "gender", "sentence") == {
        "female": ("the speaker is female",),
        "male": ("the speaker is male",),
        "other": ("the gender of the speaker is other",),
    }


@pytest.mark.parametrize("target", ["arousal", "valence", "dominance", "age"])
def test_numeric_labels_have_opposed_prompts(target):
    table = labelled(**{target: [1.0, 2.0, 3.0]})
    found = prompts_for(table, target, "sentence")
    assert list(found) == ["low", "high"]
    assert found["low"] != found["high"]
    words = prompts_for(table, target, "word")
    assert prompts_for(table, target, "published") == words
    assert not {("low",), ("high",)} & set(words.values())


def test_unknown_prompt_sets_and_targets_are_named():
    table = labelled(emotion=["sad"])
    with pytest.raises(PromptError, match="'published', 'word', 'sentence'"):
        prompts_for(table, "emotion", "paper")
    with pytest.raises(corpora.CorpusError, match="no likability"):
        prompts_for(table, "likability", "word")


def test_prompts_are_loaded_from_yaml(tmp_path):
    path = tmp_path / "q.yaml"
    path.write_text("anger: this person is feeling angry\nsadness: [tears, sobs]\n")
    assert prompts_for(labelled(emotion=["sadness"]), "emotion", str(path)) == {
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
def test_invalid_prompt_files_are_refused(tmp_path, text):
    (tmp_path / "q.yaml").write_text(text)
    with pytest.raises(PromptError, match=r"q\.yaml"):
        load_prompts(tmp_path / "q.yaml")


def test_missing_prompt_file_is_named(tmp_path):
    with pytest.raises(PromptError, match=r"absent\.yaml cannot be read"):
        load_prompts(tmp_path / "absent.yaml")
