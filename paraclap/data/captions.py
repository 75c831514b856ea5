"""Captions drawn from the phrases of a clip, and which captions match which clips."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch.utils.data

from paraclap.data.tables import Lists
from paraclap.settings import EMOTION, CaptionSettings

JOINT = " and "
PHRASE_COLUMNS = ["captions", "caption_descriptors"]


Phrases = Mapping[str, Sequence[str]]  # descriptor -> wordings
Attribute = tuple[str, str]  # descriptor, first wording


def group_phrases(captions: Sequence[str], descriptors: Sequence[str]) -> dict[str, list[str]]:
    """Collect the wordings of each descriptor of a row, in the order of the table.

    Raises:
        ValueError: if the two lists differ in length.
    """
    phrases: dict[str, list[str]] = {}
    for phrase, descriptor in zip(captions, descriptors, strict=True):
        phrases.setdefault(descriptor, []).append(phrase)
    return phrases


def caption_texts(table: pd.DataFrame) -> pd.Series:
    """Return one text for each clip: its column `caption`, or all its phrases in first wording.

    Args:
        table: captions table; clips without any phrase are left out.

    Raises:
        ValueError: if the table has neither `caption` nor the columns of template_creation.py.
    """
    if "caption" in table:
        return table["caption"].dropna()
    missing = [column for column in PHRASE_COLUMNS if column not in table]
    if missing:
        raise ValueError(f"captions table lacks {missing}, expected them or a column 'caption'")
    texts = [
        JOINT.join(wordings[0] for wordings in group_phrases(*row).values())
        for row in zip(*(table[c] for c in PHRASE_COLUMNS), strict=True)
    ]
    texts = pd.Series(texts, table.index, dtype="str")
    return texts[texts != ""]


@dataclass(frozen=True)
class Caption:
    """A text about a clip, and what it says, whatever the wording."""

    text: str
    attributes: tuple[Attribute, ...]


def draw_caption(phrases: Phrases, settings: CaptionSettings, rng: np.random.Generator) -> Caption:
    """Draw one caption from the phrases of a clip.

    Raises:
        ValueError: if there are no phrases, or the style is unknown.
    """
    if not phrases:
        raise ValueError("a clip without phrases has no caption")
    if settings.style not in STYLES:
        raise ValueError(f"captions.style is {settings.style!r}, expected one of {sorted(STYLES)}")
    return STYLES[settings.style](phrases, settings, rng)


def compose_caption(
    phrases: Phrases, names: Sequence[str], settings: CaptionSettings, rng: np.random.Generator
) -> Caption:
    """Word what is known about the descriptors `names`, in this order."""
    text = JOINT.join(_wording(phrases[name], settings, rng) for name in names)
    return Caption(text, _claims(phrases, names))


def _sampled(phrases: Phrases, settings: CaptionSettings, rng: np.random.Generator) -> Caption:
    """Phrases without repetition, then those of labels, as the paper designed it."""
    told = [n for n, share in settings.label_probs.items() if rng.random() < share and n in phrases]
    others = [name for name in phrases if name not in settings.label_probs]
    if not others and not told:
        others = list(phrases)
    count = int(rng.choice(len(settings.phrase_count_probs), p=settings.phrase_count_probs))
    count = min(count if told else max(count, 1), len(others))
    chosen = [others[i] for i in rng.permutation(len(others))[:count]]
    return compose_caption(phrases, [*chosen, *told], settings, rng)


def _published(phrases: Phrases, settings: CaptionSettings, rng: np.random.Generator) -> Caption:
    text = "speaker " + JOINT.join(wordings[0] for wordings in phrases.values())
    return Caption(text, _claims(phrases, phrases))


def _emotion(phrases: Phrases, settings: CaptionSettings, rng: np.random.Generator) -> Caption:
    if EMOTION not in phrases:
        raise ValueError("captions.style is 'emotion', but a clip has no emotion label")
    text = _wording(phrases[EMOTION], settings, rng)
    return Caption(text, _claims(phrases, [EMOTION]))


def _wording(wordings: Sequence[str], settings: CaptionSettings, rng: np.random.Generator) -> str:
    return wordings[rng.integers(len(wordings))] if settings.paraphrases else wordings[0]


def _claims(phrases: Phrases, names: Iterable[str]) -> tuple[Attribute, ...]:
    return tuple((name, phrases[name][0]) for name in sorted(names))


def match_matrix(phrases: Sequence[Phrases], captions: Sequence[Caption]) -> torch.Tensor:
    """How much of what captions attribute holds for clips: (B, K).

    1 where every attribute holds. Where one is wrong: the share of those that hold among the
    attributes about descriptors that the clip has, so less than 1. NaN where none is wrong but one
    is about a descriptor that the clip lacks: whether such a caption is true of the clip is not
    known.
    """
    attributes = sorted({attribute for caption in captions for attribute in caption.attributes})
    facts = [set(_claims(p, p)) for p in phrases]
    told = _table(
        [[attribute in caption.attributes for attribute in attributes] for caption in captions]
    )
    known = _table([[name in p for name, _ in attributes] for p in phrases])
    holds = _table([[attribute in fact for attribute in attributes] for fact in facts])
    right, judged, total = holds @ told.T, known @ told.T, told.sum(dim=1)
    return torch.where((right == judged) & (judged < total), torch.nan, right / judged)


def _table(rows: Sequence[Sequence[bool]]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float32)


def equal_captions(captions: Sequence[Caption]) -> torch.Tensor:
    """Which captions say the same in any wording and order: (K, K), 1 where they do."""
    return torch.tensor([[float(a.attributes == b.attributes) for b in captions] for a in captions])


STYLES: dict[str, Callable[[Phrases, CaptionSettings, np.random.Generator], Caption]] = {
    "sampled": _sampled,
    "published": _published,
    "emotion": _emotion,
}


class ClipPhrases(Sequence):
    """Phrases of the clips of a captions table, grouped one clip at a time when they are needed."""

    def __init__(self, table: pd.DataFrame) -> None:
        self.columns = [Lists(table[column]) for column in PHRASE_COLUMNS]

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, row: int) -> dict[str, list[str]]:
        return group_phrases(*(column[row] for column in self.columns))
