"""Sequences of a packed stream as the rows of a padded batch, and back: one indexing call for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seal.inner.transfer import on_device


@dataclass(frozen=True, slots=True)
class PaddedRows:
    """Where the tokens of S sequences stand in a stream and in a batch (S, L), L the longest's length.

    A pad holds its own sequence's last token again. Pads stand at the end, where causality hides them.
    """

    shape: tuple[int, int]
    source: Tensor  # (S·L,): the token of the stream at each place of the batch
    tokens: Tensor  # (n,): the sequences' tokens in the stream
    places: Tensor  # (n,): and in the batch

    @classmethod
    def of(cls, spans: Sequence[tuple[int, int]], device: torch.device, spare: int = 0) -> PaddedRows:
        """Rows for the sequences at `spans`, each with `spare` more places than the longest needs."""
        length = max(stop - start for start, stop in spans) + spare
        starts, stops = zip(*spans, strict=True)
        at = torch.arange(length, device=device)
        begins, ends = (on_device(x, device)[:, None] for x in (starts, stops))
        places = [
            row * length + i for row, (start, stop) in enumerate(spans) for i in range(stop - start)
        ]  # fmt: skip
        return cls(
            (len(spans), length),
            torch.minimum(begins + at, ends - 1).flatten(),
            on_device([i for start, stop in spans for i in range(start, stop)], device),
            on_device(places, device),
        )

    def spread(self, x_THE: Tensor) -> Tensor:
        """(T, H, E) → (S, H, L, E)."""
        batch: Tensor = x_THE.index_select(0, self.source).unflatten(0, self.shape)
        return batch.transpose(1, 2)


class _Pad(torch.autograd.Function):
    """A stream (T, H, E) as a batch (S, H, L, E)."""

    @staticmethod
    def forward(ctx: Any, x_THE: Tensor, rows: PaddedRows) -> Tensor:
        ctx.rows, ctx.n_tokens = rows, x_THE.shape[0]
        return rows.spread(x_THE)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        own = grads[0].transpose(1, 2).flatten(0, 1).index_select(0, ctx.rows.places)
        return _scatter((ctx.rows,), (own,), ctx.n_tokens), None


class _Unpad(torch.autograd.Function):
    """Padded batches back into one stream (T, H, E). Tokens of no sequence are 0."""

    @staticmethod
    def forward(ctx: Any, rows: tuple[PaddedRows, ...], n_tokens: int, *batches: Tensor) -> Tensor:
        ctx.rows = rows
        flat = [b.transpose(1, 2).flatten(0, 1) for b in batches]
        return _scatter(
            rows, [x.index_select(0, r.places) for x, r in zip(flat, rows, strict=True)], n_tokens
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        out = []
        for rows in ctx.rows:
            batch = grads[0].new_zeros(rows.source.shape[0], *grads[0].shape[1:])
            batch.index_copy_(0, rows.places, grads[0].index_select(0, rows.tokens))
            out.append(batch.unflatten(0, rows.shape).transpose(1, 2))
        return None, None, *out


def _scatter(rows: Sequence[PaddedRows], parts: Sequence[Tensor], n_tokens: int) -> Tensor:
    """A stream whose tokens at `rows` are `parts` (n, H, E), and 0 elsewhere."""
    covered = sum(len(part) for part in parts) == n_tokens
    new = parts[0].new_empty if covered else parts[0].new_zeros
    out = new(n_tokens, *parts[0].shape[1:])
    for r, part in zip(rows, parts, strict=True):
        out.index_copy_(0, r.tokens, part)
    return out


# Torch has no types for `Function.apply`.
pad: Callable[[Tensor, PaddedRows], Tensor] = _Pad.apply
unpad: Callable[..., Tensor] = _Unpad.apply
