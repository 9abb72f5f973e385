"""The official result file of a query run (`run_<timestamp>.json`): its parts, statistics, reader and writer.

Per repeat, accuracies and gain are means over its questions, rounded to 4 decimals; a completion's
statistics are means and sample standard deviations over its repeats; an article's over its completions, a
run's over its articles. Only what an article and a run show is rounded, to 4 decimals.

One extension: a question whose grading failed carries `null` instead of a verdict, and counts nowhere.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from seal.data.formats import read_text
from seal.errors import DataError
from seal.whole_file import write_whole

_DIGITS = 4


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())


class QuestionResult(_Part):
    """One question in one repeat, answered without and with the adapter."""

    rep: int
    """Number of the repeat, from 0."""
    question: str
    answer: str
    """Gold answer."""
    baseline_answer: str
    adapter_answer: str
    baseline_correct: bool | None
    """None: the grader could not say."""
    adapter_correct: bool | None


class CompletionStats(_Part):
    """Over the repeats of one completion; None where nothing was measured."""

    baseline_mean: float | None
    baseline_std: float | None
    adapter_mean: float | None
    adapter_std: float | None
    gain_mean: float | None


class RunCompletion(_Part):
    """One self-edit and what it was worth."""

    text: str
    stats: CompletionStats
    questions: tuple[QuestionResult, ...]


class ArticleStats(_Part):
    """Over the completions of one article."""

    baseline_accuracy: float | None
    adapter_mean_accuracy: float | None
    adapter_std_over_completions: float | None
    mean_adapter_std_within_completions: float | None
    mean_gain: float | None


class RunArticle(_Part):
    """One passage with its completions."""

    stats: ArticleStats
    title: str
    context: str
    completions: tuple[RunCompletion, ...]
    prompt: str


class Overall(_Part):
    """Over the articles of the run."""

    baseline_mean_accuracy: float | None
    baseline_std_of_article_means: float | None
    adapter_mean_accuracy: float | None
    adapter_std_of_article_means: float | None
    mean_adapter_std_over_completions: float | None
    mean_adapter_std_within_completions: float | None
    mean_gain: float | None


class QueryRun(_Part):
    """A whole result file; its other fields (timestamp, dataset, `lora_params`, …) are in `model_extra`."""

    overall: Overall
    articles: tuple[RunArticle, ...]

    def to_dict(self) -> dict[str, Any]:
        """As the file has it: the summary first, the articles last."""
        data = self.model_dump()
        data["articles"] = data.pop("articles")
        return data

    def write(self, path: str | Path) -> None:
        """Write the file, whole or not at all; what was there is replaced."""
        write_whole(Path(path), json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n")


def completion_stats(questions: Sequence[QuestionResult]) -> CompletionStats:
    """Statistics of one completion, from the verdicts of its repeats."""
    repeats: dict[int, list[QuestionResult]] = {}
    for question in questions:
        repeats.setdefault(question.rep, []).append(question)
    baseline, adapter, gain = [], [], []
    for group in repeats.values():
        baseline.append(_accuracy(q.baseline_correct for q in group))
        adapter.append(_accuracy(q.adapter_correct for q in group))
        gain.append(_accuracy(_gain(q) for q in group))
    return CompletionStats(
        baseline_mean=_mean(baseline),
        baseline_std=_std(baseline),
        adapter_mean=_mean(adapter),
        adapter_std=_std(adapter),
        gain_mean=_mean(gain),
    )


def article_stats(completions: Sequence[CompletionStats]) -> ArticleStats:
    """Statistics of one article, rounded as they are shown."""
    return ArticleStats(**{name: _shown(value) for name, value in _article(completions).items()})


def overall_stats(articles: Sequence[Sequence[CompletionStats]]) -> Overall:
    """Statistics of a run, from the completions of its articles, rounded as they are shown."""
    rows = [_article(completions) for completions in articles]
    columns = {name: [row[name] for row in rows] for name in ArticleStats.model_fields}
    values = {
        "baseline_mean_accuracy": _mean(columns["baseline_accuracy"]),
        "baseline_std_of_article_means": _std(columns["baseline_accuracy"]),
        "adapter_mean_accuracy": _mean(columns["adapter_mean_accuracy"]),
        "adapter_std_of_article_means": _std(columns["adapter_mean_accuracy"]),
        "mean_adapter_std_over_completions": _mean(columns["adapter_std_over_completions"]),
        "mean_adapter_std_within_completions": _mean(columns["mean_adapter_std_within_completions"]),
        "mean_gain": _mean(columns["mean_gain"]),
    }
    return Overall(**{name: _shown(value) for name, value in values.items()})


def make_completion(text: str, questions: Iterable[QuestionResult], **extra: Any) -> RunCompletion:
    """A completion with its statistics; `extra` fields (such as `error`) are written beside the official."""
    questions = tuple(questions)
    return RunCompletion(text=text, stats=completion_stats(questions), questions=questions, **extra)


def make_article(title: str, context: str, prompt: str, completions: Iterable[RunCompletion]) -> RunArticle:
    """An article with its statistics."""
    completions = tuple(completions)
    stats = article_stats([completion.stats for completion in completions])
    return RunArticle(stats=stats, title=title, context=context, completions=completions, prompt=prompt)


def make_run(articles: Iterable[RunArticle], **fields: Any) -> QueryRun:
    """A run with its statistics and its run fields."""
    articles = tuple(articles)
    overall = overall_stats([[c.stats for c in article.completions] for article in articles])
    return QueryRun(overall=overall, articles=articles, **fields)


def read_run(path: str | Path) -> QueryRun:
    """Read a result file, ours or an official one (whose `questions` may be empty).

    Raises:
        DataError: the file is missing, no JSON, or no result of a query run.
    """
    path = Path(path)
    try:
        return QueryRun.model_validate(json.loads(read_text(path)))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: {error.msg}", "give a JSON result file") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise DataError(
            f"{path} is no result of a query run: {where}: {first['msg'].lower()}",
            "give the run_<timestamp>.json that `seal query` wrote",
        ) from error


def _article(completions: Sequence[CompletionStats]) -> dict[str, float | None]:
    adapter = [stats.adapter_mean for stats in completions]
    return {
        "baseline_accuracy": _mean([stats.baseline_mean for stats in completions]),
        "adapter_mean_accuracy": _mean(adapter),
        "adapter_std_over_completions": _std(adapter),
        "mean_adapter_std_within_completions": _mean([stats.adapter_std for stats in completions]),
        "mean_gain": _mean([stats.gain_mean for stats in completions]),
    }


def _gain(question: QuestionResult) -> int | None:
    """1: learned, −1: lost, 0: no change; None without both verdicts."""
    before, after = question.baseline_correct, question.adapter_correct
    return None if before is None or after is None else int(after) - int(before)


def _accuracy(verdicts: Iterable[int | None]) -> float | None:
    known = [int(verdict) for verdict in verdicts if verdict is not None]
    return round(sum(known) / len(known), _DIGITS) if known else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None


def _std(values: Iterable[float | None]) -> float | None:
    """Sample standard deviation; 0 for a single value, so that readers need not treat one repeat apart."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return 0.0 if known else None
    return statistics.stdev(known)


def _shown(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS)
