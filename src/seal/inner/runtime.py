"""A base model made ready to serve a pack of many adapters, and put back as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from seal.errors import AdaptError
from seal.inner import attention
from seal.inner.adapter import SlotLayout
from seal.inner.memory import keep_freed_memory
from seal.inner.multi_lora import SIBLINGS, LayerGroup
from seal.inner.packing import Pack
from seal.inner.precision import full_dtype
from seal.inner.recorded import Recordings
from seal.models.lora import linear_modules
from seal.models.window import window


class Runtime:
    """A base model whose linear layers and attention can serve a pack of many adapters.

    The model is patched only inside `active()`; outside it is what it was, weights and code.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        attention.register()
        self.model = model
        self.device, self.dtype = model.device, model.dtype
        on_cpu = self.device.type == "cpu"
        if on_cpu:
            keep_freed_memory()
        self.state_dtype = full_dtype(self.dtype)
        """Of what an optimiser steps: adapters and their gradients."""
        self.factor_dtype = self.state_dtype if on_cpu else self.dtype
        """Of the adapters' products. On a CPU small products are no faster in bf16, and every new shape is
        compiled first, which takes longer than a hundred products."""
        self.pass_multiple = 32 if on_cpu and self.dtype == torch.bfloat16 else 1
        """Passes are filled up to a multiple of so many tokens, so that the base's products have few shapes;
        each is compiled once."""
        self.anchor = torch.zeros((), device=self.device, requires_grad=True)
        named = _sibling_groups(linear_modules(model))
        self.groups = [LayerGroup(self, index, group) for index, group in enumerate(named)]
        self.layers = {name for group in self.groups for name in group.names}
        """Full names of the layers that can be adapted."""
        self.layouts: dict[tuple[int, tuple[str, ...]], SlotLayout] = {}
        """By rank and layers, see `layout_of`."""
        self.targets: dict[tuple[str, ...], tuple[str, ...]] = {}
        """Full names of the layers that a config's targets mean, once they were looked up."""
        self.max_tokens = window(model) or 1 << 30
        """Longest sequence the model has positions for."""
        self._decoder: nn.Module = model.get_decoder()
        self._decoder_output: Callable[..., Any] = dict
        head = model.get_output_embeddings()
        self._head = [LayerGroup(self, -1, [("", head)])] if isinstance(head, nn.Linear) else []
        self.recompute = False
        """Whether a training pass keeps the input of each decoder layer alone, and computes the rest again in
        its backward pass: half as slow again, in a fraction of the memory."""
        self.recordings = Recordings(self)
        self._blocks = _decoder_layers(self._decoder, self.n_layers)
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
    def vocabulary(self) -> int:
        """Tokens that the model has an embedding for."""
        return int(self.model.get_input_embeddings().num_embeddings)

    def check_tokens(self, ids: Sequence[int]) -> None:
        """Raise `AdaptError` for a token that the model has no embedding for."""
        for token in (min(ids), max(ids)):
            if not 0 <= token < self.vocabulary:
                raise AdaptError(
                    f"token {token} is not among the model's {self.vocabulary}",
                    "use the tokenizer of this model",
                )

    @contextmanager
    def active(self) -> Iterator[None]:
        """Patch the model for the time of the block; nothing may be yielded to a caller inside it."""
        config = self.model.config
        was = config._attn_implementation
        config._attn_implementation = attention.NAME
        groups = self.groups + self._head
        for group in groups:
            group.patch()
        for module in self._attention:
            module.seal_runtime = self  # type: ignore[assignment, unused-ignore]
        blocks = self._blocks if self.recompute else []
        for block in blocks:
            block.forward = self._recomputed(block.forward)  # type: ignore[method-assign, unused-ignore]
        try:
            yield
        finally:
            config._attn_implementation = was
            for group in groups:
                group.unpatch()
            for module in self._attention:
                del module.seal_runtime
            for block in blocks:
                del block.forward

    def _recomputed(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """`forward` of a decoder layer, of which a training pass keeps only the input."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if not (self.pack.training and torch.is_grad_enabled()):
                return forward(*args, **kwargs)
            # nothing in a pass draws from torch's random numbers
            return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

        return call

    @contextmanager
    def serving(self, pack: Pack) -> Iterator[None]:
        """The time in which `pack` goes through the model, forward or backward."""
        self._pack = pack
        try:
            yield
        finally:
            self._pack = None

    def forward(self, pack: Pack, keep: Tensor) -> Tensor:
        """Logits (kept positions, V) of a pack, in the base's type."""
        with self.serving(pack):
            out = self.model(
                input_ids=pack.input_ids,
                position_ids=pack.position_ids,
                use_cache=False,
                logits_to_keep=keep,
            )
        logits: Tensor = out.logits[0]
        return logits

    def hidden(self, pack: Pack) -> Tensor:
        """What the decoder hands to the head, (T, D). Needs `serving`."""
        out = self._decoder(input_ids=pack.input_ids, position_ids=pack.position_ids, use_cache=False)
        self._decoder_output = type(out)
        hidden: Tensor = out.last_hidden_state[0]
        return hidden

    def logits(self, hidden_TD: Tensor) -> Tensor:
        """(T, V): the model's own way from what its decoder gives to logits, capped or scaled as it may be.

        The decoder stands still meanwhile, and only the model's code behind it runs. Needs `serving`, and
        `hidden` before.
        """
        given = self._decoder_output(last_hidden_state=hidden_TD[None])
        self._decoder.forward = lambda *_, **__: given
        try:
            out = self.model(inputs_embeds=hidden_TD[None], use_cache=False)
        finally:
            del self._decoder.forward
        logits: Tensor = out.logits[0]
        return logits


def _decoder_layers(decoder: nn.Module, n_layers: int) -> list[nn.Module]:
    """The decoder's layers, in order; none where they cannot be told."""
    lists = [m for m in decoder.children() if isinstance(m, nn.ModuleList) and len(m) == n_layers]
    return list(lists[0]) if len(lists) == 1 else []


def _sibling_groups(layers: dict[str, nn.Module]) -> list[list[tuple[str, nn.Module]]]:
    """Layers in the model's order, siblings that read the same input together."""
    groups: list[list[tuple[str, nn.Module]]] = []
    taken: set[str] = set()
    for name, module in layers.items():
        if name in taken:
            continue
        parent, _, own = name.rpartition(".")
        family = next((names for names in SIBLINGS if own in names), (own,))
        group = [(f"{parent}.{n}", layers[f"{parent}.{n}"]) for n in family if f"{parent}.{n}" in layers]
        if len(group) < len(family):
            group = [(name, module)]
        groups.append(group)
        taken |= {n for n, _ in group}
    return groups
