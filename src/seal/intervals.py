"""Means with 95 % intervals that hold for few and skewed numbers: one value a task, tasks are what is drawn.

Questions of one passage stand or fall together, so a task counts as one observation, weighted by its
questions. The interval is Student's, widened on the side of the longer tail by the skewness term of the
studentised mean's expansion (Johnson 1978; Hall 1992, section 2.6). Resampling is not used: with three or
six tasks a percentile bootstrap covers 60 to 85 % where it says 95.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from statistics import fmean
from typing import NamedTuple

#: What a score can be, and a difference of two.
SCORES, GAINS = (0.0, 1.0), (-1.0, 1.0)
#: With fewer values there is no interval: two say next to nothing about how far a third may lie.
FEWEST = 3
_LEVEL = 0.95


class Interval(NamedTuple):
    """A mean and its 95 % interval; None where nothing is known about how sure it is."""

    mean: float
    low: float | None = None
    high: float | None = None


def weighted_mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """Mean of `values` by `weights`; 0 for nothing."""
    total = sum(weights)
    return sum(v * w for v, w in zip(values, weights, strict=True)) / total if total else 0.0


def interval(
    values: Sequence[float],
    weights: Sequence[float] | None = None,
    bounds: tuple[float, float] | None = None,
) -> Interval:
    """Weighted mean of one value a task, with its 95 % interval over tasks.

    For a paired comparison pass differences.

    Args:
        weights: such as questions a task; all alike when None.
        bounds: least and greatest possible value. They cut the interval off. Where all values are equal they
            make one by the rule of three: up to a share 1 - 0.05^(1/n) of tasks may be as different as can be
            and not have been met. Without bounds, equal values have no interval.
    """
    own = [1.0] * len(values) if weights is None else list(weights)
    mean = weighted_mean(values, own)
    if len(values) < FEWEST or not sum(own):
        return Interval(mean)
    if max(values) - min(values) <= 1e-12 * max(1.0, abs(mean)):
        if bounds is None:
            return Interval(mean)
        unmet = 1 - (1 - _LEVEL) ** (1 / len(values))
        ends = mean - unmet * (mean - bounds[0]), mean + unmet * (bounds[1] - mean)
    else:
        ends = _student(values, own, mean)
    if bounds is not None:
        ends = max(ends[0], bounds[0]), min(ends[1], bounds[1])
    return Interval(mean, *ends)


def _student(values: Sequence[float], weights: Sequence[float], mean: float) -> tuple[float, float]:
    """Student's interval of a weighted mean (a ratio of sums), its longer tail corrected for skewness."""
    n, each = len(values), fmean(weights)
    pulls = [w * (v - mean) / each for v, w in zip(values, weights, strict=True)]  # around 0
    square = sum(p**2 for p in pulls) / (n - 1)
    cube = sum(p**3 for p in pulls) * n / ((n - 1) * (n - 2))
    error, quantile = (square / n) ** 0.5, _quantile(n - 1)
    tail = cube / square * (1 + 2 * quantile**2) / (6 * n)
    return mean - quantile * error + min(tail, 0.0), mean + quantile * error + max(tail, 0.0)


@cache
def _quantile(freedom: int) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + _LEVEL) / 2, freedom))


def span(low: float | None, high: float | None, sign: bool = False) -> str:
    """An interval of shares, for people: `[1.2%, 3.4%]`, or that it is unknown."""
    if low is None or high is None:
        return "[unknown]"
    form = "+.1%" if sign else ".1%"
    low, high = round(low, 3) + 0.0, round(high, 3) + 0.0  # no minus before a zero
    return f"[{low:{form}}, {high:{form}}]"
