"""What RL has to beat: picks at random, and the best one self-edit."""

from __future__ import annotations

from collections import Counter

from seal.controls import best_constant, placebo_edits
from seal.records import EditResult, PolicyUpdate, Reward, SelfEdit


def edit(name: str, task: str, text: str) -> SelfEdit:
    return SelfEdit(name, task, "p", text, 0, "policy")


def result(name: str, task: str, gain: float) -> EditResult:
    return EditResult(name, task, 0, 0.2, 0.2 + gain, (gain,), Reward(gain))


def test_the_placebo_is_as_large_as_the_m_step_and_drawn_evenly() -> None:
    edits = [edit(f"e{i}", f"t{i % 5}", "text" if i else "  ") for i in range(11)]
    update = PolicyUpdate(0, "v", "c", True, 4, 11, (), ())
    counts: Counter[str] = Counter()
    for seed in range(2000):
        picked = placebo_edits(edits, update, seed)
        assert len({e.id for e in picked}) == 4
        counts.update(e.id for e in picked)
    assert placebo_edits(edits, update, 7) == placebo_edits(edits, update, 7)
    assert counts["e0"] == 0  # there is nothing to learn from an empty one
    assert all(abs(counts[f"e{i}"] / 2000 - 0.4) < 0.05 for i in range(1, 11))


def test_the_best_constant_has_the_highest_mean_over_tasks() -> None:
    """`b` is best where it was tried, but on two tasks only; `c`'s third task counts once, not twice."""
    rows = [
        ("a1", "t1", "a", 0.1), ("a2", "t2", "a", 0.3), ("a3", "t3", "a", 0.2),
        ("b1", "t1", "b", 0.9), ("b2", "t2", "b", 0.9),
        ("c1", "t1", "c", 0.0), ("c2", "t2", "c", 0.0), ("c3", "t3", "c", 0.5), ("c4", "t3", "c", 0.5),
    ]  # fmt: skip
    edits = [edit(name, task, text) for name, task, text, _ in rows]
    results = [result(name, task, gain) for name, task, _, gain in rows]
    assert best_constant(edits, results) == "a"
    assert best_constant(edits[3:5], results[3:5]) is None
