"""Training and validation clips of a run, and the batches that are read from them."""

import functools
import hashlib
import math
import warnings

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from paraclap.audio.paths import is_audio_file, resolve_inside
from paraclap.audio.recordings import Files, JoinedRecordings, Recordings
from paraclap.audio.shards import shard_numbers
from paraclap.audio.waveform_cache import cache_waveforms
from paraclap.data.captions import FREE
from paraclap.data.dataset import CaptionDataset, clip_seconds
from paraclap.data.free_captions import distinct_free_captions
from paraclap.data.functionals import measured_functionals, standards
from paraclap.data.sampler import TrainingBatches, bucketed, mixed, permuted, permuted_by_shards
from paraclap.data.tables import Lists
from paraclap.data.trained_on import TRAIN, VALIDATION, TrainedOn, load
from paraclap.distributed import share
from paraclap.evaluation.report import to_markdown
from paraclap.files import file_sha256
from paraclap.model.build import Functionals, load_processor
from paraclap.model.modeling_paraclap import FunctionalsFeatureExtractor
from paraclap.settings import Settings, SettingsError, corpora_of
from paraclap.training.tables import Hashes, read_all_functionals, read_tables

SHOWN_CAPTIONS = 16
PLAYED_CLIPS = 3
SHOWN_CHARACTERS = 60  # of a caption in a warning


