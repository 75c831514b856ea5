"""Audformat databases."""

import re
from pathlib import Path

import audformat
import pandas as pd

from paraclap.corpora import CorpusError
from paraclap.corpora.caption_rows import caption_columns
from paraclap.corpora.table_files import read_file_table, read_table
from paraclap.corpora.validation import INDEX_COLUMNS, timedeltas, typed
from paraclap.files import read_yaml


def read_database(root: Path, tables: str = "", split_pattern: str | None = None) -> pd.DataFrame:
    """Return all file tables of an audformat database as one table.

    Fields of labels (``speaker: {s1: {gender: female, age: 30}}``, also from misc tables) become
    columns. Values of whole files are copied to the segments of the file. ``split`` is the type of
    a table's split (train, dev, test), or its id if several splits have the same type. Pickled
    tables and YAML tags are rejected, because they could run code.

    Args:
        root: folder with ``db.yaml``
        tables: regular expression of the names of the tables to read
        split_pattern: regular expression whose group in the name of a table is the split

    Raises:
        CorpusError: if the header or a table is damaged or missing, or tables are contradictory
    """
    header = read_yaml(root / "db.yaml", CorpusError)
    try:
        database = audformat.Database.load_header_from_yaml(header)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CorpusError(f"{root / 'db.yaml'} is not an audformat header: {error}") from error
    names = [name for name in database.tables if re.search(tables, name)]
    if not names:
        wanted = f" that match {tables}" if tables else ""
        raise CorpusError(f"{root / 'db.yaml'} lists no tables{wanted}, expected at least one")
    frames = []
    for name in names:
        match = re.search(split_pattern, name) if split_pattern else None
        frame = _database_table(database, root, name)
        frames.append(frame.assign(split=match[1]) if match else frame)
    rows = _spread_over_segments(_merge_rows(pd.concat(frames, ignore_index=True), root))
    rows.attrs["name"] = database.name
    return rows


def _table_file(root: Path, name: str) -> Path:
    """Return the path of a table as parquet or CSV; pickled tables could run code."""
    if re.search(r"[/\\\x00]", name):
        raise CorpusError(f"{root / 'db.yaml'}: the table id {name!r} is not part of a file name")
    for suffix in (".parquet", ".csv"):
        path = root / f"db.{name}{suffix}"
        if path.is_file():
            return path
    hint = " (.pkl files are not read: save the table as CSV or parquet)"
    raise CorpusError(f"{root}: table {name} has neither db.{name}.csv nor .parquet{hint}")


def _database_table(database: audformat.Database, root: Path, name: str) -> pd.DataFrame:
    """Return a table of a database, with start, end, split and label fields as columns."""
    table = database.tables[name]
    path = _table_file(root, name)
    frame = read_file_table(path)
    if frame.duplicated([c for c in INDEX_COLUMNS if c in frame]).any():
        raise CorpusError(f"{path} has rows that occur twice")
    for column in frame.columns:
        frame[column] = typed(frame[column], name)
    frame = frame.assign(start=timedeltas(frame, "start"), end=timedeltas(frame, "end"))
    for column_id, column in table.columns.items():
        if column_id in frame and column.scheme_id:
            fields = _label_fields(database, root, column.scheme_id)
            keys = frame[column_id].astype("str")
            for field_name, values in fields.items():
                new = field_name if field_name not in frame else f"{column_id}.{field_name}"
                frame[new] = keys.map(values)
    if table.split_id:
        frame["split"] = _split_name(database, table.split_id)
    return frame


def _label_fields(
    database: audformat.Database, root: Path, scheme_id: str
) -> dict[str, dict[str, object]]:
    """Return field -> label -> value for a scheme whose labels have fields; otherwise {}."""
    labels = database.schemes[scheme_id].labels
    if isinstance(labels, str):
        frame = read_table(_table_file(root, labels))
        level = next(iter(database.misc_tables[labels].levels))
        labels = frame.astype({level: "str"}).set_index(level).to_dict("index")
    if not isinstance(labels, dict):
        return {}
    fields: dict[str, dict[str, object]] = {}
    for label, values in labels.items():
        for name, value in (values if isinstance(values, dict) else {}).items():
            fields.setdefault(name, {})[str(label)] = value
    return fields


def _split_name(database: audformat.Database, split_id: str) -> str:
    """Return the type of a split, or its id if another split has the same type."""
    kind = database.splits[split_id].type
    shared = sum(split.type == kind for split in database.splits.values()) > 1
    return split_id if shared or kind is None else str(kind)


def _merge_rows(rows: pd.DataFrame, root: Path) -> pd.DataFrame:
    """Return one row per segment: labels of all tables, different captions as lists."""
    groups = rows.groupby(list(INDEX_COLUMNS), sort=False, dropna=False)
    clashes = groups.nunique() > 1
    merged = groups.first()
    for column in caption_columns(clashes.columns[clashes.any()]):
        merged[column] = groups[column].agg(lambda texts: list(texts.dropna()))
        clashes = clashes.drop(columns=column)
    if clashes.to_numpy().any():
        column = clashes.any().idxmax()
        file = clashes.index[clashes[column]][0][0]
        raise CorpusError(f"{root}: tables have different values of {column} for {file}")
    return merged.reset_index()


def _spread_over_segments(rows: pd.DataFrame) -> pd.DataFrame:
    """Copy the values of whole files to their segments; files without segments stay whole."""
    is_whole = rows["end"].isna() & (rows["start"] == pd.Timedelta(0))
    if is_whole.all() or not is_whole.any():
        return rows
    segments, whole = rows[~is_whole].copy(), rows[is_whole].set_index("file")
    for column in whole.columns.difference(INDEX_COLUMNS):
        segments[column] = segments[column].fillna(segments["file"].map(whole[column]))
    kept = whole[~whole.index.isin(segments["file"])].reset_index()
    return pd.concat([kept, segments], ignore_index=True)[rows.columns]
