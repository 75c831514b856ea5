"""Timelines of recordings: figures, and annotations for Praat, ELAN and audformat.

A recording is a file; its segments in a table of clips, as of a voice activity detector, are parts
of one timeline, and the time between them is not annotated.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from paraclap.audio import AudioError
from paraclap.audio.containers import read_duration
from paraclap.audio.paths import resolve_inside
from paraclap.audio.quality import have_flag
from paraclap.audio.reading import read_audio
from paraclap.evaluation.figures import plot_timeline
from paraclap.files import atomic_write, safe_name, write_text
from paraclap.inference.textgrid import (
    COLUMNS,
    PREDICTION,
    annotations,
    text_grid,
    tier_numbers,
)
from paraclap.style import write_figure

POINTS = 1000  # of a drawn waveform
READ_SECONDS = 60.0  # read at a time
SEGMENTS = "segments.parquet"


def write_timelines(
    folder: Path,
    scores: Iterable[pd.DataFrame],
    clips: pd.DataFrame,
    suffix: str = "png",
    smooth: int | None = None,
) -> Iterator[pd.DataFrame]:
    """Yield the scores unchanged, and plot those of each clip, named by number and file.

    Args:
        folder: an existing folder.
        scores: of the windows of each clip.
        clips: table of `read_clips`, in the same order.
        suffix: format of the figures, one of `paraclap.style.FORMATS`.
        smooth: see `plot_timeline`.
    """
    for number, (table, clip) in enumerate(zip(scores, clips.itertuples(index=False), strict=True)):
        good = table[table["error"] == ""]
        if len(good):
            path = resolve_inside(clip.root, clip.file)
            waveform = outline(path, good["start"].iloc[0], good["end"].iloc[-1])
            figure = plot_timeline(good, clip.file, waveform, smooth)
            write_figure(figure, folder / f"{_stem(number, clip.file)}.{suffix}")
        yield table


def _stem(number: int, file: str) -> str:
    return f"{number:04d}_{safe_name(Path(file).stem)}"


def outline(path: Path, start: float, end: float) -> np.ndarray | None:
    """Return the lowest and highest samples (2, POINTS) of equal parts of a recording.

    The recording is read in bounded memory; None = it cannot be read.
    """
    limits = np.linspace(start, end, POINTS + 1)
    each = max(1, int(READ_SECONDS / (end - start) * POINTS))
    parts = []
    try:
        for first in range(0, POINTS, each):
            last = min(first + each, POINTS)
            waveform = read_audio(path, limits[first], limits[last])
            parts += np.array_split(waveform, last - first)
    except AudioError:
        return None
    return np.array([[p.min(initial=0), p.max(initial=0)] for p in parts]).T


def write_annotations(
    folder: Path,
    scores: Iterable[pd.DataFrame],
    clips: pd.DataFrame,
    names: Sequence[str],
    smooth: int | None = None,
) -> Iterator[pd.DataFrame]:
    """Yield the scores unchanged, and write their annotations when all are through.

    Written are, for each recording, `NUMBER_NAME.TextGrid` (Praat) and `NUMBER_NAME.csv` (columns
    `tier`, `start`, `end` [s], `label`, which ELAN imports, and `quality`), and for all of them
    `segments.parquet` with the columns `prediction` and `quality` on a segmented index of audformat
    (`file`, `start`, `end`).

    Args:
        folder: an existing folder.
        scores: of the windows of each clip.
        clips: table of `read_clips`, in the same order.
        names: of the prompts.
        smooth: windows of the moving averages of the probabilities; None = 1.
    """
    found: dict[tuple[str, str], list[pd.DataFrame]] = {}
    for table, clip in zip(scores, clips.itertuples(index=False), strict=True):
        good = table[table["error"] == ""]
        if len(good):
            place = clip.root, clip.file
            found.setdefault(place, []).append(_annotated(good, names, smooth or 1))
        yield table
    segments = []
    for number, ((root, file), parts) in enumerate(found.items()):
        table = _joined(parts)
        stem = _stem(number, file)
        path = resolve_inside(root, file)
        seconds = max(read_duration(path), table["end"].max() if len(table) else 0)
        write_text(folder / f"{stem}.csv", table.to_csv(index=False))
        write_text(folder / f"{stem}.TextGrid", text_grid(table, seconds))
        is_best = (table["tier"] == PREDICTION) & table["label"].isin(names)
        name = str(path).encode(errors="backslashreplace").decode()  # need not be UTF-8
        segments.append(table[is_best].assign(file=name))
    _write_segments(folder / SEGMENTS, segments)


def _annotated(windows: pd.DataFrame, names: Sequence[str], smooth: int) -> pd.DataFrame:
    """Return the `annotations` of the windows of a clip, with times of the recording."""
    if smooth > 1:
        columns = [f"probability.{name}" for name in names]
        audible = windows.loc[~have_flag(windows["quality"], "silent"), columns]
        means = audible.reindex(windows.index).rolling(smooth, center=True, min_periods=1).mean()
        means = means.fillna(0)  # without audible windows nearby
        best = np.array(names, dtype=object)[means.to_numpy().argmax(axis=1)]
        windows = windows.assign(prediction=best, **means)
    first, last = windows["start"].iloc[0], windows["end"].iloc[-1]
    shifted = windows.assign(start=windows["start"] - first, end=windows["end"] - first)
    table = annotations(shifted, names, last - first)
    # to ns, as in `annotations`: 0.3 + 0.6 s is 0.9 s
    return table.assign(**{name: (table[name] + first).round(9) for name in ("start", "end")})


def _joined(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """Join the annotations of clips of one recording, tier by tier and in the order of time.

    Of clips that overlap, the later one begins where the earlier one ends.
    """
    if len(parts) == 1:
        return parts[0]
    table = pd.concat([part.assign(order=tier_numbers(part)) for part in parts], ignore_index=True)
    table = table.sort_values(["order", "start"], kind="stable")
    reached = table.groupby("order", sort=False)["end"].transform(lambda end: end.cummax().shift())
    table["start"] = np.fmax(table["start"], reached)
    table = table.drop(columns="order")
    return table[table["start"] < table["end"]].reset_index(drop=True)


def _write_segments(path: Path, tables: list[pd.DataFrame]) -> None:
    """Write the best prompts with a segmented index."""
    table = pd.concat(tables) if tables else pd.DataFrame(columns=["file", *COLUMNS])
    for name in ("start", "end"):
        table[name] = pd.to_timedelta(table[name].astype(float), unit="s")
    table = table.set_index(["file", "start", "end"])
    with atomic_write(path) as temporary:
        table = table[["label", "quality"]].rename(columns={"label": PREDICTION})
        table.to_parquet(temporary)
