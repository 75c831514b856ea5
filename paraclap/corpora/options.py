"""Options of sources that are tables, for all command lines that read sources."""

import argparse
from collections.abc import Sequence
from pathlib import Path


def add_table_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of sources that are tables, see `paraclap.corpora.table.read_corpus`."""
    parser.add_argument(
        "--root",
        type=Path,
        metavar="FOLDER",
        help="folder of the audio of tables (their own)",
    )
    parser.add_argument(
        "--column",
        dest="columns",
        nargs="+",
        action=_Columns,
        default={},
        metavar="COLUMN=NAME",
        help="columns of tables with other names, e.g. file=path emotion=label",
    )


class _Columns(argparse.Action):
    """Stores `COLUMN=NAME` arguments as a mapping; the option may be repeated."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Sequence[str],
        option: str | None = None,
    ) -> None:
        pairs = [value.partition("=") for value in values]
        if not all(all(pair) for pair in pairs):
            parser.error(f"{option} {' '.join(values)}, expected COLUMN=NAME")
        columns = {column: name for column, _, name in pairs}
        setattr(namespace, self.dest, {**getattr(namespace, self.dest), **columns})
