"""Many LoRA adapters over one frozen base, in one forward and backward pass.

LoRA (Hu et al., arXiv 2106.09685, eq. 3): y = W x + (alpha / r) B A x. The base product runs once over the
whole packed stream; each adapter's low-rank product runs over its own tokens. Layers that read the same
input (q, k and v; gate and up) go together. A backward pass writes the adapters' gradients straight into
flat buffers, one a job, so that AdamW sees one tensor an adapter. Adapter factors and their gradients are
fp32, whatever the base's type, as PEFT keeps them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from seal.inner.adapter import GroupFactors
from seal.inner.frozen import FrozenLinears
from seal.inner.packing import Pack, Segment
from seal.seeds import derive

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
            if pack.stack is not None:
                pack.stack.add_to(y_TO, pack.as_float(x_TD), self.index, self.base.sizes)
            elif segments := self.segments(pack):
                self.add(y_TO, pack.as_float(x_TD), segments, [None] * len(segments))
            outs = y_TO.split(self.base.sizes, dim=-1)
        return [out.view(*x.shape[:-1], -1) for out in outs]

    def segments(self, pack: Pack) -> list[Segment]:
        """The segments whose adapters target a layer of this group."""
        return [s for s in pack.segments if self.index in s.adapter.groups]

    def add(
        self,
        y_TO: Tensor,
        x_TD: Tensor,
        segments: Sequence[Segment],
        masks: Sequence[Sequence[Tensor] | None],
    ) -> list[Tensor]:
        """Add the segments' low-rank products to `y` in place; returns each one's x A^T, (tokens, M·R)."""
        sums_TO = y_TO if y_TO.dtype == torch.float32 else self._fp32_sums(y_TO, segments)
        hidden = []
        for segment, own_masks in zip(segments, masks, strict=True):
            adapter, at = segment.adapter, slice(segment.start, segment.stop)
            factors, rank = adapter.groups[self.index], adapter.recipe.rank
            if own_masks is None:
                hidden.append(x_TD[at] @ factors.a.t())
            else:
                parts = zip(factors.a.split(rank), own_masks, strict=True)
                hidden.append(torch.cat([(x_TD[at] * mask) @ a_RD.t() for a_RD, mask in parts], dim=-1))
            columns = sums_TO[at].split(self.base.sizes, dim=-1)
            beta = 1 if sums_TO is y_TO else 0
            for member, h, b_OR in zip(
                factors.members, hidden[-1].split(rank, dim=-1), factors.b, strict=True
            ):
                out = columns[member]
                torch.addmm(out, h, b_OR.t(), beta=beta, alpha=adapter.scale, out=out)
        if sums_TO is not y_TO:
            y_TO.add_(sums_TO)
        return hidden

    def _fp32_sums(self, y_TO: Tensor, segments: Sequence[Segment]) -> Tensor:
        """Where the low-rank products gather before they are added to a bf16 output in one step."""
        whole = len(self.names) == min(len(s.adapter.groups[self.index].members) for s in segments)
        covered = sum(s.stop - s.start for s in segments) == y_TO.shape[0]
        make = torch.empty if whole and covered else torch.zeros
        return make(y_TO.shape, device=y_TO.device)

    def dropout_masks(self, segment: Segment) -> list[Tensor] | None:
        """One factor (tokens, D), 0 or 1 / (1 - p), a targeted member; None without dropout.

        Each row's draw depends on its own seed and the layer's name alone.
        """
        keep = 1 - segment.adapter.recipe.dropout
        if keep == 1:
            return None
        masks = []
        for member in segment.adapter.groups[self.index].members:
            draws = []
            for start, stop, seed in segment.rows:
                generator = torch.Generator().manual_seed(derive(seed, self.names[member]))
                draws.append(torch.rand(stop - start, self.base.features, generator=generator) < keep)
            masks.append(torch.cat(draws).to(self.runtime.device, torch.float32) / keep)
        return masks


class _LoRALinears(torch.autograd.Function):
    """Forward and backward of one group over a packed training stream.

    `anchor` is a scalar that requires a gradient: it keeps the group in the graph where its input does
    not (the first block reads frozen embeddings). Adapter gradients are written, not returned.
    """

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, anchor: Tensor, group: LayerGroup, pack: Pack) -> tuple[Tensor, ...]:
        y_TO = group.base.forward(x_TD)
        ctx.group, ctx.pack, ctx.segments = group, pack, group.segments(pack)
        if ctx.segments:
            x32 = pack.as_float(x_TD)
            ctx.masks = [group.dropout_masks(s) for s in ctx.segments]
            ctx.hidden = group.add(y_TO, x32, ctx.segments, ctx.masks)
            ctx.save_for_backward(x32)
        outs: tuple[Tensor, ...] = y_TO.split(group.base.sizes, dim=-1)
        return outs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None]:
        group: LayerGroup = ctx.group
        grad_TO = torch.cat(grads, dim=-1) if len(grads) > 1 else grads[0]
        grad_TD = group.base.backward(grad_TO) if ctx.needs_input_grad[0] else None
        if ctx.segments:
            (x32,) = ctx.saved_tensors
            grad32, through_TD = grad_TO.float(), grad_TD
            if grad_TD is not None and grad_TD.dtype != torch.float32:
                through_TD = torch.zeros_like(grad_TD, dtype=torch.float32)
            for segment, hidden, masks in zip(ctx.segments, ctx.hidden, ctx.masks, strict=True):
                _segment_backward(group, segment, hidden, masks, x32, grad32, through_TD)
            if grad_TD is not None and through_TD is not None and through_TD is not grad_TD:
                grad_TD.add_(through_TD)
        return grad_TD, None, None, None


def _segment_backward(
    group: LayerGroup, segment: Segment, hidden: Tensor, masks: list[Tensor] | None, x_TD: Tensor,
    grad_TO: Tensor, grad_TD: Tensor | None,
) -> None:  # fmt: skip
    """Write the gradients of one segment's factors and add its share to the gradient of the input."""
    adapter, rank = segment.adapter, segment.adapter.recipe.rank
    factors, grads = adapter.groups[group.index], adapter.grads[group.index]
    at = slice(segment.start, segment.stop)
    columns = grad_TO[at].split(group.base.sizes, dim=-1)
    grad_hidden = torch.empty_like(hidden)  # (tokens, M·R)
    hidden_parts, grad_parts = hidden.split(rank, dim=-1), grad_hidden.split(rank, dim=-1)
    for i, member in enumerate(factors.members):
        torch.mm(columns[member], factors.b[i], out=grad_parts[i])
        _write(grads.b[i], columns[member].t(), hidden_parts[i], adapter.scale, adapter.accumulate)
    grad_hidden.mul_(adapter.scale)
    if masks is None:
        _write(grads.a, grad_hidden.t(), x_TD[at], 1.0, adapter.accumulate)
        if grad_TD is not None:
            grad_TD[at].addmm_(grad_hidden, factors.a)
        return
    _masked_backward(factors, grads, grad_parts, masks, x_TD[at], rank, adapter.accumulate, grad_TD, at)


def _masked_backward(
    factors: GroupFactors, grads: GroupFactors, grad_parts: Sequence[Tensor], masks: Sequence[Tensor],
    x_TD: Tensor, rank: int, accumulate: bool, grad_TD: Tensor | None, at: slice,
) -> None:  # fmt: skip
    parts = zip(factors.a.split(rank), grads.a.split(rank), grad_parts, masks, strict=True)
    for a_RD, grad_a, grad_h, mask in parts:
        _write(grad_a, grad_h.t(), x_TD * mask, 1.0, accumulate)
        if grad_TD is not None:
            grad_TD[at] += (grad_h @ a_RD) * mask


def _write(out: Tensor, left: Tensor, right: Tensor, scale: float, accumulate: bool) -> None:
    """out = scale · left @ right, or out += ..."""
    if accumulate:
        out.addmm_(left, right, alpha=scale)
    else:
        torch.addmm(out, left, right, beta=0, alpha=scale, out=out)
