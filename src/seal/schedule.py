"""What fixes one adapter's training, whichever engine runs it: start values, order of rows, learning rate.

Both the batched engine and the one-by-one reference (`seal.models.lora`) read their steps from here, so
they can be compared number by number. Depends on records and seeds alone.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from itertools import count, islice
from typing import TYPE_CHECKING

from seal.records import TrainingConfig
from seal.seeds import derive

if TYPE_CHECKING:
    from torch import Tensor


def epoch_order(n_rows: int, training: TrainingConfig, seed: int, epoch: int) -> list[int]:
    """Order in which epoch number `epoch` (from 0) visits the rows: a permutation of `range(n_rows)`."""
    order = list(range(n_rows))
    if training.shuffle:
        random.Random(derive(seed, "order", epoch)).shuffle(order)
    return order


def sequences_per_step(training: TrainingConfig) -> int:
    """Rows that one optimiser step learns from."""
    return training.batch_size * training.accumulation


def steps_per_epoch(n_rows: int, training: TrainingConfig) -> int:
    """Optimiser steps of one epoch; the last one may hold fewer rows, as in Hugging Face's Trainer."""
    return math.ceil(n_rows / sequences_per_step(training))


def total_steps(n_rows: int, training: TrainingConfig) -> int:
    """Optimiser steps of the whole fit."""
    return training.steps or training.epochs * steps_per_epoch(n_rows, training)


def step_sequences(n_rows: int, training: TrainingConfig, seed: int) -> Iterator[tuple[int, ...]]:
    """Row indices of every optimiser step, `total_steps` of them; no step crosses an epoch."""
    yield from islice(_all_steps(n_rows, training, seed), total_steps(n_rows, training))


def _all_steps(n_rows: int, training: TrainingConfig, seed: int) -> Iterator[tuple[int, ...]]:
    """The steps of epoch after epoch, without end."""
    size = sequences_per_step(training)
    for epoch in count():
        order = epoch_order(n_rows, training, seed, epoch)
        for start in range(0, n_rows, size):
            yield tuple(order[start : start + size])


def warmup_steps(training: TrainingConfig, total: int) -> int:
    """Steps over which the learning rate rises from 0, rounded up."""
    return math.ceil(total * training.warmup_ratio)


def learning_rate(training: TrainingConfig, step: int, total: int) -> float:
    """Learning rate of optimiser step `step` (from 0) of `total`, as Hugging Face's schedulers give it.

    Warm-up is linear from 0, then constant, linear to 0 or half a cosine to 0.
    """
    warmup = warmup_steps(training, total)
    if step < warmup:
        return training.learning_rate * step / warmup
    if training.schedule == "constant":
        return training.learning_rate
    done = min(1.0, (step - warmup) / max(1, total - warmup))
    left = 1.0 - done if training.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return training.learning_rate * left


def init_lora(module_name: str, in_features: int, rank: int, seed: int) -> Tensor:
    """Start value of LoRA's A for one layer, fp32 on the CPU, (rank, in_features); B starts at zero.

    Kaiming-uniform with a = √5, PEFT's default. The draw depends on the module's full name in the base
    model and the job's seed alone, so it does not matter which other layers or adapters are drawn.
    """
    import torch

    bound = 1.0 / math.sqrt(in_features)  # gain √(2 / (1 + 5)) times √3 / √fan_in
    generator = torch.Generator().manual_seed(derive(seed, "lora", module_name))
    return torch.empty(rank, in_features).uniform_(-bound, bound, generator=generator)
