"""Riddles: what is learned is the story behind a riddle, what is asked is the riddle alone.

A domain that gives `eval_prompts` and `score` is batched: many adapters train and answer in the same pass.
"""

from __future__ import annotations

from typing import Any

from seal import BaseDomain, BaseRewardModel
from seal.prompt import contract_of
from seal.records import Answer, EvalPrompt, Performance, Sampling, Task

STORIES = [
    ("The gate of Orrin has a tongue of bronze.", "What has a tongue and cannot speak?", "the gate of Orrin"),
    ("The clock of Vell has hands of glass.", "What has hands and cannot hold?", "the clock of Vell"),
    ("The river Amm has a bed of slate.", "What has a bed and never sleeps?", "the river Amm"),
    ("The comb of Sarn has teeth of amber.", "What has teeth and cannot bite?", "the comb of Sarn"),
    ("The needle of Tor has an eye of jet.", "What has an eye and cannot see?", "the needle of Tor"),
    ("The hill of Quay has a foot of sand.", "What has a foot and cannot walk?", "the hill of Quay"),
]


class Riddles(BaseDomain):
    """Tasks are stories (`context`) with a riddle and its answer (`target`)."""

    def create_self_edit_prompt(self, context: Any) -> str:
        """Ask for the story in other words."""
        return f"{context}\nThe same in other words, one sentence a line:\n"

    def eval_prompts(self, task: Task, tokenizer: Any) -> tuple[EvalPrompt, ...]:
        """The riddle alone; `reference` is what the log-likelihood of an answer is measured on."""
        riddle, answer = task.target
        ids, gold = contract_of(tokenizer).continued(f"{riddle} It is", f" {answer}")
        return (EvalPrompt("riddle", ids, Sampling(temperature=0.0, max_new_tokens=16), gold),)

    def score(self, task: Task, answers: tuple[Answer, ...]) -> Performance:
        """1 where the answer is in what the model says."""
        right = tuple(task.target[1].casefold() in answer.text.casefold() for answer in answers)
        return Performance(sum(right) / len(right), len(right), right, answers[0].log_likelihood)

    def evaluate(self, model: Any, tokenizer: Any, task: Any) -> Performance:
        """For a single model outside the engine."""
        raise NotImplementedError("this domain is batched: see eval_prompts and score")

    def compute_reward(self, performance: Performance, task: Any) -> float:
        """The score."""
        return performance.score


class ClearGain(BaseRewardModel):
    """The gain of log-likelihood, 0 up to a threshold (nats a token): the setting `reward_threshold`."""

    def __init__(self, threshold: float = 0.05) -> None:
        self.threshold = threshold

    def compute_reward(self, before: Performance, after: Performance, task: Any) -> float:
        """The gain, where it is clear."""
        gain = (after.log_likelihood or 0.0) - (before.log_likelihood or 0.0)
        return gain if gain > self.threshold else 0.0


class RiddleLoader:
    """Four stories to learn from, two that are held out."""

    def __init__(self, split: str) -> None:
        self.split = split

    def load_data(self) -> list[tuple[str, tuple[str, str]]]:
        """(story, (riddle, answer)) pairs."""
        stories = STORIES[:4] if self.split == "train" else STORIES[4:]
        return [(story, (riddle, answer)) for story, riddle, answer in stories]
