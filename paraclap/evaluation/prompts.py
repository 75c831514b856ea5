"""The prompts of each class of a corpus, from a prompt set or from a YAML file.

    prompts_for(table, "emotion", "sentence")  # {"anger": ("the speaker sounds angry",), ...}
    prompts_for(table, "emotion", "mine.yaml")  # lines `class: prompt` or `class: [prompt, prompt]`

Numeric labels (arousal, valence, dominance, age, likability) have prompts for their two extremes,
"low" and "high"; their classes are the tertiles of the values.
"""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from paraclap.corpora.catalogue import CORPORA
from paraclap.corpora.labels import comparable
from paraclap.corpora.table import HIGH, LOW, scored_classes
from paraclap.errors import ParaCLAPError
from paraclap.evaluation.prompt_sets import PROMPT_SETS, PUBLISHED, WORDS, class_prompts
from paraclap.files import read_yaml

Prompts = dict[str, tuple[str, ...]]
"""Class -> prompts, whose embeddings are averaged."""

PROMPT_FILES = (".yaml", ".yml")


class PromptError(ParaCLAPError, ValueError):
    """Prompts that cannot be used, such as two classes with the same prompt."""


def prompts_for(
    table: pd.DataFrame, target: str = "emotion", prompt_set: str = PUBLISHED
) -> Prompts:
    """Return the prompts of each class.

    A corpus of CORPORA has all of its classes, gender has "female" and "male", and a numeric label
    has "low" and "high", whether or not they occur in the table. Otherwise the classes are those of
    the table, in sorted order.

    Args:
        table: corpus table
        target: column of labels
        prompt_set: one of PROMPT_SETS, or a YAML file of `class: prompt`

    Raises:
        CorpusError: if the table has no such target
        PromptError: if there is no such prompt set, or the file cannot be used
    """
    if Path(prompt_set).suffix in PROMPT_FILES:
        return _named_as_labels(load_prompts(prompt_set), table, target, prompt_set)
    if prompt_set not in PROMPT_SETS:
        raise PromptError(
            f"unknown prompt set {prompt_set!r}, expected one of {list(PROMPT_SETS)} or a YAML file"
        )
    if prompt_set == PUBLISHED and pd.api.types.is_numeric_dtype(table.get(target)):
        prompt_set = "word"  # the paper has none for numbers, and the label "low" is ambiguous
    corpus = CORPORA.get(table.attrs.get("corpus"))
    published = corpus.published if corpus and target == corpus.target else {}
    return {
        label: class_prompts(label, target, prompt_set, published)
        for label in _classes(table, target, published)
    }


def _classes(table: pd.DataFrame, target: str, published: Mapping[str, str]) -> list[str]:
    """Return the classes with prompts; those that need not occur in the table come first."""
    found = scored_classes(table, target).dropna().unique()
    if pd.api.types.is_numeric_dtype(table[target]):
        return [LOW, HIGH]
    always = published or (WORDS["gender"] if target == "gender" else {})
    return [*always, *sorted(set(found) - set(always))]


def _named_as_labels(prompts: Prompts, table: pd.DataFrame, target: str, path: str) -> Prompts:
    """Return prompts by the labels of a table, where a class is another spelling or a synonym.

    Raises:
        CorpusError: if the table has no such target
        PromptError: if two classes are the same label
    """
    labels = sorted(scored_classes(table, target).dropna().unique())
    known = {comparable(target, label): label for label in labels}
    named: dict[str, str] = {}
    for name in prompts:
        label = name if name in labels else known.setdefault(comparable(target, name), name)
        if label in named:
            raise PromptError(f"{path}: {named[label]} and {name} are both the label {label}")
        named[label] = name
    return {label: prompts[name] for label, name in named.items()}


def load_prompts(path: str | Path) -> Prompts:
    """Return the prompts of a YAML file: `class: prompt` or `class: [prompt, prompt]` on each line.

    Raises:
        PromptError: if the file cannot be read or has another form
    """
    content = read_yaml(path, PromptError)
    if not isinstance(content, dict) or not content:
        raise PromptError(f"{path} holds {type(content).__name__}, expected lines `class: prompt`")
    prompts = {}
    for label, prompt in content.items():
        texts = tuple(prompt) if isinstance(prompt, list) else (prompt,)
        are_texts = texts and all(isinstance(text, str) and text.strip() for text in texts)
        if not (isinstance(label, str) and are_texts):
            raise PromptError(f"{path}: {label!r}: {prompt!r} must both be text (use quotes)")
        if template := next((text for text in texts if "{}" in text), None):
            raise PromptError(f"{path}: {template!r} contains a placeholder, expected the prompt")
        prompts[label] = texts
    return prompts
