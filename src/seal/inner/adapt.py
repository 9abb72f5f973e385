"""Training many adapters at once: each keeps its own rows, loss mean, clipping, schedule and step count.

One round gives every active job one optimiser step. The rows of a round are packed into passes of at most
`token_budget` tokens; a job whose rows fall into several passes accumulates. A finished job leaves its slot
to the next one at once.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import overload

import torch
from torch import Tensor

from seal.errors import AdaptError, SealError
from seal.inner.adapter import Adapter, SlotLayout, layout_of
from seal.inner.adapter_files import load_adapter
from seal.inner.memory import LEAST_TOKENS
from seal.inner.packing import pack
from seal.inner.precision import in_full
from seal.inner.runtime import Runtime
from seal.inner.stack import AdapterStack, Slot
from seal.inner.transfer import on_device
from seal.records import AdaptJob, TrainingSequence
from seal.schedule import learning_rate, step_sequences, total_steps
from seal.seeds import derive

log = logging.getLogger(__name__)

#: Logits that are computed at once. On a CPU they stay in blocks that the process keeps, see `memory`.
_LOGITS_ON_CPU, _LOGITS_ELSEWHERE = 7_000_000, 1 << 25


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
    row: TrainingSequence
    weight: float
    dropout_seed: int


class Fit:
    """One job in training, in a slot of a stack."""

    def __init__(self, runtime: Runtime, job: AdaptJob, place: Slot, start: Tensor | None = None) -> None:
        self.job, self.place = job, place
        stack, slot = place
        assert stack.weights is not None
        assert stack.grads is not None
        self.adapter = Adapter(runtime, job.training, job.seed, stack.weights[slot])
        if start is not None:
            self.adapter.weights.copy_(start)
        stack.put(slot, self.adapter)
        self._parameter = torch.nn.Parameter(self.adapter.weights)
        self._parameter.grad = stack.grads[slot]
        training = job.training
        self._optimizer = torch.optim.AdamW(
            [self._parameter], lr=training.learning_rate, weight_decay=training.weight_decay, fused=True
        )
        self._steps = step_sequences(len(job.sequences), training, job.seed)
        self.total = total_steps(len(job.sequences), training)
        self.losses: list[float] = []
        self.tokens, self.seconds = 0, 0.0

    @property
    def done(self) -> bool:
        """Whether every optimiser step has been taken."""
        return len(self.losses) == self.total

    def next_rows(self) -> list[_Row]:
        """Rows of the next optimiser step; the loss is the mean over all their labelled tokens."""
        rows = [self.job.sequences[i] for i in next(self._steps)]
        weight = 1.0 / sum(len(row.labelled()) for row in rows)
        step = len(self.losses)
        self.tokens += sum(len(row.ids) for row in rows)
        seeds = [derive(self.job.seed, "dropout", step, i) for i in range(len(rows))]
        return [_Row(self, row, weight, seed) for row, seed in zip(rows, seeds, strict=True)]

    def step(self) -> Tensor:
        """One AdamW step from the gathered gradient, whose norm is returned without waiting for it."""
        training, grad = self.job.training, self._parameter.grad
        assert grad is not None
        norm: Tensor = torch.linalg.vector_norm(grad)
        scale = None
        if training.max_grad_norm:
            scale = ((norm + 1e-6) / training.max_grad_norm).clamp_(min=1)  # clip_grad_norm_
            if grad.dtype != torch.float32:  # too fine for the optimiser's scale, which is always fp32
                grad.div_(scale)
                scale = None
            elif grad.device.type == "cpu" and float(scale) == 1:
                scale = None  # reading it costs nothing here, dividing by it a sweep
        # What torch's GradScaler hands to a fused optimiser: it divides the gradient in the same sweep.
        self._optimizer.grad_scale = scale  # type: ignore[attr-defined]
        self._optimizer.param_groups[0]["lr"] = learning_rate(training, len(self.losses), self.total)
        self._optimizer.step()
        self.place.stack.put(self.place.slot, self.adapter)
        return norm

    def stepped(self, loss: float, norm: float) -> None:
        """Take note of a step's loss and gradient norm.

        Raises:
            AdaptError: one of them is not finite.
        """
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise AdaptError(
                f"the loss became {loss} at step {len(self.losses) + 1} of {self.total}"
                f" (learning rate {self.job.training.learning_rate:g})",
                "lower the learning rate",
            )
        self.losses.append(loss)

    def finish(self, error: SealError | None = None) -> Trained:
        """Leave the slot, with the weights."""
        adapter = None if error else self.adapter
        self.adapter.weights = self.adapter.weights.clone() if adapter else torch.empty(0)
        return Trained(self.job, adapter, tuple(self.losses), self.tokens, self.seconds, error)


def check_rows(rows: Sequence[TrainingSequence], runtime: Runtime) -> None:
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
    free, budget = _Slots(runtime), TokenBudget(token_budget)
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
                check_rows(job.sequences, runtime)
                layout = layout_of(runtime, job.training)
                fresh.append((job, layout, _start_weights(runtime, job, layout)))
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


def _start_weights(runtime: Runtime, job: AdaptJob, layout: SlotLayout) -> Tensor | None:
    """The weights that `job` begins with, (layout.size,); None where the seed gives them.

    Raises:
        ModelError: there is no such adapter, or it does not fit the model.
        AdaptError: its rank or its layers are not the job's.
    """
    if not job.start_from:
        return None
    adapter = load_adapter(runtime, job.start_from)
    if adapter.layout is not layout or adapter.training.rank != job.training.rank:
        raise AdaptError(
            f"the adapter in {job.start_from} has rank {adapter.training.rank} on"
            f" {len(adapter.layout.layers)} layers, the job rank {job.training.rank} on {len(layout.layers)}",
            "train on with the rank and the targets that it was made with",
        )
    return adapter.weights


class _Slots:
    """The slots that adapters train in. A stack is made when no other has room, as large as needed then."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._stacks: list[AdapterStack] = []
        self._free: list[Slot] = []

    def take(self, layouts: Sequence[SlotLayout]) -> list[Slot]:
        """A slot for each adapter; none at all when memory runs out."""
        stacks, free = list(self._stacks), list(self._free)
        try:
            return self._take(layouts)
        except torch.OutOfMemoryError:
            self._stacks = [s for s in stacks if s in self._stacks]  # idle ones may be gone
            self._free = [p for p in free if p.stack in self._stacks]
            return []

    def _take(self, layouts: Sequence[SlotLayout]) -> list[Slot]:
        places: dict[int, Slot] = {}
        for i, layout in enumerate(layouts):
            place = next((p for p in self._free if p.stack.layout is layout), None)
            if place is not None:
                places[i] = place
                self._free.remove(place)
        homeless = [i for i in range(len(layouts)) if i not in places]
        if homeless:
            self._drop_idle()
        for layout in dict.fromkeys(layouts[i] for i in homeless):
            own = [i for i in homeless if layouts[i] is layout]
            stack = AdapterStack(self.runtime, layout, len(own), training=True)
            self._stacks.append(stack)
            places |= {i: Slot(stack, slot) for slot, i in enumerate(own)}
        return [places[i] for i in range(len(layouts))]

    def give(self, places: Iterable[Slot]) -> None:
        """Take slots back; the lowest are taken first again."""
        self._free = sorted([*self._free, *places], key=self.order)

    def order(self, place: Slot) -> tuple[int, int]:
        """Where a slot's rows stand in a pass."""
        return self._stacks.index(place.stack), place.slot

    def _drop_idle(self) -> None:
        idle = [s for s in self._stacks if sum(p.stack is s for p in self._free) == len(s.scales)]
        self._stacks = [s for s in self._stacks if s not in idle]
        self._free = [p for p in self._free if p.stack not in idle]


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
    norms_N = torch.stack([fit.step() for fit in active])
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
    runtime: Runtime, active: Sequence[Fit], steps: Sequence[Sequence[_Row]], token_budget: int
) -> tuple[Tensor, Sequence[Fit]]:
    """Write the gradients of a round; returns every job's loss (N,), and in whose pass memory ran out."""
    losses_N = torch.zeros(len(active), dtype=runtime.state_dtype, device=runtime.device)
    number = {id(fit): i for i, fit in enumerate(active)}
    rows: list[_Row] = []
    try:
        with runtime.active():
            for rows, accumulate in _passes(steps, token_budget):
                fits, losses = _forward_backward(runtime, rows, accumulate)
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


