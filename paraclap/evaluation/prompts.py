"""How a class is asked for: prompt sets as data, and files of your own prompts.

A prompt set gives every class of a target (emotion, gender, arousal, ...) one prompt or several.
Several are combined by the mean of their embeddings, a *prompt ensemble* (Radford et
al., "Learning transferable visual models from natural language supervision", 2021, section 3.1.4)::

    prompts_for(table, "emotion", "sentence")  # {"anger": ("the speaker sounds angry",), ...}
    prompts_for(table, "emotion", "ensemble")  # the wordings of every other set, paper's excepted
    prompts_for(table, "emotion", "mine.yaml")  # lines `class: prompt` or `class: [prompt, prompt]`

The set ``published`` asks in the words of the paper where it asked the corpus (the field
``published`` of CORPORA), and with the bare label elsewhere (a number with its ``word``).

Numbers (arousal, valence, dominance, age, likability) are asked for by their two poles, ``low`` and
``high``; the classes of such a target are the tertiles of its values.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import yaml

from paraclap.corpora.catalogue import CORPORA
from paraclap.corpora.readers import CorpusError
from paraclap.corpora.table import HIGH, LOW, MIDDLE, scored_classes

Prompts = dict[str, tuple[str, ...]]
"""Class -> wordings."""

PUBLISHED = "published"
ENSEMBLE = "ensemble"
PROMPT_FILES = (".yaml", ".yml")

EMOTION_FORMS = (
    # adjective, noun, further forms that corpora use for the same label
    ("amused", "amusement"),
    ("angry", "anger"),
    ("bored", "boredom"),
    ("calm", "calmness"),
    ("confused", "confusion"),
    ("contemptuous", "contempt"),
    ("disgusted", "disgust"),
    ("excited", "excitement"),
    ("fearful", "fear"),
    ("frustrated", "frustration"),
    ("happy", "happiness", "joy"),
    ("pleasantly surprised", "pleasant surprise"),
    ("proud", "pride"),
    ("relieved", "relief"),
    ("sad", "sadness"),
    ("surprised", "surprise"),
)

WORDS: dict[str, dict[str, dict[str, str]]] = {
    "emotion": {
        form: {"adjective": adjective, "noun": noun}
        for adjective, noun, *others in EMOTION_FORMS
        for form in (adjective, noun, *others)
    }
    | {
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
        LOW: {"adjective": "calm", "noun": "low"},
        MIDDLE: {"adjective": "moderately aroused", "noun": "normal"},
        HIGH: {"adjective": "aroused", "noun": "high"},
    },
    "valence": {
        LOW: {"adjective": "displeased", "noun": "low"},
        MIDDLE: {"adjective": "neither pleased nor displeased", "noun": "normal"},
        HIGH: {"adjective": "pleased", "noun": "high"},
    },
    "dominance": {
        LOW: {"adjective": "submissive", "noun": "low"},
        MIDDLE: {"adjective": "neither submissive nor dominant", "noun": "normal"},
        HIGH: {"adjective": "dominant", "noun": "high"},
    },
    "age": {
        LOW: {"adjective": "young", "noun": "young person"},
        MIDDLE: {"adjective": "middle-aged", "noun": "middle-aged person"},
        HIGH: {"adjective": "old", "noun": "old person"},
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
            ("not likeable", "not likeable", LOW),
            ("somewhat likeable", MIDDLE),
            ("likeable", "likeable", HIGH),
        )
        for form in forms
    },
    "intoxication": {
        "intoxicated": {"adjective": "intoxicated with alcohol"},
        "sober": {"adjective": "sober"},
    },
}
"""Target -> class -> the words that its prompts need. Other classes are worded by their label."""

PROMPTS: dict[str, dict[str, str]] = {
    "emotion": {
        "word": "{adjective}",
        "sentence": "the speaker sounds {adjective}",
        "person": "this person is feeling {adjective}",
        "voice": "the voice expresses {noun}",
        "caption": "emotion is {noun}",
    },
    "gender": {
        "word": "{adjective}",
        "sentence": "the speaker is {adjective}",
        "person": "this person is a {noun}",
        "voice": "the voice belongs to a {noun}",
        "caption": "gender is {adjective}",
    },
    "age": {
        "word": "{adjective}",
        "sentence": "the speaker is {adjective}",
        "person": "this person is {adjective}",
        "voice": "the voice belongs to a {noun}",
        "caption": "the speaker sounds {adjective}",
    },
    "age_group": {
        "word": "{noun}",
        "sentence": "the speaker is {adjective}",
        "person": "this person is {adjective}",
        "voice": "the voice belongs to a {noun}",
        "caption": "age group is {noun}",
    },
    "likability": {
        "word": "{adjective}",
        "sentence": "the speaker is {adjective}",
        "person": "this person is {adjective}",
        "voice": "the voice sounds {adjective}",
        "caption": "likability is {adjective}",
    },
    "intoxication": {
        "word": "{adjective}",
        "sentence": "the speaker is {adjective}",
        "person": "this person is {adjective}",
        "voice": "the voice belongs to someone who is {adjective}",
        "caption": "the speaker sounds {adjective}",
    },
    **{
        dimension: {
            "word": "{adjective}",
            "sentence": "the speaker is {adjective}",
            "person": "this person is feeling {adjective}",
            "voice": "the voice sounds {adjective}",
            "caption": f"{dimension} is {{noun}}",
        }
        for dimension in ("arousal", "valence", "dominance")
    },
}
"""Target -> prompt set -> template."""

PLAIN_PROMPTS = {
    "word": "{label}",
    "sentence": "the {target} of the speaker is {label}",
    "person": "the {target} of this person is {label}",
    "voice": "the {target} of the voice is {label}",
    "caption": "{target} is {label}",
}
"""Prompt set -> template for targets and classes that the tables above do not know."""

PROMPT_SETS = (PUBLISHED, *PLAIN_PROMPTS, ENSEMBLE)

OPPOSED = (LOW, HIGH)
"""Classes that are asked for where the label is a number."""


def prompts_for(
    table: pd.DataFrame, target: str = "emotion", prompt_set: str = PUBLISHED
) -> Prompts:
    """Return the prompts of each class.

    A corpus of CORPORA brings all of its classes, even such that no row has; gender brings both of
    its classes and a number its two poles. For everything else the classes of the table are asked
    for, in sorted order.

    Args:
        table: corpus table
        target: column of labels
        prompt_set: one of PROMPT_SETS, or a YAML file of `class: prompt`

    Raises:
        CorpusError: if the prompt set is not known, or the target cannot be asked for
    """
    if Path(prompt_set).suffix in PROMPT_FILES:
        return load_prompts(prompt_set)
    if prompt_set not in PROMPT_SETS:
        raise CorpusError(
            f"{prompt_set} is no prompt set, expected one of {list(PROMPT_SETS)} or a YAML file"
        )
    if prompt_set == PUBLISHED and pd.api.types.is_numeric_dtype(table.get(target)):
        prompt_set = "word"  # the paper asked for no number, and `low` alone says nothing
    corpus = CORPORA.get(table.attrs.get("corpus"))
    published = corpus.published if corpus and target == corpus.target else {}
    return {
        label: word_class(label, target, prompt_set, published)
        for label in _classes(table, target, published)
    }


def _classes(table: pd.DataFrame, target: str, published: Mapping[str, str]) -> list[str]:
    """Return the classes that are asked for, those that are always asked for first."""
    found = scored_classes(table, target).dropna().unique()
    if pd.api.types.is_numeric_dtype(table[target]):
        return list(OPPOSED)
    always = published or (WORDS["gender"] if target == "gender" else {})
    return [*always, *sorted(set(found) - set(always))]


def word_class(
    label: str, target: str, prompt_set: str, published: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """Return the wordings of one class in one of PROMPT_SETS; only the ensemble has several."""
    if prompt_set == PUBLISHED:
        return ((published or {}).get(label, label),)
    words = {"label": label, "target": target.replace("_", " ")}
    templates, known = PLAIN_PROMPTS, WORDS.get(target, {}).get(label.lower())
    if known is not None:
        templates, words = PROMPTS[target], {**words, **known}
    names = templates if prompt_set == ENSEMBLE else [prompt_set]
    return tuple(dict.fromkeys(templates[name].format(**words) for name in names))


def load_prompts(path: str | Path) -> Prompts:
    """Return the prompts of a YAML file: `class: prompt` or `class: [prompt, prompt]` on each line.

    Raises:
        CorpusError: if it is not such a file
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict) or not content:
        raise CorpusError(f"{path} holds {type(content).__name__}, expected lines `class: prompt`")
    prompts = {}
    for label, prompt in content.items():
        wordings = tuple(prompt) if isinstance(prompt, list) else (prompt,)
        if not (isinstance(label, str) and _are_texts(wordings)):
            raise CorpusError(f"{path}: {label!r}: {prompt!r} must both be text (use quotes)")
        prompts[label] = wordings
    return prompts


def _are_texts(wordings: Sequence[object]) -> bool:
    """Return whether there is at least one wording, all of them text that is not blank."""
    return bool(wordings) and all(isinstance(w, str) and w.strip() for w in wordings)
