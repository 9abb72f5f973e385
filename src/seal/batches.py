"""The unit of work of a pool: some jobs that are run by themselves, whoever runs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from seal.protocols import FollowUp
from seal.records import AdaptJob
from seal.schedule import sequences_per_step, total_steps


@dataclass(frozen=True, slots=True)
class Batch:
    """Jobs for one worker."""

    number: int
    """Of this try; a batch that is tried again gets a new one."""
    jobs: tuple[AdaptJob, ...]
    follow_up: FollowUp | None = None
    alone: bool = True
    """Whether it is run by itself, so that its numbers depend on nothing else to the last bit; otherwise its
    jobs join what the worker is at."""


def cut(jobs: Sequence[AdaptJob], size: int) -> list[tuple[AdaptJob, ...]]:
    """`jobs` in batches of `size`, in order. All but the last are full, so cutting what is left after whole
    batches were taken away gives the same batches again.
    """
    return [tuple(jobs[start : start + size]) for start in range(0, len(jobs), size)]


def cost(job: AdaptJob) -> float:
    """Tokens to train on and to write; reading a prompt is a tenth of the work per token."""
    n, training = len(job.sequences), 0.0
    if n:
        share = min(1.0, sequences_per_step(job.training) / n)  # of the sequences that one step reads
        training = total_steps(n, job.training) * share * sum(len(s.ids) for s in job.sequences)
    return 1 + training + sum(p.sampling.max_new_tokens + 0.1 * len(p.ids) for p in job.eval_prompts)
