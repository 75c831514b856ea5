"""What a model was trained on: clips, speakers, corpora, and classes and levels in captions.

    record = load("runs/small")               # of the run and of the models that it started from
    seen = record.overlap(clips_of(table))    # which clips and speakers were part of training
    untrained(model.config, ["calm", "gender is female"])  # queries about nothing in the captions

The clips are in `trained_on.parquet` beside the weights, a row for each clip that was trained on or
validated with. Corpora, classes and levels are in `config.provenance`, whose entry `before` is that
of the model that training started from. Published folders have no clips unless their publisher
includes them; then they lack the names of the speakers.

A clip counts as seen if the record has a clip with the same file content (`sampled_hash`) and an
overlapping segment. The same recording in another format has another content; a speaker therefore
counts as seen also by name: within the same corpus of `CORPORA`, or in any table or folder of one's
own, of which the record has no name. Names of the latter may belong to different people.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from paraclap.audio import AudioError
from paraclap.audio.paths import mark_of, resolve_inside
from paraclap.captions.words import NEUTRAL
from paraclap.corpora.labels import comparable
from paraclap.data.captions import FREE, text_key
from paraclap.data.free_captions import distinct_free_captions
from paraclap.data.tables import Lists
from paraclap.files import atomic_write, reading_parquet
from paraclap.model.sources import ModelError, find_model, model_file, read_object

RECORD = "trained_on.parquet"
TYPES = {"hash": "str", "start": "float64", "end": "float64", "corpus": "str", "speaker": "str"}
COLUMNS = tuple(TYPES)
TRAIN, VALIDATION = "train", "validation"
Provenance = Mapping[str, Any]


# --- Clips ---------------------------------------------------------------------------------------


def content_hashes(root: str | Path, files: Sequence[str]) -> list[str | None]:
    """Return the `sampled_hash` of each file inside a root; None where it cannot be read."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda file: _content_hash(root, file), files))


def _content_hash(root: str | Path, file: str) -> str | None:
    try:
        return mark_of(resolve_inside(root, file))[0]
    except (AudioError, OSError):
        return None  # reported where the audio is read


def clips_of(table: pd.DataFrame, hashes: Mapping[str, str | None] | None = None) -> pd.DataFrame:
    """Return the `COLUMNS` of the clips of a corpus table, in its order.

    Args:
        table: with the key of its corpus in `attrs`; None, or without one, for one's own.
        hashes: content hash of each file; None = of the files in `attrs["root"]`.
    """
    if hashes is None:
        files = list(table.index.unique("file"))
        hashes = dict(zip(files, content_hashes(table.attrs["root"], files), strict=True))
    files, starts, ends = (table.index.get_level_values(name) for name in table.index.names)
    clips = pd.DataFrame(
        {
            "hash": [hashes.get(file) for file in files],
            "start": starts.total_seconds().fillna(0.0),
            "end": ends.total_seconds().fillna(np.inf),
            "corpus": table.attrs.get("corpus"),
            "speaker": table["speaker"].to_numpy() if "speaker" in table else None,
        }
    )
    return clips.astype(TYPES)


@dataclass(frozen=True)
class TrainedOn:
    """The record of a model.

    Attributes:
        clips: `COLUMNS` and `part` (train or validation); None = not recorded.
        complete: whether the clips of every model that training started from are recorded.
        corpora: names of the training corpora, as far as recorded.
    """

    clips: pd.DataFrame | None
    complete: bool
    corpora: tuple[str, ...] = ()

    @property
    def names_speakers(self) -> bool:
        """Whether each recorded clip has the name of its speaker."""
        return self.clips is not None and bool(self.clips["speaker"].notna().all())

    def overlap(self, clips: pd.DataFrame, part: str | None = None) -> pd.DataFrame:
        """Return which of the clips of `clips_of`, and which of their speakers, are recorded.

        Args:
            clips: of a table.
            part: of the recorded clips, train or validation; None = both.

        Returns:
            Columns (bool) in the order of `clips`: `clip`; `speaker`, by one of their clips or by
            name in a corpus of `CORPORA`; `namesake`, other speakers, by name alone.

        Raises:
            ModelError: if there are no recorded clips.
        """
        if self.clips is None:
            raise ModelError("the clips that the model was trained on are not recorded")
        known = self.clips if part is None else self.clips[self.clips["part"] == part]
        seen = _segments_overlap(known, clips)
        names, found = _speaker_names(known), _speaker_names(clips)
        certain = set(names[known["corpus"].notna()].dropna()) | set(found[seen].dropna())
        speaker = found.isin(certain)
        namesake = found.isin(set(names.dropna())) & ~speaker
        columns = {"clip": seen, "speaker": speaker, "namesake": namesake}
        return pd.DataFrame(columns, clips.index)

    def with_ancestor(self, before: "TrainedOn") -> "TrainedOn":
        """Return the record of a model that was started from another one."""
        parts = [record.clips for record in (self, before) if record.clips is not None]
        complete = self.complete and before.complete and before.clips is not None
        return TrainedOn(pd.concat(parts, ignore_index=True).drop_duplicates(), complete)

    def without_speakers(self) -> "TrainedOn":
        """Return the record without the names of the speakers, for publication."""
        return replace(self, clips=self.clips.assign(speaker=None).drop_duplicates())

    def save(self, folder: Path) -> None:
        """Write the clips beside the weights."""
        table = self.clips.astype(TYPES)
        table.attrs = {"complete": self.complete}
        with atomic_write(folder / RECORD) as path:
            table.to_parquet(path, index=False, write_page_checksum=True)


