"""Synthetic tasks with a known rule, and which augmentations preserve it: an oracle for recipes.

An augmentation preserves a rule if it makes no difference whether it comes before or after it. That is
tested on the grids themselves, so the labels need no table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.random import RandomState

from seal.arc.augment import GROUPS, AnyAugmenter, Augmenter, Translate, colours, roll
from seal.arc.grid import MAX_SIDE, Array, grid_key, to_grid
from seal.errors import ConfigError
from seal.records import Task
from seal.seeds import derive

Rule = Callable[[Array], Array]


@dataclass(frozen=True, slots=True)
class SyntheticTask:
    """A task, the family of its rule, and the augmentations that preserve it."""

    task: Task
    family: str
    preserved: frozenset[str]
    """Of "basic", "size", "chain", "repeat", "colour"."""


def _mapping(old: Sequence[int], new: Sequence[int]) -> Rule:
    return colours(dict(zip(old, new, strict=True))).apply


def _colour_swap(rng: RandomState) -> tuple[Rule, tuple[int, ...]]:
    a, b = _draw_colours(rng, 2)
    return _mapping((a, b), (b, a)), (a, b)


def _recolour(rng: RandomState) -> tuple[Rule, tuple[int, ...]]:
    a, b = _draw_colours(rng, 2)
    return _mapping((a,), (b,)), (a,)


def _fill_background(rng: RandomState) -> tuple[Rule, tuple[int, ...]]:
    (a,) = _draw_colours(rng, 1)
    return _mapping((0,), (a,)), (0,)


def _shift(rng: RandomState) -> tuple[Rule, tuple[int, ...]]:
    step = [(1, 0), (0, 1), (1, 1)][rng.randint(3)]
    return (lambda g: roll(g, step)), ()


def _fixed(rule: Rule) -> Callable[[RandomState], tuple[Rule, tuple[int, ...]]]:
    return lambda rng: (rule, ())


#: Family name -> draw of (rule, colours that every input must hold).
FAMILIES: dict[str, Callable[[RandomState], tuple[Rule, tuple[int, ...]]]] = {
    "colour_swap": _colour_swap,
    "recolour": _recolour,
    "fill_background": _fill_background,
    "mirror": _fixed(lambda g: np.flip(g, 1)),
    "rotate_180": _fixed(lambda g: np.rot90(g, 2)),
    "shift": _shift,
    "tile": _fixed(lambda g: np.tile(g, (2, 2))),
    "transpose": _fixed(lambda g: g.T),
    "first_row": _fixed(lambda g: g[:1]),
    "last_row": _fixed(lambda g: g[-1:]),
    "first_column": _fixed(lambda g: g[:, :1]),
    "last_column": _fixed(lambda g: g[:, -1:]),
}


def _draw_colours(rng: RandomState, n: int) -> tuple[int, ...]:
    return tuple(int(c) for c in rng.permutation(np.arange(1, 10))[:n])


def synthetic_tasks(
    n: int,
    seed: int = 0,
    *,
    families: Sequence[str] = tuple(FAMILIES),
    sizes: tuple[int, int] = (3, 6),
    demonstrations: int = 3,
    square: bool = True,
    palette: int = 4,
    shared_palette: bool = True,
) -> list[SyntheticTask]:
    """`n` tasks, the families in turn; the same arguments give the same tasks on every machine.

    Args:
        sizes: smallest and largest side of the inputs, within 3 to 15.
        square: draw one side a task; otherwise rows and columns apart.
        palette: colours a task's inputs are drawn from, background included.
        shared_palette: whether all inputs of a task have the same; otherwise each has its own, so that a
            rule has to be carried over to other colours (those that the rule names stay).

    Raises:
        ConfigError: a family is unknown or a size is out of range.
    """
    unknown = sorted(set(families) - FAMILIES.keys())
    if unknown or not families:
        raise ConfigError(f"unknown task families {unknown}", f"use some of {', '.join(FAMILIES)}")
    low, high = sizes
    if not 2 <= low <= high <= MAX_SIDE // 2 or demonstrations < 1 or not 2 <= palette <= 10:
        raise ConfigError(
            f"sizes {sizes}, {demonstrations} demonstrations, palette {palette}", "use sizes from 2 to 15"
        )
    made = []
    for i in range(n):
        family = families[i % len(families)]
        rng = RandomState(derive(seed, "synthetic", family, i) % 2**32)
        rows = int(rng.randint(low, high + 1))
        columns = rows if square else int(rng.randint(low, high + 1))
        rule, needed = FAMILIES[family](rng)
        inputs = _inputs(rng, rule, needed, (rows, columns), demonstrations + 1, palette, shared_palette)
        pairs = tuple((to_grid(x), to_grid(rule(x))) for x in inputs)
        task = Task(f"{family}-{seed}-{i}", pairs[:-1], pairs[-1:], title=family)
        made.append(SyntheticTask(task, family, preserved(rule, inputs)))
    return made


@cache
def _label(family: str) -> frozenset[str]:
    return synthetic_tasks(1, families=(family,))[0].preserved


def rule_preserving(task: Task) -> frozenset[str] | None:
    """The augmentations that preserve the rule of a synthetic task; None for any other task.

    A synthetic task is known by its id and title; the label is a property of its family.
    """
    known = task.title in FAMILIES and task.id.startswith(f"{task.title}-")
    return _label(task.title) if known else None


def _inputs(
    rng: RandomState, rule: Rule, needed: tuple[int, ...], shape: tuple[int, int], n: int, palette: int,
    shared: bool,
) -> list[Array]:  # fmt: skip
    """Distinct inputs that the rule changes and that hold the needed colours."""

    def draw() -> list[int]:
        others = [int(c) for c in rng.permutation(10) if c not in needed]
        return [*needed, *others][: max(palette, len(needed) + 1)]

    chosen = draw()
    inputs: dict[tuple[int, bytes], Array] = {}
    while len(inputs) < n:
        if not shared:
            chosen = draw()
        grid = rng.choice(chosen, size=shape).astype(np.int8)
        if set(needed) <= set(grid.ravel().tolist()) and not np.array_equal(rule(grid), grid):
            inputs[grid_key(grid)] = grid
    return list(inputs.values())


def preserved(rule: Rule, inputs: Sequence[Array]) -> frozenset[str]:
    """The groups all of whose augmentations commute with the rule, on `inputs` and on random grids."""
    rng = RandomState(0)
    grids = [*inputs, *(rng.randint(0, 10, size=(h, w)).astype(np.int8) for h in (4, 5) for w in (4, 5, 6))]
    groups = {
        group
        for group, members in GROUPS.items()
        if all(_commutes(rule, change, g) for m in members for change in _changes(m) for g in grids)
    }
    permutations = [dict(enumerate([0, *rng.permutation(np.arange(1, 10)).tolist()])) for _ in range(8)]
    if all(_commutes(rule, colours(p), grid) for p in permutations for grid in grids):
        groups.add("colour")
    return frozenset(groups)


def _changes(member: AnyAugmenter) -> list[Augmenter]:
    if isinstance(member, Translate):
        return [_moved((dx, dy)) for dx in range(4) for dy in range(4)]
    return [member]


def _moved(shift: tuple[int, int]) -> Augmenter:
    return Augmenter(f"Shift{shift}", lambda g: roll(g, shift))


def _commutes(rule: Rule, change: Augmenter, grid: Array) -> bool:
    return np.array_equal(rule(change.apply(grid)), change.apply(rule(grid)))
