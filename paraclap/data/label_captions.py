"""Captions from labels alone: from a table of files and labels to a captions table.

    root = caption_labels("my.csv", "runs/mine/captions.parquet")
    settings = with_captions(settings)  # of a run, for all of its tables of labels

The templates of preprocessing/template_creation.py turn the labels of a table (emotion, gender,
arousal, ...) into phrases; nothing is measured, so no phrase describes pitch or loudness.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from paraclap.captions.sources import open_table
from paraclap.captions.tables import Features
from paraclap.captions.templates import read_templates
from paraclap.captions.writer import prepare_captioner, write_captions
from paraclap.corpora import CorpusError
from paraclap.corpora.labels import in_split, split_names
from paraclap.corpora.table import read_corpus
from paraclap.settings import (
    LABEL_TABLES,
    CorpusSettings,
    DataSettings,
    Settings,
    SettingsError,
    corpora_of,
)


def caption_labels(
    labels: str | Path,
    captions: str | Path,
    templates: Sequence[str] = ("paraclap",),
    root: str | Path | None = None,
    train_split: str = "train",
) -> str:
    """Write the captions table of a table of labels; returns the folder of its audio.

    Args:
        labels: .csv or .tsv, see `corpora.read_corpus`.
        captions: table to write.
        templates: phrase tables, see `captions.templates.read_templates`.
        root: folder of the audio; None = that of the table.
        train_split: split of the rows that levels are fitted to; a table without splits is used
            whole.

    Raises:
        CorpusError: if the table cannot be read, if no row has the split, or if the templates have
            no words for its columns.
        InputError: if a row occurs twice or the templates are invalid.
    """
    table = read_corpus(labels, root)
    descriptors = read_templates([str(name) for name in templates])
    worded = sorted({d.column for d in descriptors if d.column})
    if not set(worded) & set(table.columns):
        raise CorpusError(
            f"{labels} has the columns {list(table.columns)}, and the templates "
            f"{', '.join(templates)} have words for none of them; expected some of "
            f"{[name for name in worded if name.islower()]}"
        )
    training = None
    if "split" in table:
        training = in_split(table, train_split).to_numpy()
        if not training.any():
            found = ", ".join(split_names(table)) or "only empty values"
            raise CorpusError(
                f"data.train_split: no row of {labels} has split {train_split!r}, found: {found}"
            )
    about = json.dumps({"name": table.attrs["name"], "corpus": None}).encode()
    stored = pa.Table.from_pandas(table)
    stored = stored.replace_schema_metadata({**(stored.schema.metadata or {}), b"paraclap": about})
    features = Features([open_table(stored, str(labels))], training=training)
    write_captions(prepare_captioner(features, descriptors), Path(captions))
    return table.attrs["root"]


def with_captions(settings: Settings) -> Settings:
    """Generate captions where `captions` is a table of labels.

    Args:
        settings: of a run.

    Returns:
        Settings whose `captions` are captions tables, in the run folder if they were generated.

    Raises:
        SettingsError: if `data.templates` is set without a table of labels: captions tables have
            their own phrases.
    """
    data = settings.data
    corpora = {
        name: _captioned(name, corpus, settings)
        for name, corpus in corpora_of(data).items()
        if Path(corpus.captions).suffix.lower() in LABEL_TABLES
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
    """Return a corpus with captions generated from its table of labels."""
    data = settings.data
    captions = Path(settings.output) / (f"captions.{name}.parquet" if name else "captions.parquet")
    root = caption_labels(corpus.captions, captions, data.templates, corpus.root, data.train_split)
    print(f"captions generated from {corpus.captions} are in {captions}")
    return dataclasses.replace(corpus, root=root, captions=str(captions))
