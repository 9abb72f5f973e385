"""Training many adapters at once: each keeps its own rows, loss mean, clipping, schedule and step count.

One round gives every active job one optimiser step. The rows of a round are packed into passes of at most
`token_budget` tokens; a job whose rows fall into several passes accumulates. A finished job leaves its slot
to the next one at once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from seal.errors import AdaptError, SealError
from seal.inner.adapter import Adapter
from seal.inner.packing import pack
from seal.inner.runtime import Runtime
from seal.inner.schedule import learning_rate, step_rows, total_steps
from seal.records import AdaptJob, TrainRow
from seal.seeds import derive


@dataclass(slots=True)
class Trained:
    """A job that has left training: its adapter (None: baseline only), or the error that ended it."""

    job: AdaptJob
    adapter: Adapter | None
    losses: tuple[float, ...] = ()
    tokens: int = 0
    seconds: float = 0.0
    error: SealError | None = None


@dataclass(slots=True)
class _Row:
    """A row in a round: its job, tokens, and the weight of each labelled token in the job's mean loss."""

    fit: Fit
    row: TrainRow
    weight: float
    dropout_seed: int


class Fit:
    """One job in training."""

    def __init__(self, runtime: Runtime, job: AdaptJob) -> None:
        check_rows(job.rows, runtime)
        self.job = job
        self.adapter = Adapter(runtime, job.recipe, job.seed)
        self.adapter.start_training()
        self._parameter = torch.nn.Parameter(self.adapter.weights)
        recipe = job.recipe
        self._optimizer = torch.optim.AdamW(
            [self._parameter], lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
        )
        self._steps = step_rows(len(job.rows), recipe, job.seed)
        self.total = total_steps(len(job.rows), recipe)
        self.losses: list[float] = []
        self.tokens, self.seconds = 0, 0.0
        self.loss: Tensor | float = 0.0

    @property
    def done(self) -> bool:
        """Whether every optimiser step has been taken."""
        return len(self.losses) == self.total

    def next_rows(self) -> list[_Row]:
        """Rows of the next optimiser step; the loss is the mean over all their labelled tokens."""
        rows = [self.job.rows[i] for i in next(self._steps)]
        weight = 1.0 / sum(len(row.labelled()) for row in rows)
        step = len(self.losses)
        self.loss, self.adapter.accumulate = 0.0, False
        self.tokens += sum(len(row.ids) for row in rows)
        seeds = [derive(self.job.seed, "dropout", step, i) for i in range(len(rows))]
        return [_Row(self, row, weight, seed) for row, seed in zip(rows, seeds, strict=True)]

    def step(self) -> None:
        """One AdamW step from the gathered gradient.

        Raises:
            AdaptError: the loss or the gradient is not finite.
        """
        assert self.adapter.grad is not None
        recipe, grad = self.job.recipe, self.adapter.grad
        loss, norm = float(self.loss), float(torch.linalg.vector_norm(grad))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise AdaptError(
                f"the loss became {loss} at step {len(self.losses) + 1} of {self.total}"
                f" (learning rate {recipe.learning_rate:g})",
                "lower the learning rate",
            )
        if recipe.max_grad_norm:
            scale = recipe.max_grad_norm / (norm + 1e-6)  # torch.nn.utils.clip_grad_norm_
            if scale < 1:
                grad.mul_(scale)
        self._optimizer.param_groups[0]["lr"] = learning_rate(recipe, len(self.losses), self.total)
        self._parameter.grad = grad
        self._optimizer.step()
        self.losses.append(loss)

    def finish(self, error: SealError | None = None) -> Trained:
        """Free what only training needs."""
        self.adapter.stop_training()
        self._parameter.grad = None
        adapter = None if error else self.adapter
        return Trained(self.job, adapter, tuple(self.losses), self.tokens, self.seconds, error)


