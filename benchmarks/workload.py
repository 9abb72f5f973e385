"""What is measured on: the adaptation jobs of real self-edits, or of the built-in corpus."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from seal.data.loader import load_tasks
from seal.domains.knowledge import KnowledgeIncorporation
from seal.records import AdaptJob, Question, Sampling, Task, TrainingConfig, TrainingSequence

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: The published passages and completions, where somebody has put them beside the repository.
PUBLISHED = Path(__file__).resolve().parents[2] / "shared/data/official/iter1_train.json"
#: Greedy, up to 48 tokens, no stop strings, so that every contender has the same to do.
SAMPLING = Sampling(temperature=0.0, max_new_tokens=48)


@dataclass(frozen=True, slots=True)
class Workload:
    """Jobs of the paper's inner loop (rank 32, 10 epochs, batch 1), one a passage."""

    source: str
    jobs: tuple[AdaptJob, ...]

    def with_training(self, n_jobs: int, **changes: object) -> list[AdaptJob]:
        """The first `n_jobs` jobs (again from the start when they run out) with other recipe settings."""
        picked = [self.jobs[i % len(self.jobs)] for i in range(n_jobs)]
        return [
            replace(job, id=f"{i}", seed=i, training=replace(job.training, **changes))  # type: ignore[arg-type]
            for i, job in enumerate(picked)
        ]

    def prompts(self, n: int) -> list[tuple[int, ...]]:
        """Token ids of `n` question prompts."""
        every = [eval_prompt.ids for job in self.jobs for eval_prompt in job.eval_prompts]
        return [every[i % len(every)] for i in range(n)]

    def describe(self) -> str:
        """Sizes in one line."""
        lengths = [len(row.ids) for job in self.jobs for row in job.sequences]
        rows, tokens = len(lengths) / len(self.jobs), sum(lengths) / len(self.jobs)
        return (
            f"{self.source}: {len(self.jobs)} jobs of {rows:.1f} sequences and {tokens:.0f} tokens, "
            f"the longest sequence {max(lengths)}"
        )


def load_workload(tokenizer: PreTrainedTokenizerBase, limit: int = 50, longest: int = 1024) -> Workload:
    """One job a passage: its first completion split into lines, the passage, and its questions."""
    domain = KnowledgeIncorporation(split_newlines=True, chat=False, max_new_tokens=48)
    source, pairs = passages()
    jobs = []
    for i, (task, completion) in enumerate(pairs[:limit]):
        rows = tuple(
            TrainingSequence(row.ids[:longest], row.loss)
            for row in domain.training_sequences(task, completion, tokenizer)
        )
        eval_prompts = tuple(replace(p, sampling=SAMPLING) for p in domain.eval_prompts(task, tokenizer))
        jobs.append(AdaptJob(task.id, rows, TrainingConfig(), eval_prompts, seed=i))
    return Workload(source, tuple(jobs))


def passages(number: int = 0) -> tuple[str, list[tuple[Task, str]]]:
    """Their source, and passages with their self-edit `number`: the published ones if they are there."""
    if PUBLISHED.is_file():
        return "published passages and completions", _published(number)
    return "built-in corpus", _builtin()


def uniform_jobs(n: int, length: int, rank: int, vocabulary: int, steps: int = 1) -> list[AdaptJob]:
    """`n` jobs of one random sequence of `length` tokens, for the growth and memory curves."""
    rng = random.Random(length)
    recipe = TrainingConfig(rank=rank, alpha=2.0 * rank, epochs=steps)
    top = min(vocabulary, 250)
    return [
        AdaptJob(
            str(i), (TrainingSequence(tuple(rng.randrange(4, top) for _ in range(length))),), recipe, (), i
        )
        for i in range(n)
    ]


def _published(number: int) -> list[tuple[Task, str]]:
    records = json.loads(PUBLISHED.read_text("utf-8"))
    return [(_task(i, r), r["completions"][number % len(r["completions"])]) for i, r in enumerate(records)]


def _task(number: int, record: dict[str, object]) -> Task:
    title, questions = str(record["title"]), record["questions"]
    assert isinstance(questions, list)
    target = tuple(Question(q["question"], q["answer"], title) for q in questions)
    return Task(f"p{number}", record["context"], target, title)


def _builtin() -> list[tuple[Task, str]]:
    return [(task, _lines(task.target)) for task in load_tasks("builtin")]


def _lines(questions: Sequence[Question]) -> str:
    return "\n".join(f"Question {i}: {q.question} Answer: {q.answer}" for i, q in enumerate(questions, 1))
