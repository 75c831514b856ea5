r"""What the web page answers: a recording and prompts in, scores, acoustics and HTML out.

    listener = Listener(ParaCLAP.from_pretrained("runs/small"), edges=Path("captions.edges.json"))
    answer = listener.answer("upload.wav", "angry\ncalm", "the speaker sounds {}")
    scores_html(answer)     # a bar for each prompt
    acoustics_html(answer)  # what was measured, and where it lies among the training clips

Knows nothing of gradio, which shows it (app.py). Whatever a person did wrong is a
`RefusalError`, in words for that person; paths of this machine are not in them.

Letters: T samples at 16 kHz, W windows, D embedding size.
"""

import base64
import html
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile

from paraclap.audio import SAMPLING_RATE, AudioError
from paraclap.audio.paths import resolve_inside
from paraclap.audio.reading import read_audio, read_audio_with_report
from paraclap.audio.segments import windows
from paraclap.errors import ParaCLAPError
from paraclap.inference.api import ParaCLAP, Question
from paraclap.inference.describe import groups_of_edges, measured_levels, reference_values
from paraclap.inference.index import ClipIndex
from paraclap.inference.search import find

PROMPTS = 20
"""Most prompts that are asked at a time."""
QUERY_LETTERS = 200
"""Longest prompt or sentence around it."""
NEIGHBOURS = 5
"""Similar clips that are shown."""
PLAYED_SECONDS = 20.0
"""Most that is played of a similar clip [s]: its samples travel inside of the page."""
BARS = 30
"""Bars of a histogram."""
TAILS = 0.005
"""Share of the training clips at either end that a histogram leaves out."""

HINTS = {
    "empty": "Record or choose it again.",
    "needs_ffmpeg": "Save it as WAV, FLAC, MP3 or OGG and choose it again.",
    "non_finite": "Export it again from the program that made it.",
    "not_audio": "WAV, FLAC, MP3 and OGG can be read.",
    "silent": "Is the microphone on, and the right one?",
    "text": "WAV, FLAC, MP3 and OGG can be read.",
    "too_long": "Choose a shorter one, or cut it with the scissors below the waveform.",
    "too_short": "Choose a longer one.",
    "truncated": "Was it copied or downloaded to the end?",
}
"""Reason of an `AudioError` -> what can be done about it."""
FLAGS = {
    "antiphase": "its channels cancel each other, their mean is all but silent",
    "clipped": "it is clipped: samples stand at full scale",
    "offset": "it has a constant offset, which shifts pitch and loudness",
    "silent_channels": "a channel is silent; the mean of all is heard",
    "truncated": "its end is missing",
    "unvoiced": "no voiced sound was found in it",
}
"""Flags of `audio.Report` that are worth telling a person."""


class RefusalError(ParaCLAPError, ValueError):
    """Why there is no answer, in words for the person who asked."""


@dataclass(frozen=True)
class Limits:
    """What one question may cost.

    Attributes:
        seconds: longest recording [s]; told from the header, before it is decoded.
        whole: longest recording that is heard as a whole [s]; others are heard in windows.
        window: length of these [s].
        hop: from window to window [s].
    """

    seconds: float = 300.0
    whole: float = 12.0
    window: float = 4.0
    hop: float = 2.0


@dataclass(frozen=True)
class Answer:
    """What the page says about one recording.

    Attributes:
        name: of the recording.
        seconds: its duration [s].
        scores: `Question.answer` of it, one row.
        names: of the prompts.
        timeline: the same of each window, with `start` and `end` [s]; None = heard as a whole.
        acoustics: table of `descriptions.measured_levels`.
        reference: descriptor -> values of the training clips, ascending; may be empty.
        neighbours: table of `search.find`; None = no index.
        notes: what is odd about the recording.
    """

    name: str
    seconds: float
    scores: pd.Series
    names: tuple[str, ...]
    timeline: pd.DataFrame | None
    acoustics: pd.DataFrame
    reference: Mapping[str, np.ndarray] = field(default_factory=dict)
    neighbours: pd.DataFrame | None = None
    notes: tuple[str, ...] = ()


