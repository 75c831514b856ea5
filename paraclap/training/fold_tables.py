"""Tables of a cross-validation: the clips of each corpus, and what a fold is trained on.

A fold has a copy of the table in `data.captions` whose column `split` holds its partition of the
speakers. Whatever is fitted to the training split of a run, such as the levels of a table of
labels, is therefore fitted to the training speakers of the fold.
"""

import dataclasses
import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from paraclap.corpora.labels import normalise_labels
from paraclap.corpora.table import read_corpus, scored_classes
from paraclap.corpora.validation import INDEX_COLUMNS
from paraclap.data.free_captions import is_own_table
from paraclap.data.tables import PHRASE_COLUMNS, on_clips, refuse_repeated
from paraclap.distributed import meet, rank
from paraclap.evaluation.folds import (
    FoldError,
    Partition,
    column_numbers,
    fold_numbers,
    partitions,
)
from paraclap.files import atomic_write, write_text
from paraclap.settings import CorpusSettings, DataSettings, Settings, SettingsError, corpora_of
from paraclap.training.tables import about_captions, catalogue_names, read_captions

SPEAKERS = "speakers"
"""Value of `folds` with a fold for each speaker."""
SPLITS = ("train_split", "validation_split")


def read_clips(settings: Settings) -> dict[str, pd.DataFrame]:
    """Return the corpus table of each corpus of a run, by name.

    Raises:
        SettingsError: if a table cannot be used, or has no labels or no speakers.
    """
    for key in SPLITS:
        if getattr(settings.data, key) != getattr(DataSettings(), key):
            raise SettingsError(f"data.{key} has no effect in a cross-validation; delete the key")
    target = settings.train.target
    tables = {}
    for name, corpus in corpora_of(settings.data).items():
        table = _corpus_table(name, corpus)
        for column, what in ((target, "train.target"), ("speaker", "the speakers of the folds")):
            if column not in table or not table[column].notna().any():
                raise SettingsError(f"{corpus.captions} has no labels in {column}, {what}")
        if pd.api.types.is_numeric_dtype(table[target]):
            raise SettingsError(
                f"train.target is {target}, whose labels are numbers; a cross-validation needs "
                "classes"
            )
        tables[table.attrs["name"]] = table
    return tables


def _corpus_table(name: str, corpus: CorpusSettings) -> pd.DataFrame:
    if is_own_table(corpus.captions):
        table = read_corpus(corpus.captions, corpus.root)
        table.attrs |= {"name": name or table.attrs["name"]}
        return table
    known = catalogue_names(corpus.captions)
    if "" not in known:
        raise SettingsError(
            f"{corpus.captions} has the clips of {', '.join(known)}; give each as "
            "data.corpora.NAME.captions"
        )
    read_captions(corpus.captions)  # checks its phrases
    columns = [c for c in pq.read_schema(corpus.captions).names if c not in PHRASE_COLUMNS]
    table = on_clips(pd.read_parquet(corpus.captions, columns=columns), corpus.captions)
    refuse_repeated(table, corpus.captions)
    table = normalise_labels(table, report=False)
    name = name or about_captions(corpus.captions).get("name") or Path(corpus.captions).stem
    table.attrs = {"name": name, "corpus": known[""], "root": corpus.root}
    return table


def partitions_of(
    tables: dict[str, pd.DataFrame], folds: str, settings: Settings
) -> list[dict[str, Partition]]:
    """Return the partition of each corpus, by name, for each fold.

    Args:
        tables: of `read_clips`.
        folds: their number, `SPEAKERS`, or a column.
        settings: of the run.

    Raises:
        FoldError, SettingsError: naming the corpus, if its speakers do not allow these folds.
    """
    found = {}
    for name, table in tables.items():
        known = scored_classes(table, settings.train.target).notna() & table["speaker"].notna()
        truth = scored_classes(table, settings.train.target)[known].astype("str")
        speakers = table.loc[known, "speaker"].astype("str")
        try:
            if folds.isdecimal():
                numbers = fold_numbers(truth, speakers, int(folds))
            elif folds == SPEAKERS:
                numbers = fold_numbers(truth, speakers, None)
            elif folds in table:
                numbers = column_numbers(table.loc[known, folds], speakers)
            else:
                raise SettingsError(
                    f"folds is {folds!r}, expected a number, {SPEAKERS}, or a column such as "
                    f"{', '.join(map(str, table.columns[:5]))}"
                )
            validation = settings.data.validation_speakers
            found[name] = partitions(truth, speakers, numbers, validation)
        except FoldError as error:
            raise FoldError(f"{name}: {error}") from error
    counts = {name: len(parts) for name, parts in found.items()}
    if len(set(counts.values())) > 1:
        texts = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise FoldError(f"folds={folds} gives different numbers of folds ({texts}); set a number")
    return [dict(zip(found, parts, strict=True)) for parts in zip(*found.values(), strict=True)]


def fold_settings(
    settings: Settings,
    output: Path,
    tables: dict[str, pd.DataFrame],
    partition: dict[str, Partition],
) -> Settings:
    """Write the tables of a fold to its folder, in process 0, and return the settings of its run.

    Args:
        settings: of all folds.
        output: existing folder of the fold.
        tables: of `read_clips`.
        partition: of each corpus.
    """
    corpora = {}
    pairs = zip(corpora_of(settings.data).items(), tables.items(), strict=True)
    for (key, corpus), (name, table) in pairs:
        splits = partition[name].splits(table["speaker"])
        stem = f"clips.{key}" if key else "clips"
        if is_own_table(corpus.captions):
            path, root = output / f"{stem}.jsonl", table.attrs["root"]
            if rank() == 0:
                write_text(path, _as_lines(table.assign(split=splits)))
        else:
            path, root = output / f"{stem}.parquet", corpus.root
            if rank() == 0:
                _write_captions(corpus.captions, path, splits)
        corpora[key] = dataclasses.replace(corpus, captions=str(path), root=root)
    meet()
    changes = {"corpora": corpora}
    if "" in corpora:
        changes = {"captions": corpora[""].captions, "root": corpora[""].root}
    data = dataclasses.replace(settings.data, **changes)
    return dataclasses.replace(settings, data=data, output=str(output))


def _as_lines(table: pd.DataFrame) -> str:
    """Return a corpus table as JSON lines, with `start` and `end` in seconds."""
    rows = table.reset_index()
    for column in INDEX_COLUMNS[1:]:
        rows[column] = rows[column].dt.total_seconds()
    lines = (
        {key: value for key, value in row.items() if isinstance(value, list) or pd.notna(value)}
        for row in rows.to_dict("records")
    )
    return "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)


def _write_captions(source: str, path: Path, splits: pd.Series) -> None:
    """Copy a captions table with other splits."""
    table = pq.read_table(source)
    column = pa.array(splits.to_numpy(object), pa.string())
    if "split" in table.column_names:
        table = table.set_column(table.column_names.index("split"), "split", column)
    else:
        # Before the columns of the index, which pandas writes last.
        about = table.schema.metadata
        table = table.add_column(0, "split", column).replace_schema_metadata(about)
    with atomic_write(path) as temporary:
        pq.write_table(table, temporary)
