"""Embeddings of clips and texts, in batches, what they say, and a cache of those of clips.

A cached embedding is found again by what it was made from: the content of the audio file, the
limits of the segment, the way audio is conditioned, and the weights and settings of the audio side
of the model. A file that was renamed is found; one that was changed is embedded anew.

Letters: B clips, K classes, D embedding size.
"""

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import scipy.special
import torch
import torch.nn.functional as F
import torch.utils.data
from safetensors import SafetensorError
from safetensors.numpy import load, save
from tqdm import tqdm

from paraclap.audio import SAMPLING_RATE, AudioError
from paraclap.audio.conditioning import CONDITIONING
from paraclap.audio.paths import resolve_inside
from paraclap.audio.reading import read_audio
from paraclap.audio.segments import Position
from paraclap.data.dataset import ClipDataset, Collate
from paraclap.data.sampler import length_sorted_batches
from paraclap.distributed import broadcast, rank, share, sum_in_place, world_size
from paraclap.files import write_bytes
from paraclap.model.modeling_paraclap import ParaCLAPModel, ParaCLAPProcessor

BATCH_SECONDS = 60.0  # padded audio in one batch
BATCHES_READ = 4  # batches of audio that `embed_each` holds, to sort them by length
CHUNK = 4096  # clips that are embedded, and written to the cache, at a time
DIGEST_BYTES = 32
AUDIO_SIDE = ("audio_branch.", "audio_projection.")
TEXT_SIDE = ("text_branch.", "text_projection.")


def probabilities_of(model: ParaCLAPModel, cosines: np.ndarray) -> np.ndarray:
    """Probabilities (B, K) that the model gives to classes of these cosines (B, K)."""
    scale = model.logit_scale.exp().item()
    return scipy.special.softmax(scale * cosines.astype(np.float64), axis=1)


@torch.inference_mode()
def embed_texts(
    model: ParaCLAPModel, processor: ParaCLAPProcessor, texts: Sequence[str]
) -> torch.Tensor:
    """Embed texts with a model in evaluation mode: (K, D) on the CPU, unit length."""
    tokens = processor.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
    tokens = tokens.to(model.device)
    return model.get_text_features(tokens.input_ids, tokens.attention_mask).pooler_output.cpu()


def embed_classes(
    model: ParaCLAPModel,
    processor: ParaCLAPProcessor,
    prompts: Mapping[str, Sequence[str]],
) -> torch.Tensor:
    """Embed classes as the mean of the embeddings of their wordings: (K, D), unit length.

    Raises:
        TypeError: if the wordings of a class are one text, expected a sequence of texts.
        ValueError: if two classes share a wording.
    """
    if any(isinstance(wordings, str) for wordings in prompts.values()):
        raise TypeError(f"expected several wordings of each class, or one in a tuple: {prompts}")
    texts = [text for wordings in prompts.values() for text in wordings]
    if len(set(texts)) < len(texts):
        raise ValueError(f"two classes share a prompt: {dict(prompts)}")
    sizes = [len(wordings) for wordings in prompts.values()]
    parts = embed_texts(model, processor, texts).split(sizes)
    return F.normalize(torch.stack([part.mean(dim=0) for part in parts]), dim=-1)


def embed_clips(
    model: ParaCLAPModel,
    processor: ParaCLAPProcessor,
    clips: ClipDataset,
    batch_seconds: float = BATCH_SECONDS,
    workers: int = 0,
    progress: str | None = None,
    cache: "EmbeddingCache | None" = None,
) -> torch.Tensor:
    """Embed whole clips: (B, D) on the CPU in the order of `clips`, unit length.

    Args:
        model: in evaluation mode.
        processor: of the model.
        clips: what to embed.
        batch_seconds: padded audio per batch [s]; encoders that cannot leave padding out get
            one clip at a time.
        workers: processes that read audio.
        progress: text of the progress bar; None = no bar.
        cache: of this model; None = every clip is embedded.

    Several processes embed batches in turn, the same batches as one would, and all get all.

    Raises:
        AudioError: naming the first clip that cannot be read.
    """
    limit = batch_seconds if model.audio_branch.supports_padding else 0.0
    embeddings = torch.zeros(len(clips), model.config.projection_dim)
    rows = list(range(len(clips)))
    keys: list[bytes] = []
    if cache is not None and rank() == 0:
        keys = clip_keys(clips)
        rows = cache.fill(embeddings, keys)
    rows, keys = broadcast((rows, keys))
    hidden = progress is None or rank() > 0
    with tqdm(total=len(clips), desc=progress, unit="clip", disable=hidden) as bar:
        bar.update(len(clips) - len(rows))
        for first in range(0, len(rows), CHUNK):
            chosen, own = rows[first : first + CHUNK], []
            for done, features in _features(model, processor, clips, chosen, limit, workers):
                embeddings[done] = features
                own += done
                bar.update(len(done))
            if cache is not None and own:
                own.sort()
                cache.add([keys[row] for row in own], embeddings[own])
            bar.update(len(chosen) - len(own))
    return sum_in_place(embeddings)  # a row that another process embedded is zero here


