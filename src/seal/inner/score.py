"""Log-likelihoods of short continuations, where prompts that begin alike are read once.

A recipe is written field by field: every call asks for a few choices after prompts that are the last call's
with some words more. The keys and values of the last call's prompts are kept, and of a new prompt only what
comes after the longest beginning it shares with one of them is read, one token a row and step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from seal.inner.kv_cache import KVCache
from seal.inner.packing import pack, pack_step
from seal.inner.precision import in_full
from seal.inner.runtime import Runtime

Ids = tuple[int, ...]


class PrefixScorer:
    """Scores continuations with the bare base, whose weights must not change while it is in use.

    Args:
        max_rows: rows of one step, and prompts that are remembered from one call to the next.
        token_budget: tokens of one prefill.
    """

    def __init__(self, runtime: Runtime, *, max_rows: int, token_budget: int) -> None:
        self.runtime, self.max_rows, self.token_budget = runtime, max_rows, token_budget
        self._known: list[Ids] = []
        self._cache = KVCache(runtime.n_layers)

    @torch.no_grad()
    def score(self, prompts: Sequence[Ids], continuations: Sequence[Ids]) -> list[float]:
        """Summed log-likelihood (nats) of each continuation after its prompt; both hold a token at least."""
        pairs = list(zip(prompts, continuations, strict=True))
        scores = dict.fromkeys(pairs, 0.0)
        starts = list(dict.fromkeys(prompts))
        groups = [starts[at : at + self.max_rows] for at in range(0, len(starts), self.max_rows)]
        caches = []
        with self.runtime.active():
            for group in groups:
                cache, first = self._read(group)
                caches.append(cache)
                wanted = [pair for pair in scores if pair[0] in set(group)]
                for at in range(0, len(wanted), self.max_rows):
                    segment = wanted[at : at + self.max_rows]
                    rows = [group.index(prompt) for prompt, _ in segment]
                    found = self._continue(cache.copy(rows), first[rows], [ids for _, ids in segment])
                    scores |= dict(zip(segment, found, strict=True))
        if groups:  # of more prompts than one group the others are read anew by the next call
            self._known, self._cache = groups[0], caches[0]
        return [scores[pair] for pair in pairs]

    def _read(self, prompts: Sequence[Ids]) -> tuple[KVCache, Tensor]:
        """The cache of `prompts`, and the log-probabilities (rows, V) of what comes after each."""
        shared = [max((_common(p, q), -row) for row, q in enumerate(self._known or [()])) for p in prompts]
        old = [i for i, p in enumerate(prompts) if 2 * shared[i][0] >= len(p)]
        new = [i for i, p in enumerate(prompts) if 2 * shared[i][0] < len(p)]
        lengths = [shared[i][0] if i in set(old) else len(p) - 1 for i, p in enumerate(prompts)]
        cache = self._cache.copy([-shared[i][1] for i in old]) if old else None
        for segment in self._prefills([prompts[i][: lengths[i]] for i in new]):
            if cache is None:
                cache = segment
            else:
                cache.join(segment)
        assert cache is not None
        order = [*old, *new]
        cache.take([order.index(i) for i in range(len(prompts))])
        cache.truncate(lengths)
        tails = [p[n:] for p, n in zip(prompts, lengths, strict=True)]
        first: list[Tensor] = [torch.empty(0)] * len(prompts)
        for step, logits_RV in enumerate(self._steps(cache, tails)):
            for row, tail in enumerate(tails):
                if step == len(tail) - 1:
                    first[row] = logits_RV[row]
        return cache, in_full(torch.stack(first)).log_softmax(dim=-1)

    def _prefills(self, prompts: Sequence[Ids]) -> Iterator[KVCache]:
        """Caches of prompts read whole, about `token_budget` tokens at a time."""
        group: list[Ids] = []
        for number, prompt in enumerate(prompts):
            group.append(prompt)
            last = number == len(prompts) - 1
            if last or sum(map(len, group)) + len(prompts[number + 1]) > self.token_budget:
                cache = KVCache(self.runtime.n_layers)
                packed = pack(group, [None] * len(group), self.runtime.device, cache=cache)
                self.runtime.forward(packed, torch.tensor([0], device=self.runtime.device))
                yield cache
                group = []

    def _continue(self, cache: KVCache, first_RV: Tensor, continuations: Sequence[Ids]) -> list[float]:
        """Log-likelihood of one continuation a row, given the log-probabilities of its first token."""
        totals = [float(first_RV[row, ids[0]]) for row, ids in enumerate(continuations)]
        if max(map(len, continuations)) > 1:
            for step, logits_RV in enumerate(self._steps(cache, [ids[:-1] or ids for ids in continuations])):
                logp_RV = in_full(logits_RV).log_softmax(dim=-1)
                for row, ids in enumerate(continuations):
                    if step + 1 < len(ids):
                        totals[row] += float(logp_RV[row, ids[step + 1]])
        return totals

    def _steps(self, cache: KVCache, tails: Sequence[Ids]) -> Iterator[Tensor]:
        """Read one token of every tail a step; yields the logits (rows, V). A row that is through idles."""
        device, last = self.runtime.device, self.runtime.max_tokens - 1
        lengths = [n + len(tail) for n, tail in zip(cache.lengths, tails, strict=True)]
        for step in range(max(map(len, tails))):
            tokens = torch.tensor([tail[min(step, len(tail) - 1)] for tail in tails], device=device)
            positions = torch.tensor([min(n, last) for n in cache.lengths], device=device)
            packed = pack_step(tokens, positions, (), cache)
            yield self.runtime.forward(packed, torch.arange(len(tails), device=device))
            cache.advance()
        cache.truncate(lengths)


def _common(prompt: Ids, other: Ids) -> int:
    """Tokens that both begin with; never the whole prompt, since its last token has to be read."""
    pairs = zip(prompt[:-1], other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(prompt) - 1, len(other)))