def _passes(steps: Sequence[Sequence[_Row]], token_budget: int) -> Iterator[tuple[list[_Row], bool]]:
    """Cut the rows of a round, job by job, into passes of at most `token_budget` tokens (at least one row).

    A job's rows share a pass where they fit into one. Where not, each of their passes is theirs alone, and
    all but the first add to the gradients.
    """
    group: list[_Row] = []
    size = 0
    for rows in steps:
        tokens = sum(len(r.row.ids) for r in rows)
        if group and size + tokens > token_budget:
            yield group, False
            group, size = [], 0
        if tokens <= token_budget:
            group += rows
            size += tokens
            continue
        for number, chunk in enumerate(_cut(rows, token_budget)):
            yield chunk, number > 0
    if group:
        yield group, False


def _cut(rows: Sequence[_Row], token_budget: int) -> Iterator[list[_Row]]:
    chunk: list[_Row] = []
    for row in rows:
        if chunk and sum(len(r.row.ids) for r in (*chunk, row)) > token_budget:
            yield chunk
            chunk = []
        chunk.append(row)
    yield chunk


def _forward_backward(runtime: Runtime, group: Sequence[_Row], accumulate: bool) -> tuple[list[Fit], Tensor]:
    """One pass. Brings each job's share to its gradient; returns the jobs and their shares of the loss."""
    device = runtime.device
    packed = pack(
        [r.row.ids for r in group],
        [r.fit.place for r in group],
        device,
        multiple=runtime.pass_multiple,
        training=True,
        accumulate=accumulate,
        dropout=[(r.dropout_seed, r.fit.job.training.dropout) for r in group],
    )
    before, targets, weights = [], [], []
    counts: dict[int, int] = {}  # of labelled tokens, by job
    for r, (start, _) in zip(group, packed.spans, strict=True):
        labelled = r.row.labelled()
        before += [start + i - 1 for i in labelled]
        targets += [r.row.ids[i] for i in labelled]
        weights += [r.weight] * len(labelled)
        counts[id(r.fit)] = counts.get(id(r.fit), 0) + len(labelled)
    at = on_device(before, device)
    with torch.enable_grad(), runtime.serving(packed):
        hidden_TD = runtime.hidden(packed)
        terms, grad_KD = _head(
            runtime,
            hidden_TD.detach().index_select(0, at),
            on_device(targets, device),
            on_device(weights, device, runtime.state_dtype),
        )
        hidden_TD.backward(torch.zeros_like(hidden_TD).index_copy_(0, at, grad_KD))
    fits = list({id(r.fit): r.fit for r in group}.values())
    return fits, _sums(terms, [counts[id(fit)] for fit in fits])


