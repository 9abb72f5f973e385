"""Self-edits for a set of passages: k completions each, written as they come, in the official format."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from seal.data.choice import official_subset
from seal.data.loader import load_tasks
from seal.errors import DataError, GenerationError
from seal.inner.protocol import Generator
from seal.recipes.articles import Article, open_journal, read_articles, write_json
from seal.records import Question, Sampling, Task
from seal.run.journal import Journal
from seal.seeds import derive

log = logging.getLogger("seal.make_data")


SAMPLING = Sampling(temperature=1.0, top_p=0.95, max_new_tokens=8192)
"""The official one."""


@dataclass(frozen=True, slots=True)
class DataSettings:
    """Which passages, how many completions, and how they are drawn."""

    dataset: str
    out: Path
    model: str
    """Name of the model, for the `.meta` file."""
    start: int = 0
    n: int | None = None
    """Passages, after the official shuffle (seed 42); None: all from `start`."""
    k: int = 5
    sampling: Sampling = SAMPLING
    seed: int = 0
    batch: int = 32
    """Completions asked for at once, and so lost at most when the process is killed."""


def make_data(settings: DataSettings, generator: Generator, prompt_of: Callable[[Task], str]) -> Path:
    """Write `settings.out` and its `.meta`; a second call finishes what an interrupted one began.

    Args:
        prompt_of: the complete prompt of a passage; an empty one asks for nothing, so that its completions
            are empty and the passage alone is trained on.

    Raises:
        DataError: the data set cannot be used, or the file is there with other counts.
        GenerationError: a completion could not be written; what was written is kept.
        RunError: the unfinished work beside `out` was made with other settings.
    """
    tasks = load_tasks(settings.dataset)
    n = settings.n if settings.n is not None else len(tasks) - settings.start
    tasks = official_subset(tasks, settings.start, n)
    if settings.k < 1:
        raise DataError(f"k is {settings.k}", "ask for at least 1 completion a passage")
    prompts = {task.id: prompt_of(task) for task in tasks}
    with open_journal(settings.out) as journal:
        journal.append("settings", "make-data", _identity(settings, n, prompts))
        _write_missing(settings, generator, prompts, journal)
        articles = [_article(task, prompts[task.id], settings.k, journal) for task in tasks]
    write_json(settings.out, [article.to_json() for article in articles])
    write_json(settings.out.with_name(settings.out.name + ".meta"), _meta(settings, n))
    check_counts(settings.out, n, settings.k)
    return settings.out


def check_counts(path: Path, n: int, k: int) -> None:
    """Raise `DataError` unless `path` holds exactly `n` passages with `k` completions each."""
    articles = read_articles(path)
    wrong = [a.title for a in articles if len(a.completions) != k]
    if len(articles) != n or wrong:
        raise DataError(
            f"{path} holds {len(articles)} passages, {len(wrong)} of them without {k} completions",
            f"expected {n} passages; make it anew",
        )


def _write_missing(
    settings: DataSettings, generator: Generator, prompts: dict[str, str], journal: Journal
) -> None:
    todo = [
        (task_id, j)
        for task_id in prompts
        for j in range(settings.k)
        if journal.get("completion", f"{task_id}/{j}") is None
    ]
    total = len(prompts) * settings.k
    for first in range(0, len(todo), settings.batch):
        chunk = todo[first : first + settings.batch]
        for (task_id, j), (text, n_tokens, finish) in zip(
            chunk, _generate(settings, generator, prompts, chunk), strict=True
        ):
            data = {"text": text, "n_tokens": n_tokens, "finish": finish}
            journal.append("completion", f"{task_id}/{j}", data)
        log.info("%d of %d completions", total - len(todo) + first + len(chunk), total)


def _generate(
    settings: DataSettings, generator: Generator, prompts: dict[str, str], chunk: Sequence[tuple[str, int]]
) -> list[tuple[str, int, str]]:
    asked = [(task_id, j) for task_id, j in chunk if prompts[task_id]]
    seeds = [derive(settings.seed, "make-data", task_id, j) for task_id, j in asked]
    written = generator.generate([prompts[t] for t, _ in asked], settings.sampling, seeds) if asked else []
    if len(written) != len(asked):
        raise GenerationError(f"{len(asked)} prompts gave {len(written)} completions", "check the server")
    texts = {item: (c.text.strip(), c.n_tokens, c.finish) for item, c in zip(asked, written, strict=True)}
    return [texts.get(item, ("", 0, "stop")) for item in chunk]


def _article(task: Task, prompt: str, k: int, journal: Journal) -> Article:
    rows = [journal.get("completion", f"{task.id}/{j}") for j in range(k)]
    questions: tuple[Question, ...] = task.target
    return Article(task.title, task.context, questions, tuple(r["text"] for r in rows if r), prompt)


def _identity(settings: DataSettings, n: int, prompts: dict[str, str]) -> dict[str, object]:
    """What must be the same for a second call to go on with the first one's work."""
    plain = asdict(settings) | {"n": n, "prompts": derive(0, *prompts.values())}
    return {name: value for name, value in plain.items() if name not in ("out", "batch")}


def _meta(settings: DataSettings, n: int) -> dict[str, object]:
    return {
        "model": settings.model,
        "dataset_in": settings.dataset,
        "dataset_out": str(settings.out),
        "temperature": settings.sampling.temperature,
        "top_p": settings.sampling.top_p,
        "max_tokens": settings.sampling.max_new_tokens,
        "n": n,
        "k": settings.k,
        "timestamp": datetime.now(UTC).isoformat(),
        "start": settings.start,
        "seed": settings.seed,
    }
