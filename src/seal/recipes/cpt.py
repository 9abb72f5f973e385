"""Continued pretraining: the sequences of many passages together, one adapter or all weights, all questions.

The result has the official shape. `per_article` is keyed by title, as there; articles that share a title
have their questions in one list (the official script kept only the last article's).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from seal.errors import ServeError
from seal.intervals import GAINS, SCORES, interval
from seal.recipes.articles import Article, ends, open_journal, read_articles, write_json
from seal.recipes.query import lora_params
from seal.records import TrainingConfig
from seal.run.journal import Journal
from seal.seeds import derive
from seal.self_edit import sequence_texts
from seal.serve import messages as m
from seal.serve.requests import TTT, Ask, Requests, reply_from_outcome

if TYPE_CHECKING:
    from seal.inner.protocol import InnerLoop
    from seal.models.load import LoadedModel


log = logging.getLogger("seal.cpt")

PAPER_CPT = TrainingConfig(epochs=3, batch_size=4, accumulation=2)
"""The paper's first version: LoRA rank 32, 3 epochs, batches of 4."""

PAPER_CPT_FULL = TrainingConfig(epochs=1, learning_rate=7e-5, batch_size=4, accumulation=2)
"""Its second version: all weights, 1 epoch."""


@dataclass(frozen=True, slots=True)
class CPTSettings:
    """What is trained on together, and how."""

    data: Path
    out: Path
    n: int | None = None
    k: int | None = None
    """Completions an article; each comes with the passage, as in the official script. 0: passages only."""
    split_newlines: bool = True
    training: TrainingConfig = PAPER_CPT
    seed: int = 0


def cpt(settings: CPTSettings, ttt: TTT) -> dict[str, Any]:
    """Train one adapter on everything, answer all questions, write `settings.out` and return it.

    Raises:
        DataError, RunError: as `seal.recipes.query.query`.
        ServeError: the measurement failed.
    """
    articles = read_articles(settings.data, settings.n, settings.k or None)
    request = _request(settings, articles)
    with open_journal(settings.out) as journal:
        journal.append("settings", "cpt", _identity(settings, request, ttt.policy, "lora"))
        reply = journal.get("reply", "cpt")
        if reply is None:
            texts, questions = len(request.train_sequences), len(request.eval_questions)
            log.info("training on %d sequences together, then %d questions", texts, questions)
            (answered,) = ttt.run([Ask("cpt", request, derive(settings.seed, "cpt"))])
            if answered.reply is None:
                raise ServeError(answered.error, "run the same command again")
            reply = answered.reply.model_dump(mode="json")
            journal.append("reply", "cpt", reply)
    return _write(settings, articles, request, reply, {"method": "lora", "policy": ttt.policy})


def cpt_full(
    settings: CPTSettings,
    loaded: LoadedModel,
    inner_of: Callable[[LoadedModel], InnerLoop],
    save_to: Path,
    reload: Callable[[Path], LoadedModel],
) -> dict[str, Any]:
    """As `cpt`, with every weight trained. `loaded` is changed; the tuned model is saved in `save_to`.

    Args:
        inner_of: the engine that answers for a model, with its grader.
        reload: loads the checkpoint that was saved.

    Raises:
        ModelError: the checkpoint cannot be written.
        AdaptError: training failed.
    """
    from seal.models.checkpoint import save_checkpoint
    from seal.recipes.full_finetune import full_finetune

    articles = read_articles(settings.data, settings.n, settings.k or None)
    request = _request(settings, articles)
    requests, policy = Requests(loaded), loaded.version
    with open_journal(settings.out) as journal:
        journal.append("settings", "cpt", _identity(settings, request, policy, "full"))
        if journal.get("answers", "before") is None:
            journal.append("answers", "before", _answers(inner_of(loaded), requests, request))
        if journal.get("trained", "cpt") is None:
            job = requests.job(request, "cpt", derive(settings.seed, "cpt"))
            losses = full_finetune(loaded.model, job.sequences, settings.training, job.seed)
            save_checkpoint(loaded.model, loaded.tokenizer, save_to)
            journal.append(
                "trained", "cpt", {"steps": len(losses), "last_loss": losses[-1] if losses else None}
            )
        if journal.get("answers", "after") is None:
            tuned = reload(save_to)
            journal.append("answers", "after", _answers(inner_of(tuned), Requests(tuned), request))
        reply = _joined(journal)
        trained = journal.get("trained", "cpt") or {}
    return _write(settings, articles, request, reply, {"method": "full", "policy": policy, **trained})


