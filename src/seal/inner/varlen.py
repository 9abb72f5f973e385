"""Attention over sequences of any lengths in one call a layer: torch's own kernel for half precision on CUDA.

`torch.nn.attention.varlen.varlen_attn` differs between releases: 2.10 knows `is_causal`, later ones a window,
a scale and grouped heads. What a release lacks is done here, or the caller pads.
"""

from __future__ import annotations

import inspect
import logging
from functools import cache
from typing import Any

import torch
from torch import Tensor

from seal.inner.transfer import on_device

log = logging.getLogger(__name__)


@cache
def _kernel() -> tuple[Any, frozenset[str]]:
    """The function, and the names of what it takes."""
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn, frozenset(inspect.signature(varlen_attn).parameters)


def usable(device: torch.device, dtype: torch.dtype, features: int, window: int | None) -> bool:
    """Whether heads of so many features can go through the kernel on `device` (`meta` stands for CUDA)."""
    if device.type not in ("cuda", "meta") or dtype not in (torch.bfloat16, torch.float16):
        return False
    if features % 8 or features > 256 or (window is not None and "window_size" not in _kernel()[1]):
        return False
    return device.type == "meta" or _runs(device, dtype, features)


@cache
def _runs(device: torch.device, dtype: torch.dtype, features: int) -> bool:
    """Whether the kernel takes one small sequence there, with two query heads a key head, and back."""
    q = torch.zeros(2, 2, features, device=device, dtype=dtype, requires_grad=True)
    offsets = on_device([0, 2], device, torch.int32)
    try:
        with torch.enable_grad():
            attend(q, q[:, :1], q[:, 1:], offsets, 2, 1.0, None).sum().backward()
    except (ImportError, RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        log.warning("attention is padded here, since torch's varlen_attn does not run: %s", error)
        return False
    return True


def attend(
    q_THE: Tensor, k_TKE: Tensor, v_TKE: Tensor, offsets: Tensor, longest: int, scale: float,
    window: int | None,
) -> Tensor:  # fmt: skip
    """Causal attention within each sequence, (T, H, E).

    Args:
        offsets: where the sequences begin, and the end of the last, (S + 1,) int32.
        longest: tokens of the longest.
        scale: of the logits.
        window: tokens that a token sees, itself included; None: all before it.
    """
    kernel, names = _kernel()
    options: dict[str, Any] = {}
    if "window_size" in names:
        options["window_size"] = (-1 if window is None else window - 1, 0)
    else:
        options["is_causal"] = True
    if "scale" in names:
        options["scale"] = scale
    else:
        q_THE = q_THE * (scale * q_THE.shape[-1] ** 0.5)
    groups = q_THE.shape[1] // k_TKE.shape[1]
    if groups > 1 and "enable_gqa" in names:
        options["enable_gqa"] = True
    elif groups > 1:
        k_TKE, v_TKE = (x.repeat_interleave(groups, dim=1) for x in (k_TKE, v_TKE))
    out: Tensor = kernel(q_THE, k_TKE, v_TKE, offsets, offsets, longest, longest, **options)
    return out
