"""A grader that fails is an error of its own items, never a wrong answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from seal.errors import GradingError
from seal.graded import Graded
from seal.grading import Grade
from seal.protocols import FollowUp
from seal.records import (
    AdaptJob,
    AdaptOutcome,
    Answer,
    EvalPrompt,
    Question,
    TrainingConfig,
    TrainingSequence,
    Verdict,
)


class Engine:
    slots = 1

    def close(self) -> None: ...

    def run(
        self, jobs: Iterable[AdaptJob | None], follow_up: FollowUp | None = None
    ) -> Iterator[AdaptOutcome]:
        for job in jobs:
            if job is not None:
                answers = tuple(Answer(p.id, p.id) for p in job.eval_prompts)
                yield AdaptOutcome(job.id, answers if job.baseline else (), answers)


class Fails:
    """Refuses whatever holds the answer `bad`."""

    def grade(self, items: Sequence[tuple[Question, str]]) -> list[Grade]:
        if any(answer == "bad" for _, answer in items):
            raise GradingError("the judge is away")
        return [Grade(Verdict.CORRECT) for _ in items]


def test_a_grader_that_refuses_one_answer_costs_no_other_its_verdict() -> None:
    prompts = tuple(EvalPrompt(name, (1,), question=Question("Q?", "A")) for name in ("good", "bad"))
    job = AdaptJob("j", (TrainingSequence((1, 2)),), TrainingConfig(), prompts, 1)
    (outcome,) = Graded(Engine(), Fails()).run([job])
    for answers in (outcome.baseline, outcome.adapted):
        assert [a.verdict for a in answers] == [Verdict.CORRECT, Verdict.ERROR]
        assert "the judge is away" in answers[1].note
