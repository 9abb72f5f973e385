"""SEAL's outer loop (arXiv 2506.10943, Algorithm 1), from top to bottom.

A round samples tasks, lets the policy write self-edits, trains an adapter on each and measures what it was
worth, and trains the policy on the edits that helped. Before the rounds and after them, held-out tasks are
measured. Every finished item goes to the run's journal; what the journal holds is never done again, so
`run()` on a resumed run goes on where the last one stopped and ends with the same numbers.
"""

from __future__ import annotations

import gc
import logging
import random
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING

from seal import setup, trace
from seal.controls import Controls
from seal.data.load_report import note_loaded
from seal.errors import RunError
from seal.evaluation import HeldOut, Summary
from seal.launch import Together
from seal.models.checkpoint import verify_checkpoint
from seal.models.load import load_model, require_model
from seal.records import EditResult, Plan, PolicyUpdate, SelfEdit
from seal.restem import FEW_UPDATES, ReSTEMOptimizer
from seal.reward import edit_results
from seal.seeds import derive
from seal.selection import select
from seal.settings import SEALConfig
from seal.spending import FILE as SPENDING
from seal.wording import counted
from seal.writers import Writers

if TYPE_CHECKING:
    from seal.estep import EStep
    from seal.run.folder import Run

log = logging.getLogger(__name__)