def check_rows(rows: Sequence[TrainRow], runtime: Runtime) -> None:
    """Refuse rows that cannot be trained on.

    Raises:
        AdaptError: a row is longer than the model's window, holds no labelled token or an unknown one.
    """
    for i, row in enumerate(rows, 1):
        if len(row.ids) > runtime.max_tokens:
            raise AdaptError(
                f"training sequence {i} has {len(row.ids)} tokens; the model reads {runtime.max_tokens}",
                "split the text, or lower max_length",
            )
        if not row.labelled():
            raise AdaptError(f"training sequence {i} has no token to learn", "give it at least two tokens")
        runtime.check_tokens(row.ids)


def train(runtime: Runtime, jobs: Iterable[AdaptJob], slots: int, token_budget: int) -> Iterator[Trained]:
    """Train `jobs`, at most `slots` at a time, and yield each as it finishes.

    A job without rows or epochs comes back at once with no adapter. A job that cannot be trained comes back
    with its error and disturbs no other.
    """
    waiting = iter(jobs)
    active: list[Fit] = []
    exhausted = False
    while True:
        while len(active) < slots and not exhausted:
            job = next(waiting, None)
            if job is None:
                exhausted = True
            elif not job.rows or not job.recipe.epochs:
                yield Trained(job, None)
            else:
                try:
                    active.append(Fit(runtime, job))
                except SealError as error:
                    yield Trained(job, None, error=error)
        if not active:
            return
        ended = list(_round(runtime, active, token_budget))
        active = [fit for fit in active if not any(fit.job is t.job for t in ended)]
        yield from ended


def _round(runtime: Runtime, active: Sequence[Fit], token_budget: int) -> Iterator[Trained]:
    """One optimiser step of every active job."""
    started = time.perf_counter()
    rows = [row for fit in active for row in fit.next_rows()]
    total = sum(len(row.row.ids) for row in rows)
    with runtime.active():
        for group in _passes(rows, token_budget):
            _forward_backward(runtime, group)
    ended: list[tuple[Fit, AdaptError | None]] = []
    for fit in active:
        try:
            fit.step()
        except AdaptError as error:
            ended.append((fit, error))
        else:
            if fit.done:
                ended.append((fit, None))
    seconds = time.perf_counter() - started
    for fit in active:  # a job's share of the round, by tokens
        fit.seconds += seconds * sum(len(r.row.ids) for r in rows if r.fit is fit) / total
    for fit, failure in ended:
        yield fit.finish(failure)


def _passes(rows: Sequence[_Row], token_budget: int) -> Iterator[list[_Row]]:
    """Cut the rows of a round, in order, into groups of at most `token_budget` tokens (at least one row)."""
    group: list[_Row] = []
    size = 0
    for row in rows:
        if group and size + len(row.row.ids) > token_budget:
            yield group
            group, size = [], 0
        group.append(row)
        size += len(row.row.ids)
    if group:
        yield group


def _forward_backward(runtime: Runtime, group: Sequence[_Row]) -> None:
    """One pass. Adds each job's share to its gradient buffers and to `fit.loss`."""
    packed = pack(
        [r.row.ids for r in group],
        [r.fit.adapter for r in group],
        runtime.device,
        training=True,
        dropout_seeds=[r.dropout_seed for r in group],
    )
    before, targets, weights, counts = [], [], [], []
    for r, (start, _) in zip(group, packed.spans, strict=True):
        labelled = r.row.labelled()
        before += [start + i - 1 for i in labelled]
        targets += [r.row.ids[i] for i in labelled]
        weights += [r.weight] * len(labelled)
        counts.append(len(labelled))
    device = runtime.device
    with torch.enable_grad():
        logits = runtime.forward(packed, torch.tensor(before, device=device))
        nll = F.cross_entropy(logits.float(), torch.tensor(targets, device=device), reduction="none")
        terms = nll * torch.tensor(weights, device=device)
        terms.sum().backward()  # type: ignore[no-untyped-call, unused-ignore]
    for r, part in zip(group, terms.detach().split(counts), strict=True):
        r.fit.loss = r.fit.loss + part.sum()
        r.fit.adapter.accumulate = True
