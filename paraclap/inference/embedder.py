"""Embeddings of audio and text with a trained model.

Letters: T samples, C channels, B clips, K texts, D embedding size.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch

from paraclap.audio import AudioError
from paraclap.audio.conditioning import condition
from paraclap.audio.segments import Position
from paraclap.distributed import device_named
from paraclap.evaluation.embed import embed_each, embed_text_batches, embed_waveforms
from paraclap.model.build import load_model
from paraclap.model.modeling_paraclap import ParaCLAPModel, ParaCLAPProcessor
from paraclap.model.onnx import OnnxModel, load_onnx
from paraclap.settings import BATCH_SECONDS


class Embedder:
    """A trained model with its processor, for embeddings of audio and text.

    Attributes:
        model: in evaluation mode.
        processor: of the model.
        batch_seconds: padded audio per batch [s].
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

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        device: torch.device | str | None = None,
        batch_seconds: float = BATCH_SECONDS,
    ) -> Self:
        """Load a run folder, a model folder or a Hub name.

        Args:
            source: of the model.
            device: None = a GPU if available.
            batch_seconds: padded audio per batch [s].
        """
        return cls(*load_model(source, device_named(str(device or "auto"))), batch_seconds)

    @classmethod
    def from_onnx(
        cls, folder: str | Path, int8: bool = False, batch_seconds: float = BATCH_SECONDS
    ) -> Self:
        """Load a folder written by `models.py export`; `int8` selects the 8-bit encoders."""
        return cls(*load_onnx(folder, int8), batch_seconds)

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
        return embed_text_batches(self.model, self.processor, texts).numpy()

    def embed_clips(
        self, clips: Iterable[tuple[str | Path, str, Position, Position]]
    ) -> Iterator[np.ndarray | AudioError]:
        """Yield the embedding of each clip of a file, or its error, see `embed_each`."""
        return embed_each(self.model, self.processor, clips, self.batch_seconds)

    def embed_waveforms(self, waveforms: Sequence[np.ndarray]) -> np.ndarray:
        """Embed waveforms (T,) at 16 kHz, as returned by `read_audio`: (B, D)."""
        return embed_waveforms(self.model, self.processor, waveforms, self.batch_seconds).numpy()
