"""Verdicts and baselines around any `InnerLoop`: the engine trains and answers, this grades."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from seal.errors import BudgetSpent, SealError
from seal.grading import Grader
from seal.inner.base_answers import BaseAnswers
from seal.protocols import FollowUp, InnerLoop
from seal.records import AdaptJob, AdaptOutcome, Answer, EvalPrompt, Question, Verdict
from seal.thoughts import without_thoughts


class Graded:
    """An `InnerLoop` whose answers carry verdicts, wherever `loop` computes them.

    The base's answers to a prompt are computed and graded once and then known for the life of this object: a
    later job is sent on without a baseline, and gets the known one.

    Args:
        loop: trains and answers; its model must not change.
        grader: grades answers to prompts that carry a question; it is only called from this thread.
    """

    def __init__(self, loop: InnerLoop, grader: Grader) -> None:
        self.loop, self.grader = loop, grader
        self._known = BaseAnswers()

    @property
    def slots(self) -> int:
        """Adapters that are trained at once."""
        return self.loop.slots

    def close(self) -> None:
        """Free what the loop holds."""
        self.loop.close()

    def run(
        self, jobs: Iterable[AdaptJob | None], follow_up: FollowUp | None = None
    ) -> Iterator[AdaptOutcome]:
        """See `InnerLoop.run`."""
        sent: dict[str, tuple[AdaptJob, tuple[Answer, ...] | None]] = {}

        def without_known() -> Iterator[AdaptJob | None]:
            for job in jobs:
                if job is None:
                    yield None
                    continue
                needs = job.baseline and job.trains and follow_up is None  # known answers are first answers
                known = self._known.all(job.eval_prompts) if needs else None
                sent[job.id] = job, known
                yield job if known is None else replace(job, baseline=False)

        for outcome in self.loop.run(without_known(), follow_up):
            job, known = sent.pop(outcome.job_id)
            yield self._graded(job, outcome if known is None else replace(outcome, baseline=known))

    def _graded(self, job: AdaptJob, outcome: AdaptOutcome) -> AdaptOutcome:
        if outcome.error is not None:
            return outcome
        # Answers to a follow-up stand behind the others and carry no question.
        base = list(zip(job.eval_prompts, outcome.baseline, strict=False))
        fresh = [(p, a) for p, a in base if self._known.get(p) is None]
        adapted = list(zip(job.eval_prompts, outcome.adapted, strict=False)) if job.trains else []
        answers = self._with_verdicts([*fresh, *adapted])
        graded = dict(zip((p for p, _ in fresh), answers, strict=False))
        self._known.add({p: a for p, a in graded.items() if a.verdict is not Verdict.ERROR})
        first = tuple(graded.get(p) or self._known.get(p) or a for p, a in base)
        baseline = first + outcome.baseline[len(first) :]
        if not job.trains:
            return replace(outcome, baseline=baseline, adapted=baseline)
        later = outcome.adapted[len(adapted) :]
        return replace(outcome, baseline=baseline, adapted=(*answers[len(fresh) :], *later))

    def _with_verdicts(self, given: Sequence[tuple[EvalPrompt, Answer]]) -> list[Answer]:
        items = [(p.question, without_thoughts(a.text)) for p, a in given if p.question is not None]
        verdicts = iter(self._verdicts(items))
        return [a if p.question is None else _with(a, *next(verdicts)) for p, a in given]

    def _verdicts(self, items: Sequence[tuple[Question, str]]) -> list[tuple[Verdict, str]]:
        """Verdict and note of every item; one that the grader refuses costs no other its verdict."""
        if not items:
            return []
        try:
            return [(grade.verdict, grade.note) for grade in self.grader.grade(items)]
        except BudgetSpent:
            raise
        except SealError as error:
            if len(items) == 1:
                return [(Verdict.ERROR, str(error))]
            return [verdict for item in items for verdict in self._verdicts([item])]


def _with(answer: Answer, verdict: Verdict, note: str) -> Answer:
    return replace(answer, verdict=verdict, note=note)
