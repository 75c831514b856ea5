"""Frozen encoders: rows are encoded without autograd, and cached.

A frozen encoder runs in evaluation mode, and the output for a row never depends on the other rows
of its batch or on padding, so it is the same whether it is computed now, cached, or computed again
after a resume. On a CPU, where batches are no faster, rows are encoded one at a time without
padding; elsewhere in batches of equal shape, which depends on the length of a row alone.

Letters: n rows, T samples, L tokens, H pooled values of a row.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F

from paraclap.model.modeling_paraclap import ParaCLAPModel

BATCH_SIZE = 32  # most rows of a batch of equal shape
BATCH_SECONDS = 320  # most audio in such a batch [s]
TOKENS = 16  # text lengths in such batches are multiples of this
SAMPLES, FRAMES = 16_000, 100  # and lengths of waveforms and log-mel frames of these
ROW_OVERHEAD = 300  # approximate bytes that Python and torch need for a cached row


class FrozenEncoder:
    """One frozen encoder of a model, row by row.

    Attributes:
        model: model with the frozen encoder, or in evaluation mode.
        branch: "audio" or "text".
        bfloat16: whether the encoder runs under bfloat16 autocast.
        batch_size: most rows of a batch; None = 1 on a CPU, `BATCH_SIZE` elsewhere.
        signal: samples, frames or tokens encoded so far.
        computed: the same with the padding of the batches.
    """

    def __init__(
        self,
        model: ParaCLAPModel,
        branch: str,
        bfloat16: bool = False,
        batch_size: int | None = None,
    ) -> None:
        if model.training and branch not in model.frozen:
            raise ValueError(f"the {branch} encoder is not frozen, only {list(model.frozen)}")
        self.model = model
        self.branch = branch
        self.bfloat16 = bfloat16
        self.batch_size = batch_size or (1 if model.device.type == "cpu" else BATCH_SIZE)
        self.signal = self.computed = 0

    def __call__(self, inputs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return pooled outputs (n, H) in at least float32, on the device of the model.

        Args:
            inputs: waveforms (n, T), log-mel frames or tokens (n, L), on the CPU.
            mask: of the first two dimensions of `inputs`, 1 at the front and 0 in the padding.
        """
        if self.branch == "audio" and self.model.audio_branch.reads_functionals:  # no padding
            with torch.no_grad():
                return self.model.pool(self.branch, inputs.to(self.model.device), None)
        return self._encode(inputs, mask, lambda *batch: self.model.pool(self.branch, *batch))

    def statistics(self, inputs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return `AudioBranch.statistics` of the rows, see `__call__`."""
        return self._encode(inputs, mask, self.model.audio_branch.statistics)

    @torch.no_grad()
    def _encode(
        self,
        inputs: torch.Tensor,
        mask: torch.Tensor,
        encode: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        device = self.model.device
        unit = TOKENS if self.branch == "text" else FRAMES if inputs.ndim == 3 else SAMPLES
        encoded: list[torch.Tensor] = [torch.empty(0)] * len(inputs)
        lengths = mask.sum(dim=1).tolist()
        self.signal += sum(lengths)
        for width, size, rows in self._batches(lengths, unit):
            self.computed += width * size
            filled = rows + rows[-1:] * (size - len(rows))
            values, masks = (
                self._widened(tensor[filled, :width], width).to(device, non_blocking=True)
                for tensor in (inputs, mask)
            )
            with torch.autocast(device.type, torch.bfloat16, enabled=self.bfloat16):
                batch = encode(values, masks)
            for row, vector in zip(rows, batch[: len(rows)], strict=True):
                encoded[row] = vector
        return torch.stack(encoded)

    def _batches(self, lengths: Sequence[int], unit: int) -> Iterator[tuple[int, int, list[int]]]:
        """Yield the width, the size and the rows of each batch.

        Width and size depend on the length of a row alone. Rows with and without padding are not
        mixed, because encoders compute them differently.
        """
        is_padded = self.branch == "text" or self.model.audio_branch.supports_padding
        groups: dict[tuple[int, bool], list[int]] = {}
        for row, length in enumerate(lengths):
            width = -(-length // unit) * unit if self.batch_size > 1 and is_padded else length
            groups.setdefault((width, length == width), []).append(row)
        for (width, _), rows in groups.items():
            size = self.batch_size
            if self.branch == "audio":
                size = max(1, min(size, BATCH_SECONDS * unit // width))
            for first in range(0, len(rows), size):
                yield width, size, rows[first : first + size]

    def _widened(self, tensor: torch.Tensor, width: int) -> torch.Tensor:
        """Extend the second dimension of audio with zeros; texts may be at their longest."""
        missing = width - tensor.shape[1] if self.branch == "audio" else 0
        return F.pad(tensor, (0, 0) * (tensor.ndim - 2) + (0, missing)) if missing else tensor


class EmbeddingCache:
    """Pooled outputs of a frozen encoder in memory; the least recently used rows are dropped.

    Attributes:
        encoder: encodes rows that are not cached.
        budget: size of the cache [bytes]; 0 = nothing is cached.
        encoded: number of rows encoded so far.
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
        """Return rows (n, H); `keys` are distinct, other arguments as in `FrozenEncoder`."""
        found = {key: self._rows[key] for key in keys if key in self._rows}
        for key in found:
            self._rows.move_to_end(key)
        missing = [row for row, key in enumerate(keys) if key not in found]
        if missing:
            self.encoded += len(missing)
            encoded = self.encoder(inputs[missing], mask[missing])
            for row, vector in zip(missing, encoded, strict=True):
                found[keys[row]] = vector
                self._add(keys[row], vector)
        return torch.stack([found[key] for key in keys])

    def _add(self, key: bytes, vector: torch.Tensor) -> None:
        self._rows[key] = vector.clone()  # a view would keep the whole batch in memory
        self._bytes += _size(key, vector)
        while self._bytes > self.budget:
            self._bytes -= _size(*self._rows.popitem(last=False))


def _size(key: bytes, vector: torch.Tensor) -> int:
    return len(key) + vector.nbytes + ROW_OVERHEAD
