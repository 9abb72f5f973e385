"""Timing: contenders take turns, so that a busy neighbour slows all of them, and rates come as spreads."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from seal.models.lora import linear_modules, target_modules
from seal.records import TrainingConfig, TrainingSequence

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: A piece of work; returns how many units (tokens, answers, jobs) it did.
Work = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Spread:
    """Smallest, middle and largest of several measurements."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(min(values), statistics.median(values), max(values))


def race(contenders: dict[str, Work], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Units a second of every contender in every repetition; the first one to run changes each time."""
    names = list(contenders)
    rates: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeats):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            rates[name].append(rate(contenders[name], device))
    return rates


def rate(work: Work, device: torch.device) -> float:
    """Units a second of one piece of work."""
    _synchronise(device)
    started = time.perf_counter()
    units = work()
    _synchronise(device)
    return units / (time.perf_counter() - started)


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """How many times faster, repetition by repetition."""
    return Spread.of([a / b for a, b in zip(ours, theirs, strict=True)])


def gemm_peak(dtype: torch.dtype, device: torch.device, seconds: float = 2.0) -> float:
    """FLOP/s of the best of a few square matrix products, the practical ceiling of this machine."""
    best = 0.0
    for size in (1024, 2048) if device.type == "cpu" else (4096, 8192):
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        torch.mm(a, b)
        work = partial(_multiply, a, b)
        deadline = time.perf_counter() + seconds / 2
        while time.perf_counter() < deadline:
            best = max(best, rate(work, device))
    return best


def _multiply(a: torch.Tensor, b: torch.Tensor) -> float:
    torch.mm(a, b)
    return 2.0 * a.shape[0] ** 3


def training_flops(model: PreTrainedModel, recipe: TrainingConfig, rows: Sequence[TrainingSequence]) -> float:
    """FLOPs a token: 4 (N + H f) + 6 P + attention, averaged over the tokens of `rows`.

    Forward 2 and the activations' gradient 2 for every frozen weight (N outside the head, H in it, which
    only the share f of labelled positions meets), 6 for a LoRA weight (P); causal attention meets half of
    each sequence.
    """
    layers: dict[str, Any] = linear_modules(model)
    frozen = sum(layer.weight.numel() for layer in layers.values())
    low_rank = recipe.rank * sum(sum(layers[n].weight.shape) for n in target_modules(model, recipe.targets))
    tokens = sum(len(row.ids) for row in rows)
    labelled = sum(len(row.labelled()) for row in rows) / tokens
    head = model.get_output_embeddings().weight.numel()
    config = model.config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    per_position = config.num_hidden_layers * config.num_attention_heads * width
    context = sum(len(row.ids) ** 2 for row in rows) / tokens / 2
    return float(4 * (frozen + head * labelled) + 6 * low_rank + 12 * context * per_position)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
