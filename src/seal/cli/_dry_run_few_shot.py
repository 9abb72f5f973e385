"""What a few-shot run would cost: some of its tasks under random recipes, which stand for the policy's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from seal.domains.base import InvalidEdit
from seal.records import Task
from seal.settings import SEALConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from seal.domains.few_shot import FewShotLearning

_SAMPLE = 6
"""Tasks looked at in each half."""
_RECIPES = 3
"""Random recipes a task."""


@dataclass(frozen=True)
class _Mean:
    """Of one task: what an adapter is trained on and answers."""

    steps: float = 0.0
    trained: float = 0.0
    read: float = 0.0
    answered: float = 0.0
    written: float = 0.0


@dataclass(frozen=True)
class FewShotWork:
    """How much there is to do; lengths that the model chooses are counted at their limit."""

    edits: int
    adapters: int
    steps: int
    write_tokens: int
    train_tokens: int
    read_tokens: int
    answer_tokens: int


def measure_few_shot(
    config: SEALConfig, train: Sequence[Task], val: Sequence[Task], tokenizer: PreTrainedTokenizerBase
) -> FewShotWork:
    """Count the work from a sample of both halves. Raises `ConfigError` for options that do not fit."""
    from seal.setup import make_domain

    domain: FewShotLearning = make_domain(config, None)  # type: ignore[assignment]
    arms = config.evaluation.arms
    wanted = ("self_edit", "self_edit_rl")
    edit_arms = sum(arms is None or arm in arms for arm in wanted) * config.evaluation.samples
    references = max((len(_named(domain, task, arms)) for task in val[:1]), default=0)
    base = int(arms is None or "base" in arms)
    rounds = config.max_outer_iterations * min(config.tasks_per_iteration, len(train))
    edits = rounds * config.samples_per_iteration
    total = [edits, edits * config.repeats, 0.0, 0.0, 0.0, 0.0, 0.0]
    for tasks, adapters, written, answers in (
        (train, edits * config.repeats, edits, edits * config.repeats + rounds),
        (
            val,
            len(val) * (references + edit_arms),
            len(val) * edit_arms,
            len(val) * (references + edit_arms + base),
        ),
    ):
        mean = _mean(config, domain, tasks, tokenizer)
        parts = (adapters * mean.steps, written * mean.written, adapters * mean.trained)
        for i, part in enumerate((*parts, answers * mean.read, answers * mean.answered), 2):
            total[i] += part
    total[0] += len(val) * edit_arms
    total[1] += len(val) * (references + edit_arms)
    return FewShotWork(*(round(value) for value in total))


def _named(domain: FewShotLearning, task: Task, arms: Sequence[str] | None) -> list[str]:
    return [arm for arm in domain.reference_edits(task) if arms is None or arm in arms]


def _mean(
    config: SEALConfig, domain: FewShotLearning, tasks: Sequence[Task], tokenizer: PreTrainedTokenizerBase
) -> _Mean:
    sample = tasks[:: max(1, len(tasks) // _SAMPLE)][:_SAMPLE]
    seen = [_one(config, domain, task, tokenizer) for task in sample]
    if not seen:
        return _Mean()
    return _Mean(*(fmean(getattr(one, name) for one in seen) for name in _Mean.__dataclass_fields__))


def _one(
    config: SEALConfig, domain: FewShotLearning, task: Task, tokenizer: PreTrainedTokenizerBase
) -> _Mean:
    """One task under a few recipes; one that cannot be applied costs nothing."""
    training, steps, trained, written = config.inner_training(), [0.0], [0.0], [0.0]
    for seed in range(_RECIPES):
        recipe = domain.space.draw(seed)
        written.append(float(len(tokenizer(recipe)["input_ids"])))
        try:
            rows = domain.training_sequences(task, recipe, tokenizer)
        except InvalidEdit:
            continue
        chosen = domain.training_config(recipe, training)
        steps.append(chosen.epochs * -(-len(rows) // chosen.batch_size))
        trained.append(chosen.epochs * sum(len(row.ids) for row in rows))
    prompts = domain.eval_prompts(task, tokenizer)
    read = float(sum(len(p.ids) for p in prompts))
    answered = float(sum(p.sampling.max_new_tokens for p in prompts))
    return _Mean(sum(steps) / _RECIPES, sum(trained) / _RECIPES, read, answered, sum(written) / _RECIPES)
