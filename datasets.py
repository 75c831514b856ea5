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

from audio import SAMPLING_RATE, Files, Recordings, segment_limits
from augmentation import Augmenter, AugmentSettings, Drawn, labels_of
from caption_tables import Lists

EMOTION = "emotion"  # the descriptor that every caption tells unless settings say otherwise
JOINT = " and "
PHRASE_COLUMNS = ["captions", "caption_descriptors"]
CROPS: dict[str, Callable[[np.random.Generator], float]] = {
    "random": lambda rng: rng.random(),
    "centre": lambda rng: 0.5,
}
"""Where a crop lies: 0 = at the beginning of the clip, 1 = at its end."""


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


class ClipPhrases(Sequence):
    """Phrases of the clips of a captions table, grouped one clip at a time when they are needed."""

    def __init__(self, table: pd.DataFrame) -> None:
        self.columns = [Lists(table[column]) for column in PHRASE_COLUMNS]

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, row: int) -> dict[str, list[str]]:
        return group_phrases(*(column[row] for column in self.columns))


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
        free = [draw_caption(self.phrases[row], self.settings, rng) for row in rows[: size // 2]]
        names = [name for name, _ in free[0].claims]
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
        caption = draw_caption(phrases, self.settings, rng)
        drawn = self.augmenter.draw(draw, [name for name, _ in caption.claims])
        known = {name: texts for name, texts in phrases.items() if not drawn.unsettles(name)}
        return {"row": row, "caption": caption, "phrases": known}, rng, drawn

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
        is that of all, `own` are the places of the b among them. `matches` are two: which captions
        are true of each own clip (b, B), and which clips each own caption is true of (b, B), by
        `true_captions`.
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
    """Captions true of own clips, and clips that own captions are true of: each (b, B)."""
    of_clips = true_captions([phrases[place] for place in own], captions)
    if len(own) == len(captions):
        return of_clips, of_clips.T
    return of_clips, true_captions(phrases, [captions[place] for place in own]).T


Draws = Callable[[int], np.ndarray]
"""Epoch -> what is drawn in it: (epoch, row) of each clip, (rows, 2)."""


def shuffled(rows: int, seed: int) -> Draws:
    """Draw every row once in an epoch."""

    def draws(epoch: int) -> np.ndarray:
        order = np.random.default_rng([seed, epoch]).permutation(rows)
        return np.stack([np.full(rows, epoch), order], axis=1)

    return draws


def mixed(sizes: Sequence[int], temperature: float, seed: int) -> Draws:
    """Draw from several corpora, each in a share of its size to the power of `temperature`.

    An epoch draws as many rows as there are. Each corpus goes through its rows again and again, in
    another order each time, from where the last epoch left it; the number of that pass stands in
    place of the epoch, so that a row drawn twice in an epoch is cropped and worded anew.

    Args:
        sizes: rows of each corpus; they follow each other in the table.
        temperature: 1 is as `shuffled`, 0 draws as many rows of each corpus.
        seed: of the run.
    """
    if len(sizes) == 1 or temperature == 1:
        return shuffled(sum(sizes), seed)
    counts = mixture_counts(sizes, temperature)
    firsts = np.cumsum([0, *sizes[:-1]])

    def draws(epoch: int) -> np.ndarray:
        parts = [
            _passes(size, count, epoch, [seed, corpus]) + [0, first]
            for corpus, (size, count, first) in enumerate(zip(sizes, counts, firsts, strict=True))
        ]
        drawn = np.concatenate(parts)
        return drawn[np.random.default_rng([seed, epoch]).permutation(len(drawn))]

    return draws


def balanced(labels: Sequence[str], temperature: float, seed: int) -> Draws:
    """Draw each class in a share of its size to the power of `temperature`, as `mixed` does.

    Args:
        labels: class of each row, in any order.
        temperature: 1 is as `shuffled`, 0 draws as many rows of each class.
        seed: of the run.
    """
    _, codes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    order = np.argsort(codes, kind="stable")
    draws = mixed(sizes.tolist(), temperature, seed)
    if temperature == 1:
        return draws

    def of_rows(epoch: int) -> np.ndarray:
        drawn = draws(epoch)
        return np.stack([drawn[:, 0], order[drawn[:, 1]]], axis=1)

    return of_rows


def mixture_counts(sizes: Sequence[int], temperature: float) -> list[int]:
    """Rows that an epoch draws of each corpus; they add up to those that there are."""
    weights = np.array(sizes, np.float64) ** temperature
    exact = weights / weights.sum() * sum(sizes)
    counts = np.floor(exact).astype(int)
    left_over = np.argsort(counts - exact, kind="stable")[: sum(sizes) - counts.sum()]
    counts[left_over] += 1
    return counts.tolist()


def _passes(size: int, count: int, epoch: int, seed: Sequence[int]) -> np.ndarray:
    """Draw `count` rows of a corpus, going on from the last epoch: (pass, row) (count, 2)."""
    places = np.arange(epoch * count, (epoch + 1) * count)
    numbers, within = np.divmod(places, size)
    rows = [
        np.random.default_rng([*seed, number]).permutation(size)[within[numbers == number]]
        for number in np.unique(numbers)
    ]
    return np.stack([numbers, np.concatenate([np.empty(0, int), *rows])], axis=1)


BUCKET_BATCHES = 32
"""Batches whose clips are sorted by duration together; more would mix epochs less."""


def bucketed(
    draws: Draws,
    seconds: np.ndarray,
    batch_size: int,
    seed: int,
    lengths: CropLengths | None = None,
) -> Draws:
    """Reorder draws so that the clips of a batch are of similar duration.

    Args:
        draws: what to reorder; every epoch keeps the draws that it has.
        seconds: duration of each row [s].
        batch_size: clips per batch.
        seed: of the run.
        lengths: longest crop of each draw; None = crops are as long as the rows.
    """

    def durations(part: np.ndarray) -> np.ndarray:
        if lengths is None or lengths.least is None:
            return seconds[part[:, 1]]
        return np.minimum(seconds[part[:, 1]], [lengths(draw) for draw in part.tolist()])

    def reordered(epoch: int) -> np.ndarray:
        drawn = draws(epoch)
        rng = np.random.default_rng([seed, epoch, BUCKET_BATCHES])
        last = len(drawn) // batch_size * batch_size
        parts = []
        for first in range(0, last, batch_size * BUCKET_BATCHES):
            part = drawn[first : min(first + batch_size * BUCKET_BATCHES, last)]
            part = part[np.argsort(durations(part), kind="stable")]
            batches = part.reshape(-1, batch_size, 2)
            parts.append(batches[rng.permutation(len(batches))].reshape(-1, 2))
        return np.concatenate([*parts, drawn[last:]])

    return reordered


class TrainingBatches(torch.utils.data.Sampler):
    """Batches of (epoch, row), computed from the number of the step.

    Every epoch is a fresh permutation, unless `draws` says otherwise; what does not fill a batch is
    left out of that epoch.

    Attributes:
        rows: number of clips.
        batch_size: clips per batch.
        steps: number of the last step.
        start: number of steps already done.
        draws: epoch -> what is drawn in it, in order: (epoch, row) (rows, 2).
    """

    def __init__(
        self,
        rows: int,
        batch_size: int,
        steps: int,
        seed: int,
        start: int = 0,
        draws: Draws | None = None,
    ) -> None:
        self.batches_per_epoch = self.per_epoch(rows, batch_size)
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.steps, self.start = steps, start
        self.draws = draws or shuffled(rows, seed)

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
                order = self.draws(epoch)
                epoch_of_order = epoch
            first = position * self.batch_size
            yield [(int(e), int(row)) for e, row in order[first : first + self.batch_size]]


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
