"""One decoding step of rows that stay the same, over buffers that stay where they are.

A step reads and writes those buffers alone and asks nothing of the host, so a GPU can record it once as a
CUDA graph and play it again: thousands of launches then cost one. It ends when a row leaves or joins.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

from seal.inner.kv_cache import KVCache
from seal.inner.packing import pack_step
from seal.inner.sampling import RowSampler
from seal.inner.stack import Segment
from seal.inner.transfer import on_device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seal.inner.runtime import Runtime

log = logging.getLogger(__name__)

#: Places in the cache come in multiples of this.
_BUCKET = 64


class DecodeStep:
    """Calls take one more token of every row.

    Args:
        cache: of the rows; it is fixed.
        width: most tokens that a row of them will have.
        segments: the rows' adapters.
        tokens: the newest of each row, which are not in the cache yet.
        sampler: of the rows.
    """

    def __init__(
        self, runtime: Runtime, cache: KVCache, width: int, segments: tuple[Segment, ...],
        tokens: Sequence[int], sampler: RowSampler,
    ) -> None:  # fmt: skip
        device = runtime.device
        self.runtime, self.cache, self.segments, self.sampler = runtime, cache, segments, sampler
        self._last = -(-width // _BUCKET) * _BUCKET - 1
        self.positions_R = cache.fix(self._last + 1, device)
        self.chosen_2R = torch.stack([on_device(tokens, device), on_device([1] * len(tokens), device)])
        self._keep = torch.arange(len(tokens), device=device)
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> list[int]:
        """The rows' next tokens."""
        if self.positions_R.device.type == "cuda" and torch.cuda.is_available():
            self._play()
        else:
            self.take()
        self.cache.advance()
        return self.sampler.read(self.chosen_2R)

    def take(self) -> None:
        """The step itself: from `chosen_2R`, the cache and its positions to the next, in place.

        A row that is finished and waits to leave writes its last place again and again.
        """
        self.cache.forget_masks()
        positions_R = self.positions_R.clamp(max=self.runtime.max_tokens - 1)
        packed = pack_step(self.chosen_2R[0].clone(), positions_R, self.segments, self.cache)
        self.chosen_2R.copy_(self.sampler(self.runtime.forward(packed, self._keep)))
        self.positions_R.add_(1).clamp_(max=self._last)

    def _play(self) -> None:
        """The first step as it is, which warms up what a recording must not begin; then a recording of it."""
        self._calls += 1
        if self._calls == 2:
            self._graph = _recorded(self)
        if self._graph is not None:
            self._graph.replay()
        else:
            self.take()


def _recorded(step: DecodeStep) -> torch.cuda.CUDAGraph | None:
    """The step as a graph; None where something in it cannot be recorded."""
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            step.take()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        log.warning("decoding goes on without a CUDA graph: %s", str(error).splitlines()[0])
        return None
    return graph
