"""How reliable and how valid rewards are: `python experiments/rewards/measure.py RUN`.

A run whose tasks are asked reward questions and then test questions (`ask: both`), with two repeats or more.
For each candidate: ICC(1) of one repeat and ICC(k) of the mean of all, between edits within tasks (one-way,
Shrout and Fleiss 1979), and validity, the rank correlation within tasks between the reward in one repeat and
the accuracy on test questions in another. Intervals: 95 %, by drawing tasks with replacement. Tasks in which
all edits earn or answer the same rank nothing; they are left out of validity and counted.
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import permutations
from random import Random
from statistics import fmean, pvariance, variance

from seal.records import Answer, Trial, Verdict
from seal.report.history import read_history

Measured = Sequence[Sequence[float]]
"""Of one task: edits × repeats."""


def accuracy(answers: Sequence[Answer]) -> float:
    """Share of right answers."""
    return fmean(a.verdict is Verdict.CORRECT for a in answers)


def likelihood(answers: Sequence[Answer]) -> float:
    """Mean log-likelihood of a gold token, in nats."""
    return fmean((a.log_likelihood or 0.0) / max(a.reference_tokens, 1) for a in answers)


def choice(answers: Sequence[Answer]) -> float:
    """Share of gold answers above all wrong ones."""
    return fmean((a.margin or 0.0) > 0 for a in answers)


def contrast(answers: Sequence[Answer]) -> float:
    """By how much, in nats a token."""
    return fmean(a.margin or 0.0 for a in answers)


CANDIDATES: dict[str, Callable[[Sequence[Answer]], float]] = {
    "accuracy": accuracy,
    "choice": choice,
    "contrast": contrast,
    "log-likelihood": likelihood,
    "accuracy_choice": lambda answers: accuracy(answers) + choice(answers),
}


def icc(tasks: Sequence[Measured]) -> tuple[float, float]:
    """ICC(1) and ICC(k) between edits within tasks; NaN where nothing differs."""
    repeats = len(tasks[0][0])
    between = fmean(repeats * variance([fmean(edit) for edit in task]) for task in tasks)
    within = fmean(variance(edit) for task in tasks for edit in task)
    if not between:
        return math.nan, math.nan
    return (between - within) / (between + (repeats - 1) * within), (between - within) / between


def rank_correlations(reward: Measured, test: Measured) -> list[float]:
    """Spearman's correlations of a reward with test accuracy in another repeat; none where all are equal."""
    from scipy.stats import spearmanr

    found = []
    for mine, other in permutations(range(len(reward[0])), 2):
        x, y = [edit[mine] for edit in reward], [edit[other] for edit in test]
        if pvariance(x) and pvariance(y):
            found.append(float(spearmanr(x, y).statistic))
    return found


def resampled(
    count: int, statistic: Callable[[Sequence[int]], float], draws: int = 2000
) -> tuple[float, float]:
    """95 % interval of a statistic over tasks, by drawing tasks with replacement (seeded)."""
    chance = Random(0)
    values = sorted(
        value
        for value in (statistic(chance.choices(range(count), k=count)) for _ in range(draws))
        if not math.isnan(value)
    )
    if not values:
        return math.nan, math.nan
    return values[int(0.025 * len(values))], values[int(0.975 * len(values))]


def by_edit(trials: Sequence[Trial]) -> list[dict[str, list[Trial]]]:
    """Of every task, its edits with their repeats in order. Left out: edits that could not be applied, and
    second ones that came to the same training.
    """
    tasks: Mapping[str, dict[str, list[Trial]]] = defaultdict(lambda: defaultdict(list))
    for trial in sorted(trials, key=lambda t: (t.task_id, t.edit_id, t.repeat)):
        if trial.arm == "train" and trial.after is not None:
            tasks[trial.task_id][trial.edit_id].append(trial)
    most = max(len(edit) for task in tasks.values() for edit in task.values())
    whole = [{e[0].work: e for e in task.values() if len(e) == most} for task in tasks.values()]
    return [task for task in whole if len(task) > 1]


def main(folder: str) -> None:
    """Measure and print."""
    tasks = by_edit(read_history(folder).trials)

    def measured(score: Callable[[Sequence[Answer]], float], second: bool) -> list[Measured]:
        def half(trial: Trial) -> Sequence[Answer]:
            middle = len(trial.outcome.adapted) // 2
            return trial.outcome.adapted[middle:] if second else trial.outcome.adapted[:middle]

        return [[[score(half(t)) for t in edit] for edit in task.values()] for task in tasks]

    test = measured(accuracy, second=True)
    edits = sum(len(task) for task in tasks)
    print(f"{len(tasks)} tasks, {edits} edits, {len(test[0][0])} repeats")
    for name, score in CANDIDATES.items():
        reward = measured(score, second=False)
        ranked = [rank_correlations(r, t) for r, t in zip(reward, test, strict=True)]
        known = [fmean(r) for r in ranked if r]
        one, all_repeats = icc(reward)
        low, high = resampled(len(reward), lambda drawn, r=reward: icc([r[i] for i in drawn])[0])
        print(f"{name:<18} ICC(1) {one:5.2f} [{low:.2f}, {high:.2f}]  ICC(k) {all_repeats:5.2f}", end="  ")
        if not known:
            print("validity unknown: no task whose edits differ")
            continue
        low, high = resampled(len(known), lambda drawn, v=known: fmean(v[i] for i in drawn))
        print(f"validity {fmean(known):5.2f} [{low:.2f}, {high:.2f}] in {len(known)} tasks")


if __name__ == "__main__":
    main(sys.argv[1])
