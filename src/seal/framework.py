"""SEAL's outer loop (arXiv 2506.10943, Algorithm 1), from top to bottom.

A round samples tasks, lets the policy write self-edits, trains an adapter on each and measures what it was
worth, and trains the policy on the edits that helped. Before the rounds and after them, held-out tasks are
measured. Every finished item goes to the run's journal; what the journal holds is never done again, so
`run()` on a resumed run goes on where the last one stopped and ends with the same numbers.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING

from seal import setup
from seal.evaluation import base_arm, trained_arm
from seal.measure import Measurer, TrialSpec
from seal.models.load import LoadedModel, load_model
from seal.records import (
    ArmScore,
    Baseline,
    EditResult,
    Performance,
    Phase,
    Plan,
    PolicyUpdate,
    Reward,
    SelfEdit,
    Task,
    Trial,
)
from seal.restem import ReSTEMOptimizer, select
from seal.reward import aggregate, reward_value
from seal.seeds import derive
from seal.self_edit import SelfEditGenerator
from seal.settings import SEALConfig

if TYPE_CHECKING:
    from seal.track.run import Run

log = logging.getLogger(__name__)

#: Numbers of the two evaluations, in the place of a round's.
BEFORE, AFTER = -1, -2


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run came to: the held-out arms and the rounds."""

    arms: tuple[ArmScore, ...]
    updates: tuple[PolicyUpdate, ...]
    success_rates: tuple[float, ...]
    """Share of self-edits with a positive reward, a round."""

    def __str__(self) -> str:
        lines = []
        if self.arms:
            lines.append(
                f"held-out, {self.arms[0].n} questions of {len(self.arms[0].tasks)} tasks, no context"
            )
        for arm in self.arms:
            gain = ""
            if arm.arm != "base":
                gain = f"   gain {arm.gain:+6.1%}  [{arm.gain_low:+.1%}, {arm.gain_high:+.1%}]"
            lines.append(f"  {arm.arm:<14} {arm.mean:6.1%}  [{arm.low:.1%}, {arm.high:.1%}]{gain}")
        for update, rate in zip(self.updates, self.success_rates, strict=True):
            kept = f"kept {update.kept} of {update.of} self-edits"
            end = f"policy {update.policy}" if update.updated else update.why
            lines.append(f"round {update.iteration + 1}: {rate:.0%} of rewards positive, {kept}; {end}")
        return "\n".join(lines)


