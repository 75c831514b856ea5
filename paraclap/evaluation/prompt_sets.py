"""Prompt sets: a template for each target, and the words for each class, in prompt_sets.yaml.

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
from pathlib import Path

from paraclap.captions.templates import default_descriptors
from paraclap.files import parse_yaml

PUBLISHED = "published"
ENSEMBLE = "ensemble"

_CONTENT = parse_yaml(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
WORDS: dict[str, dict[str, dict[str, str]]] = _CONTENT["words"]
"""Target -> class -> words for its templates, besides the emotions of the caption templates."""
TEMPLATES: dict[str, dict[str, str]] = {
    target: _CONTENT["common"] | other for target, other in _CONTENT["templates"].items()
}
"""Target -> prompt set -> template."""
PLAIN_TEMPLATES: dict[str, str] = _CONTENT["plain"]
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
        templates, fields = TEMPLATES[target], {**fields, "caption": words.get("noun"), **words}
    names = templates if prompt_set == ENSEMBLE else [prompt_set]
    return tuple(dict.fromkeys(templates[name].format(**fields) for name in names))
