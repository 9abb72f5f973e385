"""Sequences of many adapters laid end to end in one token stream, with no padding.

Axis letters used in this room: `T` packed tokens, `S` sequences, `L` tokens of one sequence, `N` adapters,
`R` rank, `D` features, `H` heads, `K` key-value heads, `E` features of a head, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate as running_sums
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from seal.inner.dropout import Dropout
from seal.inner.padding import PaddedRows
from seal.inner.stack import Segment, Slot, split_segments
from seal.inner.transfer import on_device

if TYPE_CHECKING:
    from seal.inner.kv_cache import KVCache

#: What one more attention call costs, in the pairs of positions that a call computes meanwhile. Measured on a
#: CPU, where a call's twenty small operations take as long as this many pairs of a nine-headed model.
CALL_COST = 12_000


@dataclass(slots=True)
class Pack:
    """One packed stream and what every layer needs to know about it.

    With `cache`, the keys and values of the sequences are stored for decoding (`decoding=False`, prefill),
    or the stream is one new token for each of the cache's rows (`decoding=True`).
    """

    input_ids: Tensor  # (1, T)
    position_ids: Tensor  # (1, T)
    spans: tuple[tuple[int, int], ...]
    """Token span of every sequence."""
    segments: tuple[Segment, ...]
    training: bool = False
    accumulate: bool = False
    """Whether a backward pass adds to the adapters' gradients instead of replacing them."""
    dropout: Dropout | None = None
    cache: KVCache | None = None
    decoding: bool = False
    _rows: tuple[PaddedRows, ...] = ()
    _offsets: tuple[Tensor, int] | None = field(default=None)

    def padded_rows(self) -> tuple[PaddedRows, ...]:
        """The sequences as rows of padded batches: on a CPU few calls of rows of like length, else one."""
        if not self.spans:
            raise RuntimeError("attention goes over padded rows here, whose places no recording knows")
        if not self._rows:
            device = self.input_ids.device
            every = (tuple(range(len(self.spans))),)
            groups = length_buckets([b - a for a, b in self.spans]) if device.type == "cpu" else every
            self._rows = tuple(PaddedRows.of([self.spans[i] for i in group], device) for group in groups)
        return self._rows

    def offsets(self) -> tuple[Tensor, int]:
        """Where the sequences begin, and the end of the last, (S + 1,) int32; tokens of the longest."""
        if self._offsets is None:
            bounds = [0, *(stop for _, stop in self.spans)]
            at = on_device(bounds, self.input_ids.device, torch.int32)
            self._offsets = at, max(b - a for a, b in self.spans)
        return self._offsets

    def fix_offsets(self, bounds: Tensor, longest: int) -> None:
        """Have `offsets` give a tensor that its owner writes to."""
        self._offsets = bounds, longest


def length_buckets(lengths: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Sequence numbers in groups that share a padded attention call, cut where that costs least.

    A call costs `CALL_COST`, and as many pairs of positions as its rows have when all are as long as the
    longest. The best cuts of the sorted lengths are found by dynamic programming.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    best = [0]  # cost of the first i sequences
    cut = [0]  # where the last group of the first i sequences begins
    for end in range(1, len(order) + 1):
        pairs = lengths[order[end - 1]] ** 2
        costs = [best[begin] + CALL_COST + (end - begin) * pairs for begin in range(end)]
        best.append(min(costs))
        cut.append(costs.index(best[-1]))
    groups: list[tuple[int, ...]] = []
    end = len(order)
    while end:
        groups.append(tuple(order[cut[end] : end]))
        end = cut[end]
    return tuple(reversed(groups))


def pack(
    sequences: Sequence[Sequence[int]],
    places: Sequence[Slot | None],
    device: torch.device,
    *,
    multiple: int = 1,
    training: bool = False,
    accumulate: bool = False,
    dropout: Sequence[tuple[int, float]] = (),
    cache: KVCache | None = None,
) -> Pack:
    """Lay `sequences` end to end, each for the adapter in its slot (None: the base); see `split_segments`.

    Args:
        multiple: fill the stream up to a multiple of this many tokens; nothing attends to what is filled in.
        dropout: seed and probability of each, when training; a row's dropout depends on nothing else.
    """
    lengths = [len(s) for s in sequences]
    stops = list(running_sums(lengths))
    ids = [token for s in sequences for token in s]
    positions = [i for n in lengths for i in range(n)]
    filled = [0] * (-len(ids) % multiple)
    return Pack(
        on_device([ids + filled], device),
        on_device([positions + filled], device),
        tuple((stop - n, stop) for stop, n in zip(stops, lengths, strict=True)),
        split_segments(places, lengths, device),
        training=training,
        accumulate=accumulate,
        dropout=Dropout.of(dropout, lengths, device) if any(p for _, p in dropout) else None,
        cache=cache,
    )


def pack_step(tokens: Tensor, positions: Tensor, segments: tuple[Segment, ...], cache: KVCache) -> Pack:
    """One decoding step: a new token (rows,) at `positions` (rows,) for each row of `cache`."""
    return Pack(tokens[None], positions[None], (), segments, cache=cache, decoding=True)
