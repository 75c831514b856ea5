"""Timelines as annotations: a TextGrid of Praat, and a table that ELAN imports.

    table = annotations(paraclap.score_windows("meeting.wav", names), names, seconds)
    table.to_csv("meeting.csv", index=False)     # ELAN: File, Import, CSV / Tab-delimited Text
    Path("meeting.TextGrid").write_text(text_grid(table, seconds), encoding="utf-8")

Windows overlap, annotations of a tier must not: a window is responsible for the times to which its
centre is nearest, and the first and the last one as far as the recording.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from paraclap.audio.quality import have_flag
from paraclap.errors import ParaCLAPError

PREDICTION = "prediction"
"""Tier of the prompts with the highest cosine."""
UNVOICED = "unvoiced"
COLUMNS = ["tier", "start", "end", "label", "quality"]

Row = tuple[str, float, float, str, str]


class TimelineError(ParaCLAPError, ValueError):
    """A timeline without the expected columns."""


def annotations(timeline: pd.DataFrame, names: Sequence[str], seconds: float) -> pd.DataFrame:
    """Return `tier`, `start`, `end` [s], `label`, `quality` of annotations, by tier and time.

    The tier `prediction` has the prompt with the highest cosine, neighbours with the same prompt as
    one annotation; the tier of each prompt its probabilities. `quality` is `unvoiced` where no
    voice was found, otherwise empty. Silent windows are not annotated. A prompt called `prediction`
    shares a name with the first tier, but not its annotations.

    Args:
        timeline: of one recording, windows in the order of time: `start`, `end` [s], `prediction`,
            `probability.NAME`, and `quality` if known; see `ParaCLAP.score_windows`.
        names: of the prompts.
        seconds: duration of the recording [s].

    Raises:
        TimelineError: for a timeline with the column `best` of earlier versions.
    """
    if "best" in timeline:
        raise TimelineError(f"column best was renamed to {PREDICTION}, score the recording again")
    centres = ((timeline["start"] + timeline["end"]) / 2).to_numpy(float)
    limits = np.concatenate([[0.0], (centres[1:] + centres[:-1]) / 2, [seconds]])
    limits = limits.round(9)  # to ns, the resolution of audformat
    flags = timeline["quality"] if "quality" in timeline else pd.Series("", timeline.index)
    silent = have_flag(flags, "silent")
    quality = np.where(have_flag(flags, UNVOICED), UNVOICED, "")

    def tier_of(name: str, labels: Sequence[str]) -> list[Row]:
        rows = zip(limits[:-1], limits[1:], labels, quality, strict=True)
        return [(name, *row) for row, is_silent in zip(rows, silent, strict=True) if not is_silent]

    rows = _joined(tier_of(PREDICTION, timeline[PREDICTION].astype(str)))
    for name in names:
        rows += tier_of(name, [f"{value:.3f}" for value in timeline[f"probability.{name}"]])
    return pd.DataFrame(rows, columns=COLUMNS)


def _joined(rows: Sequence[Row]) -> list[Row]:
    """Join neighbours with the same label and quality."""
    found: list[Row] = []
    for name, start, end, *marks in rows:
        if found and found[-1][2:] == (start, *marks):
            start = found.pop()[1]
        found.append((name, start, end, *marks))
    return found


def text_grid(table: pd.DataFrame, seconds: float) -> str:
    """Return `annotations` as a TextGrid in the long text format of Praat.

    Times without an annotation become empty intervals, as in Praat; so each tier is complete. The
    predictions of unvoiced windows are marked: `calm (unvoiced)`.

    Args:
        table: of `annotations`, which do not overlap within a tier.
        seconds: duration of the recording [s].
    """
    if table.empty:  # silence; Praat expects a tier
        table = pd.DataFrame([(PREDICTION, 0.0, seconds, "", "")], columns=COLUMNS)
    numbers = tier_numbers(table)
    is_marked = (numbers == 1) & (table["quality"] == UNVOICED)  # tier 1 has the predictions
    marked = table.assign(label=table["label"].mask(is_marked, table["label"] + f" ({UNVOICED})"))
    tiers = [rows for _, rows in marked.groupby(numbers, sort=False)]
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {_time(seconds)}",
        "tiers? <exists>",
        f"size = {len(tiers)}",
        "item []:",
    ]
    for number, rows in enumerate(tiers, 1):
        intervals = _complete(rows, seconds)
        lines += [
            f"    item [{number}]:",
            '        class = "IntervalTier"',
            f"        name = {_quoted(rows['tier'].iloc[0])}",
            "        xmin = 0",
            f"        xmax = {_time(seconds)}",
            f"        intervals: size = {len(intervals)}",
        ]
        for place, (start, end, label) in enumerate(intervals, 1):
            lines += [
                f"        intervals [{place}]:",
                f"            xmin = {_time(start)}",
                f"            xmax = {_time(end)}",
                f"            text = {_quoted(label)}",
            ]
    return "\n".join([*lines, ""])


def tier_numbers(table: pd.DataFrame) -> pd.Series:
    """Number the tiers of `annotations`, two of which may have the same name."""
    starts = (table["tier"] != table["tier"].shift()) | (table["start"] <= table["start"].shift())
    return starts.cumsum()


def _complete(rows: pd.DataFrame, seconds: float) -> list[tuple[float, float, str]]:
    """Return the intervals of a tier, with empty ones where there is no annotation."""
    intervals, reached = [], 0.0
    for start, end, label in rows[["start", "end", "label"]].itertuples(index=False, name=None):
        if start > reached:
            intervals.append((reached, start, ""))
        intervals.append((start, end, label))
        reached = end
    if reached < seconds:
        intervals.append((reached, seconds, ""))
    return intervals


def _time(seconds: float) -> str:
    """Return a time with the digits that give it exactly, so that neighbours meet."""
    return repr(float(seconds)).removesuffix(".0")


def _quoted(text: str) -> str:
    """Return a string of Praat, in which quotes are doubled."""
    return '"{}"'.format(str(text).replace('"', '""'))
