"""Captions drawn from phrases, and which captions match which clips."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from paraclap.data.captions import (
    FREE,
    Caption,
    CaptionTableError,
    draw_caption,
    drawn_descriptors,
    equal_captions,
    group_phrases,
    match_matrix,
    text_key,
    tidy_caption,
)
from paraclap.settings import CaptionSettings

PHRASES = {
    "pitch": ["pitch is high", "the voice is high-pitched"],
    "intensity": ["intensity is low", "the voice is quiet"],
    "gender": ["gender is female"],
    "emotion": ["emotion is anger", "the speaker sounds angry"],
}


def draws(count, **settings):
    rng = np.random.default_rng(0)
    options = CaptionSettings(**settings)
    return [draw_caption(PHRASES, options, rng).text for _ in range(count)]


def test_published_caption_joins_first_wordings():
    expected = "speaker pitch is high and intensity is low and gender is female and "
    assert set(draws(20, style="published")) == {expected + "emotion is anger"}


def test_emotion_caption_is_that_phrase_alone():
    assert set(draws(50, style="emotion")) == set(PHRASES["emotion"])
    assert set(draws(50, style="emotion", paraphrases=False)) == {"emotion is anger"}


def test_sampled_captions_follow_phrase_count_probs_and_keep_the_emotion():
    counts = [0.2, 0.5, 0.3]
    captions = draws(4000, phrase_count_probs=counts)
    seen = Counter(len(caption.split(" and ")) - 1 for caption in captions)
    for count, probability in enumerate(counts):
        assert seen[count] / 4000 == pytest.approx(probability, abs=0.03)
    for caption in captions[:200]:
        *others, emotion = caption.split(" and ")
        assert emotion in PHRASES["emotion"]
        kinds = [name for name, w in PHRASES.items() for phrase in others if phrase in w]
        assert len(kinds) == len(set(kinds)) == len(others)


def test_every_wording_is_reachable_and_first_wordings_alone_on_request():
    words = {phrase for caption in draws(500) for phrase in caption.split(" and ")}
    assert words == {phrase for wordings in PHRASES.values() for phrase in wordings}
    words = {phrase for c in draws(500, paraphrases=False) for phrase in c.split(" and ")}
    assert words == {wordings[0] for wordings in PHRASES.values()}


def test_clip_without_emotion_still_has_a_caption():
    rng = np.random.default_rng(0)
    phrases = {"pitch": ["pitch is low"]}
    settings = CaptionSettings(phrase_count_probs=[1.0])
    assert draw_caption(phrases, settings, rng) == Caption(
        "pitch is low", (("pitch", "pitch is low"),)
    )
    with pytest.raises(CaptionTableError, match="no emotion"):
        draw_caption(phrases, CaptionSettings(style="emotion"), rng)


def test_label_probs_are_the_shares_of_captions_with_that_label():
    captions = draws(
        3000, phrase_count_probs=[0.5, 0.5], label_probs={"emotion": 0.7, "gender": 0.4}
    )
    for name, share in (("emotion", 0.7), ("gender", 0.4)):
        named = [c for c in captions if set(c.split(" and ")) & set(PHRASES[name])]
        assert len(named) / 3000 == pytest.approx(share, abs=0.03)
    assert all(captions)
    alone = draws(200, phrase_count_probs=[1.0], label_probs=dict.fromkeys(PHRASES, 0.1))
    assert all(alone)


HIGH, LOW = ("pitch", "high"), ("pitch", "low")
ANGER, FEAR = ("emotion", "anger"), ("emotion", "fear")
UNKNOWN = float("nan")


def test_captions_match_if_all_attributes_hold_and_are_unknown_if_one_is_missing():
    clips = [
        {"pitch": ["high"], "emotion": ["anger"]},
        {"pitch": ["low"], "emotion": ["anger"]},
        {"pitch": ["high"], "emotion": ["fear"]},
        {"emotion": ["fear"]},  # pitch unknown
        {"pitch": ["low"]},
    ]
    captions = [
        Caption("", attributes) for attributes in ((ANGER,), (ANGER, LOW), (HIGH,), (FEAR,))
    ]
    expected = [
        [1, 0, 1, 0],
        [1, 1, 0, 0],
        [0, 0, 1, 1],
        [0, 0, UNKNOWN, 1],  # emotion is wrong, so an unknown pitch does not matter
        [UNKNOWN, UNKNOWN, 0, UNKNOWN],
    ]
    assert_close(match_matrix(clips, captions), torch.tensor(expected), equal_nan=True)


def test_captions_with_the_same_attributes_are_equal():
    captions = [Caption("a", (ANGER, LOW)), Caption("b", (ANGER, LOW)), Caption("c", (ANGER,))]
    assert equal_captions(captions).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


def test_captions_of_one_clip_differ_in_wording_but_not_in_attributes():
    rng = np.random.default_rng(0)
    settings = CaptionSettings(phrase_count_probs=[0.0, 0.0, 0.0, 1.0])
    captions = [draw_caption(PHRASES, settings, rng) for _ in range(20)]
    assert len({caption.text for caption in captions}) > 10
    assert len({caption.attributes for caption in captions}) == 1
    assert equal_captions(captions).all()
    assert match_matrix([PHRASES] * 20, captions).all()


def test_phrases_are_grouped_by_descriptor():
    grouped = group_phrases(["a", "b", "c"], ["x", "y", "x"])
    assert grouped == {"x": ["a", "c"], "y": ["b"]}
    with pytest.raises(ValueError):
        group_phrases(["a"], [])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"phrase_count_probs": [1.0]},
        {"phrase_count_probs": [1.0], "label_probs": {"emotion": 0.6, "gender": 0.4}},
        {"phrase_count_probs": [1.0], "label_probs": {"emotion": 0.0, "gender": 1.0}},
        {"phrase_count_probs": [0.5, 0.5], "label_probs": {"emotion": 0.0}},
        {"style": "published"},
        {"style": "emotion"},
    ],
)
@pytest.mark.parametrize(
    "names",
    [["pitch", "emotion", "gender"], ["emotion", "gender"], [FREE], [FREE, "emotion", "pitch"]],
)
def test_drawn_descriptors_are_those_of_many_captions(settings, names):
    settings, phrases = CaptionSettings(**settings), {name: [name] for name in names}
    rng = np.random.default_rng(0)
    found = {
        name for _ in range(400) for name, _ in draw_caption(phrases, settings, rng).attributes
    }
    assert drawn_descriptors([names, names], settings) == found


@pytest.mark.parametrize("names", [[FREE], [FREE, "emotion"]])
@pytest.mark.parametrize("mix", [0.0, 1.0])
def test_drawn_descriptors_follow_the_mix(names, mix):
    phrases, settings = {name: [name] for name in names}, CaptionSettings(mix=mix)
    rng = np.random.default_rng(0)
    found = {a[0] for _ in range(50) for a in draw_caption(phrases, settings, rng).attributes}
    assert drawn_descriptors([names], settings) == found


def test_mix_is_the_share_of_template_captions_of_clips_that_have_both():
    rng, texts = np.random.default_rng(0), ["An angry woman.", "She shouts"]
    both, settings = PHRASES | {FREE: texts}, CaptionSettings(mix=0.3)
    drawn = [draw_caption(both, settings, rng).text for _ in range(2000)]
    counts = Counter(text for text in drawn if text in texts)
    assert sum(counts.values()) / 2000 == pytest.approx(0.7, abs=0.03)
    assert min(counts.values()) / 2000 == pytest.approx(0.35, abs=0.03)
    assert not any(text in other for other in set(drawn) - set(texts) for text in texts)
    alone = {draw_caption({FREE: texts}, CaptionSettings(mix=1.0), rng).text for _ in range(50)}
    assert alone == set(texts)


def test_free_captions_match_clips_with_an_equal_text_and_no_others():
    clips = [
        {FREE: ["An angry  woman", "a shout"]},
        {FREE: ["an angry woman"], "emotion": ["anger"]},
        {"emotion": ["anger"]},
    ]
    rng = np.random.default_rng(0)
    free = draw_caption({FREE: ["AN ANGRY WOMAN"]}, CaptionSettings(), rng)
    matches = match_matrix(clips, [free, Caption("", (ANGER,))])
    expected = torch.tensor([[1, UNKNOWN], [1, 1], [0, 1]])
    assert_close(matches, expected, equal_nan=True)


def test_caption_texts_are_tidied_and_compared_without_case():
    assert tidy_caption("\ufeff e\u0301te\u0301 \n\u3000 a\ud800 ") == "\u00e9t\u00e9 a"
    assert text_key("\u00c9TE  a") == text_key("E\u0301te a ")
