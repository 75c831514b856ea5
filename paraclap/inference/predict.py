"""Zero-shot scores of clips, windows and streams, written as a table, CSV or JSON."""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
from tqdm import tqdm

from paraclap.audio import AudioError
from paraclap.audio.conditioning import condition_with_report
from paraclap.audio.containers import read_duration
from paraclap.audio.paths import resolve_inside
from paraclap.audio.segments import windows
from paraclap.files import atomic_write, output_errors
from paraclap.inference.api import ParaCLAP
from paraclap.inference.classifier import ZeroShotClassifier
from paraclap.inference.clips import EmbeddedClip, ReadClip, quality_of
from paraclap.inference.limits import check_windows

JSON_MARKS = {"json": ("[\n", ",\n", "\n]\n"), "jsonl": ("", "\n", "\n")}  # start, between, end
SAMPLE = np.dtype("<i2")  # of streams
LEGEND = (
    "probability: softmax over these prompts. none: probability of a neutral class beside them."
)


# --- Scores --------------------------------------------------------------------------------------


def score_clips(
    paraclap: ParaCLAP,
    clips: pd.DataFrame,
    classifier: ZeroShotClassifier,
    window: float | None = None,
    hop: float | None = None,
) -> Iterator[pd.DataFrame]:
    """Yield the scores of each clip of a table of `read_clips`, in order.

    `window` is the length of windows [s], `hop` the distance of their starts [s] (None = the
    window); without a window, clips are scored as a whole.

    Yields:
        For each clip a table of `file`, `start`, `end` [s] (of the clip, or of its windows),
        `error` (why it cannot be read, else empty), `quality` (flags that question the result, see
        `quality_of`), and the columns of `ZeroShotClassifier`.
    """
    # Windows of one clip fill batches; whole clips have to share batches.
    if window is not None:
        for clip in clips.itertuples(index=False):
            yield _score_windows(paraclap, clip, classifier, window, hop or window)
        return
    places = clips[["root", "file", "start", "end"]].itertuples(index=False, name=None)
    embedded = paraclap.embed_clips(places)
    for clip, item in zip(clips.itertuples(index=False), embedded, strict=True):
        yield _score_table(clip.name, [(clip.start, clip.end)], [item], classifier)


def _score_windows(
    paraclap: ParaCLAP, clip: tuple, classifier: ZeroShotClassifier, window: float, hop: float
) -> pd.DataFrame:
    """Score the windows of one clip, which are full unless the clip is shorter."""
    first, last = clip.start, clip.end
    try:
        path = resolve_inside(clip.root, clip.file)
        last = read_duration(path) if np.isnan(last) else last
    except AudioError as error:
        return _score_table(clip.name, [(first, last)], [error], classifier)
    limits = [(first + a, first + b) for a, b in windows(last - first, window, hop)]
    embedded = paraclap.embed_clips((clip.root, clip.file, *place) for place in limits)
    bar = tqdm(embedded, clip.name, len(limits), unit="window", disable=None, leave=False)
    return _score_table(clip.name, limits, list(bar), classifier)