class SEALFramework:
    """One run of Algorithm 1.

    Args:
        config: the settings.
        run: an open run folder, new or to be resumed; None: a new one at `config.output_dir`.

    Raises:
        SealError: settings, data or model do not fit together (at construction or in `run`).
    """

    def __init__(self, config: SEALConfig, run: Run | None = None) -> None:
        from seal.track.run import Run, next_free

        self.config = config
        self.run_folder = run or Run.create(next_free(config.output_dir), config)
        self.tasks = {task.id: task for task in setup.load_tasks(config, "train")}
        held_out = config.evaluation.enabled
        self.val_tasks = setup.load_tasks(config, "val")[: config.evaluation.n_tasks] if held_out else []
        base = load_model(config.model_name, config.device, config.dtype)
        self.grader = setup.grader(config, base)
        self.domain = setup.make_domain(config, self.grader)
        self.reward_model = setup.reward_model(config, self.domain)
        self.optimizer = ReSTEMOptimizer(config.sft_recipe())
        self._use(base)

    def _use(self, policy: LoadedModel) -> None:
        """Make `policy` the one that writes and adapts from now on."""
        config = self.config
        self.policy = policy
        generator, loop = setup.engines(config, policy, self.grader)
        writer = getattr(self.domain, "writer", None)
        if writer is not None:
            generator = writer(generator, policy.tokenizer)
        self.writer = SelfEditGenerator(
            generator, self.domain, policy.tokenizer, config.sampling(), config.seed
        )
        pad_to = config.max_length if config.inner.pad_loss else 0
        self.measurer = Measurer(policy, self.domain, loop, config.lora_recipe(), config.seed, pad_to)
        self.chunk = 2 * loop.slots

    def run(self) -> Summary:
        """Evaluate, go through the rounds, evaluate again."""
        arms = self._evaluate_before()
        updates = [self._round(iteration) for iteration in range(self.config.max_outer_iterations)]
        arms += self._evaluate_after(arms, any(u.updated for u in updates))
        rates = tuple(self._success_rate(u.iteration) for u in updates)
        summary = Summary(tuple(arms), tuple(updates), rates)
        self.run_folder.record("summary", "final", summary)
        return summary

    def _round(self, iteration: int) -> PolicyUpdate:
        """One ReST-EM round (Algorithm 1, lines 2-9)."""
        done = self.run_folder.recall(PolicyUpdate, "update", str(iteration))
        if done is not None:
            return self._adopt(done)
        plan = self._plan(iteration)
        tasks = [self.tasks[name] for name in plan.task_ids]
        log.info("round %d: %s", iteration + 1, ", ".join(plan.task_ids))
        before = self._baselines(tasks, iteration)
        edits = self._write(tasks, self.config.samples_per_iteration, iteration)
        trials = self._adapt(edits, self.config.repeats, "train", iteration, before)
        results = self._reward(edits, trials)
        return self._update(iteration, edits, results)

    def _plan(self, iteration: int) -> Plan:
        """Sample the round's tasks; a pass over all of them comes before any is seen again."""
        known = self.run_folder.recall(Plan, "plan", str(iteration))
        if known is not None:
            return known
        count = min(self.config.tasks_per_iteration, len(self.tasks))
        chosen = sample_tasks(sorted(self.tasks), count, self.config.seed, iteration)
        plan = Plan(iteration, chosen, self.policy.version)
        self.run_folder.record("plan", str(iteration), plan)
        return plan

    def _baselines(self, tasks: Sequence[Task], iteration: int) -> dict[str, Performance]:
        """The policy's performance on `tasks` before any training; computed once a policy and task."""
        keys = {task.id: f"{self.policy.version}/{task.id}" for task in tasks}

        def recall(task: Task) -> Baseline | None:
            return self.run_folder.recall(Baseline, "baseline", keys[task.id])

        due = [t for t in tasks if (known := recall(t)) is None or known.iteration == iteration]
        if any(recall(task) is None for task in due):  # a batch cut short is answered again whole
            with self._phase("baseline", iteration) as phase:
                for baseline in self.measurer.baselines(due):
                    fresh = replace(baseline, iteration=iteration)
                    self._record_once("baseline", keys[baseline.task_id], fresh)
                    phase.tokens += sum(a.n_tokens for a in baseline.answers)
        return {b.task_id: b.performance for b in map(recall, tasks) if b is not None}

    def _write(self, tasks: Sequence[Task], n: int, iteration: int) -> list[SelfEdit]:
        """`n` self-edits a task. They are drawn in one batch, so they are taken or drawn again together."""
        names = [f"{task.id}.i{iteration}.e{k}" for task in tasks for k in range(n)]
        known = [self.run_folder.recall(SelfEdit, "edit", name) for name in names]
        if all(known):
            return [edit for edit in known if edit is not None]
        log.info("writing %d self-edits", len(names))
        with self._phase("write", iteration) as phase:
            edits = self.writer.generate(tasks, n, self.policy.version, iteration)
            phase.tokens = sum(edit.n_tokens for edit in edits)
        for edit in edits:
            self._record_once("edit", edit.id, edit)
        return edits

    def _adapt(
        self,
        edits: Sequence[SelfEdit],
        repeats: int,
        arm: str,
        iteration: int,
        before: dict[str, Performance],
    ) -> list[Trial]:
        """Train on every edit and measure. Work is journalled in chunks of fixed make-up.

        A chunk that a crash cut short is run again whole, so that every adapter trains in the same company
        (and, with it, to the same last bit) as in a run that was never interrupted.
        """
        specs = [TrialSpec(edit, r, arm, iteration) for edit in edits for r in range(repeats)]
        tasks = self.tasks | {task.id: task for task in self.val_tasks}
        trials: list[Trial] = []
        for number, start in enumerate(range(0, len(specs), self.chunk)):
            chunk = specs[start : start + self.chunk]
            known = [self.run_folder.recall(Trial, "trial", spec.key) for spec in chunk]
            if not all(known):
                with self._phase("adapt", iteration, f"{arm}-{number}") as phase:
                    for trial in self.measurer.trials(chunk, tasks, before):
                        self._record_once("trial", f"{trial.edit_id}/r{trial.repeat}", trial)
                        phase.tokens += trial.outcome.timings.train_tokens
                known = [self.run_folder.recall(Trial, "trial", spec.key) for spec in chunk]
            trials += [trial for trial in known if trial is not None]
            log.info("%s: %d of %d adapters measured", arm, len(trials), len(specs))
        return trials

    def _reward(self, edits: Sequence[SelfEdit], trials: Sequence[Trial]) -> list[EditResult]:
        """The reward of every edit: the mean over its repeats; 0 where it could not be applied."""
        results = []
        for edit in edits:
            mine = [t for t in trials if t.edit_id == edit.id]
            task = self.tasks[edit.task_id]
            values = [
                reward_value(self.reward_model, t.before, t.after, task) if t.after is not None else 0.0
                for t in mine
            ]
            before = mine[0].before.score
            after = fmean(t.after.score if t.after is not None else t.before.score for t in mine)
            problem = next((t.problem for t in mine if t.problem), "")
            reward = Reward(aggregate(values), {"gain": after - before}, why=problem)
            results.append(
                EditResult(
                    edit.id, edit.task_id, mine[0].iteration, before, after, tuple(values), reward, problem
                )
            )
        return results

    def _update(
        self, iteration: int, edits: Sequence[SelfEdit], results: Sequence[EditResult]
    ) -> PolicyUpdate:
        """ReST-EM: keep the edits that helped, train the policy on them, go on with what it became."""
        config, valid = self.config, [r for r in results if not r.problem]
        by_id = {edit.id: edit for edit in edits}
        selection = select(
            [(by_id[r.edit_id], r.reward) for r in valid],
            "best_of_k" if self.reward_model.keeps == "best" else config.keep,
            config.keep_k,
            threshold=self.reward_model.keep_above,
        )
        decided = {d.edit.id: d.reward for d in selection.decisions}
        for r in results:
            final = replace(r, reward=decided.get(r.edit_id, r.reward))
            self.run_folder.record("result", r.edit_id, final)
        folder = self.run_folder.checkpoints / f"policy-{iteration + 1}"
        pairs = [(prompt, completion) for prompt, completion in selection.pairs if completion.strip()]
        with self._phase("update", iteration):
            new = self.optimizer.update(self.policy, pairs, folder, derive(config.seed, "update", iteration))
        update = PolicyUpdate(
            iteration,
            new.version,
            f"checkpoints/{folder.name}" if new.updated else "",
            new.updated,
            len(pairs),
            len(results),
            selection.tied_tasks,
            new.losses,
            new.why,
        )
        self.run_folder.record("update", str(iteration), update)
        log.info("kept %d of %d self-edits; %s", len(pairs), len(results), new.why or f"policy {new.version}")
        return self._adopt(update)

    def _adopt(self, update: PolicyUpdate) -> PolicyUpdate:
        if update.updated and update.policy != self.policy.version:
            folder = self.run_folder.path / update.checkpoint
            self._use(load_model(str(folder), self.config.device, self.config.dtype))
        return update

    def _success_rate(self, iteration: int) -> float:
        rows = [
            self.run_folder.journal.get("result", row.key) for row in self.run_folder.journal.rows("result")
        ]
        rewards = [r["reward"]["value"] for r in rows if r is not None and r["iteration"] == iteration]
        return fmean(float(value) > 0 for value in rewards) if rewards else 0.0

    def _evaluate_before(self) -> list[ArmScore]:
        """Held-out arms of the untrained policy: base, references (the passage alone), its own self-edits."""
        wanted = self.config.evaluation.arms
        if not self.val_tasks:
            return []
        base, before = self._base("base", BEFORE)
        arms = [base]
        references = {task.id: self.domain.reference_edits(task) for task in self.val_tasks}
        for arm in dict.fromkeys(name for named in references.values() for name in named):
            edits = [
                SelfEdit(
                    f"{name}.{arm}", name, "", named[arm], derive(self.config.seed, name, arm), "reference"
                )
                for name, named in references.items()
                if arm in named
            ]
            if arm in wanted:
                arms.append(self._arm(arm, edits, BEFORE, before, base))
        if "self_edit" in wanted:
            edits = self._write(self.val_tasks, self.config.evaluation.samples, BEFORE)
            arms.append(self._arm("self_edit", edits, BEFORE, before, base))
        return arms

    def _evaluate_after(self, arms: Sequence[ArmScore], updated: bool) -> list[ArmScore]:
        """The self-edits of the trained policy; without an update they would be those from before."""
        if not (updated and self.val_tasks and "self_edit_rl" in self.config.evaluation.arms):
            return []
        base_rl, before = self._base("base_rl", AFTER)
        edits = self._write(self.val_tasks, self.config.evaluation.samples, AFTER)
        return [base_rl, self._arm("self_edit_rl", edits, AFTER, before, arms[0])]

    def _base(self, arm: str, iteration: int) -> tuple[ArmScore, dict[str, Performance]]:
        before = self._baselines(self.val_tasks, iteration)
        rows = [Baseline(t.id, self.policy.version, before[t.id]) for t in self.val_tasks]
        score = base_arm(rows, arm)
        self._record_once("arm", arm, score)
        return score, before

    def _arm(
        self,
        arm: str,
        edits: Sequence[SelfEdit],
        iteration: int,
        before: dict[str, Performance],
        base: ArmScore,
    ) -> ArmScore:
        trials = self._adapt(edits, 1, arm, iteration, before)
        score = trained_arm(arm, trials, base)
        self._record_once("arm", arm, score)
        return score

    def _record_once(self, kind: str, key: str, record: object) -> None:
        """Record what is new; an item that a crash left behind from a batch run again stays as it is."""
        if self.run_folder.journal.get(kind, key) is None:
            self.run_folder.record(kind, key, record)

    @contextmanager
    def _phase(self, name: str, iteration: int, part: str = "") -> Iterator[_Clock]:
        clock, started = _Clock(), time.perf_counter()
        yield clock
        phase = Phase(name, iteration, time.perf_counter() - started, clock.tokens)  # type: ignore[arg-type]
        self._record_once("phase", "/".join(filter(None, (name, str(iteration), part))), phase)


def sample_tasks(names: Sequence[str], count: int, seed: int, iteration: int) -> tuple[str, ...]:
    """The `count` tasks of a round: all different, and all are seen once before any is seen again."""
    queue: list[str] = []
    sweep = 0
    while len(queue) < (iteration + 1) * count:
        begun = set(queue[len(queue) // count * count :])  # what the round at the border has already
        order = random.Random(derive(seed, "tasks", sweep)).sample(names, len(names))
        queue += sorted(order, key=begun.__contains__)
        sweep += 1
    return tuple(queue[iteration * count : (iteration + 1) * count])


@dataclass(slots=True)
class _Clock:
    tokens: int = 0
