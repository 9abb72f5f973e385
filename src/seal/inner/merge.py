"""Adapters merged into the base's weights, in place, and taken out again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from seal.inner.adapter_files import load_adapter
from seal.inner.runtime import Runtime
from seal.models.load import LoadedModel
from seal.models.lora import linear_modules

Factors = dict[str, tuple[Tensor, Tensor, float]]
"""By layer: A (rank, in), B (out, rank), alpha / rank."""


def read_factors(loaded: LoadedModel, folder: Path) -> Factors:
    """The factors of an adapter in PEFT's format, for the layers of `loaded`. Raises `AdaptError`."""
    adapter = load_adapter(Runtime.of(loaded.model), folder)
    scale = adapter.recipe.alpha / adapter.recipe.rank
    return {name: (a.detach(), b.detach(), scale) for name, (a, b) in adapter.factors.items()}


def fold(loaded: LoadedModel, factors: Factors, scale: float) -> None:
    """Add scale · (alpha / rank) · B·A to the weights, in place."""
    with torch.no_grad():
        for name, (a, b, own) in factors.items():
            layer: Any = loaded.model.get_submodule(name)
            delta = (b.float() @ a.float()) * (own * scale)  # (out, in)
            delta = delta.T if isinstance(layer, Conv1D) else delta
            layer.weight.copy_((layer.weight.float() + delta).to(layer.weight.dtype))


@contextmanager
def restored(loaded: LoadedModel, layers: Sequence[str] | None = None) -> Iterator[None]:
    """Put the weights of the linear layers (or of `layers`) back afterwards, bit for bit."""
    names = list(linear_modules(loaded.model)) if layers is None else layers
    weights: list[Any] = [loaded.model.get_submodule(name).weight for name in names]
    before = [weight.detach().cpu().clone() for weight in weights]
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, old in zip(weights, before, strict=True):
                weight.copy_(old)
