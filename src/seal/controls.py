"""What reinforcement learning has to beat: an M-step on randomly picked self-edits, and one constant edit."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING

from seal.evaluation import HeldOut
from seal.records import ArmScore, EditResult, PolicyUpdate, SelfEdit
from seal.restem import ReSTEMOptimizer
from seal.run.codec import decode
from seal.seeds import derive
from seal.selection import pair_of

if TYPE_CHECKING:
    from seal.estep import EStep
    from seal.run.folder import Run

#: Tasks on which a completion must have been tried before its mean reward says something about other tasks.
_FEWEST_TASKS = 3


class Controls:
    """The arms that reinforcement learning has to beat, where the settings ask for them.

    Args:
        run: its journal has the rounds' self-edits and what they earned.
        held_out: measures the arms.
        optimizer: the M-step.
        seed: the run's seed.
        adopt: makes the policy that some updates left behind (none: the first one) the one at work.
    """

    def __init__(
        self,
        run: Run,
        held_out: HeldOut,
        optimizer: ReSTEMOptimizer,
        seed: int,
        adopt: Callable[[Sequence[PolicyUpdate]], EStep],
    ) -> None:
        self.run, self.held_out, self.optimizer = run, held_out, optimizer
        self.seed, self.adopt = seed, adopt

    def measure(self, updates: Sequence[PolicyUpdate], arms: Sequence[ArmScore]) -> list[ArmScore]:
        """The best constant self-edit, and the placebo, where there was an M-step to imitate."""
        found: list[ArmScore] = []
        if self.held_out.wants("constant", default=False):
            constant = best_constant(self._edits(), self._results())
            found += self.held_out.constant(self.adopt(()), arms, constant)
        if self.held_out.wants("placebo", default=False) and any(update.updated for update in updates):
            found += self.held_out.placebo(self.adopt(self._placebo(updates)), arms)
        return found

    def _edits(self) -> list[SelfEdit]:
        return [decode(SelfEdit, row.data) for row in self.run.journal.rows("edit")]

    def _results(self) -> list[EditResult]:
        return [decode(EditResult, row.data) for row in self.run.journal.rows("result")]

    def _placebo(self, updates: Sequence[PolicyUpdate]) -> list[PolicyUpdate]:
        """The rounds' M-steps once more, from the first policy, on as many self-edits picked at random."""
        rounds = {result.edit_id: result.iteration for result in self._results()}
        edits = self._edits()
        done: list[PolicyUpdate] = []
        for update in updates:
            known = self.run.recall(PolicyUpdate, "placebo", str(update.iteration))
            if known is None:
                mine = [edit for edit in edits if rounds.get(edit.id) == update.iteration]
                known = self._update(update, placebo_edits(mine, update, self.seed), done)
                self.run.record("placebo", str(update.iteration), known)
                self.run.keep_newest(1, "placebo")
            done.append(known)
        return done

    def _update(
        self, update: PolicyUpdate, edits: Sequence[SelfEdit], before: Sequence[PolicyUpdate]
    ) -> PolicyUpdate:
        """`update`, with `edits` in the place of those that were kept."""
        out = self.run.checkpoints / f"placebo-{update.iteration + 1}"
        seed = derive(self.seed, "placebo update", update.iteration)
        self.adopt(before).close()
        new = self.optimizer.update(self.adopt(before).policy, [pair_of(edit) for edit in edits], out, seed)
        checkpoint = f"checkpoints/{out.name}" if new.updated else ""
        return replace(
            update, policy=new.version, checkpoint=checkpoint, updated=new.updated, losses=new.losses
        )


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
