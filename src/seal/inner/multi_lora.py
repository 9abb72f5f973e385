"""Many LoRA adapters over one frozen base, in one forward and backward pass.

LoRA (Hu et al., arXiv 2106.09685, eq. 3): y = W x + (alpha / r) B A x. The base product runs once over the
whole packed stream; each adapter's low-rank product runs over its own tokens. A backward pass writes the
adapters' gradients straight into flat buffers (one a job), so that AdamW sees one tensor an adapter.
Adapter factors and their gradients are fp32, whatever the base's type, as PEFT keeps them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from seal.errors import AdaptError
from seal.inner import attention
from seal.inner.packing import Pack, Segment
from seal.inner.schedule import init_lora
from seal.models.lora import linear_modules, target_modules
from seal.records import LoRARecipe
from seal.seeds import derive


class FrozenLinear:
    """A base layer's product and the gradient of its input; there is no weight gradient.

    On a CPU in bf16 both weight layouts are reordered once for oneDNN; otherwise every call would do it.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._read()

    @property
    def _weight(self) -> Tensor:
        weight: Tensor = self.module.weight  # type: ignore[assignment]
        return weight

    def _read(self) -> None:
        weight = self._weight.detach()
        self._state = _tensor_state(self._weight)
        self.weight_OD = weight.t() if isinstance(self.module, Conv1D) else weight
        self.bias: Tensor | None = self.module.bias  # type: ignore[assignment]
        self.packed: Tensor | None = None
        self.packed_t: Tensor | None = None
        if weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and _onednn_bf16():
            self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight_OD.contiguous())
            self.packed_t = torch.ops.mkldnn._reorder_linear_weight(self.weight_OD.t().contiguous())

        # PEFT merges through `.data`, which leaves no trace in the version: a few numbers tell.
        self._watched = weight.reshape(-1)[:: max(1, weight.numel() // 64)]
        self._before = self._watched.clone()

    def refresh(self) -> None:
        """Read the weight again if somebody wrote to it (an adapter was merged) or replaced it."""
        changed = _tensor_state(self._weight) != self._state
        if changed or (self.packed is not None and not torch.equal(self._watched, self._before)):
            self._read()

    def forward(self, x_TD: Tensor) -> Tensor:
        """(T, D) → (T, O)."""
        if self.packed is None:
            return F.linear(x_TD, self.weight_OD, self.bias)
        return _packed_linear(x_TD, self.packed, self.bias)

    def backward(self, grad_TO: Tensor) -> Tensor:
        """(T, O) → (T, D)."""
        if self.packed_t is None:
            return grad_TO @ self.weight_OD
        return _packed_linear(grad_TO, self.packed_t, None)


def _tensor_state(tensor: Tensor) -> tuple[int, int]:
    return tensor.data_ptr(), tensor._version


def _onednn_bf16() -> bool:
    return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _packed_linear(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), packed, bias, "none", [], "")
    return out


class Adapter:
    """One job's LoRA factors as views of one flat fp32 tensor, and its gradients as views of another.

    `factors[layer]` is (A (R, D), B (O, R)) in PEFT's layout and PEFT's start values; see `init_lora`.
    """

    def __init__(self, runtime: Runtime, recipe: LoRARecipe, seed: int) -> None:
        self.recipe, self.seed = recipe, seed
        self.scale = recipe.alpha / recipe.rank
        self.layers = target_modules(runtime.model, recipe.targets)
        shapes = [runtime.layers[name].shape for name in self.layers]
        self.weights = torch.zeros(sum(recipe.rank * (o + d) for o, d in shapes), device=runtime.device)
        self.factors = self._views(self.weights, shapes)
        for name, (a_RD, _) in self.factors.items():
            a_RD.copy_(init_lora(name, a_RD.shape[1], recipe.rank, seed))
        self._shapes = shapes
        self.grad: Tensor | None = None
        self.grads: dict[str, tuple[Tensor, Tensor]] = {}
        self.accumulate = False
        """Whether the next backward pass adds to the gradients instead of replacing them."""

    def _views(self, flat: Tensor, shapes: Sequence[tuple[int, int]]) -> dict[str, tuple[Tensor, Tensor]]:
        rank, views, at = self.recipe.rank, {}, 0
        for name, (out, features) in zip(self.layers, shapes, strict=True):
            a_RD = flat[at : at + rank * features].view(rank, features)
            at += rank * features
            views[name] = (a_RD, flat[at : at + rank * out].view(out, rank))
            at += rank * out
        return views

    def start_training(self) -> None:
        """Give the adapter gradient buffers."""
        self.grad = torch.zeros_like(self.weights)
        self.grads = self._views(self.grad, self._shapes)

    def stop_training(self) -> None:
        """Free the gradient buffers; only the factors are kept for answering."""
        self.grad, self.grads = None, {}


class AdapterStack:
    """The factors of N adapters side by side, for decoding: layer → (A (N, D, R), B (N, R, O)).

    Ranks may differ: smaller ones are padded with zeros, which add nothing. `groups` holds the row numbers
    of the batch by adapter; rows of no adapter stand last and are the bare base.
    """

    def __init__(self, runtime: Runtime, adapters: Sequence[Adapter]) -> None:
        self.adapters = list(adapters)
        rank = max(a.recipe.rank for a in adapters)
        self.factors: dict[str, tuple[Tensor, Tensor]] = {}
        for name, layer in runtime.layers.items():
            if not any(name in a.factors for a in adapters):
                continue
            out, features = layer.shape
            a_NRD = torch.zeros(len(adapters), rank, features, device=runtime.device)
            b_NOR = torch.zeros(len(adapters), out, rank, device=runtime.device)
            for n, adapter in enumerate(adapters):
                if name in adapter.factors:
                    a_RD, b_OR = adapter.factors[name]
                    a_NRD[n, : a_RD.shape[0]] = a_RD
                    torch.mul(b_OR, adapter.scale, out=b_NOR[n, :, : b_OR.shape[1]])
            self.factors[name] = (a_NRD.transpose(1, 2), b_NOR.transpose(1, 2))
        self.counts: tuple[int, ...] = ()
        self.index: Tensor | None = None
        self.inverse: Tensor | None = None

    def arrange(self, rows: Sequence[Adapter | None]) -> None:
        """Say which adapter each row of the batch uses; rows come sorted by adapter, None last."""
        number = {id(a): n for n, a in enumerate(self.adapters)}
        owners = [number[id(a)] for a in rows if a is not None]
        assert owners == sorted(owners)
        assert all(a is None for a in rows[len(owners) :])
        self.counts = tuple(owners.count(n) for n in range(len(self.adapters)))
        width = max(self.counts)
        device = next(iter(self.factors.values()))[0].device
        self.index = self.inverse = None
        if set(self.counts) != {width}:  # spread rows over (N, width), pads repeat row 0
            at = [n * width + sum(o == n for o in owners[:i]) for i, n in enumerate(owners)]
            index = [0] * (len(self.adapters) * width)
            for row, place in enumerate(at):
                index[place] = row
            self.index = torch.tensor(index, device=device)
            self.inverse = torch.tensor(at, device=device)

    def add_to(self, y_TO: Tensor, x_TD: Tensor, name: str) -> None:
        """Add every row's own low-rank product to `y` in place."""
        if name not in self.factors or not (n_rows := sum(self.counts)):
            return
        a_NDR, b_NRO = self.factors[name]
        x = x_TD[:n_rows] if self.index is None else x_TD[self.index]
        delta = torch.bmm(torch.bmm(x.view(len(self.adapters), -1, x.shape[-1]), a_NDR), b_NRO)
        flat = delta.view(-1, delta.shape[-1])
        y_TO[:n_rows] += flat if self.inverse is None else flat[self.inverse]


class PatchedLayer:
    """A linear layer of the base that also serves the adapters of the current pack."""

    def __init__(self, runtime: Runtime, name: str, module: nn.Module) -> None:
        self.runtime, self.name, self.module = runtime, name, module
        self.base = FrozenLinear(module)
        out, features = self.base.weight_OD.shape
        self.shape = (int(out), int(features))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) → (..., O) for the runtime's current pack."""
        pack = self.runtime.pack
        x_TD = x.reshape(-1, x.shape[-1])
        if pack.training:
            y_TO = _lora_linear(x_TD, self.runtime.anchor, self, pack)
        else:
            y_TO = self.base.forward(x_TD)
            if pack.stack is not None:
                pack.stack.add_to(y_TO, pack.as_float(x_TD), self.name)
            elif pack.segments:
                self._add(y_TO, pack.as_float(x_TD), pack.segments)
        return y_TO.view(*x.shape[:-1], -1)

    def _add(self, y_TO: Tensor, x_TD: Tensor, segments: Sequence[Segment]) -> list[Tensor | None]:
        """Add each segment's low-rank product to `y` in place; returns x A^T of each, (tokens, R)."""
        hidden: list[Tensor | None] = []
        for segment in segments:
            factors = segment.adapter.factors.get(self.name)
            if factors is None:
                hidden.append(None)
                continue
            a_RD, b_OR = factors
            at = slice(segment.start, segment.stop)
            h = x_TD[at] @ a_RD.t()
            y = y_TO[at]
            if y.dtype == torch.float32:
                y.addmm_(h, b_OR.t(), alpha=segment.adapter.scale)
            else:
                y.add_(h @ b_OR.t(), alpha=segment.adapter.scale)
            hidden.append(h)
        return hidden


