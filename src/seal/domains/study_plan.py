"""The study plan: a self-edit that says how to study a passage instead of rewriting it (paper, section 3.1:
"synthetic data and optimization parameters").

A plan is JSON like an ARC recipe, so a small model can always write a valid one: what is made of the passage
(by rule, so nothing is invented), in which form it is learned, and the learning rate. How many updates an
adapter gets is not for the plan to say: `inner.steps` gives all of them the same number.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, get_args

from seal.cloze import gaps
from seal.constrained import Choice, literals, spell
from seal.errors import DataError
from seal.records import Question
from seal.seeds import derive
from seal.sentences import split_sentences

Material = Literal["passage", "sentences", "orders", "gaps", "gaps and passage"]
Form = Literal["text", "answers"]

_FIX = "write material (passage, sentences, orders, gaps, gaps and passage) and form (text, answers)"
ORDERS = 8
"""Orders of its sentences that a passage is learned in."""
TELL = "Tell me about {title}."


@dataclass(frozen=True, slots=True)
class Exercise:
    """A question and its answer, of which the answer is learned; without a question all of it is."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class StudyPlan:
    """How to study a passage."""

    material: Material
    """passage: as it is; sentences: one by one; orders: the passage with its sentences in several orders;
    gaps: sentences with a name, a number or the last word missing; gaps and passage: both."""
    form: Form
    """text: every token is learned; answers: a question is asked as in a test, and only its answer is
    learned."""
    learning_rate: float
    exercises: tuple[Exercise, ...] = ()
    """What is learned instead, where somebody wrote it out (no policy does)."""

    def to_json(self) -> str:
        """The plan as the policy writes it."""
        return spell(
            _slots((self.material,), (self.form,), (self.learning_rate,)),
            [json.dumps(v) for v in (self.material, self.form, self.learning_rate)],
        )

    def material_of(
        self, passage: str, title: str, seed: int = 0, *, kept_out: Collection[str] = ()
    ) -> tuple[Exercise, ...]:
        """What is learned, in order: gaps first, whole passages last. `seed` draws the orders.

        Args:
            kept_out: questions that measure the learning: such a gap is not learned.
        """
        if self.exercises:
            return self.exercises
        sentences = split_sentences(passage)
        named = title or "the passage"
        plain = {
            "passage": [passage],
            "gaps and passage": [passage],
            "sentences": sentences,
            "orders": _orders(sentences, seed),
        }.get(self.material, [])
        found = gaps(passage) if self.material.startswith("gaps") else ()
        asked = [Exercise(gap.question, gap.answer) for gap in found if gap.question not in kept_out]
        if self.form == "answers":
            asked += [Exercise(TELL.format(title=named), text) for text in plain]
            return tuple(asked)
        whole = [Exercise("", f"{e.question}\n{e.answer}") for e in asked]
        return (*whole, *(Exercise("", text) for text in plain))


@dataclass(frozen=True, slots=True)
class PlanSpace:
    """The plans that the policy can write."""

    materials: tuple[Material, ...] = get_args(Material)
    forms: tuple[Form, ...] = get_args(Form)
    learning_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3)

    def slots(self) -> list[Choice]:
        """The choices in the order they are written."""
        return _slots(self.materials, self.forms, self.learning_rates)

    def plans(self) -> list[StudyPlan]:
        """Every plan of the space."""
        return [StudyPlan(*parts) for parts in product(self.materials, self.forms, self.learning_rates)]


def parse_plan(text: str) -> StudyPlan:
    """The plan that a completion holds.

    Raises:
        DataError: it is no JSON object, or a field is missing or out of range.
    """
    try:
        start = text.index("{")
        found: Any = json.JSONDecoder().raw_decode(text[start:])[0]
    except ValueError:
        raise DataError(f"no study plan in {text!r:.80}", 'write {"material": …, "form": …, …}') from None
    if isinstance(found, dict) and "exercises" in found:
        return _written_out(found)
    material, form, rate = (found.get(name) for name in ("material", "form", "learning_rate"))
    if material not in get_args(Material) or form not in get_args(Form):
        raise DataError(f"a study plan with material {material!r:.40} and form {form!r:.40}", _FIX)
    return StudyPlan(material, form, _rate(rate))


def oracle_plan(questions: Sequence[Question], learning_rate: float) -> str:
    """The facts themselves: other questions on them with their answers."""
    written = [[q.question, q.answer] for q in questions]
    return json.dumps({"exercises": written, "learning_rate": learning_rate}, ensure_ascii=False)


def _written_out(found: dict[str, Any]) -> StudyPlan:
    try:
        exercises = tuple(Exercise(str(q), str(a)) for q, a in found["exercises"])
    except (TypeError, ValueError):
        raise DataError("exercises are not pairs of texts", "give [[question, answer], …]") from None
    return StudyPlan("passage", "answers", _rate(found.get("learning_rate")), exercises)


def _rate(value: Any) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (math.isfinite(value) and 0 < value <= 1):
        raise DataError(f"a study plan with learning_rate {value!r:.40}", "give a number above 0, at most 1")
    return float(value)


def _slots(materials: Any, forms: Any, rates: Any) -> list[Choice]:
    return [
        Choice('{"material":', literals(materials), ","),
        Choice(' "form":', literals(forms), ","),
        Choice(' "learning_rate":', literals(rates), "}"),
    ]


def _orders(sentences: list[str], seed: int) -> list[str]:
    """The passage as it is, and with its sentences in other orders; all different."""
    chance = random.Random(derive(seed, "orders"))
    found = dict.fromkeys([" ".join(sentences)])
    for _ in range(4 * ORDERS):
        if len(found) == ORDERS:
            break
        found[" ".join(chance.sample(sentences, len(sentences)))] = None
    return list(found)
