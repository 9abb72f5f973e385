"""What a run on passages would cost: its tasks, and the self-edits that its settings allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from seal.domains.base import InvalidEdit
from seal.evaluation import CONTROLS
from seal.records import Task
from seal.self_edit import FIXED, PAIRS
from seal.sentences import split_sentences
from seal.settings import SEALConfig

if TYPE_CHECKING:
    from seal.domains.knowledge import KnowledgeIncorporation

#: Passages under which study plans are tried.
_SAMPLE = 6
_WRITTEN = ("self_edit", "self_edit_rl", "placebo")
"""Arms whose self-edits a policy writes."""


@dataclass(frozen=True)
class Work:
    """How much there is to do. Lengths that the model chooses are counted at their limit."""

    edits: int
    adapters: int
    write_tokens: int
    train_tokens: int
    answer_tokens: int


@dataclass(frozen=True)
class _Lengths:
    """Tokens of one task: a self-edit as it is written, and what an adapter trains on in all."""

    written: float
    edit: float
    passage: float


def measure(
    config: SEALConfig,
    train: Sequence[Task],
    val: Sequence[Task],
    count: Callable[[str], int],
    tokenizer: Any = None,
) -> Work:
    """Count the work.

    Args:
        count: tokens of a text.
        tokenizer: the model's; with it the sequences of study plans are counted as they are.
    """
    lengths = _lengths(config, train or val, count, tokenizer)
    evaluation, rounds = config.evaluation, config.max_outer_iterations
    tasks = rounds * min(config.tasks_per_iteration, len(train) or config.tasks_per_iteration)
    edits = tasks * config.samples_per_iteration
    adapters = edits * config.repeats
    asked = sum(len(task.target) for task in train) / (len(train) or 1)
    answers = asked * (adapters + tasks)
    trained = adapters * _mean(lengths(task).edit for task in train)
    written = edits * _mean(lengths(task).written for task in train)
    arms = evaluation.arms
    wanted = {arm for arm in ("base", "passage", "self_edit", "self_edit_rl") if arms is None or arm in arms}
    wanted |= {arm for arm in arms or () if arm in (*CONTROLS, "oracle", "random")}
    by_policy = sum(arm in wanted for arm in _WRITTEN) * evaluation.samples
    fixed = len(FIXED) + PAIRS if "fixed_prompts" in wanted else 0
    given = len(wanted - {*_WRITTEN, "base", "passage"})
    for task in val:
        own = lengths(task)
        others = by_policy + given
        trained += ("passage" in wanted) * own.passage + others * own.edit
        written += by_policy * own.written + fixed * config.generation.max_new_tokens
        answers += len(task.target) * (("base" in wanted) + ("passage" in wanted) + others)
    return Work(
        edits + len(val) * (by_policy + fixed),
        adapters + len(val) * (("passage" in wanted) + by_policy + given),
        round(written),
        round(trained),
        round(answers * evaluation.max_new_tokens),
    )


def _lengths(
    config: SEALConfig, tasks: Sequence[Task], count: Callable[[str], int], tokenizer: Any
) -> Callable[[Task], _Lengths]:
    if config.data_config.prompt_type == "study_plan" and tokenizer is not None:
        planned = _planned(config, tasks, tokenizer)
        return lambda task: planned
    longest, inner = config.generation.max_new_tokens, config.inner

    def of(task: Task) -> _Lengths:
        passage = count(str(task.context))
        if not inner.steps:
            edit = longest + config.data_config.include_passage * passage
            return _Lengths(longest, inner.epochs * edit, inner.epochs * passage)
        # A line of a self-edit is about as long as a sentence of its passage.
        line = passage / len(split_sentences(str(task.context)) or [1])
        row = line if config.data_config.split_newlines else longest
        return _Lengths(longest, _updates(config) * row, _updates(config) * passage)

    return of


def _updates(config: SEALConfig) -> int:
    """Sequences that an adapter sees where the number of its updates is fixed."""
    return (config.inner.steps or 0) * config.inner.batch_size * config.inner.accumulation


def _planned(config: SEALConfig, tasks: Sequence[Task], tokenizer: Any) -> _Lengths:
    """The mean over all study plans on some passages; plans that cannot be applied cost nothing."""
    from seal.setup import make_domain

    domain: KnowledgeIncorporation = make_domain(config, None)  # type: ignore[assignment]
    assert domain.plan_space is not None
    plans = [plan.to_json() for plan in domain.plan_space.plans()]
    sample = tasks[:: max(1, len(tasks) // _SAMPLE)][:_SAMPLE]
    edits, passages = [], []
    for task in sample:
        for plan in plans:
            try:
                edits.append(_trained(config, domain.training_sequences(task, plan, tokenizer)))
            except InvalidEdit:
                edits.append(0.0)
        passages.append(
            _trained(
                config, domain.training_sequences(task, domain.reference_edits(task)["passage"], tokenizer)
            )
        )
    written = _mean(len(tokenizer(plan)["input_ids"]) for plan in plans)
    return _Lengths(written, _mean(edits), _mean(passages))


def _trained(config: SEALConfig, rows: Sequence[Any]) -> float:
    """Tokens of one adapter's training on `rows`."""
    total = float(sum(len(row.ids) for row in rows))
    return _updates(config) * total / len(rows) if config.inner.steps else config.inner.epochs * total


def _mean(values: Any) -> float:
    known = list(values)
    return sum(known) / len(known) if known else 0.0