class Listener:
    """A model, and what recordings are compared with; loaded once, asked from any thread.

    Attributes:
        groups: column -> its groups, one of which has to be told for levels; mostly empty.
    """

    def __init__(
        self,
        paraclap: ParaCLAP,
        edges: Path | None = None,
        features: Path | None = None,
        index: ClipIndex | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Read what recordings are compared with.

        Args:
            paraclap: the model.
            edges: `captions.edges.json`: what is low and high; None = no levels.
            features: table that the edges were fitted to: where values lie; None = not told.
            index: clips among which similar ones are looked for; None = none.
            limits: of one question.

        Raises:
            ClipIndexError: if the index is of another model
            ValueError: if there are features without edges, or a file holds something else
        """
        if features is not None and edges is None:
            raise ValueError(f"{features} needs the edges that were fitted to it")
        if index is not None:
            index.check(paraclap)
        self.paraclap, self.edges, self.index = paraclap, edges, index
        self.limits = limits or Limits()
        self.groups = {} if edges is None else groups_of_edges(edges)
        self._features = features
        self._references: dict[tuple, dict[str, np.ndarray]] = {}
        if not self.groups:
            self._reference({})  # a wrong table is told at the start

    def answer(
        self,
        path: str | Path | None,
        prompts: str,
        template: str = "{}",
        labels: Mapping[str, str] | None = None,
    ) -> Answer:
        """Answer prompts about a recording.

        Args:
            path: of the recording; None = there is none.
            prompts: one a line.
            template: sentence around each, with {} where it goes; empty = none.
            labels: column -> group of the recording, where edges are by group; what is not told is
                left out, and then there are no levels.

        Raises:
            RefusalError: if anything about the recording or the prompts does not do
        """
        question = self._ask(prompts, template)
        if path is None:
            raise RefusalError(
                "There is no recording yet: choose a file, record one, or try a clip."
            )
        path = Path(path)
        labels = {column: label for column, label in (labels or {}).items() if label}
        is_told = set(self.groups) <= set(labels)
        edges = self.edges if is_told else None
        try:
            waveform, report = read_audio_with_report(path, max_seconds=self.limits.seconds)
            acoustics = measured_levels(waveform, edges, labels)
        except AudioError as error:
            raise RefusalError(_explain(error, path)) from error
        seconds = len(waveform) / SAMPLING_RATE
        places = self._places(seconds)
        heard = self.paraclap.embed_waveforms([_cut(waveform, *place) for place in places])
        mean = heard.mean(axis=0)
        embedding = mean / np.linalg.norm(mean)
        flags = [flag.partition(":")[0] for flag in report.flags()]
        if "pitch" in acoustics.index and np.isnan(acoustics.loc["pitch", "value"]):
            flags.append("unvoiced")
        timeline = None
        if len(places) > 1:
            table = pd.DataFrame(places, columns=["start", "end"])
            timeline = pd.concat([table, question.answer(heard)], axis=1)
        return Answer(
            name=path.name,
            seconds=seconds,
            scores=question.answer(embedding[None]).iloc[0],
            names=question.names,
            timeline=timeline,
            acoustics=acoustics,
            reference=self._reference(labels) if edges is not None else {},
            neighbours=self._neighbours(embedding),
            notes=tuple(FLAGS[flag] for flag in flags if flag in FLAGS),
        )

    def _ask(self, prompts: str, template: str) -> Question:
        """Embed prompts, one a line."""
        lines = [line.strip() for line in prompts.splitlines() if line.strip()]
        if not lines:
            raise RefusalError("There is no prompt yet: write one a line, such as “angry”.")
        if len(lines) > PROMPTS:
            raise RefusalError(f"{len(lines)} prompts, expected at most {PROMPTS}.")
        template = template.strip() or "{}"
        longest = max([*lines, template], key=len)
        if len(longest) > QUERY_LETTERS:
            told = f"“{longest[:40]}…” has {len(longest)} letters"
            raise RefusalError(f"{told}, expected at most {QUERY_LETTERS}.")
        try:
            return self.paraclap.ask(lines, template)
        except ValueError as error:
            raise RefusalError(f"{str(error)[:1].upper()}{str(error)[1:]}.") from error

    def _places(self, seconds: float) -> list[tuple[float, float]]:
        """Return (start, end) [s] of what is embedded."""
        if seconds <= self.limits.whole:
            return [(0.0, seconds)]
        return list(windows(seconds, self.limits.window, self.limits.hop))

    def _reference(self, labels: Mapping[str, str]) -> dict[str, np.ndarray]:
        """Return the values of the training clips of a group, read once."""
        if self._features is None or self.edges is None:
            return {}
        key = tuple(sorted(labels.items()))
        if key not in self._references:
            self._references[key] = reference_values(self._features, self.edges, labels)
        return self._references[key]

    def _neighbours(self, embedding: np.ndarray) -> pd.DataFrame | None:
        if self.index is None:
            return None
        return find(self.index, {"recording": embedding}, NEIGHBOURS)


def _cut(waveform: np.ndarray, start: float, end: float) -> np.ndarray:
    return waveform[round(start * SAMPLING_RATE) : round(end * SAMPLING_RATE)]


def _explain(error: AudioError, path: Path) -> str:
    """Return the words of an error, without the folders of this machine, and what helps."""
    if error.reason == "missing":  # uploads are not kept for ever
        return "The recording is not here any more: choose or record it again."
    sentence = str(error).replace(str(path), path.name)
    if path.name not in sentence:
        sentence = f"{path.name}: {sentence}"
    return " ".join([f"{sentence.rstrip('.')}.", *filter(None, [HINTS.get(error.reason)])])


# --- Scores --------------------------------------------------------------------------------------


def ranked(answer: Answer) -> list[str]:
    """Return the prompts, the one that fits best first."""
    return sorted(answer.names, key=lambda name: -answer.scores[f"probability.{name}"])


def scores_html(answer: Answer) -> str:
    """Return a bar for each prompt, the best first."""
    scores = answer.scores
    rows = [
        _bar(name, scores[f"probability.{name}"], f"cosine {scores[f'cosine.{name}']:.2f}", place)
        for place, name in enumerate(ranked(answer))
    ]
    said = [f"{answer.seconds:.1f} s"]
    if answer.timeline is not None:
        said.append(f"mean of {len(answer.timeline)} windows")
    said += answer.notes
    notes = [
        "Shares add up to 100 % over these prompts, even if all of them are wrong; the cosine of a"
        " prompt does not depend on the others."
    ]
    if len(answer.names) == 1:
        notes.insert(0, "A single prompt always gets 100 %: ask for its opposite too.")
    return (
        f"<section class='pc'><h2>{html.escape(answer.name)}</h2>"
        f"<p class='pc-sub'>{html.escape(' · '.join(said))}</p>"
        f"<table class='pc-bars'><caption>How well each prompt fits</caption><tbody>{''.join(rows)}"
        f"</tbody></table><p class='pc-none'>A sentence true of any speech, asked beside them, gets"
        f" <b>{percent(scores['none_of_these'])}</b>.</p>"
        f"<p class='pc-sub'>{' '.join(notes)}</p></section>"
    )


def _bar(name: str, share: float, detail: str, place: int) -> str:
    best = " class='pc-best'" if place == 0 else ""
    return (
        f"<tr{best}><th scope='row'>{html.escape(name)}</th>"
        f"<td class='pc-track'><span class='pc-fill' style='width:{100 * share:.1f}%'></span></td>"
        f"<td class='pc-number'>{percent(share)}<small>{html.escape(detail)}</small></td></tr>"
    )


def percent(share: float) -> str:
    """Return a share in words of a person."""
    return f"{100 * share:.0f} %"


def timeline_html(answer: Answer) -> str:
    """Return the share of each prompt over time, in the order of the bars.

    Raises:
        ValueError: if the recording was heard as a whole
    """
    if answer.timeline is None:
        raise ValueError(f"{answer.name} was heard as a whole, there is no timeline")
    rows = [
        f"<tr><th scope='row'>{html.escape(name)}</th><td>{_curve(answer, name)}</td></tr>"
        for name in ranked(answer)
    ]
    half = answer.seconds / 2
    axis = "".join(f"<span>{clock(time)}</span>" for time in (0.0, half, answer.seconds))
    return (
        "<section class='pc'><h2>Over time</h2><p class='pc-sub'>Each curve from 0 to 100 %, in"
        f" windows of {answer.timeline['end'][0] - answer.timeline['start'][0]:g}&nbsp;s.</p>"
        "<table class='pc-time'><caption>Share of each prompt over time</caption><tbody>"
        f"{''.join(rows)}<tr><th></th><td class='pc-axis'>{axis}</td></tr></tbody></table>"
        "</section>"
    )


def _curve(answer: Answer, name: str) -> str:
    """Draw the share of a prompt, from 0 to 1, with the window under the mouse in words."""
    starts, ends = answer.timeline["start"].to_numpy(), answer.timeline["end"].to_numpy()
    shares = answer.timeline[f"probability.{name}"].to_numpy()
    middles = np.concatenate([[0], (starts + ends) / 2, [answer.seconds]]) / answer.seconds * 100
    heights = 100 * (1 - np.concatenate([shares[:1], shares, shares[-1:]]))
    line = " ".join(f"{x:.2f},{y:.1f}" for x, y in zip(middles, heights, strict=True))
    borders = np.concatenate([[0], (middles[1:-2] + middles[2:-1]) / 2, [100]])
    told = [
        f"<rect class='pc-told' x='{x:.2f}' width='{width:.2f}' height='100'>"
        f"<title>{clock(start)} to {clock(end)}: {percent(share)}</title></rect>"
        for x, width, start, end, share in zip(
            borders[:-1], np.diff(borders), starts, ends, shares, strict=True
        )
    ]
    best = int(shares.argmax())
    said = f"highest from {clock(starts[best])} to {clock(ends[best])}, {percent(shares[best])}"
    return (
        f"<svg viewBox='0 0 100 100' preserveAspectRatio='none' role='img' aria-label='{said}'>"
        f"<polygon class='pc-area' points='0,100 {line} 100,100'/>"
        f"<polyline class='pc-line' points='{line}'/>{''.join(told)}</svg>"
    )


def clock(seconds: float) -> str:
    """Return a time as minutes and seconds."""
    return f"{int(seconds + 0.5) // 60}:{int(seconds + 0.5) % 60:02d}"


# --- Acoustics -----------------------------------------------------------------------------------


def hertz(semitones: float) -> float:
    """Return semitones above 27.5 Hz in Hz."""
    return 27.5 * 2 ** (semitones / 12)


@dataclass(frozen=True)
class Display:
    """How a descriptor is shown: its title, and a number people know."""

    title: str
    unit: str
    digits: int
    convert: Callable[[float], float] = float


DISPLAYS = {
    "pitch": Display("Pitch", "Hz", 0, hertz),
    "pitch_variation": Display("Pitch variation", "%", 1, lambda v: 100 * v),
    "intensity": Display("Loudness", "dBFS", 1),
    "loudness": Display("Loudness, perceived", "", 2),
    "jitter": Display("Jitter", "%", 2, lambda v: 100 * v),
    "shimmer": Display("Shimmer", "dB", 2),
    "duration": Display("Duration", "s", 1),
}


def acoustics_html(answer: Answer) -> str:
    """Return what was measured: value, level, and where it lies among the training clips."""
    rows = []
    for name, row in answer.acoustics.iterrows():
        display = DISPLAYS[name]
        value = f"<b>{display.convert(row['value']):.{display.digits}f}</b> {display.unit}"
        if np.isnan(row["value"]):
            value = "<i>undefined</i>"
        level = "" if pd.isna(row["level"]) else f"<span class='pc-level'>{row['level']}</span>"
        values = answer.reference.get(name)
        place = _place(row, values)
        strip = "" if pd.isna(row["level"]) else _strip(row, values)
        rows.append(
            f"<tr><th scope='row'>{display.title}</th><td>{value}</td><td>{level}</td>"
            f"<td class='pc-strip'>{strip}<small>{place}</small></td></tr>"
        )
    phrases = [html.escape(p) for p in answer.acoustics["phrase"].dropna()]
    shaded = ""
    if answer.acoustics["level"].notna().any():
        shaded = "<p class='pc-sub'>Shaded: what is normal among the training clips.</p>"
    words = f"<p class='pc-words'>“{', '.join(phrases)}”</p>" if phrases else ""
    return (
        f"<section class='pc'><h2>Measured acoustics</h2>{shaded}"
        f"<table class='pc-acoustics'><tbody>{''.join(rows)}</tbody></table>{words}</section>"
    )


def _place(row: pd.Series, values: np.ndarray | None) -> str:
    """Say where a value lies among those of the training clips."""
    if pd.isna(row["level"]):
        return ""
    if values is not None:
        return f"{place_among(values, row['value'])} of {len(values):,} clips"
    middle = 1 - row["below"] - row["above"]
    return {
        "low": f"among the lowest {percent(row['below'])}",
        "normal": f"in the middle {percent(middle)}",
        "high": f"among the highest {percent(row['above'])}",
    }[row["level"]]


def place_among(values: np.ndarray, value: float) -> str:
    """Return how many of ascending values one is above, in words."""
    share = share_below(values, value)
    if share in (0, 1):
        return "above all" if share else "below all"
    words = {0: "less than 1 %", 100: "more than 99 %"}
    return f"above {words.get(round(100 * share), percent(share))}"


def share_below(values: np.ndarray, value: float) -> float:
    """Return the share of ascending values below one; of equal ones, half."""
    left, right = np.searchsorted(values, value, "left"), np.searchsorted(values, value, "right")
    return float(left + right) / 2 / len(values)


def _strip(row: pd.Series, values: np.ndarray | None) -> str:
    """Draw what is normal, the distribution if it is known, and the value."""
    width, height = 100.0, 26.0
    spread = row["high"] - row["low"]
    first, last = row["low"] - 0.75 * spread, row["high"] + 0.75 * spread
    if values is not None:
        first, last = np.quantile(values, [TAILS, 1 - TAILS])

    def across(value: float) -> float:
        return float(np.clip((value - first) / (last - first), 0.01, 0.99)) * width

    left, right = across(row["low"]), across(row["high"])
    shapes = [f"<rect class='pc-normal' x='{left:.1f}' width='{right - left:.1f}' height='26'/>"]
    if values is not None:
        counts, _ = np.histogram(values, bins=BARS, range=(first, last))
        step = width / BARS
        shapes += [
            f"<rect class='pc-bin' x='{place * step:.2f}' y='{height * (1 - share):.1f}'"
            f" width='{step * 0.85:.2f}' height='{height * share:.1f}'/>"
            for place, share in enumerate(counts / counts.max())
        ]
    here = across(row["value"])
    shapes.append(f"<line class='pc-here' x1='{here:.1f}' x2='{here:.1f}' y1='0' y2='26'/>")
    return (
        "<svg viewBox='0 0 100 26' preserveAspectRatio='none' aria-hidden='true'>"
        f"{''.join(shapes)}</svg>"
    )


# --- Similar clips -------------------------------------------------------------------------------


def neighbours_html(hits: pd.DataFrame, clips: int) -> str:
    """Return similar clips with players; `clips` is how many were searched."""
    rows = [
        f"<li><span class='pc-cosine'>{hit.cosine:.2f}</span>"
        f"<span class='pc-name'>{html.escape(hit.file)}{_limits(hit)}</span>{_player(hit)}</li>"
        for hit in hits.itertuples(index=False)
    ]
    return (
        "<section class='pc'><h2>Similar clips</h2>"
        f"<p class='pc-sub'>The nearest of {clips:,}, with the cosine of the embeddings.</p>"
        f"<ol class='pc-hits'>{''.join(rows)}</ol></section>"
    )


def _limits(hit: tuple) -> str:
    return "" if np.isnan(hit.end) else f" <small>{hit.start:.1f} to {hit.end:.1f} s</small>"


def _player(hit: tuple) -> str:
    """Return a player that holds the begin of a clip: no path of this machine gets out."""
    try:
        path = resolve_inside(hit.root, hit.file)
        waveform = read_audio(path, hit.start, None if np.isnan(hit.end) else hit.end)
    except AudioError as error:
        return f"<small>cannot be played: {html.escape(error.reason.replace('_', ' '))}</small>"
    stream = io.BytesIO()
    played = waveform[: round(PLAYED_SECONDS * SAMPLING_RATE)]
    soundfile.write(stream, played, SAMPLING_RATE, format="FLAC", subtype="PCM_16")
    content = base64.b64encode(stream.getvalue()).decode()
    label = html.escape(f"Play {hit.file}", quote=True)
    source = f"data:audio/flac;base64,{content}"
    return f"<audio controls preload='metadata' aria-label='{label}' src='{source}'></audio>"


def refusal_html(message: str) -> str:
    """Return why there is no answer, so that screen readers say it."""
    return f"<div class='pc-refusal' role='alert'>{html.escape(message)}</div>"


STYLE = """
.pc, .pc-empty { --pc-soft: color-mix(in srgb, var(--body-text-color) 72%, transparent); }
.pc h2 { margin: 0 0 .2em; font-size: 1.15em; overflow-wrap: anywhere; }
.pc .pc-sub, .pc .pc-none { color: var(--pc-soft); margin: .3em 0 .6em; font-size: .9em; }
.pc small { display: block; color: var(--pc-soft); font-size: .8em; font-weight: 400; }
.pc table { display: table; width: 100%; border: 0; border-collapse: collapse; padding: 0; }
.pc table, .pc tr, .pc th, .pc td { margin: 0; }
.pc th, .pc td { border: 0; padding: .3em .4em .3em 0; background: none; }
.pc th, .pc td { vertical-align: middle; text-align: left; }
.pc th { font-weight: 500; overflow-wrap: anywhere; }
.pc tr, .pc tbody { border: 0; padding: 0; background: none; }
.pc caption { position: absolute; width: 1px; height: 1px; overflow: hidden; }
.pc-empty { color: var(--pc-soft); }
.pc-bars th, .pc-time th { width: 27%; }
.pc-fill { display: block; height: 1.3em; min-width: 2px; border-radius: 3px; }
.pc-fill { background: var(--color-accent); opacity: .5; }
.pc-best .pc-fill { opacity: 1; }
.pc-best th, .pc-best .pc-number { font-weight: 700; }
.pc .pc-number { width: 6em; padding-right: 0; white-space: nowrap; text-align: right; }
.pc-number, .pc-cosine { font-variant-numeric: tabular-nums; }
.pc svg { display: block; width: 100%; border-bottom: 1px solid var(--pc-soft); }
.pc-time svg { height: 34px; }
.pc .pc-time td { padding-right: 0; }
.pc-area { fill: var(--color-accent); opacity: .25; }
.pc-line { fill: none; stroke: var(--color-accent); stroke-width: 2; }
.pc-line, .pc-here { vector-effect: non-scaling-stroke; }
.pc-told { fill: transparent; }
.pc-told:hover { fill: var(--color-accent); opacity: .3; }
.pc .pc-axis { display: flex; justify-content: space-between; }
.pc-axis { color: var(--pc-soft); font-size: .8em; }
.pc-acoustics th { width: 22%; }
.pc .pc-strip { width: 40%; padding-right: 0; }
.pc-strip svg { height: 26px; }
.pc-normal { fill: var(--color-accent); opacity: .18; }
.pc-bin { fill: var(--body-text-color); opacity: .35; }
.pc-here { stroke: var(--color-accent); stroke-width: 3; }
.pc-level { padding: .1em .6em; border-radius: 1em; white-space: nowrap; }
.pc-level { border: 1px solid var(--pc-soft); }
.pc-words { font-style: italic; margin: .6em 0 0; }
.pc-hits { list-style: none; margin: 0; padding: 0; }
.pc-hits li { display: flex; flex-wrap: wrap; align-items: center; gap: .3em .8em; }
.pc-hits li { padding: .4em 0; border-bottom: 1px solid var(--border-color-primary); }
.pc-cosine { font-weight: 600; }
.pc-name { flex: 1 1 12em; overflow-wrap: anywhere; }
.pc-hits audio { flex: 0 1 17em; min-width: 13em; height: 2.2em; }
.pc-refusal { border-left: 4px solid #c0392b; padding: .7em 1em; overflow-wrap: anywhere; }
.pc-refusal { background: rgba(192, 57, 43, .1); }
@media (max-width: 640px) {
  .pc-acoustics tr { display: grid; grid-template-columns: 1fr auto 5.5em; align-items: center; }
  .pc-acoustics th, .pc .pc-strip { width: auto; }
  .pc-acoustics td:nth-child(3) { text-align: right; padding-right: 0; }
  .pc .pc-strip { grid-column: 1 / -1; padding-bottom: .7em; }
  .pc-hits audio { flex-grow: 1; }
}
"""
"""For all of the above; colours are those of gradio's theme, light or dark."""
