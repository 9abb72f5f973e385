"""Forward and backward passes of a round: which rows share one, and how it writes the adapters' gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from seal.inner.fit import Fit, Row
from seal.inner.heads import cross_entropy, divergence
from seal.inner.packing import Pack, pack
from seal.inner.recorded import Rows
from seal.inner.runtime import Runtime
from seal.inner.transfer import on_device


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
    held = any(r.anchor for r in group)
    if len(stacks) == 1 and not held and not any(p for _, p in dropout):
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
        weights = on_device(rows.weights, device, runtime.state_dtype)
        terms = _take(runtime, packed, at, targets, weights, _held(runtime, group) if held else None)
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


class Held(NamedTuple):
    """The anchors among the labelled positions of a pass."""

    at: Tensor
    """Which of the K positions are theirs, (A,)."""
    others: Tensor
    """Which are not, (K - A,)."""
    frozen_AD: Tensor
    """What the decoder without adapters gives to the head there."""


def _held(runtime: Runtime, group: Sequence[Row]) -> Held:
    """The anchors of `group`, read once without adapters."""
    anchors = [r.row for r in group if r.anchor]
    flags = [r.anchor for r in group for _ in r.row.labelled()]
    at, others = ([i for i, flag in enumerate(flags) if flag is wanted] for wanted in (True, False))
    device = runtime.device
    bare = pack([row.ids for row in anchors], [None] * len(anchors), device, multiple=runtime.pass_multiple)
    before = [
        start + i - 1 for row, (start, _) in zip(anchors, bare.spans, strict=True) for i in row.labelled()
    ]
    with torch.no_grad(), runtime.serving(bare):
        frozen_AD = runtime.hidden(bare).index_select(0, on_device(before, device))
    return Held(on_device(at, device), on_device(others, device), frozen_AD)


def _take(
    runtime: Runtime,
    packed: Pack,
    at_K: Tensor,
    targets_K: Tensor,
    weights_K: Tensor,
    held: Held | None = None,
) -> Tensor:
    """Forward and backward: writes the adapters' gradients, returns the labelled positions' losses (K,)."""
    with torch.enable_grad(), runtime.serving(packed):
        hidden_TD = runtime.hidden(packed)
        kept_KD = hidden_TD.detach().index_select(0, at_K)
        if held is None:
            terms, grad_KD = cross_entropy(runtime, kept_KD, targets_K, weights_K)
        else:
            terms, grad_KD = _with_anchors(runtime, kept_KD, targets_K, weights_K, held)
        hidden_TD.backward(torch.zeros_like(hidden_TD).index_copy_(0, at_K, grad_KD))
    return terms


def _with_anchors(
    runtime: Runtime, hidden_KD: Tensor, targets_K: Tensor, weights_K: Tensor, held: Held
) -> tuple[Tensor, Tensor]:
    """Losses (K,) and gradients (K, D): the KL at the positions of anchors, cross-entropy at the others."""
    terms_K, grad_KD = torch.empty_like(weights_K), torch.empty_like(hidden_KD)
    for at, frozen in ((held.others, None), (held.at, held.frozen_AD)):
        if not len(at):
            continue
        hidden, weights = hidden_KD.index_select(0, at), weights_K.index_select(0, at)
        if frozen is None:
            terms, grad = cross_entropy(runtime, hidden, targets_K.index_select(0, at), weights)
        else:
            terms, grad = divergence(runtime, hidden, frozen, weights)
        terms_K.index_copy_(0, at, terms)
        grad_KD.index_copy_(0, at, grad)
    return terms_K, grad_KD


def _sums(terms_K: Tensor, counts: Sequence[int]) -> Tensor:
    """Sums (n,) of consecutive stretches of so many terms: one indexing call, filled up with a zero."""
    longest, zero, stop = max(counts), len(terms_K), 0
    index: list[int] = []
    for n in counts:
        index += [*range(stop, stop + n), *[zero] * (longest - n)]
        stop += n
    filled = torch.cat([terms_K, terms_K.new_zeros(1)])
    return filled.index_select(0, on_device(index, terms_K.device)).view(-1, longest).sum(dim=1)
