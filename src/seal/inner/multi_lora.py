"""Many LoRA adapters over one frozen base, in one forward and backward pass.

LoRA (Hu et al., arXiv 2106.09685, eq. 3): y = W x + (alpha / r) B A x. The base product runs once over the
whole packed stream; the adapters' low-rank products run together, each over its own tokens. Layers that read
the same input (q, k and v; gate and up) go together. A backward pass writes the adapters' gradients into flat
buffers, one a job, so that AdamW sees one tensor an adapter. What AdamW steps is fp32, as PEFT keeps it (fp64
over an fp64 base).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from seal.inner.frozen import FrozenLinears
from seal.inner.packing import Pack
from seal.inner.stack import Segment

if TYPE_CHECKING:
    from seal.inner.runtime import Runtime

#: Names of sibling layers that read the same input, in the families that keep them apart.
SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


class LayerGroup:
    """Linear layers of one parent that are called with the same input, served as one.

    The first member that is called with an input computes the outputs of all; the others take theirs.
    """

    def __init__(self, runtime: Runtime, index: int, named: Sequence[tuple[str, nn.Module]]) -> None:
        self.runtime, self.index = runtime, index
        self.names = tuple(name for name, _ in named)
        self.base = FrozenLinears([module for _, module in named])
        self._input: Tensor | None = None
        self._outputs: list[Tensor | None] = []

    def patch(self) -> None:
        """Put this group in the place of its modules' own forward methods."""
        self.base.refresh()
        for member, module in enumerate(self.base.modules):
            module.forward = self._caller(member)  # type: ignore[method-assign, unused-ignore]

    def unpatch(self) -> None:
        """Give the modules their own forward methods back."""
        self._input, self._outputs = None, []
        for module in self.base.modules:
            del module.forward

    def _caller(self, member: int) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            if self._input is not x or self._outputs[member] is None:
                self._input, self._outputs = x, list(self._run(x))
            out = self._outputs[member]
            self._outputs[member] = None
            if all(o is None for o in self._outputs):
                self._input = None
            assert out is not None
            return out

        return forward

    def _run(self, x: Tensor) -> Sequence[Tensor]:
        """(..., D) → one (..., O) a member, for the runtime's current pack."""
        pack = self.runtime.pack
        x_TD = x.reshape(-1, x.shape[-1])
        if pack.training:
            outs: Sequence[Tensor] = _LoRALinears.apply(  # type: ignore[no-untyped-call]
                x_TD, self.runtime.anchor, self, pack
            )
        else:
            y_TO = self.base.forward(x_TD)
            for segment in self.segments(pack):
                self.add(y_TO, x_TD, segment, None)
            outs = y_TO.split(self.base.sizes, dim=-1)
        return [out.view(*x.shape[:-1], -1) for out in outs]

    def segments(self, pack: Pack) -> list[Segment]:
        """The parts whose adapters target a layer of this group."""
        return [segment for segment in pack.segments if self.index in segment.factors]

    def add(self, y_TO: Tensor, x_TD: Tensor, segment: Segment, masks: Sequence[Tensor] | None) -> Tensor:
        """Add a part's low-rank products to `y` in place; returns its scaled x A^T, (tokens, M·R)."""
        factors, own = segment.factors[self.index], segment.offsets
        a_NDR, rank = factors.a.transpose(1, 2), factors.b[0].shape[1]
        x = x_TD[segment.start : segment.stop].to(a_NDR.dtype)
        if masks is None:
            hidden = own.matmul(x, a_NDR)
        else:
            products = zip(a_NDR.split(rank, dim=-1), masks, strict=True)
            hidden = torch.cat([own.matmul(x * mask, a) for a, mask in products], dim=-1)
        hidden.mul_(segment.scale)
        columns = y_TO[segment.start : segment.stop].split(self.base.sizes, dim=-1)
        for member, h, b_NRO in zip(factors.members, hidden.split(rank, dim=-1), factors.b, strict=True):
            columns[member].add_(own.matmul(h, b_NRO).to(y_TO.dtype))
        return hidden

    def dropout_masks(self, pack: Pack, segment: Segment) -> list[Tensor] | None:
        """One factor (tokens, D), 0 or 1 / (1 - p), a targeted member; None without dropout.

        Each row's draw depends on its own seed and the layer's name alone.
        """
        if pack.dropout is None:
            return None
        factors, own, width = segment.factors[self.index], (segment.start, segment.stop), self.base.features
        dtype = factors.a.dtype
        return [pack.dropout.mask(self.names[m], *own, width, dtype) for m in factors.members]


