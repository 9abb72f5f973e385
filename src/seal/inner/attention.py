"""Attention over a packed stream: no sequence sees another, no mask of size T × T is ever built.

Registered with transformers under the name `seal`, so that any decoder which goes through its attention
interface (Llama, Qwen, Gemma, GPT-2, ...) uses it without a change to the model's code.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from seal.inner import varlen
from seal.inner.packing import Pack
from seal.inner.padding import pad, unpad
from seal.inner.precision import full_dtype

NAME = "seal"
#: Longest sequences whose attention gradient is written out on a CPU in bf16: there the fused kernel's begins
#: to be faster. At 32 tokens it takes three times as long, at 1,024 a quarter.
LONGEST_WRITTEN_OUT = 200


class _CausalBF16(torch.autograd.Function):
    """Causal attention (S, H, L, E) whose backward pass is written out as matrix products.

    The fused CPU kernel's own backward pass takes two to three times as long in bf16 at the lengths of
    self-edits. It is computed in fp32: every new shape of a bf16 product would be compiled first.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        gqa = q.shape[1] != k.shape[1]
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=gqa)
        ctx.save_for_backward(q, k, v, out)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, out = ctx.saved_tensors
        rows, heads, length, features = q.shape
        shared = heads // k.shape[1]  # query heads a key head

        def by_key_head(x: Tensor) -> Tensor:  # (S·K, G·L, E)
            return x.float().reshape(rows * k.shape[1], shared * length, features)

        q2, g2, o2 = by_key_head(q).mul_(ctx.scale), by_key_head(grads[0]), by_key_head(out)
        k2, v2 = (x.float().reshape(-1, length, features) for x in (k, v))
        unseen = torch.full((length, length), -torch.inf, device=q.device).triu_(1).repeat(shared, 1)
        p = torch.baddbmm(unseen, q2, k2.transpose(1, 2)).softmax(dim=-1)  # (S·K, G·L, L)
        # The softmax's gradient takes the mean of grad_p under p from each row, which is g · out.
        grad_s = torch.bmm(g2, v2.transpose(1, 2)).sub_((g2 * o2).sum(dim=-1, keepdim=True)).mul_(p)
        grad_q = torch.bmm(grad_s, k2).mul_(ctx.scale).view_as(q).to(q.dtype)
        grad_k = torch.bmm(grad_s.transpose(1, 2), q2).view_as(k).to(q.dtype)
        grad_v = torch.bmm(p.transpose(1, 2), g2).view_as(v).to(q.dtype)
        return grad_q, grad_k, grad_v, None


def _attend(
    q_SHLE: Tensor, k_SKLE: Tensor, v_SKLE: Tensor, scale: float, window: int | None, softcap: float | None
) -> Tensor:
    """Causal attention of padded rows; pads stand at the end, where causality hides them."""
    length = q_SHLE.shape[2]
    windowed = window is not None and length > window
    if softcap is None and not windowed:
        slow_kernel = q_SHLE.device.type == "cpu" and q_SHLE.dtype == torch.bfloat16
        if slow_kernel and length <= LONGEST_WRITTEN_OUT and torch.is_grad_enabled():
            out: Tensor = _CausalBF16.apply(q_SHLE, k_SKLE, v_SKLE, scale)  # type: ignore[no-untyped-call]
            return out
        gqa = q_SHLE.shape[1] != k_SKLE.shape[1]
        return F.scaled_dot_product_attention(
            q_SHLE, k_SKLE, v_SKLE, is_causal=True, scale=scale, enable_gqa=gqa
        )
    at = torch.arange(length, device=q_SHLE.device)
    seen = at[:, None] >= at[None]
    if windowed:
        assert window is not None
        seen &= at[:, None] - at[None] < window
    return _eager(q_SHLE, k_SKLE, v_SKLE, seen, scale, softcap)


def _eager(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float, softcap: float | None) -> Tensor:
    """Attention with an explicit mask, for what the fused kernels lack (Gemma 2's capped logits)."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    logits = (q @ k.transpose(-1, -2)) * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    logits = logits.masked_fill(~seen, torch.finfo(logits.dtype).min)
    return logits.softmax(dim=-1, dtype=full_dtype(logits.dtype)).to(q.dtype) @ v


def _decode(
    pack: Pack, layer: int, q_1HTE: Tensor, k_1KTE: Tensor, v_1KTE: Tensor, scale: float,
    window: int | None, softcap: float | None,
) -> Tensor:  # fmt: skip
    """One new token a row against the row's cached keys and values; returns (T, H, E)."""
    assert pack.cache is not None
    keys, values = pack.cache.append(layer, k_1KTE[0].transpose(0, 1), v_1KTE[0].transpose(0, 1))
    rows, kv_heads, length, features = keys.shape
    q_RKGE = q_1HTE[0].transpose(0, 1).reshape(rows, kv_heads, -1, features)
    seen = pack.cache.seen(window, length)  # (rows, 1, 1, length)
    if softcap is None:
        out = F.scaled_dot_product_attention(q_RKGE, keys, values, attn_mask=seen, scale=scale)
    else:
        out = _eager(q_RKGE, keys, values, seen, scale, softcap)
    return out.reshape(rows, -1, features)


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: query (1, H, T, E), key and value (1, K, T, E) → (1, T, H, E)."""
    pack: Pack = module.seal_runtime.pack  # type: ignore[union-attr, assignment]
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    layer: int = module.layer_idx  # type: ignore[assignment]
    if pack.decoding:
        return _decode(pack, layer, query, key, value, scale, sliding_window, softcap)[None], None
    q_THE, k_TKE, v_TKE = (x[0].transpose(0, 1) for x in (query, key, value))
    if pack.cache is not None:
        pack.cache.prefill(layer, k_TKE, v_TKE, pack.spans)
    if softcap is None and varlen.usable(query.device, query.dtype, query.shape[-1], sliding_window):
        offsets, longest = pack.offsets()
        return varlen.attend(q_THE, k_TKE, v_TKE, offsets, longest, scale, sliding_window)[None], None
    batches = []
    for rows in pack.padded_rows():
        q, k, v = (pad(x, rows) for x in (q_THE, k_TKE, v_TKE))
        batches.append(_attend(q, k, v, scale, sliding_window, softcap))
    return unpad(pack.padded_rows(), q_THE.shape[0], *batches)[None], None


def register() -> None:
    """Make the attention known to transformers; called by the runtime, harmless to repeat.

    No mask is registered for it: then none is made, and no position is read from the device to make one.
    """
    ALL_ATTENTION_FUNCTIONS.register(NAME, packed_attention)
