"""Tables of an analysis of the web page: measured values, scores, curves, excerpts.

    acoustics_table(analysis)    # measured values beside the training clips
    score_table(analysis, "a.wav").to_csv("a.csv")    # columns as in predict.py

Letters: T samples at 16 kHz.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import percentileofscore

from paraclap.audio import SAMPLING_RATE
from paraclap.audio.paths import resolve_inside
from paraclap.audio.reading import read_audio
from paraclap.inference.limits import PLAYED_SECONDS
from paraclap.inference.measurement import distinct_digits
from paraclap.inference.page import Analysis


@dataclass(frozen=True)
class Display:
    """Title and unit of a descriptor on the page.

    Attributes:
        title: of the row.
        unit: after conversion.
        digits: after the point.
        convert: from the unit of the functional.
    """

    title: str
    unit: str
    digits: int
    convert: Callable[[float], float] = float

    def text(self, *values: float, digits: int | None = None) -> str:
        """Return a value, or both ends of a range, with the unit; None = the usual `digits`."""
        if np.isnan(values).any():
            return "undefined"
        digits = self.digits if digits is None else digits
        numbers = " to ".join(f"{self.convert(value):.{digits}f}" for value in values)
        return f"{numbers} {self.unit}".strip()

    def digits_apart(self, value: float, *bounds: float) -> int:
        """Return the `distinct_digits` of a value and the bounds of its levels."""
        return distinct_digits(
            value, bounds, lambda number, digits: round(self.convert(number), digits), self.digits
        )


def hertz(semitones: float) -> float:
    """Convert semitones above 27.5 Hz to Hz."""
    return 27.5 * 2 ** (semitones / 12)


DISPLAYS = {
    "pitch": Display("Pitch", "Hz", 0, hertz),
    "pitch_variation": Display("Pitch variation", "%", 1, lambda v: 100 * v),
    "intensity": Display("Sound level", "dBFS", 1),
    "loudness": Display("Loudness", "", 2),
    "jitter": Display("Jitter", "%", 2, lambda v: 100 * v),
    "shimmer": Display("Shimmer", "dB", 2),
    "duration": Display("Duration", "s", 1),
}


def acoustics_table(analysis: Analysis) -> pd.DataFrame:
    """Return the measured values as text: `descriptor`, `value`, and what is known beyond.

    With edges there are `level` and `normal range`, with features `percentile` among the training
    clips.
    """
    rows = []
    for name, row in analysis.acoustics.iterrows():
        display = DISPLAYS[name]
        has_bounds = not pd.isna(row["low"])
        bounds = [row["low"], row["high"]] if has_bounds else []
        digits = display.digits_apart(row["value"], *bounds)
        line = {"descriptor": display.title, "value": display.text(row["value"], digits=digits)}
        if has_bounds:
            line["level"] = "" if pd.isna(row["level"]) else row["level"].replace("_", " ")
            line["normal range"] = display.text(*bounds, digits=digits)
        if name in analysis.reference and not np.isnan(row["value"]):
            rank = percentileofscore(analysis.reference[name], row["value"], "mean")
            line["percentile"] = f"{rank:.0f}"
        rows.append(line)
    return pd.DataFrame(rows).fillna("")


def timeline_table(analysis: Analysis) -> pd.DataFrame:
    """Return `prompt`, `time` [s] (centre of the window) and `probability`, a row for each pair."""
    time = (analysis.timeline["start"] + analysis.timeline["end"]) / 2
    columns = [analysis.timeline[f"probability.{name}"] for name in analysis.names]
    curves = pd.concat(columns, axis=1).set_axis(pd.Index(analysis.names, name="prompt"), axis=1)
    return curves.set_index(time.rename("time")).unstack().rename("probability").reset_index()


def window_table(analysis: Analysis) -> pd.DataFrame:
    """Return the scores of each window, or of the whole recording as one window."""
    if analysis.timeline is not None:
        return analysis.timeline
    row = {"start": 0.0, "end": analysis.seconds}
    row["prediction"] = max(analysis.names, key=lambda name: analysis.scores[f"cosine.{name}"])
    row["confidence"] = analysis.scores[f"probability.{row['prediction']}"]
    return pd.DataFrame([row | analysis.scores.to_dict() | {"quality": ";".join(analysis.flags)}])


def score_table(analysis: Analysis, name: str) -> pd.DataFrame:
    """Return `window_table` after the name of the recording, `file`."""
    table = window_table(analysis).copy()
    table.insert(0, "file", name)
    return table


def excerpt(hit: pd.Series) -> tuple[int, np.ndarray]:
    """Return sampling rate [Hz] and the beginning (T,) of a similar clip, as 16-bit integers.

    Raises:
        AudioError: if it cannot be read.
    """
    path = resolve_inside(hit["root"], hit["file"])
    waveform = read_audio(path, hit["start"], None if np.isnan(hit["end"]) else hit["end"])
    played = waveform[: round(PLAYED_SECONDS * SAMPLING_RATE)]
    return SAMPLING_RATE, (played * 32767).round().astype(np.int16)
