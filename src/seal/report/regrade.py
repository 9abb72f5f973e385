"""Grade a run's stored answers again with another grader: agreement, and the rewards as they would have been.

Nothing is trained and nothing is overwritten; each result is a new file in the run folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from seal.errors import ConfigError, RunError
from seal.evaluation import base_arm, trained_arm
from seal.grading import Grade, Grader, cohens_kappa
from seal.records import Answer, ArmScore, Baseline, Performance, Question, Task, Trial, Verdict
from seal.report.history import History
from seal.reward import aggregate, reward_value
from seal.setup import make_domain, reward_model

Item = tuple[Question, str]


@dataclass(frozen=True, slots=True)
class EditChange:
    """One self-edit under both graders."""

    edit_id: str
    task_id: str
    iteration: int
    old_reward: float
    new_reward: float | None
    """None where an answer it rests on could not be graded."""
    kept: bool


@dataclass(frozen=True, slots=True)
class ArmChange:
    """One held-out arm under both graders."""

    arm: str
    old: float
    new: float | None
    old_gain: float
    new_gain: float | None
    new_gain_low: float | None
    new_gain_high: float | None


@dataclass(frozen=True, slots=True)
class Regrade:
    """What another grader makes of a run."""

    grader: str
    answers: int
    """Stored answers with a verdict of the run's own grader."""
    errors: int
    """Answers that the new grader could not grade; they are left out, never counted as wrong."""
    agreement: float
    kappa: float
    table: dict[str, int]
    """Answers by verdict, the run's grader first: `correct/wrong`, …"""
    edits: tuple[EditChange, ...]
    arms: tuple[ArmChange, ...]
    same_best: float | None
    """Share of tasks, a round each, whose best self-edit is the same one (or tied) under both graders."""


def regrade(history: History, tasks: Mapping[str, Task], grader: Grader, name: str) -> Regrade:
    """Grade every stored answer again, each distinct one once.

    Raises:
        RunError: the run has no graded answers, or its questions cannot be had.
    """
    graded = _Graded(history, tasks, grader)
    old, new = graded.verdicts()
    if not old:
        raise RunError(f"{history.path}: no answer was graded by both graders", "check the new grader")
    edits = tuple(_edits(history, tasks, graded))
    return Regrade(
        grader=name,
        answers=len(graded.items),
        errors=graded.errors,
        agreement=fmean(a == b for a, b in zip(old, new, strict=True)),
        kappa=cohens_kappa(old, new),
        table={
            f"{_word(a)}/{_word(b)}": sum(x == a and y == b for x, y in zip(old, new, strict=True))
            for a in (True, False)
            for b in (True, False)
        },
        edits=edits,
        arms=tuple(_arms(history, graded)),
        same_best=_same_best(edits),
    )


def save(result: Regrade, folder: Path) -> Path:
    """Write `result` to the first free of `regrade-1.json`, `regrade-2.json`, … in `folder`."""
    text = json.dumps(asdict(result), indent=2, allow_nan=False) + "\n"
    number = 1
    while True:
        path = folder / f"regrade-{number}.json"
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            number += 1
            continue
        except OSError as error:
            fix = "free disk space, or check the folder"
            raise RunError(f"{path}: cannot be written: {error.strerror}", fix) from None
        return path


class _Graded:
    """The new grades of all stored answers of a run."""

    def __init__(self, history: History, tasks: Mapping[str, Task], grader: Grader) -> None:
        self.items: list[tuple[Answer, Item]] = []
        stored = [(b.task_id, b.answers) for b in history.baselines.values()]
        stored += [(t.task_id, t.outcome.adapted) for t in history.trials]
        for task_id, answers in stored:
            if any(a.verdict is not None for a in answers):
                questions = _questions(tasks, task_id, len(answers))
                self.items += [(a, (q, a.text)) for a, q in zip(answers, questions, strict=True)]
        if not self.items:
            fix = "give a run with graded questions, such as one of knowledge incorporation"
            raise RunError(f"{history.path}: no answer in it was graded by a grader", fix)
        distinct = list(dict.fromkeys(item for _, item in self.items))
        self._tasks = tasks
        self._grades: dict[Item, Grade] = dict(zip(distinct, grader.grade(distinct), strict=True))
        self.errors = sum(self._grades[item].verdict is Verdict.ERROR for _, item in self.items)

    def verdicts(self) -> tuple[list[bool], list[bool]]:
        """Old and new verdict of every answer that both graders graded."""
        pairs = [(answer.verdict, self._grades[item].verdict) for answer, item in self.items]
        sure = [(a, b) for a, b in pairs if a not in (None, Verdict.ERROR) and b is not Verdict.ERROR]
        return [a is Verdict.CORRECT for a, _ in sure], [b is Verdict.CORRECT for _, b in sure]

    def performance(
        self, old: Performance | None, task_id: str, answers: Sequence[Answer]
    ) -> Performance | None:
        """`old` with the new verdicts; None where one of them is an error, or there is nothing to grade."""
        if old is None or not answers:
            return old if old is not None and not answers else None
        questions = _questions(self._tasks, task_id, len(answers))
        verdicts = [self._grades[q, a.text].verdict for q, a in zip(questions, answers, strict=True)]
        if Verdict.ERROR in verdicts:
            return None
        correct = tuple(verdict is Verdict.CORRECT for verdict in verdicts)
        return replace(old, score=sum(correct) / len(correct), n=len(correct), correct=correct)

    def baseline(self, history: History, trial: Trial) -> Performance | None:
        """The new performance before `trial`."""
        return self.performance(trial.before, trial.task_id, history.before(trial))


