"""From passages to training texts and to the questions that measure them, by rule, without a label.

A passage is trained on as it stands and as gaps: its names, numbers and last words of sentences are asked
for, and the loss is on the answer. Every fourth gap is kept out of training and measures what was learned.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seal.cloze import gaps
from seal.data.choice import task_id, unique_ids
from seal.data.documents.library import Library
from seal.data.fields import RawQuestion
from seal.records import TrainingSequence
from seal.seeds import derive
from seal.taught.form import Form
from seal.taught.manifest import TaughtPassage, TestQuestion, TrainingText
from seal.taught.route import Router

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KEPT_OUT = 4
"""One of so many gaps of a passage measures."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one batch teaches, and what it is measured on."""

    passages: tuple[TaughtPassage, ...]
    texts: tuple[TrainingText, ...]
    questions: tuple[TestQuestion, ...]


def make_plan(
    library: Library, seed: int, known: Sequence[str] = (), own: Sequence[RawQuestion] = ()
) -> Plan:
    """The plan for a library. Passages whose id is in `known` were taught before and are left out.

    Questions of the user's in `own` count with the passage that they fit best.
    """
    passages: list[TaughtPassage] = []
    texts: list[TrainingText] = []
    questions: list[TestQuestion] = []
    ids = unique_ids([task_id(p.title, p.context) for p in library.passages])
    for name, found in zip(ids, library.passages, strict=True):
        if name in known:
            continue
        passages.append(TaughtPassage(name, found.title, found.context.strip(), found.where))
        trained, asked = _split_gaps(name, found.context, seed)
        texts += [TrainingText(name, "", found.context.strip()), *trained]
        questions += asked
        questions += [
            TestQuestion(name, q.question, q.answer, "own", q.also)
            for q in found.questions
            if q.answer is not None
        ]
    router = Router(passages)
    for q in own if passages else ():
        if q.answer is not None:
            name = router.rank(q.question)[0].passage.id
            questions.append(TestQuestion(name, q.question, q.answer, "own", q.also))
    return Plan(tuple(passages), tuple(texts), tuple(questions))


def _split_gaps(name: str, passage: str, seed: int) -> tuple[list[TrainingText], list[TestQuestion]]:
    """Gaps to train on and gaps to measure with: every fourth, from a start that the seed draws. An answer
    that stands in several sentences is on one side only."""
    found = gaps(passage)
    answers = list(dict.fromkeys(gap.answer for gap in found))
    start = derive(seed, "kept out", name) % KEPT_OUT
    kept = {answer for number, answer in enumerate(answers) if number % KEPT_OUT == start}
    if len(answers) < KEPT_OUT:
        kept = set()
    trained = [TrainingText(name, g.question, g.answer) for g in found if g.answer not in kept]
    asked = [TestQuestion(name, g.question, g.answer, "cloze") for g in found if g.answer in kept]
    return trained, asked


def sequences_of(
    texts: Sequence[TrainingText],
    titles: Mapping[str, str],
    form: Form,
    tokenizer: PreTrainedTokenizerBase,
    window: int,
) -> list[TrainingSequence]:
    """One row a text. What is longer than the model's window, in tokens, is cut to pieces of it."""
    rows: list[TrainingSequence] = []
    for text in texts:
        row = form.sequence(tokenizer, text.prompt, text.text, titles.get(text.passage, ""))
        if len(row.ids) <= window:
            rows.append(row)
        elif not text.prompt:
            rows += [TrainingSequence(row.ids[i : i + window]) for i in range(0, len(row.ids) - 1, window)]
    return [row for row in rows if row.labelled()]


def study_order(
    new: Sequence[TrainingSequence],
    updates: int,
    others: Sequence[tuple[Sequence[TrainingSequence], float]],
    seed: int,
) -> list[TrainingSequence]:
    """The rows in the order that they are trained on: `updates` of the new ones, and spread among them so
    many of each of `others` that these are the given share of the whole. Each goes round in shuffled order.
    """
    rng = random.Random(derive(seed, "study order"))
    others = [(rows, share) for rows, share in others if rows and share > 0]
    whole = updates / (1 - sum(share for _, share in others))
    order: list[tuple[float, TrainingSequence]] = []
    for rows, count in ((new, updates), *((rows, math.ceil(whole * share)) for rows, share in others)):
        order += [((n + rng.random()) / count, row) for n, row in enumerate(_rounds(rows, count, rng))]
    return [row for _, row in sorted(order, key=lambda pair: pair[0])]


def _rounds(rows: Sequence[TrainingSequence], count: int, rng: random.Random) -> list[TrainingSequence]:
    out: list[TrainingSequence] = []
    while rows and len(out) < count:
        order = list(rows)
        rng.shuffle(order)
        out += order
    return out[:count]