class _LoRALinears(torch.autograd.Function):
    """Forward and backward of one group over a packed training stream.

    `anchor` is a scalar that requires a gradient: it keeps the group in the graph where its input does
    not (the first block reads frozen embeddings). Adapter gradients are written, not returned.
    """

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, anchor: Tensor, group: LayerGroup, pack: Pack) -> tuple[Tensor, ...]:
        y_TO = group.base.forward(x_TD)
        ctx.group, ctx.pack, ctx.segments = group, pack, group.segments(pack)
        ctx.masks = [group.dropout_masks(pack, segment) for segment in ctx.segments]
        hidden = [
            group.add(y_TO, x_TD, segment, m) for segment, m in zip(ctx.segments, ctx.masks, strict=True)
        ]
        ctx.save_for_backward(x_TD, *hidden)
        outs: tuple[Tensor, ...] = y_TO.split(group.base.sizes, dim=-1)
        return outs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None]:
        group: LayerGroup = ctx.group
        grad_TO = torch.cat(grads, dim=-1) if len(grads) > 1 else grads[0]
        grad_TD = group.base.backward(grad_TO) if ctx.needs_input_grad[0] else None
        x_TD, *hidden = ctx.saved_tensors
        for segment, h, masks in zip(ctx.segments, hidden, ctx.masks, strict=True):
            _part_backward(group, segment, h, masks, x_TD, grad_TO, grad_TD, ctx.pack.accumulate)
        return grad_TD, None, None, None


def _part_backward(
    group: LayerGroup, segment: Segment, hidden: Tensor, masks: list[Tensor] | None, x_TD: Tensor,
    grad_TO: Tensor, grad_TD: Tensor | None, accumulate: bool,
) -> None:  # fmt: skip
    """Write the gradients of one part's factors and add its share to the gradient of the input."""
    factors, grads, own = segment.factors[group.index], segment.grads[group.index], segment.offsets
    at, rank = slice(segment.start, segment.stop), factors.b[0].shape[1]
    columns = grad_TO[at].to(factors.a.dtype).split(group.base.sizes, dim=-1)
    through = []
    hiddens = hidden.split(rank, dim=-1)
    for member, h, b_NRO, grad_b in zip(factors.members, hiddens, factors.b, grads.b, strict=True):
        own.outer_product(h, columns[member], grad_b, accumulate)
        through.append(own.matmul(columns[member], b_NRO.transpose(1, 2)))
    grad_hidden = torch.cat(through, dim=-1) if len(through) > 1 else through[0]
    grad_hidden.mul_(segment.scale)  # (tokens, M·R)
    x = x_TD[at].to(factors.a.dtype)
    if masks is None:
        own.outer_product(grad_hidden, x, grads.a, accumulate)
        if grad_TD is not None:
            grad_TD[at].add_(own.matmul(grad_hidden, factors.a).to(grad_TD.dtype))
        return
    pieces = (
        grad_hidden.split(rank, dim=-1),
        factors.a.split(rank, dim=1),
        grads.a.split(rank, dim=1),
        masks,
    )
    for g, a_NRD, grad_a, mask in zip(*pieces, strict=True):
        own.outer_product(g, x * mask, grad_a, accumulate)
        if grad_TD is not None:
            grad_TD[at].add_((own.matmul(g, a_NRD) * mask).to(grad_TD.dtype))
