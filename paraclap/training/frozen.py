"""Frozen encoders: rows are encoded without autograd, and cached.

A frozen encoder runs in evaluation mode, and the output for a row never depends on the other rows
of its batch or on padding, so it is the same whether it is computed now, cached, or computed again
after a resume. On a CPU, where batches are no faster, rows are encoded one at a time without
padding; elsewhere in batches of equal shape.

Letters: n rows, T samples, L tokens, H pooled values of a row.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence

import torch

from paraclap.model.modeling_paraclap import ParaCLAPModel

BATCH_SIZE = 32  # rows of a batch of equal shape
TOKENS = 16  # text lengths in such batches are multiples of this
ROW_OVERHEAD = 300  # approximate bytes that Python and torch need for a cached row


class FrozenEncoder:
    """One frozen encoder of a model, row by row.

    Attributes:
        model: model with the frozen encoder.
        branch: "audio" or "text".
        bfloat16: whether the encoder runs under bfloat16 autocast.
        batch_size: rows of a batch; None = 1 on a CPU, `BATCH_SIZE` elsewhere.
    """

    def __init__(
        self,
        model: ParaCLAPModel,
        branch: str,
        bfloat16: bool = False,
        batch_size: int | None = None,
    ) -> None:
        if branch not in model.frozen:
            raise ValueError(f"the {branch} encoder is not frozen, only {list(model.frozen)}")
        self.model = model
        self.branch = branch
        self.bfloat16 = bfloat16
        self.batch_size = batch_size or (1 if model.device.type == "cpu" else BATCH_SIZE)

    @torch.no_grad()
    def __call__(self, inputs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return pooled outputs (n, H) in at least float32, on the device of the model.

        Args:
            inputs: waveforms (n, T), log-mel frames or tokens (n, L), on the CPU.
            mask: of the first two dimensions of `inputs`, 1 at the front and 0 in the padding.
        """
        device = self.model.device
        if self.branch == "audio" and self.model.audio_branch.reads_functionals:  # no padding
            return self.model.pool(self.branch, inputs.to(device), None)
        pooled: list[torch.Tensor] = [torch.empty(0)] * len(inputs)
        for width, rows in self._batches(mask.sum(dim=1).tolist(), inputs.shape[1]):
            filled = rows + rows[-1:] * (self.batch_size - len(rows))
            values = inputs[filled, :width].to(device, non_blocking=True)
            masks = mask[filled, :width].to(device, non_blocking=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=self.bfloat16):
                encoded = self.model.pool(self.branch, values, masks)
            for row, vector in zip(rows, encoded[: len(rows)], strict=True):
                pooled[row] = vector
        return torch.stack(pooled)

    def _batches(self, lengths: Sequence[int], widest: int) -> Iterator[tuple[int, list[int]]]:
        """Yield (width, rows) of each batch.

        Rows with and without padding are not mixed, because encoders compute them differently.
        """
        groups: dict[tuple[int, bool], list[int]] = {}
        for row, length in enumerate(lengths):
            width = self._width(length, widest)
            groups.setdefault((width, length == width), []).append(row)
        for (width, _), rows in groups.items():
            for first in range(0, len(rows), self.batch_size):
                yield width, rows[first : first + self.batch_size]

    def _width(self, length: int, widest: int) -> int:
        """Padded width of a row of this length, independent of the other rows."""
        if self.batch_size == 1:
            return length
        if self.branch == "audio":
            return widest
        return -(-length // TOKENS) * TOKENS


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
