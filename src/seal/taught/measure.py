"""What a taught model knows: questions asked as `seal ask` asks them, graded offline, compared in pairs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from seal.grading import LexicalGrader
from seal.intervals import GAINS, interval, span
from seal.records import Question, Sampling, Verdict
from seal.taught.form import Form
from seal.taught.manifest import Score, TestQuestion
from seal.taught.route import Router

if TYPE_CHECKING:
    from seal.inner.adapter_engine import AdapterEngine

MAX_NEW_TOKENS = 32
GENERAL = "general"
"""Name of the questions that show what was lost: common knowledge, nothing of the documents."""


@dataclass(frozen=True, slots=True)
class Item:
    """One question to measure with."""

    what: str
    """The line of the table that it counts in."""
    group: str
    """What stands or falls together, for intervals: the passage, or the question itself."""
    question: str
    answer: str
    also: tuple[str, ...] = ()
    """Further answers that count."""


def general_items() -> list[Item]:
    """Forty questions of common knowledge."""
    text = (resources.files("seal.data") / "builtin" / "general.json").read_text("utf-8")
    return [Item(GENERAL, question, question, answer) for question, answer in json.loads(text)]


def items_of(batch: int, questions: Sequence[TestQuestion]) -> list[Item]:
    """A batch's questions; the user's own stand in a line of their own."""
    names = {"cloze": f"batch {batch}", "own": f"batch {batch}, your questions"}
    return [Item(names[q.kind], q.passage, q.question, q.answer, q.also) for q in questions]


def ask_items(
    engine: AdapterEngine,
    form: Form,
    items: Sequence[Item],
    router: Router,
    adapter_of: Callable[[str], str | None],
    on_done: Callable[[int, int], None] | None = None,
) -> list[bool]:
    """Whether each answer is correct. A question goes to the adapter of the passage that it is routed to.

    Args:
        adapter_of: folder of the adapter for a passage, by id ("" when none fits); None: the base.
        on_done: called with how many are answered, and of how many.
    """
    from seal.inner.adapter_engine import Prompt

    prompts = []
    for item in items:
        best = router.best(item.question)
        ids = form.prompt(engine.loaded.tokenizer, item.question, best.title if best else "")
        sampling = Sampling(temperature=0.0, max_new_tokens=MAX_NEW_TOKENS, stop=form.stop)
        prompts.append(Prompt(ids, adapter_of(best.id if best else ""), sampling))
    texts: list[str] = []
    for start in range(0, len(prompts), 64):
        texts += [c.text for c in engine.answer(prompts[start : start + 64])]
        if on_done is not None:
            on_done(len(texts), len(prompts))
    asked = [
        (Question(item.question, item.answer, also=item.also), text)
        for item, text in zip(items, texts, strict=True)
    ]
    return [grade.verdict is Verdict.CORRECT for grade in LexicalGrader().grade(asked)]


def scores_of(items: Sequence[Item], before: Sequence[bool], after: Sequence[bool]) -> tuple[Score, ...]:
    """One score a line, in the order of the items; intervals of the gain are over passages."""
    lines: dict[str, dict[str, list[tuple[bool, bool]]]] = {}
    for item, was, now in zip(items, before, after, strict=True):
        lines.setdefault(item.what, {}).setdefault(item.group, []).append((was, now))
    return tuple(_score(what, groups) for what, groups in lines.items())


def _score(what: str, groups: Mapping[str, Sequence[tuple[bool, bool]]]) -> Score:
    pairs = [pair for group in groups.values() for pair in group]
    counts = [len(group) for group in groups.values()]
    gains = [sum(now - was for was, now in group) / len(group) for group in groups.values()]
    found = interval(gains, counts, GAINS)
    return Score(
        what,
        len(pairs),
        before=sum(was for was, _ in pairs) / len(pairs),
        after=sum(now for _, now in pairs) / len(pairs),
        lost=sum(was and not now for was, now in pairs),
        low=found.low,
        high=found.high,
    )


def routed_right(router: Router, questions: Sequence[TestQuestion]) -> float | None:
    """Share of questions whose passage the router ranks first; None for none."""
    if not questions:
        return None
    best = [router.best(q.question) for q in questions]
    return sum(b is not None and b.id == q.passage for b, q in zip(best, questions, strict=True)) / len(best)


def table(scores: Sequence[Score]) -> str:
    """The scores for people: knew before, knows now, lost."""
    head = ("", "questions", "knew before", "knows now", "lost", "gain (95 % interval)")
    rows = [
        (
            s.what,
            str(s.n),
            f"{100 * s.before:.0f} %",
            f"{100 * s.after:.0f} %",
            f"{s.lost}",
            f"{s.after - s.before:+.1%} {span(s.low, s.high, sign=True)}",
        )
        for s in scores
    ]
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(r, widths, strict=True))
        )
        for r in (head, *rows)
    ]
    return "\n".join(line.rstrip() for line in lines)
