"""A few held-out questions with the answers before and after training on a self-edit, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from seal.evaluation import BEFORE
from seal.records import Answer, Question, Task, Verdict
from seal.report.history import History

_ARMS = ("self_edit_rl", "self_edit", "passage")
"""Whose answers stand beside the base's: the first of these that was measured."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One question and what was said to it."""

    question: str
    gold: str
    before: str
    after: str
    right_before: bool
    right_after: bool


def before_after(history: History, tasks: Mapping[str, Task], limit: int = 5) -> tuple[str, list[Asked]]:
    """The arm that is shown, and at most `limit` questions of different tasks: those that were learned first.

    Empty where no held-out question was asked.
    """
    measured = {trial.arm for trial in history.trials if trial.after is not None}
    arm = next((name for name in _ARMS if name in measured), "")
    rows = sorted(_rows(history, tasks, arm), key=lambda row: (not row[1].right_after, row[1].right_before))
    seen: dict[str, Asked] = {}
    for task_id, row in rows:
        seen.setdefault(task_id, row)
    return arm, list(seen.values())[:limit]


def _rows(history: History, tasks: Mapping[str, Task], arm: str) -> Iterator[tuple[str, Asked]]:
    base = {task: b.answers for (_, task), b in history.baselines.items() if b.iteration == BEFORE}
    for trial in history.trials:
        if trial.arm != arm or trial.repeat or trial.after is None:
            continue
        target = tasks[trial.task_id].target if trial.task_id in tasks else ()
        questions = [q for q in target if isinstance(q, Question)] if isinstance(target, tuple) else []
        asked = zip(questions, base.get(trial.task_id, ()), trial.outcome.adapted, strict=False)
        for question, before, after in asked:
            said = _said(before), _said(after)
            yield (
                trial.task_id,
                Asked(question.question, question.answer, *said, _right(before), _right(after)),
            )


def _said(answer: Answer) -> str:
    return " ".join(answer.text.split()) or "–"


def _right(answer: Answer) -> bool:
    return answer.verdict is Verdict.CORRECT
