"""Captions drawn from the phrases and free captions of a clip, and which match which clips.

Phrases describe a clip by descriptor and are combined in captions. A free caption is a text of any
origin, a caption by itself; it has the descriptor `FREE`.

Letters: B clips, K captions.
"""

import functools
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch.utils.data

from paraclap.data.tables import PHRASE_COLUMNS, Lists
from paraclap.errors import ParaCLAPError
from paraclap.settings import EMOTION, CaptionSettings

FREE = "caption"
"""Descriptor of free captions."""
JOINT = " and "

Phrases = Mapping[str, Sequence[str]]
"""Descriptor -> wordings of its phrase; of `FREE`, different captions."""
Attribute = tuple[str, str]
"""Descriptor, first wording; of a free caption, its `text_key`."""


class CaptionTableError(ParaCLAPError, ValueError):
    """A captions table that lacks what training or search needs."""


@functools.lru_cache(1 << 16)
def tidy_caption(text: str) -> str:
    """Return a text in Unicode form NFC, without surplus blanks and unpaired surrogates."""
    text = text.encode("utf-8", "ignore").decode("utf-8").removeprefix("\ufeff")
    return " ".join(unicodedata.normalize("NFC", text).split())


@functools.lru_cache(1 << 16)
def text_key(text: str) -> str:
    """Return the same text for captions that differ in case and blanks alone."""
    return tidy_caption(text).casefold()


def group_phrases(captions: Sequence[str], descriptors: Sequence[str]) -> dict[str, list[str]]:
    """Return the wordings of each descriptor of a row, in the order of the table."""
    phrases: dict[str, list[str]] = {}
    for phrase, descriptor in zip(captions, descriptors, strict=True):
        phrases.setdefault(descriptor, []).append(phrase)
    return phrases


def caption_texts(table: pd.DataFrame) -> pd.Series:
    """Return the captions of each clip: all free captions, otherwise the first wordings, joined.

    Args:
        table: captions table. A clip with several free captions is repeated; one without any
            caption is dropped.

    Raises:
        CaptionTableError: if the table lacks a column of captions tables.
    """
    if missing := [column for column in PHRASE_COLUMNS if column not in table]:
        raise CaptionTableError(f"captions table lacks {missing}")
    texts = []
    for row in ClipPhrases(table):
        joined = JOINT.join(wordings[0] for wordings in row.values())
        texts.append(row.get(FREE) or ([joined] if joined else []))
    index = table.index.repeat([len(row) for row in texts])
    return pd.Series([text for row in texts for text in row], index, dtype="str")


@dataclass(frozen=True)
class Caption:
    """A text about a clip, and its attributes, which do not depend on the wording."""

    text: str
    attributes: tuple[Attribute, ...]


def draw_caption(phrases: Phrases, settings: CaptionSettings, rng: np.random.Generator) -> Caption:
    """Draw one caption of a clip: a free caption, or one composed of its phrases.

    Raises:
        ValueError: if there are no phrases.
        CaptionTableError: if the style needs a label that the clip lacks.
    """
    if not phrases:
        raise ValueError("a clip without phrases has no caption")
    if FREE in phrases:
        if len(phrases) == 1 or rng.random() >= settings.mix:
            return compose_caption(phrases, [FREE], settings, rng)
        phrases = {name: wordings for name, wordings in phrases.items() if name != FREE}
    return STYLES[settings.style](phrases, settings, rng)


def compose_caption(
    phrases: Phrases, names: Sequence[str], settings: CaptionSettings, rng: np.random.Generator
) -> Caption:
    """Return the caption of the descriptors `names`, in this order, or one of the free captions."""
    if list(names) == [FREE]:
        text = phrases[FREE][rng.integers(len(phrases[FREE]))]
        return Caption(text, ((FREE, text_key(text)),))
    texts = []
    for name in names:
        wordings = phrases[name]
        chosen = rng.integers(len(wordings)) if settings.paraphrases else 0
        texts.append(wordings[chosen])
    return Caption(JOINT.join(texts), _attributes(phrases, names))


