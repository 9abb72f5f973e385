"""The base's own products: frozen linear layers that read the same input go as one where it pays."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from seal.models.quantise import dequantised, is_quantised, layer_shape


class FrozenLinears:
    """Linear layers of one input (q, k and v; gate and up): their outputs side by side, no weight gradient.

    On a CPU in bf16 the weights are put side by side and reordered once for oneDNN, in both directions;
    otherwise every call would reorder them again. Elsewhere the layers' own weights are used, uncopied.
    Quantised layers compute as their package does; in the backward pass their weights are numbers again.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.modules = tuple(modules)
        shapes = [layer_shape(module) for module in modules]
        self.sizes = tuple(outputs for outputs, _ in shapes)
        self.features = shapes[0][1]
        self.quantised = any(is_quantised(module) for module in modules)
        self._read()

    def _read(self) -> None:
        self._packed: tuple[Tensor, Tensor] | None = None
        if self.quantised:
            return
        raw = [m.weight.detach() for m in self.modules]  # type: ignore[union-attr, operator, unused-ignore]
        self._state = [_state(m) for m in self.modules]
        self.weights: list[Tensor] = [
            w.t() if isinstance(m, Conv1D) else w for m, w in zip(self.modules, raw, strict=True)
        ]
        self.biases: list[Tensor | None] = [m.bias for m in self.modules]  # type: ignore[misc]
        self._bias: Tensor | None = None
        if raw[0].device.type == "cpu" and raw[0].dtype == torch.bfloat16 and _onednn_bf16():
            weight_OD = torch.cat(self.weights) if len(raw) > 1 else self.weights[0].contiguous()
            reorder = torch.ops.mkldnn._reorder_linear_weight
            self._packed = (reorder(weight_OD), reorder(weight_OD.t().contiguous()))
            if any(b is not None for b in self.biases):
                segments = [
                    w.new_zeros(w.shape[0]) if b is None else b.detach()
                    for w, b in zip(self.weights, self.biases, strict=True)
                ]
                self._bias = torch.cat(segments)

    def refresh(self) -> None:
        """Read the weights again if somebody wrote to one (an adapter was merged) or replaced it."""
        if not self.quantised and any(_changed(m, s) for m, s in zip(self.modules, self._state, strict=True)):
            self._read()

    def forward(self, x_TD: Tensor) -> Tensor:
        """(T, D) → (T, O), the layers' outputs side by side."""
        if self.quantised:
            own = [type(module).forward(module, x_TD) for module in self.modules]
            return torch.cat(own, dim=-1) if len(own) > 1 else own[0]
        if self._packed is not None:
            return _packed_linear(x_TD, self._packed[0], self._bias)
        outs = [F.linear(x_TD, w, b) for w, b in zip(self.weights, self.biases, strict=True)]
        return torch.cat(outs, dim=-1) if len(outs) > 1 else outs[0]

    def backward(self, grad_TO: Tensor) -> Tensor:
        """Gradient of the input: (T, O) → (T, D)."""
        if self._packed is not None:
            return _packed_linear(grad_TO, self._packed[1], None)
        segments = grad_TO.split(self.sizes, dim=-1)
        weights = [dequantised(m).to(grad_TO.dtype) for m in self.modules] if self.quantised else self.weights
        grad_TD: Tensor = segments[0] @ weights[0]
        for segment, weight in zip(segments[1:], weights[1:], strict=True):
            grad_TD.addmm_(segment, weight)
        return grad_TD


def _state(module: nn.Module) -> tuple[int, int, Tensor | None]:
    """What tells that a weight was written to. PEFT merges through `.data`, which only the values betray.

    Off the CPU nothing is copied of a weight, so new values are seen anyway, and comparing would wait for the
    device.
    """
    weight: Tensor = module.weight  # type: ignore[assignment]
    sample = _sample(weight).clone() if weight.device.type == "cpu" else None
    return weight.data_ptr(), weight._version, sample


def _changed(module: nn.Module, state: tuple[int, int, Tensor | None]) -> bool:
    weight: Tensor = module.weight  # type: ignore[assignment]
    pointer, version, sample = state
    if (weight.data_ptr(), weight._version) != (pointer, version):
        return True
    return sample is not None and not torch.equal(_sample(weight), sample)


def _sample(weight: Tensor) -> Tensor:
    return weight.detach().view(-1)[:: max(1, weight.numel() // 64)]


def _onednn_bf16() -> bool:
    return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _packed_linear(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), packed, bias, "none", [], "")
    return out
