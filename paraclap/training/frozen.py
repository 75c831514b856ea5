"""Encoders that do not learn: what they say of a clip or caption is made once and remembered.

A frozen encoder runs in evaluation mode and without autograd, and what it says of a row depends on
that row alone, never on the rows beside it or on how they were padded. So it makes no difference
whether a row is computed now, was remembered, or is computed again after a run was resumed. On a
CPU, where batches are no faster, that is had by encoding one row at a time without padding;
elsewhere by batches of equal shape.

Letters: n rows, N clips to train on, T samples, L tokens, H values that stand for a row (of a clip
`AudioBranch.pooled_size`).
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.utils.data
from tqdm import tqdm

from paraclap.data.dataset import CaptionDataset, Collate
from paraclap.data.loader import Loader
from paraclap.evaluation.embedding_cache import EmbeddingCache, clip_keys, encoder_fingerprint
from paraclap.model.modeling_paraclap import ParaCLAPModel, ParaCLAPProcessor

ROWS_AT_ONCE = 32  # of a batch of equal shape
TOKENS_AT_ONCE = 16  # lengths of such batches are multiples of this
CLIPS_READ = 8  # in one batch, when all clips are encoded
CHUNK = 512  # clips that are written to the disk at a time
PREFETCH = 2  # batches that each worker reads ahead
OVERHEAD = 300  # bytes that Python and torch need for one remembered row, about


class FrozenEncoder:
    """One encoder of a model, row by row.

    Attributes:
        model: whose encoder is frozen.
        branch: "audio" or "text".
        bfloat16: whether it runs under autocast.
        at_once: rows of a batch; None = as the device likes it.
    """

    def __init__(
        self,
        model: ParaCLAPModel,
        branch: str,
        bfloat16: bool = False,
        at_once: int | None = None,
    ) -> None:
        if branch not in model.frozen:
            raise ValueError(f"the {branch} encoder is not frozen, only {list(model.frozen)}")
        self.model = model
        self.branch = branch
        self.bfloat16 = bfloat16
        self.at_once = at_once or (1 if model.device.type == "cpu" else ROWS_AT_ONCE)

    @torch.no_grad()
    def __call__(self, inputs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Encode rows: (n, H) in at least float32, on the model's device.

        Args:
            inputs: waveforms (n, T), log-mel frames or tokens (n, L), on the CPU.
            mask: of the first two dimensions, 1 where there is something; it stands at the front.
        """
        device = self.model.device
        pooled: list[torch.Tensor] = [torch.empty(0)] * len(inputs)
        reads_functionals = self.branch == "audio" and self.model.audio_branch.reads_functionals
        if reads_functionals:  # one frame a row, and nothing to pad
            return self.model.pool(self.branch, inputs.to(device), None)
        for width, rows in self._batches(mask.sum(dim=1).tolist(), inputs.shape[1]):
            filled = rows + rows[-1:] * (self.at_once - len(rows))
            values = inputs[filled, :width].to(device, non_blocking=True)
            masks = mask[filled, :width].to(device, non_blocking=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=self.bfloat16):
                encoded = self.model.pool(self.branch, values, masks)
            for row, vector in zip(rows, encoded[: len(rows)], strict=True):
                pooled[row] = vector
        return torch.stack(pooled)

    def _batches(self, lengths: Sequence[int], widest: int) -> Iterator[tuple[int, list[int]]]:
        """Yield (width, rows) of each batch.

        Encoders take another way where nothing is padded, so rows are not mixed with others.
        """
        groups: dict[tuple[int, bool], list[int]] = {}
        for row, length in enumerate(lengths):
            width = self._width(length, widest)
            groups.setdefault((width, length == width), []).append(row)
        for (width, _), rows in groups.items():
            for first in range(0, len(rows), self.at_once):
                yield width, rows[first : first + self.at_once]

    def _width(self, length: int, widest: int) -> int:
        """Width that a row of this length is padded to; it may not depend on other rows."""
        if self.at_once == 1:
            return length
        if self.branch == "audio":
            return widest
        return -(-length // TOKENS_AT_ONCE) * TOKENS_AT_ONCE


class RememberedRows:
    """What a frozen encoder said of rows, by their keys; the least recently used are forgotten.

    Attributes:
        encoder: asked about rows that are not remembered.
        budget: bytes; 0 = remember nothing.
        encoded: rows that the encoder was asked about so far.
    """

    def __init__(self, encoder: FrozenEncoder, budget: int) -> None:
        self.encoder = encoder
        self.budget = budget
        self.encoded = 0
        self._bytes = 0
        self._rows: OrderedDict[bytes, torch.Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._rows)

    def __call__(
        self, keys: Sequence[bytes], inputs: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Look up or encode rows (n, H); `keys` are distinct, the rest as in `FrozenEncoder`."""
        found = {key: self._rows[key] for key in keys if key in self._rows}
        for key in found:
            self._rows.move_to_end(key)
        missing = [row for row, key in enumerate(keys) if key not in found]
        if missing:
            self.encoded += len(missing)
            encoded = self.encoder(inputs[missing], mask[missing])
            for row, vector in zip(missing, encoded, strict=True):
                found[keys[row]] = vector
                self._remember(keys[row], vector)
        return torch.stack([found[key] for key in keys])

    def _remember(self, key: bytes, vector: torch.Tensor) -> None:
        self._rows[key] = vector.clone()  # a slice would keep the whole batch
        self._bytes += _size(key, vector)
        while self._bytes > self.budget:
            self._bytes -= _size(*self._rows.popitem(last=False))


def _size(key: bytes, vector: torch.Tensor) -> int:
    return len(key) + vector.nbytes + OVERHEAD


class _Crops(torch.utils.data.Dataset):
    """The crops of a dataset that are always the same, without captions."""

    def __init__(self, clips: CaptionDataset, rows: Sequence[int]) -> None:
        self.clips = clips
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        row = self.rows[number]
        return {"row": row, "waveform": self.clips.waveform(row)}


def encode_clips(
    encoder: FrozenEncoder,
    processor: ParaCLAPProcessor,
    clips: CaptionDataset,
    rows: Sequence[int] | None = None,
    workers: int = 0,
    timeout: float = 0,
    folder: str | Path | None = None,
) -> Iterator[tuple[torch.Tensor, int]]:
    """Encode every clip of a dataset whose crops do not depend on the epoch.

    Args:
        encoder: of the audio side.
        processor: of its model.
        clips: with another crop than "random".
        rows: that are encoded; None = all.
        workers: processes that read audio.
        timeout: longest wait for a worker [s]; 0 = for ever.
        folder: where rows are kept for later runs; None = nowhere. What was encoded when the caller
            stops asking is kept too.

    Yields:
        (N, H) on the CPU, zero where nothing is known yet, and how many of `rows` are filled, after
        every batch.

    Raises:
        AudioError: naming the first clip that cannot be read.
        RuntimeError: naming the clips, if a worker crashed or hangs.
    """
    table = torch.zeros(len(clips), encoder.model.audio_branch.pooled_size)
    rows = list(range(len(clips)) if rows is None else rows)
    wanted, keys, cache = len(rows), [], None
    if folder is not None:
        how = [clips.data.crop, clips.data.crop_seconds, clips.repeat_short, encoder.bfloat16]
        cache = EmbeddingCache(folder, encoder_fingerprint(encoder.model, processor, how))
        keys = clip_keys(clips)
        rows = cache.fill(table, keys, rows)
    done = wanted - len(rows)
    yield table, done
    with tqdm(total=wanted, initial=done, desc="clips, once", unit="clip") as bar:
        for first in range(0, len(rows), CHUNK):
            heard: list[int] = []
            try:
                for batch in _read(clips, processor, rows[first : first + CHUNK], workers, timeout):
                    encoded = encoder(batch["input_values"], batch["padding_mask"])
                    table[batch["row"]] = encoded.to("cpu", table.dtype)
                    heard += batch["row"]
                    bar.update(len(batch["row"]))
                    yield table, done + first + len(heard)
            finally:
                if cache is not None and heard:
                    cache.add([keys[row] for row in heard], table[heard])


def _read(
    clips: CaptionDataset,
    processor: ParaCLAPProcessor,
    rows: Sequence[int],
    workers: int,
    timeout: float,
) -> Iterator[dict[str, Any]]:
    """Yield batches of the crops of these rows, in their order."""
    loader = Loader(
        _Crops(clips, rows),
        batch_size=CLIPS_READ,
        num_workers=workers,
        timeout=timeout if workers else 0,
        prefetch_factor=PREFETCH if workers else None,
        collate_fn=Collate(processor, clips.data.crop_seconds),
        generator=torch.Generator(),
    )
    done, batches = 0, iter(loader)
    while done < len(rows):
        try:
            batch = next(batches)
        except RuntimeError as error:
            ahead = rows[done : done + CLIPS_READ * (1 + PREFETCH * workers)]
            files = sorted({clips.clips[row][0] for row in ahead})
            raise RuntimeError(f"{error}; being read: {files}") from error
        done += len(batch["row"])
        yield batch
