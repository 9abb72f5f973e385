"""Held-out arms side by side: each with its number of questions and a paired 95 % interval over tasks."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from seal.domains.base import BaseDomain
from seal.errors import ConfigError
from seal.estep import EStep
from seal.intervals import GAINS, SCORES, Interval, interval, span
from seal.records import ArmScore, Baseline, Performance, PolicyUpdate, SelfEdit, Task, TaskScore, Trial
from seal.seeds import derive
from seal.wording import counted

log = logging.getLogger(__name__)

#: Numbers of the evaluations, in the place of a round's.
BEFORE, AFTER, PLACEBO = -1, -2, -3
#: Arms that are measured only where the settings ask for them.
CONTROLS = ("constant", "fixed_prompts", "placebo")


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run came to: the held-out arms and the rounds."""

    arms: tuple[ArmScore, ...]
    updates: tuple[PolicyUpdate, ...]
    success_rates: tuple[float, ...]
    """Share of self-edits with a positive reward, a round."""
    asked: str = BaseDomain.asked
    rule: str = ""
    """Which self-edits are kept, in words."""

    def __str__(self) -> str:
        lines = []
        if self.arms:
            size = f"{counted(self.arms[0].n, 'question')} of {counted(len(self.arms[0].tasks), 'task')}"
            lines.append(f"held-out, {size}, {self.asked}")
        for arm in self.arms:
            gain = ""
            if arm.arm != "base":
                gain = f"   gain {arm.gain:+6.1%}  {span(arm.gain_low, arm.gain_high, sign=True)}"
            lines.append(f"  {arm.arm:<14} {arm.mean:6.1%}  {span(arm.low, arm.high)}{gain}")
        for update, rate in zip(self.updates, self.success_rates, strict=True):
            kept = f"kept {update.kept} of {counted(update.of, 'self-edit')}"
            kept += f" ({self.rule})" if self.rule else ""
            end = f"policy {update.policy}" if update.updated else update.why
            lines.append(f"round {update.iteration + 1}: {rate:.0%} of rewards positive, {kept}; {end}")
        return "\n".join(lines)


def base_arm(baselines: Sequence[Baseline], arm: str = "base") -> ArmScore:
    """The arm of the untrained policy."""
    tasks = tuple(TaskScore(b.task_id, b.performance.score, max(b.performance.n, 1)) for b in baselines)
    return compared_arm(arm, baselines[0].policy if baselines else "", tasks, tasks)


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
    return compared_arm(arm, trials[0].policy if trials else "", tasks, base.tasks)


def compared_arm(arm: str, policy: str, tasks: tuple[TaskScore, ...], base: Sequence[TaskScore]) -> ArmScore:
    """An arm's means and intervals over tasks, its gain paired with `base`."""
    unaided = {t.task_id: t.score for t in base}
    weights = [float(t.n) for t in tasks]
    score = interval([t.score for t in tasks], weights, SCORES)
    gain = Interval(0.0)
    if tasks is not base:
        gain = interval([t.score - unaided[t.task_id] for t in tasks], weights, GAINS)
    return ArmScore(arm, policy, tasks, sum(t.n for t in tasks), *score, *gain)


