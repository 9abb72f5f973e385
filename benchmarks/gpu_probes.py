"""What a GPU's own kernels give beside plain ones: grouped products, attention over uneven sequences."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from seal.inner import varlen

#: Relative error that a bf16 product's rounding may have here.
CLOSE = 0.02


def grouped_products(device: torch.device) -> dict[str, Any]:
    """Grouped products of uneven shares, one of them empty, beside a loop over the groups."""
    counts, width, rank = (70, 0, 30, 156), 512, 32
    total = sum(counts)
    dtype = torch.bfloat16
    x, w, g = (
        torch.randn(shape, device=device).to(dtype)
        for shape in ((total, width), (len(counts), width, rank), (total, rank))
    )
    ends = torch.tensor(counts, device=device).cumsum(0).to(torch.int32)

    def by_group() -> Tensor:
        return torch.cat([a @ b for a, b in zip(x.split(counts), w, strict=True)])

    def outer_by_group() -> Tensor:
        return torch.stack([a.t() @ b for a, b in zip(x.split(counts), g.split(counts), strict=True)])

    return {
        "product": _compare(lambda: F.grouped_mm(x, w, offs=ends), by_group, device),
        "outer product": _compare(lambda: F.grouped_mm(x.t(), g, offs=ends), outer_by_group, device),
    }


def attention(device: torch.device) -> dict[str, Any]:
    """varlen_attn beside a call for each sequence: 8 heads over 2, with and without a window."""
    if not varlen.usable(device, torch.bfloat16, 64, 32):
        return {"usable": False}
    lengths = (40, 7, 90, 64)
    q, k, v = (torch.randn(sum(lengths), heads, 64, device=device).to(torch.bfloat16) for heads in (8, 2, 2))
    offsets = torch.tensor([0, *lengths], device=device).cumsum(0).to(torch.int32)

    def alone(window: int | None) -> Tensor:
        out = []
        for a, b, c in zip(*(x.split(lengths) for x in (q, k, v)), strict=True):
            at = torch.arange(len(a), device=device)
            seen = at[:, None] >= at
            if window is not None:
                seen &= at[:, None] - at < window
            one = (x.transpose(0, 1)[None] for x in (a, b, c))
            found = F.scaled_dot_product_attention(*one, attn_mask=seen, scale=0.1, enable_gqa=True)
            out.append(found[0].transpose(0, 1))
        return torch.cat(out)

    found: dict[str, Any] = {"usable": True}
    for name, window in (("whole", None), ("window of 32", 32)):
        ours: Callable[[], Tensor] = lambda w=window: varlen.attend(q, k, v, offsets, max(lengths), 0.1, w)  # type: ignore[misc]  # noqa: E731
        found[name] = _compare(ours, lambda w=window: alone(w), device)  # type: ignore[misc]
    return found


def _compare(ours: Callable[[], Tensor], plain: Callable[[], Tensor], device: torch.device) -> dict[str, Any]:
    a, b = ours().float(), plain().float()
    error = float((a - b).norm() / b.norm())
    return {"error": error, "equal": error < CLOSE, "ms": _ms(ours, device), "plain ms": _ms(plain, device)}


def _ms(work: Callable[[], Tensor], device: torch.device, rounds: int = 10) -> float:
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    for _ in range(rounds):
        work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - started) / rounds * 1e3
