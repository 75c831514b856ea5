"""Words of phrases, and whether a rewritten phrase still has the same meaning.

A phrase is a set of words, without those that are true of any speech ("the speaker is"). A rewrite
has the same meaning if it holds most words of one wording of the same level or label, more than of
any other, and all words of no wording of another level, label or descriptor.
"""

import re
from collections.abc import Iterable, Mapping

FRAME = frozenset(
    "a an and are as at audio be belongs by clip does expresses feel feeling feels for from has "
    "have in is it like of or person recording someone sound sounds speaker speaking speaks speech "
    "talking talks that the this to voice who with".split()
)
"""Words of prompts and captions that are true of any speech."""
NEGATIONS = frozenset(
    "cannot hardly lack lacking lacks neither never no nobody none nor not nothing without".split()
)
DEGREES = frozenset("fairly little lot quite rather slightly usual usually very".split())
NEUTRAL = FRAME | DEGREES | frozenset(("neither", "no", "nor", "not"))

Meaning = tuple[str, str]
"""Descriptor, and first wording of one of its levels or labels."""


def words_in(text: str) -> set[str]:
    """Return the words of a text in lower case."""
    return set(re.findall(r"\w+(?:['’]\w+)?", text.casefold()))


def negations_in(words: Iterable[str]) -> set[str]:
    """Return the words that negate."""
    return {w for w in words if w in NEGATIONS or w.endswith(("n't", "n’t"))}


class Meanings:
    """Wordings of all levels and labels, as sets of words."""

    def __init__(self, wordings: Mapping[Meaning, Iterable[str]]) -> None:
        sets = {
            meaning: [words_in(text) - FRAME for text in texts]
            for meaning, texts in wordings.items()
        }
        self._wordings = {meaning: [w for w in found if w] for meaning, found in sets.items()}

    def problem(self, text: str, meaning: Meaning) -> str | None:
        """Return what is wrong with a rewrite of a phrase with this meaning; None if nothing."""
        words = words_in(text)
        own = max(self._wordings[meaning], key=lambda w: _shared(w, words), default=set[str]())
        share = _shared(own, words)
        others = [w for m, found in self._wordings.items() if m != meaning for w in found]
        if any(other <= words and not other <= own <= words for other in others):
            return "has words of another meaning"
        rivals = [
            _shared(wording, words)
            for other, found in self._wordings.items()
            if other[0] == meaning[0] and other != meaning
            for wording in found
        ]
        if share[0] <= 0.5 or share <= max(rivals, default=(0.0, 0)):
            return "lacks the words of the level or label"
        if negations_in(words) - own:
            return "negates"
        return None


def _shared(wording: set[str], words: set[str]) -> tuple[float, int]:
    """Return the share and the number of the words of a wording that are among others."""
    found = len(wording & words)
    return found / max(len(wording), 1), found
