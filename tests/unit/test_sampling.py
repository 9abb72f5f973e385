"""`pick` draws from the exact nucleus distribution, and each row for itself alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from seal.inner.sampling import _NUCLEUS_GUESS, pick
from seal.records import Sampling

GREEDY = Sampling(temperature=0.0)


def generators(n: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + i) for i in range(n)]


def nucleus(logits_V: Tensor, temperature: float, top_p: float) -> Tensor:
    """The distribution to draw from, spelled out token by token (Holtzman et al. 2020, section 3.1)."""
    p = torch.softmax(logits_V.double() / temperature, 0)
    kept, mass = torch.zeros_like(p), 0.0
    for token in sorted(range(len(p)), key=lambda i: -float(p[i])):
        if mass >= top_p:
            break
        kept[token] = p[token]
        mass += float(p[token])
    return kept / kept.sum()


def chi_square(counts: Tensor, expected: Tensor) -> tuple[float, int]:
    """Pearson's statistic over the possible tokens, and its degrees of freedom."""
    possible = expected > 0
    gap = (counts - expected)[possible].square() / expected[possible]
    return float(gap.sum()), int(possible.sum()) - 1


#: Upper 0.1 % points of the chi-square distribution.
CRITICAL = {3: 16.27, 6: 22.46, 7: 24.32}


@pytest.mark.parametrize(
    ("temperature", "top_p", "freedom"), [(1.0, 1.0, 7), (0.5, 1.0, 7), (2.0, 0.95, 6), (0.7, 0.9, 3)]
)
def test_draws_follow_the_nucleus_distribution(temperature: float, top_p: float, freedom: int) -> None:
    logits = torch.tensor([0.3, 2.0, -1.0, 1.1, 0.0, 0.9, -2.0, 1.9])
    n = 5000
    chosen = pick(logits.repeat(n, 1), [Sampling(temperature, top_p)] * n, generators(n))
    counts = torch.bincount(chosen, minlength=8)
    exact = nucleus(logits, temperature, top_p)
    assert int(counts[exact == 0].sum()) == 0
    statistic, degrees = chi_square(counts, n * exact)
    assert degrees == freedom
    assert statistic < CRITICAL[freedom]


def test_a_flat_distribution_is_sorted_in_full() -> None:
    """More tokens in the nucleus than are looked at first: still none is lost and none of the tail drawn."""
    vocabulary, n = 4 * _NUCLEUS_GUESS, 4000
    logits = torch.zeros(vocabulary)
    logits[: vocabulary // 2] = 4.0  # 98.2 % of the mass
    chosen = pick(logits.repeat(n, 1), [Sampling(1.0, 0.9)] * n, generators(n))
    assert int(chosen.max()) < vocabulary // 2
    expected = round(0.9 * (1 + torch.exp(torch.tensor(-4.0)).item()) * vocabulary / 2)
    assert len(chosen.unique()) > _NUCLEUS_GUESS
    assert len(chosen.unique()) <= expected + 1


def test_temperature_zero_and_a_tiny_nucleus_are_the_argmax() -> None:
    logits = torch.randn(50, 40)
    best = logits.argmax(-1)
    assert torch.equal(pick(logits, [GREEDY] * 50, generators(50)), best)
    assert torch.equal(pick(logits, [Sampling(1.0, 1e-6)] * 50, generators(50)), best)
    assert torch.equal(pick(logits, [Sampling(1e-4, 1.0)] * 50, generators(50)), best)


def test_a_greedy_row_does_not_advance_its_generator() -> None:
    (own,) = generators(1)
    before = own.get_state()
    pick(torch.randn(1, 9), [GREEDY], [own])
    assert torch.equal(own.get_state(), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_draws_the_same_whatever_stands_beside_it(dtype: torch.dtype) -> None:
    """Rows of ties (usual in bfloat16) beside a flat row that needs the full sort, and other samplings."""
    vocabulary = 3 * _NUCLEUS_GUESS
    logits = (torch.randn(40, vocabulary) * 3).round().to(dtype)
    logits[::4] = 0  # flat
    kinds = [Sampling(1.0, 0.95), Sampling(0.7, 0.95), GREEDY, Sampling(1.0, 1.0)]
    samplings = [kinds[i % 4] for i in range(40)]
    together = pick(logits, samplings, generators(40))
    for i in range(40):
        alone = pick(logits[i : i + 1], [samplings[i]], generators(1, i))
        assert int(alone) == int(together[i])


def test_a_seed_fixes_the_whole_series() -> None:
    logits = torch.randn(1, 100)
    series = [
        [int(pick(logits, [Sampling(1.0, 0.9)], own)) for _ in range(20)]
        for own in (generators(1, 3), generators(1, 3), generators(1, 4))
    ]
    assert series[0] == series[1]
    assert series[0] != series[2]
    assert len(set(series[0])) > 3
