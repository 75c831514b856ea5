"""Gradients summed over processes.

They are sent in buckets of a fixed layout during the backward pass. torch's DistributedDataParallel
does the same, but changes its buckets after the first step, so that with three or more processes a
resumed run sums in another order than an uninterrupted one and differs in the last bits; it also
stops at parameters that a step does not use.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from paraclap.distributed import contact, world_size

BUCKET_BYTES = 25 * 2**20


class GradientSum:
    """Sum of gradients over processes, bucket by bucket during the backward pass.

    Call `expect()` before the last backward pass of a step and `finish()` after it. Buckets are
    sent in the same order by all processes, each once it and all before it are complete, the others
    in `finish()`. A parameter without gradient in one process adds zero; a parameter without
    gradient in all processes has none, as with one process.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.buckets = _in_buckets(parameters)
        self._bucket_of = {p: number for number, bucket in enumerate(self.buckets) for p in bucket}
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        self._missing: list[set[nn.Parameter]] = []
        self._sent: list[tuple[torch.Tensor, Any]] = []
        self._is_expecting = False
        if world_size() > 1:
            self._hooks = [
                parameter.register_post_accumulate_grad_hook(self._arrived)
                for parameter in self._bucket_of
            ]

    def retire(self) -> None:
        """Remove the hooks, so that another object can sum these gradients."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def expect(self) -> None:
        """Expect complete gradients from now on."""
        self._missing, self._sent = [set(bucket) for bucket in self.buckets], []
        self._is_expecting = True

    def finish(self) -> None:
        """Wait until every parameter has the sum of its gradients."""
        self._is_expecting = False
        if world_size() == 1:
            return
        while len(self._sent) < len(self.buckets):
            self._send()
        for bucket, (used, work) in zip(self.buckets, self._sent, strict=True):
            with contact():
                work.wait()
            for parameter, processes_using_it in zip(bucket, used.tolist(), strict=True):
                if not processes_using_it:
                    parameter.grad = None
        self._sent = []

    def _arrived(self, parameter: nn.Parameter) -> None:
        if not self._is_expecting:
            return
        number = self._bucket_of[parameter]
        if number < len(self._sent):
            raise RuntimeError("a gradient changed after it was sent; expect() came too early")
        self._missing[number].discard(parameter)
        while len(self._sent) < len(self.buckets) and not self._missing[len(self._sent)]:
            self._send()

    @torch.no_grad()
    def _send(self) -> None:
        """Start to sum the next bucket, whose gradients become views of one tensor."""
        bucket = self.buckets[len(self._sent)]
        used = bucket[0].new_tensor([parameter.grad is not None for parameter in bucket])
        parts = [p.new_zeros(p.shape) if p.grad is None else p.grad for p in bucket]
        flat = torch.cat([*(part.flatten() for part in parts), used])
        *views, used = flat.split([*(part.numel() for part in parts), len(bucket)])
        for parameter, view in zip(bucket, views, strict=True):
            parameter.grad = view.view_as(parameter)
        with contact():
            self._sent.append((used, dist.all_reduce(flat, async_op=True)))


def _in_buckets(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Trainable parameters by bucket, roughly in the order of the backward pass.

    Scalars (scale, bias of the loss) come last: their gradients may be computed before or after the
    exchange of the embeddings' gradients, which must have the same position in all processes.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    order = sorted(reversed(trained), key=lambda parameter: parameter.ndim == 0)
    buckets: list[list[nn.Parameter]] = []
    size, kind = 0, None
    for parameter in order:
        if size >= BUCKET_BYTES or kind != (parameter.dtype, parameter.device):
            buckets.append([])
            size, kind = 0, (parameter.dtype, parameter.device)
        buckets[-1].append(parameter)
        size += parameter.numel() * parameter.element_size()
    return buckets