def _questions(tasks: Mapping[str, Task], task_id: str, count: int) -> Sequence[Question]:
    task = tasks.get(task_id)
    questions = task.target if task is not None and isinstance(task.target, tuple) else ()
    if len(questions) != count or not all(isinstance(q, Question) for q in questions):
        raise RunError(
            f"the questions of task {task_id!r} cannot be had again: {len(questions)} for {count} answers",
            "run this where the run's data are, unchanged",
        )
    return questions


def _edits(history: History, tasks: Mapping[str, Task], graded: _Graded) -> list[EditChange]:
    model = reward_model(history.config, make_domain(history.config, None))
    changes = []
    for result in history.results:
        values: list[float | None] = []
        for trial in history.trials_of.get(result.edit_id, []):
            before = graded.baseline(history, trial)
            after = graded.performance(trial.after, trial.task_id, trial.outcome.adapted)
            if trial.after is None:
                values.append(0.0)
            elif before is None or after is None:
                values.append(None)
            else:
                values.append(reward_value(model, before, after, tasks[trial.task_id]))
        sure = [value for value in values if value is not None]
        new = aggregate(sure) if sure and len(sure) == len(values) else None
        changes.append(
            EditChange(
                result.edit_id,
                result.task_id,
                result.iteration,
                result.reward.value,
                new,
                result.reward.kept,
            )
        )
    return changes


def _arms(history: History, graded: _Graded) -> list[ArmChange]:
    """The arms as `seal.evaluation` would score them; one with an ungraded answer has no new score."""
    changes: list[ArmChange] = []
    base: ArmScore | None = None
    for arm in history.arms:
        new: ArmScore | None = None
        if arm.arm.startswith("base"):
            found = [_baseline(history, graded, arm.policy, task.task_id) for task in arm.tasks]
            whole = [b for b in found if b is not None]
            new = base_arm(whole, arm.arm) if len(whole) == len(found) else None
            base = base or new
        elif base is not None:
            trials = [_trial(history, graded, t) for t in history.trials if t.arm == arm.arm]
            sure = [t for t in trials if t is not None]
            new = trained_arm(arm.arm, sure, base) if sure and len(sure) == len(trials) else None
        changes.append(
            ArmChange(
                arm.arm,
                arm.mean,
                new.mean if new else None,
                arm.gain,
                new.gain if new else None,
                new.gain_low if new else None,
                new.gain_high if new else None,
            )
        )
    return changes


def _baseline(history: History, graded: _Graded, policy: str, task_id: str) -> Baseline | None:
    known = history.baselines.get((policy, task_id))
    performance = known and graded.performance(known.performance, task_id, known.answers)
    return replace(known, performance=performance) if known and performance else None


def _trial(history: History, graded: _Graded, trial: Trial) -> Trial | None:
    before = graded.baseline(history, trial)
    after = graded.performance(trial.after, trial.task_id, trial.outcome.adapted)
    if before is None or (after is None and trial.after is not None):
        return None
    return replace(trial, before=before, after=after)


def _same_best(edits: Sequence[EditChange]) -> float | None:
    groups: dict[tuple[int, str], list[EditChange]] = {}
    for edit in edits:
        groups.setdefault((edit.iteration, edit.task_id), []).append(edit)
    same = []
    for group in groups.values():
        rewards = [e.new_reward for e in group]
        known = [r for r in rewards if r is not None]
        if len(known) == len(rewards) and len(known) > 1:
            old_best = max(group, key=lambda e: e.old_reward)
            same.append(old_best.new_reward == max(known))
    return fmean(same) if same else None


def _word(correct: bool) -> str:
    return "correct" if correct else "wrong"


def grader_for(wanted: Mapping[str, Any], history: History) -> tuple[Grader, str]:
    """The grader that `wanted` (fields of `grader` in a config, `kind` at least) describes, and its name.

    Raises:
        ConfigError: it is unknown, or its settings do not fit it.
    """
    from pydantic import ValidationError

    from seal import setup
    from seal.grading import make_grader
    from seal.plugins import is_import_path
    from seal.sections import GraderConfig

    kind = str(wanted["kind"])
    if is_import_path(kind):
        return make_grader(kind), kind
    try:
        chosen = GraderConfig(**wanted)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "grader"
        raise ConfigError(f"{place}: {first['msg']}", "see `seal regrade --help`") from None
    config = history.config.model_copy(update={"grader": chosen})
    name = f"{chosen.kind} {chosen.model}" if chosen.kind == "judge" else chosen.kind
    if chosen.kind != "local":
        return setup.grader(config, None), name  # type: ignore[arg-type]  # only `local` looks at the model
    from seal.models.load import load_model

    return setup.grader(
        config, load_model(config.model_name, config.device, config.dtype, config.prompts())
    ), name
