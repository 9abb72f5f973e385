"""Small tensors on their way from Python to the device, without waiting for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def on_device(values: Sequence[Any], device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """`values` as a tensor on `device`. `torch.tensor(values, device=...)` would wait for an idle GPU."""
    return torch.tensor(values, dtype=dtype).to(device, non_blocking=True)
