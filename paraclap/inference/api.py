"""ParaCLAP for inference, in Python.

    from paraclap import ParaCLAP

    paraclap = ParaCLAP.from_pretrained("runs/small")
    paraclap.score("speech.wav", ["angry", "calm"], template="the speaker sounds {}")
    paraclap.score(frame, ["angry", "calm"])                 # the frame with scores of its files
    paraclap.score_windows("meeting.flac", ["angry", "calm"], window=3, hop=1)
    paraclap.embed("recordings/")                            # table, one row per clip
    paraclap.embed_audio(signal, sampling_rate=44_100)       # (D,)
    paraclap.embed_text(["an angry voice", "a calm voice"])  # (K, D)
    paraclap.adapt("recordings/")                            # unlabelled clips of one microphone
    print(paraclap.describe("speech.wav", edges="captions.edges.json"))

The columns of `score` are explained in classifier.py.

Letters: T samples, C channels, B clips, K texts, D embedding size.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import torch

from paraclap.audio import AudioError
from paraclap.audio.conditioning import condition
from paraclap.audio.containers import read_duration
from paraclap.audio.segments import Position, windows
from paraclap.corpora import CorpusError
from paraclap.corpora.table import read_corpus
from paraclap.data.dataset import ClipDataset
from paraclap.data.trained_on import trained_attributes
from paraclap.distributed import device_named
from paraclap.evaluation.adaptation import Reference
from paraclap.evaluation.embed import embed_clips, embed_texts, embed_waveforms
from paraclap.evaluation.embedding_cache import audio_fingerprint, text_fingerprint
from paraclap.inference.classifier import Prompts, ZeroShotClassifier, build_classifier
from paraclap.inference.clips import (
    EmbeddedClip,
    Place,
    ReadClip,
    embed_each,
    embed_or_refuse,
    read_each,
)
from paraclap.inference.description import Description, describe, descriptor_prompts
from paraclap.inference.embeddings import embedding_table
from paraclap.inference.inputs import (
    Clips,
    Signal,
    clip_table,
    is_source,
    places_of,
    read_clip,
)
from paraclap.inference.limits import check_windows
from paraclap.inference.reference import embed_reference
from paraclap.model.build import load_model
from paraclap.model.modeling_paraclap import ParaCLAPModel, ParaCLAPProcessor
from paraclap.model.onnx import OnnxModel, load_onnx
from paraclap.model.sources import default_model
from paraclap.settings import BATCH_SECONDS


class Embedder:
    """A trained model with its processor, for embeddings of audio and text.

    Attributes:
        model: in evaluation mode.
        processor: of the model.
        batch_seconds: padded audio per batch [s].
        reference: relative to which clips are compared with prompts, see `adapt`; None = as
            embedded.
    """

    def __init__(
        self,
        model: ParaCLAPModel | OnnxModel,
        processor: ParaCLAPProcessor,
        batch_seconds: float = BATCH_SECONDS,
    ) -> None:
        self.model = model.eval()
        self.processor = processor
        self.batch_seconds = batch_seconds
        self.reference: Reference | None = None

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        device: torch.device | str | None = None,
        batch_seconds: float = BATCH_SECONDS,
    ) -> Self:
        """Load a model.

        Args:
            source: run folder, model folder or Hub name; None = the model that is installed with
                the package, whose encoders are fetched from the Hub, or from the folder
                `$PARACLAP_ENCODERS`.
            device: None = a GPU if available.
            batch_seconds: padded audio per batch [s].
        """
        return cls(
            *load_model(source or default_model(), device_named(str(device or "auto"))),
            batch_seconds,
        )

    @classmethod
    def from_onnx(
        cls, folder: str | Path, int8: bool = False, batch_seconds: float = BATCH_SECONDS
    ) -> Self:
        """Load a folder written by `models.py export`; `int8` selects the 8-bit encoders."""
        return cls(*load_onnx(folder, int8), batch_seconds)

    def adapt(self, clips: Clips, window: float | None = None) -> Self:
        """Compare clips with prompts relative to the mean embedding of unlabelled clips.

        This compensates for microphone, room and language, if these clips are of the same kind and
        of all emotions; see paraclap.evaluation.adaptation. It replaces an earlier reference, and
        changes scores and descriptions, but no embeddings. Reference clips are read from the
        embedding cache, if they were embedded before.

        Args:
            clips: a folder, another source, files, or a data frame, see `embed`.
            window: longer clips are cut into windows of this length [s]; None = not cut.

        Returns:
            The same object.

        Raises:
            CorpusError: if the source cannot be read.
            AudioError: naming the first clip that cannot be read.
        """
        _, table = clip_table(clips)
        self.reference = embed_reference(
            self.model, self.processor, table, window, self.batch_seconds
        )
        return self

    def embed(self, clips: Clips) -> pd.DataFrame:
        """Embed clips: a table on audformat's segmented index, one column per dimension.

        `.to_numpy()` gives (N, D) float32 of unit length, `.to_parquet(FILE)` the table of `python
        -m paraclap.embed`, which works in chunks, and skips clips that cannot be read.

        Args:
            clips: a folder, or another source of `read_corpus`; a file or a list of files; or a
                data frame with the column `file` (and `start` and `end`) or an index of audformat.
                Its files are relative to `attrs["root"]`, as in a corpus table, or else to the
                working directory.

        Raises:
            CorpusError: if the source or the data frame cannot be read.
            AudioError: naming the first clip that cannot be read.
        """
        index, table = clip_table(clips)
        dataset = ClipDataset(table, table.attrs["root"])
        embeddings = embed_clips(self.model, self.processor, dataset, self.batch_seconds)
        return embedding_table(index, embeddings.numpy())

    def embed_audio(self, signal: np.ndarray, sampling_rate: int) -> np.ndarray:
        """Embed one signal of any rate: (D,) float32 of unit length.

        Args:
            signal: (T,) or (T, C), float in [-1, 1] or signed integers of full scale. As with
                files, channels are averaged and the signal is resampled to 16 kHz.
            sampling_rate: of the signal [Hz].

        Raises:
            AudioError: for an invalid rate, shape or samples.
        """
        waveform = condition(np.asarray(signal), sampling_rate)
        return self.embed_waveforms([waveform])[0]

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts: (K, D) float32 of unit length."""
        if isinstance(texts, str):
            raise TypeError(f"expected a list of texts, given a string: {texts!r}")
        return embed_texts(self.model, self.processor, texts).numpy()

    def embed_clips(self, clips: Iterable[Place]) -> Iterator[EmbeddedClip | AudioError]:
        """Yield the embedding of each clip of a file, or its error, see `embed_each`."""
        return embed_each(self.model, self.processor, read_each(clips), self.batch_seconds)

    def embed_clip(self, clip: ReadClip) -> EmbeddedClip | AudioError:
        """Return a clip embedded, or the error if the model refuses it."""
        return embed_or_refuse(self.model, self.processor, [clip], self.batch_seconds)[0]

    def embed_waveforms(self, waveforms: Sequence[np.ndarray]) -> np.ndarray:
        """Embed waveforms (T,) at 16 kHz, as returned by `read_audio`: (B, D)."""
        return embed_waveforms(self.model, self.processor, waveforms, self.batch_seconds).numpy()

    def fingerprints(self) -> dict[str, str]:
        """Return the hashes of the audio and the text side of the model."""
        parts = self.model, self.processor
        return {"audio": audio_fingerprint(*parts), "text": text_fingerprint(*parts)}


