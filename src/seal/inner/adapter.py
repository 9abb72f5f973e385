"""LoRA factors of one adapter, in one flat tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from seal.models.lora import target_modules
from seal.records import TrainingConfig
from seal.schedule import init_lora

if TYPE_CHECKING:
    from seal.inner.runtime import Runtime

#: Ranks are filled up with zeros to a multiple of this: grouped products on GPUs want rows of 16 bytes. What
#: is zero in A and in B has no gradient and stays zero.
RANK_STEP = 8


@dataclass(frozen=True, slots=True)
class GroupFactors:
    """Factors for the layers of one group (layers that read the same input), of one adapter or of N.

    `a` stacks the members' A, (…, M·R, D), so that one product serves them all; `b` has one (…, R, O) a
    member.
    """

    members: tuple[int, ...]
    """Places in the group of the layers that are adapted."""
    a: Tensor
    b: tuple[Tensor, ...]


class SlotLayout:
    """Where the factors of adapters of one rank and one set of layers lie in `size` consecutive numbers."""

    def __init__(self, runtime: Runtime, rank: int, layers: Sequence[str]) -> None:
        self.rank, self.layers = rank, tuple(layers)
        self._host: Tensor | None = None
        wanted = set(layers)
        self._plan = [
            (g.index, members, g.base.features, [g.base.sizes[m] for m in members])
            for g in runtime.groups
            if (members := tuple(i for i, name in enumerate(g.names) if name in wanted))
        ]
        self.size = sum(rank * (len(m) * d + sum(o)) for _, m, d, o in self._plan)
        self._where = {
            runtime.groups[index].names[member]: (index, i)
            for index, members, _, _ in self._plan
            for i, member in enumerate(members)
        }

    def views(self, flat: Tensor) -> dict[int, GroupFactors]:
        """The factors by group, as views of `flat` (…, size)."""
        at = 0

        def take(rows: int, columns: int) -> Tensor:
            nonlocal at
            at += rows * columns
            found: Tensor = flat[..., at - rows * columns : at].unflatten(-1, (rows, columns))
            return found

        return {
            index: GroupFactors(
                members, take(self.rank * len(members), d), tuple(take(self.rank, o) for o in outs)
            )
            for index, members, d, outs in self._plan
        }

    def host(self, dtype: torch.dtype) -> Tensor:
        """Pinned memory for one adapter's start values, made once, with B 0: fresh pages of it cost more than
        the draws."""
        if self._host is None or self._host.dtype != dtype:
            self._host = torch.zeros(self.size, dtype=dtype, pin_memory=torch.cuda.is_available())
        return self._host

    def layer(self, groups: dict[int, GroupFactors], name: str, rank: int) -> tuple[Tensor, Tensor]:
        """(A (rank, D), B (O, rank)) of one layer, as views."""
        index, i = self._where[name]
        a_RD = groups[index].a.narrow(0, i * self.rank, rank)
        return a_RD, groups[index].b[i][:rank].t()


class Adapter:
    """One job's LoRA factors, with PEFT's start values; see `init_lora`.

    Args:
        runtime: the base model's.
        training: rank, alpha and targets count.
        seed: of the start values.
        weights: where to keep the factors, (layout.size,) in the runtime's `state_dtype`; None: in a tensor
            of its own.
    """

    def __init__(
        self, runtime: Runtime, training: TrainingConfig, seed: int, weights: Tensor | None = None
    ) -> None:
        self.training, self.seed = training, seed
        self.scale = training.alpha / training.rank
        self.layout = layout_of(runtime, training)
        if weights is None:
            weights = torch.empty(self.layout.size, dtype=runtime.state_dtype, device=runtime.device)
        self.weights = weights
        if weights.device.type == "cpu":
            self._draw(weights.zero_(), map)
        elif weights.is_cuda and torch.cuda.is_available():
            # by all threads (a CPU has work for them), into memory that stays; waits for the copy
            host = self.layout.host(weights.dtype)
            if training.rank != self.layout.rank:
                host.zero_()  # rows that an adapter of a larger rank has left
            self._draw(host, _host_threads().map)
            weights.copy_(host)
        else:
            host = torch.zeros(weights.shape, dtype=weights.dtype)
            self._draw(host, map)
            weights.copy_(host, non_blocking=True)  # all layers at once

    def _draw(self, flat: Tensor, each: Callable[..., Iterable[None]]) -> None:
        """Write every layer's A; layers have generators of their own, so any order will do. B stays 0."""
        groups, rank = self.layout.views(flat), self.training.rank

        def draw(name: str) -> None:
            a_RD, _ = self.layout.layer(groups, name, rank)
            a_RD.copy_(init_lora(name, a_RD.shape[1], rank, self.seed))

        for _ in each(draw, self.layout.layers):
            pass

    @property
    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """(A (R, D), B (O, R)) of every adapted layer in PEFT's layout, as views of `weights`."""
        groups = self.layout.views(self.weights)
        return {name: self.layout.layer(groups, name, self.training.rank) for name in self.layout.layers}


@cache
def _host_threads() -> ThreadPoolExecutor:
    """For start values on a GPU: an adapter of 7B has 36 million, a quarter of a second for one thread."""
    return ThreadPoolExecutor()


def layout_of(runtime: Runtime, training: TrainingConfig) -> SlotLayout:
    """The layout for a config's rank and targets; equal ones are one object, so that adapters can share a
    stack."""
    rank = -(-training.rank // RANK_STEP) * RANK_STEP
    if training.targets not in runtime.targets:
        runtime.targets[training.targets] = tuple(target_modules(runtime.model, training.targets))
    key = rank, runtime.targets[training.targets]
    if key not in runtime.layouts:
        runtime.layouts[key] = SlotLayout(runtime, *key)
    return runtime.layouts[key]
