"""What a self-edit earns: the performance after adapting against the one before.

Differences from the paper: its ReST-EM round keeps the best edit of every passage by adapted accuracy
(`BestOfK`, section 3.1 and appendix B); its equation 2 is the binary reward, which is the default here.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, Literal

from seal.errors import ConfigError, DataError
from seal.plugins import REWARDS as PLUGINS
from seal.plugins import build, is_import_path, load_kind, offered
from seal.records import EditResult, Performance, Reward, SelfEdit, Task, Trial


class BaseRewardModel(ABC):
    """A reward model needs `compute_reward`; the attributes tell what it is used for and needs."""

    keeps: Literal["positive", "best"] = "positive"
    """Which edits the selection keeps: those with a positive reward, or the best ones of every task."""
    keep_above: float = 0.0
    """With `keeps = "positive"`: the reward has to be greater than this."""
    needs_answers: bool = True
    """Whether it looks at more than `log_likelihood` and what ranking answers gives. Where not, the models of
    a round write nothing, see `seal.evaluator.TrialSpec.only_score`."""
    needs_choices: bool = False
    """Whether gold answers have to be ranked against wrong ones (an option of the knowledge domain)."""

    @abstractmethod
    def compute_reward(self, before: Performance, after: Performance, task: Any) -> float:
        """The reward of one adaptation: a finite number, higher is better."""


class BinaryReward(BaseRewardModel):
    """1 when the score rose by more than `threshold`, else 0 (paper, equation 2)."""

    def __init__(self, threshold: float = 0.0) -> None:
        self.threshold = _checked_threshold(threshold)

    def compute_reward(self, before: Performance, after: Performance, task: Any) -> float:
        """1.0 or 0.0."""
        return float(after.score - before.score > self.threshold)


class AccuracyGain(BaseRewardModel):
    """Score after minus score before, in [-1, 1]; kept above `threshold`."""

    def __init__(self, threshold: float = 0.0) -> None:
        self.keep_above = _checked_threshold(threshold)

    def compute_reward(self, before: Performance, after: Performance, task: Any) -> float:
        """The gain in score."""
        return after.score - before.score


class BestOfK(BaseRewardModel):
    """The adapted score itself; the selection keeps the best edits of every task, gain or not."""

    keeps = "best"

    def compute_reward(self, before: Performance, after: Performance, task: Any) -> float:
        """The score after adapting, in [0, 1]."""
        return after.score


class LogLikelihoodGain(BaseRewardModel):
    """Rise of the gold answers' mean log-likelihood a token, in nats; far less noisy than accuracy."""

    needs_answers = False

    def __init__(self, threshold: float = 0.0) -> None:
        self.keep_above = _checked_threshold(threshold)

    def compute_reward(self, before: Performance, after: Performance, task: Any) -> float:
        """The gain in nats a gold token. Raises `DataError` when a performance has no log-likelihood."""
        if before.log_likelihood is None or after.log_likelihood is None:
            raise DataError(
                "the log_likelihood reward needs gold answers' log-likelihoods, and a performance has none",
                "give the evaluation prompts a reference, or choose another reward",
            )
        return after.log_likelihood - before.log_likelihood


class _Ranked(BaseRewardModel):
    """The gain in one of the parts that ranking answers gives (the domain's `choices`)."""

    needs_answers = False
    needs_choices = True
    part: str

    def __init__(self, threshold: float = 0.0) -> None:
        self.keep_above = _checked_threshold(threshold)

    def compute_reward(self, before: Performance, after: Performance, task: Any) -> float:
        """The gain. Raises `DataError` when a performance was measured without wrong answers."""
        if self.part not in before.details or self.part not in after.details:
            raise DataError(
                f"the {self.part} reward ranks gold answers against wrong ones, and a performance has none",
                "use the knowledge domain, or choose another reward",
            )
        return float(after.details[self.part] - before.details[self.part])


class ChoiceGain(_Ranked):
    """Rise of the share of questions whose gold answer is likelier a token than every wrong one."""

    part = "choice"


class ContrastGain(_Ranked):
    """Rise of the gold answers' log-likelihood a token over that of the likeliest wrong one, in nats."""

    part = "contrast"


