"""Preparation of tasks for a domain: cleaning, length, number of questions, train and val, statistics."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Literal

from seal.data.choice import split_tasks, unique_ids
from seal.errors import ConfigError, DataError
from seal.records import Question, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad"))
_CUTS = (r"\n\s*\n", r"(?<=[.!?])\s+", r"\s+")
"""Where a long text may be cut, best first: between paragraphs, sentences, words."""


@dataclass(frozen=True, slots=True)
class DataStatistics:
    """What a set of tasks holds. `questions_*` count gold questions a task, `words` those of a context."""

    tasks: int
    questions: int
    questions_mean: float
    questions_min: int
    questions_max: int
    words_mean: float


@dataclass(frozen=True, slots=True)
class Prepared:
    """Prepared tasks, and what was done to get them."""

    tasks: tuple[Task, ...]
    too_long: tuple[str, ...] = ()
    """Ids of tasks left out because their context is too long."""
    pieces: int = 0
    """Pieces that long contexts were split into."""
    questions_cut: int = 0
    """Questions beyond `max_questions`."""


class DataPreprocessor:
    """Prepares tasks; those whose context is no text (grids, objects) pass through untouched.

    Args:
        domain: `knowledge_incorporation` (or another domain of texts) prepares; `few_shot_learning` does not.
        normalise: fold Unicode to NFC, drop invisible characters, straighten blanks and line ends.
        max_context_tokens: longest context; None for any. Counted by `tokenizer`, or in words without one.
        too_long: what happens to longer ones: an "error", "drop" the task, or "split" it into pieces that
            fit (only tasks without questions can be split: a question belongs to the whole passage).
        max_questions: at most so many questions a task, the first ones; None for all.
    """

    def __init__(
        self,
        domain: str = "knowledge_incorporation",
        *,
        normalise: bool = True,
        max_context_tokens: int | None = None,
        too_long: Literal["error", "drop", "split"] = "error",
        max_questions: int | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        for name, value in (("max_context_tokens", max_context_tokens), ("max_questions", max_questions)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}", "give at least 1, or nothing for no limit")
        if too_long not in ("error", "drop", "split"):
            raise ConfigError(f"too_long is {too_long!r}", "choose error, drop or split")
        self.domain, self.normalise, self.too_long = domain, normalise, too_long
        self.max_context_tokens, self.max_questions, self.tokenizer = (
            max_context_tokens,
            max_questions,
            tokenizer,
        )

    def process(self, tasks: Sequence[Task]) -> Prepared:
        """Clean, check and cut `tasks`; their ids stay (pieces get a number behind theirs).

        Raises:
            DataError: a context is too long and that is an error, or none of the tasks is left.
        """
        out: list[Task] = []
        dropped: list[str] = []
        pieces = cut = 0
        for task in tasks:
            if self.domain == "few_shot_learning" or not isinstance(task.context, str):
                out.append(task)
                continue
            clean = self._cleaned(task)
            cut += len(task.target) - len(clean.target) if isinstance(clean.target, tuple) else 0
            length = self._length(clean.context)
            if self.max_context_tokens is None or length <= self.max_context_tokens:
                out.append(clean)
            elif self.too_long == "drop":
                dropped.append(task.id)
            elif self.too_long == "split" and not clean.target:
                parts = self._pieces(clean.context)
                pieces += len(parts)
                out += [replace(clean, id=f"{task.id}-p{i}", context=p) for i, p in enumerate(parts, 1)]
            else:
                raise DataError(
                    f"task {task.id!r}: the passage has {length} tokens, more than {self.max_context_tokens}",
                    "shorten it, raise the limit, or set too_long to drop",
                )
        if not out:
            raise DataError(f"none of {len(tasks)} tasks is left", "raise max_context_tokens")
        ids = unique_ids([task.id for task in out])
        kept = tuple(replace(task, id=name) for task, name in zip(out, ids, strict=True))
        return Prepared(kept, tuple(dropped), pieces, cut)

    def split(
        self, tasks: Sequence[Task], val_share: float = 0.2, seed: int = 0
    ) -> tuple[list[Task], list[Task]]:
        """Train and val parts, by `seal.data.choice.split_tasks`."""
        return split_tasks(tasks, val_share, seed)

    def statistics(self, tasks: Sequence[Task]) -> DataStatistics:
        """Counts over `tasks`. Raises `DataError` when there are none."""
        if not tasks:
            raise DataError("there are no tasks to count", "load at least one")
        questions = [len(t.target) if isinstance(t.target, tuple | list) else 0 for t in tasks]
        words = [len(t.context.split()) for t in tasks if isinstance(t.context, str)]
        return DataStatistics(
            tasks=len(tasks),
            questions=sum(questions),
            questions_mean=fmean(questions),
            questions_min=min(questions),
            questions_max=max(questions),
            words_mean=fmean(words) if words else 0.0,
        )

    def _cleaned(self, task: Task) -> Task:
        target = task.target
        if isinstance(target, tuple) and all(isinstance(q, Question) for q in target):
            target = target[: self.max_questions]
            if self.normalise:
                target = tuple(
                    replace(
                        q,
                        question=clean_text(q.question),
                        answer=clean_text(q.answer),
                        title=clean_text(q.title),
                        also=tuple(clean_text(a) for a in q.also),
                    )
                    for q in target
                )
        if not self.normalise:
            return replace(task, target=target)
        return replace(task, context=clean_text(task.context), title=clean_text(task.title), target=target)

    def _length(self, text: str) -> int:
        if self.tokenizer is None:
            return len(text.split())
        return len(self.tokenizer(text, verbose=False)["input_ids"])

    def _pieces(self, text: str) -> list[str]:
        """`text` in pieces of at most `max_context_tokens`, cut at paragraphs, sentences or words."""
        limit = self.max_context_tokens or 0
        pieces: list[str] = []
        for unit in self._units(text, _CUTS):
            if pieces and self._length((pieces[-1] + unit).strip()) <= limit:
                pieces[-1] += unit
            elif self._length(unit.strip()) <= limit:
                pieces.append(unit)
            else:
                raise DataError(
                    f"the word {unit[:40]!r} alone has more than {limit} tokens", "raise the limit"
                )
        return [piece.strip() for piece in pieces]

    def _units(self, text: str, cuts: tuple[str, ...]) -> list[str]:
        """The largest parts of `text` that fit, each with the blank behind it."""
        if self._length(text.strip()) <= (self.max_context_tokens or 0) or not cuts:
            return [text]
        parts = re.split(f"({cuts[0]})", text)
        joined = ["".join(parts[i : i + 2]) for i in range(0, len(parts), 2)]
        return [unit for part in joined if part.strip() for unit in self._units(part, cuts[1:])]


def clean_text(text: str) -> str:
    """`text` in NFC, without control and invisible characters, blanks and line ends straightened."""
    text = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n").translate(_INVISIBLE)
    text = "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")
    text = re.sub(r"[^\S\n]+", " ", text)
    return re.sub(r" ?\n ?", "\n", re.sub(r"\n(?: ?\n)+", "\n\n", text)).strip()
