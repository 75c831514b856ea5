"""Tables of a run: captions of one or several corpora, split by speaker, and their provenance.

With several corpora, the name of the corpus is prepended to files and speakers. A run that starts
from another model does not validate on clips or speakers which that model was trained on.
"""

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from paraclap.audio.augment import TRANSFORMS, Augmenter
from paraclap.captions.sources import metadata_of
from paraclap.corpora.labels import SPLITS, in_split, normalise_labels, split_names
from paraclap.data.captions import FREE, drawn_descriptors
from paraclap.data.functionals import functionals_of, read_functionals
from paraclap.data.tables import PHRASE_COLUMNS, Lists, read_caption_table, refuse_repeated
from paraclap.data.trained_on import (
    TRAIN,
    TrainedOn,
    attributes_of,
    clips_of,
    content_hashes,
    free_captions_of,
)
from paraclap.files import reading, reading_parquet
from paraclap.model.sources import default_model, is_installed
from paraclap.settings import DataSettings, Settings, SettingsError, corpora_of

VALIDATION_SPLIT = "dev"  # unless `data.validation_split` is set
SHOWN_NAMES = 10
HELD_OUT_FILES, MOST_HELD_OUT_FILES = 0.1, 1000
"""Share and largest number of the files that are held out if speakers are unknown."""


def read_captions(path: str | Path) -> pd.DataFrame:
    """Read a captions table; clips without phrases are excluded and counted.

    Raises:
        SettingsError: if the table cannot be read or has no captions.
    """
    with reading_parquet(path, SettingsError, "a captions table"):
        names = pq.read_schema(path).names
    missing = [column for column in PHRASE_COLUMNS if column not in names]
    if missing:
        raise SettingsError(
            f"data.captions: {path} has no column {missing[0]}, expected a captions table of "
            "preprocessing/template_creation.py"
        )
    with reading(path, SettingsError):
        table = read_caption_table(path, PHRASE_COLUMNS)
    table = normalise_labels(table, Path(path).name)
    empty = table["captions"].list.len().fillna(0).to_numpy(int) == 0
    if empty.any():
        print(f"{empty.sum()} of {len(table)} clips have no phrase and are excluded")
    return table[~empty] if empty.any() else table


