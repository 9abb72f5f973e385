"""Dropout whose masks are the same numbers on every device, for a whole stream at once.

A mask's bit is a hash of its row's seed, its layer, its token and its feature. Nothing is drawn in sequence,
so it does not matter where or beside what else it is computed. On the host the masks of one pass through a 7B
model would take seconds to draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from seal.inner.counter import mixed, signed
from seal.inner.transfer import on_device
from seal.seeds import derive


@dataclass(frozen=True, slots=True)
class Dropout:
    """Seed and probability of every token of a stream."""

    keys_T1: Tensor
    counters_T1: Tensor
    """Of each token in its own sequence."""
    highest_T1: Tensor
    """A hash up to this one is kept."""
    scale_T1: Tensor
    """1 / (1 - p)."""

    @classmethod
    def of(cls, rows: Sequence[tuple[int, float]], lengths: Sequence[int], device: torch.device) -> Dropout:
        """For sequences with these seeds and probabilities."""
        keys = [key for (seed, _), n in zip(rows, lengths, strict=True) for key in [signed(seed)] * n]
        highest = [
            bound
            for (_, p), n in zip(rows, lengths, strict=True)
            for bound in [min(round((1 - p) * 2**32), 2**32 - 1) - 2**31] * n
        ]
        scale = [x for (_, p), n in zip(rows, lengths, strict=True) for x in [1 / (1 - p)] * n]
        at = [i for n in lengths for i in range(n)]
        ints = on_device([keys, at, highest], device, torch.int32)[:, :, None]
        return cls(ints[0], ints[1], ints[2], on_device(scale, device, torch.float32)[:, None])

    def mask(self, layer: str, start: int, stop: int, features: int, dtype: torch.dtype) -> Tensor:
        """Factors (tokens, D), 0 or 1 / (1 - p), of the tokens `[start, stop)` at one layer."""
        own = slice(start, stop)
        at = torch.arange(features, dtype=torch.int32, device=self.keys_T1.device)
        x = mixed(self.counters_T1[own] * features + at, self.keys_T1[own] ^ _layer_key(layer))
        return (x <= self.highest_T1[own]).to(dtype).mul_(self.scale_T1[own].to(dtype))


@cache
def _layer_key(name: str) -> int:
    return signed(derive(0, "dropout", name))
