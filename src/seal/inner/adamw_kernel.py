"""One AdamW step of all slots of a stack in one launch: reads and writes each number once.

`TRITON_INTERPRET=1` runs it on CPU tensors, slowly; `tests/unit/test_optimiser.py` compares it with torch's.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from seal.inner.optimiser import BETA1, BETA2, CLIP_EPS, EPS

#: Numbers that one program takes.
_BLOCK = 2048


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _adamw(  # type: ignore[no-untyped-def]
    weights, grads, means, squares, factors, norms, table, size, stride,
    WRITE: tl.constexpr, BLOCK: tl.constexpr,
    BETA1: tl.constexpr, BETA2: tl.constexpr, EPS: tl.constexpr, CLIP_EPS: tl.constexpr,
):  # fmt: skip
    slot = tl.program_id(1).to(tl.int64)  # a stack has more numbers than 32 bits count
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    own = slot * stride + at
    step_size, decay = tl.load(table + 4 * slot), tl.load(table + 4 * slot + 1)
    root, limit = tl.load(table + 4 * slot + 2), tl.load(table + 4 * slot + 3)
    if limit > 0:
        scale = tl.maximum((tl.load(norms + slot) + CLIP_EPS) / limit, 1.0)
        grad = tl.load(grads + own, mask=inside, other=0.0) / scale
        mean = tl.load(means + own, mask=inside, other=0.0)
        mean += (grad - mean) * (1 - BETA1)
        square = tl.load(squares + own, mask=inside, other=0.0) * BETA2 + grad * grad * (1 - BETA2)
        weight = tl.load(weights + own, mask=inside, other=0.0) * decay
        weight -= step_size * (mean / (tl.sqrt(square) / root + EPS))
        tl.store(means + own, mean, mask=inside)
        tl.store(squares + own, square, mask=inside)
        tl.store(weights + own, weight, mask=inside)
        if WRITE:
            tl.store(factors + own, weight.to(factors.dtype.element_ty), mask=inside)


def launch(
    weights_NP: Tensor, grads_NP: Tensor, means_NP: Tensor, squares_NP: Tensor, factors_NP: Tensor | None,
    norms_N: Tensor, table_N4: Tensor,
) -> None:  # fmt: skip
    """See `seal.inner.optimiser.sweep`. Gradients are left as they are."""
    slots, size = weights_NP.shape
    _adamw[triton.cdiv(size, _BLOCK), slots](
        weights_NP, grads_NP, means_NP, squares_NP,
        weights_NP if factors_NP is None else factors_NP,
        norms_N, table_N4, size, weights_NP.stride(0), factors_NP is not None, _BLOCK,
        BETA1, BETA2, EPS, CLIP_EPS,
    )  # fmt: skip