class ParaCLAP(Embedder):
    """A trained model with its processor: embeddings, zero-shot scores and descriptions."""

    def classifier(self, prompts: Prompts, template: str = "{}") -> ZeroShotClassifier:
        """Embed prompts once, to classify embeddings of clips, see `build_classifier`.

        The reference, if any, is that at the time of this call.
        """
        classifier = build_classifier(self.model, self.processor, prompts, template)
        return dataclasses.replace(classifier, reference=self.reference)

    def score(
        self,
        audio: str | Path | Signal | Sequence[str | Path | Signal] | pd.DataFrame,
        prompts: Prompts,
        template: str = "{}",
    ) -> pd.DataFrame:
        """Score clips: one row each, with the columns of `ZeroShotClassifier` and `quality`.

        `quality` holds flags that question the result, such as `silent`; see `quality_of`. The
        scores of a corpus or a data frame follow its columns, on its index. Only a few batches of
        audio are in memory at a time. (predict.py continues after unreadable files.)

        Args:
            audio: a file, a signal with its rate, or a list of these; a folder, or another source
                of `read_corpus`; or a data frame of clips, see `embed`.
            prompts: prompts, or name -> prompts whose embeddings are averaged.
            template: text with {} for the prompt, e.g. "the speaker sounds {}".

        Raises:
            CorpusError: if the source or the data frame cannot be read, or has one of the columns.
            AudioError: naming the first clip that cannot be read.
            PromptError: if the prompts or the template cannot be used.
        """
        classifier = self.classifier(prompts, template)
        if isinstance(audio, str | Path) and is_source(str(audio)):
            audio = read_corpus(audio)
        if not isinstance(audio, pd.DataFrame):
            several = isinstance(audio, Sequence) and not isinstance(audio, str | tuple)
            return self._scores(map(read_clip, audio if several else [audio]), classifier)
        _, table = clip_table(audio)
        taken = [name for name in (*classifier.columns, "quality") if name in audio]
        if taken:
            raise CorpusError(
                f"the table has the columns {', '.join(taken)}, which scores have as well; drop or "
                "rename them"
            )
        scores = self._scores(read_each(places_of(table)), classifier)
        scores = pd.concat([audio, scores.set_axis(audio.index)], axis=1)
        scores.attrs = dict(audio.attrs)
        return scores

    def _scores(
        self, clips: Iterable[ReadClip | AudioError], classifier: ZeroShotClassifier
    ) -> pd.DataFrame:
        """Return the scores and the quality of each clip, or raise the first error."""
        embedded = []
        for clip in embed_each(self.model, self.processor, clips, self.batch_seconds):
            if isinstance(clip, AudioError):
                raise clip
            embedded.append(clip)
        audio = np.array([clip.embedding for clip in embedded], np.float32)
        scores = classifier(audio.reshape(len(embedded), classifier.texts.shape[1]))
        return scores.assign(quality=[clip.quality for clip in embedded])

    def score_windows(
        self,
        path: str | Path,
        prompts: Prompts,
        window: float,
        hop: float,
        template: str = "{}",
    ) -> pd.DataFrame:
        """Score the windows of a file of any length: `start`, `end` [s], and columns of `score`.

        Only a few windows are in memory at a time. See `windows` for their positions.

        Raises:
            AudioError: if the file cannot be read.
            PromptError: if the prompts or the template cannot be used.
            WindowError: for windows or hops that are too short, or a hop longer than the window.
        """
        check_windows(window, hop)
        path = Path(path).resolve()
        places = list(windows(read_duration(path), window, hop))
        clips = read_each((path.parent, path.name, *place) for place in places)
        scores = self._scores(clips, self.classifier(prompts, template))
        return pd.concat([pd.DataFrame(places, columns=["start", "end"]), scores], axis=1)

    def describe(
        self,
        audio: str | Path | Signal,
        edges: str | Path,
        labels: Mapping[str, str] | None = None,
        start: Position = 0.0,
        end: Position = None,
    ) -> Description:
        """Measure a clip, and compare its levels with the predictions of the model.

        Args:
            audio: a file, or a signal with its rate.
            edges: `captions.edges.json` of the captions that the model was trained on.
            labels: of the clip, such as `{"gender": "female"}`, for edges by group.
            start: begin of the clip in its file [s].
            end: end of the clip in its file [s]; None = the end of the file.

        Raises:
            AudioError: if the clip cannot be read or measured.
            MeasurementError: if the edges are by group, and the labels are missing.
            InputError: if the file holds no edges.
        """
        _, waveform, quality = read_clip(audio, start, end)
        embedding = self.embed_waveforms([waveform])
        classifiers = {
            name: dataclasses.replace(classifier, reference=self.reference)
            for name, classifier in self._descriptor_classifiers.items()
        }
        found = describe(waveform, embedding, classifiers, edges, labels)
        return dataclasses.replace(found, quality=quality)

    @functools.cached_property
    def _descriptor_classifiers(self) -> dict[str, ZeroShotClassifier]:
        """Return a classifier of the levels or labels of each descriptor."""
        prompts = descriptor_prompts(trained_attributes(self.model.config.provenance))
        return {name: self.classifier(classes) for name, classes in prompts.items()}
