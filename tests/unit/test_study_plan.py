"""Study plans: what is made of a passage, in which form; and how the policy writes them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from seal.cloze import cloze_questions
from seal.constrained import ConstrainedWriter, choices_in, draw, write
from seal.data.invented import tasks
from seal.data.loader import DataLoader
from seal.domains.base import InvalidEdit
from seal.domains.knowledge import KnowledgeIncorporation
from seal.domains.study_plan import Exercise, PlanSpace, StudyPlan, oracle_plan, parse_plan
from seal.errors import DataError
from seal.inner.loop import LocalGenerator
from seal.records import Question, Sampling, Task, TrainingConfig

PASSAGE = "The harbour of Vell is lit by forty lamps. Each lamp burns oil. It was built by Ada Menn."
TASK = Task("t", PASSAGE, (Question("Who built it?", "Ada Menn"),), "Vell")


def test_every_plan_of_the_space_is_read_back_as_it_was_written() -> None:
    plans = PlanSpace().plans()
    assert len(plans) == 5 * 2 * 3
    assert [parse_plan(plan.to_json()) for plan in plans] == plans
    assert json.loads(plans[0].to_json()) == {
        "material": "passage",
        "form": "text",
        "learning_rate": 0.0001,
    }


@pytest.mark.parametrize(
    "text",
    [
        "read it twice",
        "{}",
        '{"material": "songs", "form": "text", "learning_rate": 0.001}',
        '{"material": "gaps", "form": "text", "learning_rate": 2}',
        '{"material": "gaps", "form": "text", "learning_rate": true}',
        '{"exercises": [["only a question"]], "learning_rate": 0.001}',
    ],
)
def test_what_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(DataError):
        parse_plan(text)


def test_material_by_hand() -> None:
    def made(material: Any, form: Any = "text") -> tuple[Exercise, ...]:
        return StudyPlan(material, form, 1e-3).material_of(PASSAGE, "Vell")

    sentences = [
        "The harbour of Vell is lit by forty lamps.",
        "Each lamp burns oil.",
        "It was built by Ada Menn.",
    ]
    assert made("passage") == (Exercise("", PASSAGE),)
    assert made("sentences") == tuple(Exercise("", s) for s in sentences)
    assert made("passage", "answers") == (Exercise("Tell me about Vell.", PASSAGE),)
    orders = [e.answer for e in made("orders")]
    assert orders[0] == PASSAGE
    assert len(set(orders)) == len(orders) == 6  # of three sentences there are no more
    assert all(sorted(o.replace(".", "").split()) == sorted(PASSAGE.replace(".", "").split()) for o in orders)
    gaps = made("gaps", "answers")
    assert Exercise("Fill in the missing word: It was built by ____.", "Ada Menn") in gaps
    assert made("gaps and passage", "answers") == (*gaps, Exercise("Tell me about Vell.", PASSAGE))
    assert made("gaps")[0].question == ""


def test_no_plan_trains_on_a_gap_that_the_task_asks(tiny: Callable[..., Any]) -> None:
    """And about half of the gaps are left to train on: a plan made of gaps is never without."""
    tokenizer, domain = tiny("llama").tokenizer, KnowledgeIncorporation("study_plan", chat=False)
    asking = [
        DataLoader(source, split=split, max_samples=4, questions="cloze").load_tasks()
        for source in ("builtin", "invented")
        for split in ("train", "val")
    ]
    plans = [p.to_json() for p in PlanSpace(learning_rates=(1e-3,)).plans() if "gaps" in p.material]
    for task in (t for some in asking for t in some):
        without = replace(task, target=(Question("Who?", "Ada Menn"),))
        for plan in plans:
            learned = [tokenizer.decode(s.ids) for s in domain.training_sequences(task, plan, tokenizer)]
            every = [tokenizer.decode(s.ids) for s in domain.training_sequences(without, plan, tokenizer)]
            assert not [q for q in task.target for text in learned if q.question in text]
            assert len(every) - len(learned) == len(task.target), "nothing else is missing"
            assert sum("Fill in" in text for text in learned) >= 2


def test_a_plan_that_is_left_without_material_cannot_be_applied(tiny: Callable[..., Any]) -> None:
    tokenizer, domain = tiny("llama").tokenizer, KnowledgeIncorporation("study_plan", chat=False)
    asked = Task("t", "Vell was built by Menn.", cloze_questions("Vell was built by Menn."))
    assert [q.answer for q in asked.target] == ["Menn"]
    for task in (asked, Task("t", "Hm.", TASK.target)):  # and one that has no gaps at all
        for form in ("text", "answers"):
            with pytest.raises(InvalidEdit, match=r"'t': .* no gap .* does not ask"):
                domain.training_sequences(
                    task, f'{{"material": "gaps", "form": "{form}", "learning_rate": 1}}', tokenizer
                )
    assert domain.training_sequences(asked, StudyPlan("gaps and passage", "text", 1e-3).to_json(), tokenizer)


@pytest.mark.parametrize("chat", [False, True])
def test_answers_are_learned_as_the_test_asks_for_them(tiny: Callable[..., Any], chat: bool) -> None:
    """The prompt's tokens are those of a question; only the answer and its end count."""
    tokenizer = tiny("llama").tokenizer
    tokenizer.chat_template = "{% for m in messages %}<u>{{ m.content }}</u>{% endfor %}<a>"
    domain = KnowledgeIncorporation("study_plan", chat=chat)
    plan = oracle_plan(TASK.target, 1e-3)
    (sequence,) = domain.training_sequences(TASK, plan, tokenizer)
    (asked,) = domain.eval_prompts(TASK, tokenizer)
    learned = sequence.labelled()
    assert sequence.ids[: learned[0]] == asked.ids
    text = tokenizer.decode([sequence.ids[i] for i in learned])
    assert text == ("Ada Menn" + tokenizer.eos_token if chat else " Ada Menn\n")


