"""experiments/compare.py: differences by hand, paired by run and task."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from seal.arc.recipe import ArcRecipe
from seal.domains.study_plan import StudyPlan
from seal.intervals import GAINS, interval, span


@pytest.fixture(scope="module")
def compare() -> dict[str, Any]:
    return runpy.run_path(str(Path(__file__).parents[2] / "experiments" / "compare.py"))


def test_differences_are_paired_by_run_and_task(compare: dict[str, Any]) -> None:
    after = {run: dict.fromkeys("abcdefg", 0.5) for run in ("r1", "r2", "r3")}
    before = {"r1": dict.fromkeys("abcdefg", 0.1), "r2": dict.fromkeys("abc", 0.3), "other": {"a": 1.0}}
    line = compare["difference"](before, after)
    expected = interval([0.4] * 7 + [0.2] * 3, bounds=GAINS)
    assert f"{expected.mean:+.1%}" == "+34.0%"
    assert f"after RL minus this +34.0%  {span(expected.low, expected.high, sign=True)} over 10" in line
    assert "runs" not in line, "two runs have no interval"
    runs = interval([0.4, 0.2, 0.5], bounds=GAINS)
    line = compare["difference"](before | {"r3": {"g": 0.0}}, after)
    assert line.endswith(f"over 3 runs {span(runs.low, runs.high, sign=True)}")
    assert compare["difference"]({"r4": {"a": 0.0}}, after) == ""


def test_plans_and_recipes_are_named_and_texts_are_not(compare: dict[str, Any]) -> None:
    assert compare["chosen"](StudyPlan("gaps", "answers", 1e-3).to_json()) == "gaps, answers, 0.001"
    rest = {"size": False, "chain": False, "repeat": False, "strategy": "train_using_output_tokens"}
    for basic, colour, name in (
        (True, False, "basic"),
        (True, True, "basic, colours"),
        (False, True, "colours"),
        (False, False, "no augmentation"),
    ):
        recipe = ArcRecipe(basic=basic, colour=colour, learning_rate=1e-3, epochs=1, **rest)
        assert compare["chosen"](recipe.to_json()) == name
    assert compare["chosen"]("Vell lies on the Osk.") == ""


def test_the_picture_has_the_arms_that_were_measured(compare: dict[str, Any]) -> None:
    arms = {name: {"r": {"a": 0.0, "b": 1.0}} for name in ("oracle", "self_edit_rl", "base", "base_rl")}
    chart = compare["chart"](arms)
    assert [bar.label for bar in chart.bars] == ["base", "self-edit after RL", "oracle"]
    assert {bar.value for bar in chart.bars} == {0.5}