def stream_windows(
    stream: BinaryIO, rate: int, window: float, hop: float
) -> Iterator[tuple[float, float, np.ndarray]]:
    """Yield (start [s], end [s], samples int16) of a raw stream, as soon as a window is complete.

    The stream has 16-bit little-endian mono samples. The windows are those of `windows`; the last
    one may only come when the stream ends.

    Raises:
        WindowError: for windows or hops that are too short, or a hop longer than the window.
        AudioError: if the stream ends without a sample.
    """
    check_windows(window, hop)
    size, step = round(window * rate), round(hop * rate)
    kept = np.zeros(0, SAMPLE)  # the last samples, at most a window
    received, next_end = 0, size  # samples so far, and at the end of the next window
    while True:
        content = stream.read((next_end - received) * SAMPLE.itemsize)
        new = np.frombuffer(content[: len(content) // 2 * 2], SAMPLE)
        received += len(new)
        kept = np.concatenate([kept, new])[-size:]
        has_ended = received < next_end
        if not has_ended or len(new) > 0:
            yield (received - len(kept)) / rate, received / rate, kept
        if not received:
            raise AudioError("empty", "the stream ended without a sample")
        if has_ended:
            return
        next_end += step


def score_stream(
    paraclap: ParaCLAP,
    stream: BinaryIO,
    rate: int,
    classifier: ZeroShotClassifier,
    window: float,
    hop: float,
) -> Iterator[pd.DataFrame]:
    """Yield the scores of each window of a raw stream, see `stream_windows`; Ctrl-C ends it."""
    with suppress(KeyboardInterrupt):
        for start, end, samples in stream_windows(stream, rate, window, hop):
            waveform, report = condition_with_report(samples, rate)
            clip = ReadClip("the stream", waveform, quality_of(waveform, report))
            yield _score_table("-", [(start, end)], [paraclap.embed_clip(clip)], classifier)


def _score_table(
    name: str,
    limits: Sequence[tuple[float, float]],
    embedded: Sequence[EmbeddedClip | AudioError],
    classifier: ZeroShotClassifier,
) -> pd.DataFrame:
    """Return limits, errors, quality and scores of the windows of one file."""
    table = pd.DataFrame(limits, columns=["start", "end"], dtype=float).round(9)  # to ns
    table.insert(0, "file", pd.Series([name] * len(table), dtype=object))  # need not be UTF-8
    table["error"] = [str(item) if isinstance(item, AudioError) else "" for item in embedded]
    good = {row: item for row, item in enumerate(embedded) if isinstance(item, EmbeddedClip)}
    table["quality"] = [good[row].quality if row in good else "" for row in range(len(table))]
    audio = np.array([item.embedding for item in good.values()], np.float32)
    scores = classifier(audio.reshape(len(good), classifier.texts.shape[1]))
    return table.join(scores.set_axis(list(good)))


# --- Output --------------------------------------------------------------------------------------


def json_rows(
    scores: pd.DataFrame, names: Sequence[str], untrained: Collection[str] = ()
) -> Iterator[dict[str, object]]:
    """Yield each row as an object for JSON; `end` None = the end of the file."""
    for row in scores.to_dict("records"):
        place = {name: None if pd.isna(row[name]) else row[name] for name in ("start", "end")}
        if row["error"]:
            yield {"file": row["file"], **place, "error": row["error"]}
            continue
        summary = {name: float(row[name]) for name in ("confidence", "none_of_these")}
        prompts = {
            name: {
                "probability": float(row[f"probability.{name}"]),
                "cosine": float(row[f"cosine.{name}"]),
                "trained": name not in untrained,
            }
            for name in names
        }
        rest = {"prediction": row["prediction"], **summary, "prompts": prompts}
        yield {"file": row["file"], **place, "quality": row["quality"], **rest}


def table_lines(scores: pd.DataFrame, names: Sequence[str]) -> Iterator[str]:
    """Yield each row as a line of the table on screen."""
    width = _width(names)
    columns = {"none": "none_of_these"} | {name: f"probability.{name}" for name in names}
    for row in scores.to_dict("records"):
        end = f"{'-':>9}" if pd.isna(row["end"]) else f"{row['end']:9.2f}"
        if row["error"]:
            yield f"{row['start']:9.2f} {end}  {row['error']}"
            continue
        cells = " ".join(f"{row[c]:{max(len(head), 5)}.3f}" for head, c in columns.items())
        line = f"{row['start']:9.2f} {end}  {row['prediction']:<{width}}  {cells}  {row['file']}"
        yield f"{line}  (check: {row['quality']})" if row["quality"] else line


def _width(names: Sequence[str]) -> int:
    """Return the width of the column `prediction` on screen."""
    return max(map(len, ["prediction", *names]))


def formatted(
    scores: Iterable[pd.DataFrame], classifier: ZeroShotClassifier, kind: str
) -> Iterator[str]:
    """Yield the text of each table of scores as "table", "csv", "json" (one list) or "jsonl"."""
    names = classifier.names
    if kind == "csv":
        trained = {f"trained.{name}": name not in classifier.untrained for name in names}
        for number, table in enumerate(scores):
            table = table.assign(**trained)
            yield table.to_csv(index=False, header=number == 0, lineterminator="\n")
    elif kind == "table":
        heads = " ".join(f"{name:>5}" for name in ("none", *names))
        yield f"{'start':>9} {'end':>9}  {'prediction':<{_width(names)}}  {heads}  file\n"
        for table in scores:
            yield "".join(f"{line}\n" for line in table_lines(table, names))
        yield LEGEND + "\n"
    else:
        rows = (row for table in scores for row in json_rows(table, names, classifier.untrained))
        texts = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows)
        start, joint, end = JSON_MARKS[kind]
        for number, text in enumerate(texts):
            yield (joint if number else start) + text
        yield end


class Summary:
    """Counts of the scored clips or windows, which are passed on unchanged.

    Attributes:
        rows: number of clips or windows.
        errors: number of clips that cannot be read.
        first_error: the first of their errors.
        flags: number of clips or windows with each quality flag.
    """

    def __init__(self) -> None:
        self.rows = self.errors = 0
        self.first_error = ""
        self.flags: Counter[str] = Counter()

    def counting(self, scores: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        """Yield the scores of each clip."""
        for table in scores:
            failed = table.loc[table["error"] != "", "error"]
            if len(failed):
                self.errors += 1
                self.first_error = self.first_error or failed.iloc[0]
            for quality in table["quality"]:
                self.flags.update(flag.partition(":")[0] for flag in quality.split(";") if flag)
            self.rows += len(table)
            yield table


def write_scores(path: Path, texts: Iterable[str], live: bool) -> None:
    """Write texts to a file as they come, in bounded memory.

    Args:
        path: of the file.
        texts: of `formatted`.
        live: write to the file itself, where every text is found at once and remains if the process
            ends early; False = replace the file when all texts are written.

    Raises:
        OutputError: if the file cannot be written.
    """
    target = nullcontext(path) if live else atomic_write(path)
    # Names that are not UTF-8 are escaped, in JSON without loss.
    form = {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
    with output_errors(path, path), target as place, open(place, "w", **form) as stream:
        for text in texts:
            stream.write(text)
            stream.flush()
