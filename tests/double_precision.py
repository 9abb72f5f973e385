"""The numbers that fp32 and bf16 are measured against: the same weights, computed in fp64 throughout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from seal.models.load import LoadedModel, load_model

#: Of agreement in fp64: a hundred thousand times its rounding, a thousandth of fp32's.
SAME = 1e-10


class DoublePrecision(TorchFunctionMode):
    """Inside the block whoever asks for fp32 gets fp64.

    Norms, rotary angles and softmaxes of transformers are fp32 whatever the model's type; with them two ways
    to compute one thing agree to 1e-7 at best.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is Tensor.float:
            func = Tensor.double
        kwargs = {name: _double(value) for name, value in (kwargs or {}).items()}
        return func(*map(_double, args), **kwargs)


def _double(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


def tiny_double(family: str, dtype: str = "float32", device: str = "cpu") -> LoadedModel:
    """A tiny random model whose weights are those of `dtype`, in fp64."""
    loaded = load_model(f"tiny-random-{family}", device=device, dtype=dtype)
    return replace(loaded, model=loaded.model.double())


def no_further_off(ours: Tensor, peft: Tensor, truth: Tensor, dtype: torch.dtype = torch.float32) -> None:
    """Assert that `ours` is off the truth by at most twice what `peft` is off, and a rounding of `dtype`.

    By the mean, and by quantiles of many numbers: where a gradient is near rounding noise, Adam still takes a
    whole step, so the worst weights of both are off by chance.
    """
    mine, theirs = ((x.double() - truth).abs() for x in (ours, peft))
    floor = torch.finfo(dtype).eps * float(truth.abs().mean())
    assert float(mine.mean()) <= 2 * float(theirs.mean()) + floor
    for q in (0.5, 0.9, 0.99) if truth.numel() > 1000 else ():
        assert float(mine.quantile(q)) <= 2 * float(theirs.quantile(q)) + floor, f"quantile {q}"
