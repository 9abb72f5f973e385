"""Metrics of a run, computed from its journal alone: `metrics.jsonl`, reports and trackers show these.

A mean comes with its 95 % interval over tasks (`seal.intervals`), gains paired by task; with a
single task there is no interval. Where the paper reports points, an interval says how much of them is luck.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean
from typing import Any, TypeVar

from seal.errors import DataError
from seal.intervals import GAINS, SCORES
from seal.records import ArmScore, EditResult, Performance, Trial, Verdict
from seal.report.edit_quality import EditQuality, edit_quality
from seal.report.estimates import (
    Distribution,
    Mean,
    Reliability,
    arm_means,
    by_task,
    clustered,
    distribution,
    grouped,
    reliability,
    share,
    spikes,
    trend,
)
from seal.report.history import History
from seal.run.codec import encode

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FewShot:
    """Few-shot learning: shares of test grids and of cells, before and after."""

    grid_before: Mean
    grid_after: Mean
    cell_before: Mean
    cell_after: Mean
    valid: Mean
    """Share of adapted answers that were grids at all."""
    augmentations: dict[str, dict[str, float | int | None]]
    """Mean gain with an augmentation on and off, and how many self-edits: `on`, `off`, `n_on`, `n_off`."""


@dataclass(frozen=True, slots=True)
class RoundMetrics:
    """One ReST-EM round, over its finished self-edits."""

    iteration: int
    policy: str
    finished: bool
    tasks: int
    edits: int
    trials: int
    reward: Mean
    reward_spread: Distribution
    success_rate: Mean
    """Share of self-edits that helped: reward above the threshold, or, where the reward is the score itself
    (best_of_k), score above the one before."""
    before: Mean
    after: Mean
    gain: Mean
    gain_spread: Distribution
    improved: int
    unchanged: int
    worsened: int
    kept: int
    kept_gain: Mean | None
    tied_tasks: int
    """Tasks where order alone decided between equal rewards."""
    zero_variance_tasks: int
    """Tasks whose self-edits all earned the same, so that the round learned nothing from comparing them."""
    reliability: Reliability
    questions: Mean
    """Questions (or test grids) a task."""
    log_likelihood_gain: Mean | None
    """Rise of the gold answers' mean log-likelihood a token, in nats."""
    edit_tokens: Mean
    cut_off: float
    """Share of self-edits that ran into the length limit."""
    duplicates: float
    """Share of self-edits equal to an earlier one of the same task, white space aside."""
    invalid: int
    """Self-edits that could not be applied."""
    judge_errors: int
    """Answers that the grader could not grade."""
    first_loss: float | None
    """Mean loss of the adapters' first and last step, in nats a token."""
    last_loss: float | None
    loss_spikes: float
    """Share of trainings whose loss jumped (see `seal.report.estimates.SPIKE`) or was not finite."""
    updated: bool
    update_first_loss: float | None
    update_last_loss: float | None
    few_shot: FewShot | None
    quality: EditQuality | None
    only_scored: bool = False
    """Whether nothing was answered, so that `before` and `after` are the gold tokens' mean probability."""


@dataclass(frozen=True, slots=True)
class Dynamics:
    """How the rounds developed."""

    rounds: int
    reward_trend: Mean | None
    """Change of the mean reward a round, least squares; None with fewer than two rounds."""
    gain_trend: Mean | None
    reward_std: float | None
    """Mean over rounds of the rewards' standard deviation in a round."""
    reward_jump: float | None
    """Mean absolute change of the mean reward from round to round: small is stable."""
    reliability: Reliability
    success_rate: float | None
    """Over all self-edits of all rounds."""


@dataclass(frozen=True, slots=True)
class RunMetrics:
    """Everything that is shown of a run."""

    rounds: tuple[RoundMetrics, ...]
    dynamics: Dynamics
    arms: tuple[dict[str, Any], ...]
    """Held-out arms: `arm`, `n`, `tasks`, `score` and `gain` as `Mean`; `log_likelihood_gain` is how much
    likelier the gold answers became than to the base arm, in nats a token, None where it is not known;
    `quality` is an `EditQuality`, None in an arm without self-edits."""
    seconds: dict[str, float]
    tokens: dict[str, int]


def run_metrics(history: History) -> RunMetrics:
    """All metrics of a run, as far as it has come."""
    rounds = tuple(round_metrics(history, i) for i in history.rounds if history.results_of.get(i))
    return RunMetrics(
        rounds=rounds,
        dynamics=_dynamics(history, rounds),
        arms=tuple(_arms(history)),
        seconds=_by_phase(history, lambda phase: phase.seconds),
        tokens=_by_phase(history, lambda phase: phase.tokens),
    )


