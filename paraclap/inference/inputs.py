"""What `ParaCLAP.score` and `embed` accept: files, signals, corpora and data frames.

    is_source("recordings/"), is_source("clip.wav")    # True, False
    index, table = clip_table(frame)
    clips = read_each(places_of(table))

A data frame has the column `file`, and `start` and `end` where they are known (seconds or
timedelta), or an index of audformat with these levels. Files are relative to `attrs["root"]`, as in
a corpus table, or else to the working directory.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import audformat
import numpy as np
import pandas as pd

from paraclap.audio.conditioning import condition_with_report
from paraclap.audio.reading import read_audio_with_report
from paraclap.audio.segments import Position
from paraclap.corpora import CorpusError
from paraclap.corpora.table import is_source, read_corpus
from paraclap.corpora.validation import INDEX_COLUMNS, timedeltas
from paraclap.inference.clips import Place, ReadClip, quality_of

Signal = tuple[np.ndarray, int]
"""Samples (T,) or (T, C) and their rate [Hz]."""
Clips = str | Path | Sequence[str | Path] | pd.DataFrame
"""A file, a list of files, a source of `read_corpus`, or a data frame."""


def read_clip(audio: str | Path | Signal, start: Position = 0.0, end: Position = None) -> ReadClip:
    """Read a file, from `start` to `end`, or condition a signal.

    Raises:
        AudioError: if the file cannot be read, or for an invalid rate, shape or samples.
    """
    if isinstance(audio, tuple):
        waveform, report = condition_with_report(*audio)
        return ReadClip("a signal", waveform, quality_of(waveform, report))
    if not isinstance(audio, str | Path):
        given = type(audio).__name__
        raise TypeError(f"expected a file, or a signal with its rate, (array, Hz), given {given}")
    waveform, report = read_audio_with_report(audio, start, end)
    return ReadClip(str(audio), waveform, quality_of(waveform, report))


def clip_table(clips: Clips) -> tuple[pd.MultiIndex, pd.DataFrame]:
    """Return the segmented index of clips, with files as given, and a table to read them.

    The table has the same rows, and files relative to its `attrs["root"]`.

    Raises:
        CorpusError: if a source or data frame cannot be read.
    """
    if isinstance(clips, str | Path):
        if is_source(str(clips)) or not Path(clips).is_file():  # or a mistyped source
            table = read_corpus(clips)
            return table.index, table
        clips = [clips]
    if not isinstance(clips, pd.DataFrame):
        clips = pd.DataFrame({"file": list(clips)})
    rows = clips.index.to_frame(index=False) if "file" in clips.index.names else clips
    if "file" not in rows:
        raise CorpusError(
            "the data frame has neither a column file nor an index of audformat, its columns are "
            f"{', '.join(map(str, clips.columns))}"
        )
    rows = rows[[name for name in INDEX_COLUMNS if name in rows]].reset_index(drop=True)
    if rows["file"].isna().any():
        raise CorpusError("the data frame has rows without a file")
    files = [str(file) for file in rows["file"]]
    limits = timedeltas(rows, "start"), timedeltas(rows, "end")
    index, root = audformat.segmented_index(files, *limits), clips.attrs.get("root")
    if root is None:  # from anywhere
        files, root = [os.path.abspath(file) for file in files], os.path.abspath(os.sep)
    table = pd.DataFrame(index=audformat.segmented_index(files, *limits))
    table.attrs = {"name": "the data frame", **clips.attrs, "root": root}
    return index, table


def places_of(table: pd.DataFrame) -> Iterator[Place]:
    """Yield root, file, start and end of each row of a corpus table."""
    return ((table.attrs["root"], *clip) for clip in table.index)
