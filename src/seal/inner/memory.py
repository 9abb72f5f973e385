"""What training needs of a device's memory, by arithmetic, and how memory that it frees is kept.

A sum of bytes, checked against what a real pass keeps. It errs on the large side, by at most three times.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from seal.training_config import TrainingConfig

# glibc's mallopt numbers (malloc.h).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
#: Adapters trained at once and tokens of a pass that are enough for full speed: more memory buys nothing.
ENOUGH_ON_CPU, ENOUGH_ELSEWHERE = (8, 512), (32, 8192)
#: Layers are computed again (a pass takes half as long again) where else it had less than this part of them.
WORTH_RECOMPUTING = 4
#: Fewest tokens of a pass; a longer sequence is a pass of its own anyway.
LEAST_TOKENS = 64
#: Share of the free memory that is planned with.
_USED = 0.8
#: Logits of a piece of the head and of the rows that answer, a cache of keys and values: bytes for all.
_FIXED = 512 << 20


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes that training adds to a loaded model."""

    reordered: int
    """Copies of the base's weights for bf16 products on a CPU."""
    adapter: int
    """Each adapter in training: weights, gradient, AdamW's two moments, factors in the base's type."""
    token: int
    """Each token of a pass: what the backward pass needs of every layer."""
    recomputed: int = 0
    """The same where layers are computed again: every layer's input, and what one needs. 0: they cannot."""
    position: int = 0
    """Each token of a row that answers: its keys and values in every layer. Not in `total`: adapters answer
    when they are trained, and where memory then runs out half as many rows answer at once."""

    def total(self, capacity: Capacity) -> int:
        """Bytes with so many adapters and tokens at once."""
        token = self.recomputed if capacity.recompute else self.token
        return _FIXED + self.reordered + capacity.slots * self.adapter + capacity.token_budget * token


@dataclass(frozen=True, slots=True)
class Capacity:
    """How much one engine does at once. Journal kind `capacity`, key `engine`."""

    slots: int
    """Adapters in training."""
    token_budget: int
    """Tokens of a forward and backward pass."""
    recompute: bool = False
    """Whether its layers are computed again in the backward pass, see `Runtime.recompute`."""


def footprint(
    model: PreTrainedModel, training: TrainingConfig, device: torch.device, dtype: torch.dtype
) -> Footprint:
    """What training adapters of this shape needs beside the model (whose own tensors may be on `meta`).

    Raises:
        ConfigError: a target names no layer of the model.
    """
    import torch

    from seal.inner.adapter import RANK_STEP
    from seal.inner.precision import full_dtype
    from seal.models.lora import linear_modules, target_modules
    from seal.models.quantise import is_quantised, layer_shape

    modules: dict[str, Any] = linear_modules(model)
    layers = {name: layer_shape(module) for name, module in modules.items()}
    features = sum(sum(shape) for shape in layers.values())
    weights = sum(a * b for a, b in layers.values())
    rank = -(-training.rank // RANK_STEP) * RANK_STEP
    factors = rank * sum(sum(layers[n]) for n in target_modules(model, training.targets))
    on_cpu, state = device.type == "cpu", full_dtype(dtype).itemsize
    config = model.config.get_text_config()
    norms = 24 * config.hidden_size * config.num_hidden_layers  # in fp32 whatever the model's type
    reordered = on_cpu and dtype == torch.bfloat16 and not any(map(is_quantised, modules.values()))
    kept = 2 * dtype.itemsize * features + norms + state * rank * len(layers)
    n_layers = config.num_hidden_layers
    return Footprint(
        reordered=2 * weights * dtype.itemsize if reordered else 0,
        adapter=factors * (4 * state + (0 if on_cpu else dtype.itemsize)),
        token=kept,
        recomputed=n_layers * config.hidden_size * dtype.itemsize + kept // n_layers,
        position=2 * n_layers * _key_features(config) * dtype.itemsize,
    )


def _key_features(config: PretrainedConfig) -> int:
    """Features of one layer's keys, all heads together."""
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return int(width * (getattr(config, "num_key_value_heads", None) or heads))


def free_bytes(device: torch.device) -> int:
    """Memory that is free now, on a GPU or, for a CPU, in the machine."""
    import psutil
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def fitting(need: Footprint, free: int, device: torch.device) -> Capacity:
    """The most adapters and tokens that fit into `free` bytes, and that are of use.

    Powers of two, so that a little more or less free memory seldom changes them: they decide which sequences
    share a product, and with it the last bits of results.
    """
    return capacity(need, free, device, "auto", "auto")


def _shrunk(need: Footprint, free: int, found: Capacity, least: tuple[int, int]) -> Capacity:
    """`found` halved, the larger part first, until it fits or has the `least` slots and tokens."""
    token = need.recomputed if found.recompute else need.token
    while need.total(found) > _USED * free and (found.slots, found.token_budget) != least:
        wide = found.token_budget * token > found.slots * need.adapter
        if (wide and found.token_budget > least[1]) or found.slots == least[0]:
            found = replace(found, token_budget=found.token_budget // 2)
        else:
            found = replace(found, slots=found.slots // 2)
    return found


def capacity(
    need: Footprint,
    free: int,
    device: torch.device,
    slots: int | str,
    token_budget: int | str,
    recompute: bool | str = "auto",
) -> Capacity:
    """What the settings say, and where they say `auto` what fits beside that."""
    enough = ENOUGH_ON_CPU if device.type == "cpu" else ENOUGH_ELSEWHERE
    most = (
        enough[0] if slots == "auto" else int(slots),
        enough[1] if token_budget == "auto" else int(token_budget),
    )
    least = (1 if slots == "auto" else most[0], LEAST_TOKENS if token_budget == "auto" else most[1])
    plain = _shrunk(need, free, Capacity(*most), least)
    again = _shrunk(need, free, Capacity(*most, recompute=True), least)
    if recompute == "auto":
        recompute = plain.token_budget * WORTH_RECOMPUTING < most[1] or need.total(plain) > _USED * free
    return again if recompute and need.recomputed else plain


@cache
def keep_freed_memory() -> bool:
    """Tell glibc to keep freed blocks instead of returning them to the system; True where that worked.

    A packed pass allocates and frees hundreds of megabytes of activations. Returned to the system, each
    page is cleared again on its next use, which took a fifth of a pass's time on two cores. Blocks of
    32 MB and more (an adapter's buffers) still go back: they live long and would fragment the rest.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False  # another C library, which has no such option
    settings = ((_MMAP_THRESHOLD, 32 << 20), (_TRIM_THRESHOLD, 1 << 30), (_TOP_PAD, 64 << 20))
    return all(mallopt(option, value) == 1 for option, value in settings)
