"""A cache on disk of encoded clips, and the keys and fingerprints that identify them.

A row is identified by the content of the audio file, the limits of the segment, the audio
conditioning, and the weights and settings of the audio side of the model, or of its encoder alone.
So renamed files are found, and changed files are encoded again.
"""

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from paraclap.audio.conditioning import CONDITIONING
from paraclap.audio.segments import Position
from paraclap.data.dataset import ClipDataset, clip_limits
from paraclap.files import OutputError, file_sha256, make_folder, remove_leftovers, write_bytes
from paraclap.locks import lock
from paraclap.model.lora import merged_state
from paraclap.model.modeling_paraclap import ParaCLAPModel, ParaCLAPProcessor

DIGEST_BYTES = 32
AUDIO_SIDE = ("audio_branch.", "audio_projection.")
NOT_USED = {
    *("_name_or_path", "architectures", "auto_map", "dtype", "transformers_version"),
    *("feature_extractor_type", "processor_class"),
}
"""Entries of configurations that depend on where the weights came from."""
TEXT_SIDE = ("text_branch.", "text_projection.")


def clip_keys(clips: ClipDataset) -> list[bytes]:
    """Return the key of each clip, see `clip_key`, of its actual limits [s]."""
    files = list(dict.fromkeys(file for file, _, _ in clips.clips))
    with ThreadPoolExecutor() as pool:
        contents = dict(zip(files, pool.map(clips.recordings.hash, files), strict=True))
    limits = clip_limits(clips.recordings, clips.clips)
    return [
        clip_key(contents[file], round(first, 6), round(last, 6), clips.conditioning)
        for (file, _, _), (first, last) in zip(clips.clips, limits, strict=True)
    ]


def clip_key(
    content: str, start: Position, end: Position, conditioning: str = CONDITIONING
) -> bytes:
    """Return the SHA-256 of the hash of a file, the limits of a clip and the conditioning."""
    return hashlib.sha256(f"{content} {start} {end} {conditioning}".encode()).digest()


def audio_fingerprint(model: ParaCLAPModel, processor: ParaCLAPProcessor) -> str:
    """Return the hash of the weights, configuration and feature extractor of the audio side."""
    settings = [model.config.audio_config.to_dict(), processor.feature_extractor.to_dict()]
    return _fingerprint(model.state_dict(), AUDIO_SIDE, settings)


def encoder_fingerprint(model: ParaCLAPModel, processor: ParaCLAPProcessor) -> str:
    """Return the hash of all that the statistics of the speech encoder depend on.

    So that these are equal in every bit, the kind of device is part of it.
    """
    base = model.audio_branch.base
    settings = [
        {key: value for key, value in part.to_dict().items() if key not in NOT_USED}
        for part in (base.config, processor.feature_extractor)
    ]
    compiled = any(module._compiled_call_impl is not None for module in base.modules())
    how = ["statistics", model.device.type, compiled]
    return _fingerprint(merged_state(model), ("audio_branch.base.",), [*settings, *how])


def text_fingerprint(model: ParaCLAPModel, processor: ParaCLAPProcessor) -> str:
    """Return the hash of the weights, configuration and tokenizer of the text side."""
    how = model.config.text_pooling
    settings = [model.config.text_config.to_dict(), processor.tokenizer.get_vocab(), how]
    return _fingerprint(model.state_dict(), TEXT_SIDE, settings)


def _fingerprint(
    state: Mapping[str, torch.Tensor], side: tuple[str, ...], settings: Sequence[object]
) -> str:
    digest = hashlib.sha256()
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(state.items()):
        if name.startswith(side):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


class DiskEmbeddingCache:
    """Embeddings of one model on disk, in append-only files that are named by their hash.

    Several processes may share a folder. Files that are damaged or not ours, and a folder that
    cannot be written, are ignored with a warning: embeddings are then computed again.

    Attributes:
        folder: of this model.
        is_writable: whether embeddings are still stored.
    """

    def __init__(self, folder: str | Path, fingerprint: str) -> None:
        self.folder = Path(folder) / fingerprint[:32]
        self.is_writable = True
        self._places: dict[bytes, tuple[Any, int]] = {}
        self._remove_leftovers()
        for path in sorted(self.folder.glob("*.safetensors")):
            self._read(path)

    def _remove_leftovers(self) -> None:
        """Remove files that killed processes were writing, unless another process writes now."""
        if any(self.folder.glob(".*.tmp")):
            with suppress(OutputError), lock(self.folder):
                remove_leftovers(self.folder)

    def __len__(self) -> int:
        return len(self._places)

    def _read(self, path: Path) -> None:
        if fault := self._read_or_fault(path):
            warnings.warn(f"embedding cache: {path} {fault}; ignored", stacklevel=3)

    def _read_or_fault(self, path: Path) -> str | None:
        if not path.is_file():  # reading from a pipe would block
            return "is not a file"
        try:
            if file_sha256(path) != path.stem:
                return "does not have the hash of its name"
            with safe_open(path, "np") as stored:
                keys, embeddings = stored.get_tensor("keys"), stored.get_tensor("embeddings")
                rows = stored.get_slice("embeddings")  # read when needed
        except (OSError, SafetensorError) as error:
            return f"cannot be read: {getattr(error, 'strerror', None) or error}"
        if embeddings.ndim != 2 or keys.shape != (len(embeddings), DIGEST_BYTES):
            return "has other content"
        if not np.isfinite(embeddings).all():
            return "has embeddings that are not finite"
        self._places |= {key.tobytes(): (rows, row) for row, key in enumerate(keys)}
        return None

    def fill(
        self, table: torch.Tensor, keys: Sequence[bytes], columns: torch.Tensor, size: int
    ) -> list[int]:
        """Copy columns of cached rows of this size into `table`; returns the missing rows."""
        missing = []
        for row, key in enumerate(keys):
            block, place = self._places.get(key, (None, 0))
            if block is not None and block.get_shape()[1] == size:
                table[row] = torch.from_numpy(block[place : place + 1])[0, columns]
            else:
                missing.append(row)
        return missing

    def add(self, keys: Sequence[bytes], embeddings: torch.Tensor) -> None:
        """Store embeddings (B, D) under their keys, in one atomically written file."""
        block = embeddings.contiguous().numpy()
        if not self.is_writable:
            return
        rows = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, DIGEST_BYTES)
        content = save({"keys": rows, "embeddings": block})
        name = f"{hashlib.sha256(content).hexdigest()}.safetensors"
        try:
            with lock(make_folder(self.folder), shared=True, wait=True):
                write_bytes(self.folder / name, content)
                self._read(self.folder / name)
        except OutputError as error:
            self.is_writable = False
            warnings.warn(f"embedding cache: {error}; no longer written", stacklevel=3)
