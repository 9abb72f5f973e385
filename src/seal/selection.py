"""ReST-EM's filter (paper section 3.1): which self-edits of a round the policy learns from, and why.

Pure functions of the rewards. Ties are counted and said, which the paper's code leaves to the order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from seal.errors import ConfigError
from seal.records import Reward, SelfEdit
from seal.thoughts import without_thoughts


class Pair(NamedTuple):
    """A prompt and the completion to learn."""

    prompt: str
    completion: str
    truncated: bool = False
    """Whether the completion was cut at a token limit: then it has no end to learn."""
    choices: tuple[tuple[int, int], ...] = ()
    """Spans of characters that the policy chose, which are all there is to learn; empty: the whole text."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One self-edit, and its reward with `kept` and `why` filled in."""

    edit: SelfEdit
    reward: Reward


@dataclass(frozen=True, slots=True)
class Selection:
    """What ReST-EM keeps of one round, in the order given."""

    decisions: tuple[Decision, ...]
    tied_tasks: tuple[str, ...] = ()
    """Tasks where order alone decided between equal rewards."""

    @property
    def kept(self) -> tuple[SelfEdit, ...]:
        """The self-edits to train on."""
        return tuple(d.edit for d in self.decisions if d.reward.kept)

    @property
    def pairs(self) -> list[Pair]:
        """Prompt and completion of every kept self-edit; of one that is empty there is nothing to learn."""
        return [pair_of(edit) for edit in self.kept if without_thoughts(edit.completion).strip()]


def select(
    scored: Sequence[tuple[SelfEdit, Reward]],
    keep: Literal["positive", "best_of_k"] = "positive",
    k: int = 1,
    *,
    threshold: float = 0.0,
    floors: Mapping[str, float] | None = None,
) -> Selection:
    """Decide which self-edits the policy learns from, with a reason for each.

    Args:
        scored: self-edits and their rewards; a NaN reward means it was not measured.
        keep: "positive" keeps every reward above `threshold`, "best_of_k" the top `k` of each task.
        k: how many a task keeps; between equal rewards the first ones win.
        threshold: of "positive" only.
        floors: of "best_of_k": a task's edits must also be above this, for example its baseline, and differ.
    """
    if keep == "positive":
        return Selection(tuple(_decide_positive(e, r, threshold) for e, r in scored))
    if keep != "best_of_k":
        raise ConfigError(f"keep is {keep!r}", "use positive or best_of_k")
    decided: dict[int, Reward] = {}
    tied = []
    for task_id in dict.fromkeys(edit.task_id for edit, _ in scored):
        mine = [i for i, (edit, _) in enumerate(scored) if edit.task_id == task_id]
        floor = (floors or {}).get(task_id, -math.inf)
        rewards, tie = _decide_best([scored[i][1] for i in mine], k, floor)
        decided |= dict(zip(mine, rewards, strict=True))
        if tie:
            tied.append(task_id)
    return Selection(tuple(Decision(edit, decided[i]) for i, (edit, _) in enumerate(scored)), tuple(tied))


def pair_of(edit: SelfEdit) -> Pair:
    """What the policy learns from a kept self-edit."""
    return Pair(edit.prompt, edit.completion, edit.finish == "length", edit.choices)


def _decide_positive(edit: SelfEdit, reward: Reward, threshold: float) -> Decision:
    if math.isnan(reward.value):
        return Decision(edit, replace(reward, kept=False, why=reward.why or "not measured"))
    kept = reward.value > threshold
    why = f"{reward.value:.4g} is {'' if kept else 'not '}above {threshold:.4g}"
    return Decision(edit, replace(reward, kept=kept, why=why))


def _decide_best(rewards: Sequence[Reward], k: int, floor: float) -> tuple[list[Reward], bool]:
    """The rewards of one task's edits with decisions, and whether order broke a tie."""
    known = [reward.value for reward in rewards if not math.isnan(reward.value)]
    level = math.isfinite(floor) and len(known) > 1 and len(set(known)) == 1  # nothing to tell them apart by
    candidates = [i for i, reward in enumerate(rewards) if reward.value > floor and not level]
    best, tie = top_k([rewards[i].value for i in candidates], k)
    chosen = [candidates[n] for n in best]
    lowest = min((rewards[i].value for i in chosen), default=math.nan)
    decided = []
    for i, reward in enumerate(rewards):
        value = reward.value
        if math.isnan(value):
            why = reward.why or "not measured"
        elif value <= floor:
            why = f"{value:.4g} is not above the baseline {floor:.4g}"
        elif level:
            why = f"all {len(known)} self-edits of the task earned {value:.4g}"
        elif i in chosen:
            why = f"{value:.4g} is among the best {k} of {len(rewards)}"
        elif value == lowest:
            why = f"{value:.4g} ties with an earlier one that was kept"
        else:
            why = f"{value:.4g} is below the best {k} of {len(rewards)}"
        decided.append(replace(reward, kept=i in chosen, why=why))
    return decided, tie


def top_k(values: Sequence[float], k: int) -> tuple[list[int], bool]:
    """Indices of the `k` largest values, largest first, and whether an equal value was left out."""
    order = sorted(range(len(values)), key=lambda i: -values[i])  # stable: the first of equals wins
    best, rest = order[:k], order[k:]
    return best, bool(best and rest) and values[best[-1]] == values[rest[0]]