class TrainingData:
    """Tables, recordings and batches of a run.

    Attributes:
        train_table: captions table of the training clips.
        validation_table: captions table of the validation clips.
        functionals: of all clips, or None if waveforms are read.
        steps_per_epoch: number of whole batches in an epoch.
        epochs: of the whole run.
        hashes: content hashes of the audio files.
        start: record of the model in `model.start`; None without one.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.hashes = Hashes(settings.data)
        self.start = load(settings.model.start) if settings.model.start else None
        self.train_table, self.validation_table = read_tables(settings, self.hashes, self.start)
        is_known = self.start is None or self.start.complete and self.start.names_speakers
        if not is_known and len(self.validation_table):
            warnings.warn(
                f"{settings.model.start} has no complete record of its training clips and "
                "speakers; those of the validation may be among them",
                stacklevel=2,
            )
        self._refuse_missing_columns()
        self._report_unused_labels()
        self.steps_per_epoch = TrainingBatches.per_epoch(
            len(self.train_table), settings.train.batch_size
        )
        train = settings.train
        self.epochs = max(train.epochs, math.ceil(train.min_steps / self.steps_per_epoch))
        clips = self.train_table.index.append(self.validation_table.index)
        self.functionals = read_all_functionals(settings, clips)
        if self.functionals is None and settings.model.start:
            self.functionals = self._measured(clips)

    def _measured(self, clips: pd.MultiIndex) -> pd.DataFrame | None:
        """Functionals of all clips if the model in `model.start` reads them, else None."""
        extractor = load_processor(self.settings.model.start).feature_extractor
        if not isinstance(extractor, FunctionalsFeatureExtractor):
            return None
        return measured_functionals(extractor, self.recordings, clips)

    @functools.cached_property
    def trained_on(self) -> TrainedOn:
        """Record of the training and validation clips, and of those of the start model."""
        parts = ((self.train_table, TRAIN), (self.validation_table, VALIDATION))
        clips = [self.hashes.clips_of(table).assign(part=part) for table, part in parts]
        record = TrainedOn(pd.concat(clips, ignore_index=True), complete=True)
        self._warn_of_copies(record.overlap(clips[1], TRAIN)["clip"].to_numpy())
        return record if self.start is None else record.with_ancestor(self.start)

    def _warn_of_copies(self, is_copy: np.ndarray) -> None:
        """Warn of validation clips whose audio is also that of a training clip."""
        if is_copy.any():
            warnings.warn(
                f"{is_copy.sum()} of {len(is_copy)} validation clips have the same audio as "
                f"training clips, such as {self.validation_table.index[is_copy][0][0]}; scores on "
                "them are too high",
                stacklevel=4,
            )

    def texts(self) -> list[str]:
        """Every phrase of the training captions."""
        return Lists(self.train_table["captions"]).texts()

    def warn_of_truncation(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Warn of free captions with more tokens than the text encoder reads."""
        limit = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()
        texts = distinct_free_captions(self.train_table)
        long = [text for text in texts if len(text.encode()) > limit]  # a token has at least 1 byte
        tokens = tokenizer(long or "", add_special_tokens=False, verbose=False).input_ids
        long = [text for text, ids in zip(long, tokens, strict=True) if len(ids) > limit]
        if long:
            warnings.warn(
                f"{len(long)} of {len(texts)} different captions are truncated to the {limit} "
                f"tokens of the text encoder, such as {long[0][:SHOWN_CHARACTERS]!r}...",
                stacklevel=3,
            )

    def standards(self) -> Functionals | None:
        """Mean and standard deviation of the training functionals; None if waveforms are read."""
        if self.functionals is None:
            return None
        return standards(self.functionals.loc[self.train_table.index])

    def functionals_of(self, table: pd.DataFrame) -> np.ndarray | None:
        """Functionals of the clips of a table (rows, F) float32; None if waveforms are read."""
        if self.functionals is None:
            return None
        return self.functionals.loc[table.index].to_numpy(np.float32)

    def by_corpus(self, table: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """Parts of a table by corpus; a single corpus has the name ""."""
        if not self.settings.data.corpora:
            return {"": table}
        return {str(name): part for name, part in table.groupby("corpus", sort=False)}

    @functools.cached_property
    def recordings(self) -> Recordings:
        """Audio files, or the waveform cache, which is written on first use."""
        data = self.settings.data
        recordings: dict[str, Recordings] = {}
        for name, corpus in corpora_of(data).items():
            recordings[name] = Files(corpus.root)
            if data.waveform_cache is not None:
                recordings[name] = cache_waveforms(
                    data.waveform_cache, corpus.root, self._files()[name]
                )
        return JoinedRecordings(recordings) if data.corpora else recordings[""]

    @functools.cached_property
    def clip_lengths(self) -> np.ndarray:
        """Durations of the training clips [s], from the headers."""
        return clip_seconds(self.recordings, self.train_table.index)

    @functools.cached_property
    def shards(self) -> np.ndarray | None:
        """Number of the shard of each training clip; None if clips are shuffled without regard."""
        settings = self.settings.data
        if settings.waveform_cache is not None or not settings.shuffled_shards:
            return None
        corpora, shards = corpora_of(settings), np.empty(0, np.int64)
        for name, part in self.by_corpus(self.train_table).items():
            files = part.index.get_level_values("file").str.removeprefix(name and f"{name}/")
            numbers = shard_numbers(corpora[name].root or ".", files)
            shards = np.append(shards, numbers + shards.max(initial=-1) + 1)
        return shards if len(np.unique(shards)) > settings.shuffled_shards else None

    def fingerprints(self) -> dict[str, str]:
        """Return hashes of captions tables, audio files (see `sampled_hash`) and functionals."""
        corpora = corpora_of(self.settings.data)
        for name, files in self._files().items():
            root, captions = corpora[name].root, corpora[name].captions
            paths = [resolve_inside(root, file) for file in files]
            if missing := [path for path in paths if not is_audio_file(path)]:
                raise SettingsError(
                    f"{len(missing)} of {len(paths)} audio files of {captions} do not exist below "
                    f"{root}, such as {missing[0]}"
                )
        names = pd.concat([self.train_table, self.validation_table]).index.unique("file")
        hashes = self.hashes(names)
        audio = [self.recordings.conditioning, *(f"{hashes[name]} {name}" for name in names)]
        found = {
            "captions table": " ".join(file_sha256(c.captions) for c in corpora.values()),
            "audio": hashlib.sha256("\n".join(audio).encode(errors="surrogatepass")).hexdigest(),
        }
        if self.shards is not None:
            found["shards"] = hashlib.sha256(self.shards.tobytes()).hexdigest()
        if self.functionals is not None:
            values = self.functionals.to_numpy(np.float32).tobytes()
            found["features"] = hashlib.sha256(values).hexdigest()
        return found

    def _files(self) -> dict[str, list[str]]:
        """Files of each corpus, relative to its root, in the order of the tables."""
        tables = (self.train_table, self.validation_table)
        files = dict.fromkeys(file for table in tables for file, _, _ in table.index)
        if not self.settings.data.corpora:
            return {"": list(files)}
        inside: dict[str, list[str]] = {name: [] for name in self.settings.data.corpora}
        for file in files:
            corpus, _, name = file.partition("/")
            inside[corpus].append(name)
        return inside

    def _refuse_missing_columns(self) -> None:
        target = self.settings.train.target
        has_labels = target in self.train_table or not self.has_attributes
        if self.settings.data.class_sampling_exponent != 1 and not has_labels:
            raise SettingsError(
                f"data.class_sampling_exponent: the captions table has no column {target}"
            )

    @property
    def has_attributes(self) -> bool:
        """Whether there are phrases about labels or measures, not only texts of one's own."""
        return self._descriptors() != {FREE}

    def _descriptors(self) -> set[str]:
        """Return what the training captions describe, `FREE` among them if there are such."""
        return set(Lists(self.train_table["caption_descriptors"]).texts())

    def _report_unused_labels(self) -> None:
        """Warn of labels in `captions.label_probs` that no training clip has."""
        captions = self.settings.captions
        found = self._descriptors() - {FREE}
        absent = [label for label, p in captions.label_probs.items() if p and label not in found]
        if absent and found and captions.style == "sampled":
            warnings.warn(
                f"captions.label_probs: no training clip has a phrase about {', '.join(absent)}, "
                f"only about {', '.join(sorted(found))}",
                stacklevel=3,
            )


def training_dataset(data: TrainingData, repeat_short: bool, read: bool = True) -> CaptionDataset:
    """Return the training clips with captions.

    Args:
        data: of the run.
        repeat_short: repeat short clips, for encoders without padding masks.
        read: whether items contain audio.
    """
    settings = data.settings
    return CaptionDataset(
        data.train_table,
        data.recordings,
        settings.captions,
        settings.data,
        settings.train.seed,
        repeat_short=repeat_short,
        own=share(settings.train.batch_size),
        functionals=data.functionals_of(data.train_table),
        read=read,
    )


def training_batches(data: TrainingData, start: int, end: int) -> TrainingBatches:
    """Return the batches of (epoch, row) of the steps `start` to `end`."""
    settings, train = data.settings.data, data.settings.train
    table = data.train_table
    parts = data.by_corpus(table)
    sizes = [len(part) for part in parts.values()]
    weights = [settings.corpora[name].weight for name in parts if name]
    exponent = settings.class_sampling_exponent
    labels = ()
    if train.target not in table:
        exponent = 1.0  # free captions without labels
    elif exponent != 1:
        labels = table[train.target].astype("str").fillna("")
    count = settings.shuffled_shards
    permute = permuted if data.shards is None else permuted_by_shards(data.shards, count)
    order = (train.seed, labels, exponent, permute, weights)
    draws = mixed(sizes, settings.sampling_exponent, *order)
    if train.bucket:
        seconds = np.minimum(data.clip_lengths, settings.crop_seconds)
        draws = bucketed(draws, seconds, train.batch_size, train.seed)
    return TrainingBatches(len(table), train.batch_size, end, train.seed, start, draws)


def sample_captions(data: TrainingData, dataset: CaptionDataset, batches: TrainingBatches) -> str:
    """Return files and captions of the first of these batches as a Markdown table."""
    draws = next(iter(batches), [])[:SHOWN_CAPTIONS]
    items = [dataset.unread(draw) for draw in draws]
    rows = [
        {"file": data.train_table.index[item["row"]][0], "caption": item["caption"].text}
        for item in items
    ]
    return to_markdown(pd.DataFrame(rows))


def sample_clips(
    data: TrainingData, dataset: CaptionDataset, batches: TrainingBatches
) -> list[tuple[np.ndarray, str]]:
    """Return waveforms (T,), as they are trained on, and captions of the first of these clips.

    There are none if functionals are read instead.
    """
    if data.functionals is not None:
        return []
    draws = next(iter(batches), [])[:PLAYED_CLIPS]
    items = [dataset[draw] for draw in draws]
    return [(item["waveform"], item["caption"].text) for item in items]
