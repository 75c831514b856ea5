"""ParaCLAP for inference, in Python.

    from paraclap import ParaCLAP

    paraclap = ParaCLAP.from_pretrained("runs/small")
    paraclap.score("speech.wav", ["angry", "calm"], template="the speaker sounds {}")
    paraclap.score_windows("meeting.flac", ["angry", "calm"], window=3, hop=1)
    paraclap.embed_audio(signal, sampling_rate=44_100)       # (D,)
    paraclap.embed_text(["an angry voice", "a calm voice"])  # (K, D)
    print(paraclap.describe("speech.wav", edges="captions.edges.json"))

The columns of `score` are explained in classifier.py.

Letters: T samples, C channels, K prompts, D embedding size.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from paraclap.audio import AudioError
from paraclap.audio.conditioning import condition
from paraclap.audio.containers import read_duration
from paraclap.audio.reading import read_audio
from paraclap.audio.segments import windows
from paraclap.inference.classifier import Prompts, ZeroShotClassifier, build_classifier
from paraclap.inference.description import Description, describe, descriptor_prompts
from paraclap.inference.embedder import Embedder

Signal = tuple[np.ndarray, int]
"""Samples (T,) or (T, C) and their rate [Hz]."""


class ParaCLAP(Embedder):
    """A trained model with its processor: embeddings, zero-shot scores and descriptions."""

    def classifier(self, prompts: Prompts, template: str = "{}") -> ZeroShotClassifier:
        """Embed prompts once, to classify embeddings of clips, see `build_classifier`."""
        return build_classifier(self.model, self.processor, prompts, template)

    def score(
        self,
        audio: str | Path | Signal | Sequence[str | Path | Signal],
        prompts: Prompts,
        template: str = "{}",
    ) -> pd.DataFrame:
        """Score clips: one row each, with the columns of `ZeroShotClassifier`.

        Args:
            audio: a file, a signal with its rate, or a list of these. (predict.py also accepts
                folders, patterns and tables, and continues after unreadable files.)
            prompts: prompts, or name -> prompts whose embeddings are averaged.
            template: text with {} for the prompt, e.g. "the speaker sounds {}".

        Raises:
            AudioError: naming the first clip that cannot be read.
            PromptError: if the prompts or the template cannot be used.
        """
        several = isinstance(audio, Sequence) and not isinstance(audio, str | tuple)
        waveforms = [_waveform(item) for item in (audio if several else [audio])]
        return self.classifier(prompts, template)(self.embed_waveforms(waveforms))

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
        """
        path = Path(path).resolve()
        places = list(windows(read_duration(path), window, hop))
        audio = list(self.embed_clips((path.parent, path.name, *place) for place in places))
        for item in audio:
            if isinstance(item, AudioError):
                raise item
        table = pd.DataFrame(places, columns=["start", "end"])
        return pd.concat([table, self.classifier(prompts, template)(np.array(audio))], axis=1)

    def describe(
        self,
        audio: str | Path | Signal,
        edges: str | Path,
        labels: Mapping[str, str] | None = None,
    ) -> Description:
        """Measure a clip, and compare its levels with the predictions of the model.

        Args:
            audio: a file, or a signal with its rate.
            edges: `captions.edges.json` of the captions that the model was trained on.
            labels: of the clip, such as `{"gender": "female"}`, for edges by group.

        Raises:
            MeasurementError: if the edges are by group, and the labels are missing.
            InputError: if the file holds no edges.
        """
        waveform = _waveform(audio)
        embedding = self.embed_waveforms([waveform])
        return describe(waveform, embedding, self._descriptor_classifiers, edges, labels)

    @functools.cached_property
    def _descriptor_classifiers(self) -> dict[str, ZeroShotClassifier]:
        """Return a classifier of the levels or labels of each descriptor."""
        return {name: self.classifier(prompts) for name, prompts in descriptor_prompts().items()}


def _waveform(audio: str | Path | Signal) -> np.ndarray:
    return condition(*audio) if isinstance(audio, tuple) else read_audio(audio)
