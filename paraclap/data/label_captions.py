"""Captions tables from tables of one's own, with labels, free captions, or both.

    root = caption_table("my.csv", "runs/mine/captions.parquet")
    settings = with_captions(settings)  # of a run, for all of its tables

The templates of preprocessing/template_creation.py turn the labels of a table (emotion, gender,
arousal, ...) into phrases; nothing is measured, so no phrase describes pitch or loudness. Captions
in a column `caption` or `captions` become free captions.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from paraclap.captions.sources import open_table
from paraclap.captions.tables import Features
from paraclap.captions.templates import read_templates
from paraclap.captions.writer import make_parent, prepare_captioner, write_captions
from paraclap.corpora import CorpusError
from paraclap.corpora.caption_rows import caption_columns
from paraclap.corpora.labels import in_split, split_names
from paraclap.corpora.table import read_corpus
from paraclap.data.free_captions import (
    free_captions,
    is_own_table,
    stored_columns,
    with_free_captions,
)
from paraclap.data.tables import PHRASE_COLUMNS, on_clips, refuse_repeated
from paraclap.files import atomic_write, reading_parquet
from paraclap.parquet import open_parquet
from paraclap.settings import (
    CorpusSettings,
    DataSettings,
    Settings,
    SettingsError,
    corpora_of,
)


def caption_table(
    source: str | Path,
    captions: str | Path,
    templates: Sequence[str] = ("paraclap",),
    root: str | Path | None = None,
    train_split: str = "train",
) -> str:
    """Write the captions table of a table of labels or captions; returns the folder of its audio.

    Args:
        source: table or audformat database, see `corpora.read_corpus`.
        captions: table to write.
        templates: phrase tables, see `captions.templates.read_templates`.
        root: folder of the audio; None = that of the table.
        train_split: split of the rows that levels are fitted to; a table without splits is used
            whole.

    Raises:
        CorpusError: if the table cannot be read, if no row has the split, or if it has neither
            captions nor columns that the templates have words for.
        InputError: if a row occurs twice or the templates are invalid.
    """
    table = read_corpus(source, root)
    about = json.dumps({"name": table.attrs["name"], "corpus": None}).encode()
    if set(PHRASE_COLUMNS) <= set(table.columns):  # of shards
        stored = pa.Table.from_pandas(table)
        add_free_captions(_described(stored, about), captions, table.attrs["name"])
        return table.attrs["root"]
    free = free_captions(table)
    table = table.drop(columns=caption_columns(table.columns))
    descriptors = read_templates([str(name) for name in templates])
    worded = sorted({d.column for d in descriptors if d.column})
    is_worded = bool(set(worded) & set(table.columns))
    if not is_worded and free is not None and not any(free):
        raise CorpusError(f"no clip of {source} has a caption")
    if not is_worded and free is None:
        raise CorpusError(
            f"{source} has the columns {list(table.columns)}, and the templates "
            f"{', '.join(templates)} have words for none of them; expected 'caption' or some of "
            f"{[name for name in worded if name.islower()]}"
        )
    training = None
    if "split" in table:
        training = in_split(table, train_split).to_numpy()
        if not training.any():
            found = ", ".join(split_names(table)) or "only empty values"
            raise CorpusError(
                f"data.train_split: no row of {source} has split {train_split!r}, found: {found}"
            )
    stored = _described(pa.Table.from_pandas(table), about)
    features = Features([open_table(stored, str(source))], training=training)
    captioner = prepare_captioner(features, descriptors)
    batches = captioner.batches()
    batches = batches if free is None else with_free_captions(batches, free)
    write_captions(captioner, Path(captions), batches)
    return table.attrs["root"]


def _described(table: pa.Table, about: bytes) -> pa.Table:
    return table.replace_schema_metadata({**(table.schema.metadata or {}), b"paraclap": about})


def add_free_captions(table: pa.Table, captions: str | Path, name: str) -> None:
    """Write a captions table whose own captions, in a column `caption`, became free captions.

    Raises:
        CorpusError: if a clip occurs twice, or if a caption is no text.
    """
    own = caption_columns(pd.Index(table.column_names))
    clips = on_clips(table.drop_columns([*PHRASE_COLUMNS]).to_pandas(), name)
    refuse_repeated(clips, name)
    clips.attrs["name"] = name
    batches = table.drop_columns(own).to_batches()
    if (free := free_captions(clips)) is not None:
        batches = with_free_captions(batches, free)
    written = pa.Table.from_batches(batches).replace_schema_metadata(table.schema.metadata)
    make_parent(Path(captions))
    with atomic_write(captions) as part:
        pq.write_table(written, part)


def with_captions(settings: Settings) -> Settings:
    """Write captions tables where `captions` is a table of labels or captions of one's own.

    Args:
        settings: of a run.

    Returns:
        Settings whose `captions` are captions tables, in the run folder if they were written.

    Raises:
        SettingsError: if `data.templates` is set without a table of labels: captions tables have
            their own phrases.
    """
    data = settings.data
    corpora = {
        name: _captioned(name, corpus, settings)
        for name, corpus in corpora_of(data).items()
        if is_own_table(corpus.captions)
    }
    if not corpora and data.templates != DataSettings().templates:
        raise SettingsError(
            f"data.templates is {data.templates}, but {data.captions} has captions already; "
            "template_creation.py --templates makes others"
        )
    changes: dict[str, Any] = {"corpora": data.corpora | corpora}
    if "" in corpora:
        changes = {"root": corpora[""].root, "captions": corpora[""].captions}
    return dataclasses.replace(settings, data=dataclasses.replace(data, **changes))


def _captioned(name: str, corpus: CorpusSettings, settings: Settings) -> CorpusSettings:
    """Return a corpus with the captions table of its table of labels or captions."""
    data, root = settings.data, corpus.root
    captions = Path(settings.output) / (f"captions.{name}.parquet" if name else "captions.parquet")
    if set(PHRASE_COLUMNS) <= set(stored_columns(corpus.captions)):
        source = corpus.captions
        with reading_parquet(source, CorpusError, "a captions table"), open_parquet(source) as file:
            table = file.read()
        add_free_captions(table, captions, Path(source).name)
    else:
        root = caption_table(corpus.captions, captions, data.templates, root, data.train_split)
    print(f"the captions of {corpus.captions} are in {captions}")
    return dataclasses.replace(corpus, root=root, captions=str(captions))
