"""What self-edits are like beside what they earned: what their check found, and the facts that they state.

Facts can only be counted where they are known, in invented worlds (`seal.data.invented`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from seal.data.invented import FactCheck, stated, world_of
from seal.records import SelfEdit, Trial
from seal.report.estimates import Mean, clustered, grouped, share
from seal.self_edit_check import summary


@dataclass(frozen=True, slots=True)
class EditQuality:
    """Self-edits of a round or an arm, each counted once."""

    edits: int
    loops: float
    """Share of self-edits with a loop; the same for the two below (`seal.self_edit_check`)."""
    echoes: float
    unsupported: float
    coverage: Mean | None
    """Share of a passage's facts that a self-edit states; None outside invented worlds."""
    faithfulness: Mean | None
    """Share of right facts among those that it states or gets wrong; self-edits that state none left out."""


def edit_quality(trials: Iterable[Trial], edits: Mapping[str, SelfEdit]) -> EditQuality | None:
    """The quality of the self-edits that were tried; None where there is no text to look at."""
    first: dict[str, Trial] = {}
    for trial in trials:
        if trial.edit_id in edits and edits[trial.edit_id].completion:
            first.setdefault(trial.edit_id, trial)
    if not first:
        return None
    kinds = [{finding.kind for finding in trial.findings} for trial in first.values()]
    checks = {name: found for name in first if (found := fact_check(edits[name]))}
    covered = [(edits[name].task_id, check.coverage) for name, check in checks.items()]
    faithful = [
        (edits[name].task_id, check.faithfulness)
        for name, check in checks.items()
        if check.faithfulness is not None
    ]
    return EditQuality(
        edits=len(first),
        loops=share("loop" in found for found in kinds),
        echoes=share("echo" in found for found in kinds),
        unsupported=share("unsupported" in found for found in kinds),
        coverage=clustered(grouped(covered)) if covered else None,
        faithfulness=clustered(grouped(faithful)) if faithful else None,
    )


def fact_check(edit: SelfEdit) -> FactCheck | None:
    """The facts that a self-edit on an invented world states; None for any other task."""
    world = world_of(edit.task_id)
    return None if world is None else stated(edit.completion, world)


def in_words(edit: SelfEdit | None, trials: Sequence[Trial]) -> str:
    """One line on a self-edit: the facts that it states, and what its check found; empty for neither."""
    if edit is None or not edit.completion:
        return ""
    check, found = fact_check(edit), trials[0].findings if trials else ()
    facts = f"states {len(check.stated)} of {check.of} facts, gets {len(check.wrong)} wrong" if check else ""
    return "; ".join(filter(None, (facts, f"check: {summary(found)}" if found else "")))
