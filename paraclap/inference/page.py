r"""Analysis of one recording for the web page, as tables; independent of gradio.

    analyzer = Analyzer(ParaCLAP.from_pretrained("runs/small"), edges=Path("captions.edges.json"))
    analysis = analyzer.analyze("upload.wav", "angry\ncalm", "the speaker sounds {}")
    analysis.probabilities()     # prompt -> probability

Invalid input raises `RequestError` with a message for the visitor, without paths of this machine.

Letters: T samples at 16 kHz, W windows, D embedding size.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from paraclap.audio import SAMPLING_RATE, AudioError
from paraclap.audio.quality import have_flag, quality_flags
from paraclap.audio.reading import read_audio_with_report
from paraclap.audio.segments import windows
from paraclap.errors import ParaCLAPError
from paraclap.evaluation.prompts import PromptError
from paraclap.inference.api import ParaCLAP
from paraclap.inference.classifier import ZeroShotClassifier
from paraclap.inference.clips import quality_of
from paraclap.inference.index import ClipIndex, check_model
from paraclap.inference.limits import (
    HOP_SECONDS,
    NEIGHBOURS,
    PROMPT_CHARACTERS,
    PROMPTS,
    SECONDS,
    WHOLE_SECONDS,
    WINDOW_SECONDS,
)
from paraclap.inference.measurement import groups_of_edges, measured_levels, reference_values
from paraclap.inference.search import find

HINTS = {
    "empty": "Record or upload it again.",
    "needs_ffmpeg": "Save it as WAV, FLAC, MP3 or OGG.",
    "non_finite": "Export it again from the program that wrote it.",
    "not_audio": "Supported formats are WAV, FLAC, MP3 and OGG.",
    "text": "Supported formats are WAV, FLAC, MP3 and OGG.",
    "too_long": "Shorten it with the scissors below the waveform.",
    "too_short": "Choose a longer recording.",
    "truncated": "Was it copied or downloaded completely?",
}
"""Reason of an `AudioError` -> what the visitor can do."""
FLAGS = {
    "antiphase": "its channels partly cancel each other",
    "clipped": "it is clipped (samples at full scale)",
    "offset": "it has a constant offset, which affects pitch and loudness",
    "silent": "it is silent, so there is nothing to score. Is the right microphone selected and"
    " switched on?",
    "silent_channels": "at least one channel is silent; the mean of the others is used",
    "truncated": "its end is missing",
    "unknown_length": "its file does not state its length, so its end may be missing",
    "unvoiced": "it may be noise, music or a whisper, so that the scores need not describe a voice",
}
"""Flags of an audio report -> note on the page."""

WINDOW_FLAGS = {
    "silent": "{} windows are silent and left out of the mean",
    "unvoiced": "no voice was found in {} windows",
}
"""Flags of windows of a long recording -> note on the page."""


class RequestError(ParaCLAPError, ValueError):
    """Invalid recording or prompts; the message is shown to the visitor."""


@dataclass(frozen=True)
class Analysis:
    """Results for one recording.

    Attributes:
        seconds: duration [s].
        names: of the prompts.
        scores: `none_of_these`, and `probability.NAME` and `cosine.NAME` of each prompt; of a long
            recording the means over its windows that are not silent.
        timeline: the same for each window, with `start`, `end` [s] and `quality`, see
            `quality_flags`; None = embedded as a whole.
        acoustics: table of `measured_levels`; None = not measurable, for a silent recording.
        reference: descriptor -> values of the training clips; empty = unknown.
        neighbours: table of `find`; None = no index.
        untrained: names of prompts that no caption of the training describes.
        checks: what questions the results.
        flags: of the recording that question the results, such as `silent` and `unvoiced`.
        reference_clips: number of clips to whose mean embedding the scores are relative; 0 = none.
    """

    seconds: float
    names: tuple[str, ...]
    scores: pd.Series
    timeline: pd.DataFrame | None
    acoustics: pd.DataFrame | None
    reference: Mapping[str, np.ndarray] = field(default_factory=dict)
    neighbours: pd.DataFrame | None = None
    untrained: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    reference_clips: int = 0

    def probabilities(self) -> dict[str, float]:
        """Return prompt -> probability."""
        return {name: float(self.scores[f"probability.{name}"]) for name in self.names}


class Analyzer:
    """A model with its reference data; safe to use from several threads.

    Attributes:
        groups: label column -> its groups, where edges were fitted by group; else empty.
    """

    def __init__(
        self,
        paraclap: ParaCLAP,
        edges: Path | None = None,
        features: Path | None = None,
        index: ClipIndex | None = None,
        max_seconds: float = SECONDS,
    ) -> None:
        """Read the reference data.

        Args:
            paraclap: the model.
            edges: `captions.edges.json` for the levels; None = values only.
            features: table to which the edges were fitted, for percentiles; requires edges.
            index: clips to search for similar ones; None = no search.
            max_seconds: longest recording [s].

        Raises:
            ClipIndexError: if the index was written with another model, or is damaged.
            ParaCLAPError: for files without edges or features.
        """
        if index is not None:
            check_model(index.folder, paraclap.fingerprints())
            index.check_embeddings()  # here, so that a later update does not matter
        self.paraclap, self.edges, self.index = paraclap, edges, index
        self.max_seconds = max_seconds
        self.groups = {} if edges is None else groups_of_edges(edges)
        self._features = features
        self._references: dict[tuple, dict[str, np.ndarray]] = {}
        if not self.groups:
            self._reference({})  # an invalid table fails here and not at the first request

    def analyze(
        self,
        path: str | Path | None,
        prompts: str,
        template: str = "{}",
        labels: Mapping[str, str] | None = None,
    ) -> Analysis:
        """Analyse a recording.

        Args:
            path: of the recording; None = missing.
            prompts: see `split_prompts`.
            template: sentence with {} for the prompt; empty = none.
            labels: column -> group of the recording, where edges were fitted by group; without a
                group there are no levels.

        Raises:
            RequestError: for an invalid recording or invalid prompts.
        """
        classifier = self._embed_prompts(prompts, template)
        if path is None:
            raise RequestError("Upload or record an audio clip first, or choose an example.")
        path = Path(path)
        labels = {column: label for column, label in (labels or {}).items() if label}
        edges = self.edges if set(self.groups) <= set(labels) else None
        try:
            waveform, report = read_audio_with_report(path, max_seconds=self.max_seconds)
            flags = [flag.partition(":")[0] for flag in quality_of(waveform, report).split(";")]
            acoustics = None if "silent" in flags else measured_levels(waveform, edges, labels)
        except AudioError as error:
            raise RequestError(_explain(error, path)) from error
        seconds = len(waveform) / SAMPLING_RATE
        places = [(0.0, seconds)]
        if seconds > WHOLE_SECONDS:
            places = list(windows(seconds, WINDOW_SECONDS, HOP_SECONDS))
        embedded = self.paraclap.embed_waveforms([_cut(waveform, *place) for place in places])
        scores = classifier(embedded)
        checks = [FLAGS.get(flag, flag) for flag in flags if flag]
        timeline, averaged = None, np.full(len(places), True)
        if len(places) > 1:
            table = pd.DataFrame(places, columns=["start", "end"])
            timeline = pd.concat([table, scores], axis=1)
            marks = [quality_flags(_cut(waveform, *place)) for place in places]
            timeline["quality"] = [";".join(found) for found in marks]
            if "silent" not in flags:
                audible = ~have_flag(timeline["quality"], "silent")
                averaged = audible if audible.any() else averaged
                checks += _window_checks(timeline["quality"], flags)
        neighbours = None
        if self.index is not None:
            mean = embedded[averaged].mean(axis=0)
            query = {"recording": mean / np.linalg.norm(mean)}
            neighbours = find(self.index, query, NEIGHBOURS)
        return Analysis(
            seconds=seconds,
            names=classifier.names,
            scores=scores[averaged].drop(columns=["prediction", "confidence"]).mean(),
            timeline=timeline,
            acoustics=acoustics,
            reference=self._reference(labels) if edges is not None else {},
            neighbours=neighbours,
            untrained=classifier.untrained,
            checks=tuple(checks),
            flags=tuple(filter(None, flags)),
            reference_clips=0 if classifier.reference is None else classifier.reference.clips,
        )

    def _embed_prompts(self, prompts: str, template: str) -> ZeroShotClassifier:
        try:
            lines = split_prompts(prompts)
        except csv.Error as error:  # a field beyond the limit of csv
            found = f"A prompt has more than {csv.field_size_limit()} characters"
            raise RequestError(f"{found}, expected at most {PROMPT_CHARACTERS}.") from error
        if not lines:
            raise RequestError("Enter at least one prompt, such as “angry”.")
        if len(lines) > PROMPTS:
            raise RequestError(f"{len(lines)} prompts, expected at most {PROMPTS}.")
        template = template.strip() or "{}"
        longest = max([*lines, template], key=len)
        if len(longest) > PROMPT_CHARACTERS:
            found = f"“{longest[:40]}…” has {len(longest)} characters"
            raise RequestError(f"{found}, expected at most {PROMPT_CHARACTERS}.")
        try:
            return self.paraclap.classifier(lines, template)
        except PromptError as error:
            raise RequestError(f"{str(error)[:1].upper()}{str(error)[1:]}.") from error

    def _reference(self, labels: Mapping[str, str]) -> dict[str, np.ndarray]:
        """Return the values of the training clips of a group, read once."""
        if self._features is None:
            return {}
        key = tuple(sorted(labels.items()))
        if key not in self._references:
            self._references[key] = reference_values(self._features, self.edges, labels)
        return self._references[key]


def split_prompts(text: str) -> list[str]:
    """Return the prompts of a text, in lines or separated by commas.

    Quotes keep a comma: `"a calm, deep voice", angry`.
    """
    rows = (next(csv.reader([line], skipinitialspace=True), []) for line in text.splitlines())
    return [prompt.strip() for row in rows for prompt in row if prompt.strip()]


def _window_checks(quality: pd.Series, flags: Sequence[str]) -> list[str]:
    """Return what questions some windows of a recording, but not the whole with its flags."""
    return [
        WINDOW_FLAGS[flag].format(f"{(quality == flag).sum()} of {len(quality)}")
        for flag in WINDOW_FLAGS
        if flag not in flags and (quality == flag).any()
    ]


def _cut(waveform: np.ndarray, start: float, end: float) -> np.ndarray:
    return waveform[round(start * SAMPLING_RATE) : round(end * SAMPLING_RATE)]


def _explain(error: AudioError, path: Path) -> str:
    """Return the message of an error without folders of this machine, and a hint."""
    if error.reason == "missing":  # uploads are deleted after a while
        return "The recording has been deleted: upload or record it again."
    sentence = str(error).replace(str(path), path.name)
    if path.name not in sentence:
        sentence = f"{path.name}: {sentence}"
    return " ".join([f"{sentence.rstrip('.')}.", *filter(None, [HINTS.get(error.reason)])])
