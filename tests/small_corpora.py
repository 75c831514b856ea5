"""Small tables of features, and short ways from them to edges and captions, for the tests."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

import paraclap.cli
from paraclap.captions.edges import QUANTILES, Edges
from paraclap.captions.levels import Groups, fit_edges
from paraclap.captions.sources import INDEX, open_table
from paraclap.captions.tables import Features, check_unique
from paraclap.captions.templates import (
    Comparison,
    Descriptor,
    default_descriptors,
    level_descriptors,
    read_templates,
    select_descriptors,
)
from paraclap.captions.writer import Captioner
from paraclap.cli import template_creation

DESCRIPTORS = default_descriptors()
EXTENDED = read_templates(["paraclap", "extended"])
BY_NAME = {descriptor.name: descriptor for descriptor in EXTENDED}
MEASURED = [descriptor for descriptor in DESCRIPTORS if descriptor.kind == "level"]
LABELS = [descriptor for descriptor in DESCRIPTORS if descriptor.kind == "label"]
PITCH, JITTER, INTENSITY = BY_NAME["pitch"], BY_NAME["jitter"], BY_NAME["intensity"]
GENDER = Comparison("gender", DESCRIPTORS)
CORPUS = Comparison("corpus", DESCRIPTORS)


def make_table(**columns: list) -> pd.DataFrame:
    table = pd.DataFrame(columns)
    files = [f"a/{row:05d}.wav" for row in range(len(table))]
    start = pd.to_timedelta([0] * len(table), unit="s")
    end = pd.to_timedelta([pd.NaT] * len(table)).astype(start.dtype)
    table.index = pd.MultiIndex.from_arrays([files, start, end], names=INDEX)
    return table


def join(*tables: pd.DataFrame) -> pd.DataFrame:
    """One table of other files, as a row may stand only once."""
    table = pd.concat(tables)
    return table.set_axis(make_table(row=range(len(table))).index)


def make_corpus(rows: int = 60, seed: int = 0) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    table = make_table(
        speaker=[f"{row % 6 + 1:02d}" for row in range(rows)],
        emotion=[["anger", "sad", "no agreement", "neutral"][row % 4] for row in range(rows)],
        gender=[["female", "male"][row % 2] for row in range(rows)],
        note=[["001", "NA", "nan", "1e5"][row % 4] for row in range(rows)],
    )
    for descriptor in MEASURED:
        table[descriptor.column] = generator.uniform(1, 2, rows).astype(np.float32)
    return table


def write(table: pd.DataFrame, path: Path) -> Path:
    table.to_parquet(path)
    return path


def run(*arguments: object) -> int:
    """Run template_creation.py; returns its exit code."""
    command = [str(argument) for argument in arguments]
    return paraclap.cli.run(lambda: template_creation.main(command), "template_creation.py")


def stream(*tables: pd.DataFrame, **options) -> Features:
    sources = [open_table(pa.Table.from_pandas(table)) for table in tables]
    return Features(sources, **options)


def fit(table, descriptors=None, quantiles=QUANTILES, comparisons=(), templates=EXTENDED):
    features = stream(table)
    if descriptors is None:
        descriptors = select_descriptors(templates, features.schema.names)
    levels = level_descriptors(descriptors, templates)
    return fit_edges(features, Groups(features, comparisons), levels, comparisons, quantiles)


def captioner_of(table, edges, descriptors=None, templates=EXTENDED) -> Captioner:
    features = stream(table)
    check_unique(features)
    if descriptors is None:
        descriptors = select_descriptors(templates, features.schema.names)
    by = dict.fromkeys(column for fitted in edges.values() for column in fitted.by)
    groups = Groups(features, [Comparison(column, templates) for column in by])
    return Captioner(features, groups, descriptors, templates, edges)


def caption(table, edges, descriptors=None, templates=EXTENDED) -> pd.DataFrame:
    captioner = captioner_of(table, edges, descriptors, templates)
    batches = [batch.cast(captioner.schema) for batch in captioner.batches()]
    frame = pa.Table.from_batches(batches, captioner.schema).to_pandas()
    return frame.set_index(list(INDEX))


def bounds(edges: Edges, *group: str) -> tuple:
    found = edges.groups[group]
    return found.low, found.high, found.n


def as_lists(column: pd.Series) -> list:
    return [[str(phrase) for phrase in phrases] for phrases in column]


def levels_of(table: pd.DataFrame, descriptor: Descriptor) -> list:
    levels = caption(table, fit(table, [descriptor]), [descriptor])[descriptor.output_column]
    return [None if pd.isna(level) else level for level in levels]


def phrases_by_row(table: pd.DataFrame, descriptors: list) -> list:
    return as_lists(caption(table, fit(table, descriptors), descriptors)["captions"])


def make_corpora(folder: Path) -> list[Path]:
    paths = []
    for seed, name in enumerate(("one", "two")):
        table = make_corpus(40, seed)
        table[INTENSITY.column] += 100 * seed
        stored = pa.Table.from_pandas(table)
        about = json.dumps({"name": name, "corpus": name, "root": f"/data/{name}"}).encode()
        metadata = {**stored.schema.metadata, b"paraclap": about}
        paths.append(folder / f"{name}.parquet")
        pq.write_table(stored.replace_schema_metadata(metadata), paths[-1])
    return paths
