"""Means with honest intervals: tasks are resampled whole, since questions of one passage stand together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

#: Bootstrap resamples; the interval's own error is then about 1 % of its width.
RESAMPLES = 10_000


class Interval(NamedTuple):
    """A mean and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


def weighted_mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """Mean of `values` by `weights`; 0 for nothing."""
    total = sum(weights)
    return sum(v * w for v, w in zip(values, weights, strict=True)) / total if total else 0.0


def bootstrap(values: Sequence[float], weights: Sequence[float], seed: int = 0) -> Interval:
    """Weighted mean of one value a task, and its percentile interval over resampled tasks.

    For a paired comparison pass differences. With one task (or none) the interval is the mean itself.
    """
    import numpy as np

    mean = weighted_mean(values, weights)
    if len(values) < 2:
        return Interval(mean, mean, mean)
    draws = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    w = np.asarray(weights, dtype=float)
    v = np.asarray(values, dtype=float)
    means = (v * w)[draws].sum(axis=1) / w[draws].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(mean, float(low), float(high))
