"""The engine's records on the wire: `AdaptJob` in, `AdaptOutcome` out, and what a job may ask for."""

from __future__ import annotations

import json
import math
from typing import Any

from pydantic import TypeAdapter, ValidationError

from seal.records import AdaptJob, AdaptOutcome, Sampling
from seal.serve.messages import Envelope, Limits, WireError, explain, within

_JOB = TypeAdapter(AdaptJob)
_OUTCOME = TypeAdapter(AdaptOutcome)


def check_job(job: AdaptJob, limits: Limits, vocabulary: int, window: int) -> None:
    """Raise `WireError` where a job is over a limit or would harm the others in its pass.

    Args:
        vocabulary: number of token ids of the model.
        window: most tokens of one sequence (prompt and answer together for an evaluation prompt).
    """
    training, rows = job.training, (*job.sequences, *job.anchors)
    within("number of rows", len(rows), limits.sequences)
    within("number of evaluation prompts", len(job.eval_prompts), limits.questions)
    within("rank", training.rank, limits.rank)
    within("epochs", training.epochs, limits.epochs)
    within("steps", training.steps, limits.steps)
    within("training tokens", sum(len(row.ids) for row in rows), limits.tokens)
    read = (len(p.ids) + len(r) for p in job.eval_prompts for r in (p.reference, *p.others))
    within("prompt tokens", sum(read), limits.tokens)
    within("tokens of a row", max((len(row.ids) for row in rows), default=0), window)
    if not 0 <= job.anchor_weight < math.inf:
        raise WireError(f"anchor_weight is {job.anchor_weight}", "give a number from 0 on")
    for row in rows:
        inside = all(0 <= start <= stop <= len(row.ids) for start, stop in row.loss)
        if not inside or sum(stop - start for start, stop in row.loss) > len(row.ids):
            raise WireError("a row's loss spans overlap or leave the row", "give disjoint [start, stop)")
    for eval_prompt in job.eval_prompts:
        _check_sampling(eval_prompt.sampling, limits)
        within("tokens of a prompt", len(eval_prompt.ids) + eval_prompt.sampling.max_new_tokens, window)
        for reference in (eval_prompt.reference, *eval_prompt.others):
            within("tokens of a reference", len(eval_prompt.ids) + len(reference), window)
        if not eval_prompt.ids:
            raise WireError("an evaluation prompt has no tokens", "give every prompt at least one token")
        if eval_prompt.question is not None and not eval_prompt.question.accepted:
            raise WireError(
                "an evaluation prompt's question has no gold answer", "give one, or leave the question out"
            )
    ids = (
        [row.ids for row in rows]
        + [p.ids for p in job.eval_prompts]
        + [r for p in job.eval_prompts for r in (p.reference, *p.others)]
    )
    lowest, highest = min((min(i) for i in ids if i), default=0), max((max(i) for i in ids if i), default=0)
    if lowest < 0 or highest >= vocabulary:
        wrong = lowest if lowest < 0 else highest
        raise WireError(f"token id {str(wrong)[:40]} is not in the model's vocabulary of {vocabulary}")


def _check_sampling(sampling: Sampling, limits: Limits) -> None:
    within("max_new_tokens", sampling.max_new_tokens, limits.new_tokens)
    within("number of stop strings", len(sampling.stop), 64)
    if sampling.max_new_tokens < 1 or not 0 <= sampling.temperature < 100 or not 0 < sampling.top_p <= 1:
        raise WireError(
            f"sampling with temperature {sampling.temperature}, top_p {sampling.top_p} and"
            f" max_new_tokens {sampling.max_new_tokens} is out of range"
        )


def job_from_wire(value: dict[str, Any]) -> AdaptJob:
    """The `AdaptJob` in a parsed object.

    Raises:
        WireError: a field is missing, unknown or of the wrong type.
    """
    try:
        return _JOB.validate_json(json.dumps(value, allow_nan=False), strict=True)
    except ValidationError as error:
        raise explain(error, Envelope) from None
    except ValueError:
        raise WireError("the job holds a number that is not finite") from None


def job_to_wire(job: AdaptJob) -> dict[str, Any]:
    """A job as a JSON object."""
    wire: dict[str, Any] = _JOB.dump_python(job, mode="json")
    return wire


def outcome_from_wire(value: dict[str, Any]) -> AdaptOutcome:
    """The outcome in a reply.

    Raises:
        WireError: it is not one.
    """
    try:
        return _OUTCOME.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        raise explain(error, Envelope) from None


def outcome_to_wire(outcome: AdaptOutcome) -> dict[str, Any]:
    """An outcome as a JSON object."""
    wire: dict[str, Any] = _OUTCOME.dump_python(outcome, mode="json")
    return wire