@torch.inference_mode()
def _features(
    model: ParaCLAPModel,
    processor: ParaCLAPProcessor,
    clips: ClipDataset,
    rows: list[int],
    batch_seconds: float,
    workers: int,
) -> Iterable[tuple[list[int], torch.Tensor]]:
    """Yield (rows of `clips`, their embeddings) of a batch at a time, of this process's batches."""
    durations = _durations(clips, rows)
    batches = [[rows[i] for i in b] for b in length_sorted_batches(durations, batch_seconds)]
    loader = torch.utils.data.DataLoader(
        clips,
        batch_sampler=batches[rank() :: world_size()],
        num_workers=workers,
        collate_fn=Collate(processor),
    )
    for batch in loader:
        yield batch["row"], _audio_features(model, batch)


def _durations(clips: ClipDataset, rows: list[int]) -> np.ndarray:
    """Durations of clips [s]; several processes open their share of the files each."""
    durations = torch.zeros(len(rows), dtype=torch.float64)
    own = share(len(rows))
    durations[own] = torch.from_numpy(clips.durations(rows[own]))
    return sum_in_place(durations).numpy()


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
    """Embed waveforms (T,) at 16 kHz that are in memory: (B, D) on the CPU, unit length."""
    limit = batch_seconds if model.audio_branch.supports_padding else 0.0
    embeddings = torch.empty(len(waveforms), model.config.projection_dim)
    durations = np.array([len(waveform) / SAMPLING_RATE for waveform in waveforms])
    for rows in length_sorted_batches(durations, limit):
        batch = processor.feature_extractor(
            [waveforms[row] for row in rows], sampling_rate=SAMPLING_RATE, return_tensors="pt"
        )
        embeddings[rows] = _audio_features(model, batch)
    return embeddings


def embed_each(
    model: ParaCLAPModel,
    processor: ParaCLAPProcessor,
    clips: Iterable[tuple[str | Path, str, Position, Position]],
    batch_seconds: float = BATCH_SECONDS,
) -> Iterator[np.ndarray | AudioError]:
    """Embed clips one after the other, however many: each (D,), or why it has no embedding.

    Few batches of audio are in memory at a time, and a clip that cannot be read costs no other.

    Args:
        model: in evaluation mode.
        processor: of the model.
        clips: root, file inside of it, start and end of each.
        batch_seconds: padded audio per batch [s], see `embed_clips`.

    Yields:
        In the order of the clips.
    """
    heard: list[np.ndarray | AudioError] = []
    samples = 0
    for clip in clips:
        heard.append(_waveform_or_error(*clip))
        samples += len(heard[-1]) if isinstance(heard[-1], np.ndarray) else 0
        if samples >= BATCHES_READ * batch_seconds * SAMPLING_RATE or len(heard) >= CHUNK:
            yield from _embed_heard(model, processor, heard, batch_seconds)
            heard, samples = [], 0
    yield from _embed_heard(model, processor, heard, batch_seconds)


def _waveform_or_error(
    root: str | Path, file: str, start: Position, end: Position
) -> np.ndarray | AudioError:
    try:
        return read_audio(resolve_inside(root, file), start, end)
    except AudioError as error:
        return error


def _embed_heard(
    model: ParaCLAPModel,
    processor: ParaCLAPProcessor,
    heard: Sequence[np.ndarray | AudioError],
    batch_seconds: float,
) -> Iterator[np.ndarray | AudioError]:
    """Yield the embedding of each waveform; errors stay where they are."""
    waveforms = [item for item in heard if isinstance(item, np.ndarray)]
    embeddings = iter(embed_waveforms(model, processor, waveforms, batch_seconds).numpy())
    for item in heard:
        yield next(embeddings) if isinstance(item, np.ndarray) else item


