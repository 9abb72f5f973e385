"""What reinforcement learning has to beat: an M-step on randomly picked self-edits, and one constant edit."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

from seal.records import EditResult, PolicyUpdate, SelfEdit
from seal.seeds import derive

#: Tasks on which a completion must have been tried before its mean reward says something about other tasks.
_FEWEST_TASKS = 3


def placebo_edits(edits: Sequence[SelfEdit], update: PolicyUpdate, seed: int) -> list[SelfEdit]:
    """As many of a round's self-edits as its M-step kept, picked at random from those that have a text."""
    written = [edit for edit in edits if edit.completion.strip()]
    chance = random.Random(derive(seed, "placebo", update.iteration))
    return chance.sample(written, min(update.kept, len(written)))


def best_constant(edits: Sequence[SelfEdit], results: Sequence[EditResult]) -> str | None:
    """The completion with the highest mean gain over the training tasks; None where none was tried on three.

    Only completions that do not depend on the task (a training recipe, a study plan) occur that often.
    """
    text = {edit.id: edit.completion for edit in edits}
    gains: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        gains[text[result.edit_id]][result.task_id].append(result.after - result.before)
    means = {
        completion: fmean(fmean(values) for values in by_task.values())
        for completion, by_task in gains.items()
        if completion.strip() and len(by_task) >= _FEWEST_TASKS
    }
    return max(means, key=means.__getitem__) if means else None
