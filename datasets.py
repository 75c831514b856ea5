"""Speech and captions as batches: crops, caption sampling, padding with masks, batch order.

What a training step reads depends on the seed and the number of the step alone, never on the
number of workers or on what was read before, so that a resumed run sees what it would have seen.

This file shadows the package `datasets` of Hugging Face on purpose (the scripts are flat), so
torch's classes are named in full here: T samples at 16 kHz, B clips.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch.utils.data
from transformers import ProcessorMixin

from audio import SAMPLING_RATE, read_audio, read_duration, resolve_inside

EMOTION = "emotion"  # the descriptor that every caption tells unless settings say otherwise
JOINT = " and "
PHRASE_COLUMNS = ["captions", "caption_descriptors"]


@dataclass
class CaptionSettings:
    """How the phrases of a row become one caption.

    Attributes:
        style: "sampled" (some phrases in random order, then the emotion), "published" ("speaker"
            and all phrases, as the published code does) or "emotion" (that phrase alone).
        shares: for "sampled": descriptor -> share of captions that speak of it.
        counts: for "sampled": probability of 0, 1, 2, ... phrases about other descriptors; a
            caption that would be empty gets one.
        paraphrases: whether any wording of a phrase may be drawn, or always the first.
    """

    style: str = "sampled"
    shares: dict[str, float] = field(default_factory=lambda: {EMOTION: 1.0})
    counts: list[float] = field(default_factory=lambda: [0.0, 0.4, 0.3, 0.2, 0.1])
    paraphrases: bool = True


Phrases = Mapping[str, Sequence[str]]  # descriptor -> wordings


def group_phrases(captions: Sequence[str], descriptors: Sequence[str]) -> dict[str, list[str]]:
    """Collect the wordings of each descriptor of a row, in the order of the table.

    Raises:
        ValueError: if the two lists differ in length.
    """
    phrases: dict[str, list[str]] = {}
    for phrase, descriptor in zip(captions, descriptors, strict=True):
        phrases.setdefault(descriptor, []).append(phrase)
    return phrases


def caption_texts(table: pd.DataFrame) -> pd.Series:
    """Return one text for each clip: its column `caption`, or all its phrases in first wording.

    Args:
        table: captions table; clips without any phrase are left out.

    Raises:
        ValueError: if the table has neither `caption` nor the columns of template_creation.py.
    """
    if "caption" in table:
        return table["caption"].dropna()
    missing = [column for column in PHRASE_COLUMNS if column not in table]
    if missing:
        raise ValueError(f"captions table lacks {missing}, expected them or a column 'caption'")
    texts = [
        JOINT.join(wordings[0] for wordings in group_phrases(*row).values())
        for row in zip(*(table[c] for c in PHRASE_COLUMNS), strict=True)
    ]
    texts = pd.Series(texts, table.index, dtype="str")
    return texts[texts != ""]


@dataclass(frozen=True)
class Caption:
    """A text about a clip, and what it says: (descriptor, first wording) of each phrase."""

    text: str
    claims: tuple[tuple[str, str], ...]


def draw_caption(phrases: Phrases, settings: CaptionSettings, rng: np.random.Generator) -> Caption:
    """Draw one caption from the phrases that hold for a clip.

    Raises:
        ValueError: if there are no phrases, or the style is unknown.
    """
    if not phrases:
        raise ValueError("a clip without phrases has no caption")
    if settings.style not in STYLES:
        raise ValueError(f"captions.style is {settings.style!r}, expected one of {sorted(STYLES)}")
    return STYLES[settings.style](phrases, settings, rng)


def compose_caption(
    phrases: Phrases, names: Sequence[str], settings: CaptionSettings, rng: np.random.Generator
) -> Caption:
    """Word what is known about the descriptors `names`, in this order."""
    text = JOINT.join(_wording(phrases[name], settings, rng) for name in names)
    return Caption(text, _claims(phrases, names))


def _sampled(phrases: Phrases, settings: CaptionSettings, rng: np.random.Generator) -> Caption:
    """Phrases without repetition, then those of labels, as the paper designed it."""
    told = [n for n, share in settings.shares.items() if rng.random() < share and n in phrases]
    others = [name for name in phrases if name not in settings.shares]
    if not others and not told:
        others = list(phrases)
    count = int(rng.choice(len(settings.counts), p=settings.counts))
    count = min(count if told else max(count, 1), len(others))
    chosen = [others[i] for i in rng.permutation(len(others))[:count]]
    return compose_caption(phrases, [*chosen, *told], settings, rng)


def _published(phrases: Phrases, settings: CaptionSettings, rng: np.random.Generator) -> Caption:
    text = "speaker " + JOINT.join(wordings[0] for wordings in phrases.values())
    return Caption(text, _claims(phrases, phrases))


def _emotion(phrases: Phrases, settings: CaptionSettings, rng: np.random.Generator) -> Caption:
    if EMOTION not in phrases:
        raise ValueError("captions.style is 'emotion', but a clip has no emotion label")
    text = _wording(phrases[EMOTION], settings, rng)
    return Caption(text, _claims(phrases, [EMOTION]))


def _wording(wordings: Sequence[str], settings: CaptionSettings, rng: np.random.Generator) -> str:
    return wordings[rng.integers(len(wordings))] if settings.paraphrases else wordings[0]


def _claims(phrases: Phrases, names: Iterable[str]) -> tuple[tuple[str, str], ...]:
    return tuple((name, phrases[name][0]) for name in sorted(names))


def true_captions(phrases: Sequence[Phrases], captions: Sequence[Caption]) -> torch.Tensor:
    """Which captions are true of which clips: (B, K), 1 where every claim of a caption holds.

    A descriptor that a clip lacks is not known to hold for it.
    """
    known = [set(_claims(p, p)) for p in phrases]
    return torch.tensor([[float(clip >= set(c.claims)) for c in captions] for clip in known])


def equal_captions(captions: Sequence[Caption]) -> torch.Tensor:
    """Which captions say the same in any wording and order: (K, K), 1 where they do."""
    return torch.tensor([[float(a.claims == b.claims) for b in captions] for a in captions])


STYLES: dict[str, Callable[[Phrases, CaptionSettings, np.random.Generator], Caption]] = {
    "sampled": _sampled,
    "published": _published,
    "emotion": _emotion,
}


class CaptionDataset(torch.utils.data.Dataset):
    """Random crops of clips, each with a caption that holds for it.

    Attributes:
        table: captions table (index file, start, end; `captions`, `caption_descriptors`).
        root: folder that the files of the table are relative to.
        settings: how captions are drawn.
        crop_seconds: longest crop [s]; shorter clips stay whole.
        seed: together with epoch and row it decides crop and caption.
        repeat_short: fill short clips up to `crop_seconds` by repeating them, for encoders that
            cannot leave padding out.
        crop: where crops lie, a name of `CROPS`.
        read: whether items hold waveforms; without them no audio file is opened.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        root: str | Path,
        settings: CaptionSettings,
        crop_seconds: float,
        seed: int,
        repeat_short: bool = False,
        crop: str = "random",
        read: bool = True,
    ) -> None:
        missing = [column for column in PHRASE_COLUMNS if column not in table]
        if missing:
            raise ValueError(f"captions table lacks {missing}; template_creation.py writes them")
        if not len(table):
            raise ValueError("no clip is left to train on")
        self.clips = list(table.index)
        self.phrases = [
            group_phrases(*row) for row in zip(*(table[c] for c in PHRASE_COLUMNS), strict=True)
        ]
        self.root = Path(root)
        self.settings = settings
        self.crop_seconds = crop_seconds
        self.seed = seed
        self.repeat_short = repeat_short
        self.crop = crop
        self.read = read

    def __len__(self) -> int:
        return len(self.clips)

    def text_batch(self, step: int, size: int) -> list[Caption]:
        """Draw captions without reading audio, for a training stage of the text side.

        The first half are free draws. The others speak of the descriptors that the first caption
        speaks of, each for another clip, so that only what they say tells them apart.
        """
        rng = np.random.default_rng([self.seed, step])
        rows = rng.integers(len(self), size=size)
        free = [draw_caption(self.phrases[row], self.settings, rng) for row in rows[: size // 2]]
        names = [name for name, _ in free[0].claims]
        alike = [self.phrases[row] for row in rows[size // 2 :]]
        return free + [
            compose_caption(phrases, rng.permutation(names), self.settings, rng)
            for phrases in alike
            if phrases.keys() >= set(names)
        ]

    def __getitem__(self, draw: tuple[int, int]) -> dict[str, Any]:
        """Read row `draw[1]` as it is drawn in epoch `draw[0]`.

        Returns:
            `row`, `caption`, `phrases` that hold for the clip, and `waveform` (T,) float32.
        """
        epoch, row = draw
        rng = np.random.default_rng([self.seed, epoch, row])
        caption = draw_caption(self.phrases[row], self.settings, rng)
        item = {"row": row, "caption": caption, "phrases": self.phrases[row]}
        return item | {"waveform": self.waveform(row, rng)} if self.read else item

    def waveform(self, row: int, rng: np.random.Generator | None = None) -> np.ndarray:
        """Read the crop (T,) of a row; `rng` draws where it lies, unless it is always the same."""
        file, start, end = self.clips[row]
        path = resolve_inside(self.root, file)
        first, last = crop_limits(path, start, end, self.crop_seconds, self.crop, rng)
        samples = round(self.crop_seconds * SAMPLING_RATE)
        waveform = read_audio(path, first, last)[:samples]  # limits are rounded one by one
        return np.resize(waveform, samples) if self.repeat_short else waveform


def crop_limits(
    path: Path,
    start: pd.Timedelta,
    end: pd.Timedelta,
    seconds: float,
    crop: str,
    rng: np.random.Generator | None,
) -> tuple[float, float | None]:
    """Choose a part of at most `seconds` inside a segment; returns its limits [s]."""
    first, last = segment_limits(path, start, end)
    if last - first <= seconds:
        return first, None if pd.isna(end) else last
    first += CROPS[crop](last - first - seconds, rng)
    return first, first + seconds


# How far behind the start of its segment a crop begins [s], if the segment is so much longer.
CROPS: dict[str, Callable[[float, np.random.Generator | None], float]] = {
    "random": lambda longer, rng: rng.uniform(0, longer),
    "centre": lambda longer, rng: longer / 2,
}


def segment_limits(path: Path, start: pd.Timedelta, end: pd.Timedelta) -> tuple[float, float]:
    """Limits of a segment [s]; a missing end (NaT) is the end of the file."""
    first = 0.0 if pd.isna(start) else start.total_seconds()
    return first, read_duration(path) if pd.isna(end) else end.total_seconds()


class ClipDataset(torch.utils.data.Dataset):
    """Whole clips of a corpus table in its order, for evaluation."""

    def __init__(self, table: pd.DataFrame, root: str | Path) -> None:
        self.clips = list(table.index)
        self.root = Path(root)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Read a clip: `row` and `waveform` (T,) float32."""
        file, start, end = self.clips[row]
        return {"row": row, "waveform": read_audio(resolve_inside(self.root, file), start, end)}

    def durations(self, rows: Iterable[int] | None = None) -> np.ndarray:
        """Durations of the clips of these rows [s], from the headers; None = of all."""
        chosen = self.clips if rows is None else [self.clips[row] for row in rows]
        limits = [segment_limits(resolve_inside(self.root, f), s, e) for f, s, e in chosen]
        return np.array([last - first for first, last in limits])


class Collate:
    """Items to padded tensors: waveforms with `padding_mask`, captions with `attention_mask`.

    Attributes:
        processor: of the model.
        seconds: pad to this duration [s]; None = to the longest clip of the batch.
    """

    def __init__(self, processor: ProcessorMixin, seconds: float | None = None) -> None:
        self.processor = processor
        self.samples = None if seconds is None else round(seconds * SAMPLING_RATE)

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return tensors, `row` as a list, and for captioned clips `captions` and `matches`.

        Items without waveforms give no `input_values`.

        `matches` (B, B) are those of `true_captions`.
        """
        batch: dict[str, Any] = {}
        if "waveform" in items[0]:
            batch |= self.processor.feature_extractor(
                [item["waveform"] for item in items],
                sampling_rate=SAMPLING_RATE,
                samples=self.samples,
                return_tensors="pt",
            )
        batch["row"] = [item["row"] for item in items]
        if "caption" in items[0]:
            captions = [item["caption"] for item in items]
            batch["captions"] = [caption.text for caption in captions]
            batch["matches"] = true_captions([item["phrases"] for item in items], captions)
            tokens = self.processor.tokenizer(
                batch["captions"], padding=True, truncation=True, return_tensors="pt"
            )
            batch |= dict(tokens)
        return batch


class TrainingBatches(torch.utils.data.Sampler):
    """Batches of (epoch, row), computed from the number of the step.

    Every epoch is a fresh permutation; what does not fill a batch is left out of that epoch.

    Attributes:
        rows: number of clips.
        batch_size: clips per batch.
        steps: number of the last step.
        start: number of steps already done.
    """

    def __init__(self, rows: int, batch_size: int, steps: int, seed: int, start: int = 0) -> None:
        self.batches_per_epoch = self.per_epoch(rows, batch_size)
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.steps, self.start = steps, start

    @staticmethod
    def per_epoch(rows: int, batch_size: int) -> int:
        """Number of whole batches in an epoch.

        Raises:
            ValueError: for a batch of one, or one that the clips do not fill.
        """
        if batch_size < 2:
            raise ValueError(
                f"batch_size is {batch_size}: a contrastive loss needs at least 2, alone a clip "
                "has nothing to be told from"
            )
        if rows < batch_size:
            raise ValueError(f"{rows} clips do not fill a batch of {batch_size}")
        return rows // batch_size

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch_of_order = order = None
        for step in range(self.start, self.steps):
            epoch, position = divmod(step, self.batches_per_epoch)
            if epoch != epoch_of_order:
                order = np.random.default_rng([self.seed, epoch]).permutation(self.rows)
                epoch_of_order = epoch
            first = position * self.batch_size
            yield [(epoch, int(row)) for row in order[first : first + self.batch_size]]


def length_sorted_batches(durations: np.ndarray, batch_seconds: float) -> list[list[int]]:
    """Group rows of similar duration, longest first, into batches of bounded padded size.

    Args:
        durations: of the clips [s].
        batch_seconds: largest number of clips times longest clip [s]; a longer clip stands alone.
    """
    batches: list[list[int]] = []
    for row in np.argsort(-durations, kind="stable").tolist():
        longest = durations[batches[-1][0]] if batches else np.inf
        if longest * (len(batches[-1]) + 1 if batches else 1) <= batch_seconds:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches
