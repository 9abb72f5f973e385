"""Products of consecutive tokens with their own adapter's matrices, however many tokens each adapter has."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional as F

from seal.inner.transfer import on_device


class GroupOffsets:
    """How consecutive tokens are shared out among N adapters, in order; an adapter may have none.

    `matmul` is one call whatever N: a batched product where all have equally many tokens, else a grouped one
    (CPU and CUDA; other devices, and fp64, take the adapters one by one). So is `outer_product` on CUDA.
    """

    def __init__(self, counts: Sequence[int], device: torch.device) -> None:
        self.counts = tuple(counts)
        self.even = len(set(counts)) == 1
        self._grouped = device.type in ("cpu", "cuda", "meta")
        self._on_cuda = device.type in ("cuda", "meta")
        self._ends = on_device(list(accumulate(counts)), device, torch.int32)

    def matmul(self, x_TI: Tensor, w_NIO: Tensor) -> Tensor:
        """(T, O): every token times its adapter's matrix."""
        if self.even:
            return torch.bmm(self._batch(x_TI), w_NIO).flatten(0, 1)
        if self._grouped and x_TI.dtype != torch.float64:
            return F.grouped_mm(x_TI, w_NIO, offs=self._ends)
        return torch.cat([x @ w for x, w in zip(x_TI.split(self.counts), w_NIO, strict=True)])

    def outer_product(self, left_TI: Tensor, right_TO: Tensor, out_NIO: Tensor, accumulate: bool) -> None:
        """Write (or add) to `out`, for each adapter, the sum of left ⊗ right over its tokens."""
        if self._on_cuda and (self.even or left_TI.dtype != torch.float64):
            value = self._outer(left_TI, right_TO)
            out_NIO.add_(value) if accumulate else out_NIO.copy_(value)
            return
        pairs = zip(left_TI.split(self.counts), right_TO.split(self.counts), out_NIO, strict=True)
        for left, right, out in pairs:  # a product that writes where it belongs, with no copy
            torch.addmm(out, left.t(), right, beta=int(accumulate), out=out)

    def _outer(self, left_TI: Tensor, right_TO: Tensor) -> Tensor:
        if self.even:
            return torch.bmm(self._batch(left_TI).transpose(1, 2), self._batch(right_TO))
        return F.grouped_mm(left_TI.t(), right_TO, offs=self._ends)

    def _batch(self, x_TI: Tensor) -> Tensor:
        return x_TI.view(len(self.counts), self.counts[0], x_TI.shape[1])