# --- Cache ---------------------------------------------------------------------------------------


def clip_keys(clips: ClipDataset) -> list[bytes]:
    """Name each clip by the content of its file, its limits and how audio is conditioned."""
    files = list(dict.fromkeys(file for file, _, _ in clips.clips))
    with ThreadPoolExecutor() as pool:
        contents = dict(zip(files, pool.map(clips.recordings.hash, files), strict=True))
    conditioning = clips.recordings.conditioning
    return [clip_key(contents[f], start, end, conditioning) for f, start, end in clips.clips]


def clip_key(
    content: str, start: Position, end: Position, conditioning: str = CONDITIONING
) -> bytes:
    """Name a clip by the SHA-256 of its file, its limits and how audio is conditioned."""
    return hashlib.sha256(f"{content} {start} {end} {conditioning}".encode()).digest()


def audio_fingerprint(model: ParaCLAPModel, processor: ParaCLAPProcessor) -> str:
    """Name the audio side of a model by its weights, its configuration and how it is fed."""
    settings = [model.config.audio_config.to_dict(), processor.feature_extractor.to_dict()]
    return _fingerprint(model, AUDIO_SIDE, settings)


def encoder_fingerprint(
    model: ParaCLAPModel, processor: ParaCLAPProcessor, how: Sequence[object]
) -> str:
    """Name the speech encoder alone by the same, and by how it is used."""
    pooled = model.config.audio_pooling, model.config.audio_layers
    settings = [model.config.audio_config.to_dict(), processor.feature_extractor.to_dict(), *how]
    return _fingerprint(model, AUDIO_SIDE[:1], [*settings, *pooled])


def text_fingerprint(model: ParaCLAPModel, processor: ParaCLAPProcessor) -> str:
    """Name the text side of a model by its weights, its configuration and its tokenizer."""
    how = model.config.text_pooling
    settings = [model.config.text_config.to_dict(), processor.tokenizer.get_vocab(), how]
    return _fingerprint(model, TEXT_SIDE, settings)


def _fingerprint(model: ParaCLAPModel, side: tuple[str, ...], settings: Sequence[object]) -> str:
    digest = hashlib.sha256()
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith(side):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


class EmbeddingCache:
    """Embeddings of one model on disk: files that are only ever added, named by their own hash.

    Several processes may share a folder. A damaged file is passed over with a warning.

    Attributes:
        folder: of this model.
    """

    def __init__(self, folder: str | Path, fingerprint: str) -> None:
        self.folder = Path(folder) / fingerprint[:32]
        self._places: dict[bytes, tuple[np.ndarray, int]] = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            self._read(path)

    def __len__(self) -> int:
        return len(self._places)

    def _read(self, path: Path) -> None:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != path.stem:
            warnings.warn(f"{path} does not have the hash of its name: passed over", stacklevel=3)
            return
        try:
            stored = load(content)
        except SafetensorError as error:
            warnings.warn(f"{path} is no table of embeddings ({error})", stacklevel=3)
            return
        self._remember([key.tobytes() for key in stored["keys"]], stored["embeddings"])

    def _remember(self, keys: Sequence[bytes], embeddings: np.ndarray) -> None:
        self._places |= {key: (embeddings, row) for row, key in enumerate(keys)}

    def fill(
        self, embeddings: torch.Tensor, keys: Sequence[bytes], rows: Sequence[int] | None = None
    ) -> list[int]:
        """Write what is known into `rows` of `embeddings` (B, D); returns the rows that are not."""
        missing = []
        for row in range(len(keys)) if rows is None else rows:
            key = keys[row]
            if key in self._places:
                block, place = self._places[key]
                embeddings[row] = torch.from_numpy(block[place])
            else:
                missing.append(row)
        return missing

    def add(self, keys: Sequence[bytes], embeddings: torch.Tensor) -> None:
        """Store embeddings (B, D) under their keys; whole or not at all."""
        block = embeddings.numpy()
        tensors = {
            "keys": np.frombuffer(b"".join(keys), np.uint8).reshape(-1, DIGEST_BYTES),
            "embeddings": block,
        }
        content = save(tensors)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{hashlib.sha256(content).hexdigest()}.safetensors"
        write_bytes(path, content)
        self._remember(keys, block)