class _LoRALinear(torch.autograd.Function):
    """Forward and backward of one patched layer over a packed training stream.

    `anchor` is a scalar that requires a gradient: it keeps the layer in the graph where its input does
    not (the first block reads frozen embeddings). Adapter gradients are written, not returned.
    """

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, anchor: Tensor, layer: PatchedLayer, pack: Pack) -> Tensor:
        y_TO = layer.base.forward(x_TD)
        segments = [s for s in pack.segments if layer.name in s.adapter.factors]
        ctx.layer, ctx.segments, ctx.pack = layer, segments, pack
        if not segments:
            ctx.dropped = None
            return y_TO
        x32 = pack.as_float(x_TD)
        ctx.dropped = _dropout_masks(segments, x32, layer.name)
        if ctx.dropped is not None:
            x32 = x32 * ctx.dropped
        ctx.hidden = layer._add(y_TO, x32, segments)
        ctx.save_for_backward(x_TD)
        return y_TO

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None]:
        grad_TO = grads[0]
        layer: PatchedLayer = ctx.layer
        wanted = ctx.needs_input_grad[0]
        grad_TD = layer.base.backward(grad_TO) if wanted else None
        if ctx.segments:
            (x_TD,) = ctx.saved_tensors
            x32 = ctx.pack.as_float(x_TD)
            if ctx.dropped is not None:
                x32 = x32 * ctx.dropped
            grad32 = grad_TO.float()
            for segment, h in zip(ctx.segments, ctx.hidden, strict=True):
                _segment_backward(layer.name, segment, h, x32, grad32, grad_TD, ctx.dropped)
        return grad_TD, None, None, None


