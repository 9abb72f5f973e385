"""How reliable and how valid rewards are: `python experiments/rewards/measure.py RUN`.

A run whose tasks are asked reward questions and then test questions (`ask: both`), with two repeats or more.
For each candidate: ICC(1) of one repeat and ICC(k) of the mean of all, between edits within tasks (one-way,
Shrout and Fleiss 1979), and validity, the rank correlation within tasks between the reward in one repeat and
the accuracy on test questions in another. Intervals: 95 %, by drawing tasks with replacement. Tasks in which
all edits earn or answer the same rank nothing; they are left out of validity and counted.

Where the tasks ask gaps too (`questions: both`), these come first and are the reward without labels: measured
in the same way, and its rank correlation with the rewards with labels of another repeat.
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import permutations
from random import Random
from statistics import fmean, pvariance, variance
from typing import Literal

from seal.cloze import PROMPT
from seal.records import Answer, Trial, Verdict
from seal.report.history import History, read_history, read_tasks

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
WITHOUT_LABELS = ("accuracy", "choice", "accuracy_choice")
"""What is measured on gaps too."""


def icc(tasks: Sequence[Measured]) -> tuple[float, float]:
    """ICC(1) and ICC(k) between edits within tasks; NaN where nothing differs."""
    return icc_of([variances(task) for task in tasks], len(tasks[0][0]))


def variances(task: Measured) -> tuple[float, list[float]]:
    """Of the means of a task's edits, and of the repeats of each edit."""
    return variance([fmean(edit) for edit in task]), [variance(edit) for edit in task]


def icc_of(found: Sequence[tuple[float, list[float]]], repeats: int) -> tuple[float, float]:
    """The same from the `variances` of the tasks."""
    between = fmean(repeats * of_edits for of_edits, _ in found)
    within = fmean(one for _, of_repeats in found for one in of_repeats)
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


def correlation(rewards: Sequence[Measured], others: Sequence[Measured]) -> str:
    """Mean rank correlation within tasks with another repeat, its interval, and the tasks that it is of."""
    ranked = [rank_correlations(r, o) for r, o in zip(rewards, others, strict=True)]
    known = [fmean(r) for r in ranked if r]
    if not known:
        return "unknown: no task whose edits differ"
    low, high = resampled(len(known), lambda drawn: fmean(known[i] for i in drawn))
    return f"{fmean(known):5.2f} [{low:.2f}, {high:.2f}] in {len(known)} tasks"


def gap_counts(history: History) -> dict[str, int]:
    """How many gaps each task asks, before its other questions; empty where none does."""
    if history.config.data_config.questions != "both":
        return {}
    tasks, problem = read_tasks(history.config)
    if problem:
        sys.exit(f"the questions of the run cannot be read: {problem}")
    asked = PROMPT.partition("{")[0]
    return {name: sum(q.question.startswith(asked) for q in task.target) for name, task in tasks.items()}


def part(answers: Sequence[Answer], gaps: int, which: Literal["gaps", "reward", "test"]) -> Sequence[Answer]:
    """The answers to the gaps, which are asked first, to the reward questions, or to the test questions."""
    middle = gaps + (len(answers) - gaps) // 2
    return {"gaps": answers[:gaps], "reward": answers[gaps:middle], "test": answers[middle:]}[which]


def main(folder: str) -> None:
    """Measure and print."""
    history = read_history(folder)
    tasks, gaps = by_edit(history.trials), gap_counts(history)

    def measured(name: str, which: Literal["gaps", "reward", "test"]) -> list[Measured]:
        def score(trial: Trial) -> float:
            return CANDIDATES[name](part(trial.outcome.adapted, gaps[trial.task_id] if gaps else 0, which))

        return [[[score(t) for t in edit] for edit in task.values()] for task in tasks]

    test = measured("accuracy", "test")
    labelled = {name: measured(name, "reward") for name in CANDIDATES}
    free = {f"cloze {name}": measured(name, "gaps") for name in WITHOUT_LABELS} if gaps else {}
    edits = sum(len(task) for task in tasks)
    repeats = len(test[0][0])
    print(f"{len(tasks)} tasks, {edits} edits, {repeats} repeats")
    for name, reward in (labelled | free).items():
        one, all_repeats = icc(reward)
        found = [variances(task) for task in reward]
        low, high = resampled(len(found), lambda drawn, f=found: icc_of([f[i] for i in drawn], repeats)[0])
        print(f"{name:<{22 if free else 18}} ICC(1) {one:5.2f} [{low:.2f}, {high:.2f}]", end="  ")
        print(f"ICC(k) {all_repeats:5.2f}  validity {correlation(reward, test)}")
    for name, reward in free.items():
        with_labels = (f"{other} {correlation(reward, labelled[other])}" for other in WITHOUT_LABELS[::2])
        print(f"{name:<22} against labelled {', '.join(with_labels)}")


if __name__ == "__main__":
    main(sys.argv[1])
