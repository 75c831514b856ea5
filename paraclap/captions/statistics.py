"""Counts of levels, labels and phrases over a captions table."""

import warnings
from collections import Counter
from collections.abc import Iterable

import numpy as np

from paraclap.captions.templates import Descriptor, has_words

LABELS_SHOWN = 10  # labels in a warning


class Statistics:
    """Counts of values and phrases over all captioned rows.

    Attributes:
        rows: number of rows.
        empty: number of rows without a phrase.
        phrases: number of phrases.
        counts: level or rule -> (emotions + 1, values + 1) rows with an emotion and a value, label
            or "split" -> (1, values + 1) rows with a value; missing ones come first.
        values: descriptor or "split" -> its values.
        emotions: names of the emotions.
        doubtful: level descriptor -> values left out because of quality flags.
    """

    def __init__(self) -> None:
        self.rows = self.empty = self.phrases = 0
        self.counts: dict[str, np.ndarray] = {}
        self.values: dict[str, list] = {}
        self.emotions: list[str] = []
        self.doubtful: Counter[str] = Counter()
        self._hashes: list[np.ndarray] = []

    @property
    def different(self) -> int:
        """Number of distinct combinations of first wordings."""
        hashes = np.sort(np.concatenate([np.empty(0, np.uint64), *self._hashes]))
        return int((hashes[1:] != hashes[:-1]).sum()) + bool(len(hashes))

    def count(
        self, name: str, codes: np.ndarray, values: list, emotions: np.ndarray | None = None
    ) -> None:
        """Add the codes of values of a batch, by emotion if its codes are given."""
        height, width = 1 if emotions is None else len(self.emotions) + 1, len(values) + 1
        pairs = codes + 1 if emotions is None else (emotions + 1) * width + codes + 1
        counts = np.bincount(pairs, minlength=height * width).reshape(height, width)
        known = self.counts.get(name, counts[:0])
        counts[: known.shape[0], : known.shape[1]] += known
        self.counts[name], self.values[name] = counts, values

    def count_phrases(self, lengths: np.ndarray, first: np.ndarray) -> None:
        """Add the number of phrases (rows,) and the first phrases (rows, descriptors)."""
        self.rows += len(lengths)
        self.empty += int((lengths == 0).sum())
        self.phrases += int(lengths.sum())
        # random linear hash of each row: collisions are unlikely
        weights = np.random.default_rng(0).integers(2**64, size=first.shape[1], dtype=np.uint64)
        self._hashes.append(first.astype(np.uint64) @ (weights | np.uint64(1)))


def warn_of_labels(descriptors: Iterable[Descriptor], statistics: Statistics) -> None:
    """Warn of labels that the templates do not list, in one line for each descriptor."""
    for descriptor in descriptors:
        if descriptor.kind != "label" or descriptor.name not in statistics.counts:
            continue
        counts = statistics.counts[descriptor.name][0, 1:].tolist()
        pairs = sorted(
            zip(statistics.values[descriptor.name], counts, strict=True), key=lambda pair: -pair[1]
        )
        odd = [f"{label!r} {n}" for label, n in pairs if not has_words(descriptor, label)]
        if odd:
            hidden = len(odd) - LABELS_SHOWN
            more = f" and {hidden} more" if hidden > 0 else ""
            warnings.warn(
                f"the templates have no words for {descriptor.name} "
                f"{', '.join(odd[:LABELS_SHOWN])}{more}; phrases quote them. Translate or "
                "rename them in the table, or add them to `forms` of a template file (--templates)",
                stacklevel=3,
            )
