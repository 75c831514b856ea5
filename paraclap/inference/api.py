"""ParaCLAP for use: ask about recordings in words, from Python.

    from paraclap import ParaCLAP

    paraclap = ParaCLAP.from_pretrained("runs/small")
    paraclap.score("speech.wav", ["angry", "calm"], template="the speaker sounds {}")
    paraclap.score_windows("meeting.flac", ["angry", "calm"], window=3, hop=1)
    paraclap.embed_audio(signal, sampling_rate=44_100)       # (D,)
    paraclap.embed_text(["an angry voice", "a calm voice"])  # (K, D)
    print(paraclap.describe("speech.wav", edges="captions.edges.json"))

Letters: T samples, B clips, K prompts, D embedding size.

What the numbers are. *cosine* is that of the embeddings of clip and prompt, from -1 to 1; it can be
compared between clips and between prompts, within one model. *probability* is the softmax, over the
prompts that were given, of the cosines times the model's learned scale. It says which of the
prompts fits best and by how much, given that one of them does: it adds up to 1 even if all are
wrong, and it changes with the other prompts. *none_of_these* is the probability that a softmax over
the prompts and one class more gives to that class, whose embedding is the mean of those of
`REFERENCES`, sentences true of any speech. Near 0, some prompt fits better than a neutral one; near
1, none does. It is no probability that the clip holds no speech, and it is not
calibrated: a prompt may be right, and yet say no more to the model than "speech" does.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from paraclap.audio import AudioError
from paraclap.audio.conditioning import condition
from paraclap.audio.containers import read_duration
from paraclap.audio.reading import read_audio
from paraclap.audio.segments import Position, windows
from paraclap.evaluation.embed import (
    BATCH_SECONDS,
    embed_classes,
    embed_each,
    embed_texts,
    embed_waveforms,
    probabilities_of,
)
from paraclap.evaluation.prompts import EMOTION_FORMS, WORDS, word_class
from paraclap.inference.describe import measured_levels, wordings_of_levels
from paraclap.model.build import load_model
from paraclap.model.modeling_paraclap import ParaCLAPModel, ParaCLAPProcessor
from paraclap.model.onnx import OnnxModel, load_onnx

REFERENCES = ("a person is speaking", "speech", "someone is talking", "a recording of a voice")
"""Sentences that are true of any speech; together they are the class `none of these`."""
TEXT_BATCH = 256
LABELS = {
    "emotion": tuple(dict.fromkeys(["neutral", *(forms[0] for forms in EMOTION_FORMS)])),
    "gender": tuple(WORDS["gender"]),
}
"""What `describe` asks beside the measured descriptors: target -> classes."""

Signal = tuple[np.ndarray, int]
"""Samples (T,) or (T, C) and their rate [Hz]."""
Prompts = Sequence[str] | Mapping[str, Sequence[str]]
"""Texts, or name -> wordings whose embeddings are averaged."""


@dataclass(frozen=True)
class Question:
    """Prompts, embedded once; answers any number of clips.

    Attributes:
        names: of the prompts (K,).
        texts: their embeddings, and last that of `REFERENCES` (K + 1, D).
        model: that embedded them, and has the scale of the probabilities.
    """

    names: tuple[str, ...]
    texts: np.ndarray
    model: ParaCLAPModel | OnnxModel

    def answer(self, audio: np.ndarray) -> pd.DataFrame:
        """Compare clips (B, D) with the prompts.

        Returns:
            `best` (name of the prompt that fits best), `probability` (of it), `none_of_these`, and
            for each prompt `probability.NAME` and `cosine.NAME`; see the head of this file.
        """
        cosines = audio @ self.texts.T
        asked = cosines[:, :-1]
        probabilities = probabilities_of(self.model, asked)
        answers = pd.DataFrame(
            {
                "best": np.array(self.names, dtype=object)[asked.argmax(axis=1)],
                "probability": probabilities.max(axis=1),
                "none_of_these": probabilities_of(self.model, cosines)[:, -1],
            }
        )
        for kind, values in (("probability", probabilities), ("cosine", asked)):
            columns = [f"{kind}.{name}" for name in self.names]
            answers = pd.concat([answers, pd.DataFrame(values, columns=columns)], axis=1)
        return answers


@dataclass(frozen=True)
class Description:
    """What was measured about a clip, and what the model hears in it.

    Attributes:
        table: index `descriptor`; `value`, `unit`, `low`, `high`, `level`, `phrase` of
            `descriptions.measured_levels` (missing for emotion and gender, which nothing measures),
            `heard` (the level or label whose wordings the model finds nearest) and `probability`
            (softmax over the levels or labels of that descriptor).
        caption: pseudo-caption of what was measured.
    """

    table: pd.DataFrame
    caption: str

    def __str__(self) -> str:
        """The caption, and one line for each descriptor."""
        lines = [f"measured: {self.caption or 'nothing that is defined'}"]
        for name, row in self.table.iterrows():
            measured = "not measured"
            if not pd.isna(row["low"]):
                level = "undefined" if pd.isna(row["value"]) else f"{row['value']:.4g}"
                bounds = f"normal {row['low']:.4g} to {row['high']:.4g} {row['unit']}"
                measured = f"{row['level'] or ''} {level} ({bounds})".strip()
            lines.append(
                f"  {name:<16}{measured:<72} model: {row['heard']} {row['probability']:.2f}"
            )
        return "\n".join(lines)


class ParaCLAP:
    """A trained model with its processor, for questions in words.

    Attributes:
        model: in evaluation mode.
        processor: of the model.
        batch_seconds: padded audio in one batch [s].
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
    ) -> "ParaCLAP":
        """Load a run folder, a model folder or a Hub name; see `models.load_model`.

        Args:
            source: where the model is.
            device: None = a GPU if there is one.
            batch_seconds: padded audio in one batch [s].
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls(*load_model(source, device), batch_seconds)

    @classmethod
    def from_onnx(
        cls, folder: str | Path, int8: bool = False, batch_seconds: float = BATCH_SECONDS
    ) -> "ParaCLAP":
        """Load what `models.py export` wrote; see `onnx_towers.load_onnx`."""
        return cls(*load_onnx(folder, int8), batch_seconds)

    # --- Embeddings ------------------------------------------------------------------------------

    def embed_audio(self, signal: np.ndarray, sampling_rate: int) -> np.ndarray:
        """Embed one signal of any rate: (D,) float32 of unit length.

        Args:
            signal: (T,) or (T, C), float in [-1, 1] or signed integers of full scale. Channels are
                averaged, and the signal is resampled to 16 kHz, as is done with files.
            sampling_rate: of the signal [Hz].

        Raises:
            AudioError: for a rate, shape or samples that no recording has.
        """
        waveform = condition(np.asarray(signal), sampling_rate)
        return self.embed_waveforms([waveform])[0]

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts: (K, D) float32 of unit length.

        Raises:
            TypeError: for a single text, which would be taken letter by letter.
        """
        if isinstance(texts, str):
            raise TypeError(f"expected a list of texts, given one text: {texts!r}")
        parts = [
            embed_texts(self.model, self.processor, texts[first : first + TEXT_BATCH])
            for first in range(0, len(texts), TEXT_BATCH)
        ]
        return torch.cat(parts).numpy()

    def embed_clips(
        self, clips: Iterable[tuple[str | Path, str, Position, Position]]
    ) -> Iterator[np.ndarray | AudioError]:
        """Embed clips of files as they come, see `embeddings.embed_each`."""
        return embed_each(self.model, self.processor, clips, self.batch_seconds)

    def embed_waveforms(self, waveforms: Sequence[np.ndarray]) -> np.ndarray:
        """Embed waveforms (T,) at 16 kHz, as `audio.read_audio` gives them: (B, D)."""
        return embed_waveforms(self.model, self.processor, waveforms, self.batch_seconds).numpy()

    # --- Questions -------------------------------------------------------------------------------

    def ask(self, prompts: Prompts, template: str = "{}") -> Question:
        """Embed prompts for `Question.answer`.

        Args:
            prompts: texts, or name -> wordings.
            template: with {} where the words go, e.g. "the speaker sounds {}".

        Raises:
            ValueError: if there is no prompt, two are the same, or the template has no {}.
        """
        if isinstance(prompts, str):
            raise TypeError(f"expected a list of prompts, given one text: {prompts!r}")
        if template.count("{}") != 1:
            raise ValueError(f"template {template!r} must hold {{}} once, where the words go")
        if not isinstance(prompts, Mapping):
            if len(set(prompts)) < len(prompts):
                raise ValueError(f"a prompt is given twice: {list(prompts)}")
            prompts = {prompt: (prompt,) for prompt in prompts}
        if not prompts or not all(name.strip() for name in prompts):
            raise ValueError("expected at least one prompt, none of them empty")
        wordings = {
            name: tuple(template.replace("{}", text) for text in texts)
            for name, texts in prompts.items()
        }
        asked = embed_classes(self.model, self.processor, wordings)
        references = embed_classes(self.model, self.processor, {"": REFERENCES})
        return Question(tuple(prompts), torch.cat([asked, references]).numpy(), self.model)

    def score(
        self,
        audio: str | Path | Signal | Sequence[str | Path | Signal],
        prompts: Prompts,
        template: str = "{}",
    ) -> pd.DataFrame:
        """Ask about clips: one row each, with the columns of `Question.answer`.

        Args:
            audio: a file, a signal with its rate, or a list of those. (predict.py also takes
                folders, patterns and tables, and goes on after a file that cannot be read.)
            prompts: what is asked for.
            template: see `ask`.

        Raises:
            AudioError: naming the first clip that cannot be read.
        """
        several = isinstance(audio, Sequence) and not isinstance(audio, str | tuple)
        waveforms = [_waveform(item) for item in (audio if several else [audio])]
        return self.ask(prompts, template).answer(self.embed_waveforms(waveforms))

    def score_windows(
        self,
        path: str | Path,
        prompts: Prompts,
        window: float,
        hop: float,
        template: str = "{}",
    ) -> pd.DataFrame:
        """Ask about every window of a file of any length: `start` and `end` [s], and answers.

        Only a few windows are in memory at a time. See `windows` for where they lie.
        """
        path = Path(path).resolve()
        places = list(windows(read_duration(path), window, hop))
        clips = ((path.parent, path.name, *place) for place in places)
        audio = list(self.embed_clips(clips))
        for heard in audio:
            if isinstance(heard, AudioError):
                raise heard
        table = pd.DataFrame(places, columns=["start", "end"])
        answers = self.ask(prompts, template).answer(np.array(audio))
        return pd.concat([table, answers], axis=1)

    def describe(
        self,
        audio: str | Path | Signal,
        edges: str | Path,
        labels: Mapping[str, str] | None = None,
    ) -> Description:
        """Measure a clip, and set beside it what the model hears.

        Args:
            audio: a file, or a signal with its rate.
            edges: `captions.edges.json`, beside the captions that the model was trained on.
            labels: of the clip, such as `{"gender": "female"}`, for edges of groups.

        Raises:
            ValueError: if the edges are of groups, and the labels do not say which.
        """
        waveform = _waveform(audio)
        measured = measured_levels(waveform, edges, labels)
        asked = [n for n in self._descriptors if n in measured.index or n in LABELS]
        embedding = self.embed_waveforms([waveform])
        heard = [self._descriptors[name].answer(embedding).iloc[0] for name in asked]
        table = measured.reindex(pd.Index(asked, name="descriptor"))
        table["heard"] = [row["best"] for row in heard]
        table["probability"] = [row["probability"] for row in heard]
        return Description(table, " and ".join(measured["phrase"].dropna()))

    @functools.cached_property
    def _descriptors(self) -> dict[str, Question]:
        """Which level or label of each descriptor: texts are embedded once for all clips."""
        choices = wordings_of_levels()
        for target, classes in LABELS.items():
            choices[target] = {c: word_class(c, target, "ensemble") for c in classes}
        return {name: self.ask(wordings) for name, wordings in choices.items()}


def _waveform(audio: str | Path | Signal) -> np.ndarray:
    return condition(*audio) if isinstance(audio, tuple) else read_audio(audio)
