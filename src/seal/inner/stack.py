"""Adapters of one layout side by side, so that one product serves them all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from seal.inner.adapter import Adapter, GroupFactors, SlotLayout
from seal.inner.grouped import GroupOffsets
from seal.inner.transfer import on_device

if TYPE_CHECKING:
    from seal.inner.recorded import Recording, Shape
    from seal.inner.runtime import Runtime
    from seal.records import TrainingConfig


class TrainingState(NamedTuple):
    """What an optimiser steps, by slot, (n, layout.size) each in the runtime's `state_dtype`."""

    weights: Tensor
    grads: Tensor
    means: Tensor
    """Running means of the gradients and of their squares."""
    squares: Tensor


class AdapterStack:
    """Slots for `n` adapters of one layout.

    Products read factors in the runtime's `factor_dtype`. With `training`, each slot also has what an
    optimiser steps, see `seal.inner.optimiser`.
    """

    def __init__(self, runtime: Runtime, layout: SlotLayout, n: int, *, training: bool = False) -> None:
        self.layout, self.scales = layout, [1.0] * n
        shape, device, full = (n, layout.size), runtime.device, runtime.state_dtype
        new = partial(torch.empty, shape, dtype=full, device=device)
        self.state = TrainingState(new(), new(), new(), new()) if training else None
        own = self.state.weights if self.state is not None and runtime.factor_dtype == full else None
        self.factors = torch.empty(shape, dtype=runtime.factor_dtype, device=device) if own is None else own
        self.dtype = self.factors.dtype
        self.recordings: dict[Shape, Recording | None] = {}
        """Of training passes, by shape; None: seen once."""
        self.pool: Any = None
        self._views: dict[tuple[int, int], tuple[dict[int, GroupFactors], dict[int, GroupFactors]]] = {}

    def put(self, slot: int, adapter: Adapter) -> None:
        """Have a slot answer as `adapter` does."""
        self.scales[slot] = adapter.scale
        if self.state is None or self.factors is not self.state.weights:
            self.factors[slot].copy_(adapter.weights)

    def begin(self, runtime: Runtime, slot: int, training: TrainingConfig, seed: int) -> Adapter:
        """A new adapter that trains in a slot, with its start values and no history."""
        assert self.state is not None
        self.state.means[slot].zero_()
        self.state.squares[slot].zero_()
        return Adapter(runtime, training, seed, self.state.weights[slot])

    def views(self, first: int, count: int) -> tuple[dict[int, GroupFactors], dict[int, GroupFactors]]:
        """Factors and, when training, gradients of consecutive slots, by group."""
        if (first, count) not in self._views:
            own = slice(first, first + count)
            factors = self.layout.views(self.factors[own])
            grads = self.layout.views(self.state.grads[own]) if self.state is not None else {}
            self._views[first, count] = factors, grads
        return self._views[first, count]


class Slot(NamedTuple):
    """A slot of a stack."""

    stack: AdapterStack
    slot: int


def stack_up(runtime: Runtime, adapters: Iterable[Adapter]) -> list[Slot]:
    """Places for answering, one an adapter, in stacks made for them; adapters of equal layout share one."""
    every = list(adapters)
    places: dict[int, Slot] = {}
    for layout in dict.fromkeys(a.layout for a in every):
        own = [i for i, a in enumerate(every) if a.layout is layout]
        stack = AdapterStack(runtime, layout, len(own))
        for slot, i in enumerate(own):
            stack.put(slot, every[i])
            places[i] = Slot(stack, slot)
    return [places[i] for i in range(len(every))]


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive tokens `[start, stop)` of a stream that go through adapters of one stack."""

    start: int
    stop: int
    offsets: GroupOffsets
    """Whose tokens they are, among consecutive slots."""
    scale: float | Tensor
    """alpha / r: one for all, or (tokens, 1)."""
    factors: dict[int, GroupFactors]
    grads: dict[int, GroupFactors]


def split_segments(
    places: Sequence[Slot | None], lengths: Sequence[int], device: torch.device
) -> tuple[Segment, ...]:
    """The parts of a stream whose sequences have these places and lengths.

    Sequences of one stack must be neighbours, in the order of their slots; None is the bare base.
    """
    segments = []
    at = 0
    for stack, run in groupby(zip(places, lengths, strict=True), lambda pair: pair[0] and pair[0].stack):
        sequences = list(run)
        tokens = sum(n for _, n in sequences)
        if stack is not None:
            own = [(place.slot, n) for place, n in sequences if place is not None]
            segments.append(_part(stack, own, at, tokens, device))
        at += tokens
    return tuple(segments)


def _part(
    stack: AdapterStack, own: Sequence[tuple[int, int]], start: int, tokens: int, device: torch.device
) -> Segment:
    slots = [slot for slot, _ in own]
    assert slots == sorted(slots), "sequences stand in the order of their slots"
    first, count = slots[0], slots[-1] - slots[0] + 1
    counts = [0] * count
    for slot, n in own:
        counts[slot - first] += n
    scales = [stack.scales[slot] for slot in range(first, first + count)]
    scale: float | Tensor = scales[0]
    if len({stack.scales[slot] for slot in slots}) > 1:
        each = on_device(scales, device, stack.dtype)
        scale = each.repeat_interleave(on_device(counts, device), output_size=tokens)[:, None]
    factors, grads = stack.views(first, count)
    return Segment(start, start + tokens, GroupOffsets(counts, device), scale, factors, grads)