def _sums(terms_K: Tensor, counts: Sequence[int]) -> Tensor:
    """Sums (n,) of consecutive stretches of so many terms: one indexing call, filled up with a zero."""
    longest, zero, stop = max(counts), len(terms_K), 0
    index: list[int] = []
    for n in counts:
        index += [*range(stop, stop + n), *[zero] * (longest - n)]
        stop += n
    filled = torch.cat([terms_K, terms_K.new_zeros(1)])
    return filled.index_select(0, on_device(index, terms_K.device)).view(-1, longest).sum(dim=1)


def _head(runtime: Runtime, hidden_KD: Tensor, targets_K: Tensor, weights_K: Tensor) -> tuple[Tensor, Tensor]:
    """Every labelled position's weighted loss (K,), and the loss's gradient by `hidden_KD`.

    In pieces: the logits of a whole pass would be far larger than all else in it. The gradient by the logits,
    softmax - one-hot, is made of the loss's own log-probabilities.
    """
    losses, grads = [], []
    most = _LOGITS_ON_CPU if runtime.device.type == "cpu" else _LOGITS_ELSEWHERE
    rows = max(1, most // runtime.vocabulary)
    chunks = (x.split(rows) for x in (hidden_KD, targets_K[:, None], weights_K[:, None]))
    for hidden_KD, targets_K1, weights_K1 in zip(*chunks, strict=True):
        with torch.enable_grad():
            logits_KV = runtime.logits(hidden_KD.requires_grad_())
        log_p_KV = in_full(logits_KV.detach()).log_softmax(dim=-1)
        losses.append(-(log_p_KV.gather(1, targets_K1) * weights_K1)[:, 0])
        by_logits_KV = log_p_KV.exp_().scatter_add_(1, targets_K1, -torch.ones_like(weights_K1))
        (grad_KD,) = torch.autograd.grad(logits_KV, hidden_KD, by_logits_KV.to(logits_KV.dtype))
        grads.append(grad_KD * weights_K1.to(grad_KD.dtype))
    return torch.cat(losses), torch.cat(grads)