def _segments_overlap(known: pd.DataFrame, clips: pd.DataFrame) -> np.ndarray:
    """Return whether each clip overlaps with a known clip of the same content."""
    known = known.dropna(subset="hash").sort_values(["hash", "start"])
    if known.empty:
        return np.zeros(len(clips), bool)
    contents, distinct = pd.factorize(known["hash"])
    latest = known.groupby("hash", sort=False)["end"].cummax().to_numpy()
    wanted = distinct.get_indexer(clips["hash"])
    times = np.unique(np.concatenate([known["start"], clips["end"]]))

    def key(content: np.ndarray, time: pd.Series) -> np.ndarray:
        return content * len(times) + np.searchsorted(times, time)

    # The last known clip that starts before the end of each clip, if it has the same content.
    last = np.searchsorted(key(contents, known["start"]), key(wanted, clips["end"])) - 1
    is_same = (wanted >= 0) & (last >= 0) & (contents[last] == wanted)
    return is_same & (latest[last] > clips["start"].to_numpy())


def _speaker_names(clips: pd.DataFrame) -> pd.Series:
    """Return the corpus and speaker of each clip as one text; missing where unknown."""
    return clips["corpus"].fillna("") + "\n" + clips["speaker"].str.casefold()


def load(source: str | Path) -> TrainedOn:
    """Return the record of a model in a run folder, a model folder or on the Hub.

    Raises:
        ModelNotFoundError: if there is no model.
        ModelError: if its record is damaged.
    """
    model = find_model(source)
    config, record = (model_file(model, name) for name in ("config.json", RECORD))
    provenance = {} if config is None else read_object(config).get("provenance") or {}
    listed = [facts.get("corpora") for facts in _generations(provenance)]
    names = [str(name) for corpora in listed if isinstance(corpora, list) for name in corpora]
    corpora = tuple(dict.fromkeys(names))
    if record is None:
        return TrainedOn(None, False, corpora)
    with reading_parquet(record, ModelError, "the record of a run"):
        clips = pd.read_parquet(record, page_checksum_verification=True)
        if missing := [name for name in (*COLUMNS, "part") if name not in clips]:
            raise ModelError(f"{record} has no column {missing[0]!r}")
        clips = clips.astype(TYPES)
    return TrainedOn(clips, bool(clips.attrs.get("complete")), corpora)


# --- Classes and levels --------------------------------------------------------------------------

LEVEL_WORDS = frozenset(("low", "normal", "high", "middle", "medium", "short", "long"))
"""Words that mean nothing without the name of a descriptor."""

MOST_WORDS = 2000
"""Words of free captions that are recorded, those of the most captions."""

Attributes = dict[str, dict[str, list[str]]]
"""Descriptor -> class or level -> words of its phrases, without those of any speech."""


def words_of(text: str) -> set[str]:
    """Return the words of a text in lower case, without those of any speech."""
    return set(re.findall(r"\w+", text.casefold())) - NEUTRAL