# Torch has no types for `Function.apply`.
_lora_linear: Callable[..., Tensor] = _LoRALinear.apply


def _segment_backward(
    name: str, segment: Segment, h: Tensor, x_TD: Tensor, grad_TO: Tensor, grad_TD: Tensor | None,
    mask_TD: Tensor | None,
) -> None:  # fmt: skip
    adapter, at = segment.adapter, slice(segment.start, segment.stop)
    a_RD, b_OR = adapter.factors[name]
    grad_a, grad_b = adapter.grads[name]
    gy = grad_TO[at]
    gh = (gy @ b_OR).mul_(adapter.scale)  # (tokens, R)
    if adapter.accumulate:
        grad_b.addmm_(gy.t(), h, alpha=adapter.scale)
        grad_a.addmm_(gh.t(), x_TD[at])
    else:
        torch.addmm(grad_b, gy.t(), h, beta=0, alpha=adapter.scale, out=grad_b)
        torch.mm(gh.t(), x_TD[at], out=grad_a)
    if grad_TD is None:
        return
    if mask_TD is None and grad_TD.dtype == torch.float32:
        grad_TD[at].addmm_(gh, a_RD)
    else:
        through = gh @ a_RD
        grad_TD[at] += through if mask_TD is None else through * mask_TD[at]