class SEALFramework:
    """One run of Algorithm 1.

    Args:
        config: the settings.
        run: an open run folder, new or to be resumed; None: a new one at `config.output_dir`.

    Raises:
        SealError: settings, data or model do not fit together (at construction or in `run`).
    """

    def __init__(self, config: SEALConfig, run: Run | None = None) -> None:
        from seal.run.folder import Run, next_free

        require_model(config.model_name, config.device, config.dtype)
        self.config = config
        self.folder = run or Run.create(next_free(config.output_dir), config)
        data = setup.load_data(config)
        base = load_model(config.model_name, config.device, config.dtype, config.prompts())
        self.purse = setup.purse(config)
        self.purse.keep_in(self.folder.path / SPENDING)
        self.grader = setup.grader(config, base, self.purse)
        self.domain = setup.make_domain(config, self.grader)
        self.data = setup.fitting(data, self.domain, base)
        self.tasks = {task.id: task for task in self.data.train}
        evaluation, val_tasks = config.evaluation, self.data.val
        setup.check_tasks(self.domain, [*self.tasks.values(), *val_tasks], base)
        self.base_version = base.version
        self.reward_model = setup.reward_model(config, self.domain)
        sft = config.sft
        together = Together(sft.processes, sft.shard)
        follows = config.generation.follows
        self.optimizer = ReSTEMOptimizer(sft.training(), together=together, adapters=follows)
        self.held_out = HeldOut(
            self.domain, val_tasks, evaluation.arms, evaluation.samples, config.seed, evaluation.in_context
        )
        self.writers = Writers(
            config.generation, config.model_name, config.sft.rank, self.purse, self.folder.logs
        )
        self.estep = setup.estep(config, self.folder, self.domain, self.grader, base, self.writers)

    def run(self) -> Summary:
        """Evaluate, go through the rounds, evaluate again."""
        self._note_data()
        arms = self.held_out.before(self.estep)
        updates = [self._round(iteration) for iteration in range(self.config.max_outer_iterations)]
        arms += self.held_out.after(self._adopt(updates), arms)
        controls = Controls(self.folder, self.held_out, self.optimizer, self.config.seed, self._adopt)
        arms += controls.measure(updates, arms)
        self.estep.close()
        rates = tuple(self._success_rate(update.iteration) for update in updates)
        summary = Summary(tuple(arms), tuple(updates), rates, self.domain.asked, self._rule())
        self.folder.record("summary", "final", summary)
        return summary

    def close(self) -> None:
        """Write down what servers have cost, and end what the run has started."""
        self.purse.close()
        self.writers.close()

    def _rule(self) -> str:
        """Which self-edits are kept, in words."""
        config = self.config
        if config.keep == "positive":
            return f"each with a reward above {config.reward_threshold:g}"
        best = "the best" if config.keep_k == 1 else f"the {config.keep_k} best"
        return f"{best} of each task that beat no training"

    def _note_data(self) -> None:
        """Say what was loaded and what was left out; refuse it unless the run began with it."""
        log.info("tasks: %s", self.data)
        for report in self.data.reports:
            note_loaded(self.folder, report)

    def _round(self, iteration: int) -> PolicyUpdate:
        """One ReST-EM round (Algorithm 1, lines 2-9)."""
        done = self.folder.recall(PolicyUpdate, "update", str(iteration))
        if done is not None:
            return done
        self._adopt(self._updates_before(iteration))
        plan = self._plan(iteration)
        tasks = [self.tasks[name] for name in plan.task_ids]
        log.info("round %d: %s", iteration + 1, ", ".join(plan.task_ids))
        only_score = not (self.reward_model.needs_answers or self.config.evaluation.answer_in_rounds)
        before = self.estep.baselines(tasks, iteration, only_score=only_score)
        edits = self.estep.write(tasks, self.config.samples_per_iteration, iteration)
        trials = self.estep.adapt(
            edits, self.config.repeats, "train", iteration, self.tasks, before, only_score
        )
        return self._update(iteration, edits, edit_results(edits, trials, self.tasks, self.reward_model))

    def _plan(self, iteration: int) -> Plan:
        """Sample the round's tasks; a pass over all of them comes before any is seen again."""
        known = self.folder.recall(Plan, "plan", str(iteration))
        if known is not None:
            if known.policy != self.estep.policy.version:
                raise RunError(
                    f"round {iteration + 1} began with policy {known.policy}, and {self.config.model_name} "
                    f"makes it {self.estep.policy.version}",
                    "restore the model that the run began with, or begin a new run",
                )
            return known
        count = min(self.config.tasks_per_iteration, len(self.tasks))
        chosen = sample_tasks(sorted(self.tasks), count, self.config.seed, iteration)
        plan = Plan(iteration, chosen, self.estep.policy.version)
        self.folder.record("plan", str(iteration), plan)
        return plan

    def _update(
        self, iteration: int, edits: Sequence[SelfEdit], results: Sequence[EditResult]
    ) -> PolicyUpdate:
        """ReST-EM: keep the edits that helped and train the policy to write more like them."""
        config, by_id = self.config, {edit.id: edit for edit in edits}
        selection = select(
            [(by_id[r.edit_id], r.reward) for r in results if not r.problem],
            "best_of_k" if self.reward_model.keeps == "best" else config.keep,
            config.keep_k,
            threshold=self.reward_model.keep_above,
            floors=self._floors(results),
        )
        rewards = {d.edit.id: d.reward for d in selection.decisions}
        decided = [replace(r, reward=rewards.get(r.edit_id, r.reward)) for r in results]
        self.folder.record_all("result", {r.edit_id: r for r in decided})
        for result in decided:
            trace.rewarded(result)
        pairs = selection.pairs
        out = self.folder.checkpoints / f"policy-{iteration + 1}"
        self.estep.close()
        with self.estep.phase("update", iteration):
            seed = derive(config.seed, "update", iteration)
            new = self.optimizer.update(
                self.estep.policy,
                pairs,
                out,
                seed,
                progress=lambda done, total: self.folder.progress("training the policy", done, total),
            )
        checkpoint = f"checkpoints/{out.name}" if new.updated else ""
        kept, ties = len(pairs), selection.tied_tasks
        update = PolicyUpdate(
            iteration, new.version, checkpoint, new.updated, kept, len(results), ties, new.losses, new.why
        )
        self.folder.record("update", str(iteration), update)
        self.folder.keep_newest(config.keep_checkpoints)
        if new.updated and len(new.losses) < FEW_UPDATES:
            log.warning(
                "the M-step was %s, and below %d a policy hardly moves: raise sft.steps",
                counted(len(new.losses), "update"),
                FEW_UPDATES,
            )
        log.info("kept %d of %d self-edits; %s", kept, len(results), new.why or f"policy {new.version}")
        return update

    def _floors(self, results: Sequence[EditResult]) -> dict[str, float]:
        """What a task's best edits must be above: the reward of no training at all."""
        before = {r.task_id: r.before for r in results}
        return {name: before[name] if self.reward_model.keeps == "best" else 0.0 for name in before}

    def _updates_before(self, iteration: int) -> list[PolicyUpdate]:
        done = (self.folder.recall(PolicyUpdate, "update", str(i)) for i in range(iteration))
        return [update for update in done if update is not None]

    def _adopt(self, updates: Sequence[PolicyUpdate]) -> EStep:
        """Go on with the policy that the last of `updates` left behind; without any, with the first one.

        A caller that keeps the result keeps that policy in memory while the next one is loaded.
        """
        latest = next((u for u in reversed(updates) if u.updated), None)
        version = latest.policy if latest else self.base_version
        if version == self.estep.policy.version:
            return self.estep
        self.estep.close()
        del self.estep  # its policy leaves the memory before the next one comes
        gc.collect()
        config, source = self.config, self.config.model_name
        if latest:
            source = str(self.folder.policy_folder(latest.checkpoint))
            verify_checkpoint(source, deep=True)
        policy = load_model(source, config.device, config.dtype, config.prompts())
        if policy.version != version:
            raise RunError(
                f"{source} holds policy {policy.version}, and the run went on with {version}",
                "restore the folder from a copy, or begin a new run",
            )
        self.estep = setup.estep(config, self.folder, self.domain, self.grader, policy, self.writers)
        return self.estep

    def _success_rate(self, iteration: int) -> float:
        rows = (row.data for row in self.folder.journal.rows("result"))
        rewards = [float(r["reward"]["value"]) for r in rows if r["iteration"] == iteration]
        return fmean(value > 0 for value in rewards) if rewards else 0.0


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