def attributes_of(table: pd.DataFrame) -> Attributes:
    """Return the classes and levels that the phrases of a captions table describe."""
    captions, descriptors = (Lists(table[column]) for column in ("captions", "caption_descriptors"))
    words: dict[str, dict[str, set[str]]] = {}
    for phrase, (row, place) in captions.first_places().items():
        names = descriptors[row]
        name = names[place]
        if name == FREE:
            continue
        value = _value(table, row, name) or captions[row][names.index(name)]
        words.setdefault(name, {}).setdefault(value, set()).update(words_of(phrase))
    return {
        name: {value: sorted(found) for value, found in sorted(values.items())}
        for name, values in sorted(words.items())
    }


def free_captions_of(table: pd.DataFrame) -> dict[str, Any]:
    """Return the number of different `free_captions` of a captions table, and the `free_words`."""
    texts = {text_key(text) for text in distinct_free_captions(table)}
    counts = Counter(word for text in texts for word in words_of(text))
    words = sorted(counts, key=lambda word: (-counts[word], word))[:MOST_WORDS]
    return {"free_captions": len(texts), "free_words": sorted(words)}


def _value(table: pd.DataFrame, row: int, descriptor: str) -> str | None:
    """Return the level or label of a clip; None if the table has no column of this descriptor."""
    for column in (f"{descriptor}_level", descriptor):
        if column in table:
            return str(table[column].iloc[row])
    return None


def untrained(config: Any, prompts: Mapping[str, Sequence[str]] | Sequence[str]) -> list[str]:
    """Return the prompts about a class or level that no caption of the training described.

    A prompt is trained if one of its words, or two of them together ("pitch", "low"), belong to a
    single class or level of the captions, or if all of its words occur in captions, also in free
    ones; words that are true of any speech ("the speaker is") do not count. A pretrained text
    encoder may still understand an untrained prompt, but nothing in the training taught how it
    sounds.

    Args:
        config: of the model, with its `provenance`.
        prompts: texts, or name -> texts; a name is untrained if all of its texts are.

    Returns:
        The texts or names. None of them if the classes of the training are not recorded, see
        `trained_attributes`.
    """
    attributes = trained_attributes(config.provenance)
    if attributes is None:
        return []
    if not isinstance(prompts, Mapping):
        prompts = {text: (text,) for text in prompts}
    meanings: dict[str, set[tuple[str, str]]] = {}
    for name, values in attributes.items():
        for value, words in values.items():
            for word in words:
                meanings.setdefault(word, set()).add((name, value))
    free: set[str] = set()
    for facts in _generations(config.provenance):
        words = facts.get("free_words")
        free.update(words if isinstance(words, list) else ())
    return [
        name
        for name, texts in prompts.items()
        if not any(_is_trained(words_of(text), meanings, free) for text in texts)
    ]


def untrained_classes(config: Any, target: str, prompts: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the classes of a target that no caption of the training described.

    A class is described if the captions have it, or a synonym, as a class of the target, whatever
    the words of its prompts, or if a prompt is trained (see `untrained`).
    """
    attributes = trained_attributes(config.provenance) or {}
    described = {comparable(target, value) for value in attributes.get(target, {})}
    return [
        label for label in untrained(config, prompts) if comparable(target, label) not in described
    ]


def _is_trained(
    words: set[str], meanings: Mapping[str, set[tuple[str, str]]], free: set[str]
) -> bool:
    known = words & meanings.keys()
    if known | words & free == words:
        return True
    candidates = set().union(*(meanings[word] for word in known - LEVEL_WORDS))
    return any(
        set.intersection(*(meanings[word] for word in known if meaning in meanings[word]))
        == {meaning}
        for meaning in candidates
    )


def trained_attributes(provenance: Provenance | None) -> Attributes | None:
    """Return the classes and levels of a model and of those that it started from.

    None if they are not recorded for each of these models.
    """
    found: Attributes = {}
    for facts in _generations(provenance or {}):
        attributes = facts.get("attributes")
        if not isinstance(attributes, Mapping):
            return None
        for name, values in attributes.items():
            for value, words in values.items() if isinstance(values, Mapping) else ():
                known = found.setdefault(name, {}).get(value, [])
                found[name][value] = sorted({*known, *words})
    return found


def _generations(provenance: Provenance) -> Iterator[Provenance]:
    """Yield the provenance of a model, and of each model that it started from."""
    facts: Any = provenance
    while isinstance(facts, Mapping):
        yield facts
        facts = facts.get("before")
