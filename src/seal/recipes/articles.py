"""The generated data set: passages with their completions, in the official file format.

A JSON list of `{"title", "context", "questions": [{"question", "answer"}], "completions": [str], "prompt"}`,
and beside it `<name>.meta` with the model, paths, sampling and counts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seal.data.files import check_text, read_json
from seal.errors import DataError
from seal.intervals import Interval
from seal.records import Question
from seal.whole_file import write_whole


@dataclass(frozen=True, slots=True)
class Article:
    """One passage, its questions, and the self-edits written for it."""

    title: str
    context: str
    questions: tuple[Question, ...]
    completions: tuple[str, ...]
    prompt: str = ""

    def to_json(self) -> dict[str, Any]:
        """The official record; a question with further accepted answers also has `also`."""
        return {
            "title": self.title,
            "context": self.context,
            "questions": [
                {"question": q.question, "answer": q.answer} | ({"also": list(q.also)} if q.also else {})
                for q in self.questions
            ],
            "completions": list(self.completions),
            "prompt": self.prompt,
        }


def read_articles(path: Path, n: int | None = None, k: int | None = None) -> list[Article]:
    """The first `n` articles of a generated data set with their first `k` completions (None: all).

    Raises:
        DataError: the file cannot be read, a record is malformed, or holds fewer than was asked for.
    """
    records = read_json(path)
    if not isinstance(records, list) or not records:
        raise DataError(f"{path} is no list of passages", "make one with: seal make-data")
    if n is not None and len(records) < n:
        raise DataError(
            f"{path} holds {len(records)} passages, {n} were asked for", "make more, or ask for less"
        )
    articles = [_article(record, f"{path}, record {i}") for i, record in enumerate(records[:n])]
    if k is None:
        return articles
    for article in articles:
        if len(article.completions) < k:
            raise DataError(
                f"{path}: {article.title!r} has {len(article.completions)} completions, {k} were asked for",
                "make more with: seal make-data",
            )
    return [Article(a.title, a.context, a.questions, a.completions[:k], a.prompt) for a in articles]


def _article(record: Any, where: str) -> Article:
    try:
        title, context = record["title"], record["context"]
        questions = tuple(_question(q, title) for q in record["questions"])
        completions, prompt = record.get("completions", []), record.get("prompt", "")
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{where}: missing or malformed {error}", "see the official format") from None
    texts = [title, context, prompt, *completions]
    texts += [text for q in questions for text in (q.question, q.answer, *q.also)]
    wrong = [text for text in texts if not isinstance(text, str)]
    if wrong:
        raise DataError(f"{where}: holds {wrong[0]!r:.40} for a text", "see the official format")
    for text in texts:
        if text not in completions:  # a model may write any character
            check_text(text, where)
    return Article(title, context, questions, tuple(completions), prompt)


def _question(record: Any, title: str) -> Question:
    also = record.get("also", [])
    if not isinstance(also, list):
        raise TypeError("also: it is a list of texts")
    return Question(record["question"], record["answer"], title, tuple(also))


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the file exists whole or not at all. Raises `DataError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise DataError(
            f"{path} cannot be written: {error.strerror}", "free disk space, or check the folder"
        ) from None


def ends(found: Interval) -> list[float] | None:
    """An interval as it stands in a result; None: unknown."""
    if found.low is None or found.high is None:
        return None
    return [round(found.low, 4), round(found.high, 4)]
