"""One policy at work: it answers, writes self-edits and is adapted, and every finished item is journalled.

What the journal holds is taken from there. Work that the engine does in one batch is done again as that
batch when a crash cut it short, so that a resumed run ends with the same numbers to the last bit.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from seal import trace
from seal.errors import ConfigError
from seal.evaluator import Evaluator, TrialSpec
from seal.records import Baseline, Performance, Phase, SelfEdit, Task, Trial, baseline_key
from seal.self_edit import SelfEditGenerator

if TYPE_CHECKING:
    from seal.run.folder import Run

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Clock:
    tokens: int = 0


class EStep:
    """A policy with its sampler, its evaluator and the run's journal.

    Args:
        run: the open run folder.
        sampler: draws self-edits from the policy; None for one that only measures.
        evaluator: measures the policy and its adaptations.
        batch: adapters that are trained together; what a crash cut short of them is done again whole.
    """

    def __init__(self, run: Run, sampler: SelfEditGenerator | None, evaluator: Evaluator, batch: int) -> None:
        self.run, self.sampler, self.evaluator, self.batch = run, sampler, evaluator, batch
        self.policy = evaluator.loaded

    def baselines(
        self, tasks: Sequence[Task], iteration: int, in_context: bool = False, only_score: bool = False
    ) -> dict[str, Performance]:
        """The policy's performance on `tasks` before any training; computed once a policy and task.

        `in_context` shows the model what it would have to learn; `only_score` has it write nothing.
        """
        keys = {task.id: baseline_key(self.policy.version, task.id, in_context, only_score) for task in tasks}

        def recall(task: Task) -> Baseline | None:
            return self.run.recall(Baseline, "baseline", keys[task.id])

        due = [t for t in tasks if (known := recall(t)) is None or known.iteration == iteration]
        if any(recall(task) is None for task in due):  # a batch cut short is answered again whole
            targets = {task.id: task.target for task in due}
            with self.phase("baseline", iteration, "+context" * in_context + "+scored" * only_score) as phase:
                done = self.evaluator.baselines(due, in_context, only_score)
                for baseline in _counted(self.run, "answering without training", done, len(due)):
                    fresh = replace(baseline, iteration=iteration)
                    self.record("baseline", keys[baseline.task_id], fresh)
                    phase.tokens += sum(a.n_tokens for a in baseline.answers)
                    trace.baseline(fresh, targets[baseline.task_id])
        return {b.task_id: b.performance for b in map(recall, tasks) if b is not None}

    def write(self, tasks: Sequence[Task], n: int, iteration: int) -> list[SelfEdit]:
        """`n` self-edits a task. They are drawn in one batch, so they are taken or drawn again together."""
        return write_edits(self.run, self._writer(), self.policy.version, tasks, n, iteration)

    def write_fixed(self, tasks: Sequence[Task], iteration: int) -> list[SelfEdit]:
        """What the policy writes to the domain's fixed prompts, grouped by task."""
        sampler = self._writer()
        drafts = sampler.fixed_drafts(tasks, self.policy.version)
        names = [draft.id for draft in drafts]
        return _written(self.run, names, partial(sampler.complete, drafts), iteration, "fixed")

    def _writer(self) -> SelfEditGenerator:
        if self.sampler is None:
            raise ConfigError("nothing here writes self-edits", "give them, or a model that writes")
        return self.sampler

    def adapt(
        self,
        edits: Sequence[SelfEdit],
        repeats: int,
        arm: str,
        iteration: int,
        tasks: Mapping[str, Task],
        before: Mapping[str, Performance],
        only_score: bool = False,
    ) -> list[Trial]:
        """Train `repeats` adapters on every edit and measure each; in batches of fixed make-up.

        With `only_score` none of them writes anything, see `TrialSpec.only_score`.

        Work that the run has done before is not done again: two edits of a task that come to the same rows
        under the same seed are one adapter, in one arm or in two.
        """
        specs = [TrialSpec(edit, r, arm, iteration, only_score) for edit in edits for r in range(repeats)]

        def recall(key: str) -> Trial | None:
            return self.run.recall(Trial, "trial", key)

        if all(self.run.journal.get("trial", spec.key) is not None for spec in specs):
            return [found for spec in specs if (found := recall(spec.key)) is not None]
        made = self.evaluator.prepared(specs, tasks)
        works = {p.spec.key: p.work for p in made}
        source = self._sources(works)
        own = [p for p in made if source[p.spec.key] == p.spec.key]
        if len(own) < len(specs):
            log.info("%s: %d self-edits come to %d adapters", arm, len(specs), len(own))

        done = {p.spec.key for p in own if self.run.journal.get("trial", p.spec.key) is not None}
        stage = f"training adapters ({arm})"
        if len(done) < len(own):
            self.run.progress(stage, len(done), len(own))
            with self.phase("adapt", iteration, arm) as phase:
                for trials in self.evaluator.trials(own, tasks, before, done, self.batch):
                    keyed = {f"{trial.edit_id}/r{trial.repeat}": trial for trial in trials}
                    self.run.record_missing("trial", {k: replace(t, work=works[k]) for k, t in keyed.items()})
                    done |= keyed.keys()
                    self.run.progress(stage, len(done), len(own))
                    for trial in trials:
                        trace.measured(trial, tasks[trial.task_id].target)
                        phase.tokens += trial.outcome.timings.train_tokens
                        if trial.problem:
                            log.warning("self-edit %s cannot be applied: %s", trial.edit_id, trial.problem)
                    log.info("%s: %d of %d adapters measured", arm, len(done), len(own))
        twins = {}
        for spec in specs:
            if source[spec.key] != spec.key and (known := recall(source[spec.key])) is not None:
                twin = self.evaluator.twin(spec, tasks[spec.edit.task_id], known)
                twins[spec.key] = replace(twin, work=works[spec.key])
        self.run.record_missing("trial", twins)
        return [found for spec in specs if (found := recall(spec.key)) is not None]

    def _sources(self, works: Mapping[str, str]) -> dict[str, str]:
        """For every trial the one whose adapter it shares: of an earlier arm, or the first with its work."""
        rows = self.run.journal.rows("trial")
        first = {row.data["work"]: row.key for row in rows if row.key not in works and row.data.get("work")}
        return {key: first.setdefault(work, key) if work else key for key, work in works.items()}

    def close(self) -> None:
        """Free what the engine holds beside the policy (its worker processes); more work brings it back."""
        self.evaluator.loop.close()
        if self.sampler is not None and (close := getattr(self.sampler.generator, "close", None)):
            close()

    def record(self, kind: str, key: str, record: object) -> None:
        """Record what is new; an item that a crash left behind from a batch run again stays as it is."""
        self.run.record_once(kind, key, record)

    def phase(self, name: str, iteration: int, part: str = "") -> AbstractContextManager[_Clock]:
        """See `timed`."""
        return timed(self.run, name, iteration, part)


