"""Corpora: the catalogue, readers of their layouts, corpus tables, normalised labels."""

SOURCE_FORMS = (
    "NAME=ROOT, a folder with db.yaml, a .csv, .tsv or .parquet table, or a folder of audio"
)
"""Forms of a source on the command line."""