def round_metrics(history: History, iteration: int) -> RoundMetrics:
    """The metrics of one round. Raises `DataError` when none of its self-edits has a result yet."""
    results = history.results_of.get(iteration, [])
    if not results:
        raise DataError(f"round {iteration} has no results yet", "wait for the round to end")
    rewards = by_task(results, lambda r: r.reward.value)
    gains = by_task(results, lambda r: r.after - r.before)
    helped = success(history)
    trials = [t for r in results for t in history.trials_of.get(r.edit_id, [])]
    kept = [r for r in results if r.reward.kept]
    update = history.updates.get(iteration)
    edits = [history.edits[r.edit_id] for r in results if r.edit_id in history.edits]
    losses = [t.outcome.losses for t in trials if t.outcome.losses]
    sizes = {t.task_id: [float(t.before.n)] for t in trials}
    return RoundMetrics(
        iteration=iteration,
        policy=history.plans[iteration].policy if iteration in history.plans else "",
        finished=update is not None,
        tasks=len(rewards),
        edits=len(results),
        trials=len(trials),
        reward=clustered(rewards),
        reward_spread=distribution([r.reward.value for r in results]),
        success_rate=clustered(by_task(results, lambda r: float(helped(r))), SCORES),
        before=clustered(by_task(results, lambda r: r.before), SCORES),
        after=clustered(by_task(results, lambda r: r.after), SCORES),
        gain=clustered(gains, GAINS),
        gain_spread=distribution([r.after - r.before for r in results]),
        improved=sum(r.after > r.before for r in results),
        unchanged=sum(r.after == r.before for r in results),
        worsened=sum(r.after < r.before for r in results),
        kept=len(kept),
        kept_gain=clustered(by_task(kept, lambda r: r.after - r.before), GAINS) if kept else None,
        tied_tasks=len(update.tied_tasks) if update else 0,
        zero_variance_tasks=sum(len(values) > 1 and len(set(values)) == 1 for values in rewards.values()),
        reliability=reliability(results),
        questions=clustered(sizes),
        log_likelihood_gain=_log_likelihood_gain(trials),
        edit_tokens=clustered(grouped((e.task_id, float(e.n_tokens)) for e in edits)),
        cut_off=share(e.finish == "length" for e in edits),
        duplicates=_duplicates((e.task_id, e.completion) for e in edits),
        invalid=sum(bool(r.problem) for r in results),
        judge_errors=sum(a.verdict is Verdict.ERROR for t in trials for a in t.outcome.adapted),
        first_loss=fmean(steps[0] for steps in losses) if losses else None,
        last_loss=fmean(steps[-1] for steps in losses) if losses else None,
        loss_spikes=share(spikes(steps) for steps in losses),
        updated=update.updated if update else False,
        update_first_loss=update.losses[0] if update and update.losses else None,
        update_last_loss=update.losses[-1] if update and update.losses else None,
        few_shot=_few_shot(history, results, trials),
        quality=None if history.config.domain == "few_shot_learning" else edit_quality(trials, history.edits),
        only_scored=any(_only_scored(t.after) for t in trials),
    )


def _only_scored(performance: Performance | None) -> bool:
    return performance is not None and performance.log_likelihood is not None and not performance.correct


def success(history: History) -> Callable[[EditResult], bool]:
    """Whether a self-edit helped, by the run's own reward (see `RoundMetrics.success_rate`)."""
    threshold = history.config.reward_threshold
    if history.config.reward == "best_of_k":
        return lambda result: result.after > result.before + threshold
    return lambda result: result.reward.value > threshold


