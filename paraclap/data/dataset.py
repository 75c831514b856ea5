"""Speech and captions as batches: crops, caption sampling, padding with masks.

What a training step reads depends on the seed and the number of the step alone, never on the
number of workers or on what was read before, so that a resumed run sees what it would have seen.

This file shadows the package `datasets` of Hugging Face on purpose (the scripts are flat), so
torch's classes are named in full here: T samples at 16 kHz, B clips.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch.utils.data
from transformers import ProcessorMixin

from paraclap.audio.augment import Augmenter, Drawn, labels_of
from paraclap.audio.reading import SAMPLING_RATE, Files, Recordings, segment_limits
from paraclap.data.captions import (
    PHRASE_COLUMNS,
    Caption,
    ClipPhrases,
    Phrases,
    Words,
    compose_caption,
    draw_caption,
    match_matrix,
)
from paraclap.settings import AugmentSettings, CaptionSettings

CROPS: dict[str, Callable[[np.random.Generator], float]] = {
    "random": lambda rng: rng.random(),
    "centre": lambda rng: 0.5,
}
"""Where a crop lies: 0 = at the beginning of the clip, 1 = at its end."""


LENGTHS_APART = 0xC12  # so that captions and places of crops are those of a run without


class CropLengths:
    """Longest crop of each draw [s], from the seed, the epoch and the row alone.

    Attributes:
        least: shortest of them; None = all are `most`.
        most: longest of them.
        seed: of the run.
    """

    def __init__(self, least: float | None, most: float, seed: int) -> None:
        self.least, self.most, self.seed = least, most, seed

    def __call__(self, draw: Sequence[int]) -> float:
        """Length for a draw (epoch, row)."""
        if self.least is None:
            return self.most
        rng = np.random.default_rng([self.seed, LENGTHS_APART, *draw])
        return float(rng.uniform(self.least, self.most))

    def limit(self, seconds: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        """Durations of the crops of draws (n, 2), of clips of `seconds` each."""
        return np.minimum(seconds[drawn[:, 1]], [self(draw) for draw in drawn.tolist()])


class CaptionDataset(torch.utils.data.Dataset):
    """Random crops of clips, each with a caption that holds for it.

    Attributes:
        table: captions table (index file, start, end; `captions`, `caption_descriptors`).
        recordings: where the files of the table are read.
        settings: how captions are drawn.
        crop_seconds: longest crop [s]; shorter clips stay whole.
        seed: together with epoch and row it decides crop and caption.
        repeat_short: fill short clips up to `crop_seconds` by repeating them, for encoders that
            cannot leave padding out.
        own: clips of each batch that are read here; another process reads the others.
        functionals: of whole clips, (rows, F), which are served instead of crops; None = crops.
        crop: where crops lie, a name of `CROPS`.
        read: whether items hold waveforms; without them no audio file is opened.
        words: that stand in for phrases in a share `settings.bare` of the captions.
        augment: how crops are changed; None = not at all.
        crop_seconds_min: crops are of a length between this and `crop_seconds` [s]; None = all of
            `crop_seconds`.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        recordings: str | Path | Recordings,
        settings: CaptionSettings,
        crop_seconds: float,
        seed: int,
        repeat_short: bool = False,
        own: slice = slice(None),
        functionals: np.ndarray | None = None,
        crop: str = "random",
        read: bool = True,
        words: Words | None = None,
        augment: AugmentSettings | None = None,
        crop_seconds_min: float | None = None,
    ) -> None:
        missing = [column for column in PHRASE_COLUMNS if column not in table]
        if missing:
            raise ValueError(f"captions table lacks {missing}; template_creation.py writes them")
        if not len(table):
            raise ValueError("no clip is left to train on")
        self.clips = table.index
        self.phrases = ClipPhrases(table)
        self.recordings = _recordings(recordings)
        self.settings = settings
        self.crop_seconds = crop_seconds
        self.seed = seed
        self.repeat_short = repeat_short
        self.own = own
        self.functionals = functionals
        self.crop = crop
        self.read = read
        self.words = words
        self.lengths = CropLengths(crop_seconds_min, crop_seconds, seed)
        self.augmenter = Augmenter(augment or AugmentSettings(), labels_of(table.columns), seed)

    def __len__(self) -> int:
        return len(self.clips)

    def text_batch(self, step: int, size: int) -> list[Caption]:
        """Draw captions without reading audio, for a training stage of the text side.

        The first half are free draws. The others speak of the descriptors that the first caption
        speaks of, each for another clip, so that only what they say tells them apart.
        """
        rng = np.random.default_rng([self.seed, step])
        rows = rng.integers(len(self), size=size)
        free = [self._caption(row, rng) for row in rows[: size // 2]]
        names = [name for name, _ in free[0].attributes]
        alike = [self.phrases[row] for row in rows[size // 2 :]]
        return free + [
            compose_caption(phrases, rng.permutation(names), self.settings, rng)
            for phrases in alike
            if phrases.keys() >= set(names)
        ]

    def __getitems__(self, draws: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
        """Read a whole batch: its own clips, and of the others what is said about them."""
        own = range(len(draws))[self.own]
        return [
            self[draw] if place in own else self.unread(draw) for place, draw in enumerate(draws)
        ]

    def unread(self, draw: tuple[int, int]) -> dict[str, Any]:
        """Return the item of a draw that another process reads."""
        return self._drawn(draw)[0] | {"own": False}

    def _drawn(self, draw: tuple[int, int]) -> tuple[dict[str, Any], np.random.Generator, Drawn]:
        """Item of a draw without audio, the generator that goes on to draw the crop, its changes.

        Of what the changes unsettle, no phrase is known to hold.
        """
        row = draw[1]
        phrases = self.phrases[row]
        rng = np.random.default_rng([self.seed, *draw])
        caption = self._caption(row, rng)
        drawn = self.augmenter.draw(draw, [name for name, _ in caption.attributes])
        known = {name: texts for name, texts in phrases.items() if not drawn.unsettles(name)}
        return {"row": row, "caption": caption, "phrases": known}, rng, drawn

    def _caption(self, row: int, rng: np.random.Generator) -> Caption:
        return draw_caption(self.phrases[row], self.settings, rng, self.words)

    def __getitem__(self, draw: tuple[int, int]) -> dict[str, Any]:
        """Read row `draw[1]` as it is drawn in epoch `draw[0]`.

        Returns:
            `row`, `caption`, `phrases` that hold for the clip, and `waveform` (T,) float32 or
            `functionals` (F,), unless nothing is read.
        """
        _, row = draw
        item, rng, drawn = self._drawn(draw)
        if not self.read:
            return item
        if self.functionals is not None:
            return item | {"functionals": self.functionals[row]}
        return item | {"waveform": self.waveform(row, rng, drawn, self.lengths(draw))}

    def waveform(
        self,
        row: int,
        rng: np.random.Generator | None = None,
        drawn: Drawn | None = None,
        seconds: float | None = None,
    ) -> np.ndarray:
        """Read the crop (T,) of a row.

        Args:
            row: of the table.
            rng: draws where the crop lies, unless it is always the same.
            drawn: changes of it; faster ones are of a longer crop.
            seconds: longest crop [s]; None = `crop_seconds`.
        """
        file, start, end = self.clips[row]
        seconds = self.crop_seconds if seconds is None else seconds
        samples = round(seconds * SAMPLING_RATE)
        place = CROPS[self.crop](rng)
        if drawn is not None and drawn.values:
            longer = self.recordings.crop(file, start, end, seconds * drawn.speed, place)
            waveform = drawn.apply(longer)[:samples]
        else:
            waveform = self.recordings.crop(file, start, end, seconds, place)[:samples]
        if not self.repeat_short:
            return waveform
        return np.resize(waveform, round(self.crop_seconds * SAMPLING_RATE))


def _recordings(source: str | Path | Recordings) -> Recordings:
    """Recordings as given, or the files of a folder."""
    return Files(source) if isinstance(source, str | Path) else source


def clip_seconds(
    recordings: Recordings, clips: Iterable[tuple[str, pd.Timedelta, pd.Timedelta]]
) -> np.ndarray:
    """Durations of clips (file, start, end) [s]; a missing end (NaT) is the end of the file."""
    limits = [
        segment_limits(start, end, recordings.seconds(file) if pd.isna(end) else np.nan)
        for file, start, end in clips
    ]
    return np.array([last - first for first, last in limits])


class ClipDataset(torch.utils.data.Dataset):
    """Whole clips of a corpus table in its order, for evaluation."""

    def __init__(self, table: pd.DataFrame, recordings: str | Path | Recordings) -> None:
        self.clips = list(table.index)
        self.recordings = _recordings(recordings)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Read a clip: `row` and `waveform` (T,) float32."""
        file, start, end = self.clips[row]
        return {"row": row, "waveform": self.recordings.read(file, start, end)}

    def durations(self, rows: Iterable[int] | None = None) -> np.ndarray:
        """Durations of the clips of these rows [s], from the headers; None = of all."""
        chosen = self.clips if rows is None else [self.clips[row] for row in rows]
        return clip_seconds(self.recordings, chosen)


class FunctionalClips(ClipDataset):
    """Clips of a corpus table whose functionals were measured before, for evaluation."""

    def __init__(
        self, table: pd.DataFrame, recordings: str | Path | Recordings, functionals: np.ndarray
    ) -> None:
        super().__init__(table, recordings)
        self.functionals = functionals

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Return a clip: `row` and `functionals` (F,) float32."""
        return {"row": row, "functionals": self.functionals[row]}

    def durations(self, rows: Iterable[int] | None = None) -> np.ndarray:
        """All alike, since none is padded: a second each."""
        return np.ones(len(self) if rows is None else len(list(rows)))


class Collate:
    """Items to padded tensors: waveforms with `padding_mask`, captions with `attention_mask`.

    Attributes:
        processor: of the model.
        seconds: pad to this duration [s]; None = to the longest clip of the batch.
        least: pad to so many samples at least.
    """

    def __init__(
        self, processor: ProcessorMixin, seconds: float | None = None, least: int = 0
    ) -> None:
        self.processor = processor
        self.samples = None if seconds is None else round(seconds * SAMPLING_RATE)
        self.least = least

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return tensors, `row` as a list, and for captioned clips `captions` and `matches`.

        Of B items, b belong to this process, and their audio becomes tensors, if it was read. `row`
        is that of all, `own` are the places of the b among them. `matches` are two: how far each
        caption is true of each own clip (b, B), and each own caption of each clip (b, B), by
        `match_matrix`.
        """
        own = [place for place, item in enumerate(items) if item.get("own", True)]
        batch = dict(self._audio([items[place] for place in own]))
        batch["row"] = [item["row"] for item in items]
        batch["own"] = own
        if "caption" in items[0]:
            captions = [item["caption"] for item in items]
            batch["captions"] = [captions[place].text for place in own]
            batch["matches"] = _matches([item["phrases"] for item in items], captions, own)
            tokens = self.processor.tokenizer(
                batch["captions"], padding=True, truncation=True, return_tensors="pt"
            )
            batch |= dict(tokens)
        return batch

    def _audio(self, items: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        extractor = self.processor.feature_extractor
        if "waveform" not in items[0] and "functionals" not in items[0]:
            return {}
        if "functionals" in items[0]:
            return extractor.batch([item["functionals"] for item in items], return_tensors="pt")
        waveforms = [item["waveform"] for item in items]
        samples = self.samples
        if max(samples or 0, *map(len, waveforms)) < self.least:
            samples = self.least
        return extractor(
            waveforms, sampling_rate=SAMPLING_RATE, samples=samples, return_tensors="pt"
        )


def _matches(
    phrases: Sequence[Phrases], captions: Sequence[Caption], own: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """How far captions are true of own clips, and own captions of clips: each (b, B)."""
    of_clips = match_matrix([phrases[place] for place in own], captions)
    if len(own) == len(captions):
        return of_clips, of_clips.T
    return of_clips, match_matrix(phrases, [captions[place] for place in own]).T
