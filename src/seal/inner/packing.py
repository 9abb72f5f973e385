"""Sequences of many adapters laid end to end in one token stream, with no padding.

Axis letters used in this room: `T` packed tokens, `S` sequences, `L` tokens of one sequence, `N` adapters,
`R` rank, `D` features, `H` heads, `K` key-value heads, `E` features of a head, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from seal.inner.adapter import Adapter, AdapterStack
    from seal.inner.decode import KVCache

#: Sequences whose lengths differ by at most this factor share one padded attention call.
BUCKET_RATIO = 1.5


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive tokens `[start, stop)` of the stream that go through one adapter."""

    adapter: Adapter
    start: int
    stop: int
    rows: tuple[tuple[int, int, int], ...] = ()
    """(start, stop, dropout seed) of every training row in the segment."""


@dataclass(slots=True)
class Pack:
    """One packed stream and what every layer needs to know about it.

    `buckets` groups the sequences by length for attention. With `cache`, the keys and values of the
    sequences are stored for decoding (`decoding=False`, prefill), or the stream is one new token for
    each of the cache's rows (`decoding=True`).
    """

    input_ids: Tensor  # (1, T)
    position_ids: Tensor  # (1, T)
    spans: tuple[tuple[int, int], ...]
    """Token span of every sequence."""
    segments: tuple[Segment, ...]
    buckets: tuple[tuple[int, ...], ...]
    training: bool = False
    cache: KVCache | None = None
    decoding: bool = False
    stack: AdapterStack | None = None
    """The adapters' factors side by side, when decoding."""
    float_memo: tuple[Tensor, Tensor] | None = field(default=None, repr=False)

    def as_float(self, x_TD: Tensor) -> Tensor:
        """`x` in fp32, the precision of the LoRA factors; q, k and v (gate and up) share one conversion."""
        if x_TD.dtype == torch.float32:
            return x_TD
        memo = self.float_memo  # keeps its source alive, so an equal address means the same tensor
        if memo is None or memo[0].data_ptr() != x_TD.data_ptr() or memo[0].shape != x_TD.shape:
            memo = self.float_memo = (x_TD.detach(), x_TD.detach().float())  # no graph: it knows this pack
        return memo[1]


def length_buckets(lengths: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Sequence numbers grouped so that lengths in a group differ by at most `BUCKET_RATIO`."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    groups: list[list[int]] = []
    for i in order:
        if groups and lengths[i] <= BUCKET_RATIO * lengths[groups[-1][0]]:
            groups[-1].append(i)
        else:
            groups.append([i])
    return tuple(tuple(group) for group in groups)


def pack(
    sequences: Sequence[Sequence[int]],
    adapters: Sequence[Adapter | None],
    device: torch.device,
    *,
    training: bool = False,
    dropout_seeds: Sequence[int] = (),
    cache: KVCache | None = None,
) -> Pack:
    """Lay `sequences` end to end. Sequences of one adapter must be neighbours; None is the bare base.

    `dropout_seeds`: one a sequence, when training; a row's dropout depends on nothing else.
    """
    lengths = [len(s) for s in sequences]
    stops = list(accumulate(lengths))
    spans = tuple((stop - n, stop) for stop, n in zip(stops, lengths, strict=True))
    ids = [token for s in sequences for token in s]
    positions = [i for n in lengths for i in range(n)]
    return Pack(
        torch.tensor([ids], device=device),
        torch.tensor([positions], device=device),
        spans,
        _segments(spans, adapters, dropout_seeds),
        length_buckets(lengths),
        training=training,
        cache=cache,
    )


def pack_step(tokens: Tensor, positions: Tensor, stack: AdapterStack | None, cache: KVCache) -> Pack:
    """One decoding step: a new token (rows,) at `positions` (rows,) for each row of `cache`."""
    return Pack(tokens[None], positions[None], (), (), (), cache=cache, decoding=True, stack=stack)


def _segments(
    spans: tuple[tuple[int, int], ...], adapters: Sequence[Adapter | None], seeds: Sequence[int]
) -> tuple[Segment, ...]:
    runs: list[list[int]] = []
    for i, adapter in enumerate(adapters):
        if adapter is None:
            continue
        if runs and runs[-1][-1] == i - 1 and adapters[i - 1] is adapter:
            runs[-1].append(i)
        else:
            runs.append([i])
    segments = []
    for run in runs:
        adapter = adapters[run[0]]
        assert adapter is not None
        rows = tuple((*spans[i], seeds[i]) for i in run) if seeds else ()
        segments.append(Segment(adapter, spans[run[0]][0], spans[run[-1]][1], rows))
    return tuple(segments)
