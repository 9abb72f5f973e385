"""Losses, softmaxes and adapters are fp32 over a half-precision base, and fp64 over an fp64 one.

An fp64 base is no way to train. It gives the numbers that all else is measured against.
"""

from __future__ import annotations

import torch
from torch import Tensor


def full_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type itself, but fp32 at least."""
    return torch.promote_types(dtype, torch.float32)


def in_full(x: Tensor) -> Tensor:
    """`x` in its own type, but fp32 at least."""
    return x.to(full_dtype(x.dtype))
