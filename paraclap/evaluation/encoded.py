"""Encoded clips in a table with a row per clip: looked up in the cache, and the rest encoded.

What is cached of a model whose speech encoder is a base encoder, which was never trained, are the
statistics of all its layers: training, validation and evaluation of any such model read them,
whatever its pooling and projections. Of other models it is the embeddings.

Letters: N clips, D embedding size, P values of a pooled clip, S values of a cached row.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch

from paraclap.audio import SAMPLING_RATE, AudioError
from paraclap.data.dataset import ClipDataset, Collate
from paraclap.data.loader import Loader
from paraclap.distributed import broadcast, rank, sum_in_place, world_size
from paraclap.errors import ParaCLAPError
from paraclap.evaluation.embedding_cache import (
    DiskEmbeddingCache,
    audio_fingerprint,
    clip_keys,
    encoder_fingerprint,
)
from paraclap.model.frozen import FrozenEncoder
from paraclap.model.modeling_paraclap import ParaCLAPModel, ParaCLAPProcessor
from paraclap.model.onnx import OnnxModel
from paraclap.progress import progress_bar

BATCH_SIZE = 32  # clips read in one batch
CHUNK = 1024  # clips that are encoded, and written to the cache, at a time
PROJECTED = 4096  # clips
QUALITIES = ("", "silent", "unvoiced")

Encode = Callable[[list[int]], Iterable[tuple[list[int], torch.Tensor]]]
"""Yields rows of those given, and what is cached of them (n, S), batch by batch; each process
encodes its share."""


class Progress:
    """A bar over clips, and what encoding them took.

    Attributes:
        title: of the bar; None = nothing is shown.
        total: number of clips.
        encoded: clips that were encoded, rather than read from the cache.
        seconds: their audio [s].
        signal: their frames or samples.
        computed: the same with padding.
        stopped: whether encoding ended early.
    """

    def __init__(self, title: str | None, total: int) -> None:
        self.title, self.total = title, total
        self.encoded, self.stopped = 0, False
        self.seconds = self.signal = self.computed = 0.0
        self.bar = progress_bar(total, title, "clip", hidden=rank() > 0)

    def add(self, clips: int, seconds: float, signal: float, computed: float) -> None:
        """Count clips that this process encoded."""
        self.encoded += clips
        self.seconds += seconds
        self.signal += signal
        self.computed += computed

    def report(self) -> None:
        """Print the clips of all processes and their padding to stderr, unless one was stopped."""
        counts = [self.stopped, self.encoded, self.seconds, self.signal, self.computed]
        stopped, *done = sum_in_place(torch.tensor(counts, dtype=torch.float64)).tolist()
        if self.title is not None and rank() == 0 and not stopped:
            print(f"{self.title}: {_what_was_encoded(self.total, *done)}", file=sys.stderr)


@contextmanager
def shown(progress: Progress | str | None, total: int) -> Iterator[Progress]:
    """Yield the given progress, or a new one of this title, which ends with a report."""
    if isinstance(progress, Progress):
        yield progress
        return
    new = Progress(progress, total)
    try:
        yield new
    finally:
        new.bar.close()
    new.report()


def _what_was_encoded(
    total: int, encoded: float, seconds: float, signal: float, computed: float
) -> str:
    """Format counts of `Progress`, for example `1,440 clips, 1.5 h; padding 4 %`."""
    if not encoded:
        return f"{total:,} clips, all from the cache"
    found = f"{total:,} clips" if encoded == total else f"{total:,} clips, {encoded:,.0f} encoded"
    size = f"{seconds / 3600:.1f} h" if seconds >= 360 else f"{seconds / 60:.1f} min"
    return f"{found}, {size}; padding {1 - signal / computed:.0%}".replace("%", " %")


class EmbeddingError(ParaCLAPError, FloatingPointError):
    """Embeddings are not finite."""


def finite(embeddings: torch.Tensor, names: Sequence[object]) -> torch.Tensor:
    """Return embeddings (N, D) unchanged.

    Raises:
        EmbeddingError: naming the first that is not finite.
    """
    wrong = (~embeddings.isfinite().all(dim=1)).nonzero()
    if len(wrong):
        raise EmbeddingError(
            f"{len(wrong)} of {len(embeddings)} embeddings are not finite, such as that of "
            f"{names[int(wrong[0])]}; the weights of the model are damaged or have diverged"
        )
    return embeddings


def has_base_encoder(model: object) -> bool:
    """Return whether the speech encoder was never trained and its pooling has no weights.

    Those of `fast_model` in bfloat16 are not, because they were rounded.
    """
    if not isinstance(model, ParaCLAPModel):
        return False
    if "audio" not in (model.config.base_encoders or {}):
        return False
    branch = model.audio_branch
    is_exact = all(weight.dtype == torch.float32 for weight in branch.base.parameters())
    return is_exact and branch.pooling != "attention" and not branch.reads_functionals


def open_cache(
    folder: str | Path, model: ParaCLAPModel | OnnxModel, processor: ParaCLAPProcessor
) -> DiskEmbeddingCache:
    """Return what is cached of a model: statistics of its base encoder, or else embeddings."""
    if has_base_encoder(model):
        mark = encoder_fingerprint(model, processor)
    else:
        mark = audio_fingerprint(model, processor)
    return DiskEmbeddingCache(folder, mark)


def encoded_clips(
    clips: ClipDataset,
    size: int,
    encode: Encode,
    cache: DiskEmbeddingCache | None = None,
    columns: torch.Tensor | None = None,
    progress: Progress | None = None,
    stop: Callable[[], object] = lambda: False,
) -> torch.Tensor:
    """Return rows of all clips, (N, S) or (N, P), from the cache or encoded and then cached.

    Args:
        clips: to encode.
        size: S.
        encode: encodes rows that are not cached.
        cache: None = every clip is encoded.
        columns: P columns of the rows to return; None = all.
        progress: counts the clips; None = they are not counted.
        stop: whether to return early, called after every batch. Rows not encoded are zero.
    """
    columns = torch.arange(size) if columns is None else columns
    table = torch.zeros(len(clips), len(columns))
    rows, keys = list(range(len(clips))), []
    if cache is not None and rank() == 0:
        keys = clip_keys(clips)
        rows = cache.fill(table, keys, columns, size)
    rows, keys = broadcast((rows, keys))
    progress = progress or Progress(None, len(clips))
    advance = progress.bar.update
    advance(len(clips) - len(rows))
    for first in range(0, len(rows), CHUNK):
        chosen, done, parts = rows[first : first + CHUNK], [], []
        try:
            for batch, values in encode(chosen):
                finite(values, [clips.clips[row][0] for row in batch])
                table[batch] = values[:, columns]
                if cache is not None:
                    parts.append(values)
                done += batch
                advance(len(batch))
                if stop():
                    break
        finally:
            if parts:
                order = np.argsort(done)
                cache.add([keys[done[place]] for place in order], torch.cat(parts)[order])
        if stop():
            progress.stopped = True
            break
        advance(len(chosen) - len(done))  # of other processes
    return sum_in_place(table)  # a row that another process encoded is zero here


def pooled_clips(
    model: ParaCLAPModel,
    processor: ParaCLAPProcessor,
    clips: ClipDataset,
    cache: DiskEmbeddingCache | None = None,
    workers: int = 0,
    timeout: float = 0.0,
    progress: Progress | str | None = None,
    stop: Callable[[], object] = lambda: False,
) -> torch.Tensor:
    """Return the pooled layers of all clips (N, P) on the CPU, for `ParaCLAPModel.project`.

    They are encoded in float32, also within autocast, one at a time or in batches whose shape
    depends on each clip alone: so values are the same, bit for bit, from the cache and without it.
    If the clips are examined, their `quality` is noted.

    Args:
        model: its audio encoder is frozen, or it is in evaluation mode; its pooling has no learned
            weights.
        processor: of the model.
        clips: to encode.
        cache: of the statistics of the encoder, see `open_cache`; None = every clip is encoded.
        workers: processes that read audio.
        timeout: longest wait for a worker [s]; 0 = any.
        progress: shown while clips are encoded, or its title; None = nothing is shown.
        stop: see `encoded_clips`.

    Raises:
        AudioError: naming the first clip that cannot be read.
        EmbeddingError: naming the first clip whose statistics are not finite.
        WorkerError: naming the clips, if a worker crashes or hangs.
    """
    branch = model.audio_branch
    # Without padding, batches are of clips of equal length, which are rare.
    encoder = FrozenEncoder(model, "audio", batch_size=None if branch.supports_padding else 1)
    size = statistics_size(model)
    columns = torch.cat([branch.statistic_columns(), torch.tensor([size - 1])])
    with shown(progress, len(clips)) as bar:
        encode = partial(_statistics, encoder, processor, clips, workers, timeout, bar)
        table = encoded_clips(clips, size, encode, cache, columns, bar, stop)
    note_quality(clips, table[:, -1])
    return table[:, :-1].contiguous()


def statistics_size(model: ParaCLAPModel) -> int:
    """Return S: mean and standard deviation of every layer, and the number of the quality."""
    config = model.config.audio_config
    return (config.num_hidden_layers + 1) * 2 * config.hidden_size + 1


@torch.inference_mode()
def project_clips(model: ParaCLAPModel, pooled: torch.Tensor) -> torch.Tensor:
    """Return the embeddings (N, D) of pooled clips (N, P) on the CPU, unit length."""
    parts = pooled.split(PROJECTED)
    embeddings = [model.project("audio", part.to(model.device)).float().cpu() for part in parts]
    return finite(torch.cat(embeddings), [f"clip {number}" for number in range(len(pooled))])


def note_quality(clips: ClipDataset, codes: torch.Tensor) -> None:
    """Note the quality of clips given as places in `QUALITIES` (N,), if they are examined."""
    if clips.quality is not None:
        clips.quality[:] = [QUALITIES[int(code)] for code in codes]


def quality_column(batch: dict) -> torch.Tensor:
    """Return the quality of a batch of examined clips as a column of places in `QUALITIES`."""
    return torch.tensor([[float(QUALITIES.index(text))] for text in batch["quality"]])


def check_lengths(
    clips: ClipDataset, rows: Sequence[int], durations: np.ndarray, processor: ParaCLAPProcessor
) -> None:
    """Raise `AudioError` for a clip that is longer than the input of the encoder."""
    longest = getattr(processor.feature_extractor, "max_samples", None)
    for row, seconds in zip(rows, durations, strict=True):
        if longest is not None and seconds * SAMPLING_RATE >= longest + 1:
            raise AudioError(
                "too_long",
                f"{clips.clips[row][0]}: clip of {seconds:.2f} s, this encoder reads at most "
                f"{longest / SAMPLING_RATE:g} s; give segments, or use `predict.py --windows`",
            )


def _statistics(
    encoder: FrozenEncoder,
    processor: ParaCLAPProcessor,
    clips: ClipDataset,
    workers: int,
    timeout: float,
    progress: Progress,
    rows: list[int],
) -> Iterable[tuple[list[int], torch.Tensor]]:
    """Yield rows of this process and their statistics, with their quality as the last column."""
    own = rows[rank() :: world_size()]
    durations = clips.durations(own)
    check_lengths(clips, own, durations, processor)
    signal, computed = encoder.signal, encoder.computed
    if encoder.batch_size > 1:  # batches of similar length
        own = [own[place] for place in np.argsort(durations, kind="stable")]
    batches = [own[first : first + BATCH_SIZE] for first in range(0, len(own), BATCH_SIZE)]
    for batch in Loader(clips.examined(), Collate(processor), batches, workers, timeout):
        statistics = encoder.statistics(batch["input_values"], batch["padding_mask"])
        yield batch["row"], torch.cat([statistics.cpu(), quality_column(batch)], dim=1)
    found = encoder.signal - signal, encoder.computed - computed
    progress.add(len(own), durations.sum(), *found)
