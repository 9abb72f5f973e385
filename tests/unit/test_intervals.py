"""Intervals contain the truth as often as they say, also for a handful of skewed scores."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.random import Generator
from scipy import stats

from seal.evaluation import Summary, base_arm
from seal.intervals import GAINS, SCORES, Interval, interval, span, weighted_mean
from seal.records import Baseline, Performance


def accuracies(draw: Generator, n: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Few tasks are known at all: share of correct answers among three to seven, and the true mean."""
    asked = draw.integers(3, 8, n)
    return draw.binomial(asked, draw.beta(0.4, 3.6, n)) / asked, asked, 0.1


def gains(draw: Generator, n: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Paired differences: a fifth of what was unknown is learned on average, most tasks learn little."""
    asked = draw.integers(3, 8, n)
    before, learned = draw.beta(0.4, 3.6, n), draw.beta(0.6, 2.4, n)
    after = draw.binomial(asked, before + learned * (1 - before))
    return (after - draw.binomial(asked, before)) / asked, asked, 0.2 * 0.9


def solved(draw: Generator, n: int) -> tuple[np.ndarray, np.ndarray, float]:
    """One grid a task: solved or not, as in ARC."""
    return draw.binomial(1, 0.25, n).astype(float), np.ones(n), 0.25


@pytest.mark.parametrize("n", [3, 6, 18, 60])
@pytest.mark.parametrize(("scores", "bounds"), [(accuracies, SCORES), (gains, GAINS), (solved, SCORES)])
def test_intervals_cover_what_they_say(scores: object, bounds: tuple[float, float], n: int) -> None:
    assert callable(scores)
    draw = np.random.default_rng(n)
    held = 0
    for _ in range(2000):
        values, weights, truth = scores(draw, n)
        found = interval(values.tolist(), weights.tolist(), bounds)
        assert found.low is not None
        assert found.high is not None
        assert bounds[0] <= found.low < found.high <= bounds[1], "an interval has a width"
        held += found.low <= truth <= found.high
    assert held / 2000 >= 0.93


def test_symmetric_values_have_students_interval() -> None:
    values = [0.1, 0.3, 0.4, 0.5, 0.7]
    expected = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert interval(values)[1:] == pytest.approx(expected)
    assert interval([v + 5 for v in values])[1:] == pytest.approx([e + 5 for e in expected])


def test_the_longer_tail_is_widened_by_its_skewness() -> None:
    values = [0.0, 0.0, 0.0, 0.1, 0.2, 0.9]
    low, high = stats.t.interval(0.95, 5, np.mean(values), error := stats.sem(values))
    quantile = stats.t.ppf(0.975, 5)
    more = stats.skew(values, bias=False) * error * (1 + 2 * quantile**2) / (6 * 6**0.5)
    assert interval(values)[1:] == pytest.approx((low, high + more))
    assert interval([-v for v in values])[1:] == pytest.approx((-high - more, -low))
    assert interval(values, bounds=SCORES) == (pytest.approx(0.2), 0.0, pytest.approx(high + more))


def test_weights_are_questions() -> None:
    """A task of twice the questions counts twice; scale is nothing."""
    values, weights = [0.2, 0.6, 0.4, 0.9], [1.0, 2.0, 3.0, 4.0]
    found = interval(values, weights)
    assert found.mean == weighted_mean(values, weights) == pytest.approx(np.average(values, weights=weights))
    assert interval(values, [10 * w for w in weights]) == pytest.approx(found)
    assert interval(values, [2.0] * 4) == pytest.approx(interval(values))
    # the influence of each task on a ratio of sums, written out
    pulls = [w * (v - found.mean) / 2.5 for v, w in zip(values, weights, strict=True)]
    assert found.low is not None
    assert found.mean - found.low >= stats.t.ppf(0.975, 3) * np.std(pulls, ddof=1) / 2 - 1e-12


def test_what_is_not_known_is_not_shown() -> None:
    assert interval([]) == Interval(0.0, None, None)
    assert interval([0.4], [7.0], SCORES) == Interval(0.4, None, None)
    assert interval([0.0, 1.0], [1.0, 3.0], SCORES) == Interval(0.75, None, None)
    assert interval([0.3] * 5) == Interval(pytest.approx(0.3), None, None)


def test_equal_scores_leave_room_for_tasks_that_were_not_met() -> None:
    """Of tasks that are not like these, there may be as many as 20 draws miss once: the rule of three."""
    found = interval([0.0] * 60, bounds=SCORES)
    assert (found.low, found.high) == (0.0, pytest.approx(1 - 0.05 ** (1 / 60)))
    assert found.high == pytest.approx(3 / 60, rel=0.03)
    unmet = 1 - 0.05 ** (1 / 3)
    assert interval([0.5] * 3, bounds=GAINS)[1:] == pytest.approx((0.5 - 1.5 * unmet, 0.5 + 0.5 * unmet))


def test_a_summary_never_shows_an_interval_without_width() -> None:
    arms = [
        base_arm([Baseline(str(i), "p", Performance(0.0, n=5)) for i in range(n)], f"of {n}") for n in (1, 3)
    ]
    said = str(Summary(tuple(arms), (), ()))
    assert "[unknown]" in said
    assert "[0.0%, 63.2%]" in said
    assert "[0.0%, 0.0%]" not in said
    assert span(None, 0.5) == "[unknown]"
    assert span(-0.1, 0.25, sign=True) == "[-10.0%, +25.0%]"
    assert span(-0.0001, 0.25, sign=True) == "[+0.0%, +25.0%]"
