r"""What missing labels cost: training clips without most of their emotion labels.

    python -m experiments.missing_labels --data /data -o experiments --work runs/missing --seeds 3

Trains one recipe of ideas.py twice on the same captions, of which a share --kept of the
training clips still tells the emotion. To one model the others are unknown: no negatives of a
caption that tells it, as training has it. To the other they are different, as if every caption that
is not known to hold were wrong. Validation speakers alone; prints a table, and keeps rows as
ablation.py does, in missing_labels.KEPT.unknown.csv and missing_labels.KEPT.different.csv.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from experiments import ablation, table
from experiments.ideas import CORPORA_COMPARED, DIRECTIONS, EMOTION_ONLY, TOWER
from paraclap.data import captions as datasets
from paraclap.data.captions import PHRASE_COLUMNS
from paraclap.settings import EMOTION

ARMS = ("different", "unknown")


def without_labels(captions: pd.DataFrame, kept: float, seed: int) -> pd.DataFrame:
    """Captions table in which about a share `kept` of the training clips tells the emotion."""
    rng = np.random.default_rng([seed, round(100 * kept)])
    lost = (rng.random(len(captions)) >= kept) & (captions["split"] == "train").to_numpy()
    texts, names = (captions[column].tolist() for column in PHRASE_COLUMNS)
    holds = [
        [not (is_lost and name == EMOTION) for name in row]
        for is_lost, row in zip(lost, names, strict=True)
    ]
    fewer = captions.copy()
    for column, lists in zip(PHRASE_COLUMNS, (texts, names), strict=True):
        pairs = (zip(row, keep, strict=True) for row, keep in zip(lists, holds, strict=True))
        fewer[column] = [[value for value, keep in row if keep] for row in pairs]
    fewer.loc[lost, EMOTION] = None
    return fewer


@contextmanager
def counted(arm: str) -> Iterator[None]:
    """Let what is not known count as it is, or as different."""
    known = datasets.match_matrix
    if arm == "different":
        datasets.match_matrix = lambda phrases, captions: known(phrases, captions).nan_to_num(0.0)
    try:
        yield
    finally:
        datasets.match_matrix = known


def rows_of(arm: str, options: argparse.Namespace) -> Path:
    """CSV of the runs of an arm."""
    return options.output / f"missing_labels.{options.kept}.{arm}.csv"


def run(own: ablation.Tables, other: ablation.Tables, options: argparse.Namespace) -> None:
    """Train both models of each seed, unless that is done, and keep their rows."""
    for seed in range(1, options.seeds + 1):
        captions = options.work / f"{own.name}.{options.kept}.{seed}.parquet"
        without_labels(pd.read_parquet(own.captions), options.kept, seed).to_parquet(captions)
        for arm in ARMS:
            told = argparse.Namespace(
                tower=TOWER,
                csv=rows_of(arm, options),
                work=options.work / arm / str(options.kept),
            )
            fewer = replace(own, captions=captions)
            questions = ablation.questions_across(fewer, other, ablation.parts_of())
            with counted(arm):
                ablation.run_idea(EMOTION_ONLY, seed, [fewer], questions, told)


def show(options: argparse.Namespace) -> None:
    """Print mean UAR of both and their paired difference, for each part and direction."""
    different, unknown = (table.read(rows_of(arm, options)).sort_values("seed") for arm in ARMS)
    print("| part | direction | different | unknown | difference | 95 % |")
    print("|---|---|---|---|---|---|")
    for (part, direction), rows in unknown.groupby(["part", "direction"], sort=False):
        same = (different["part"] == part) & (different["direction"] == direction)
        sides = [side["counts"].tolist() for side in (rows, different[same])]
        means = [table.summary(side)["mean"] for side in sides]
        gain = table.summary(*sides)
        low, high = gain["interval"]
        cells = [part, direction, f"{means[1]:.3f}", f"{means[0]:.3f}", f"{gain['mean']:+.3f}"]
        print(f"| {' | '.join(cells)} | [{low:+.3f}, {high:+.3f}] |")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    ablation.add_places(parser)
    add("--directions", nargs="+", choices=list(DIRECTIONS), default=list(DIRECTIONS))
    add("--kept", type=float, default=0.4, help="share of the training clips that keep their label")
    add("--seeds", type=int, default=3, help="1 to this")
    options = parser.parse_args(arguments)
    if options.data is None:
        parser.error("give --data, or set PARACLAP_DATA")
    prepared = {n: ablation.prepare(n, options.data, options.work) for n in CORPORA_COMPARED}
    for name in options.directions:
        run(prepared[name], prepared[DIRECTIONS[name][0]], options)
    show(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