class Hashes:
    """Content hashes of the audio files of a run, computed once for each file."""

    def __init__(self, data: DataSettings) -> None:
        self.data = data
        self.known: dict[str, str | None] = {}

    def __call__(self, files: Iterable[str]) -> dict[str, str | None]:
        """Return the hash of each file, named as in `read_tables`; None if it cannot be read."""
        new = [file for file in dict.fromkeys(files) if file not in self.known]
        for name, corpus in corpora_of(self.data).items():
            prefix = name and f"{name}/"
            inside = [file for file in new if file.startswith(prefix)]
            names = [file.removeprefix(prefix) for file in inside]
            self.known |= zip(inside, content_hashes(corpus.root or ".", names), strict=True)
        return self.known

    def clips_of(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return `trained_on.clips_of` with speakers as the tables of their corpora name them."""
        clips = clips_of(table, self(table.index.get_level_values("file")))
        keys: dict[str, str | None] = {}
        for name, corpus in corpora_of(self.data).items():
            known = catalogue_names(corpus.captions)
            keys |= {name: known.get(name, known.get(""))} if name else known
        names = table["corpus"] if "corpus" in table else [""] * len(table)
        clips["corpus"] = pd.array([keys.get(name, keys.get("")) for name in names], "str")
        if self.data.corpora:
            known = clips["speaker"].notna()
            clips["speaker"] = clips["speaker"].str.partition("/")[2].where(known)
        return clips


def read_tables(
    settings: Settings, hashes: Hashes | None = None, start: TrainedOn | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return training and validation rows of all corpora, one corpus after the other.

    With several corpora, the column `corpus` has the name of the corpus, which is also prepended to
    files and speakers, so that equal names in two corpora are different speakers.

    Args:
        settings: of the run.
        hashes: of its audio files.
        start: what the model in `model.start` was trained on.

    Raises:
        SettingsError: naming the corpus, if its table cannot be used.
    """
    parts = []
    for name, corpus in corpora_of(settings.data).items():
        try:
            table = read_captions(corpus.captions)
            table = _named(table, name) if name else table
            refuse_repeated(table, corpus.captions)
            seen = None
            if start is not None and start.clips is not None:
                seen = start.overlap(hashes.clips_of(table), TRAIN).set_axis(table.index)
            parts.append(split_table(table, settings, seen))
        except SettingsError as error:
            raise SettingsError(f"{name}: {error}" if name else str(error)) from error
    if len(parts) == 1:
        return parts[0]
    train, validation = (pd.concat(tables) for tables in zip(*parts, strict=True))
    return train, validation


def _named(table: pd.DataFrame, corpus: str) -> pd.DataFrame:
    """Rows of a corpus, with its name prepended to files and speakers."""
    if "corpus" in table:
        found = ", ".join(sorted(table["corpus"].dropna().astype("str").unique()))
        table = table[table["corpus"] == corpus]
        if table.empty:
            raise SettingsError(f"the table has no rows of this corpus, only of {found}")
    table = table.set_axis(_named_index(table.index, corpus)).assign(corpus=corpus)
    if "speaker" in table:
        table["speaker"] = f"{corpus}/" + table["speaker"].astype("str")
    return table


def _named_index(index: pd.MultiIndex, corpus: str) -> pd.MultiIndex:
    files = index.get_level_values("file")
    return pd.MultiIndex.from_frame(
        index.to_frame(index=False).assign(file=[f"{corpus}/{file}" for file in files])
    )


def read_all_functionals(settings: Settings, clips: pd.Index) -> pd.DataFrame | None:
    """Return functionals of clips named as in `read_tables`; None without `data.features`."""
    corpora = corpora_of(settings.data)
    given = {name: corpus.features for name, corpus in corpora.items() if corpus.features}
    if not given:
        return None
    parts = []
    for name, path in given.items():
        table = read_functionals(path)
        parts.append(table.set_axis(_named_index(table.index, name)) if name else table)
    return functionals_of(pd.concat(parts, join="inner"), clips)


def provenance(
    settings: Settings,
    table: pd.DataFrame,
    epochs: float,
    before: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what the model card states about the training, without paths.

    An encoder is None if it had random weights. `corpora` is missing if the captions table does not
    name them. For a fine-tuned model, `start` names the model it was initialised from, `before` has
    the provenance of that model, and the encoders are those of that model.

    Args:
        settings: of the run.
        table: captions table of the training clips.
        epochs: of the whole run, without `train.max_steps`.
        before: provenance of the model in `model.start`.
    """
    model = settings.model
    encoders = {
        f"{branch}_encoder": tower.name and _public_name(tower.name)
        for branch, tower in (("audio", model.audio), ("text", model.text))
    }
    facts: dict[str, Any] = encoders
    if model.start:
        before = dict(before or {})
        facts = {name: before.pop(name) for name in encoders if name in before}
        facts |= {"start": _public_name(model.start), "before": before}
    corpora = [
        known
        for name, corpus in corpora_of(settings.data).items()
        for known in ([name] if name else _corpora_of_captions(corpus.captions))
    ]
    if all(corpora):
        facts["corpora"] = corpora
    if settings.train.max_steps:
        trained = settings.train.max_steps * settings.train.batch_size / len(table)
        epochs = min(epochs, round(trained, 2))
    facts |= {"clips": len(table)}
    if "speaker" in table:
        facts["speakers"] = table["speaker"].nunique()
    drawn = drawn_descriptors(Lists(table["caption_descriptors"]), settings.captions)
    if settings.loss.class_prompts:
        drawn.add(settings.train.target)
    attributes = {name: values for name, values in attributes_of(table).items() if name in drawn}
    if FREE in drawn:
        facts |= free_captions_of(table)
    return facts | {"epochs": epochs, "seed": settings.train.seed, "attributes": attributes}


def _corpora_of_captions(path: str) -> list[str | None]:
    """Names of the corpora of a captions table; None where unknown."""
    about = about_captions(path)
    return list(about.get("corpora", [about.get("corpus") or about.get("name")]))


def catalogue_names(path: str) -> dict[str, str | None]:
    """Return the corpora of a captions table: name -> key in `catalogue.CORPORA`, or None.

    A table of several corpora has their names in the column `corpus`; a single one has the name "".
    """
    about = about_captions(path)
    corpora = about.get("corpora", {"": about})
    return {name: corpus.get("corpus") for name, corpus in corpora.items()}


def about_captions(path: str) -> dict[str, Any]:
    """Return what a captions table states about its corpus, such as `name` and `corpus`."""
    return metadata_of(pq.read_schema(path))


def _public_name(source: str) -> str:
    """A Hub name, or the last part of a local path."""
    path = default_model() if is_installed(source) else Path(source)
    return path.name if path.exists() else source


def split_table(
    table: pd.DataFrame, settings: Settings, seen: pd.DataFrame | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return training and validation rows, which have no known speaker in common.

    Of a table without speakers and validation split, a tenth of the files is held out.

    Args:
        table: captions table of a corpus.
        settings: of the run.
        seen: `TrainedOn.overlap` of the table with the training of the model in `model.start`.

    Raises:
        SettingsError: if a part is empty, or there are too few speakers or files to hold out.
    """
    data = settings.data
    is_train = np.full(len(table), data.train_split == DataSettings.train_split)
    is_validation = np.zeros(len(table), bool)
    if "split" in table:
        is_train, is_validation = (
            np.asarray(in_split(table, name))
            for name in (data.train_split, data.validation_split or VALIDATION_SPLIT)
        )
    if seen is None:
        seen = pd.DataFrame(False, table.index, ["clip", "speaker", "namesake"])
    trained, namesake = seen["clip"] | seen["speaker"], seen["namesake"].to_numpy()
    namesakes = set(table["speaker"][namesake]) if namesake.any() else set()
    train, validation = table[is_train], table[is_validation]
    for key, rows in {"train_split": train, "validation_split": validation}.items():
        if not len(rows) and (name := getattr(data, key)):
            missing = "only empty values" if "split" in table else "the column split is missing"
            found = ", ".join(split_names(table)) or missing
            raise SettingsError(f"data.{key}: no row has split {name!r}, found: {found}")
    if "split" in table:
        _warn_of_unused(table["split"][~is_train & ~is_validation])
    if len(validation) or not data.validation_speakers:
        _refuse_shared_speakers(train, validation)
        if len(validation):
            validation = _without_trained(validation, trained[is_validation].to_numpy())
            _warn_of_unknown_speakers(train, validation)
        _warn_of_namesakes(validation, namesakes)
        return train, validation
    if not _has_speakers(train):
        is_held_out = _held_out_files(train, settings, trained[is_train].to_numpy())
        _warn_of_unknown_speakers(train, train[is_held_out])
        return train[~is_held_out], train[is_held_out]
    held_out = _held_out_speakers(train, settings, trained[is_train].to_numpy(), namesakes)
    unknown = train["speaker"].isna().sum()
    rest = f"; {unknown} clips without a speaker remain in training" if unknown else ""
    print(f"validation on speakers {', '.join(map(str, held_out))}{rest}")
    is_held_out = train["speaker"].isin(held_out)
    _warn_of_namesakes(train[is_held_out], namesakes)
    return train[~is_held_out], train[is_held_out]


def _has_speakers(table: pd.DataFrame) -> bool:
    return "speaker" in table and table["speaker"].notna().any()


def _held_out_files(train: pd.DataFrame, settings: Settings, trained: np.ndarray) -> np.ndarray:
    """Return which rows are of a tenth of the files, none of which was trained on."""
    files = train.index.get_level_values("file")
    unseen = np.array(sorted(set(files) - set(files[trained])))
    if not len(unseen) or files.nunique() < 2:
        raise SettingsError(
            "the table has no validation split, no speakers, and too few files to hold out that "
            "were not trained on; set data.validation_speakers=0 to train without validation"
        )
    count = min(len(unseen), max(1, round(HELD_OUT_FILES * files.nunique())), MOST_HELD_OUT_FILES)
    rng = np.random.default_rng(settings.train.seed)
    print(f"validation on {count} of {files.nunique()} files")
    return files.isin(rng.choice(unseen, count, replace=False))


def _warn_of_unknown_speakers(train: pd.DataFrame, validation: pd.DataFrame) -> None:
    """Warn if speakers of both parts, and thus those that they share, are unknown."""
    if not _has_speakers(train) or not _has_speakers(validation):
        files = validation.index.unique("file")
        shared = files[files.isin(train.index.get_level_values("file"))]
        also = f", and {len(shared)} files are, such as {shared[0]}" if len(shared) else ""
        warnings.warn(
            "speakers are unknown: those of the validation clips may be among those of the "
            f"training{also}, so that scores are too high; a column speaker prevents that",
            stacklevel=3,
        )


def _held_out_speakers(
    train: pd.DataFrame, settings: Settings, trained: np.ndarray, namesakes: set[str]
) -> list[str]:
    """Return speakers for validation that were not trained, if possible without namesakes."""
    data = settings.data
    speakers = np.array(sorted(train["speaker"].dropna().unique()))
    if len(speakers) <= data.validation_speakers:
        raise SettingsError(
            f"data.validation_speakers is {data.validation_speakers}, expected less than the "
            f"{len(speakers)} training speakers"
        )
    unseen = speakers[~np.isin(speakers, train["speaker"][trained].dropna().unique())]
    if len(unseen) < data.validation_speakers:
        raise SettingsError(
            f"data.validation_speakers is {data.validation_speakers}, but the model in "
            f"model.start was trained on {len(speakers) - len(unseen)} of the {len(speakers)} "
            f"speakers; set data.validation_speakers={len(unseen)}"
            + ("" if len(unseen) else " to train without validation, or add other speakers")
        )
    others = unseen[~np.isin(unseen, list(namesakes))]
    pool = others if len(others) >= data.validation_speakers else unseen
    rng = np.random.default_rng(settings.train.seed)
    return sorted(rng.choice(pool, data.validation_speakers, replace=False))


def _warn_of_namesakes(validation: pd.DataFrame, namesakes: set[str]) -> None:
    found = sorted(namesakes & set(validation.get("speaker", ())))
    if found:
        warnings.warn(
            f"the model in model.start was trained on speakers of the same names as "
            f"{', '.join(found[:SHOWN_NAMES])}{', ...' * (len(found) > SHOWN_NAMES)}; if they are "
            "the same people, scores on validation clips are too high",
            stacklevel=3,
        )


def _warn_of_unused(splits: pd.Series) -> None:
    """Warn of clips in neither part whose split is not train, dev or test, or is missing."""
    counts = splits[~splits.isin(SPLITS)].fillna("no split").value_counts()
    if len(counts):
        found = ", ".join(f"{name} ({count})" for name, count in counts.items())
        warnings.warn(
            f"{counts.sum()} clips are neither trained on nor validated on, by split: {found}",
            stacklevel=3,
        )


def _without_trained(validation: pd.DataFrame, seen: np.ndarray) -> pd.DataFrame:
    """Leave out validation clips that the start model was trained on, or whose speaker was."""
    if seen.all():
        raise SettingsError(
            f"the model in model.start was trained on all {len(validation)} validation clips or "
            "their speakers; give other clips the validation split, or start from another model"
        )
    if seen.any():
        warnings.warn(
            f"{seen.sum()} of {len(validation)} validation clips are left out: the model in "
            "model.start was trained on them or on their speakers",
            stacklevel=3,
        )
    return validation[~seen]


def _refuse_shared_speakers(train: pd.DataFrame, validation: pd.DataFrame) -> None:
    if "speaker" in train:
        shared = sorted(set(train["speaker"].dropna()) & set(validation["speaker"].dropna()))
        if shared:
            names = ", ".join(map(str, shared))
            raise SettingsError(f"speakers {names} are in both the training and validation split")


def check_augmentation(data: DataSettings) -> None:
    """Refuse augmentation of crops that are not read anew in every epoch.

    Raises:
        SettingsError: naming the wrong key.
    """
    Augmenter(data.augment, (), 0)
    changing = [f"data.augment.{name}" for name in TRANSFORMS if getattr(data.augment, name)]
    if changing and data.crop != "random":
        raise SettingsError(
            f"{changing[0]} requires data.crop=random; with {data.crop!r} crops are the same in "
            "every epoch and may be encoded only once"
        )
    if changing and any(corpus.features for corpus in corpora_of(data).values()):
        raise SettingsError(
            f"{changing[0]} requires an audio encoder on waveforms; functionals (data.features) "
            "are extracted before training"
        )