def write_edits(
    run: Run,
    sampler: SelfEditGenerator,
    policy: str,
    tasks: Sequence[Task],
    n: int,
    iteration: int,
    part: str = "",
) -> list[SelfEdit]:
    """`n` self-edits a task, by the policy of that version; what the journal lacks is drawn again whole."""
    names = [f"{task.id}.i{iteration}.e{k}" for task in tasks for k in range(n)]
    return _written(run, names, partial(sampler.generate, tasks, n, policy, iteration), iteration, part)


def _written(
    run: Run,
    names: Sequence[str],
    write: Callable[[Callable[[int, int], None]], list[SelfEdit]],
    iteration: int,
    part: str,
) -> list[SelfEdit]:
    """The self-edits of these names: the journal's, or what `write` draws, which is told of its progress."""
    known = [run.recall(SelfEdit, "edit", name) for name in names]
    if all(known):
        return [edit for edit in known if edit is not None]
    log.info("writing %d self-edits", len(names))
    with timed(run, "write", iteration, part) as phase:
        edits = write(partial(run.progress, "writing self-edits"))
        phase.tokens = sum(edit.n_tokens for edit in edits)
    run.record_missing("edit", {edit.id: edit for edit in edits})
    for edit in edits:
        trace.written(edit)
    return edits


def _counted(run: Run, stage: str, items: Iterable[T], total: int) -> Iterator[T]:
    """`items`, with progress after each."""
    run.progress(stage, 0, total)
    for done, item in enumerate(items, 1):
        yield item
        run.progress(stage, done, total)


@contextmanager
def timed(run: Run, name: str, iteration: int, part: str = "") -> Iterator[_Clock]:
    """Note the wall time of the block, and the tokens that it counts on the clock."""
    clock, started = _Clock(), time.perf_counter()
    yield clock
    phase = Phase(name, iteration, time.perf_counter() - started, clock.tokens)  # type: ignore[arg-type]
    run.record_once("phase", "/".join(filter(None, (name, str(iteration), part))), phase)
