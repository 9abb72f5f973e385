"""Answering with many adapters at once: one prefill, then one new token a row and step, with a KV cache.

Rows that finish leave the batch; waiting rows take their place. Rows with the same adapter and prompt (the k
samples of one self-edit prompt) share one prefill. A reference's log-likelihood is read off the prefill.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from seal.errors import AdaptError
from seal.inner.adapter import Adapter
from seal.inner.decode_step import DecodeStep
from seal.inner.kv_cache import KVCache
from seal.inner.packing import pack, pack_step
from seal.inner.precision import in_full
from seal.inner.runtime import Runtime
from seal.inner.sampling import RowSampler, pick
from seal.inner.stack import Segment, Slot, split_segments, stack_up
from seal.inner.transfer import on_device
from seal.records import Sampling

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to continue with one adapter (None: the bare base)."""

    ids: tuple[int, ...]
    adapter: Adapter | None
    sampling: Sampling
    seed: int = 0
    reference: tuple[int, ...] = ()


@dataclass(slots=True)
class TokenCompletion:
    """What was written for a request."""

    ids: list[int] = field(default_factory=list)
    text: str = ""
    finish: Literal["stop", "length"] = "length"
    log_likelihood: float | None = None


@dataclass(slots=True)
class _Row:
    request: Request
    written: TokenCompletion
    generator: torch.Generator
    place: Slot | None
    order: int
    """Of its adapter in the batch; rows of the bare base stand last."""
    token: int = 0


