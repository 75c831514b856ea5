"""Scores of recordings, their windows and raw streams, as tables, CSV and JSON."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
from tqdm import tqdm

from paraclap.audio import AudioError
from paraclap.audio.containers import read_duration
from paraclap.audio.paths import resolve_inside
from paraclap.audio.segments import windows
from paraclap.evaluation.report import plot_timeline
from paraclap.files import atomic_write
from paraclap.inference.api import ParaCLAP, Question

FORMATS = ("table", "csv", "json", "jsonl")
JSON_MARKS = {"json": ("[\n", ",\n", "\n]\n"), "jsonl": ("", "\n", "\n")}  # start, between, end
SAMPLE = np.dtype("<i2")  # of --stdin-pcm
LEGEND = (
    "probability: softmax over these prompts alone. none: against sentences true of any speech."
)


# --- Files ---------------------------------------------------------------------------------------


def answer_clips(
    paraclap: ParaCLAP,
    clips: pd.DataFrame,
    question: Question,
    window: float | None = None,
    hop: float | None = None,
) -> Iterator[pd.DataFrame]:
    """Yield the answers about one clip after the other, in their order.

    Args:
        paraclap: the model.
        clips: table of `corpora.read_clips`.
        question: what is asked.
        window: ask about windows of this length [s]; None = about whole clips.
        hop: from window to window [s]; None = the window.

    Yields:
        For each clip a table of `file`, `start`, `end` [s] (of the clip, or of its windows),
        `error` (why there is no answer, else empty), and the columns of `Question.answer`.
    """
    # Windows of one clip fill batches; without them, clips have to share batches.
    if window is not None:
        for clip in clips.itertuples(index=False):
            yield _answer_windows(paraclap, clip, question, window, hop or window)
        return
    places = clips[["root", "file", "start", "end"]].itertuples(index=False, name=None)
    for clip, heard in zip(
        clips.itertuples(index=False), paraclap.embed_clips(places), strict=True
    ):
        limits = (clip.start, clip.end)
        yield _answers(clip.name, [limits], [heard], question)


def _answer_windows(
    paraclap: ParaCLAP, clip: tuple, question: Question, window: float, hop: float
) -> pd.DataFrame:
    """Answer about the windows of one clip, none of which is shorter unless the clip is."""
    first, last = clip.start, clip.end
    try:
        path = resolve_inside(clip.root, clip.file)
        last = read_duration(path) if np.isnan(last) else last
    except AudioError as error:
        return _answers(clip.name, [(first, last)], [error], question)
    limits = [(first + a, first + b) for a, b in windows(last - first, window, hop)]
    heard = paraclap.embed_clips((clip.root, clip.file, *place) for place in limits)
    bar = tqdm(heard, clip.name, len(limits), unit="window", disable=None, leave=False)
    return _answers(clip.name, limits, list(bar), question)


def _answers(
    name: str,
    limits: Sequence[tuple[float, float]],
    heard: Sequence[np.ndarray | AudioError],
    question: Question,
) -> pd.DataFrame:
    """Put places, errors and answers side by side."""
    table = pd.DataFrame(limits, columns=["start", "end"])
    table.insert(0, "file", name)
    table["error"] = [str(item) if isinstance(item, AudioError) else "" for item in heard]
    good = [row for row, item in enumerate(heard) if not isinstance(item, AudioError)]
    audio = np.array([heard[row] for row in good], np.float32)
    answers = question.answer(audio.reshape(len(good), question.texts.shape[1])).set_axis(good)
    return table.join(answers)


# --- Streams -------------------------------------------------------------------------------------


def stream_windows(
    stream: BinaryIO, rate: int, window: float, hop: float
) -> Iterator[tuple[float, float, np.ndarray]]:
    """Yield (start [s], end [s], samples int16) of a raw stream, as soon as they are there.

    The windows are those of `paraclap.windows`; the last one may only come when the stream ends.

    Args:
        stream: 16-bit little-endian mono samples.
        rate: of the samples [Hz].
        window: length [s].
        hop: from window to window [s]; at most the window.
    """
    size, step = round(window * rate), round(hop * rate)
    if not 0 < step <= size:
        raise ValueError(f"window {window:g} s, hop {hop:g} s: expected 0 < hop <= window")
    kept = np.zeros(0, SAMPLE)  # the last samples, at most a window
    heard, awaited = 0, size  # samples so far, and at the end of the next window
    while True:
        content = stream.read((awaited - heard) * SAMPLE.itemsize)
        new = np.frombuffer(content[: len(content) // 2 * 2], SAMPLE)
        heard += len(new)
        kept = np.concatenate([kept, new])[-size:]
        at_end = heard < awaited
        is_new = not at_end or len(new) > 0
        if is_new:
            yield (heard - len(kept)) / rate, heard / rate, kept
        if at_end:
            return
        awaited += step


def answer_stream(
    paraclap: ParaCLAP, stream: BinaryIO, rate: int, question: Question, window: float, hop: float
) -> Iterator[pd.DataFrame]:
    """Yield the answer about each window of a raw stream, see `stream_windows`."""
    for start, end, samples in stream_windows(stream, rate, window, hop):
        embedding = paraclap.embed_audio(samples, rate)
        yield _answers("-", [(start, end)], [embedding], question)


# --- Output --------------------------------------------------------------------------------------


def rows_of(answers: pd.DataFrame, names: Sequence[str]) -> Iterator[dict[str, object]]:
    """Yield each row as an object for JSON; an `end` of None is the end of the file."""
    for row in answers.to_dict("records"):
        place = {name: None if pd.isna(row[name]) else row[name] for name in ("start", "end")}
        if row["error"]:
            yield {"file": row["file"], **place, "error": row["error"]}
            continue
        told = {name: float(row[name]) for name in ("probability", "none_of_these")}
        prompts = {
            name: {kind: float(row[f"{kind}.{name}"]) for kind in ("probability", "cosine")}
            for name in names
        }
        yield {"file": row["file"], **place, "best": row["best"], **told, "prompts": prompts}


def lines_of(answers: pd.DataFrame, names: Sequence[str]) -> Iterator[str]:
    """Yield each row as a line of the table on screen."""
    width = max(map(len, names))
    columns = {"none": "none_of_these"} | {name: f"probability.{name}" for name in names}
    for row in answers.to_dict("records"):
        end = f"{'-':>9}" if pd.isna(row["end"]) else f"{row['end']:9.2f}"
        if row["error"]:
            yield f"{row['start']:9.2f} {end}  {row['error']}"
            continue
        cells = " ".join(f"{row[c]:{max(len(head), 5)}.3f}" for head, c in columns.items())
        yield f"{row['start']:9.2f} {end}  {row['best']:<{width}}  {cells}  {row['file']}"


def _header(names: Sequence[str]) -> str:
    heads = " ".join(f"{name:>5}" for name in ("none", *names))
    return f"{'start':>9} {'end':>9}  {'best':<{max(map(len, names))}}  {heads}  file"


def texts_of(answers: Iterable[pd.DataFrame], names: Sequence[str], kind: str) -> Iterator[str]:
    """Yield the text of one table of answers after the other, in one of FORMATS."""
    if kind == "csv":
        for number, table in enumerate(answers):
            yield table.to_csv(index=False, header=number == 0, lineterminator="\n")
    elif kind == "table":
        yield _header(names) + "\n"
        for table in answers:
            yield "".join(f"{line}\n" for line in lines_of(table, names))
        yield LEGEND + "\n"
    else:
        rows = (row for table in answers for row in rows_of(table, names))
        texts = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows)
        start, joint, end = JSON_MARKS[kind]
        for number, text in enumerate(texts):
            yield (joint if number else start) + text
        yield end


def picture_path(folder: Path, file: str, number: int) -> Path:
    """Return where the picture of a recording goes: its number and its name, without folders."""
    stem = re.sub(r"[^\w.-]+", "_", Path(file).stem) or "stream"
    return folder / f"{number:04d}_{stem[:100]}.png"


def write_timelines(folder: Path, answers: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """Hand answers on, and draw those of each recording."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, table in enumerate(answers):
        good = table[table["error"] == ""]
        if len(good):
            file = table["file"].iloc[0]
            with atomic_write(picture_path(folder, file, number)) as temporary:
                plot_timeline(good, file).savefig(temporary, format="png")
        yield table
