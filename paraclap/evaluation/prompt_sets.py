"""Prompt sets: a template for each target, and the words for each class.

A prompt set gives every class of a target (emotion, gender, arousal, ...) one prompt. "ensemble"
gives the prompts of all other sets except "published"; their embeddings are averaged (prompt
ensembling: Radford et al., "Learning transferable visual models from natural language supervision",
2021, section 3.1.4)::

    class_prompts("anger", "emotion", "sentence")  # ("the speaker sounds angry",)
    class_prompts("anger", "emotion", "ensemble")  # ("angry", "the speaker sounds angry", ...)

The set "published" has the prompts of the paper, where the paper evaluated the corpus (the field
`published` of CORPORA), and otherwise the label itself.
"""

import functools
from collections.abc import Mapping

from paraclap.captions.templates import default_descriptors

PUBLISHED = "published"
ENSEMBLE = "ensemble"

WORDS: dict[str, dict[str, dict[str, str]]] = {
    "emotion": {
        # not the noun "calm" of the captions, which reads like the adjective
        "calm": {"adjective": "calm", "noun": "calmness"},
        "calmness": {"adjective": "calm", "noun": "calmness"},
        "emphatic": {"adjective": "emphatic", "noun": "emphasis"},
        "motherese": {"adjective": "like a parent talking to a child", "noun": "motherese"},
        "neutral": {"adjective": "neutral", "noun": "no particular emotion"},
        "negative": {"adjective": "negative", "noun": "a negative emotion"},
        "non-negative": {"adjective": "neutral or positive", "noun": "no negative emotion"},
    },
    "gender": {
        "female": {"adjective": "female", "noun": "woman"},
        "male": {"adjective": "male", "noun": "man"},
    },
    "arousal": {
        "low": {"adjective": "calm", "noun": "low"},
        "middle": {"adjective": "moderately aroused", "noun": "normal"},
        "high": {"adjective": "aroused", "noun": "high"},
    },
    "valence": {
        "low": {"adjective": "displeased", "noun": "low"},
        "middle": {"adjective": "neither pleased nor displeased", "noun": "normal"},
        "high": {"adjective": "pleased", "noun": "high"},
    },
    "dominance": {
        "low": {"adjective": "submissive", "noun": "low"},
        "middle": {"adjective": "neither submissive nor dominant", "noun": "normal"},
        "high": {"adjective": "dominant", "noun": "high"},
    },
    "age": {
        "low": {"adjective": "young", "noun": "young person"},
        "middle": {"adjective": "middle-aged", "noun": "middle-aged person"},
        "high": {"adjective": "old", "noun": "old person"},
    },
    "age_group": {
        "child": {"adjective": "a child", "noun": "child"},
        "youth": {"adjective": "an adolescent", "noun": "young person"},
        "adult": {"adjective": "an adult", "noun": "adult"},
        "senior": {"adjective": "elderly", "noun": "senior"},
    },
    "likability": {
        form: {"adjective": adjective}
        for adjective, *forms in (
            ("not likeable", "not likeable", "low"),
            ("somewhat likeable", "middle"),
            ("likeable", "likeable", "high"),
        )
        for form in forms
    },
    "intoxication": {
        "intoxicated": {"adjective": "intoxicated with alcohol"},
        "sober": {"adjective": "sober"},
    },
}
"""Target -> class -> words for its templates, besides the emotions of the caption templates."""

BELONGS = "the voice belongs to a {noun}"
SOUNDS = "the speaker sounds {adjective}"
COMMON_TEMPLATES = {
    "word": "{adjective}",
    "sentence": "the speaker is {adjective}",
    "person": "this person is {adjective}",
    "voice": "the voice sounds {adjective}",
    "caption": "{target} is {noun}",
}
OTHER_TEMPLATES = {
    "emotion": {
        "sentence": SOUNDS,
        "person": "this person is feeling {adjective}",
        "voice": "the voice expresses {noun}",
    },
    "gender": {
        "person": "this person is a {noun}",
        "voice": BELONGS,
        "caption": "gender is {adjective}",
    },
    "age": {"voice": BELONGS, "caption": SOUNDS},
    "age_group": {"word": "{noun}", "voice": BELONGS},
    "likability": {"caption": "likability is {adjective}"},
    "intoxication": {
        "voice": "the voice belongs to someone who is {adjective}",
        "caption": SOUNDS,
    },
    "arousal": {"person": "this person is feeling {adjective}"},
    "valence": {"person": "this person is feeling {adjective}"},
    "dominance": {"person": "this person is feeling {adjective}"},
}
TEMPLATES = {target: COMMON_TEMPLATES | other for target, other in OTHER_TEMPLATES.items()}
"""Target -> prompt set -> template."""

PLAIN_TEMPLATES = {
    "word": "{label}",
    "sentence": "the {target} of the speaker is {label}",
    "person": "the {target} of this person is {label}",
    "voice": "the {target} of the voice is {label}",
    "caption": "{target} is {label}",
}
"""Prompt set -> template for classes without words."""

PROMPT_SETS = (PUBLISHED, *PLAIN_TEMPLATES, ENSEMBLE)


@functools.cache
def class_words(target: str) -> dict[str, dict[str, str]]:
    """Return class -> words, e.g. `{"anger": {"noun": "anger", "adjective": "angry"}, ...}`.

    Emotions have the nouns and adjectives of the caption templates.
    """
    forms = {d.name: d.forms for d in default_descriptors()} if target == "emotion" else {}
    return forms.get(target, {}) | WORDS.get(target, {})


def class_prompts(
    label: str, target: str, prompt_set: str, published: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """Return the prompts of one class in one of PROMPT_SETS; only the ensemble has several.

    Args:
        label: the class.
        target: column of labels.
        prompt_set: one of PROMPT_SETS.
        published: class -> prompt of the paper.
    """
    if prompt_set == PUBLISHED:
        return ((published or {}).get(label, label),)
    fields = {"label": label, "target": target.replace("_", " ")}
    templates, words = PLAIN_TEMPLATES, class_words(target).get(label.lower())
    if words is not None:
        templates, fields = TEMPLATES[target], {**fields, **words}
    names = templates if prompt_set == ENSEMBLE else [prompt_set]
    return tuple(dict.fromkeys(templates[name].format(**fields) for name in names))
