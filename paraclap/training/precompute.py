"""Precomputed audio embeddings, for a frozen audio encoder and crops that are always the same.

Letters: N clips, H pooled values of a clip (`AudioBranch.pooled_size`).
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import torch
import torch.utils.data
from tqdm import tqdm

from paraclap.data.dataset import CaptionDataset, Collate
from paraclap.data.loader import Loader
from paraclap.distributed import agreed_signal, share, sum_in_place
from paraclap.evaluation.embedding_cache import DiskEmbeddingCache, clip_keys, encoder_fingerprint
from paraclap.model.modeling_paraclap import ParaCLAPProcessor
from paraclap.signals import Stopped, StopRequests
from paraclap.training.data import PREFETCH, raise_worker_error
from paraclap.training.frozen import FrozenEncoder

BATCH_SIZE = 8  # clips read in one batch
CHUNK = 512  # clips written to the disk at a time


class _Crops(torch.utils.data.Dataset):
    """Crops of a dataset without captions."""

    def __init__(self, clips: CaptionDataset, rows: Sequence[int]) -> None:
        self.clips = clips
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        row = self.rows[number]
        return {"row": row, "waveform": self.clips.waveform(row)}


def audio_embeddings(
    encoder: FrozenEncoder,
    processor: ParaCLAPProcessor,
    clips: CaptionDataset,
    requests: StopRequests | None = None,
) -> torch.Tensor:
    """Return the pooled outputs of a frozen encoder for all clips, (N, H) on the CPU.

    Each process encodes its share of the clips, and all get all.

    Args:
        encoder: frozen audio encoder.
        processor: of its model.
        clips: dataset with another crop than "random".
        requests: signals to this process.

    Raises:
        AudioError: naming the first clip that cannot be read.
        Stopped: if any process received a signal. Embeddings so far are kept in `data.embeddings`.
        WorkerError: naming the clips, if a worker crashes or hangs.
    """
    rows = range(len(clips))[share(len(clips))]
    with closing(encode_clips(encoder, processor, clips, rows)) as progress:
        for embeddings, done in progress:
            table = embeddings
            if requests is not None and requests.received and done < len(rows):
                break
    received = None if requests is None else agreed_signal(requests)
    if received:
        kept = "continues from there" if clips.data.embeddings else "starts anew"
        raise Stopped(
            received, f"stopped while precomputing audio embeddings; the same command {kept}"
        )
    return sum_in_place(table)


def encode_clips(
    encoder: FrozenEncoder,
    processor: ParaCLAPProcessor,
    clips: CaptionDataset,
    rows: Sequence[int] | None = None,
) -> Iterator[tuple[torch.Tensor, int]]:
    """Encode clips, as `audio_embeddings`; the caller may stop early.

    Args:
        encoder: frozen audio encoder.
        processor: of its model.
        clips: dataset with another crop than "random".
        rows: rows to encode; None = all.

    Yields:
        Embeddings (N, H) on the CPU, zero where not yet encoded, and the number of encoded rows,
        after every batch.
    """
    settings = clips.data
    table = torch.zeros(len(clips), encoder.model.audio_branch.pooled_size)
    rows = list(range(len(clips)) if rows is None else rows)
    wanted, keys, cache = len(rows), [], None
    if settings.embeddings is not None:
        how = [settings.crop, settings.crop_seconds, clips.repeat_short, encoder.bfloat16]
        cache = DiskEmbeddingCache(
            settings.embeddings, encoder_fingerprint(encoder.model, processor, how)
        )
        keys = clip_keys(clips)
        rows = cache.fill(table, keys, rows)
    done = wanted - len(rows)
    yield table, done
    with tqdm(total=wanted, initial=done, desc="audio embeddings", unit="clip") as bar:
        for first in range(0, len(rows), CHUNK):
            encoded: list[int] = []
            try:
                for batch in _read(clips, processor, rows[first : first + CHUNK]):
                    pooled = encoder(batch["input_values"], batch["padding_mask"])
                    table[batch["row"]] = pooled.to("cpu", table.dtype)
                    encoded += batch["row"]
                    bar.update(len(batch["row"]))
                    yield table, done + first + len(encoded)
            finally:
                if cache is not None and encoded:
                    cache.add([keys[row] for row in encoded], table[encoded])


def _read(
    clips: CaptionDataset, processor: ParaCLAPProcessor, rows: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """Yield batches of the crops of these rows, in their order."""
    settings, workers = clips.data, clips.data.workers
    loader = Loader(
        _Crops(clips, rows),
        batch_size=BATCH_SIZE,
        num_workers=workers,
        timeout=settings.timeout if workers else 0,
        prefetch_factor=PREFETCH if workers else None,
        collate_fn=Collate(processor, settings.crop_seconds),
        generator=torch.Generator(),
    )
    done, batches = 0, iter(loader)
    while done < len(rows):
        try:
            batch = next(batches)
        except RuntimeError as error:
            ahead = rows[done : done + BATCH_SIZE * (1 + PREFETCH * workers)]
            raise_worker_error(error, (clips.clips[row][0] for row in ahead))
        done += len(batch["row"])
        yield batch