def test_a_plan_chooses_the_learning_rate_and_a_text_does_not() -> None:
    domain, base = KnowledgeIncorporation("study_plan"), TrainingConfig(steps=5)
    plan = StudyPlan("gaps", "text", 3e-4).to_json()
    assert domain.training_config(plan, base) == TrainingConfig(steps=5, learning_rate=3e-4)
    assert domain.training_config("", base) == base
    with pytest.raises(InvalidEdit):
        domain.training_config("{no plan}", base)
    assert KnowledgeIncorporation().training_config(plan, base) == base  # where edits are texts, a text


def test_nothing_is_said_of_a_plan_that_cannot_be_read() -> None:
    """It is a trial with its problem, so what the check says of it must not fail."""
    domain = KnowledgeIncorporation("study_plan")
    assert domain.findings(TASK, "{no plan}") == ()


def test_the_policy_writes_plans_by_its_own_likelihoods(tiny: Callable[..., Any]) -> None:
    loaded = tiny("llama")
    domain = KnowledgeIncorporation("study_plan", chat=False)
    generator = LocalGenerator(loaded)
    writer = domain.sampler(generator, loaded.tokenizer)
    prompt = domain.prompt_for(TASK, loaded.tokenizer)
    texts = [c.text for c in writer.generate([prompt] * 8, Sampling(), range(8))]
    assert all(parse_plan(text).to_json() == text for text in texts)
    assert texts == [c.text for c in writer.generate([prompt] * 8, Sampling(), range(8))]
    (greedy,) = writer.generate([prompt], Sampling(temperature=0.0), [1])
    choices = [f" {json.dumps(m)}," for m in ("passage", "sentences", "orders", "gaps", "gaps and passage")]
    scores = generator.score([prompt + '{"material":'] * 5, choices)
    best = max(range(5), key=scores.__getitem__)
    assert greedy.text.startswith('{"material":' + choices[best])


def test_exploring_draws_a_share_of_the_plans_evenly() -> None:
    """A policy that would never choose gaps: at a share of 0.5 they are a tenth, in even draws a fifth."""

    def score(_: Any, endings: Any) -> list[float]:
        return [0.0 if "passage" in e or "text" in e or "0.001" in e else -50.0 for e in endings]

    def drawn(explore: float) -> Counter[str]:
        texts = write(["p"] * 4000, range(4000), score, PlanSpace(), explore=explore)
        return Counter(parse_plan(text).material for text in texts)

    assert drawn(0.0)["gaps"] == 0
    assert drawn(0.5)["gaps"] / 4000 == pytest.approx(0.1, abs=0.02)
    assert all(count / 4000 == pytest.approx(0.2, abs=0.02) for count in drawn(1.0).values())


def test_choices_are_found_in_what_was_written(tiny: Callable[..., Any]) -> None:
    space = PlanSpace(materials=("passage", "gaps"), learning_rates=(0.001,))
    text = draw(space, 0)
    chosen = [text[start:stop] for start, stop in choices_in(text, space)]
    plan = parse_plan(text)
    assert chosen == [f' "{plan.material}",', f' "{plan.form}",'], "there is but one rate"
    writer = ConstrainedWriter(lambda: lambda p, c: [0.0] * len(p), tiny("llama").tokenizer, space)
    for done in writer.generate(["p"] * 3, Sampling(), [1, 2, 3]):
        assert done.choices == choices_in(done.text, space) != ()


def test_references_of_an_invented_world() -> None:
    task = tasks("val", 1)[0]
    found = KnowledgeIncorporation("study_plan").reference_edits(task)
    assert list(found) == ["passage", "random", "oracle"]
    asked = {q.question for q in task.target}
    taught = parse_plan(found["oracle"]).exercises
    assert len(taught) == len(asked)
    assert not asked & {e.question for e in taught}  # other words for the same facts
    assert {e.answer for e in taught} == {q.answer for q in task.target}
    assert parse_plan(found["random"]) in PlanSpace().plans()
