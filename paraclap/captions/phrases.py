"""Phrases for a level or a label, alone or compared within a group of rows."""

from collections.abc import Iterable, Mapping, Sequence

from paraclap.captions.templates import LISTED, UNLISTED, Descriptor, label_key

# ends of phrases compared within a label column whose templates have none
COMPARISONS = (
    'within {column} "{label}"', 'by the standards of {column} "{label}"',
    'compared with other clips of {column} "{label}"',
)  # fmt: skip

Group = tuple[str, ...]  # one label for each column that edges are fitted by, () for all rows


def as_quoted(label: object) -> str:
    """A label on one line and without the sign that it will be quoted with."""
    return " ".join(str(label).split()).replace('"', "'")


def _form(descriptor: Descriptor, label: object) -> dict[str, str] | None:
    """Noun and adjective of a label, if it has known ones."""
    forms = {label_key(known): form for known, form in descriptor.forms.items()}
    return forms.get(label_key(label))


def _says_nothing(descriptor: Descriptor, label: object) -> bool:
    return label_key(label) in map(label_key, descriptor.no_label)


def _word(
    phrases: Mapping[str, tuple[str, ...]], descriptor: Descriptor, label: object
) -> tuple[str, ...]:
    """Phrases for a label: its own ones, else those for labels with or without known forms."""
    form = _form(descriptor, label)
    own = {label_key(key): wordings for key, wordings in phrases.items()}
    general = own.pop(LISTED, ()), own.pop(UNLISTED, ())
    words = {"label": as_quoted(label), **(form or {})}
    return tuple(w.format(**words) for w in own.get(label_key(label), general[form is None]))


def phrases_of(descriptor: Descriptor, value: object) -> tuple[str, ...]:
    """Wordings of a level or a label, the first one first; none if it is one of `no_label`."""
    if _says_nothing(descriptor, value):
        return ()
    return _word(descriptor.phrases, descriptor, value)


class Comparison:
    """Groups of rows with one label in a column, and the words for being compared within one.

    Labels that are worded alike ("f" and "female") are one group.
    """

    def __init__(self, column: str, descriptors: Iterable[Descriptor]) -> None:
        self.column = column
        worded = (d for d in descriptors if d.kind == "label" and d.column == column)
        self.descriptor = next(worded, None)

    def group(self, label: object) -> str | None:
        """Name of the group of a label: its noun, or itself; None if it says nothing."""
        if label is None or label != label or not as_quoted(label):
            return None
        if self.descriptor is None:
            return as_quoted(label)
        if _says_nothing(self.descriptor, label):
            return None
        form = _form(self.descriptor, label)
        return form["noun"] if form else as_quoted(label)

    def wordings(self, group: str) -> tuple[str, ...]:
        """Ends of phrases that compare within a group, the first one telling it from others."""
        found = ()
        if self.descriptor is not None:
            found = _word(self.descriptor.comparisons, self.descriptor, group)
        return found or tuple(w.format(column=self.column, label=group) for w in COMPARISONS)


def compared(
    phrases: Sequence[str], group: Group, comparisons: Sequence[Comparison]
) -> tuple[str, ...]:
    """Phrases that say within which group they hold; as they are for the group () of all rows."""
    if not group:
        return tuple(phrases)
    first, *others = (c.wordings(g) for c, g in zip(comparisons, group, strict=True))
    rest = [wordings[0] for wordings in others]
    return tuple(
        " ".join([phrase, first[place % len(first)], *rest]) for place, phrase in enumerate(phrases)
    )