class Decoder:
    """Continues requests in batches of at most `max_rows` rows and about `token_budget` prefill tokens."""

    def __init__(
        self,
        runtime: Runtime,
        detokenise: Callable[[Sequence[int]], str],
        stop_ids: frozenset[int],
        *,
        max_rows: int,
        token_budget: int,
    ) -> None:
        self.runtime, self.detokenise, self.stop_ids = runtime, detokenise, stop_ids
        self.max_rows, self.token_budget = max_rows, token_budget
        self.static = runtime.device.type in ("cuda", "meta")
        """Whether steps go over buffers that stay the same, see `DecodeStep`."""
        self._stepper: DecodeStep | None = None

    @torch.no_grad()
    def run(
        self, requests: Sequence[Request], on_step: Callable[[Sequence[TokenCompletion]], None] | None = None
    ) -> list[TokenCompletion]:
        """Continue every request; results in order.

        Args:
            on_step: called with the results so far whenever rows have a new token. An exception of its ends
                the run.

        Raises:
            AdaptError: a prompt cannot be read, or leaves no room in the model's window.
        """
        for request in requests:
            self.check(request)
        while (results := self._attempt(requests, on_step)) is None:
            if self.max_rows == 1:
                raise AdaptError("the device's memory does not hold one answer", "shorten the prompts")
            log.warning("out of memory with %d rows: half as many are answered at once now", self.max_rows)
            self.max_rows, self.token_budget = self.max_rows // 2, self.token_budget // 2
        return results

    def _attempt(
        self, requests: Sequence[Request], on_step: Callable[[Sequence[TokenCompletion]], None] | None
    ) -> list[TokenCompletion] | None:
        """The results; None when memory runs out."""
        results = [TokenCompletion() for _ in requests]
        adapters = list({id(r.adapter): r.adapter for r in requests if r.adapter is not None}.values())
        layouts = [adapter.layout for adapter in adapters]  # a list is empty while it is sorted
        adapters.sort(key=lambda adapter: layouts.index(adapter.layout))  # one stack after the other
        order = {id(adapter): number for number, adapter in enumerate(adapters)}
        watch = (lambda: on_step(results)) if on_step is not None else None
        try:
            with self.runtime.active():
                places = stack_up(self.runtime, adapters)
                waiting = [
                    _Row(r, result, torch.Generator().manual_seed(r.seed), *_stand(r, order, places))
                    for r, result in zip(requests, results, strict=True)
                ]
                self._decode(sorted(waiting, key=lambda row: row.order), watch)
        except torch.OutOfMemoryError:
            return None
        finally:
            self._stepper = None  # it holds the cache
        return results

    def check(self, request: Request) -> None:
        """Raise `AdaptError` for a prompt that the model cannot read or that leaves no room in its window."""
        if not request.ids:
            raise AdaptError("a prompt is empty", "give it at least one token")
        self.runtime.check_tokens(request.ids + request.reference)
        need = len(request.ids) + max(len(request.reference), 1)
        if need > self.runtime.max_tokens:
            raise AdaptError(
                f"a prompt has {len(request.ids)} tokens; the model reads {self.runtime.max_tokens}",
                "shorten the prompt",
            )

    def _decode(self, waiting: list[_Row], watch: Callable[[], None] | None) -> None:
        rows: list[_Row] = []
        segments: tuple[Segment, ...] = ()
        cache = KVCache(self.runtime.n_layers)
        while waiting or rows:
            if waiting and len(rows) <= self.max_rows // 2:
                count = min(self.max_rows - len(rows), len(waiting))
                fresh, waiting = waiting[:count], waiting[count:]
                rows, cache = self._admit(rows, cache, fresh)
                rows, cache = self._settle(rows, cache)
                if not rows:
                    continue
                segments = self._segments(rows)
            if watch is not None:
                watch()
            self._step(rows, cache, segments)
            done = sum(self._finished(r) for r in rows)
            room = waiting and len(rows) - done <= self.max_rows // 2
            if done * 4 >= len(rows) or room:
                rows, cache = self._settle(rows, cache)
                segments = self._segments(rows)

    def _segments(self, rows: Sequence[_Row]) -> tuple[Segment, ...]:
        self._stepper = None
        return split_segments([r.place for r in rows], [1] * len(rows), self.runtime.device)

    def _settle(self, rows: list[_Row], cache: KVCache) -> tuple[list[_Row], KVCache]:
        """Let finished rows leave."""
        stay = [i for i, r in enumerate(rows) if not self._finished(r)]
        if not stay:
            return [], KVCache(self.runtime.n_layers)
        if len(stay) < len(rows):
            cache.take(stay)
        return [rows[i] for i in stay], cache

    def _admit(self, rows: list[_Row], cache: KVCache, fresh: list[_Row]) -> tuple[list[_Row], KVCache]:
        """Prefill `fresh` and merge them into the batch, sorted by adapter."""
        for group in self._prefill_groups(fresh):
            new = self._prefill(group)
            if new is None:
                continue
            if rows:
                cache.join(new)
            else:
                cache = new
            rows = rows + [row for shared in group for row in shared]
        order = sorted(range(len(rows)), key=lambda i: rows[i].order)
        if order != list(range(len(rows))):
            cache.take(order)
        return [rows[i] for i in order], cache

    def _prefill_groups(self, fresh: list[_Row]) -> list[list[list[_Row]]]:
        """Cut into prefills of about `token_budget` tokens; rows that can share a prefill stand together."""
        shared: dict[tuple[int, tuple[int, ...], tuple[int, ...]], list[_Row]] = {}
        for row in fresh:
            shared.setdefault((row.order, row.request.ids, row.request.reference), []).append(row)
        groups: list[list[list[_Row]]] = []
        size = 0
        for rows in shared.values():
            tokens = len(rows[0].request.ids) + len(rows[0].request.reference)
            if not groups or size + tokens > self.token_budget:
                groups.append([])
                size = 0
            groups[-1].append(rows)
            size += tokens
        return groups

    def _prefill(self, group: list[list[_Row]]) -> KVCache | None:
        """Read the prompts (and references), take the first token of every row; returns their cache.

        Where all rows are only scored there is no token to take, and nothing to keep.
        """
        requests = [rows[0].request for rows in group]
        writing = any(not self._finished(row) for rows in group for row in rows)
        cache = KVCache(self.runtime.n_layers) if writing else None
        sequences = [r.ids + r.reference[:-1] for r in requests]
        packed = pack(
            sequences,
            [rows[0].place for rows in group],
            self.runtime.device,
            multiple=self.runtime.pass_multiple,
            cache=cache,
        )
        counts = [max(len(r.reference), 1) for r in requests]
        keep = [
            start + len(r.ids) - 1 + i
            for r, n, (start, _) in zip(requests, counts, packed.spans, strict=True)
            for i in range(n)
        ]
        segments = self.runtime.forward(packed, on_device(keep, self.runtime.device)).split(counts)
        self._score(group, segments)
        if cache is None:
            return None
        firsts = [segment[0] for rows, segment in zip(group, segments, strict=True) for _ in rows]
        cache.truncate([len(r.ids) for r in requests])
        cache.take([i for i, rows in enumerate(group) for _ in rows])
        self._choose([row for rows in group for row in rows], torch.stack(firsts))
        return cache

    def _score(self, group: list[list[_Row]], segments: Sequence[Tensor]) -> None:
        """Note the references' log-likelihoods, given the logits that each begins with and goes through."""
        scored = [(rows, x) for rows, x in zip(group, segments, strict=True) if rows[0].request.reference]
        if not scored:
            return
        sums = []
        for rows, segment in scored:
            target = on_device(rows[0].request.reference, segment.device)[:, None]
            sums.append(in_full(segment).log_softmax(dim=-1).gather(1, target).sum())
        for (rows, _), likelihood in zip(scored, torch.stack(sums).tolist(), strict=True):
            for row in rows:
                row.written.log_likelihood = likelihood

    def _step(self, rows: list[_Row], cache: KVCache, segments: tuple[Segment, ...]) -> None:
        device = self.runtime.device
        if self.static:
            if self._stepper is None:
                width = max(self._limit(r) for r in rows)
                sampler = self._sampler(rows)
                self._stepper = DecodeStep(
                    self.runtime, cache, width, segments, [r.token for r in rows], sampler
                )
            self._note(rows, self._stepper())
            return
        tokens = on_device([r.token for r in rows], device)
        last = self.runtime.max_tokens - 1  # only finished rows, which wait to leave, can be there
        positions = on_device([min(n, last) for n in cache.lengths], device)
        packed = pack_step(tokens, positions, segments, cache)
        logits = self.runtime.forward(packed, torch.arange(len(rows), device=device))
        cache.advance()
        self._choose(rows, logits)

    def _choose(self, rows: list[_Row], logits_RV: Tensor) -> None:
        """Take each row's next token."""
        if self.static:
            sampler = self._sampler(rows)
            self._note(rows, sampler.read(sampler(logits_RV)))
            return
        chosen = pick(logits_RV, [r.request.sampling for r in rows], [r.generator for r in rows]).tolist()
        self._note(rows, chosen)

    def _sampler(self, rows: Sequence[_Row]) -> RowSampler:
        kinds = [(r.request.sampling, r.request.seed, len(r.written.ids)) for r in rows]
        return RowSampler(kinds, self.runtime.device)

    def _note(self, rows: Sequence[_Row], chosen: Sequence[int]) -> None:
        """Write down each unfinished row's token and see whether it ends there."""
        for row, token in zip(rows, chosen, strict=True):
            row.token = token
            if self._finished(row):
                continue
            if token in self.stop_ids:
                self._end(row, self.detokenise(row.written.ids))
                continue
            row.written.ids.append(token)
            self._look_for_stop(row)

    def _look_for_stop(self, row: _Row) -> None:
        """See whether the newest token completes a stop string or fills the row.

        The whole text is read only when its end holds a stop string, or at last.
        """
        stop, ids = row.request.sampling.stop, row.written.ids
        full = self._finished(row)
        if not full and not (stop and _holds(self.detokenise(ids[-_tail(stop) :]), stop)):
            return
        text = self.detokenise(ids)
        at = min((i for s in stop if (i := text.find(s)) >= 0), default=-1)
        if at >= 0:
            self._end(row, text[:at])
        elif full:
            row.written.text = text

    def _end(self, row: _Row, text: str) -> None:
        row.written.text, row.written.finish = text, "stop"

    def _finished(self, row: _Row) -> bool:
        full = len(row.request.ids) + len(row.written.ids) >= self._limit(row)
        return row.written.finish == "stop" or full

    def _limit(self, row: _Row) -> int:
        """Tokens of a row when it is full, prompt and answer."""
        return min(len(row.request.ids) + row.request.sampling.max_new_tokens, self.runtime.max_tokens)


def _tail(stop: Sequence[str]) -> int:
    """Last tokens of a text in which the newest completes a stop string, if any: each gives a byte at least.

    A few more stand before them, since what a token reads as may depend on its neighbours.
    """
    return max(len(s.encode()) for s in stop) + 8


def _holds(text: str, stop: Sequence[str]) -> bool:
    return any(s in text for s in stop)


def _stand(request: Request, order: dict[int, int], places: Sequence[Slot]) -> tuple[Slot | None, int]:
    """Where a request's rows stand in the batch."""
    if request.adapter is None:
        return None, len(places)
    number = order[id(request.adapter)]
    return places[number], number
