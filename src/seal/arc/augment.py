"""Augmentations of ARC grids, with the meaning and the names of the official code (paper appendix A.2).

Where we differ: a random translation moves input and output by the same shift. The official code draws
them apart, which breaks almost every rule; `Translate.pair(..., shared=False)` keeps its behaviour.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import RandomState

from seal.arc.grid import Array, Pair
from seal.errors import DataError

COLOURS = 10


@dataclass(frozen=True, slots=True)
class Augmenter:
    """A fixed change of a grid. `inverse` names the augmenter that undoes it; empty: there is none."""

    name: str
    apply: Callable[[Array], Array]
    inverse: str = ""

    def pair(self, pair: Pair, seed: int = 0, *, shared: bool = True) -> Pair:
        """Both grids of a pair changed; `seed` and `shared` have no effect on a fixed change."""
        return Pair(_solid(self.apply(pair.input)), _solid(self.apply(pair.output)))


@dataclass(frozen=True, slots=True)
class Translate:
    """A random shift that wraps around, 0 to 3 cells a direction; one draw a seed, for all examples."""

    name: str = "RandomTranslateXY()"
    inverse: str = ""

    def shift(self, grid: Array, rng: RandomState) -> tuple[int, int]:
        """Draw rows, then columns; each below min(4, side)."""
        rows, columns = grid.shape
        return int(rng.randint(0, min(4, rows))), int(rng.randint(0, min(4, columns)))

    def pair(self, pair: Pair, seed: int = 0, *, shared: bool = True) -> Pair:
        """Both grids moved by one shift; not `shared`: the output by a second draw, as the official code."""
        rng = RandomState(seed)
        first = self.shift(pair.input, rng)
        second = first if shared else self.shift(pair.output, rng)
        return Pair(roll(pair.input, first), roll(pair.output, second))


AnyAugmenter = Augmenter | Translate


def roll(grid: Array, shift: tuple[int, int]) -> Array:
    """Move a grid down and right by `shift` (rows, columns), wrapping around."""
    return np.roll(grid, shift, axis=(0, 1))


def _solid(grid: Array) -> Array:
    return np.ascontiguousarray(grid)


def identity() -> Augmenter:
    """No change."""
    return Augmenter("IdentityAugmenter()", lambda g: g, "IdentityAugmenter()")


def rotate(angle: int) -> Augmenter:
    """Turn counter-clockwise by 90, 180 or 270 degrees."""
    return Augmenter(f"Rotate({angle})", lambda g: np.rot90(g, angle // 90), f"Rotate({360 - angle})")


def flip(axis: int) -> Augmenter:
    """Mirror: axis 0 upside down, axis 1 left to right."""
    return Augmenter(f"Flip({axis})", lambda g: np.flip(g, axis), f"Flip({axis})")


def transpose() -> Augmenter:
    """Swap rows and columns."""
    return Augmenter("Transpose()", lambda g: g.T, "Transpose()")


def reflect(axis: int, *, reverse: bool) -> Augmenter:
    """Put the grid beside its mirror image; `reverse`: the image first."""
    order = slice(None, None, -1 if reverse else 1)
    return Augmenter(
        f"Reflect({axis}, reverse={reverse})",
        lambda g: np.concatenate([g, np.flip(g, axis)][order], axis=axis),
    )


def resolution(factor: int) -> Augmenter:
    """Every cell becomes `factor` x `factor` cells."""
    return Augmenter(f"IncreaseResolution({factor})", lambda g: g.repeat(factor, 0).repeat(factor, 1))


def height(factor: int) -> Augmenter:
    """Every row `factor` times."""
    return Augmenter(f"IncreaseHeight({factor})", lambda g: g.repeat(factor, 0))


def width(factor: int) -> Augmenter:
    """Every column `factor` times."""
    return Augmenter(f"IncreaseWidth({factor})", lambda g: g.repeat(factor, 1))


def repeat(axis: int, times: int) -> Augmenter:
    """The whole grid `times` times below itself (0), beside itself (1) or both (2)."""
    tiles = (times if axis in (0, 2) else 1, times if axis in (1, 2) else 1)
    return Augmenter(f"Repeat({axis}, {times})", lambda g: np.tile(g, tiles))


def chain(*parts: Augmenter) -> Augmenter:
    """One change after another."""

    def apply(grid: Array) -> Array:
        for part in parts:
            grid = part.apply(grid)
        return grid

    return Augmenter(f"Chain([{', '.join(p.name for p in parts)}])", apply)


_TURNS = (rotate(90), rotate(270), rotate(180), flip(0), flip(1))
_DOUBLE = resolution(2)

#: The four groups a recipe switches on, in the official order.
GROUPS: Mapping[str, tuple[AnyAugmenter, ...]] = {
    "basic": (
        *_TURNS,
        *(reflect(axis, reverse=reverse) for reverse in (True, False) for axis in (0, 1)),
        Translate(),
        transpose(),
    ),
    "size": (_DOUBLE, height(2), width(2)),
    "chain": tuple(chain(turn, _DOUBLE) for turn in (*_TURNS, transpose())),
    "repeat": tuple(repeat(axis, 2) for axis in (0, 1, 2)),
}

#: Changes that views of a test input go through, in the official order; all can be undone.
VIEW_TRANSFORMS = (transpose(), flip(0), flip(1), rotate(90), rotate(180))

_NAMED = {a.name: a for a in (identity(), *_TURNS, transpose())}


def named(name: str) -> Augmenter:
    """The invertible augmenter of this name; an empty name is the identity.

    Raises:
        DataError: the name is not one that a view is undone with.
    """
    if not name:
        return _NAMED["IdentityAugmenter()"]
    if name not in _NAMED:
        raise DataError(f"no invertible augmenter is called {name!r}", f"use one of {sorted(_NAMED)}")
    return _NAMED[name]


def augmenters(groups: Iterable[str]) -> tuple[AnyAugmenter, ...]:
    """The augmenters of these groups, in the official order."""
    chosen = set(groups)
    return tuple(a for group, members in GROUPS.items() if group in chosen for a in members)


def draw_colours(grids: Sequence[Array], rng: RandomState) -> dict[int, int]:
    """A one-to-one map of the colours in `grids`; 0 stays.

    Colours go to unused ones while there are any; the rest swap places (the official rule). The order of
    draws is that of a seeded NumPy `RandomState`.
    """
    used = sorted(set().union(*(g.ravel().tolist() for g in grids)) - {0})
    free = [c for c in range(1, COLOURS) if c not in used]
    rng.shuffle(free)
    partners = [int(c) for c in rng.permutation(used)]
    mapping = {0: 0}
    for colour in used:
        if colour in mapping:
            continue
        if free:
            mapping[colour] = free.pop()
            continue
        partner = partners.pop()
        mapping[partner] = colour
        if colour in partners:
            partners.remove(colour)
        mapping[colour] = partner
    return mapping


def colours(mapping: Mapping[int, int]) -> Augmenter:
    """Recolour by a map; colours that it does not name stay."""
    table = np.arange(COLOURS, dtype=np.int8)
    for old, new in mapping.items():
        table[old] = new
    return Augmenter(f"PermuteColorswithMap({dict(mapping)})", lambda g: table[g])
