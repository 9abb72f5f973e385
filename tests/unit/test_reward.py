"""Rewards by hand computation, and a reward model of the user's own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from seal import BaseRewardModel
from seal.errors import ConfigError, DataError
from seal.records import Performance
from seal.reward import (
    AccuracyChoiceGain,
    AccuracyGain,
    BestOfK,
    BinaryReward,
    ChoiceGain,
    ContrastGain,
    LogLikelihoodGain,
    aggregate,
    make_reward,
    reward_value,
)

BEFORE = Performance(0.25, 4, log_likelihood=-3.0, details={"choice": 0.5, "contrast": -1.0})
AFTER = Performance(0.75, 4, log_likelihood=-1.5, details={"choice": 0.75, "contrast": 0.25})


@pytest.mark.parametrize(
    ("model", "up", "same", "down"),
    [
        (BinaryReward(), 1.0, 0.0, 0.0),
        (BinaryReward(0.5), 0.0, 0.0, 0.0),
        (BinaryReward(0.49), 1.0, 0.0, 0.0),
        (BinaryReward(-0.1), 1.0, 1.0, 0.0),
        (AccuracyGain(), 0.5, 0.0, -0.5),
        (BestOfK(), 0.75, 0.25, 0.25),
        (LogLikelihoodGain(), 1.5, 0.0, -1.5),
        (ChoiceGain(), 0.25, 0.0, -0.25),
        (ContrastGain(), 1.25, 0.0, -1.25),
        (AccuracyChoiceGain(), 0.75, 0.0, -0.75),
    ],
)
def test_values(model: BaseRewardModel, up: float, same: float, down: float) -> None:
    assert reward_value(model, BEFORE, AFTER, None) == up
    assert reward_value(model, BEFORE, BEFORE, None) == same
    assert reward_value(model, AFTER, BEFORE, None) == down


def test_log_likelihood_needs_log_likelihoods() -> None:
    with pytest.raises(DataError, match="log-likelihood"):
        LogLikelihoodGain().compute_reward(Performance(0.0), AFTER, None)


def test_ranking_rewards_need_ranked_answers() -> None:
    with pytest.raises(DataError, match="ranks gold answers"):
        ChoiceGain().compute_reward(Performance(0.0), AFTER, None)


def test_names_and_thresholds() -> None:
    assert make_reward("binary", 0.2).threshold == 0.2  # type: ignore[attr-defined]
    assert make_reward("accuracy_gain", 0.2).keep_above == 0.2
    assert make_reward("log_likelihood", 0.2).keep_above == 0.2
    assert make_reward("best_of_k", 0.2).keeps == "best"
    assert make_reward("contrast", 0.2).keep_above == 0.2
    with pytest.raises(ConfigError, match=r"unknown reward 'binry'.*best_of_k"):
        make_reward("binry")
    for bad in (float("nan"), float("inf"), "0.1", True):
        with pytest.raises(ConfigError, match="threshold"):
            make_reward("binary", bad)  # type: ignore[arg-type]


def test_a_users_reward_model_by_import_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_rewards.py").write_text(
        "from seal import BaseRewardModel\n"
        "class MyRewardModel(BaseRewardModel):\n"
        "    def compute_reward(self, before, after, task):\n"
        "        reward_value = after.score * 2\n"
        "        return reward_value\n"
        "class Strict(MyRewardModel):\n"
        "    def __init__(self, threshold):\n"
        "        self.keep_above = threshold\n"
        "class Nan(BaseRewardModel):\n"
        "    def compute_reward(self, before, after, task):\n"
        "        return float('nan')\n"
        "class NotOne:\n"
        "    pass\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert reward_value(make_reward("my_rewards:MyRewardModel"), BEFORE, AFTER, None) == 1.5
    assert make_reward("my_rewards:Strict", 0.3).keep_above == 0.3
    with pytest.raises(DataError, match=r"Nan\.compute_reward returned nan"):
        reward_value(make_reward("my_rewards:Nan"), BEFORE, AFTER, None)
    with pytest.raises(ConfigError, match="not a reward model"):
        make_reward("my_rewards:NotOne")
    with pytest.raises(ConfigError, match="no 'Missing'"):
        make_reward("my_rewards:Missing")
    with pytest.raises(ConfigError, match="cannot import 'my_reward'"):
        make_reward("my_reward:MyRewardModel")


def test_repeats_are_averaged() -> None:
    assert aggregate([0.0, 0.5, 1.0]) == 0.5
    with pytest.raises(DataError):
        aggregate([])
