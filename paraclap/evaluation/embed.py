"""Embeddings of clips and texts in batches, and the class probabilities of their cosines.

Letters: B clips, K classes, D embedding size, T samples.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import numpy as np
import scipy.special
import torch
import torch.nn.functional as F
import torch.utils.data

from paraclap.audio import SAMPLING_RATE
from paraclap.data.dataset import ClipDataset, Collate
from paraclap.data.loader import Loader
from paraclap.data.sampler import length_sorted_batches
from paraclap.distributed import rank, share, sum_in_place, world_size
from paraclap.evaluation.embedding_cache import DiskEmbeddingCache
from paraclap.evaluation.encoded import (
    Progress,
    check_lengths,
    encoded_clips,
    finite,
    has_base_encoder,
    note_quality,
    pooled_clips,
    project_clips,
    quality_column,
    shown,
)
from paraclap.evaluation.prompts import PromptError
from paraclap.model.modeling_paraclap import ParaCLAPModel, ParaCLAPProcessor
from paraclap.settings import BATCH_SECONDS

TEXT_BATCH = 64


def class_probabilities(model: ParaCLAPModel, cosines: np.ndarray) -> np.ndarray:
    """Return the softmax (B, K) of cosines (B, K) times the logit scale of the model."""
    scale = model.logit_scale.exp().item()
    return scipy.special.softmax(scale * cosines.astype(np.float64), axis=1)


@torch.inference_mode()
def embed_texts(
    model: ParaCLAPModel, processor: ParaCLAPProcessor, texts: Sequence[str]
) -> torch.Tensor:
    """Embed texts with a model in evaluation mode: (K, D) on the CPU, unit length."""
    embeddings = []
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))  # for little padding
    for first in range(0, len(texts), TEXT_BATCH):
        batch = [texts[row] for row in order[first : first + TEXT_BATCH]]
        tokens = processor.tokenizer(batch, padding=True, truncation=True, return_tensors="pt")
        tokens = tokens.to(model.device)
        features = model.get_text_features(tokens.input_ids, tokens.attention_mask)
        embeddings.append(features.pooler_output.float().cpu())
    return finite(torch.cat(embeddings)[np.argsort(order)], texts)


def embed_classes(
    model: ParaCLAPModel,
    processor: ParaCLAPProcessor,
    prompts: Mapping[str, Sequence[str]],
) -> torch.Tensor:
    """Embed classes as the mean embedding of their prompts: (K, D), unit length.

    Raises:
        TypeError: if the prompts of a class are a single string instead of a sequence.
        PromptError: see `check_tokens`.
    """
    if any(isinstance(texts, str) for texts in prompts.values()):
        raise TypeError(f"expected a tuple or list of prompts for each class, given {prompts}")
    check_tokens(processor, prompts)
    prompts_flat = [prompt for texts in prompts.values() for prompt in texts]
    sizes = [len(texts) for texts in prompts.values()]
    parts = embed_texts(model, processor, prompts_flat).split(sizes)
    return F.normalize(torch.stack([part.mean(dim=0) for part in parts]), dim=-1)


def check_tokens(processor: ParaCLAPProcessor, prompts: Mapping[str, Sequence[str]]) -> None:
    """Check that the tokenizer distinguishes the prompts of different classes.

    Prompts of which it has no token at all are named in a warning.

    Raises:
        PromptError: if two classes share a prompt, or have prompts of equal tokens, or if one is
            not valid Unicode.
    """
    tokenizer = processor.tokenizer
    owners = [(name, text) for name, texts in prompts.items() for text in texts]
    # Padded as in `embed_texts`: the setting is the tokenizer's, and shared by threads of the page.
    texts = [text for _, text in owners]
    for text in texts:  # arguments of a command line need not be UTF-8
        if text != text.encode(errors="replace").decode():
            raise PromptError(f"the prompt {text!r} is not valid Unicode, expected UTF-8")
    tokens = tokenizer(texts, padding=True, truncation=True)["input_ids"]
    seen: dict[tuple[int, ...], tuple[str, str]] = {}
    for (name, text), ids in zip(owners, tokens, strict=True):
        other, same = seen.setdefault(tuple(ids), (name, text))
        if other != name:
            raise PromptError(
                f"{other!r} and {name!r} have the prompts {same!r} and {text!r}, which are the "
                "same tokens; the model cannot distinguish them"
            )
    fixed = {*tokenizer.all_special_ids} - {tokenizer.unk_token_id}
    unknown = [
        text
        for (_, text), ids in zip(owners, tokens, strict=True)
        if not {*ids} - fixed - {tokenizer.unk_token_id}
    ]
    if unknown:
        warnings.warn(
            f"the tokenizer of the model has no tokens for {', '.join(map(repr, unknown))}",
            stacklevel=2,
        )


def embed_clips(
    model: ParaCLAPModel,
    processor: ParaCLAPProcessor,
    clips: ClipDataset,
    batch_seconds: float = BATCH_SECONDS,
    workers: int = 0,
    progress: Progress | str | None = None,
    cache: DiskEmbeddingCache | None = None,
) -> torch.Tensor:
    """Embed whole clips: (B, D) on the CPU in the order of `clips`, unit length.

    If the clips are examined, their `quality` is noted. Distributed processes share the batches,
    which are the same as for a single process; each returns all embeddings.

    Args:
        model: in evaluation mode.
        processor: of the model.
        clips: to embed.
        batch_seconds: padded audio per batch [s]; encoders that do not support padding get one clip
            at a time.
        workers: processes that read audio.
        progress: shown while clips are embedded, or its title; None = nothing is shown.
        cache: of this model; None embeds every clip.

    Raises:
        AudioError: naming the first clip that cannot be read.
        EmbeddingError: naming the first clip whose embedding is not finite.
    """
    if has_base_encoder(model):
        pooled = pooled_clips(model, processor, clips, cache, workers, progress=progress)
        return project_clips(model, pooled)
    limit = _batch_limit(model, len(clips), batch_seconds)
    size = model.config.projection_dim + int(clips.quality is not None)
    with shown(progress, len(clips)) as bar:
        encode = partial(_features, model, processor, clips, limit, workers, bar)
        embeddings = encoded_clips(clips, size, encode, cache, progress=bar)
    note_quality(clips, embeddings[:, -1])
    return embeddings[:, : model.config.projection_dim]


def _batch_limit(model: ParaCLAPModel, clips: int, batch_seconds: float) -> float:
    """Return the padded audio per batch [s], 0 = one clip at a time."""
    if model.audio_branch.supports_padding:
        return batch_seconds
    if clips > 1:
        warnings.warn(
            "clips are embedded one at a time, without padding, which would change the embeddings "
            "of this speech encoder",
            stacklevel=3,
        )
    return 0.0


@torch.inference_mode()
def _features(
    model: ParaCLAPModel,
    processor: ParaCLAPProcessor,
    clips: ClipDataset,
    batch_seconds: float,
    workers: int,
    progress: Progress,
    rows: list[int],
) -> Iterable[tuple[list[int], torch.Tensor]]:
    """Yield rows of `clips` and their embeddings for each batch of this process.

    Embeddings of examined clips have a further column, the number of their quality.
    """
    durations = torch.zeros(len(rows), dtype=torch.float64)
    own = share(len(rows))  # each process opens its share of the files
    durations[own] = torch.from_numpy(clips.durations(rows[own]))
    durations = sum_in_place(durations).numpy()
    check_lengths(clips, rows, durations, processor)
    batches = [[rows[i] for i in b] for b in length_sorted_batches(durations, batch_seconds)]
    seconds = dict(zip(rows, durations.tolist(), strict=True))
    for batch in Loader(clips, Collate(processor), batches[rank() :: world_size()], workers):
        features = _audio_features(model, batch)
        read, mask = batch["row"], batch["padding_mask"]
        progress.add(len(read), sum(map(seconds.get, read)), int(mask.sum()), mask.numel())
        if clips.quality is not None:  # the last column, so that it is cached as well
            features = torch.cat([features, quality_column(batch)], dim=1)
        yield batch["row"], features


def _audio_features(model: ParaCLAPModel, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Embed one padded batch: (B, D) on the CPU."""
    values, mask = (batch[name].to(model.device) for name in ("input_values", "padding_mask"))
    return model.get_audio_features(values, mask).pooler_output.float().cpu()


@torch.inference_mode()
def embed_waveforms(
    model: ParaCLAPModel,
    processor: ParaCLAPProcessor,
    waveforms: Sequence[np.ndarray],
    batch_seconds: float = BATCH_SECONDS,
) -> torch.Tensor:
    """Embed waveforms (T,) at 16 kHz: (B, D) on the CPU, unit length."""
    limit = _batch_limit(model, len(waveforms), batch_seconds)
    embeddings = torch.empty(len(waveforms), model.config.projection_dim)
    durations = np.array([len(waveform) / SAMPLING_RATE for waveform in waveforms])
    for rows in length_sorted_batches(durations, limit):
        batch = processor.feature_extractor(
            [waveforms[row] for row in rows], sampling_rate=SAMPLING_RATE, return_tensors="pt"
        )
        names = [f"a clip of {durations[row]:.2f} s" for row in rows]
        embeddings[rows] = finite(_audio_features(model, batch), names)
    return embeddings