class HeldOut:
    """The held-out tasks and the arms that are compared on them.

    Args:
        domain: gives the reference edits (the passage alone, fixed recipes).
        tasks: held-out tasks; without any there are no arms.
        wanted: names of arms to measure; None: all that there are.
        samples: self-edits a task in the arms of the policy.
        in_context: also measure the untrained policy with the context in its prompts.
        seed: the run's seed.
    """

    def __init__(
        self,
        domain: BaseDomain,
        tasks: Sequence[Task],
        wanted: Sequence[str] | None,
        samples: int,
        seed: int,
        in_context: bool = False,
    ) -> None:
        self.domain, self.tasks, self.samples, self.seed = domain, list(tasks), samples, seed
        self.in_context = in_context
        self.wanted = None if wanted is None else set(wanted)
        self._by_id = {task.id: task for task in tasks}
        self._references = {task.id: domain.reference_edits(task) for task in tasks}
        if self.wanted is not None and self.tasks:
            self._check(self.wanted)

    def before(self, estep: EStep) -> list[ArmScore]:
        """Arms of the untrained policy: base, the domain's references, its own self-edits."""
        if not self.tasks:
            return []
        base, performances = self._base(estep, "base", BEFORE)
        arms = [base]
        if (
            self.wants("in_context", default=self.in_context)
            and type(self.domain).context_prompts is not BaseDomain.context_prompts
        ):
            arms.append(self._in_context(estep, base))
        for arm in self._reference_arms():
            if self.wants(arm):
                named = {task: edits[arm] for task, edits in self._references.items() if arm in edits}
                arms.append(self._arm(estep, arm, self._given(arm, named), BEFORE, performances, base))
        if self.wants("fixed_prompts", default=False):
            arms.append(self._arm(estep, "fixed_prompts", self._fixed(estep), BEFORE, performances, base))
        if self.wants("self_edit"):
            edits = estep.write(self.tasks, self.samples, BEFORE)
            arms.append(self._arm(estep, "self_edit", edits, BEFORE, performances, base))
        return arms

    def after(self, estep: EStep, arms: Sequence[ArmScore]) -> list[ArmScore]:
        """Self-edits of the policy after the rounds.

        If it is still the one from before, or if another model writes (a server), there is no such arm.
        """
        if not self.tasks or estep.policy.version == arms[0].policy or not self.wants("self_edit_rl"):
            return []
        if not getattr(estep.sampler and estep.sampler.generator, "follows_policy", True):
            log.warning("no self_edit_rl arm: the server that writes did not get the trained policy")
            return []
        base, performances = self._base(estep, "base_rl", AFTER)
        edits = estep.write(self.tasks, self.samples, AFTER)
        return [base, self._arm(estep, "self_edit_rl", edits, AFTER, performances, arms[0])]

    def _fixed(self, estep: EStep) -> list[SelfEdit]:
        """Of every task all that the policy writes to the fixed prompts, as one self-edit."""
        written: dict[str, list[str]] = defaultdict(list)
        for edit in estep.write_fixed(self.tasks, BEFORE):
            written[edit.task_id].append(edit.completion)
        joined = {task.id: self.domain.joined(task, written[task.id]) for task in self.tasks}
        return self._given("fixed_prompts", joined)

    def _given(self, arm: str, completions: Mapping[str, str]) -> list[SelfEdit]:
        """Self-edits that no policy wrote, by task."""
        return [
            SelfEdit(f"{name}.{arm}", name, "", completion, derive(self.seed, name, arm), "reference")
            for name, completion in completions.items()
        ]

    def _reference_arms(self) -> list[str]:
        return list(dict.fromkeys(name for named in self._references.values() for name in named))

    def _check(self, wanted: set[str]) -> None:
        """Raise `ConfigError` for an arm that there is not."""
        known = ["base", "in_context", *self._reference_arms(), "self_edit", "self_edit_rl", *CONTROLS]
        if type(self.domain).fixed_prompts is BaseDomain.fixed_prompts:
            known.remove("fixed_prompts")
        if unknown := sorted(wanted - set(known)):
            raise ConfigError(f"evaluation.arms names {unknown[0]!r}", f"this domain has {', '.join(known)}")

    def constant(self, estep: EStep, arms: Sequence[ArmScore], completion: str | None) -> list[ArmScore]:
        """One and the same self-edit for every task, measured with the untrained policy."""
        if not self.tasks or completion is None:
            return []
        _, performances = self._base(estep, "base", BEFORE)
        edits = self._given("constant", {task.id: completion for task in self.tasks})
        return [self._arm(estep, "constant", edits, BEFORE, performances, arms[0])]

    def placebo(self, estep: EStep, arms: Sequence[ArmScore]) -> list[ArmScore]:
        """Self-edits of a policy that was trained on as many of its own edits, picked at random."""
        if not self.tasks:
            return []
        base, performances = self._base(estep, "base_placebo", PLACEBO)
        edits = estep.write(self.tasks, self.samples, PLACEBO)
        return [base, self._arm(estep, "self_edit_placebo", edits, PLACEBO, performances, arms[0])]

    def wants(self, arm: str, default: bool = True) -> bool:
        """Whether the settings ask for `arm`; `default` where they name no arms."""
        return default if self.wanted is None else arm in self.wanted

    def _base(self, estep: EStep, arm: str, iteration: int) -> tuple[ArmScore, dict[str, Performance]]:
        performances = estep.baselines(self.tasks, iteration)
        rows = [Baseline(t.id, estep.policy.version, performances[t.id]) for t in self.tasks]
        return _noted(estep, base_arm(rows, arm)), performances

    def _in_context(self, estep: EStep, base: ArmScore) -> ArmScore:
        performances = estep.baselines(self.tasks, BEFORE, in_context=True)
        tasks = tuple(TaskScore(t.task_id, performances[t.task_id].score, t.n) for t in base.tasks)
        return _noted(estep, compared_arm("in_context", estep.policy.version, tasks, base.tasks))

    def _arm(
        self,
        estep: EStep,
        arm: str,
        edits: Sequence[SelfEdit],
        iteration: int,
        before: Mapping[str, Performance],
        base: ArmScore,
    ) -> ArmScore:
        trials = estep.adapt(edits, 1, arm, iteration, self._by_id, before)
        return _noted(estep, trained_arm(arm, trials, base))


def _noted(estep: EStep, score: ArmScore) -> ArmScore:
    """An arm that is journalled and said as soon as it is there: the end of a run may be hours away."""
    estep.record("arm", score.arm, score)
    log.info("held-out, %s: %.1f%%  %s", score.arm, 100 * score.mean, span(score.low, score.high))
    return score
