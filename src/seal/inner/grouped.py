"""Products of consecutive tokens with their own adapter's matrices, however many tokens each adapter has."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional as F

from seal.inner.transfer import on_device


@cache
def has_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch has a kernel of its own for grouped products there: bf16 on Hopper and Blackwell."""
    if dtype != torch.bfloat16 or device.type != "cuda" or not torch.cuda.is_available():
        return dtype == torch.bfloat16
    return torch.cuda.get_device_capability(device)[0] in (9, 10)


class GroupOffsets:
    """How consecutive tokens are shared out among N adapters, in order; an adapter may have none.

    `matmul` is one call whatever N: a batched product where all have equally many tokens, else a grouped one
    (CPU and CUDA; other devices, and fp64, take the adapters one by one). So is `outer_product` on CUDA.
    Where CUDA has no kernel for grouped products, and torch would take the adapters one by one and wait for
    each, a batched product of rows that are filled up to the longest does it.
    """

    def __init__(self, counts: Sequence[int], device: torch.device) -> None:
        self.counts = tuple(counts)
        self.even = len(set(counts)) == 1
        self._grouped = device.type in ("cpu", "cuda", "meta")
        self._on_cuda = device.type in ("cuda", "meta")
        self._device = device
        self._ends = on_device(list(accumulate(counts)), device, torch.int32)
        self._filled: Tensor | None = None

    def matmul(self, x_TI: Tensor, w_NIO: Tensor) -> Tensor:
        """(T, O): every token times its adapter's matrix."""
        if self.even:
            return torch.bmm(self._batch(x_TI), w_NIO).flatten(0, 1)
        if self._on_cuda and not has_kernel(self._device, x_TI.dtype):
            return self.filled_matmul(x_TI, w_NIO)
        if self._grouped and x_TI.dtype != torch.float64:
            return F.grouped_mm(x_TI, w_NIO, offs=self._ends)
        return torch.cat([x @ w for x, w in zip(x_TI.split(self.counts), w_NIO, strict=True)])

    def outer_product(self, left_TI: Tensor, right_TO: Tensor, out_NIO: Tensor, accumulate: bool) -> None:
        """Write (or add) to `out`, for each adapter, the sum of left ⊗ right over its tokens."""
        if self._on_cuda:
            value = self._outer(left_TI, right_TO)
            out_NIO.add_(value) if accumulate else out_NIO.copy_(value)
            return
        pairs = zip(left_TI.split(self.counts), right_TO.split(self.counts), out_NIO, strict=True)
        for left, right, out in pairs:  # a product that writes where it belongs, with no copy
            torch.addmm(out, left.t(), right, beta=int(accumulate), out=out)

    def _outer(self, left_TI: Tensor, right_TO: Tensor) -> Tensor:
        if self.even:
            return torch.bmm(self._batch(left_TI).transpose(1, 2), self._batch(right_TO))
        if not has_kernel(self._device, left_TI.dtype):
            return self.filled_outer_product(left_TI, right_TO)
        return F.grouped_mm(left_TI.t(), right_TO, offs=self._ends)

    def filled_matmul(self, x_TI: Tensor, w_NIO: Tensor) -> Tensor:
        """`matmul` as one batched product of N rows as long as the longest."""
        return torch.bmm(self._fill(x_TI), w_NIO).flatten(0, 1).index_select(0, self._places())

    def filled_outer_product(self, left_TI: Tensor, right_TO: Tensor) -> Tensor:
        """(N, I, O): what `outer_product` writes, likewise."""
        return torch.bmm(self._fill(left_TI).transpose(1, 2), self._fill(right_TO))

    def _fill(self, x_TI: Tensor) -> Tensor:
        """(N, longest, I), filled up with zeros."""
        filled = x_TI.new_zeros(len(self.counts) * max(self.counts), x_TI.shape[1])
        filled.index_copy_(0, self._places(), x_TI)
        return filled.view(len(self.counts), max(self.counts), x_TI.shape[1])

    def _places(self) -> Tensor:
        """Where each token stands in the rows, (T,)."""
        if self._filled is None:
            longest = max(self.counts)
            places = [row * longest + i for row, n in enumerate(self.counts) for i in range(n)]
            self._filled = on_device(places, self._device)
        return self._filled

    def _batch(self, x_TI: Tensor) -> Tensor:
        return x_TI.view(len(self.counts), self.counts[0], x_TI.shape[1])