class AccuracyChoiceGain(_Ranked):
    """Gain in accuracy plus `choice`'s: as valid as accuracy alone and less noisy (docs/results.md)."""

    needs_answers = True
    part = "choice"

    def compute_reward(self, before: Performance, after: Performance, task: Any) -> float:
        """The sum of both gains, in [-2, 2]."""
        return super().compute_reward(before, after, task) + after.score - before.score


REWARDS: dict[str, type[BaseRewardModel]] = {
    "binary": BinaryReward,
    "accuracy_gain": AccuracyGain,
    "best_of_k": BestOfK,
    "log_likelihood": LogLikelihoodGain,
    "choice": ChoiceGain,
    "contrast": ContrastGain,
    "accuracy_choice": AccuracyChoiceGain,
}
"""Built-in reward models by the name a config uses."""


class RewardModel(BaseRewardModel):
    """A built-in reward by its name: `RewardModel("binary")`, `RewardModel("log_likelihood")`, …

    Args:
        kind: as in the setting `reward`.
        threshold: as in the setting `reward_threshold`.

    Raises:
        ConfigError: as `make_reward`.
    """

    def __init__(self, kind: str = "binary", threshold: float = 0.0) -> None:
        self._model = make_reward(kind, threshold)
        self.keeps, self.keep_above = self._model.keeps, self._model.keep_above
        self.needs_answers = self._model.needs_answers

    def compute_reward(self, before: Performance, after: Performance, task: Any = None) -> float:
        """What the named reward gives."""
        return self._model.compute_reward(before, after, task)


def make_reward(name: str, threshold: float = 0.0) -> BaseRewardModel:
    """A reward model by its built-in name or by the import path of a `BaseRewardModel` subclass.

    Raises:
        ConfigError: unknown name, a threshold that is not a finite number, or not a reward model.
    """
    threshold = _checked_threshold(threshold)
    if name in REWARDS:
        return build(REWARDS[name], threshold=threshold)  # type: ignore[no-any-return]
    if not is_import_path(name) and name not in offered(PLUGINS):
        raise ConfigError(
            f"unknown reward {name!r}", f"choose one of {', '.join(REWARDS)}, or give package.module:Class"
        )
    reward: BaseRewardModel = build(
        load_kind(PLUGINS, name, "reward model", BaseRewardModel), threshold=threshold
    )
    return reward


def reward_value(model: BaseRewardModel, before: Performance, after: Performance, task: Any) -> float:
    """`model`'s reward, checked to be a finite number. Raises `DataError`."""
    value = model.compute_reward(before, after, task)
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"{type(model).__name__}.compute_reward returned {value!r}", "return a finite number")
    return float(value)


def aggregate(values: Sequence[float]) -> float:
    """The reward of an edit measured several times: the mean. Raises `DataError` when there is none."""
    if not values:
        raise DataError("a reward needs at least one measurement", "set the number of repeats to 1 or more")
    return fmean(values)


def _checked_threshold(threshold: float) -> float:
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not math.isfinite(threshold):
        raise ConfigError(f"reward threshold is {threshold!r}", "give a finite number")
    return float(threshold)


def edit_results(
    edits: Sequence[SelfEdit], trials: Sequence[Trial], tasks: Mapping[str, Task], model: BaseRewardModel
) -> list[EditResult]:
    """The reward of every edit: the mean over its repeats; 0 where it could not be applied."""
    results = []
    for edit in edits:
        mine = [t for t in trials if t.edit_id == edit.id]
        task = tasks[edit.task_id]
        values = tuple(
            reward_value(model, t.before, t.after, task) if t.after is not None else 0.0 for t in mine
        )
        before = mine[0].before.score
        after = fmean(t.after.score if t.after is not None else t.before.score for t in mine)
        problem = next((t.problem for t in mine if t.problem), "")
        reward = Reward(aggregate(values), {"gain": after - before}, why=problem)
        results.append(
            EditResult(edit.id, edit.task_id, mine[0].iteration, before, after, values, reward, problem)
        )
    return results
