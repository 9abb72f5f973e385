"""The reliability and validity of rewards (`experiments/rewards/measure.py`) by hand computation."""

from __future__ import annotations

import math
import runpy
from pathlib import Path

import pytest

MEASURE = runpy.run_path(str(Path(__file__).parents[2] / "experiments" / "rewards" / "measure.py"))


def test_reliability_by_hand() -> None:
    """Two edits, (1, 2) and (4, 5): means 1.5 and 4.5, so between 2 · 4.5 = 9; within 0.5."""
    one, both = MEASURE["icc"]([[[1.0, 2.0], [4.0, 5.0]]])
    assert one == pytest.approx((9 - 0.5) / (9 + 0.5))
    assert both == pytest.approx((9 - 0.5) / 9)
    assert MEASURE["icc"]([[[1.0, 1.0], [3.0, 3.0]]]) == (1.0, 1.0)
    assert all(math.isnan(value) for value in MEASURE["icc"]([[[1.0, 1.0], [1.0, 1.0]]]))


def test_validity_compares_one_repeat_with_another() -> None:
    reward = [[1.0, 9.0], [2.0, 9.0], [3.0, 9.0]]
    test = [[0.0, 0.1], [0.0, 0.2], [0.0, 0.3]]
    assert MEASURE["rank_correlations"](reward, test) == [pytest.approx(1.0)], (
        "repeat 2 of the reward is flat"
    )
    assert MEASURE["rank_correlations"](reward, [row[::-1] for row in test]) == []
    backwards = [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]], [[0.3, 0.3], [0.2, 0.2], [0.1, 0.1]]
    assert MEASURE["rank_correlations"](*backwards) == [pytest.approx(-1.0)] * 2


def test_an_interval_of_a_mean_holds_it() -> None:
    values = [0.1, 0.4, 0.2, 0.9, 0.5, 0.3]
    low, high = MEASURE["resampled"](6, lambda drawn: sum(values[i] for i in drawn) / 6)
    assert min(values) < low < 0.4 < high < max(values)
