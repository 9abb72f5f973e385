"""Answers before and after, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from seal.config import load_config
from seal.records import AdaptOutcome, Answer, Baseline, Performance, Question, Task, Trial, Verdict
from seal.report.before_after import Asked, before_after
from seal.report.history import History
from seal.run.journal import Journal

TASKS = {
    name: Task(name, "p", tuple(Question(f"{name}{i}?", f"gold {i}") for i in range(2))) for name in "abc"
}


def said(*texts: str) -> tuple[Answer, ...]:
    verdicts = [Verdict.CORRECT if text.startswith("gold") else Verdict.WRONG for text in texts]
    return tuple(Answer("q", text, verdict=verdict) for text, verdict in zip(texts, verdicts, strict=True))


def trial(arm: str, task: str, *texts: str, **more: Any) -> Trial:
    score, outcome = Performance(0.5), AdaptOutcome("j", adapted=said(*texts))
    return Trial(f"{task}.{arm}", task, 0, arm, -1, "v", score, more.get("after", score), outcome)


def history(*trials: Trial) -> History:
    base = {("v", name): Baseline(name, "v", Performance(0.0), said("x", "y"), -1) for name in TASKS}
    config = load_config(preset="test")
    return History(Path("."), config, (), 0, "", "", True, baselines=base, trials=trials)


def test_answers_given_with_the_passage_at_hand_are_not_those_before(tmp_path: Path) -> None:
    """A run keeps both under one policy; only those without the passage are a trial's answers before."""
    bare, reading = (Baseline("a", "v", Performance(0.0), said(text, "y"), -1) for text in ("x", "gold 0"))
    with Journal(tmp_path / "journal.jsonl") as journal:
        journal.append("baseline", "v/a", bare)
        journal.append("baseline", "v+context/a", reading)
        journal.append("trial", "a/r0", trial("self_edit", "a", "gold 0", "no"))
        found = History.of(journal.rows(), load_config(preset="test"), tmp_path)
    assert before_after(found, TASKS)[1][0].before == "x"
    assert found.before(found.trials[0]) == bare.answers


def test_what_was_learned_comes_first_one_question_a_task() -> None:
    found = history(
        trial("self_edit", "a", "gold 0", "gold 1"),
        trial("self_edit_rl", "a", "no", " two\nlines "),
        trial("self_edit_rl", "b", "no", "gold 1"),
        trial("self_edit_rl", "c", "", "no"),
    )
    arm, rows = before_after(found, TASKS)
    assert arm == "self_edit_rl"
    assert rows == [
        Asked("b1?", "gold 1", "y", "gold 1", False, True),
        Asked("a0?", "gold 0", "x", "no", False, False),
        Asked("c0?", "gold 0", "x", "–", False, False),
    ]
    assert before_after(found, TASKS, limit=1)[1] == rows[:1]
    assert before_after(history(), TASKS) == ("", [])
    assert before_after(found, {})[1] == []
