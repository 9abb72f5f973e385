"""Training tasks made of a task's demonstrations, and the views a test input is answered through.

Both are lists in a fixed order: the official code keeps them in sets, so that its order (and with it every
seeded draw) depends on PYTHONHASHSEED. The counts are pinned by the official code.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import combinations
from typing import NamedTuple, TypeVar

from numpy.random import RandomState

from seal.arc.augment import VIEW_TRANSFORMS, AnyAugmenter, colours, draw_colours
from seal.arc.grid import Array, Pair, fits, grid_key

CAP = 250
"""Most training tasks made of one task (official `Nmax`)."""


class TrainView(NamedTuple):
    """A training task: demonstrations, and one solved example to predict from them."""

    demonstrations: tuple[Pair, ...]
    query: Pair

    def key(self) -> Hashable:
        """Equal for equal views."""
        return tuple(pair.key() for pair in (*self.demonstrations, self.query))


class PredictionView(NamedTuple):
    """A test input seen through a change: `inverse` names what brings the answer back (empty: nothing)."""

    demonstrations: tuple[Pair, ...]
    query: Array
    inverse: str = ""

    def key(self) -> Hashable:
        """Equal for views that show the same grids in the same order."""
        return (*(pair.key() for pair in self.demonstrations), grid_key(self.query))


V = TypeVar("V", TrainView, PredictionView)


def distinct(views: Iterable[V]) -> list[V]:
    """Every view once, at its first place."""
    return list({view.key(): view for view in reversed(list(views))}.values())[::-1]


def leave_out(n_examples: int, n: int) -> list[tuple[tuple[int, ...], int]]:
    """(kept examples, example to predict): each example in turn, less n - 1 of the others."""
    chosen = []
    for target in range(n_examples):
        others = [i for i in range(n_examples) if i != target]
        drops = combinations(others, n - 1)
        chosen += [(tuple(i for i in others if i not in dropped), target) for dropped in drops]
    return chosen


def augmented(
    pairs: Sequence[Pair], augmenters: Sequence[AnyAugmenter], n: int, seed: int = 0, *, shared: bool = True
) -> list[TrainView]:
    """Leave-n tasks through every augmenter, then as they are; over 30x30 dropped; each once."""
    splits = leave_out(len(pairs), n)
    views = []
    for augmenter in augmenters:
        changed = [augmenter.pair(pair, seed, shared=shared) for pair in pairs]
        small = [fits(*pair) for pair in changed]
        views += [
            TrainView(tuple(changed[i] for i in kept), changed[target])
            for kept, target in splits
            if small[target] and all(small[i] for i in kept)
        ]
    views += [TrainView(tuple(pairs[i] for i in kept), pairs[target]) for kept, target in splits]
    return distinct(views)


def _permuted(view: TrainView, rng: RandomState, *, colour: bool) -> TrainView:
    pairs = [*view.demonstrations, view.query]
    if colour:
        recolour = colours(draw_colours([grid for pair in pairs for grid in pair], rng))
        pairs = [recolour.pair(pair) for pair in pairs]
    order = rng.permutation(len(pairs) - 1)
    return TrainView(tuple(pairs[i] for i in order), pairs[-1])


def permuted(
    views: Sequence[TrainView], rng: RandomState, *, colour: bool, rounds: int = 1
) -> list[TrainView]:
    """Recoloured (if `colour`) and reordered copies of every view, then the views; each once."""
    copies = [_permuted(view, rng, colour=colour) for _ in range(rounds) for view in views]
    return distinct([*copies, *views])


def training_views(
    pairs: Sequence[Pair],
    augmenters: Sequence[AnyAugmenter],
    *,
    colour: bool | None = None,
    cap: int = CAP,
    rounds: int = 1,
    seed: int = 0,
    shared: bool = True,
    accept: Callable[[TrainView], bool] = lambda view: True,
) -> list[TrainView]:
    """At most `cap` training tasks: leave-1 first, filled up with leave-2 (paper appendix A.2).

    Args:
        colour: permute colours; None as the official code, if there is any augmenter.
        accept: drops views, for example too long ones, before they are counted.
    """
    recolour = bool(augmenters) if colour is None else colour

    def tasks(n: int) -> list[TrainView]:
        stage = augmented(pairs, augmenters, n, seed, shared=shared)
        return [v for v in permuted(stage, RandomState(seed), colour=recolour, rounds=rounds) if accept(v)]

    rng = RandomState(seed)
    views = tasks(1)
    if len(views) > cap:
        return [views[i] for i in rng.permutation(len(views))[:cap]]
    if len(views) < cap:
        more = tasks(2)
        room = cap - len(views)
        keep = sorted(rng.permutation(len(more))[:room]) if len(more) > room else range(len(more))
        views += [more[i] for i in keep]
    return views


def prediction_views(
    pairs: Sequence[Pair],
    query: Array,
    *,
    leave: Sequence[int] = (0,),
    permutations: int = 2,
    seed: int = 0,
    random_pick: bool = False,
    transforms: Sequence[AnyAugmenter] = VIEW_TRANSFORMS,
) -> list[PredictionView]:
    """Ways to ask for one test input; the test output is not an argument, so no view can show it.

    Leave-n views (none when n exceeds the demonstrations), each with `permutations` reorderings, and the
    test seen through `transforms`; the first view is the task as it stands. A
    transform is applied to the view with all demonstrations; `random_pick`: to one drawn among the views
    and anew for every n, as the official code.
    """
    rng = RandomState(seed)
    plain: list[PredictionView] = []
    turned: list[PredictionView] = []
    for n in leave:
        base = _leave_views(pairs, query, n, permutations, rng)
        if base and (random_pick or not turned):
            for transform in transforms:
                view = base[rng.randint(len(base)) if random_pick else 0]
                turned.append(_through(view, transform))
        plain += base
    seen = {view.key() for view in plain}
    return distinct([*plain[:1], *(v for v in turned if v.key() not in seen), *plain[1:]])


def _leave_views(
    pairs: Sequence[Pair], query: Array, n: int, permutations: int, rng: RandomState
) -> list[PredictionView]:
    views = []
    for dropped in combinations(range(len(pairs)), n):
        kept = [pair for i, pair in enumerate(pairs) if i not in dropped]
        views.append(PredictionView(tuple(kept), query))
        orders = [rng.permutation(len(kept)) for _ in range(permutations)]
        views += [PredictionView(tuple(kept[i] for i in order), query) for order in orders]
    return distinct(views)


def _through(view: PredictionView, transform: AnyAugmenter) -> PredictionView:
    demonstrations = tuple(transform.pair(pair) for pair in view.demonstrations)
    query = transform.pair(Pair(view.query, view.query)).input
    return PredictionView(demonstrations, query, transform.inverse)
