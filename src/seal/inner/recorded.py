"""Training passes recorded as CUDA graphs: thousands of launches, one of which a host takes tens of
microseconds for, become one.

A recording is of a shape: tokens, labelled positions and sequences are filled up to it. What is filled in is
a sequence of its own that nothing is learned from, so its gradient is 0.
The first pass of a shape goes as it is, the second filled up (which warms up what a recording must not
begin), the third is recorded, and from then on it is played.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate as running_sums
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from seal.inner.grouped import GroupOffsets, has_kernel
from seal.inner.packing import Pack
from seal.inner.stack import AdapterStack, Segment
from seal.inner.transfer import on_device

if TYPE_CHECKING:
    from seal.inner.runtime import Runtime

log = logging.getLogger(__name__)

#: Recordings of one stack; each holds its launches' arguments, and they share the memory of their passes.
MOST = 24


@dataclass(frozen=True, slots=True)
class Rows:
    """A pass: every sequence's tokens and slot (in the order of slots), and what is learned."""

    ids: Sequence[Sequence[int]]
    slots: Sequence[int]
    before: Sequence[int]
    """Positions in the stream whose next token is learned."""
    targets: Sequence[int]
    weights: Sequence[float]


class Shape(NamedTuple):
    """What passes must share to be one recording."""

    first: int
    """Slot of the stack, and how many from there."""
    slots: int
    tokens: int
    labels: int
    sequences: int
    longest: int
    accumulate: bool
    scales: tuple[float, ...]
    """Of these slots; one number where all are equal."""

    @classmethod
    def of(cls, rows: Rows, stack: AdapterStack, accumulate: bool) -> Shape:
        """The smallest shape that has room for `rows` and one token that is filled in."""
        total = sum(map(len, rows.ids))
        unit = 128 if total < 2048 else 512
        tokens = -(-(total + 1) // unit) * unit
        labels = next(n for n in (tokens // 4, tokens // 2, tokens) if len(rows.before) <= n)
        longest = max(unit, -(-max(map(len, rows.ids)) // 64) * 64)
        first, stop = rows.slots[0], rows.slots[-1] + 1
        scales = tuple(stack.scales[first:stop])
        return cls(
            first, stop - first, tokens, labels, -(-(len(rows.ids) + 1) // 16) * 16, longest, accumulate,
            scales[:1] if len(set(scales)) == 1 else scales,
        )  # fmt: skip


class _Offsets(GroupOffsets):
    """Shares of the slots of a stack that are written anew before every pass."""

    def __init__(self, slots: int, device: torch.device) -> None:
        super().__init__([0] * slots, device)
        self.even = False
        self.ends = self._ends

    def load(self, counts: Sequence[int]) -> None:
        self.counts = tuple(counts)
        self.ends.copy_(on_device(list(running_sums(counts)), self.ends.device, torch.int32))


class Recording:
    """One shape's pass over buffers that stay where they are.

    Args:
        take: the pass itself: pack, labelled positions, their targets and weights → their losses.
    """

    def __init__(
        self, runtime: Runtime, stack: AdapterStack, shape: Shape,
        take: Callable[[Runtime, Pack, Tensor, Tensor, Tensor], Tensor],
    ) -> None:  # fmt: skip
        device, new = runtime.device, torch.zeros
        self.shape, self._runtime, self._take = shape, runtime, take
        self.ids_2T = new(2, shape.tokens, dtype=torch.long, device=device)
        self.labels_2K = new(2, shape.labels, dtype=torch.long, device=device)
        self.weights_K = new(shape.labels, dtype=runtime.state_dtype, device=device)
        self.bounds = new(shape.sequences + 1, dtype=torch.int32, device=device)
        self.offsets = _Offsets(shape.slots, device)
        self.scales_T1: Tensor | None = None
        if len(shape.scales) > 1:
            self.scales_T1 = new(shape.tokens, 1, dtype=stack.dtype, device=device)
        factors, grads = stack.views(shape.first, shape.slots)
        scale = shape.scales[0] if self.scales_T1 is None else self.scales_T1
        part = Segment(0, shape.tokens, self.offsets, scale, factors, grads)
        # no spans: a model whose attention goes over padded rows cannot be recorded, and says so
        self.pack = Pack(
            self.ids_2T[:1], self.ids_2T[1:], (), (part,), training=True, accumulate=shape.accumulate
        )
        self.pack.fix_offsets(self.bounds, shape.longest)
        self.calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._terms: Tensor | None = None

    def load(self, rows: Rows) -> None:
        """Write a pass into the buffers."""
        shape, device = self.shape, self.ids_2T.device
        lengths = [len(ids) for ids in rows.ids]
        filled = shape.tokens - sum(lengths)
        ids = [token for own in rows.ids for token in own] + [0] * filled
        positions = [i for n in lengths for i in range(n)] + [0] * filled
        self.ids_2T.copy_(on_device([ids, positions], device))
        spare = shape.labels - len(rows.before)
        labels = [[*rows.before, *[shape.tokens - 1] * spare], [*rows.targets, *[0] * spare]]
        self.labels_2K.copy_(on_device(labels, device))
        self.weights_K.copy_(on_device([*rows.weights, *[0.0] * spare], device, self.weights_K.dtype))
        bounds = [0, *running_sums(lengths)]
        bounds += [shape.tokens] * (shape.sequences + 1 - len(bounds))
        self.bounds.copy_(on_device(bounds, device, torch.int32))
        counts = [0] * shape.slots
        for slot, n in zip(rows.slots, lengths, strict=True):
            counts[slot - shape.first] += n
        counts[-1] += filled
        self.offsets.load(counts)
        if self.scales_T1 is not None:
            scales = [s for s, n in zip(shape.scales, counts, strict=True) for _ in range(n)]
            self.scales_T1.copy_(on_device(scales, device, self.scales_T1.dtype)[:, None])

    def take(self) -> Tensor:
        """The pass itself; the losses of the labelled positions (K,), 0 where filled in."""
        return self._take(self._runtime, self.pack, self.labels_2K[0], self.labels_2K[1], self.weights_K)

    def play(self, rows: Rows, pool: Callable[[], Any]) -> Tensor:
        """A pass; the second here is recorded, in memory that recordings share."""
        self.load(rows)
        self.calls += 1
        if self.calls == 1:
            return self.take()
        if self._graph is None:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool()):
                self._terms = self.take()
            self._graph = graph
        self._graph.replay()
        assert self._terms is not None
        return self._terms.clone()


class Recordings:
    """Of all shapes of a runtime's passes, kept with the stacks that they step."""

    def __init__(self, runtime: Runtime) -> None:
        device = runtime.device
        self._runtime = runtime
        self.usable = (
            device.type == "cuda" and torch.cuda.is_available() and has_kernel(device, runtime.factor_dtype)
        )
        """Whether passes can be recorded: a GPU whose grouped products need not look at the shares."""
        self.played = 0
        """Passes so far that were played from a recording."""

    def find(
        self, stack: AdapterStack, rows: Rows, accumulate: bool,
        take: Callable[[Runtime, Pack, Tensor, Tensor, Tensor], Tensor],
    ) -> Tensor | None:  # fmt: skip
        """The losses of a pass that was played or filled up; None: take it as it is."""
        if not self.usable or self._runtime.recompute:
            return None
        shape = Shape.of(rows, stack, accumulate)
        known = stack.recordings
        if shape not in known:
            if len(known) < MOST:
                known[shape] = None
            return None
        recording = known[shape]
        if recording is None:
            recording = known[shape] = Recording(self._runtime, stack, shape, take)
        try:
            losses = recording.play(rows, lambda: _pool(stack))
        except torch.OutOfMemoryError:
            known.pop(shape)
            stack.pool = None  # it may have been this one's alone
            raise
        except (RuntimeError, ValueError) as error:
            log.warning("training goes on without CUDA graphs: %s", (str(error).splitlines() or [""])[0])
            self.usable = False
            known.clear()
            return None
        self.played += recording.calls > 1
        return losses


def _pool(stack: AdapterStack) -> Any:
    """The memory that a stack's recordings share; it is gone with the last of them."""
    if stack.pool is None:
        stack.pool = torch.cuda.graph_pool_handle()
    return stack.pool
