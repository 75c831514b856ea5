"""Embeddings of clips with quality flags; a clip that cannot be embedded yields its error.

    clips = read_each([("recordings", "a.wav", 0.0, None)])
    for clip in embed_each(model, processor, clips, batch_seconds=60):
        ...  # EmbeddedClip, or the AudioError of this clip

Letters: D embedding size, T samples.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from paraclap.audio import SAMPLING_RATE, AudioError
from paraclap.audio.conditioning import Report
from paraclap.audio.paths import resolve_inside
from paraclap.audio.quality import quality_flags
from paraclap.audio.reading import read_audio_with_report
from paraclap.audio.segments import Position
from paraclap.errors import ParaCLAPError
from paraclap.evaluation.embed import embed_waveforms
from paraclap.model.modeling_paraclap import ParaCLAPModel, ParaCLAPProcessor

BATCHES_READ = 4  # batches of audio that are read before they are sorted by length
MOST_CLIPS = 4096  # clips that are read before they are embedded
ROUTINE = ("resampled", "mixed", "converted")
"""Flags of a report that do not question a result."""


Place = tuple[str | Path, str, Position, Position]
"""Of a clip: a root, a file inside of it, start and end."""


class ReadClip(NamedTuple):
    """A clip that was read: its name, its waveform (T,) at 16 kHz, and its quality flags."""

    name: str
    waveform: np.ndarray
    quality: str


@dataclass(frozen=True)
class EmbeddedClip:
    """A clip that was read and embedded.

    Attributes:
        embedding: (D,) float32 of unit length.
        quality: flags that question the result, joined by `;`, see `quality_of`; often empty.
    """

    embedding: np.ndarray
    quality: str


def quality_of(waveform: np.ndarray, report: Report) -> str:
    """Return the flags of a recording that question its results, such as `clipped:0.0120;silent`.

    Flags of resampling, mixing to mono and conversion by ffmpeg are left out.
    """
    flags = [*report.flags(), *quality_flags(waveform)]
    return ";".join(flag for flag in flags if flag.partition(":")[0] not in ROUTINE)


def read_each(places: Iterable[Place]) -> Iterator[ReadClip | AudioError]:
    """Yield each clip, or the error if it cannot be read."""
    for root, file, start, end in places:
        try:
            path = resolve_inside(root, file)
            waveform, report = read_audio_with_report(path, start, end)
            yield ReadClip(str(path), waveform, quality_of(waveform, report))
        except AudioError as error:
            yield error


def embed_each(
    model: ParaCLAPModel,
    processor: ParaCLAPProcessor,
    clips: Iterable[ReadClip | AudioError],
    batch_seconds: float,
) -> Iterator[EmbeddedClip | AudioError]:
    """Yield each clip in order, embedded, or its error; an error passes unchanged.

    Only a few batches of audio are in memory at a time, if the clips are read as they are taken.
    """
    pending: list[ReadClip | AudioError] = []
    samples = 0
    for clip in clips:
        pending.append(clip)
        samples += len(clip.waveform) if isinstance(clip, ReadClip) else 0
        if samples >= BATCHES_READ * batch_seconds * SAMPLING_RATE or len(pending) >= MOST_CLIPS:
            yield from _embed_pending(model, processor, pending, batch_seconds)
            pending, samples = [], 0
    yield from _embed_pending(model, processor, pending, batch_seconds)


def _embed_pending(
    model: ParaCLAPModel,
    processor: ParaCLAPProcessor,
    pending: Sequence[ReadClip | AudioError],
    batch_seconds: float,
) -> Iterator[EmbeddedClip | AudioError]:
    """Yield each clip embedded, and errors unchanged."""
    clips = [item for item in pending if isinstance(item, ReadClip)]
    embedded = iter(embed_or_refuse(model, processor, clips, batch_seconds))
    for item in pending:
        yield next(embedded) if isinstance(item, ReadClip) else item


def embed_or_refuse(
    model: ParaCLAPModel,
    processor: ParaCLAPProcessor,
    clips: Sequence[ReadClip],
    batch_seconds: float,
) -> list[EmbeddedClip | AudioError]:
    """Return each clip embedded, or the error of one that the feature extractor refuses."""
    waveforms = [clip.waveform for clip in clips]
    try:
        embeddings = embed_waveforms(model, processor, waveforms, batch_seconds).numpy()
    except ValueError as error:  # of the feature extractor, for example for a clip below 60 ms
        if isinstance(error, ParaCLAPError):
            raise
        if len(clips) == 1:
            return [AudioError("model_input", f"{clips[0].name}: {error}")]
        singly = (embed_or_refuse(model, processor, [clip], batch_seconds) for clip in clips)
        return [item for items in singly for item in items]
    return [
        EmbeddedClip(embedding, clip.quality)
        for clip, embedding in zip(clips, embeddings, strict=True)
    ]
