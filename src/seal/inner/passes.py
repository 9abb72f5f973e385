"""Forward and backward passes of a round: which rows share one, and how it writes the adapters' gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from seal.inner.fit import Fit, Row
from seal.inner.packing import Pack, pack
from seal.inner.precision import in_full
from seal.inner.recorded import Rows
from seal.inner.runtime import Runtime
from seal.inner.transfer import on_device

#: Logits that are computed at once. On a CPU they stay in blocks that the process keeps, see `memory`.
_LOGITS_ON_CPU, _LOGITS_ELSEWHERE = 7_000_000, 1 << 25


def passes(steps: Sequence[Sequence[Row]], token_budget: int) -> Iterator[tuple[list[Row], bool]]:
    """Cut the rows of a round, job by job, into passes of at most `token_budget` tokens (at least one row).

    A job's rows share a pass where they fit into one. Where not, each of their passes is theirs alone, and
    all but the first add to the gradients.
    """
    group: list[Row] = []
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


def _cut(rows: Sequence[Row], token_budget: int) -> Iterator[list[Row]]:
    chunk: list[Row] = []
    for row in rows:
        if chunk and sum(len(r.row.ids) for r in (*chunk, row)) > token_budget:
            yield chunk
            chunk = []
        chunk.append(row)
    yield chunk


def forward_backward(runtime: Runtime, group: Sequence[Row], accumulate: bool) -> tuple[list[Fit], Tensor]:
    """One pass. Brings each job's share to its gradient; returns the jobs and their shares of the loss."""
    rows, counts = _rows(group)
    stacks = {id(r.fit.place.stack): r.fit.place.stack for r in group}
    dropout = [(r.dropout_seed, r.fit.job.training.dropout) for r in group]
    terms: Tensor | None = None
    if len(stacks) == 1 and not any(p for _, p in dropout):
        (stack,) = stacks.values()
        terms = runtime.recordings.find(stack, rows, accumulate, _take)
    if terms is None:
        device = runtime.device
        packed = pack(
            rows.ids,
            [r.fit.place for r in group],
            device,
            multiple=runtime.pass_multiple,
            training=True,
            accumulate=accumulate,
            dropout=dropout,
        )
        at, targets = on_device(rows.before, device), on_device(rows.targets, device)
        terms = _take(runtime, packed, at, targets, on_device(rows.weights, device, runtime.state_dtype))
    fits = list({id(r.fit): r.fit for r in group}.values())
    return fits, _sums(terms, [counts[id(fit)] for fit in fits])


def _rows(group: Sequence[Row]) -> tuple[Rows, dict[int, int]]:
    """The rows of a pass, and how many labelled tokens each job has in it."""
    before, targets, weights = [], [], []
    counts: dict[int, int] = {}
    start = 0
    for r in group:
        labelled = r.row.labelled()
        before += [start + i - 1 for i in labelled]
        targets += [r.row.ids[i] for i in labelled]
        weights += [r.weight] * len(labelled)
        counts[id(r.fit)] = counts.get(id(r.fit), 0) + len(labelled)
        start += len(r.row.ids)
    rows = Rows([r.row.ids for r in group], [r.fit.place.slot for r in group], before, targets, weights)
    return rows, counts


def _take(runtime: Runtime, packed: Pack, at_K: Tensor, targets_K: Tensor, weights_K: Tensor) -> Tensor:
    """Forward and backward: writes the adapters' gradients, returns the labelled positions' losses (K,)."""
    with torch.enable_grad(), runtime.serving(packed):
        hidden_TD = runtime.hidden(packed)
        kept_KD = hidden_TD.detach().index_select(0, at_K)
        terms, grad_KD = _head(runtime, kept_KD, targets_K, weights_K)
        hidden_TD.backward(torch.zeros_like(hidden_TD).index_copy_(0, at_K, grad_KD))
    return terms


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