def _dropout_masks(segments: Sequence[Segment], x_TD: Tensor, name: str) -> Tensor | None:
    """Dropout factors (T, D), 0 or 1 / (1 - p), drawn from each row's own seed; None without dropout."""
    if all(s.adapter.recipe.dropout == 0 for s in segments):
        return None
    mask_TD = torch.ones_like(x_TD)
    for segment in segments:
        keep = 1 - segment.adapter.recipe.dropout
        if keep == 1:
            continue
        for start, stop, seed in segment.rows:
            generator = torch.Generator().manual_seed(derive(seed, name))
            draw = torch.rand(stop - start, x_TD.shape[1], generator=generator) < keep
            mask_TD[start:stop] = draw.to(x_TD) / keep
    return mask_TD


class Runtime:
    """A base model whose linear layers and attention can serve a pack of many adapters.

    The model is patched only inside `active()`; outside it is what it was, weights and code.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        attention.register()
        self.model = model
        self.device, self.dtype = model.device, model.dtype
        self.anchor = torch.zeros((), device=self.device, requires_grad=True)
        self.layers = {name: PatchedLayer(self, name, m) for name, m in linear_modules(model).items()}
        head = model.get_output_embeddings()
        self.head = PatchedLayer(self, "", head) if isinstance(head, nn.Linear) else None
        self._attention = [m for m in model.modules() if hasattr(m, "layer_idx") and hasattr(m, "is_causal")]
        self._pack: Pack | None = None

    @classmethod
    def of(cls, model: PreTrainedModel) -> Runtime:
        """The runtime of `model`, made once; training and answering share its reordered weights."""
        if "_seal_runtime_of" not in model.__dict__:
            model.__dict__["_seal_runtime_of"] = cls(model)
        runtime: Runtime = model.__dict__["_seal_runtime_of"]
        return runtime

    @property
    def pack(self) -> Pack:
        """The stream that is going through the model."""
        assert self._pack is not None, "a patched layer ran outside Runtime.forward"
        return self._pack

    @property
    def n_layers(self) -> int:
        """Decoder layers, for the key-value cache."""
        return int(self.model.config.get_text_config().num_hidden_layers)

    @property
    def max_tokens(self) -> int:
        """Longest sequence the model has positions for."""
        return int(getattr(self.model.config.get_text_config(), "max_position_embeddings", 1 << 30))

    def check_tokens(self, ids: Sequence[int]) -> None:
        """Raise `AdaptError` for a token that the model has no embedding for."""
        size = int(self.model.get_input_embeddings().num_embeddings)
        for token in (min(ids), max(ids)):
            if not 0 <= token < size:
                raise AdaptError(
                    f"token {token} is not among the model's {size}", "use the tokenizer of this model"
                )

    @contextmanager
    def active(self) -> Iterator[None]:
        """Patch the model for the time of the block; nothing may be yielded to a caller inside it."""
        config = self.model.config
        was = config._attn_implementation
        config._attn_implementation = attention.NAME
        patched = [*self.layers.values(), *([self.head] if self.head else [])]
        for layer in patched:
            layer.base.refresh()
            layer.module.forward = layer.forward  # type: ignore[method-assign, unused-ignore]
        for module in self._attention:
            module.seal_runtime = self  # type: ignore[assignment, unused-ignore]
        try:
            yield
        finally:
            config._attn_implementation = was
            for layer in patched:
                del layer.module.forward
            for module in self._attention:
                del module.seal_runtime

    def forward(self, pack: Pack, keep: Tensor) -> Tensor:
        """Logits (kept positions, V) of a pack, in the base's type."""
        self._pack = pack
        try:
            out = self.model(
                input_ids=pack.input_ids,
                position_ids=pack.position_ids,
                use_cache=False,
                logits_to_keep=keep,
            )
        finally:
            self._pack = None
        logits: Tensor = out.logits[0]
        return logits
