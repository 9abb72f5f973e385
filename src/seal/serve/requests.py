"""Text requests in the engine's terms: a `TTTRequest` becomes an `AdaptJob`, an outcome a `TTTReply`.

Continued pretraining writes its reply with the same function.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seal.domains.knowledge import KnowledgeIncorporation
from seal.models.window import window
from seal.prompt import contract_of
from seal.records import AdaptJob, AdaptOutcome, Answer, Question, Task, TrainingSequence, Verdict
from seal.scratch import scratch_folder
from seal.serve import messages as m
from seal.serve.jobs import check_job, outcome_to_wire

if TYPE_CHECKING:
    from seal.models.load import LoadedModel


class Requests:
    """Turns text requests into jobs and outcomes into replies, for one model.

    It keeps its own copy of the tokenizer, because a fast tokenizer must not be used by two threads.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.policy = loaded.version
        self._tokenizer = copy.deepcopy(loaded.tokenizer)
        self._domain = KnowledgeIncorporation()
        self._vocabulary = int(loaded.model.config.get_text_config().vocab_size)
        self._window = window(loaded.model) or 2**31

    def job(self, request: m.TTTRequest, job_id: str, seed: int) -> AdaptJob:
        """The job that a text request asks for. A sequence without a token to learn gives no row.

        Raises:
            DataError: `end_mask_substring` leaves nothing of a sequence to train on.
        """
        rows: tuple[TrainingSequence, ...] = ()
        if not request.baseline_only:
            made = [
                contract_of(self._tokenizer).sequence(text, request.end_mask_substring or "")
                for text in request.train_sequences
            ]
            rows = tuple(row for row in made if row.labelled())
        questions = tuple(
            Question(q.question, q.answer, q.title, tuple(q.also)) for q in request.eval_questions
        )
        task = Task(
            "ttt", "", questions
        )  # evaluation prompts of the same questions are equal, so baselines are shared
        eval_prompts = self._domain.eval_prompts(task, self._tokenizer) if questions else ()
        return AdaptJob(job_id, rows, request.training(), eval_prompts, seed)

    def tokenizer_files(self) -> dict[str, str]:
        """The tokenizer's files by name, for clients that build jobs and hold no model."""
        with scratch_folder("tokenizer") as folder:
            self._tokenizer.save_pretrained(folder)
            return {file.name: file.read_text("utf-8") for file in sorted(folder.iterdir())}

    def adopt(self, job: AdaptJob, job_id: str, adapters: Path | None) -> AdaptJob:
        """A client's job under the server's name for it.

        Raises:
            WireError: it wants an adapter saved or read outside this server's adapter folder.
        """
        for name, folder in (("save_to", job.save_to), ("start_from", job.start_from)):
            if not folder:
                continue
            allowed = adapters and Path(folder).resolve().is_relative_to(adapters.resolve())
            if not allowed:
                raise m.WireError(
                    f"{name} {folder[:80]!r} is not inside the server's adapter folder",
                    "start the server with --adapters FOLDER",
                    "forbidden",
                )
        return replace(job, id=job_id)

    def check(self, job: AdaptJob, limits: m.Limits) -> None:
        """Raise `WireError` where a job is over a limit."""
        check_job(job, limits, self._vocabulary, self._window)

    def reply(self, outcome: AdaptOutcome) -> dict[str, Any]:
        """The official reply as a JSON object. Raises `WireError` for an outcome without verdicts."""
        return reply_from_outcome(outcome).model_dump(mode="json")

    def outcome(self, outcome: AdaptOutcome) -> dict[str, Any]:
        """An outcome as a JSON object. Raises `WireError` when the job failed."""
        _check_outcome(outcome)
        return outcome_to_wire(outcome)


def _check_outcome(outcome: AdaptOutcome) -> None:
    if outcome.error is not None:
        code = outcome.error.border if outcome.error.border in m.CODES else "adapt"
        raise m.WireError(outcome.error.message, code=code)


def _correct(answers: tuple[Answer, ...]) -> list[bool]:
    for answer in answers:
        if answer.verdict not in (Verdict.CORRECT, Verdict.WRONG):
            raise m.WireError(f"an answer has no verdict: {answer.note or 'not graded'}", code="grading")
    return [answer.verdict is Verdict.CORRECT for answer in answers]


def _share(correct: list[bool]) -> float:
    return round(sum(correct) / len(correct), 4) if correct else 0.0


def reply_from_outcome(outcome: AdaptOutcome) -> m.TTTReply:
    """The official reply: a question gains 1, 0 or -1; without questions every accuracy is 0.

    Raises:
        WireError: the job failed, or the grader did (an outage is never a wrong answer).
    """
    _check_outcome(outcome)
    adapted = outcome.adapted or outcome.baseline
    before, after = _correct(outcome.baseline), _correct(adapted)
    base, mine = _share(before), _share(after)
    return m.TTTReply(
        baseline_accuracy=base,
        adapter_accuracy=mine,
        adapter_gain=round(mine - base, 4),
        baseline_texts=[answer.text for answer in outcome.baseline],
        adapter_texts=[answer.text for answer in adapted],
        baseline_correct=before,
        adapter_correct=after,
        gains=[int(a) - int(b) for a, b in zip(after, before, strict=True)],
    )
