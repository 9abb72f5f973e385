"""Training many adapters at once: each keeps its own rows, loss mean, clipping, schedule and step count.

One round gives every active job one optimiser step. The rows of a round are packed into passes of at most
`token_budget` tokens; a job whose rows fall into several passes accumulates. A finished job leaves its slot
to the next one at once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby
from typing import overload

import torch
from torch import Tensor

from seal.errors import AdaptError, SealError
from seal.inner.adapter import SlotLayout, layout_of
from seal.inner.fit import Fit, Row, Trained, check_rows, start_weights
from seal.inner.memory import LEAST_TOKENS
from seal.inner.optimiser import step
from seal.inner.passes import forward_backward, passes
from seal.inner.runtime import Runtime
from seal.inner.slots import Slots
from seal.inner.transfer import on_device
from seal.records import AdaptJob

log = logging.getLogger(__name__)


@overload
def train(runtime: Runtime, jobs: Iterable[AdaptJob], slots: int, token_budget: int) -> Iterator[Trained]: ...


@overload
def train(
    runtime: Runtime, jobs: Iterable[AdaptJob | None], slots: int, token_budget: int
) -> Iterator[Trained | None]: ...


def train(
    runtime: Runtime, jobs: Iterable[AdaptJob | None], slots: int, token_budget: int
) -> Iterator[Trained | None]:
    """Train `jobs`, at most `slots` at a time, and yield each as it finishes.

    A job without rows or epochs comes back at once with no adapter. A job that cannot be trained comes back
    with its error and disturbs no other. None among the jobs (there is none now) is passed on; they are asked
    again after the next round, and it is the end when nothing is in training.
    """
    waiting = iter(jobs)
    free, budget = Slots(runtime), TokenBudget(token_budget)
    active: list[Fit] = []
    while True:
        fresh: list[tuple[AdaptJob, SlotLayout, Tensor | None]] = []
        while len(active) + len(fresh) < slots:
            try:
                job = next(waiting)
            except StopIteration:
                break
            if job is None:
                yield None
                break
            if not job.trains:
                yield Trained(job, None)
                continue
            try:
                check_rows((*job.sequences, *job.anchors), runtime)
                layout = layout_of(runtime, job.training)
                fresh.append((job, layout, start_weights(runtime, job, layout)))
            except SealError as error:
                yield Trained(job, None, error=error)
        if fresh:
            places = free.take([layout for _, layout, _ in fresh])
            if not places:
                if not active and len(fresh) == 1:
                    yield Trained(fresh[0][0], None, error=_out_of_memory())
                    continue
                slots = max(1, (len(active) + len(fresh)) // 2)
                log.warning("out of memory for %d more adapters: %d are trained at once", len(fresh), slots)
                waiting = chain([job for job, _, _ in fresh], waiting)
                continue
            active += [Fit(runtime, job, p, start) for (job, _, start), p in zip(fresh, places, strict=True)]
            active.sort(key=lambda fit: free.order(fit.place))
        if not active:
            return
        ended = list(_round(runtime, active, budget))
        free.give([fit.place for fit, _ in ended])
        active = [fit for fit in active if not any(fit is other for other, _ in ended)]
        yield from (trained for _, trained in ended)


def _round(runtime: Runtime, active: Sequence[Fit], budget: TokenBudget) -> Iterator[tuple[Fit, Trained]]:
    """One optimiser step of every active job; gives those that ended with it."""
    started = time.perf_counter()
    steps = [fit.next_rows() for fit in active]
    tokens = [sum(len(row.row.ids) for row in rows) for rows in steps]
    losses_N, stuck = _gradients(runtime, active, steps, budget.tokens)
    while stuck:  # a round begun again writes its gradients anew, so nothing is counted twice
        if not budget.halve():
            yield from ((fit, fit.finish(_out_of_memory())) for fit in stuck)
            going = [(fit, own) for fit, own in zip(active, steps, strict=True) if fit not in stuck]
            if not going:
                return
            active, steps = (list(x) for x in zip(*going, strict=True))
            tokens = [sum(len(row.row.ids) for row in rows) for rows in steps]
        losses_N, stuck = _gradients(runtime, active, steps, budget.tokens)
    by_stack = groupby(active, lambda fit: fit.place.stack)  # neighbours, see `Slots.order`
    norms_N = torch.cat([step(stack, [fit.next_step() for fit in own]) for stack, own in by_stack])
    read = torch.stack([losses_N, norms_N]).tolist()  # the one time that a round waits for the device
    ended: list[tuple[Fit, AdaptError | None]] = []
    for fit, loss, norm in zip(active, *read, strict=True):
        try:
            fit.stepped(loss, norm)
        except AdaptError as error:
            ended.append((fit, error))
        else:
            if fit.done:
                ended.append((fit, None))
    seconds = time.perf_counter() - started
    for fit, own in zip(active, tokens, strict=True):  # a job's share of the round, by tokens
        fit.seconds += seconds * own / sum(tokens)
    for fit, failure in ended:
        yield fit, fit.finish(failure)


def _gradients(
    runtime: Runtime, active: Sequence[Fit], steps: Sequence[Sequence[Row]], token_budget: int
) -> tuple[Tensor, Sequence[Fit]]:
    """Write the gradients of a round; returns every job's loss (N,), and in whose pass memory ran out."""
    losses_N = torch.zeros(len(active), dtype=runtime.state_dtype, device=runtime.device)
    number = {id(fit): i for i, fit in enumerate(active)}
    rows: list[Row] = []
    try:
        with runtime.active():
            for rows, accumulate in passes(steps, token_budget):
                fits, losses = forward_backward(runtime, rows, accumulate)
                own = on_device([number[id(fit)] for fit in fits], runtime.device)
                losses_N.index_add_(0, own, losses)
    except torch.OutOfMemoryError:
        return losses_N, list({id(row.fit): row.fit for row in rows}.values())
    return losses_N, ()


class TokenBudget:
    """Tokens of a pass."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def halve(self) -> bool:
        """Half as many from now on, since memory ran out; False if they are few already."""
        if self.tokens <= LEAST_TOKENS:
            return False
        log.warning("out of memory in passes of %d tokens: they have half as many now", self.tokens)
        self.tokens = max(LEAST_TOKENS, self.tokens // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return True


def _out_of_memory() -> AdaptError:
    return AdaptError(
        "the device's memory does not hold this adapter and one of its sequences",
        "lower the rank, name fewer targets or split long sequences",
    )
