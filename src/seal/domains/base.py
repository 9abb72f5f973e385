"""What a domain is: how the policy is asked for a self-edit, and how what it learned is measured."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar

from seal.errors import DataError
from seal.prompt import contract_of
from seal.records import Answer, EditFinding, EvalPrompt, Performance, Task, TrainingConfig, TrainingSequence
from seal.thoughts import without_thoughts

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from seal.protocols import Generator


def gold_log_likelihood(answers: Sequence[Answer]) -> float | None:
    """Mean over `answers` of their references' log-likelihood a token, in nats; None where none has one."""
    gold = [
        a.log_likelihood / a.reference_tokens
        for a in answers
        if a.log_likelihood is not None and a.reference_tokens
    ]
    return fmean(gold) if gold else None


def ranked(answers: Sequence[Answer]) -> dict[str, float]:
    """Where gold answers were ranked among wrong ones: the share above all (`choice`), and by how much
    on average (`contrast`, in nats a token); else nothing."""
    margins = [a.margin for a in answers if a.margin is not None]
    return {"choice": fmean(m > 0 for m in margins), "contrast": fmean(margins)} if margins else {}


class InvalidEdit(DataError):
    """A self-edit that cannot be applied. It is kept as data, with this reason and reward 0."""


class BaseDomain(ABC):
    """A domain needs the three abstract methods. It is then measured one adapter at a time.

    A domain that also overrides `eval_prompts` and `score` (and, where a completion is not plain text to
    train on, `training_sequences` and `training_config`) is batched: many adapters train and answer in the
    same pass.
    """

    #: How held-out tasks are asked, in words.
    asked: ClassVar[str] = "no context"
    #: (task, answers, tokenizer) -> prompts that the same adapter is asked next; `score` gets their answers
    #: behind the others'. None: `eval_prompts` are all there is to ask.
    follow_up: Callable[[Task, Sequence[Answer], PreTrainedTokenizerBase], tuple[EvalPrompt, ...]] | None = (
        None
    )

    @abstractmethod
    def create_self_edit_prompt(self, context: Any) -> str:
        """The prompt that asks the policy for a self-edit of `context` (`Task.context`)."""

    @abstractmethod
    def evaluate(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Any) -> Any:
        """How well `model` does on `task` without the context: a `Performance`, or a number in [0, 1]."""

    @abstractmethod
    def compute_reward(self, performance: Any, task: Any) -> float:
        """The reward of a self-edit whose adapted model reached `performance` on `task`."""

    def prompt_for(self, task: Task, tokenizer: PreTrainedTokenizerBase | None) -> str:
        """The complete prompt for `task`, chat template included; empty: there is nothing to write.

        Without a tokenizer the prompt goes to a server that adds the template itself.
        """
        return self.create_self_edit_prompt(task.context)

    def check(self, task: Task, tokenizer: PreTrainedTokenizerBase, window: int | None) -> None:
        """Raise `DataError` for a task that no adapter could be trained on. Default: all can.

        `window` is the model's, in tokens.
        """
        return None

    def fixed_prompts(self, task: Task, tokenizer: PreTrainedTokenizerBase | None) -> tuple[str, ...]:
        """Prompts of several kinds for `task`, the rival that needs no reinforcement learning: one adapter is
        trained on all that the untrained policy writes to them. Default: there are none.
        """
        return ()

    def joined(self, task: Task, completions: Sequence[str]) -> str:
        """What was written to the fixed prompts, as one self-edit. Default: one below the other."""
        return "\n".join(completions)

    def sampler(self, generator: Generator, tokenizer: PreTrainedTokenizerBase) -> Generator:
        """What draws self-edits. Default: `generator` as it is."""
        return generator

    @property
    def batched(self) -> bool:
        """Whether the domain lets the engine measure many adapters at once."""
        return (
            type(self).eval_prompts is not BaseDomain.eval_prompts
            and type(self).score is not BaseDomain.score
        )

    def fits(self, task: Task, tokenizer: PreTrainedTokenizerBase, window: int) -> bool:
        """Whether a model that reads `window` tokens can be asked about the task; else it is left out.

        Default: yes.
        """
        return True

    def training_sequences(
        self, task: Task, completion: str, tokenizer: PreTrainedTokenizerBase
    ) -> tuple[TrainingSequence, ...]:
        """Token rows to train on. Default: every non-empty line of the completion is one row.

        Raises:
            InvalidEdit: the completion holds nothing to train on.
        """
        lines = [line.strip() for line in without_thoughts(completion).splitlines() if line.strip()]
        rows = [contract_of(tokenizer).sequence(line) for line in lines]
        rows = [row for row in rows if row.labelled()]
        if not rows:
            raise InvalidEdit("the self-edit holds no text to train on")
        return tuple(rows)

    def findings(self, task: Task, completion: str) -> tuple[EditFinding, ...]:
        """What is visibly wrong with a self-edit, for the journal. Default: nothing is looked for."""
        return ()

    def training_config(self, completion: str, base: TrainingConfig) -> TrainingConfig:
        """The training config; a domain whose self-edits choose it overrides this."""
        return base

    def eval_prompts(self, task: Task, tokenizer: PreTrainedTokenizerBase) -> tuple[EvalPrompt, ...]:
        """Prompts that measure `task`, without its context. None: the domain is not batched."""
        return ()

    def score(self, task: Task, answers: Sequence[Answer]) -> Performance:
        """The performance that `answers` (one for every evaluation prompt, in order) amount to."""
        raise DataError(f"{type(self).__name__} has evaluation prompts but no score method")

    def likelihood(self, task: Task, answers: Sequence[Answer]) -> Performance:
        """The performance of a model that only scored gold answers, one for every evaluation prompt with a
        reference: the mean over them of their log-likelihood a token, and as score the probability it means.

        Raises:
            DataError: no evaluation prompt has a reference.
        """
        gold = gold_log_likelihood(answers)
        if gold is None:
            raise DataError(
                f"task {task.id!r} has no gold answer to score",
                "give its evaluation prompts a reference, or choose a reward that reads answers",
            )
        return Performance(math.exp(gold), len(answers), log_likelihood=gold, details=ranked(answers))

    def context_prompts(self, task: Task, tokenizer: PreTrainedTokenizerBase) -> tuple[EvalPrompt, ...]:
        """The same prompts with the context in them, as an upper reference; a domain may have none."""
        return ()

    def reference_edits(self, task: Task) -> dict[str, str]:
        """Completions to compare self-edits with on held-out tasks, by arm: what needs no policy to write."""
        return {}
