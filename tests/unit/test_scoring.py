"""A reward that looks at log-likelihoods alone has no model write: the same rewards, without decoding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from seal.domains.knowledge import KnowledgeIncorporation
from seal.errors import DataError
from seal.evaluator import Evaluator, TrialSpec
from seal.graded import Graded
from seal.grading import Grade, Grader, make_grader
from seal.inner.decode import Decoder
from seal.inner.loop import LocalInnerLoop
from seal.models.load import load_model
from seal.records import Performance, Question, SelfEdit, Task, TrainingConfig, Trial
from seal.reward import BaseRewardModel, LogLikelihoodGain, RewardModel

TASK = Task(
    "vell",
    "Vell lies on the river Osk. Its bridge has nine arches.",
    (Question("On which river does Vell lie?", "the Osk"), Question("How many arches?", "nine")),
)
EDIT = SelfEdit("vell.e0", "vell", "", "Vell lies on the Osk.\nNine arches.", 0, "v")


class Counting(Grader):
    """A grader that tells how often it was asked."""

    def __init__(self) -> None:
        self.asked, self.inner = 0, make_grader("lexical")

    def grade(self, items: Sequence[tuple[Question, str]]) -> list[Grade]:
        self.asked += len(items)
        return self.inner.grade(items)


def measured(only_score: bool) -> tuple[Performance, Trial, int]:
    """The task before training, a trial, and how many answers were graded."""
    loaded, grader = load_model("tiny-random-llama", device="cpu", dtype="float32"), Counting()
    domain, training = (
        KnowledgeIncorporation(max_new_tokens=4, choices=True),
        TrainingConfig(rank=4, epochs=2),
    )
    evaluator = Evaluator(loaded, domain, Graded(LocalInnerLoop(loaded), grader), training, 0)
    (baseline,) = evaluator.baselines([TASK], only_score=only_score)
    before = {TASK.id: baseline.performance}
    made = evaluator.prepared([TrialSpec(EDIT, 0, "train", 0, only_score)], {TASK.id: TASK})
    ((trial,),) = evaluator.trials(made, {TASK.id: TASK}, before)
    return baseline.performance, trial, grader.asked


def test_the_same_reward_with_and_without_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    before, trial, graded = measured(only_score=False)
    assert graded == 4

    def never(*_: Any) -> None:
        raise AssertionError("a token was decoded")

    monkeypatch.setattr(Decoder, "_step", never)
    monkeypatch.setattr(Decoder, "_choose", never)
    alone, silent, graded = measured(only_score=True)
    assert graded == 0
    assert alone.log_likelihood == pytest.approx(before.log_likelihood, rel=1e-6)
    assert silent.after is not None
    assert trial.after is not None
    reward = LogLikelihoodGain()
    assert reward.compute_reward(silent.before, silent.after, TASK) == pytest.approx(
        reward.compute_reward(trial.before, trial.after, TASK), rel=1e-4
    )
    assert silent.after.details == pytest.approx(trial.after.details, rel=1e-4)
    assert set(silent.after.details) == {"choice", "contrast"}
    assert silent.after.score == pytest.approx(math.exp(silent.after.log_likelihood or 0))
    assert [(a.text, a.n_tokens, a.verdict) for a in silent.outcome.adapted] == [("", 0, None)] * 2


def test_rewards_say_what_they_look_at() -> None:
    assert [
        RewardModel(kind).needs_answers for kind in ("binary", "best_of_k", "log_likelihood", "choice")
    ] == [*(True, True, False, False)]
    assert BaseRewardModel.needs_answers, "a reward of the user's own may look at anything"


def test_a_task_without_gold_answers_cannot_be_scored() -> None:
    with pytest.raises(DataError, match="no gold answer"):
        KnowledgeIncorporation().likelihood(TASK, ())
