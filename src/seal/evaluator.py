"""What a self-edit is worth: train on it, ask, score the answers; many at once where possible."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from seal import trace
from seal.batches import cut
from seal.domains.base import BaseDomain, InvalidEdit
from seal.errors import AdaptError, DataError, GradingError, SealError
from seal.models.load import LoadedModel
from seal.protocols import FollowUp, InnerLoop
from seal.records import (
    AdaptJob,
    AdaptOutcome,
    Baseline,
    EditFinding,
    EvalPrompt,
    JobError,
    Performance,
    SelfEdit,
    Task,
    Timings,
    TrainingConfig,
    TrainingSequence,
    Trial,
)
from seal.seeds import derive
from seal.wording import counted


@dataclass(frozen=True, slots=True)
class TrialSpec:
    """A trial to run: which edit, which of its repeats, for which arm and round."""

    edit: SelfEdit
    repeat: int
    arm: str
    iteration: int
    only_score: bool = False
    """Measured by the gold answers' log-likelihood alone: nothing is written, and nothing graded."""

    @property
    def key(self) -> str:
        """Journal key of the trial."""
        return f"{self.edit.id}/r{self.repeat}"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A trial as the engine's job, or why there is none."""

    spec: TrialSpec
    job: AdaptJob | None
    problem: str = ""
    work: str = ""
    """Digest of what is trained and asked, by which policy: the same digest, the same outcome. Empty where
    that is not known: an edit that cannot be applied, a domain that trains by itself."""
    findings: tuple[EditFinding, ...] = ()
    """What the domain says of the edit."""


def scored(eval_prompts: Sequence[EvalPrompt]) -> tuple[EvalPrompt, ...]:
    """Those with a reference, after which nothing is to be written."""
    return tuple(
        replace(p, sampling=replace(p.sampling, max_new_tokens=0), question=None)
        for p in eval_prompts
        if p.reference
    )


def as_performance(value: Any) -> Performance:
    """What a domain's `evaluate` returned, as a `Performance`: a number in [0, 1], or a `Performance`.

    Raises:
        DataError: it is something else.
    """
    if isinstance(value, Performance):
        return value
    if isinstance(value, int | float):
        return Performance(score=float(value), n=1)
    raise DataError(
        f"evaluate returned {value!r:.60}", "return a number in [0, 1] or a seal.records.Performance"
    )


