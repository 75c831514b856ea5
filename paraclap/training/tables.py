"""What a run reads: captions of one corpus or several, split by speaker, and where they are from.

With several corpora the names of files and speakers begin with that of their corpus.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from paraclap.audio.augment import TRANSFORMS, Augmenter
from paraclap.data.captions import PHRASE_COLUMNS
from paraclap.data.functionals import functionals_of, read_functionals
from paraclap.data.label_captions import caption_labels, is_label_table
from paraclap.data.tables import read_caption_table
from paraclap.settings import DataSettings, Settings, corpora_of
from paraclap.training.config import SettingsError, check_paths

CAPTIONS_METADATA = b"paraclap"  # key of what features.py knew about the corpus


def read_captions(path: str | Path) -> pd.DataFrame:
    """Read a captions table; clips without any phrase are left out and counted.

    Raises:
        SettingsError: if the table is missing or holds no captions.
    """
    if not Path(path).is_file():
        raise SettingsError(
            f"data.captions: there is no table {path}; preprocessing/template_creation.py writes it"
        )
    missing = [column for column in PHRASE_COLUMNS if column not in pq.read_schema(path).names]
    if missing:
        raise SettingsError(f"{path} lacks {missing}; expected a table of template_creation.py")
    table = read_caption_table(path, PHRASE_COLUMNS)
    empty = table["captions"].list.len().fillna(0).to_numpy(int) == 0
    if empty.any():
        print(f"{empty.sum()} of {len(table)} clips have no phrase and are left out")
    return table[~empty] if empty.any() else table


def read_tables(settings: Settings) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training and validation rows of all corpora, one corpus after the other.

    With several corpora the names of files and speakers begin with that of their corpus, which also
    stands in the column `corpus`: two people of one name in two corpora are two.

    Raises:
        SettingsError: naming the corpus, if its table cannot be used.
    """
    parts = []
    for name, corpus in corpora_of(settings.data).items():
        try:
            table = read_captions(corpus.captions)
            parts.append(split_table(_named(table, name) if name else table, settings))
        except SettingsError as error:
            raise SettingsError(f"{name}: {error}" if name else str(error)) from error
    if len(parts) == 1:
        return parts[0]
    train, validation = (pd.concat(tables) for tables in zip(*parts, strict=True))
    return train, validation


def _named(table: pd.DataFrame, corpus: str) -> pd.DataFrame:
    """Rows of a corpus, with its name before those of files and speakers."""
    if "corpus" in table:
        found = sorted(table["corpus"].unique())
        table = table[table["corpus"] == corpus]
        if table.empty:
            raise SettingsError(f"no row is of this corpus, only of {found}")
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
    """Functionals of clips of all corpora, named as in `read_tables`; None if none are given."""
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
    settings: Settings, clips: int, before: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What a model card has to tell of a run on so many clips; no paths.

    An encoder is None if it starts from random weights; `corpora` is missing if the captions table
    does not say where it is from. Of a model that was fine-tuned, `start` says from what, and
    `before` is what was known of that: its encoders, with their licences, are those of this one.
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
    return facts | {"clips": clips, "epochs": settings.train.epochs, "seed": settings.train.seed}


def _corpora_of_captions(path: str) -> list[str | None]:
    """Names of the corpora of a captions table; None if it does not tell."""
    metadata = pq.read_schema(path).metadata or {}
    about = json.loads(metadata.get(CAPTIONS_METADATA, b"{}"))
    return list(about.get("corpora", [about.get("corpus") or about.get("name")]))


def _public_name(encoder: str) -> str:
    """A Hub name as it is; of a local folder only the last part."""
    return Path(encoder).name if Path(encoder).exists() else encoder


def split_table(table: pd.DataFrame, settings: Settings) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training and validation rows, which share no speaker.

    Raises:
        SettingsError: if a part is empty, or no speaker column tells whom to hold out.
    """
    data = settings.data
    splits = table["split"] if "split" in table else pd.Series(data.train_split, table.index)
    train, validation = (
        table[splits == name] for name in (data.train_split, data.validation_split)
    )
    if not len(train):
        raise SettingsError(
            f"no row has split {data.train_split!r}, only {sorted(splits.unique())}"
        )
    if len(validation) or not data.validation_speakers:
        _refuse_shared_speakers(train, validation)
        return train, validation
    if "speaker" not in train:
        raise SettingsError(
            "there is no validation split and no speaker column to make one; "
            "data.validation_speakers=0 trains without validation"
        )
    speakers = np.array(sorted(train["speaker"].dropna().unique()))
    if len(speakers) <= data.validation_speakers:
        raise SettingsError(
            f"data.validation_speakers is {data.validation_speakers} of {len(speakers)} speakers"
        )
    rng = np.random.default_rng(settings.train.seed)
    held_out = set(rng.choice(speakers, data.validation_speakers, replace=False))
    print(f"validation on speakers {sorted(held_out)}")
    is_held_out = train["speaker"].isin(held_out)
    return train[~is_held_out], train[is_held_out]


def _refuse_shared_speakers(train: pd.DataFrame, validation: pd.DataFrame) -> None:
    if "speaker" in train:
        shared = sorted(set(train["speaker"].dropna()) & set(validation["speaker"].dropna()))
        if shared:
            raise SettingsError(f"speakers {shared} are in the training and the validation split")


def with_captions(settings: Settings, folder: str | Path | None = None) -> Settings:
    """Settings whose `data.captions` is a captions table; one of labels gets its captions now.

    Args:
        settings: of a run.
        folder: where captions are written; None = the run folder.
    """
    data = settings.data
    if not is_label_table(data.captions):
        return settings
    captions = Path(folder or settings.output) / "captions.parquet"
    root = caption_labels(data.captions, captions, data.templates, data.root)
    print(f"captions of the labels in {data.captions} are in {captions}")
    return dataclasses.replace(
        settings, data=dataclasses.replace(data, captions=str(captions), root=root)
    )


def _check_augmentation(data: DataSettings) -> None:
    """Refuse augmentation of crops that are not read anew in every epoch."""
    Augmenter(data.augment, (), 0)
    changing = [f"data.augment.{name}" for name in TRANSFORMS if getattr(data.augment, name)]
    if changing and data.crop != "random":
        raise SettingsError(
            f"{changing[0]} needs data.crop=random: with {data.crop!r} a clip is the same in every "
            "epoch, and a frozen encoder hears it only once"
        )
    if changing and any(corpus.features for corpus in corpora_of(data).values()):
        raise SettingsError(
            f"{changing[0]} is for towers that read waveforms; functionals (data.features) were "
            "measured before, of clips as they are"
        )


def check_data(settings: Settings) -> None:
    """Check the settings of the data before anything is read.

    Raises:
        SettingsError: naming the wrong key.
    """
    data = settings.data
    for key in ("sampling_exponent", "class_sampling_exponent"):
        if getattr(data, key) < 0:
            raise SettingsError(f"data.{key} is {getattr(data, key)}, expected 0 or more")
    _check_augmentation(data)
    check_paths(settings)
