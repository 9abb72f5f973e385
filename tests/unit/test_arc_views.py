"""Augmentations, views and votes: properties that must hold for every grid."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.random import RandomState

from seal.arc import augment as aug
from seal.arc.grid import Array, Pair, to_grid, to_pair
from seal.arc.tasks import find_task
from seal.arc.views import distinct, prediction_views, training_views
from seal.arc.vote import Vote, agreement, attempts, best_of_experts, invert
from seal.errors import DataError

GRIDS = st.tuples(st.integers(1, 8), st.integers(1, 8)).flatmap(
    lambda shape: arrays(np.int8, shape, elements=st.integers(0, 9))
)
PAIRS = st.builds(Pair, GRIDS, GRIDS)


@given(GRIDS)
def test_what_undoes_an_augmentation_undoes_it(grid: Array) -> None:
    undone = [a for group in aug.GROUPS.values() for a in group if a.inverse]
    assert len(undone) == 6
    for change in undone:
        assert isinstance(change, aug.Augmenter)
        assert np.array_equal(aug.named(change.inverse).apply(change.apply(grid)), grid)


@given(GRIDS, st.integers(0, 2**31))
def test_colours_are_permuted_one_to_one_and_0_stays(grid: Array, seed: int) -> None:
    mapping = aug.draw_colours([grid], RandomState(seed))
    changed = aug.colours(mapping).apply(grid)
    back = aug.colours({new: old for old, new in mapping.items()})
    assert np.array_equal(back.apply(changed), grid)
    assert np.array_equal(changed == 0, grid == 0)


@given(PAIRS, st.integers(0, 1000))
def test_a_translation_moves_input_and_output_alike(pair: Pair, seed: int) -> None:
    moved = aug.Translate().pair(pair, seed)
    rng = RandomState(seed)
    shift = rng.randint(0, min(4, pair.input.shape[0])), rng.randint(0, min(4, pair.input.shape[1]))
    for before, after in zip(pair, moved, strict=True):
        assert np.array_equal(np.roll(before, shift, axis=(0, 1)), after)


def test_the_official_translation_draws_apart() -> None:
    pair = Pair(np.arange(9, dtype=np.int8).reshape(3, 3), np.arange(9, dtype=np.int8).reshape(3, 3))
    apart = [not np.array_equal(*aug.Translate().pair(pair, seed, shared=False)) for seed in range(20)]
    assert any(apart)
    assert not any(not np.array_equal(*aug.Translate().pair(pair, seed)) for seed in range(20))


def test_only_views_are_undone_by_name() -> None:
    with pytest.raises(DataError, match="no invertible augmenter"):
        aug.named("Repeat(0, 2)")


@settings(max_examples=30, deadline=None)
@given(st.lists(PAIRS, min_size=1, max_size=4), GRIDS, st.integers(0, 9))
def test_a_right_answer_to_every_view_is_voted_for(pairs: list[Pair], query: Array, seed: int) -> None:
    """The rule is `upside down`; a model that answers each view rightly wins with full agreement."""
    gold = to_grid(np.flip(query, 0))
    votes = []
    views = prediction_views(pairs, query, leave=(0, 1), seed=seed)
    for view in views:
        back = aug.named(view.inverse)
        answer = aug.named(back.inverse).apply(np.flip(back.apply(view.query), 0))
        votes.append(invert(to_grid(answer), view.inverse))
    assert attempts(votes) == (gold, gold)
    assert agreement(votes, len(views)) == 1


@settings(max_examples=30, deadline=None)
@given(st.lists(PAIRS, min_size=1, max_size=4), GRIDS)
def test_views_start_plain_and_show_only_what_is_given(pairs: list[Pair], query: Array) -> None:
    views = prediction_views(pairs, query, leave=(0, 1))
    assert len(distinct(views)) == len(views)
    assert views[0].inverse == ""
    assert np.array_equal(views[0].query, query)
    shown = {pair.key() for pair in pairs}
    for view in views:
        back = aug.named(view.inverse)
        assert np.array_equal(back.apply(view.query), query)
        assert {Pair(*map(back.apply, pair)).key() for pair in view.demonstrations} <= shown


@settings(max_examples=20, deadline=None)
@given(st.lists(PAIRS, min_size=1, max_size=4), st.integers(1, 40), st.booleans())
def test_training_views_are_distinct_capped_and_repeatable(pairs: list[Pair], cap: int, colour: bool) -> None:
    augmenters = aug.augmenters(["basic", "repeat"])
    views = training_views(pairs, augmenters, cap=cap, colour=colour)
    assert 0 < len(views) <= cap
    assert len(distinct(views)) == len(views)
    again = training_views(pairs, augmenters, cap=cap, colour=colour)
    assert [v.key() for v in views] == [v.key() for v in again]


def test_without_augmentations_and_colours_rows_are_the_demonstrations() -> None:
    pairs = [to_pair(pair) for pair in find_task("6150a2bd").context]
    views = training_views(pairs, (), colour=False)
    shown = {pair.key() for pair in pairs}
    assert {p.key() for v in views for p in (*v.demonstrations, v.query)} == shown
    assert len(training_views(pairs, (), colour=True)) > len(views)


def test_the_order_does_not_depend_on_the_hash_seed() -> None:
    code = (
        "from seal.arc.tasks import find_task; from seal.arc.grid import to_pair;"
        "from seal.arc.augment import augmenters; from seal.arc.views import training_views;"
        "import hashlib; pairs = [to_pair(p) for p in find_task('6e02f1e3').context];"
        "views = training_views(pairs, augmenters(['basic', 'size']));"
        "print(len(views), hashlib.sha1(repr([v.key() for v in views]).encode()).hexdigest())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
            timeout=60,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert next(iter(outputs)).startswith("250 ")


A, B, C = ((1,),), ((2,),), ((3,),)


def test_counted_votes_let_the_plain_view_break_ties() -> None:
    assert attempts([]) is None
    assert attempts([Vote(A, "Flip(0)"), Vote(B)]) == (B, A)
    assert attempts([Vote(A), Vote(B), Vote(B, "Flip(0)"), Vote(C, "Flip(1)")]) == (B, A)
    assert attempts([Vote(A)] * 3) == (A, A)
    # Six answers through one view beat three through three: the official scheme says the opposite.
    assert attempts([Vote(B, "Flip(0)")] * 6 + [Vote(A), Vote(A, "Flip(1)"), Vote(A, "Transpose()")]) == (
        B,
        A,
    )


def test_product_of_experts_ranks_by_mean_log_likelihood() -> None:
    assert best_of_experts({A: [-1.0, -9.0], B: [-3.0, -3.0], C: [-8.0, -8.0]}) == (B, A)
    assert best_of_experts({}) is None


def test_agreement_counts_views_without_an_answer() -> None:
    assert agreement([Vote(A), Vote(A, "Flip(0)"), Vote(B)], 4) == 0.5
    assert agreement([], 4) == 0
