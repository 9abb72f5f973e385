"""Held-out arms side by side: each with its number of questions and a paired 95 % interval over tasks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

from seal.records import ArmScore, Baseline, TaskScore, Trial
from seal.statistics import bootstrap


def base_arm(baselines: Sequence[Baseline], arm: str = "base") -> ArmScore:
    """The arm of the untrained policy."""
    tasks = tuple(TaskScore(b.task_id, b.performance.score, max(b.performance.n, 1)) for b in baselines)
    return _arm(arm, baselines[0].policy if baselines else "", tasks, tasks)


def trained_arm(arm: str, trials: Sequence[Trial], base: ArmScore) -> ArmScore:
    """An arm of adapted models. An edit that could not be applied leaves the score where it was."""
    by_task: dict[str, list[float]] = defaultdict(list)
    size: dict[str, int] = {}
    for trial in trials:
        measured = trial.after if trial.after is not None else trial.before
        by_task[trial.task_id].append(measured.score)
        size[trial.task_id] = max(measured.n, 1)
    tasks = tuple(
        TaskScore(t.task_id, fmean(by_task[t.task_id]), size[t.task_id])
        for t in base.tasks
        if t.task_id in by_task
    )
    return _arm(arm, trials[0].policy if trials else "", tasks, base.tasks)


def _arm(arm: str, policy: str, tasks: tuple[TaskScore, ...], base: Sequence[TaskScore]) -> ArmScore:
    unaided = {t.task_id: t.score for t in base}
    weights = [float(t.n) for t in tasks]
    score = bootstrap([t.score for t in tasks], weights)
    gain = bootstrap([t.score - unaided[t.task_id] for t in tasks], weights)
    return ArmScore(arm, policy, tasks, sum(t.n for t in tasks), *score, *gain)
