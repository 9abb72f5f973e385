"""What each self-edit of a data set is worth: one temporary adapter a completion and repeat (single passage).

The result is SEAL's own `run_<timestamp>.json`, with `intervals` beside the means: 95 % intervals
over articles. Differences from the official script: seeds derive from names, every reply is kept as it
comes, and a failed measurement is measured again, not scored.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from seal.errors import ServeError
from seal.intervals import GAINS, SCORES, interval
from seal.recipes import results
from seal.recipes.articles import Article, ends, open_journal, read_articles
from seal.run.journal import Journal
from seal.seeds import derive
from seal.self_edit import sequence_texts
from seal.serve import messages as m
from seal.serve.requests import TTT, Ask
from seal.training_config import PAPER_INNER, TrainingConfig

log = logging.getLogger("seal.query")


@dataclass(frozen=True, slots=True)
class QuerySettings:
    """What is measured, and how."""

    data: Path
    out: Path
    n: int | None = None
    """Articles; None: all."""
    k: int | None = None
    """Completions an article; None: all."""
    repeats: int = 3
    """Adapters trained a completion, each with its own seed."""
    split_newlines: bool = True
    training: TrainingConfig = PAPER_INNER
    exp_name: str = ""
    seed: int = 0
    write_every_s: float = 20.0
    """Seconds between rewrites of the result file; the journal has everything at once."""


def query(settings: QuerySettings, ttt: TTT) -> results.QueryRun:
    """Measure what is not measured yet and write `settings.out`.

    Raises:
        DataError: the data set cannot be used.
        RunError: the unfinished work beside `out` was made with other settings or another model.
        ServeError: measurements failed; a second call redoes those only.
    """
    articles = read_articles(settings.data, settings.n, settings.k)
    with open_journal(settings.out) as journal:
        journal.append("settings", "query", _identity(settings, articles, ttt.policy))
        if journal.get("begin", "query") is None:
            journal.append("begin", "query", {"timestamp": datetime.now().strftime("%m%d_%H%M%S")})
        todo = [ask for ask in _asks(settings, articles) if journal.get("reply", ask.id) is None]
        failed, written = [], time.monotonic()
        for done, answered in enumerate(ttt.run(todo), 1):
            if answered.reply is None:
                failed.append(answered)
                continue
            journal.append("reply", answered.id, answered.reply.model_dump(mode="json"))
            if time.monotonic() - written > settings.write_every_s:
                log.info("%d of %d measurements", done, len(todo))
                _result(settings, articles, journal, ttt.policy).write(settings.out)
                written = time.monotonic()
        run = _result(settings, articles, journal, ttt.policy)
        run.write(settings.out)
    if failed:
        raise ServeError(
            f"{len(failed)} of {len(todo)} measurements failed, first {failed[0].id}: {failed[0].error}",
            "run the same command again: it redoes only these",
        )
    return run


def _asks(settings: QuerySettings, articles: list[Article]) -> Iterator[Ask]:
    for i, article in enumerate(articles):
        questions = [
            m.EvalQuestion(
                title=article.title,
                context=article.context,
                question=q.question,
                answer=q.answer,
                also=list(q.also),
            )
            for q in article.questions
        ]
        for j, completion in enumerate(article.completions):
            texts = sequence_texts(completion, article.title, article.context, settings.split_newlines)
            request = m.TTTRequest.of(settings.training, train_sequences=texts, eval_questions=questions)
            for rep in range(settings.repeats):
                name = f"{i}/{j}/{rep}"
                yield Ask(name, request, derive(settings.seed, "query", article.title, name))


def _result(
    settings: QuerySettings, articles: list[Article], journal: Journal, policy: str
) -> results.QueryRun:
    """The result of the articles whose every measurement is there."""
    made = [a for i, article in enumerate(articles) if (a := _article(settings, i, article, journal))]
    stats = [article.stats for article in made]
    return results.make_run(
        made,
        timestamp=(journal.get("begin", "query") or {})["timestamp"],
        exp_name=settings.exp_name,
        dataset=str(settings.data),
        split_newlines=settings.split_newlines,
        n_articles=len(made),
        k_completions=max((len(article.completions) for article in made), default=0),
        eval_times=settings.repeats,
        lora_params=lora_params(settings.training),
        seed=settings.seed,
        policy=policy,
        n_articles_asked=len(articles),
        intervals={
            "baseline_mean_accuracy": _interval([s.baseline_accuracy for s in stats], SCORES),
            "adapter_mean_accuracy": _interval([s.adapter_mean_accuracy for s in stats], SCORES),
            "mean_gain": _interval([s.mean_gain for s in stats], GAINS),
        },
    )


def _article(
    settings: QuerySettings, i: int, article: Article, journal: Journal
) -> results.RunArticle | None:
    completions = []
    for j, text in enumerate(article.completions):
        questions: list[results.QuestionResult] = []
        for rep in range(settings.repeats):
            reply = journal.get("reply", f"{i}/{j}/{rep}")
            if reply is None:
                return None
            questions += _question_results(rep, article, reply)
        completions.append(results.make_completion(text, questions))
    return results.make_article(article.title, article.context, article.prompt, completions)


def _question_results(rep: int, article: Article, reply: dict[str, Any]) -> Iterator[results.QuestionResult]:
    for number, question in enumerate(article.questions):
        yield results.QuestionResult(
            rep=rep,
            question=question.question,
            answer=question.answer,
            baseline_answer=reply["baseline_texts"][number],
            adapter_answer=reply["adapter_texts"][number],
            baseline_correct=reply["baseline_correct"][number],
            adapter_correct=reply["adapter_correct"][number],
        )


def lora_params(training: TrainingConfig) -> dict[str, float]:
    """The official `lora_params` block."""
    return {
        "rank": training.rank,
        "alpha": training.alpha,
        "dropout": training.dropout,
        "epochs": training.epochs,
        "lr": training.learning_rate,
        "batch_size": training.batch_size,
        "grad_accum_steps": training.accumulation,
    }


def _interval(values: list[float | None], bounds: tuple[float, float]) -> list[float] | None:
    return ends(interval([value for value in values if value is not None], bounds=bounds))


def _identity(settings: QuerySettings, articles: list[Article], policy: str) -> dict[str, object]:
    plain = asdict(settings) | {"policy": policy}
    plain["articles"] = m.digest([article.to_json() for article in articles])
    return {name: value for name, value in plain.items() if name not in ("out", "write_every_s", "data")}
