"""Synthetic tasks: the labels against a derivation by hand, and that every task shows its rule."""

from __future__ import annotations

import numpy as np
import pytest

from seal.arc.grid import to_array
from seal.arc.synthetic import FAMILIES, rule_preserving, synthetic_tasks
from seal.arc.tasks import find_task
from seal.errors import ConfigError
from seal.records import Task

POINTWISE = {"basic", "size", "chain", "repeat"}
#: Derived by hand. Pointwise rules commute with every move of cells, but not with renaming colours. Moves of
#: cells commute with renaming; a mirror not with quarter turns, a half turn and a tiling not with a
#: reflection, a shift by one not with enlarging, a transpose not with stretching one side; what is cut out at
#: one side is not what is cut out at another.
LABELS = {
    "colour_swap": POINTWISE,
    "recolour": POINTWISE,
    "fill_background": POINTWISE,
    "mirror": {"size", "repeat", "colour"},
    "rotate_180": {"size", "chain", "repeat", "colour"},
    "shift": {"repeat", "colour"},
    "tile": {"size", "chain", "repeat", "colour"},
    "transpose": {"colour"},
    "first_row": {"colour"},
    "last_row": {"colour"},
    "first_column": {"colour"},
    "last_column": {"colour"},
}
TASKS = synthetic_tasks(48, seed=3)


def test_labels_are_as_derived_by_hand() -> None:
    assert set(LABELS) == set(FAMILIES)
    for made in TASKS:
        assert made.preserved == LABELS[made.family], made.task.id


def test_a_synthetic_task_is_known_by_its_id_and_any_other_has_no_label() -> None:
    for made in TASKS:
        assert rule_preserving(made.task) == made.preserved
    assert rule_preserving(find_task("6150a2bd")) is None
    assert rule_preserving(Task("x", (), (), title="mirror")) is None


def test_every_example_shows_the_rule_and_the_test_is_new() -> None:
    for made in TASKS:
        pairs = (*made.task.context, *made.task.target)
        assert len({given for given, _ in pairs}) == 4
        assert all(given != output for given, output in pairs)
        assert all(3 <= len(given) <= 6 for given, _ in pairs)


def test_rules_do_what_their_names_say() -> None:
    for made in TASKS:
        for given, output in ((to_array(x), to_array(y)) for x, y in made.task.context):
            expected = {
                "mirror": np.fliplr(given),
                "rotate_180": given[::-1, ::-1],
                "tile": np.tile(given, (2, 2)),
                "transpose": given.T,
            }.get(made.family)
            if expected is not None:
                assert np.array_equal(output, expected)
            elif made.family == "fill_background":
                assert np.array_equal(given[given != 0], output[given != 0])
                assert (output != 0).all()
            elif made.family == "shift":
                moved = [np.roll(given, s, (0, 1)) for s in ((1, 0), (0, 1), (1, 1))]
                assert any(np.array_equal(output, m) for m in moved)
            elif "_row" in made.family or "_column" in made.family:
                lines = given if "row" in made.family else given.T
                assert output.ravel().tolist() == lines[0 if "first" in made.family else -1].tolist()
            else:
                differs = given != output
                assert len(np.unique(given[differs])) == (2 if made.family == "colour_swap" else 1)


def test_tasks_are_repeatable_and_seeds_differ() -> None:
    assert synthetic_tasks(8, seed=3) == TASKS[:8]
    assert [m.task for m in synthetic_tasks(8, seed=4)] != [m.task for m in TASKS[:8]]
    sizes = synthetic_tasks(6, sizes=(3, 3), families=["mirror"], square=False)
    assert {(len(x), len(x[0])) for made in sizes for x, _ in made.task.context} == {(3, 3)}


@pytest.mark.parametrize("arguments", [{"families": ["x"]}, {"sizes": (5, 3)}, {"sizes": (3, 16)}])
def test_unknown_families_and_sizes_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        synthetic_tasks(1, **arguments)  # type: ignore[arg-type]
