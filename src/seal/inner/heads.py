"""The model's head in training: losses at chosen positions and their gradients by what the decoder gave."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from seal.inner.precision import in_full
from seal.inner.runtime import Runtime

#: Logits that are computed at once. On a CPU they stay in blocks that the process keeps, see `memory`.
_LOGITS_ON_CPU, _LOGITS_ELSEWHERE = 7_000_000, 1 << 25


def cross_entropy(
    runtime: Runtime, hidden_KD: Tensor, targets_K: Tensor, weights_K: Tensor
) -> tuple[Tensor, Tensor]:
    """Every labelled position's weighted loss (K,), and the loss's gradient by `hidden_KD`.

    In pieces: the logits of a whole pass would be far larger than all else in it. The gradient by the logits,
    softmax - one-hot, is made of the loss's own log-probabilities.
    """

    def score(log_p_KV: Tensor, targets_K: Tensor) -> tuple[Tensor, Tensor]:
        targets_K1 = targets_K[:, None]
        losses_K1 = -log_p_KV.gather(1, targets_K1)
        return losses_K1, log_p_KV.exp_().scatter_add_(1, targets_K1, -torch.ones_like(losses_K1))

    return _in_pieces(runtime, _rows_at_once(runtime), hidden_KD, targets_K, weights_K, score)


def divergence(
    runtime: Runtime, hidden_KD: Tensor, frozen_KD: Tensor, weights_K: Tensor
) -> tuple[Tensor, Tensor]:
    """The same, of the KL divergence from what the head makes of `frozen_KD`.

    The gradient of KL(p || q) by the logits of q is q - p.
    """

    def score(log_q_KV: Tensor, frozen_KD: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            log_p_KV = in_full(runtime.logits(frozen_KD)).log_softmax(dim=-1)
        p_KV = log_p_KV.exp()
        losses_K1 = (p_KV * (log_p_KV - log_q_KV)).sum(dim=-1, keepdim=True)
        return losses_K1, log_q_KV.exp_().sub_(p_KV)

    rows = max(1, _rows_at_once(runtime) // 2)  # there are two of everything
    return _in_pieces(runtime, rows, hidden_KD, frozen_KD, weights_K, score)


def _in_pieces(
    runtime: Runtime, rows: int, hidden_KD: Tensor, given: Tensor, weights_K: Tensor,
    score: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Weighted losses (K,) and their gradient by `hidden_KD`, `rows` positions at once.

    `score` makes of log-probabilities (which it may use up) and of what is `given` the losses (rows, 1) and
    their gradient by the logits.
    """
    losses, grads = [], []
    chunks = (x.split(rows) for x in (hidden_KD, given, weights_K[:, None]))
    for hidden_KD, own, weights_K1 in zip(*chunks, strict=True):
        with torch.enable_grad():
            logits_KV = runtime.logits(hidden_KD.requires_grad_())
        losses_K1, by_logits_KV = score(in_full(logits_KV.detach()).log_softmax(dim=-1), own)
        losses.append((losses_K1 * weights_K1)[:, 0])
        (grad_KD,) = torch.autograd.grad(logits_KV, hidden_KD, by_logits_KV.to(logits_KV.dtype))
        grads.append(grad_KD * weights_K1.to(grad_KD.dtype))
    return torch.cat(losses), torch.cat(grads)


def _rows_at_once(runtime: Runtime) -> int:
    """Positions whose logits are computed at once."""
    most = _LOGITS_ON_CPU if runtime.device.type == "cpu" else _LOGITS_ELSEWHERE
    return max(1, most // runtime.vocabulary)
