"""Keys and values of the tokens that a batch of sequences has read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seal.inner.padding import PaddedRows
from seal.inner.transfer import on_device

#: The cache grows by this many positions at a time.
_BLOCK = 64


class KVCache:
    """Keys and values of every layer, (rows, K, positions, E), and how many positions each row has filled."""

    def __init__(self, n_layers: int) -> None:
        self.keys: list[Tensor] = [torch.empty(0)] * n_layers
        self.values: list[Tensor] = [torch.empty(0)] * n_layers
        self.lengths: list[int] = []
        self._at: tuple[Tensor, Tensor] | None = None
        self._seen: dict[int | None, Tensor] = {}
        self._rows: PaddedRows | None = None
        self.positions: Tensor | None = None
        """Where each row's next token goes, (rows,), once the cache is fixed."""

    def prefill(self, layer: int, k_TKE: Tensor, v_TKE: Tensor, spans: Sequence[tuple[int, int]]) -> None:
        """Store the keys and values of packed prompts, one row a span."""
        if self._rows is None:
            self.lengths = [b - a for a, b in spans]
            self._rows = PaddedRows.of(spans, k_TKE.device, spare=_BLOCK)
        self.keys[layer], self.values[layer] = self._rows.spread(k_TKE), self._rows.spread(v_TKE)

    def truncate(self, lengths: Sequence[int]) -> None:
        """Forget positions from `lengths` on; later tokens overwrite them."""
        self.lengths = list(lengths)
        self._loosen()

    def append(self, layer: int, k_RKE: Tensor, v_RKE: Tensor) -> tuple[Tensor, Tensor]:
        """Store one new position a row; returns (rows, K, longest, E) keys and values to attend to."""
        longest = max(self.lengths) + 1
        if self.positions is not None:
            longest = self.keys[layer].shape[2]
        if self._at is None:
            lengths = on_device(self.lengths, k_RKE.device)
            self._at = (torch.arange(len(self.lengths), device=k_RKE.device), lengths)
        for store, new in ((self.keys, k_RKE), (self.values, v_RKE)):
            if longest > store[layer].shape[2]:
                store[layer] = torch.nn.functional.pad(store[layer], (0, 0, 0, _BLOCK))
            store[layer][self._at[0], :, self._at[1]] = new
        return self.keys[layer][:, :, :longest], self.values[layer][:, :, :longest]

    def seen(self, window: int | None, longest: int) -> Tensor:
        """Which positions each row attends to in this step, (rows, 1, 1, longest)."""
        if window not in self._seen:
            assert self._at is not None
            at = torch.arange(longest, device=self._at[1].device)
            own = self._at[1][:, None]
            mask = at[None] <= own
            if window is not None:
                mask &= own - at[None] < window
            self._seen[window] = mask[:, None, None]
        return self._seen[window]

    def advance(self) -> None:
        """End a step: every row is one position longer."""
        self.lengths = [n + 1 for n in self.lengths]
        self.forget_masks()
        if self.positions is None:
            self._at = None

    def forget_masks(self) -> None:
        """Have the next step make its own."""
        self._seen = {}

    def fix(self, width: int, device: torch.device) -> Tensor:
        """Room for `width` positions a row, allocated once: steps then write where `positions` says, a tensor
        that the caller advances, and attend to all places up to there. Ends when the rows change.
        """
        for store in (self.keys, self.values):
            for layer, old in enumerate(store):
                if old.shape[2] < width:
                    store[layer] = torch.nn.functional.pad(old, (0, 0, 0, width - old.shape[2]))
        self.positions = on_device(self.lengths, device)
        self._at, self._seen = (torch.arange(len(self.lengths), device=device), self.positions), {}
        return self.positions

    def _loosen(self) -> None:
        self.positions, self._at, self._seen = None, None, {}

    def take(self, rows: Sequence[int]) -> None:
        """Keep `rows` (numbers may repeat: copies) in this order."""
        self._loosen()
        self.lengths = [self.lengths[i] for i in rows]
        longest = max(self.lengths, default=0) + _BLOCK
        index = on_device(rows, self.keys[0].device)
        for store in (self.keys, self.values):
            for layer, old in enumerate(store):
                store[layer] = old[:, :, :longest].index_select(0, index)

    def copy(self, rows: Sequence[int]) -> KVCache:
        """A cache of its own with `rows` of this one."""
        other = KVCache(len(self.keys))
        other.keys, other.values, other.lengths = list(self.keys), list(self.values), self.lengths
        other.take(rows)
        return other

    def join(self, other: KVCache) -> None:
        """Add the rows of `other` behind this cache's own."""
        self._loosen()
        self.lengths += other.lengths
        for mine, theirs in ((self.keys, other.keys), (self.values, other.values)):
            for layer, (a, b) in enumerate(zip(mine, theirs, strict=True)):
                width = max(a.shape[2], b.shape[2])
                segments = [torch.nn.functional.pad(x, (0, 0, 0, width - x.shape[2])) for x in (a, b)]
                mine[layer] = torch.cat(segments)