def _request(settings: CPTSettings, articles: list[Article]) -> m.TTTRequest:
    texts, questions = [], []
    for article in articles:
        for completion in article.completions if settings.k != 0 else [""]:
            texts += sequence_texts(completion, article.title, article.context, settings.split_newlines)
        questions += [
            m.EvalQuestion(
                title=article.title,
                context=article.context,
                question=q.question,
                answer=q.answer,
                also=list(q.also),
            )
            for q in article.questions
        ]
    return m.TTTRequest.of(settings.training, train_sequences=texts, eval_questions=questions)


def _answers(inner: InnerLoop, requests: Requests, request: m.TTTRequest) -> dict[str, Any]:
    job = requests.job(request.model_copy(update={"skip_training": True}), "answers", 0)
    (outcome,) = inner.run([job])
    reply = reply_from_outcome(outcome)
    return {
        "texts": reply.baseline_texts,
        "correct": reply.baseline_correct,
        "accuracy": reply.baseline_accuracy,
    }


def _joined(journal: Journal) -> dict[str, Any]:
    before, after = (journal.get("answers", key) or {} for key in ("before", "after"))
    return {
        "baseline_accuracy": before["accuracy"],
        "adapter_accuracy": after["accuracy"],
        "adapter_gain": round(after["accuracy"] - before["accuracy"], 4),
        "baseline_texts": before["texts"],
        "adapter_texts": after["texts"],
        "baseline_correct": before["correct"],
        "adapter_correct": after["correct"],
        "gains": [int(a) - int(b) for a, b in zip(after["correct"], before["correct"], strict=True)],
    }


def _write(
    settings: CPTSettings,
    articles: list[Article],
    request: m.TTTRequest,
    reply: dict[str, Any],
    more: dict[str, Any],
) -> dict[str, Any]:
    result = {
        "overall": {
            "baseline_accuracy": reply["baseline_accuracy"],
            "adapter_accuracy": reply["adapter_accuracy"],
            "gain": reply["adapter_gain"],
        },
        "intervals": _intervals(articles, reply),
        "timestamp": datetime.now().strftime("%m%d_%H%M%S"),
        "dataset": str(settings.data),
        "n_articles": len(articles),
        "k_completions": max((len(a.completions) for a in articles), default=0) if settings.k != 0 else 0,
        "split_newlines": settings.split_newlines,
        "lora_params": lora_params(settings.training),
        "seed": settings.seed,
        **more,
        "per_article": _per_article(articles, reply),
        "train_sequences": len(request.train_sequences),
        "eval_questions": len(request.eval_questions),
        "server_reply": reply,
    }
    write_json(settings.out, result)
    return result


def _per_article(articles: list[Article], reply: dict[str, Any]) -> dict[str, dict[str, list[bool]]]:
    found: dict[str, dict[str, list[bool]]] = {}
    at = 0
    for article in articles:
        mine = found.setdefault(article.title, {"baseline_correct": [], "adapter_correct": []})
        for name, verdicts in mine.items():
            verdicts += reply[name][at : at + len(article.questions)]
        at += len(article.questions)
    return found


def _intervals(articles: list[Article], reply: dict[str, Any]) -> dict[str, list[float] | None]:
    """95 % intervals over articles, each weighted by its questions."""
    asked = [article for article in articles if article.questions]
    counts = [float(len(article.questions)) for article in asked]
    series = {
        "baseline_accuracy": (reply["baseline_correct"], SCORES),
        "adapter_accuracy": (reply["adapter_correct"], SCORES),
        "gain": (reply["gains"], GAINS),
    }
    found: dict[str, list[float] | None] = {}
    for name, (answers, bounds) in series.items():
        left = iter(answers)
        means = [fmean(float(next(left)) for _ in article.questions) for article in asked]
        found[name] = ends(interval(means, counts, bounds))
    return found


def _identity(settings: CPTSettings, request: m.TTTRequest, policy: str, method: str) -> dict[str, object]:
    plain = asdict(settings) | {"request": request.digest(), "policy": policy, "method": method}
    return {name: value for name, value in plain.items() if name not in ("out", "data")}
