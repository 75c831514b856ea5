"""Corpora: the catalogue, readers of their layouts, corpus tables, normalised labels."""

from paraclap.errors import ParaCLAPError

SOURCE_FORMS = (
    "NAME=ROOT, a folder with db.yaml, a .csv, .tsv, .parquet or .jsonl table, or a folder of "
    "audio or shards"
)
"""Forms of a source on the command line."""


class CorpusError(ParaCLAPError, ValueError):
    """A source, table or label that is missing, unreadable or not as expected."""
