"""Speech and captions as batches: crops, caption sampling, padding with masks.

What a training step reads depends on the seed and the step number alone, not on the number of
workers or on what was read before, so a resumed run reads the same batches.

Letters: T samples at 16 kHz, F functionals, B clips of a batch, b clips of this process.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch.utils.data
from transformers import ProcessorMixin

from paraclap.audio import SAMPLING_RATE
from paraclap.audio.augment import Augmenter, Drawn, labels_of
from paraclap.audio.quality import quality_flags
from paraclap.audio.recordings import Files, Recordings
from paraclap.audio.segments import Position, crop_limits, segment_limits
from paraclap.data.captions import (
    FREE,
    PHRASE_COLUMNS,
    Caption,
    CaptionTableError,
    ClipPhrases,
    Phrases,
    compose_caption,
    draw_caption,
    match_matrix,
)
from paraclap.settings import CaptionSettings, DataSettings


class CaptionDataset(torch.utils.data.Dataset):
    """Crops of clips, each with a caption that is true of its clip.

    Attributes:
        clips: index of the table, (file, start, end) of each row.
        phrases: of each row.
        recordings: source of the waveforms.
        captions: how captions are drawn.
        data: of its settings `crop`, `crop_seconds` and `augment` are used.
        seed: determines crop and caption, together with epoch and row.
        repeat_short: whether short clips are repeated up to `crop_seconds`, for encoders without
            attention masks.
        own: clips of each batch that this process reads; other processes read the rest.
        functionals: of whole clips, (rows, F), returned instead of crops; None = crops.
        read: whether items hold waveforms; otherwise no audio file is opened.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        recordings: str | Path | Recordings,
        captions: CaptionSettings,
        data: DataSettings,
        seed: int,
        *,
        repeat_short: bool = False,
        own: slice = slice(None),
        functionals: np.ndarray | None = None,
        read: bool = True,
    ) -> None:
        """Check table and settings.

        Raises:
            CaptionTableError: if the table lacks a column or is empty.
            SettingsError: if caption or augmentation settings are invalid.
        """
        missing = [column for column in PHRASE_COLUMNS if column not in table]
        if missing:
            raise CaptionTableError(
                f"captions table lacks {missing}; template_creation.py writes them"
            )
        if not len(table):
            raise CaptionTableError("captions table is empty")
        self.clips = table.index
        self.phrases = ClipPhrases(table)
        self.recordings = _recordings(recordings)
        # `clips[row]` itself takes five times as long.
        self._limits = [_level_seconds(table.index, number) for number in (1, 2)]
        self.captions, self.data, self.seed = captions, data, seed
        self.repeat_short = repeat_short
        self.own = own
        self.functionals = functionals
        self.read = read
        self.augmenter = Augmenter(data.augment, labels_of(table.columns) | {FREE}, seed)

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def in_memory(self) -> bool:
        """Whether no audio file is decoded."""
        return not self.read or self.functionals is not None or self.recordings.in_memory

    def files(self, draws: Sequence[tuple[int, int]]) -> list[str]:
        """Return the files of a batch that this process reads."""
        return [self.clips[row][0] for _, row in draws[self.own]]

    def text_batch(self, step: int, size: int) -> list[Caption]:
        """Draw captions for a step of text pretraining, without reading audio.

        The first half is drawn freely. The second half has the descriptors of the first caption
        with the values of other clips, so that these captions differ in their values alone.
        """
        rng = np.random.default_rng([self.seed, step])
        rows = rng.integers(len(self), size=size)
        free = [draw_caption(self.phrases[row], self.captions, rng) for row in rows[: size // 2]]
        names = [name for name, _ in free[0].attributes]
        alike = [self.phrases[row] for row in rows[size // 2 :]]
        return free + [
            compose_caption(phrases, rng.permutation(names), self.captions, rng)
            for phrases in alike
            if phrases.keys() >= set(names)
        ]

    def __getitems__(self, draws: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
        """Return the items of a batch; those of other processes have a caption but no audio."""
        own = range(len(draws))[self.own]
        return [
            self[draw] if place in own else self.unread(draw) for place, draw in enumerate(draws)
        ]

    def __getitem__(self, draw: tuple[int, int]) -> dict[str, Any]:
        """Return the item of a draw (epoch, row).

        Returns:
            `row`, `caption`, the `phrases` that are true of the crop, and `waveform` (T,) float32
            or `functionals` (F,), unless nothing is read.
        """
        item, rng, drawn = self._drawn(draw)
        if not self.read:
            return item
        if self.functionals is not None:
            return item | {"functionals": self.functionals[item["row"]]}
        return item | {"waveform": self.waveform(item["row"], rng, drawn)}

    def unread(self, draw: tuple[int, int]) -> dict[str, Any]:
        """Return the item of a draw that another process reads."""
        return self._drawn(draw)[0] | {"own": False}

    def _drawn(self, draw: tuple[int, int]) -> tuple[dict[str, Any], np.random.Generator, Drawn]:
        """Return the item of a draw without audio, the generator of its crop, its augmentation."""
        row = draw[1]
        phrases = self.phrases[row]
        rng = np.random.default_rng([self.seed, *draw])
        caption = draw_caption(phrases, self.captions, rng)
        drawn = self.augmenter.draw(draw, [name for name, _ in caption.attributes])
        valid = {name: texts for name, texts in phrases.items() if not drawn.invalidates(name)}
        return {"row": row, "caption": caption, "phrases": valid}, rng, drawn

    def waveform(
        self, row: int, rng: np.random.Generator | None = None, drawn: Drawn | None = None
    ) -> np.ndarray:
        """Read the crop (T,) of a row.

        Args:
            row: of the table.
            rng: draws the position of the crop; not used by centre crops.
            drawn: augmentation of the crop. A faster one starts from a longer crop.
        """
        file = self.clips.levels[0][self.clips.codes[0][row]]
        start, end = (seconds[row] for seconds in self._limits)
        seconds = self.data.crop_seconds
        samples = round(seconds * SAMPLING_RATE)
        place = rng.random() if self.data.crop == "random" else 0.5
        speed = 1.0 if drawn is None else drawn.speed
        waveform = self.recordings.crop(file, start, end, seconds * speed, place)
        if drawn is not None:
            waveform = drawn.apply(waveform)
        waveform = waveform[:samples]
        return np.resize(waveform, samples) if self.repeat_short else waveform


def _recordings(source: str | Path | Recordings) -> Recordings:
    """Return recordings as they are, or those of a folder."""
    return Files(source) if isinstance(source, str | Path) else source


def _level_seconds(index: pd.MultiIndex, number: int) -> np.ndarray:
    """Return a level of timedeltas [s], NaT as NaN."""
    level = index.levels[number]
    seconds = level.total_seconds() if len(level) else []
    return np.append(seconds, np.nan)[index.codes[number]]  # the code of NaT is -1


def clip_limits(
    recordings: Recordings, clips: Iterable[tuple[str, Position, Position]]
) -> list[tuple[float, float]]:
    """Return the limits of clips (file, start, end) [s]; NaT as end = the end of the file."""
    return [
        segment_limits(start, end, recordings.seconds(file) if pd.isna(end) else np.nan)
        for file, start, end in clips
    ]


def clip_seconds(
    recordings: Recordings, clips: Iterable[tuple[str, Position, Position]]
) -> np.ndarray:
    """Return the durations of clips (file, start, end) [s], see `clip_limits`."""
    return np.array([last - first for first, last in clip_limits(recordings, clips)])


class ClipDataset(torch.utils.data.Dataset):
    """Whole clips of a corpus table in its order, for evaluation.

    Attributes:
        clips: (file, start, end) of each row.
        recordings: source of the waveforms.
        functionals: of the clips, (rows, F) float32, returned instead of waveforms; None =
            waveforms.
        quality: of each clip "silent", "unvoiced" or "" (see `quality_flags`), noted by
            `embed_clips`; None = not examined.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        recordings: str | Path | Recordings,
        functionals: np.ndarray | None = None,
        examine: bool = False,
    ) -> None:
        self.clips = list(table.index)
        self.recordings = _recordings(recordings)
        self.functionals = functionals
        self.quality: np.ndarray | None = np.full(len(table), "", object) if examine else None

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def in_memory(self) -> bool:
        """Whether no audio file is decoded."""
        return self.functionals is not None or self.recordings.in_memory

    def files(self, rows: Sequence[int]) -> list[str]:
        """Return the files of a batch."""
        return [self.clips[row][0] for row in rows]

    @property
    def conditioning(self) -> str:
        """Description of how waveforms follow from their files and limits."""
        return self.recordings.conditioning

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Return the `row` and `waveform` (T,) float32, or `functionals` (F,), of a clip.

        Examined waveforms have their `quality`.
        """
        if self.functionals is not None:
            return {"row": row, "functionals": self.functionals[row]}
        waveform = self.waveform(row)
        if self.quality is None:
            return {"row": row, "waveform": waveform}
        return {"row": row, "waveform": waveform, "quality": " ".join(quality_flags(waveform))}

    def waveform(self, row: int) -> np.ndarray:
        """Read a clip (T,)."""
        return self.recordings.read(*self.clips[row])

    def examined(self) -> "ClipDataset":
        """Return a copy whose items have their quality."""
        clips = copy.copy(self)
        clips.quality = np.full(len(self), "", object)
        return clips

    def durations(self, rows: Iterable[int] | None = None) -> np.ndarray:
        """Return the durations of rows [s], from the headers; None = of all clips.

        Functionals are not padded, so each row counts as one second.
        """
        chosen = self.clips if rows is None else [self.clips[row] for row in rows]
        if self.functionals is not None:
            return np.ones(len(chosen))
        return clip_seconds(self.recordings, chosen)


class CentreCrops(ClipDataset):
    """The centre crops of training clips, which are the same in every epoch.

    A clip that is shorter than the crop is the clip itself, as `ClipDataset` reads it.

    Attributes:
        samples: longest crop [samples].
        repeat_short: whether short clips are repeated up to this length.
    """

    def __init__(self, training: CaptionDataset) -> None:
        super().__init__(pd.DataFrame(index=training.clips), training.recordings, examine=True)
        self.samples = round(training.data.crop_seconds * SAMPLING_RATE)
        self.repeat_short = training.repeat_short
        seconds = training.data.crop_seconds
        for row, (first, last) in enumerate(clip_limits(self.recordings, self.clips)):
            if last - first > seconds:
                crop = crop_limits(first, last, last, seconds, place=0.5)
                self.clips[row] = (self.clips[row][0], *crop)

    @property
    def conditioning(self) -> str:
        """As of `ClipDataset`."""
        repeated = f"; short clips repeated to {self.samples} samples" if self.repeat_short else ""
        return f"{super().conditioning}{repeated}"

    def waveform(self, row: int) -> np.ndarray:
        """Read a crop (T,)."""
        waveform = super().waveform(row)[: self.samples]
        return np.resize(waveform, self.samples) if self.repeat_short else waveform


class Collate:
    """Pad items to tensors: waveforms with `padding_mask`, captions with `attention_mask`.

    Attributes:
        processor: of the model.
        samples: waveforms are padded to this length; None = to the longest clip of the batch.
        least: smallest padded length, in samples.
    """

    def __init__(
        self, processor: ProcessorMixin, seconds: float | None = None, least: int = 0
    ) -> None:
        self.processor = processor
        self.samples = None if seconds is None else round(seconds * SAMPLING_RATE)
        self.least = least

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the batch of B items.

        Returns:
            Audio tensors of the b items of this process, if their audio was read; `row` of all
            items; `own`, the positions of the b items. Captioned items also have
            `captions` (b texts), their tokens, and `matches`: the `match_matrix` of own clips and
            all captions, and of own captions and all clips, each (b, B).
        """
        own = [place for place, item in enumerate(items) if item.get("own", True)]
        batch = self._audio([items[place] for place in own])
        batch["row"] = [item["row"] for item in items]
        batch["own"] = own
        if "quality" in items[0]:
            batch["quality"] = [item["quality"] for item in items]
        if "caption" in items[0]:
            captions = [item["caption"] for item in items]
            batch["captions"] = [captions[place].text for place in own]
            batch["matches"] = _matches([item["phrases"] for item in items], captions, own)
            tokens = self.processor.tokenizer(batch["captions"], padding=True, truncation=True)
            # The conversion by the tokenizer itself takes longer than tokenisation.
            batch |= {name: torch.from_numpy(np.array(rows)) for name, rows in tokens.items()}
        return batch

    def _audio(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        extractor = self.processor.feature_extractor
        if "functionals" in items[0]:
            features = extractor.batch([item["functionals"] for item in items])
        elif "waveform" in items[0]:
            waveforms = [item["waveform"] for item in items]
            samples = self.samples
            if max(samples or 0, *map(len, waveforms)) < self.least:
                samples = self.least
            features = extractor(
                waveforms, sampling_rate=SAMPLING_RATE, samples=samples, mask_dtype=bool
            )
        else:
            return {}
        return {name: torch.from_numpy(values) for name, values in features.items()}


def _matches(
    phrases: Sequence[Phrases], captions: Sequence[Caption], own: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Match own clips with all captions, and own captions with all clips: each (b, B)."""
    of_clips = match_matrix([phrases[place] for place in own], captions)
    if len(own) == len(captions):
        return of_clips, of_clips.T
    return of_clips, match_matrix(phrases, [captions[place] for place in own]).T
