"""Held-out ARC tasks over several runs: what each arm solves, and which recipes the policy picks.

A task is "solvable" in a run if some recipe solved it there, whoever wrote it: the pre-filtered tasks of the
paper (section 4.1). Intervals are over tasks; a task's runs (seeds) are averaged first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from seal.arc.recipe import ArcRecipe, RecipeError, parse_recipe
from seal.arc.sources import domain_options
from seal.arc.synthetic import rule_preserving
from seal.domains.few_shot import FewShotLearning
from seal.errors import DataError
from seal.evaluation import AFTER, BEFORE
from seal.intervals import GAINS, SCORES, span
from seal.records import Task
from seal.report.estimates import Mean, clustered
from seal.report.history import History, read_tasks
from seal.settings import SEALConfig
from seal.wording import counted

#: Arms without training: the tasks are asked as they are, demonstrations in context.
UNTRAINED = ("base", "base_rl")


@dataclass(frozen=True, slots=True)
class ArmRow:
    """One arm on one kind of tasks: solved share of all of them, and of the solvable ones."""

    arm: str
    everything: Mean
    solvable: Mean


@dataclass(frozen=True, slots=True)
class Comparison:
    """One kind of held-out tasks (synthetic or real) over all runs."""

    kind: str
    n: int
    """Tasks, counted once a run."""
    n_solvable: int
    arms: tuple[ArmRow, ...]
    gains: tuple[tuple[str, Mean], ...]
    """What the policy after reinforcement learning solves more than another arm, paired by task and run."""


@dataclass(frozen=True, slots=True)
class Picks:
    """Share of recipes that preserve the rule of a held-out synthetic task; None: none were written."""

    chance: float
    """Of the recipes there are, each as likely."""
    before: Mean | None
    after: Mean | None


def keeps_rule(recipe: ArcRecipe, preserved: frozenset[str]) -> bool:
    """Whether a recipe switches on at least one augmentation, and only such as preserve the rule."""
    on = {*recipe.groups, *(("colour",) if recipe.permutes_colours else ())}
    return bool(on) and on <= preserved


def compare(histories: Sequence[History]) -> tuple[list[Comparison], Picks | None]:
    """The held-out arms of runs of the few-shot domain, and the policy's picks on synthetic tasks.

    Raises:
        DataError: a run is of another domain, or its tasks cannot be read.
    """
    tasks = [_tasks(history) for history in histories]
    found = []
    for kind in ("synthetic", "real"):
        chosen = [{t for t, task in known.items() if _kind(task) == kind} for known in tasks]
        row = _comparison(kind, histories, chosen)
        if row.n:
            found.append(row)
    return found, _picks(histories, tasks)


def _tasks(history: History) -> dict[str, Task]:
    if history.config.domain != "few_shot_learning":
        raise DataError(
            f"{history.path} is a run of {history.config.domain}", "name runs of few_shot_learning"
        )
    tasks, problem = read_tasks(history.config)
    if problem:
        raise DataError(f"the tasks of {history.path} cannot be read: {problem}")
    return tasks


def _kind(task: Task) -> str:
    return "real" if rule_preserving(task) is None else "synthetic"


def _comparison(kind: str, histories: Sequence[History], chosen: Sequence[set[str]]) -> Comparison:
    scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    filtered: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    n = n_solvable = 0
    for history, wanted in zip(histories, chosen, strict=True):
        solved = {
            t.task_id for a in history.arms if a.arm not in UNTRAINED for t in a.tasks if t.score > 0
        } & wanted
        held_out = {t.task_id for arm in history.arms for t in arm.tasks} & wanted
        n, n_solvable = n + len(held_out), n_solvable + len(solved)
        for arm in history.arms:
            for task in arm.tasks:
                if task.task_id in wanted:
                    scores[arm.arm][task.task_id].append(task.score)
                    if task.task_id in solved:
                        filtered[arm.arm][task.task_id].append(task.score)
    rows = tuple(
        ArmRow(arm, clustered(by, SCORES), clustered(filtered[arm], SCORES)) for arm, by in scores.items()
    )
    return Comparison(kind, n, n_solvable, rows, tuple(_gains(scores)))


def _gains(scores: Mapping[str, Mapping[str, Sequence[float]]]) -> Iterable[tuple[str, Mean]]:
    after = scores.get("self_edit_rl", {})
    for other in ("self_edit", "random", "oracle"):
        pairs = {
            task: zip(after[task], values, strict=False)
            for task, values in scores.get(other, {}).items()
            if task in after
        }
        if pairs:
            yield other, clustered({task: [a - b for a, b in both] for task, both in pairs.items()}, GAINS)


def _picks(histories: Sequence[History], tasks: Sequence[dict[str, Task]]) -> Picks | None:
    chance: dict[str, list[float]] = defaultdict(list)
    written: dict[int, dict[str, list[float]]] = {BEFORE: defaultdict(list), AFTER: defaultdict(list)}
    for history, known in zip(histories, tasks, strict=True):
        recipes = list(_domain(history.config).space.recipes())
        for edit in history.edits.values():
            preserved = rule_preserving(known[edit.task_id])
            iteration = edit.id.rsplit(".i", 1)[-1].split(".e")[0]
            if preserved is None or iteration not in (str(BEFORE), str(AFTER)):
                continue
            written[int(iteration)][edit.task_id].append(float(_keeps(edit.completion, preserved)))
            chance[edit.task_id].append(fmean(keeps_rule(recipe, preserved) for recipe in recipes))
    if not chance:
        return None
    before, after = (clustered(written[i], SCORES) if written[i] else None for i in (BEFORE, AFTER))
    return Picks(clustered(chance).mean, before, after)


def _keeps(completion: str, preserved: frozenset[str]) -> bool:
    try:
        return keeps_rule(parse_recipe(completion), preserved)
    except RecipeError:
        return False


def _domain(config: SEALConfig) -> FewShotLearning:
    return FewShotLearning(**domain_options(config.data_config.options))


def lines(histories: Sequence[History]) -> Iterable[str]:
    """The comparison as text."""
    comparisons, picks = compare(histories)
    seeds = ", ".join(str(history.config.seed) for history in histories)
    yield f"{counted(len(histories), 'run')}, {'seed' if len(histories) == 1 else 'seeds'} {seeds}"
    for found in comparisons:
        yield f"held-out {found.kind} tasks: {found.n}; some recipe solved {found.n_solvable}"
        yield f"  {'arm':<16} {'all':>7} {'':<16} {'solvable':>7}"
        means = {row.arm: row.everything.mean for row in found.arms}
        for row in found.arms:
            yield f"  {row.arm:<16} {_shown(row.everything)}   {_shown(row.solvable)}"
        yield from (f"  self_edit_rl - {other:<9} {_shown(gain)}" for other, gain in found.gains)
        yield from _ratios(means)
    if picks is not None:
        named = (("before RL", picks.before), ("after RL", picks.after))
        yield "recipes that preserve a synthetic task's rule"
        yield f"  {'by chance':<16} {picks.chance:>7.1%}"
        yield from (f"  {name:<16} {_shown(mean)}" for name, mean in named if mean is not None)


def _ratios(means: dict[str, float]) -> Iterable[str]:
    best = means.get("self_edit_rl")
    for other in ("random", "oracle"):
        if best is not None and means.get(other):
            yield f"  self_edit_rl is {best / means[other]:.2f} times {other}"


def _shown(mean: Mean) -> str:
    return f"{mean.mean:>7.1%} {span(mean.low, mean.high):<16}"
