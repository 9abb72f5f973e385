"""From the answers through many views to two attempts.

`attempts` counts. `best_of_experts` takes the grids that are likeliest over all views. `official_attempts` is
the official scheme, pinned by its own cases: three candidates a view, which vote again, so that six equal
answers through one view lose to one each through three views.
Where the official result depends on the order of a Python set, ours is that of first appearance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from seal.arc.augment import named
from seal.arc.grid import Grid, to_array, to_grid

#: The views of the official scheme, by what undoes them, in its order; "" is the task as it stands.
OFFICIAL_VIEWS = ("", "Transpose()", "Flip(0)", "Flip(1)", "Rotate(180)", "Rotate(270)")


class Vote(NamedTuple):
    """One view's answer, brought back to the test's own orientation."""

    grid: Grid
    inverse: str = ""
    """What brought it back; empty: nothing had to."""


Attempts = tuple[Grid, Grid]


def invert(grid: Grid, inverse: str) -> Vote:
    """Bring an answer back through the change named `inverse`. Raises `DataError` for unknown names."""
    return Vote(to_grid(named(inverse).apply(to_array(grid))), inverse)


def attempts(votes: Sequence[Vote]) -> Attempts | None:
    """The two grids with most votes; the plain view breaks ties, then first appearance. None: no votes.

    With one distinct answer both attempts are that answer.
    """
    ranked = candidates(votes)
    return (ranked[0], ranked[min(1, len(ranked) - 1)]) if ranked else None


def candidates(votes: Sequence[Vote]) -> list[Grid]:
    """The distinct grids, those with most votes first; the plain view breaks ties, then first appearance."""
    counts = Counter(vote.grid for vote in votes)
    plain = Counter(vote.grid for vote in votes if not vote.inverse)
    return sorted(counts, key=lambda grid: (-counts[grid], -plain[grid]))


def best_of_experts(log_likelihoods: Mapping[Grid, Sequence[float]]) -> Attempts | None:
    """The two candidates with the highest mean log-likelihood over views (product of experts)."""
    if not log_likelihoods:
        return None
    ranked = sorted(log_likelihoods, key=lambda g: -sum(log_likelihoods[g]) / len(log_likelihoods[g]))
    return ranked[0], ranked[min(1, len(ranked) - 1)]


def agreement(votes: Sequence[Vote], asked: int) -> float:
    """Share of the `asked` views that gave the most common answer, in [0, 1]."""
    if not votes or asked < 1:
        return 0.0
    return max(Counter(vote.grid for vote in votes).values()) / asked


def line_majority(grids: Sequence[Grid], *, columns: bool = False) -> Grid:
    """A grid of the most common shape whose every row (or column) is the most common one at its place."""
    if columns:
        turned = line_majority([_turned(grid) for grid in grids])
        return _turned(turned)
    shape = Counter((len(grid), len(grid[0])) for grid in grids).most_common(1)[0][0]
    return tuple(
        Counter(g[i] for g in grids if len(g) > i and len(g[i]) == shape[1]).most_common(1)[0][0]
        for i in range(shape[0])
    )


def _turned(grid: Grid) -> Grid:
    return tuple(zip(*grid, strict=True))


def three_candidates(grids: Sequence[Grid]) -> tuple[Grid, Grid, Grid] | None:
    """The three most common grids, missing ones filled with the row, then the column majority."""
    if not grids:
        return None
    counts = Counter(grids)
    unique = list(counts)
    # Among equal counts the last one ranks highest here, but the first one below: the official code's quirk.
    ascending = sorted(unique, key=lambda grid: counts[grid])
    first = max(unique, key=lambda grid: counts[grid])
    second = ascending[-2] if len(unique) > 1 else first
    third = ascending[-3] if len(unique) > 2 else first
    rows, columns = line_majority(grids), line_majority(grids, columns=True)
    if second == first:
        second = rows if rows != first else columns
    if third in (first, second):
        third = rows if rows not in (first, second) else columns
    return first, second, third


def official_attempts(votes: Sequence[Vote]) -> Attempts | None:
    """Two attempts by the official scheme. None: no votes."""
    ballots = [[v.grid for v in votes]]
    ballots += [[v.grid for v in votes if v.inverse == view] for view in OFFICIAL_VIEWS]
    candidates = [grid for ballot in ballots for grid in three_candidates(ballot) or ()]
    final = three_candidates(candidates)
    if final is None:
        return None
    first, second, third = final
    plain = Counter(v.grid for v in votes if not v.inverse)
    tied = candidates.count(second) == candidates.count(third)
    if plain and tied and plain[second] <= plain[third]:
        second = third
    return first, second