def lines(metrics: RunMetrics) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`: `kind` is round, dynamics, arm or phase."""
    rows = [{"kind": "round"} | encode(r) for r in metrics.rounds]
    rows.append({"kind": "dynamics"} | encode(metrics.dynamics))
    rows += [{"kind": "arm"} | encode(arm) for arm in metrics.arms]
    for name, seconds in metrics.seconds.items():
        rows.append({"kind": "phase", "name": name, "seconds": seconds, "tokens": metrics.tokens[name]})
    return rows


def flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of one line, for trackers: `reward/mean`, …; lists and texts are left out."""
    numbers: dict[str, float] = {}
    for key, value in data.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            numbers |= flat(value, f"{name}/")
        elif isinstance(value, bool | int | float):
            numbers[name] = float(value)
    return numbers


def _dynamics(history: History, rounds: Sequence[RoundMetrics]) -> Dynamics:
    of = [history.results_of[r.iteration] for r in rounds]
    helped = success(history)
    return Dynamics(
        rounds=len(rounds),
        reward_trend=trend([by_task(results, lambda r: r.reward.value) for results in of]),
        gain_trend=trend([by_task(results, lambda r: r.after - r.before) for results in of]),
        reward_std=fmean(r.reward_spread.std for r in rounds) if rounds else None,
        reward_jump=fmean(abs(b.reward.mean - a.reward.mean) for a, b in pairwise(rounds))
        if len(rounds) > 1
        else None,
        reliability=reliability([_in_round(r) for r in history.results]),
        success_rate=share(helped(r) for r in history.results) if history.results else None,
    )


def _in_round(result: EditResult) -> EditResult:
    """The result with its round in the task's name, so that edits are compared within one round."""
    return replace(result, task_id=f"{result.iteration}/{result.task_id}")


def _arms(history: History) -> Iterable[dict[str, Any]]:
    for arm in history.arms:
        score, gain = arm_means(arm)
        yield {
            "arm": arm.arm,
            "policy": arm.policy,
            "tasks": len(arm.tasks),
            "n": arm.n,
            "score": score,
            "gain": gain,
            "log_likelihood_gain": _arm_likelihood(history, arm),
            "quality": edit_quality((t for t in history.trials if t.arm == arm.arm), history.edits),
        }


def _arm_likelihood(history: History, arm: ArmScore) -> Mean | None:
    base = next((a.policy for a in history.arms if a.arm == "base"), "")
    unaided = {task: b.performance.log_likelihood for (p, task), b in history.baselines.items() if p == base}
    if arm.arm.startswith("base"):
        found = [(t, b.performance) for (p, t), b in history.baselines.items() if p == arm.policy != base]
    else:
        found = [(t.task_id, t.after) for t in history.trials if t.arm == arm.arm and t.after is not None]
    gains = [
        (task, performance.log_likelihood - before)
        for task, performance in found
        if performance.log_likelihood is not None and (before := unaided.get(task)) is not None
    ]
    return clustered(grouped(gains)) if gains else None


def _by_phase(history: History, value: Callable[[Any], T]) -> dict[str, T]:
    totals: dict[str, Any] = {}
    for phase in history.phases:
        totals[phase.name] = totals.get(phase.name, 0) + value(phase)
    return totals


def _log_likelihood_gain(trials: Sequence[Trial]) -> Mean | None:
    gains = [
        (t.task_id, t.after.log_likelihood - t.before.log_likelihood)
        for t in trials
        if t.after is not None and t.after.log_likelihood is not None and t.before.log_likelihood is not None
    ]
    return clustered(grouped(gains)) if gains else None


def _few_shot(history: History, results: Sequence[EditResult], trials: Sequence[Trial]) -> FewShot | None:
    measured = [t for t in trials if t.after and isinstance(t.after.details.get("cell_accuracy"), float)]
    if not measured:
        return None

    def mean(name: str, before: bool) -> Mean:
        pairs = [(t.task_id, t.before if before else t.after) for t in measured]
        return clustered(grouped((task, float(p.details.get(name, 0.0))) for task, p in pairs if p), SCORES)

    return FewShot(
        grid_before=mean("grid_accuracy", True),
        grid_after=mean("grid_accuracy", False),
        cell_before=mean("cell_accuracy", True),
        cell_after=mean("cell_accuracy", False),
        valid=mean("valid", False),
        augmentations=_augmentations(history, results),
    )


def _augmentations(
    history: History, results: Sequence[EditResult]
) -> dict[str, dict[str, float | int | None]]:
    from seal.arc.recipe import RecipeError, effectiveness, parse_recipe

    tried = []
    for result in results:
        edit = history.edits.get(result.edit_id)
        if edit is None or result.problem:
            continue
        try:
            tried.append((parse_recipe(edit.completion), result.after - result.before))
        except RecipeError:
            continue
    return {
        name: {"on": e.on, "off": e.off, "n_on": e.n_on, "n_off": e.n_off}
        for name, e in effectiveness(tried).items()
    }


def _duplicates(texts: Iterable[tuple[str, str]]) -> float:
    seen: set[tuple[str, str]] = set()
    repeated: list[bool] = []
    for task, text in texts:
        plain = (task, " ".join(text.split()))
        repeated.append(plain in seen)
        seen.add(plain)
    return share(repeated)