class Evaluator:
    """Measures one policy on tasks, before and after training on self-edits.

    Args:
        loaded: the policy.
        domain: prompts, rows and scores.
        loop: trains and answers many adapters at once; used when the domain is batched.
        training: the inner loop's config, before the self-edit has its say.
        run_seed: every adapter's seed derives from it, the task and the repeat, so that a task's edits are
            compared under the same draws.
        pad_to: count the loss on padding to this many tokens, as the official code does; 0: no padding.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        domain: BaseDomain,
        loop: InnerLoop,
        training: TrainingConfig,
        run_seed: int,
        pad_to: int = 0,
    ) -> None:
        self.loaded, self.domain, self.loop = loaded, domain, loop
        self.training, self.run_seed, self.pad_to = training, run_seed, pad_to

    def baselines(
        self, tasks: Sequence[Task], in_context: bool = False, only_score: bool = False
    ) -> Iterator[Baseline]:
        """Every task without training, as it is done; `in_context` with the context in the prompts;
        `only_score` as in a `TrialSpec`.

        Raises:
            GradingError: a task's answers could not be graded; raised after all others were yielded.
        """
        if not self.domain.batched:
            for task in tasks:
                performance = as_performance(
                    self.domain.evaluate(self.loaded.model, self.loaded.tokenizer, task)
                )
                yield Baseline(task.id, self.loaded.version, performance)
            return
        ask = self.domain.context_prompts if in_context else self.domain.eval_prompts
        tokenizer, training, seed = self.loaded.tokenizer, self.training, self.run_seed
        prompts = [ask(task, tokenizer) for task in tasks]
        if only_score:
            prompts = [scored(own) for own in prompts]
        jobs = [AdaptJob(t.id, (), training, own, seed) for t, own in zip(tasks, prompts, strict=True)]
        by_id = {task.id: task for task in tasks}
        for job in jobs:
            trace.asked(job.id, job.eval_prompts, tokenizer)
        ungraded: list[str] = []
        measure = self.domain.likelihood if only_score else self.domain.score
        for outcome in self._run(jobs, by_id, only_score):
            raise_error(outcome.error)
            try:
                performance = measure(by_id[outcome.job_id], outcome.baseline)
            except GradingError as error:
                ungraded.append(str(error))
            else:
                yield Baseline(outcome.job_id, self.loaded.version, performance, outcome.baseline)
        _raise_ungraded(ungraded)

    def prepared(self, specs: Sequence[TrialSpec], tasks: Mapping[str, Task]) -> list[Prepared]:
        """The trials as jobs."""
        asked: dict[tuple[str, bool], tuple[EvalPrompt, ...]] = {}
        made = []
        for spec in specs:
            task, asking = tasks[spec.edit.task_id], (spec.edit.task_id, spec.only_score)
            if asking not in asked:  # every edit of a task is asked the same
                asked[asking] = self._asked(task, spec.only_score)
            job, problem = None, ""
            try:
                job = self._job(spec, task, asked[asking])
            except InvalidEdit as error:
                problem = str(error)
            work = self._work(job) if job is not None and self.domain.batched else ""
            findings = self.domain.findings(task, spec.edit.completion)
            made.append(Prepared(spec, job, problem, work, findings))
        return made

    def trials(
        self,
        made: Sequence[Prepared],
        tasks: Mapping[str, Task],
        before: Mapping[str, Performance],
        done: Collection[str] = (),
        batch: int = 1,
    ) -> Iterator[tuple[Trial, ...]]:
        """Every trial; those of a batch together, as it is done. An edit that cannot be applied gives a trial
        with its problem.

        Batches of which every trial is `done` (keys) are left out; the others are run again whole.

        Raises:
            GradingError: answers could not be graded; raised after all other trials were yielded.
        """
        by_key = {p.spec.key: p for p in made}
        broken = [p for p in made if p.job is None and p.spec.key not in done]
        if broken:
            yield tuple(self._broken(p, before) for p in broken)
        parts = cut([p.job for p in made if p.job is not None], batch if self.domain.batched else 1)
        parts = [part for part in parts if not all(job.id in done for job in part)]
        ungraded: list[str] = []
        ready: dict[int, list[Trial]] = defaultdict(list)
        part_of = {job.id: number for number, part in enumerate(parts) for job in part}
        missing = [len(part) for part in parts]
        try:
            for outcome in self._outcomes([job for part in parts for job in part], by_key, tasks):
                part, known = part_of[outcome.job_id], by_key[outcome.job_id]
                try:
                    task = tasks[known.spec.edit.task_id]
                    ready[part].append(self._measured(known, task, before, outcome))
                except GradingError as error:
                    ungraded.append(str(error))
                missing[part] -= 1
                if not missing[part] and part in ready:
                    yield tuple(ready.pop(part))
        except SealError:
            yield from map(tuple, ready.values())
            raise
        _raise_ungraded(ungraded)

    def twin(self, spec: TrialSpec, task: Task, known: Trial) -> Trial:
        """The trial of `spec`, whose work is that of the `known` trial: nothing is trained again."""
        outcome = replace(known.outcome, job_id=spec.key, timings=Timings())
        same = Prepared(spec, None, findings=self.domain.findings(task, spec.edit.completion))
        return self._trial(same, {task.id: known.before}, outcome, known.after, known.problem)

    def _run(
        self, jobs: Iterable[AdaptJob], tasks: Mapping[str, Task], only_score: bool
    ) -> Iterator[AdaptOutcome]:
        """The engine's outcomes; a domain that looks at answers before it asks on gets its say."""
        more = None if only_score else self.domain.follow_up
        return self.loop.run(jobs, FollowUp(more, tasks) if more is not None else None)

    def _outcomes(
        self, jobs: Sequence[AdaptJob], made: Mapping[str, Prepared], tasks: Mapping[str, Task]
    ) -> Iterator[AdaptOutcome]:
        specs = {job.id: made[job.id].spec for job in jobs}
        for job in jobs:
            trace.job(job, self.loaded.tokenizer)
        if not self.domain.batched:
            return self._one_by_one({job.id: job for job in jobs}, specs, tasks)
        of = {job.id: tasks[specs[job.id].edit.task_id] for job in jobs}
        return self._run(jobs, of, any(spec.only_score for spec in specs.values()))

    def _measured(
        self, made: Prepared, task: Task, before: Mapping[str, Performance], outcome: AdaptOutcome
    ) -> Trial:
        """Raises `GradingError`, and what made the job fail where that was not its training."""
        if outcome.error is None:
            return self._trial(made, before, outcome, self._after(made.spec, task, outcome))
        if outcome.error.border != AdaptError.border:
            raise_error(outcome.error)
        return self._trial(made, before, outcome, None, outcome.error.message)

    def _broken(self, made: Prepared, before: Mapping[str, Performance]) -> Trial:
        failure = AdaptOutcome(made.spec.key, error=JobError(InvalidEdit.border, made.problem))
        return self._trial(made, before, failure, None, made.problem)

    def _asked(self, task: Task, only_score: bool) -> tuple[EvalPrompt, ...]:
        prompts = self.domain.eval_prompts(task, self.loaded.tokenizer) if self.domain.batched else ()
        return scored(prompts) if only_score else prompts

    def _work(self, job: AdaptJob) -> str:
        what = (self.loaded.version, job.sequences, job.training, job.eval_prompts, job.seed)
        return hashlib.sha256(repr(what).encode()).hexdigest()[:16]

    def _job(self, spec: TrialSpec, task: Task, eval_prompts: tuple[EvalPrompt, ...]) -> AdaptJob:
        completion = spec.edit.completion
        rows = self.domain.training_sequences(task, completion, self.loaded.tokenizer)
        if self.pad_to:
            rows = tuple(self._padded(row) for row in rows)
        training = self.domain.training_config(completion, self.training)
        seed = derive(self.run_seed, spec.edit.task_id, spec.repeat)
        return AdaptJob(spec.key, rows, training, eval_prompts, seed, baseline=False)

    def _padded(self, row: TrainingSequence) -> TrainingSequence:
        tokenizer = self.loaded.tokenizer
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        return TrainingSequence(row.ids + (int(pad),) * (self.pad_to - len(row.ids)))

    def _trial(
        self,
        made: Prepared,
        before: Mapping[str, Performance],
        outcome: AdaptOutcome,
        after: Performance | None,
        problem: str = "",
    ) -> Trial:
        spec, edit = made.spec, made.spec.edit
        return Trial(
            edit.id, edit.task_id, spec.repeat, spec.arm, spec.iteration, self.loaded.version,
            before[edit.task_id], after, outcome, problem, made.findings,
        )  # fmt: skip

    def _after(self, spec: TrialSpec, task: Task, outcome: AdaptOutcome) -> Performance:
        if not self.domain.batched:
            return self._evaluated[outcome.job_id]
        measure = self.domain.likelihood if spec.only_score else self.domain.score
        return measure(task, outcome.adapted)

    def _one_by_one(
        self, jobs: Mapping[str, AdaptJob], specs: Mapping[str, TrialSpec], tasks: Mapping[str, Task]
    ) -> Iterator[AdaptOutcome]:
        """A domain with only the three methods of the specification: one PEFT adapter at a time."""
        from seal.models.lora import LoRAWrapper

        self._evaluated: dict[str, Performance] = {}
        for key, job in jobs.items():
            task = tasks[specs[key].edit.task_id]
            with LoRAWrapper.from_config(self.loaded.model, job.training) as adapter:
                try:
                    losses = adapter.fit(job.sequences, job.training, job.seed)
                except AdaptError as error:
                    yield AdaptOutcome(key, error=JobError(error.border, str(error)))
                    continue
                value = self.domain.evaluate(adapter.peft, self.loaded.tokenizer, task)
                self._evaluated[key] = as_performance(value)
            yield AdaptOutcome(key, losses=tuple(losses))


def raise_error(error: JobError | None) -> None:
    """Raise what made a job fail, as the error of the border where it did."""
    if error is not None:
        kinds = {kind.border: kind for kind in SealError.__subclasses__()}
        raise kinds.get(error.border, SealError)(error.message)


def _raise_ungraded(messages: Sequence[str]) -> None:
    if messages:
        raise GradingError(
            f"{counted(len(messages), 'item')} could not be graded: {messages[0]}", "bring the grader back"
        )
