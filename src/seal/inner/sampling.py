"""Choosing the next token. A row's choice depends on its own logits, seed and step alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

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
