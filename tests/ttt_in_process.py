"""What a TTT server has to answer, computed without one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from seal.graded import Graded
from seal.grading import LexicalGrader
from seal.inner.loop import LocalInnerLoop
from seal.serve.messages import TTTRequest
from seal.serve.requests import Requests


def replies(
    loaded: Any, requests: Sequence[dict[str, Any]], *, together: bool = True
) -> list[dict[str, Any]]:
    """The replies to text requests that carry a `seed`, in order; not `together`: one after another."""
    loop, maker = Graded(LocalInnerLoop(loaded), LexicalGrader()), Requests(loaded)
    jobs = [maker.job(TTTRequest.model_validate(r), str(i), r["seed"]) for i, r in enumerate(requests)]
    batches = [jobs] if together else [[job] for job in jobs]
    found = {outcome.job_id: outcome for batch in batches for outcome in loop.run(batch)}
    return [maker.reply(found[job.id]) for job in jobs]
