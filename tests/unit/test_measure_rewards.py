"""The reliability and validity of rewards (`experiments/rewards/measure.py`) by hand computation."""

from __future__ import annotations

import math
import runpy
from pathlib import Path

import pytest

from seal.cloze import PROMPT
from seal.config import load_config
from seal.records import AdaptOutcome, Answer, Performance, Task, Trial, Verdict
from seal.run.folder import Run
from seal.setup import load_tasks

REWARDS = Path(__file__).parents[2] / "experiments" / "rewards"
MEASURE = runpy.run_path(str(REWARDS / "measure.py"))


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


def trial(task: Task, edit: int, repeat: int) -> Trial:
    """A better edit has more gaps and test questions right, and fewer reward questions."""
    gaps = sum(q.question.startswith(PROMPT[:8]) for q in task.target)
    own = (len(task.target) - gaps) // 2
    right = [i < edit for i in range(gaps)] + [i >= edit for i in range(own)] + [i < edit for i in range(own)]
    answers = tuple(
        Answer(f"{task.id}.q{i}", "", verdict=Verdict.CORRECT if yes else Verdict.WRONG, margin=-1.0)
        for i, yes in enumerate(right)
    )
    name, known = f"{task.id}.e{edit}", Performance(0.0)
    outcome = AdaptOutcome(name, adapted=answers)
    return Trial(name, task.id, repeat, "train", 0, "p", known, known, outcome, work=str(edit))


@pytest.mark.parametrize("config", ["cloze", "invented"])
def test_gaps_are_told_from_labelled_questions(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = load_config(REWARDS / f"{config}.yaml", None, {"data_config.max_samples": 3})
    with Run.create(tmp_path / "run", settings) as run:
        for task in load_tasks(settings, "train"):
            for edit in range(4):
                for repeat in range(2):
                    run.record("trial", f"{task.id}.e{edit}/r{repeat}", trial(task, edit, repeat))
    MEASURE["main"](str(tmp_path / "run"))
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "3 tasks, 12 edits, 2 repeats"
    names = ["accuracy", "choice", "contrast", "log-likelihood", "accuracy_choice"]
    cloze = ["cloze accuracy", "cloze choice", "cloze accuracy_choice"] * (config != "invented")
    assert [line.split("ICC")[0].rstrip() for line in lines if "ICC" in line] == names + cloze
    mean = {name: line for name, line in zip(names + cloze, lines, strict=False) if "accuracy" in name}
    for name, line in mean.items():
        sign = " 1.00" if "cloze" in name else "-1.00"
        assert line.endswith(f"validity {sign} [{sign.strip()}, {sign.strip()}] in 3 tasks")
        assert "ICC(1)  1.00" in line
    against = [line for line in lines if "against labelled" in line]
    assert [line.split("against")[0].rstrip() for line in against] == cloze
    worst = "-1.00 [-1.00, -1.00] in 3 tasks"
    for line in against[::2]:
        assert line.endswith(f"against labelled accuracy {worst}, accuracy_choice {worst}")
    assert against[1:2] == [line for line in against if "unknown" in line], "nothing was ranked"
