"""Choosing the next token. A row's choice depends on its own logits, seed and step alone.

On a CPU each row draws from a generator of its own, as runs recorded earlier did. On a GPU draws are hashes,
made there: the same seed then gives another text than on a CPU, but one from the same distribution.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seal.inner.counter import signed, uniform
from seal.inner.transfer import on_device
from seal.records import Sampling

#: Tokens looked at first for nucleus sampling; a flatter distribution falls back to a full sort.
_NUCLEUS_GUESS = 512


def pick(logits_RV: Tensor, samplings: Sequence[Sampling], generators: Sequence[torch.Generator]) -> Tensor:
    """Next token (R,) of every row: greedy at temperature 0, else nucleus sampling (Holtzman et al. 2020)."""
    tokens = logits_RV.argmax(dim=-1)
    for key in sorted({(s.temperature, s.top_p) for s in samplings if s.temperature > 0}):
        rows = [i for i, s in enumerate(samplings) if (s.temperature, s.top_p) == key]
        at = on_device(rows, logits_RV.device)
        draws = torch.stack([torch.rand((), generator=generators[i], dtype=torch.float64) for i in rows])
        probabilities = (logits_RV[at].float() / key[0]).softmax(dim=-1)
        tokens[at] = _draw(probabilities, key[1], draws.float().to(logits_RV.device, non_blocking=True))
    return tokens


class RowSampler:
    """Takes the next token of rows that stay the same from step to step, without the host.

    A row's draws are hashes of its seed and of how many tokens it has. It draws from its likeliest tokens;
    where they are not enough, `read` finds out together with the tokens, and draws again from all.
    """

    def __init__(self, rows: Sequence[tuple[Sampling, int, int]], device: torch.device) -> None:
        """`rows`: how each samples, its seed, and the tokens that it has."""
        kinds = {(s.temperature, s.top_p) for s, _, _ in rows if s.temperature > 0}
        self._groups = [
            (
                t,
                p,
                on_device(
                    [i for i, (s, _, _) in enumerate(rows) if (s.temperature, s.top_p) == (t, p)], device
                ),
            )
            for t, p in sorted(kinds)
        ]
        counts = [[taken for _, _, taken in rows], [signed(seed) for _, seed, _ in rows]]
        self.counters_2R = on_device(counts, device, torch.int32) if kinds else None
        self._last: list[tuple[Tensor, Tensor, float, Tensor]] = []

    def __call__(self, logits_RV: Tensor) -> Tensor:
        """(2, R): tokens, and whether each is sure."""
        tokens_R = logits_RV.argmax(dim=-1)
        sure_R = torch.ones_like(tokens_R)
        self._last = []
        if self.counters_2R is None:
            return torch.stack([tokens_R, sure_R])
        draws_R = uniform(self.counters_2R[0], self.counters_2R[1])
        self.counters_2R[0].add_(1)
        for temperature, top_p, at in self._groups:
            p, draws = (logits_RV[at].float() / temperature).softmax(dim=-1), draws_R[at]
            if top_p >= 1:
                tokens_R[at] = _draw(p, top_p, draws)
                continue
            values, likeliest = p.topk(min(_NUCLEUS_GUESS, p.shape[1]), dim=-1)
            tokens_R[at] = _draw_sorted(values, likeliest, top_p, draws)
            sure_R[at] = (values.sum(dim=-1) >= top_p).long()
            self._last.append((at, p, top_p, draws))
        return torch.stack([tokens_R, sure_R])

    def read(self, chosen_2R: Tensor) -> list[int]:
        """The tokens of the last call on the host; corrected, on the device too, where one was not sure."""
        tokens, sure = chosen_2R.tolist()
        if all(sure):
            return [int(token) for token in tokens]
        for at, p, top_p, draws in self._last:
            again = _draw_sorted(*p.sort(dim=-1, descending=True), top_p, draws)
            chosen_2R[0, at] = torch.where(chosen_2R[1, at] > 0, chosen_2R[0, at], again)
        return [int(token) for token in chosen_2R[0].tolist()]


def _draw(p_RV: Tensor, top_p: float, draws_R: Tensor) -> Tensor:
    """Draw (R,) from each row's smallest set of most likely tokens whose mass reaches `top_p`."""
    if top_p >= 1:
        cumulative = p_RV.cumsum(dim=-1)
        target = draws_R[:, None] * cumulative[:, -1:]
        return torch.searchsorted(cumulative, target, right=True).clamp_(max=p_RV.shape[1] - 1)[:, 0]
    values, tokens = p_RV.topk(min(_NUCLEUS_GUESS, p_RV.shape[1]), dim=-1)
    flat = values.sum(dim=-1) < top_p
    out = _draw_sorted(values, tokens, top_p, draws_R)
    if bool(flat.any()):  # these rows alone: a full sort may order equal probabilities differently
        out[flat] = _draw_sorted(*p_RV[flat].sort(dim=-1, descending=True), top_p, draws_R[flat])
    return out


def _draw_sorted(values: Tensor, tokens: Tensor, top_p: float, draws_R: Tensor) -> Tensor:
    """Inverse-CDF draw from the nucleus of `tokens`, whose probabilities `values` (R, ·) descend."""
    cumulative = values.cumsum(dim=-1)
    last = (cumulative < top_p).sum(dim=-1, keepdim=True).clamp_(max=values.shape[1] - 1)
    target = draws_R[:, None] * cumulative.gather(1, last)
    chosen = torch.searchsorted(cumulative, target, right=True).minimum(last)
    return tokens.gather(1, chosen)[:, 0]
