"""Self-edits for a set of passages: the E-step's writing, on a run folder, exported as the official files."""

from __future__ import annotations

import logging
from pathlib import Path

from seal import setup
from seal.data.choice import official_subset
from seal.errors import DataError
from seal.estep import write_edits
from seal.recipes.articles import Article, read_articles, write_json
from seal.recipes.pipeline import began, note_tasks
from seal.records import Plan, Sampling, SelfEdit, Task
from seal.run.folder import Run
from seal.self_edit import SelfEditGenerator

log = logging.getLogger("seal.make_data")

SAMPLING = Sampling(temperature=1.0, top_p=0.95, max_new_tokens=8192)
"""The official one."""


def make_data(
    run: Run, sampler: SelfEditGenerator, policy: str, out: Path, start: int, n: int | None, batch: int = 32
) -> Path:
    """Write what the run lacks, then `out` and its `.meta`.

    Args:
        policy: version of the model that writes.
        start: first passage of the official shuffle (seed 42).
        n: passages; None: all from `start`.
        batch: completions asked for at once, and so lost at most when the process is killed.

    Raises:
        DataError: the data set cannot be used, or `out` does not hold what was asked for.
        GenerationError: a completion could not be written; what was written is kept.
        RunError: the run began with other passages or another model.
    """
    config, k = run.config, run.config.samples_per_iteration
    tasks = setup.load_tasks(config, "train")
    tasks = official_subset(tasks, start, n if n is not None else len(tasks) - start)
    note_tasks(run, tasks)
    run.record("plan", "0", Plan(0, tuple(task.id for task in tasks), policy))
    size, edits = max(1, batch // k), list[SelfEdit]()
    for first in range(0, len(tasks), size):
        part = tasks[first : first + size]
        edits += write_edits(run, sampler, policy, part, k, 0, f"{first}")
        log.info("%d of %d completions", len(edits), k * len(tasks))
    articles = [article_of(task, edits[i * k : (i + 1) * k]) for i, task in enumerate(tasks)]
    write_json(out, [article.to_json() for article in articles])
    write_json(out.with_name(out.name + ".meta"), _meta(run, out, start, len(tasks)))
    check_counts(out, len(tasks), k)
    return out


def article_of(task: Task, edits: list[SelfEdit]) -> Article:
    """A passage with its self-edits, as the official file has it."""
    texts = tuple(edit.completion.strip() for edit in edits)
    return Article(task.title, task.context, task.target, texts, edits[0].prompt)


def check_counts(path: Path, n: int, k: int) -> None:
    """Raise `DataError` unless `path` holds exactly `n` passages with `k` completions each."""
    articles = read_articles(path)
    wrong = [a.title for a in articles if len(a.completions) != k]
    if len(articles) != n or wrong:
        raise DataError(
            f"{path} holds {len(articles)} passages, {len(wrong)} of them without {k} completions",
            f"expected {n} passages; make it anew",
        )


def _meta(run: Run, out: Path, start: int, n: int) -> dict[str, object]:
    config = run.config
    return {
        "model": config.model_name,
        "dataset_in": config.data_config.path,
        "dataset_out": str(out),
        "temperature": config.generation.temperature,
        "top_p": config.generation.top_p,
        "max_tokens": config.generation.max_new_tokens,
        "n": n,
        "k": config.samples_per_iteration,
        "timestamp": began(run),
        "start": start,
        "seed": config.seed,
    }
