"""Means with intervals, spreads, trends and reliabilities of rewards: the arithmetic under `metrics`."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, quantiles, stdev, variance

from seal.intervals import FEWEST, GAINS, interval
from seal.records import ArmScore, EditResult

BINS = 10
SPIKE = 2.0
"""A training whose loss rises to this many times the highest of its first tenth has a spike."""


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean and its 95 % interval; None where there are too few tasks for one."""

    mean: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Distribution:
    """How values spread. `counts[i]` of them lie in `[edges[i], edges[i + 1])`."""

    std: float
    minimum: float
    q25: float
    median: float
    q75: float
    maximum: float
    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Reliability:
    """How much of the spread between a task's self-edits is more than chance (analysis of variance).

    `ratio` = between / (between + repeat / R) with R repeats: 1 when rewards repeat exactly, 0 when they are
    noise. The paper's own rounds reach about 0.3. None without repeats, or when nothing varies.
    """

    repeats: float
    repeat_std: float | None
    edit_std: float | None
    """Between self-edits of one task, the repeats' noise taken off."""
    ratio: float | None


def clustered(groups: Mapping[str, Sequence[float]], bounds: tuple[float, float] | None = None) -> Mean:
    """Mean over all values, its interval over groups (tasks); see `seal.intervals.interval` for `bounds`."""
    filled = {name: values for name, values in groups.items() if values}
    if not filled:
        return Mean(0.0)
    means, weights = [fmean(v) for v in filled.values()], [float(len(v)) for v in filled.values()]
    return Mean(*interval(means, weights, bounds))


def distribution(values: Sequence[float]) -> Distribution:
    """Spread and histogram of at least one value; the bins are round numbers wide and one is centred on 0."""
    low, high = min(values), max(values)
    q25, median, q75 = quantiles(values, n=4, method="inclusive") if len(values) > 1 else (low, low, low)
    width = _round_width((high - low) / BINS)

    def place(value: float) -> int:
        return math.floor(round(value / width + 0.5, 9))

    first, last = place(low), place(high)
    counts = [0] * (last - first + 1)
    for value in values:
        counts[place(value) - first] += 1
    return Distribution(
        std=stdev(values) if len(values) > 1 else 0.0,
        minimum=low,
        q25=q25,
        median=median,
        q75=q75,
        maximum=high,
        edges=tuple(round((k - 0.5) * width, 12) for k in range(first, last + 2)),
        counts=tuple(counts),
    )


def _round_width(wanted: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten; 0.1 where nothing varies."""
    if wanted <= 0:
        return 0.1
    power = 10.0 ** math.floor(math.log10(wanted))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= wanted * (1 - 1e-9))


def reliability(results: Sequence[EditResult]) -> Reliability:
    """Between-edit against repeat variance of the rewards, tasks apart; invalid edits left out."""
    valid = [r for r in results if not r.problem and r.repeats]
    if not valid:
        return Reliability(0.0, None, None, None)
    repeats = fmean(len(r.repeats) for r in valid)
    within = [variance(r.repeats) for r in valid if len(r.repeats) > 1]
    tasks = by_task(valid, lambda r: fmean(r.repeats))
    observed = [variance(values) for values in tasks.values() if len(values) > 1]
    if not within or not observed:
        return Reliability(repeats, fmean(within) ** 0.5 if within else None, None, None)
    noise = fmean(within) / repeats
    between = max(fmean(observed) - noise, 0.0)
    ratio = between / (between + noise) if between + noise > 0 else None
    return Reliability(repeats, fmean(within) ** 0.5, between**0.5, ratio)


def spikes(losses: Sequence[float]) -> bool:
    """Whether a training's loss jumped (see `SPIKE`) or was not finite."""
    start = max(losses[: max(1, len(losses) // 10)])
    return any(not math.isfinite(loss) or loss > SPIKE * start for loss in losses)


def trend(rounds: Sequence[Mapping[str, Sequence[float]]]) -> Mean | None:
    """Least-squares slope of the rounds' means; its interval takes every (round, task) as drawn anew.

    Student's, with the degrees of freedom of Welch and Satterthwaite.
    """
    if len(rounds) < 2:
        return None
    from scipy.stats import t

    centre = (len(rounds) - 1) / 2
    scale = sum((i - centre) ** 2 for i in range(len(rounds)))
    slope, spread, squares = 0.0, 0.0, 0.0
    for i, groups in enumerate(rounds):
        means, weight = [fmean(v) for v in groups.values()], (i - centre) / scale
        slope += weight * fmean(v for values in groups.values() for v in values)
        if len(means) > 1:
            part = weight**2 * variance(means) / len(means)
            spread, squares = spread + part, squares + part**2 / (len(means) - 1)
    if not squares or any(len(groups) < FEWEST for groups in rounds):
        return Mean(slope)
    margin = float(t.ppf(0.975, spread**2 / squares)) * spread**0.5
    return Mean(slope, slope - margin, slope + margin)


def arm_means(arm: ArmScore) -> tuple[Mean, Mean]:
    """An arm's score and gain. A journalled interval without width is none: it came of equal values."""
    ends = ((arm.low, arm.high), (arm.gain_low, arm.gain_high))
    score, gain = ((None, None) if low == high else (low, high) for low, high in ends)
    return Mean(arm.mean, *score), Mean(arm.gain, *gain)


def paired(a: ArmScore, b: ArmScore) -> Mean | None:
    """Mean of `a` minus `b` over the tasks they share, by questions; None when they share none."""
    other = {task.task_id: task.score for task in b.tasks}
    shared = [task for task in a.tasks if task.task_id in other]
    if not shared:
        return None
    gains = [task.score - other[task.task_id] for task in shared]
    return Mean(*interval(gains, [float(task.n) for task in shared], GAINS))


def by_task(results: Iterable[EditResult], value: Callable[[EditResult], float]) -> dict[str, list[float]]:
    """`value` of every result, by task."""
    return grouped((r.task_id, value(r)) for r in results)


def grouped(pairs: Iterable[tuple[str, float]]) -> dict[str, list[float]]:
    """Values by name, names in order of appearance."""
    groups: dict[str, list[float]] = defaultdict(list)
    for name, value in pairs:
        groups[name].append(value)
    return dict(groups)


def share(flags: Iterable[bool]) -> float:
    """Share of true values; 0 for none."""
    values = list(flags)
    return sum(values) / len(values) if values else 0.0
