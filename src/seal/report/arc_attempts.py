"""The attempts of one held-out arm at every test of a few-shot run, as a submission wants them."""

from __future__ import annotations

from seal.arc.vote import Attempts
from seal.errors import DataError
from seal.records import Performance
from seal.report.history import History


def attempts_by_test(history: History, arm: str = "") -> tuple[str, dict[str, Attempts | None]]:
    """The arm ("": the one measured last), and its two attempts by test (`task-0`, `task-1`, ...).

    Where an arm has several self-edits a task, the first one counts: whose answer is right is not known to
    whoever submits. None: no view gave a valid grid.

    Raises:
        DataError: the run is of another domain, or has no such arm.
    """
    if history.config.domain != "few_shot_learning":
        raise DataError(
            f"{history.path} is a run of {history.config.domain}", "name a run of few_shot_learning"
        )
    arms = {score.arm: score for score in history.arms}
    if not arms or (arm and arm not in arms):
        known = ", ".join(arms) or "none was measured yet"
        raise DataError(f"{history.path} has no held-out arm {arm!r}", f"name one of {known}")
    chosen = arms[arm or list(arms)[-1]]
    measured: dict[str, Performance] = {}
    for trial in history.trials:
        if trial.arm == chosen.arm:
            measured.setdefault(trial.task_id, trial.after or trial.before)
    for (policy, task), baseline in history.baselines.items():
        if chosen.arm.startswith("base") and policy == chosen.policy:
            measured[task] = baseline.performance
    lacking = [task.task_id for task in chosen.tasks if task.task_id not in measured]
    if lacking:
        raise DataError(f"the arm {chosen.arm} keeps no attempts at {lacking[0]}", "name another --arm")
    return chosen.arm, {
        f"{task.task_id}-{i}": _pair(test.get("attempts"))
        for task in chosen.tasks
        for i, test in enumerate(measured[task.task_id].details.get("tests", ()))
    }


def _pair(grids: list[list[list[int]]] | None) -> Attempts | None:
    if not grids:
        return None
    first, second = (tuple(map(tuple, grid)) for grid in grids)
    return first, second
