"""Every step in words, at DEBUG: in the run's log file always, on the terminal with `--log-level DEBUG`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from seal.records import AdaptJob, Answer, Baseline, EditResult, EvalPrompt, SelfEdit, Trial

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)


def written(edit: SelfEdit) -> None:
    """A self-edit: what was asked and what the policy wrote."""
    log.debug(
        "self-edit %s of task %s (policy %s, seed %d, %d tokens, ended by %s)\nprompt:\n%s\ncompletion:\n%s",
        edit.id, edit.task_id, edit.policy, edit.seed, edit.n_tokens, edit.finish, edit.prompt,
        edit.completion,
    )  # fmt: skip


def job(job: AdaptJob, tokenizer: PreTrainedTokenizerBase) -> None:
    """What an adapter is trained on and how."""
    if not log.isEnabledFor(logging.DEBUG):
        return
    listed = [
        f"\nsequence {number} ({len(sequence.ids)} tokens): {tokenizer.decode(sequence.ids)}"
        for number, sequence in enumerate(job.sequences, 1)
    ]
    log.debug("adapter %s: seed %d, %s%s", job.id, job.seed, job.training, "".join(listed))


def asked(owner: str, prompts: Sequence[EvalPrompt], tokenizer: PreTrainedTokenizerBase) -> None:
    """The complete evaluation prompts."""
    if log.isEnabledFor(logging.DEBUG):
        for prompt in prompts:
            log.debug("evaluation prompt %s of %s:\n%s", prompt.id, owner, tokenizer.decode(prompt.ids))


def baseline(done: Baseline, target: Any) -> None:
    """A task's answers without training."""
    answers = _answers(done.answers, target)
    log.debug("task %s without training: score %.4f%s", done.task_id, done.performance.score, answers)


def measured(trial: Trial, target: Any) -> None:
    """A trained adapter: its losses, its answers with verdicts, its score."""
    losses = " ".join(f"{loss:.4f}" for loss in trial.outcome.losses)
    after = "none" if trial.after is None else f"{trial.after.score:.4f}"
    log.debug(
        "adapter %s/r%d (%s): score %.4f before, %s after%s\nlosses: %s%s",
        trial.edit_id, trial.repeat, trial.arm, trial.before.score, after,
        f"; {trial.problem}" if trial.problem else "", losses or "none",
        _answers(trial.outcome.adapted, target),
    )  # fmt: skip


def rewarded(result: EditResult) -> None:
    """A self-edit's reward and whether the policy learns from it."""
    reward = result.reward
    log.debug(
        "self-edit %s: reward %.4f (%s), gain %+.4f, %s%s",
        result.edit_id, reward.value, " ".join(f"{v:.4f}" for v in result.repeats),
        result.after - result.before,
        "kept" if reward.kept else "not kept", f": {reward.why}" if reward.why else "",
    )  # fmt: skip


def _answers(answers: Sequence[Answer], target: Any) -> str:
    """One line an answer: question, gold answer, answer, verdict."""
    questions = target if isinstance(target, tuple) and len(target) == len(answers) else [None] * len(answers)
    lines = []
    for answer, question in zip(answers, questions, strict=True):
        about = f"{question.question!r} (gold {question.answer!r}) " if hasattr(question, "answer") else ""
        verdict = answer.verdict.value if answer.verdict is not None else "not graded"
        lines.append(f"\nanswer {answer.prompt_id}: {about}{answer.text!r}: {verdict} {answer.note}".rstrip())
    return "".join(lines)
