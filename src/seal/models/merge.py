"""Low-rank factors merged into a model's own weights, for good or for a while."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from seal.models.lora import Factors


def merge(model: PreTrainedModel, factors: Factors, scale: float) -> None:
    """Add scale · B·A to the weights, in place; `scale` includes alpha / rank."""
    import torch
    from transformers.pytorch_utils import Conv1D

    with torch.no_grad():
        for name, (a, b) in factors.items():
            layer: Any = model.get_submodule(name)
            full = torch.promote_types(a.dtype, torch.float32)
            delta = (b.to(full) @ a.to(full)) * scale  # (out, in)
            layer.weight += (delta.T if isinstance(layer, Conv1D) else delta).to(layer.weight.device)


@contextmanager
def restored(model: PreTrainedModel, layers: Iterable[str]) -> Iterator[None]:
    """Put the weights of `layers` back afterwards, bit for bit; costs a copy of them in main memory."""
    import torch

    weights: list[Tensor] = [model.get_submodule(name).get_parameter("weight") for name in layers]
    before = [weight.detach().cpu().clone() for weight in weights]
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, old in zip(weights, before, strict=True):
                weight.copy_(old)


@contextmanager
def merged(model: PreTrainedModel, factors: Factors, scale: float) -> Iterator[PreTrainedModel]:
    """`model` with scale · B·A added to its weights inside the block; bit for bit as before afterwards."""
    with restored(model, factors):
        merge(model, factors, scale)
        yield model