def drawn_descriptors(descriptors: Sequence[Sequence[str]], settings: CaptionSettings) -> set[str]:
    """Return the descriptors that captions can contain, from those of the phrases of each clip."""
    drawn: set[str] = set()
    for names in {frozenset(row) for row in descriptors}:
        if FREE in names:
            if len(names) == 1 or settings.mix < 1:
                drawn.add(FREE)
            names = names - {FREE}
            if not names or not settings.mix:
                continue
        probs = {name: settings.label_probs.get(name) for name in names}
        if settings.style == EMOTION:
            drawn |= {EMOTION}.intersection(names)
        elif settings.style != "sampled":
            drawn.update(names)
        else:
            drawn |= {name for name, prob in probs.items() if prob}
            others = {name for name, prob in probs.items() if prob is None}
            has_label = any(prob is not None and prob >= 1 for prob in probs.values())
            if not has_label or settings.phrase_count_probs[0] < 1:
                drawn |= others or (set() if has_label else set(names))
    return drawn


def _sampled(phrases: Phrases, settings: CaptionSettings, rng: np.random.Generator) -> Caption:
    """Join phrases of distinct descriptors, then those of labels, as in the paper."""
    labels = [n for n, p in settings.label_probs.items() if rng.random() < p and n in phrases]
    others = [name for name in phrases if name not in settings.label_probs]
    if not others and not labels:
        others = list(phrases)
    count = int(np.searchsorted(_cumulated(*settings.phrase_count_probs), rng.random(), "right"))
    count = min(count if labels else max(count, 1), len(others))
    chosen = [others[i] for i in rng.permutation(len(others))[:count]]
    return compose_caption(phrases, [*chosen, *labels], settings, rng)


@functools.cache
def _cumulated(*probs: float) -> np.ndarray:
    """Return the distribution function as `Generator.choice` does, which takes longer to draw."""
    sums = np.cumsum(probs)
    return sums / sums[-1]


def _published(phrases: Phrases, settings: CaptionSettings, rng: np.random.Generator) -> Caption:
    text = "speaker " + JOINT.join(wordings[0] for wordings in phrases.values())
    return Caption(text, _attributes(phrases, phrases))


def _emotion(phrases: Phrases, settings: CaptionSettings, rng: np.random.Generator) -> Caption:
    if EMOTION not in phrases:
        raise CaptionTableError("captions.style is 'emotion', but a clip has no emotion label")
    return compose_caption(phrases, [EMOTION], settings, rng)


def _attributes(phrases: Phrases, names: Iterable[str]) -> tuple[Attribute, ...]:
    return tuple((name, phrases[name][0]) for name in sorted(names))


def _facts(phrases: Phrases) -> set[Attribute]:
    """Return the attributes of all captions that are true of a clip."""
    free = {(FREE, text_key(text)) for text in phrases.get(FREE, ())}
    return free.union(_attributes(phrases, phrases.keys() - {FREE}))


def match_matrix(phrases: Sequence[Phrases], captions: Sequence[Caption]) -> torch.Tensor:
    """Return which captions match which clips: (B, K).

    1 if all attributes of the caption hold for the clip, 0 if one is wrong. NaN if none is wrong
    but the clip lacks one of the descriptors, so that it is unknown whether the caption is true.
    A free caption is wrong for all clips that do not have it.
    """
    attributes = sorted({attribute for caption in captions for attribute in caption.attributes})
    facts = [_facts(p) for p in phrases]
    stated = _table([[a in caption.attributes for a in attributes] for caption in captions])
    known = _table([[name == FREE or name in p for name, _ in attributes] for p in phrases])
    holds = _table([[a in fact for a in attributes] for fact in facts])
    # NumPy, because the threads of torch cost more than products of this size.
    right, judged, total = holds @ stated.T, known @ stated.T, stated.sum(axis=1)
    is_right = right == judged
    matches = is_right.astype(np.float32)
    matches[is_right & (judged < total)] = np.nan
    return torch.from_numpy(matches)


def _table(rows: Sequence[Sequence[bool]]) -> np.ndarray:
    return np.array(rows, dtype=np.float32)


def equal_captions(captions: Sequence[Caption]) -> torch.Tensor:
    """Return 1 where two captions have the same attributes, otherwise 0: (K, K)."""
    return torch.tensor([[float(a.attributes == b.attributes) for b in captions] for a in captions])


STYLES: dict[str, Callable[[Phrases, CaptionSettings, np.random.Generator], Caption]] = {
    "sampled": _sampled,
    "published": _published,
    "emotion": _emotion,
}


class ClipPhrases(Sequence):
    """Phrases of the clips of a captions table, grouped by descriptor on access."""

    def __init__(self, table: pd.DataFrame) -> None:
        self.columns = [Lists(table[column]) for column in PHRASE_COLUMNS]

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, row: int) -> dict[str, list[str]]:
        return group_phrases(*(column[row] for column in self.columns))
