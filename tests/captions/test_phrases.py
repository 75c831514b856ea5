"""The words for levels and labels, alone and within groups."""

import numpy as np
import pytest

from paraclap.captions.phrases import Comparison, phrases_of
from small_corpora import (
    BY_NAME,
    CORPUS,
    DESCRIPTORS,
    EXTENDED,
    GENDER,
    LABELS,
    PITCH,
    caption,
    fit,
    make_corpus,
    make_table,
    phrases_by_row,
)


def test_wordings_are_distinct_clauses_with_paraphrases():
    wordings = [words for d in EXTENDED for words in d.phrases.values()]
    phrases = [phrase for words in wordings for phrase in words]
    assert min(map(len, wordings)) >= 3 and len(set(phrases)) == len(phrases)
    filled = [p for d in LABELS for label in d.forms for p in phrases_of(d, label)]
    measured = [p for d in EXTENDED if d.kind != "label" for w in d.phrases.values() for p in w]
    for phrase in [*measured, *filled]:
        assert phrase == phrase.strip().strip(".")
        assert phrase[0].islower() and " and " not in phrase and "{" not in phrase


@pytest.mark.parametrize(
    ("name", "label", "first", "second"),
    [
        ("emotion", "anger", "emotion is anger", "the speaker sounds angry"),
        ("emotion", "Angry", "emotion is anger", "the speaker sounds angry"),
        ("emotion", "happy", "emotion is happiness", "the speaker feels happy"),
        ("emotion", "afraid", "emotion is fear", "the speaker feels fearful"),
        ("emotion", "pleasant_surprise", "emotion is pleasant surprise",
         "the speaker feels pleasantly surprised"),
        ("emotion", "neutral", "emotion is neutral", "the voice expresses no particular emotion"),
        ("emotion", "boredom", "emotion is boredom", "the voice expresses boredom"),
        ("emotion", "motherese", "emotion is motherese", "the speaker talks in motherese"),
        ("gender", "f", "gender is female", "the speaker is a woman"),
    ],
)  # fmt: skip
def test_nouns_and_adjectives_stand_where_they_belong(name, label, first, second):
    phrases = phrases_of(BY_NAME[name], label)
    assert phrases[0] == first and second in phrases


@pytest.mark.parametrize("label", ["zest", "hot and cold", "*", "?", "{noun}", "überrascht", "7"])
def test_unknown_labels_are_quoted_as_they_are(label):
    phrases = phrases_of(BY_NAME["emotion"], label)
    assert phrases[0] == f'emotion is labelled "{label}"'
    assert len(phrases) >= 3 and all(f'"{label}"' in phrase for phrase in phrases)


def test_labels_that_say_nothing_get_no_phrase():
    labels = ["sad", "no agreement", "No_Agreement", "X", "other", None, np.nan, ""]
    sad, *others = phrases_by_row(make_table(emotion=labels), [BY_NAME["emotion"]])
    assert sad and not any(others)


def test_phrases_say_within_which_group_they_hold():
    table = make_corpus(60)
    table[PITCH.column] += np.where(table["gender"] == "female", 50, 0).astype(np.float32)
    plain = set(phrases_by_row(table, [PITCH])[1])
    assert plain & {"pitch is low"}  # every man
    captions = caption(table, fit(table, [PITCH], comparisons=[GENDER]), [PITCH])
    women, men = captions[captions["gender"] == "female"], captions[captions["gender"] == "male"]
    for rows, noun, adjective in ((women, "woman", "female"), (men, "man", "male")):
        assert rows["pitch_level"].value_counts().to_dict() == {"normal": 12, "low": 9, "high": 9}
        high = rows[rows["pitch_level"] == "high"]["captions"].iloc[0]
        assert list(high) == [
            f"pitch is high for a {noun}",
            f"the voice is high-pitched by the standards of {adjective} speakers",
            f"the speaker talks in a high voice compared with other {adjective} speakers",
        ]


def test_first_wordings_tell_all_groups_apart():
    table = make_corpus(400)
    table["gender"] = ["female", "male", "girl", "diverse"] * 100
    table["corpus"] = np.repeat(["one", "two"], 200)
    for comparisons, groups in (([GENDER], 4), ([CORPUS], 2), ([CORPUS, GENDER], 8)):
        edges = fit(table, [PITCH], comparisons=comparisons)
        captions = caption(table, edges, [PITCH])
        firsts = {phrases[0] for phrases in captions["captions"]}
        assert len(edges["pitch"].groups) == groups and len(firsts) == 3 * groups
    assert 'pitch is low within the corpus "one" for a girl' in firsts
    assert 'pitch is low within the corpus "two" for the gender "diverse"' in firsts


def test_any_label_column_can_be_compared_within():
    table = make_corpus(90)
    speaker = Comparison("speaker", DESCRIPTORS)
    captions = caption(table, fit(table, [PITCH], comparisons=[speaker]), [PITCH])
    phrases = set(captions["captions"].explode())
    assert 'pitch is low within speaker "03"' in phrases
    assert len(phrases) == 6 * 3 * 3
