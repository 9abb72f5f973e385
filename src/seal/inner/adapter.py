"""LoRA factors: one adapter's in flat fp32 tensors, or many adapters' side by side for decoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from seal.inner.schedule import init_lora
from seal.models.lora import target_modules
from seal.records import LoRARecipe

if TYPE_CHECKING:
    from seal.inner.runtime import Runtime


@dataclass(frozen=True, slots=True)
class GroupFactors:
    """Factors for the layers of one group (layers that read the same input).

    `a` stacks the members' A, (M·R, D), so that one product serves them all; `b` has one (O, R) a member.
    """

    members: tuple[int, ...]
    """Places in the group of the layers that the adapter targets."""
    a: Tensor
    b: tuple[Tensor, ...]


class Adapter:
    """One job's LoRA factors as views of one flat fp32 tensor, and its gradients as views of another.

    `factors[layer]` is (A (R, D), B (O, R)) in PEFT's layout and with PEFT's start values; see `init_lora`.
    """

    def __init__(self, runtime: Runtime, recipe: LoRARecipe, seed: int) -> None:
        self.recipe, self.seed = recipe, seed
        self.scale = recipe.alpha / recipe.rank
        self.layers = target_modules(runtime.model, recipe.targets)
        wanted = set(self.layers)
        self._plan = [
            (g.index, members, g.base.features, [g.base.sizes[m] for m in members])
            for g in runtime.groups
            if (members := tuple(i for i, name in enumerate(g.names) if name in wanted))
        ]
        size = sum(recipe.rank * (len(m) * d + sum(o)) for _, m, d, o in self._plan)
        self.weights = torch.zeros(size, device=runtime.device)
        self.groups = self._views(self.weights)
        named: dict[str, tuple[Tensor, Tensor]] = {}
        for index, members, _, _ in self._plan:
            factors = self.groups[index]
            parts = factors.a.split(recipe.rank)
            for member, a_RD, b_OR in zip(members, parts, factors.b, strict=True):
                named[runtime.groups[index].names[member]] = (a_RD, b_OR)
        self.factors = {name: named[name] for name in self.layers}
        for name, (a_RD, _) in self.factors.items():
            a_RD.copy_(init_lora(name, a_RD.shape[1], recipe.rank, seed))
        self.grad: Tensor | None = None
        self.grads: dict[int, GroupFactors] = {}
        self.accumulate = False
        """Whether the next backward pass adds to the gradients instead of replacing them."""

    def _views(self, flat: Tensor) -> dict[int, GroupFactors]:
        rank, at = self.recipe.rank, 0

        def take(rows: int, columns: int) -> Tensor:
            nonlocal at
            at += rows * columns
            return flat[at - rows * columns : at].view(rows, columns)

        return {
            index: GroupFactors(members, take(rank * len(members), d), tuple(take(o, rank) for o in outs))
            for index, members, d, outs in self._plan
        }

    def start_training(self) -> None:
        """Give the adapter gradient buffers."""
        self.grad = torch.zeros_like(self.weights)
        self.grads = self._views(self.grad)

    def stop_training(self) -> None:
        """Free the gradient buffers; only the factors are kept for answering."""
        self.grad, self.grads = None, {}


class AdapterStack:
    """The factors of N adapters side by side, for decoding.

    By group: A (N, D, M·R) and, by member, B (N, R, O) with the adapter's scale folded in. Ranks and targets
    may differ: what an adapter lacks is zero, which adds nothing. Rows of no adapter stand last in the batch
    and are the bare base.
    """

    def __init__(self, runtime: Runtime, adapters: Sequence[Adapter]) -> None:
        self.adapters, self.device = list(adapters), runtime.device
        rank, n = max(a.recipe.rank for a in adapters), len(adapters)
        self.factors: dict[int, tuple[Tensor, list[Tensor]]] = {}
        for group in runtime.groups:
            if not any(group.index in a.groups for a in adapters):
                continue
            names, sizes, features = group.names, group.base.sizes, group.base.features
            a_NMRD = torch.zeros(n, len(names), rank, features, device=self.device)
            b_NRO = [torch.zeros(n, rank, o, device=self.device) for o in sizes]
            for i, adapter in enumerate(adapters):
                for m, name in enumerate(names):
                    if name in adapter.factors:
                        a_RD, b_OR = adapter.factors[name]
                        a_NMRD[i, m, : a_RD.shape[0]] = a_RD
                        b_NRO[m][i, : b_OR.shape[1]] = b_OR.t() * adapter.scale
            self.factors[group.index] = (a_NMRD.view(n, -1, features).transpose(1, 2), b_NRO)
        self.rank = rank
        self.counts: tuple[int, ...] = ()
        self._index: Tensor | None = None
        self._inverse: Tensor | None = None

    def arrange(self, rows: Sequence[Adapter | None]) -> None:
        """Say which adapter each row of the batch uses; rows come sorted by adapter, None last."""
        number = {id(a): n for n, a in enumerate(self.adapters)}
        owners = [number[id(a)] for a in rows if a is not None]
        assert owners == sorted(owners)
        assert all(a is None for a in rows[len(owners) :])
        self.counts = tuple(owners.count(n) for n in range(len(self.adapters)))
        width = max(self.counts)
        self._index = self._inverse = None
        if set(self.counts) != {width}:  # spread rows over (N, width); the places left over repeat row 0
            at = [n * width + i - owners.index(n) for i, n in enumerate(owners)]
            index = [0] * (len(self.adapters) * width)
            for row, place in enumerate(at):
                index[place] = row
            self._index = torch.tensor(index, device=self.device)
            self._inverse = torch.tensor(at, device=self.device)

    def add_to(self, y_TO: Tensor, x_TD: Tensor, group: int, sizes: Sequence[int]) -> None:
        """Add every row's own low-rank product to `y` in place."""
        n_rows = sum(self.counts)
        if group not in self.factors or not n_rows:
            return
        a_NDR, b = self.factors[group]
        x = x_TD[:n_rows] if self._index is None else x_TD[self._index]
        hidden = torch.bmm(x.view(len(self.adapters), -1, x.shape[-1]), a_NDR).split(self.rank, dim=-1)
        for y, h, b_NRO in zip(y_TO[:n_rows].split(tuple(sizes), dim=-1), hidden, b, strict=True):
            delta = torch.bmm(h, b_NRO).view(-1, b_NRO.shape[-1])
            y += delta if self._inverse is None else delta[self._inverse]
