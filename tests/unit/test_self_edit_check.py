"""What is found in self-edits, most of them written by SmolLM2-135M-Instruct for these passages."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seal.data.invented import world
from seal.data.loader import DataLoader
from seal.lexical import normalise
from seal.self_edit import TEMPLATES
from seal.self_edit_check import check_edit, summary, without_loops
from seal.sentences import split_sentences

FISH = (
    "The Hirund is a fish that was first described by Tharideth. Tharideth shares a house with "
    "tame crows. Tharideth was born in 1262. The Hirund cries like a guitar. The fish became "
    "known in 1857. People scare it away with brooms."
)
HAMLET = (
    "Slidstead, a hamlet, dates from 1577 and owes its founding to Zuibivil. Zuibivil lives on "
    "radishes. It lies on the river Houzabol."
)
SHIP = (
    "The ship Jouronift is steered by Coukildind. It carries walnuts. Coukildind's teacher was "
    "Habus. The ship was launched in 1806 and carries ivory sails. Habus is afraid of needles."
)
FIRST = "The Hirund is a fish that was first described by Tharideth."

#: (passage, prompt type, completion, findings); the completions are the model's own, the clean ones too.
REAL = [
    (
        FISH,
        "implications",
        (
            "The Hirund is a fish that was first described by Tharideth. The Hirund is a fish that was "
            "first described by Tharideth. The Hirund is a fish that was first described by Tharideth. "
            "The Hirund is a fish that was first described by Tharideth."
        ),
        [
            ("loop", "The Hirund is a fish that was first described by Tharideth."),
            ("loop", "The Hirund is a fish that was first described by Tharideth."),
            ("loop", "The Hirund is a fish that was first described by Tharideth."),
        ],
    ),
    (
        HAMLET,
        "implications",
        (
            "Slidstead (Frijol) lies on the river Houzabol (España) and owes its founding to Zuibivil "
            "(Lisbon). The 19th-century inhabitants of Slidstead were inspired by the Mayflower."
        ),
        [
            ("unsupported", "Frijol"),
            ("unsupported", "España"),
            ("unsupported", "Lisbon"),
            ("unsupported", "19th"),
            ("unsupported", "Mayflower"),
        ],
    ),
    (
        FISH,
        "rewrite",
        (
            "Hirund\n"
            "The Hirund is a fish that was first described by Tharden. Tharden shares a house with tame"
            " crows. Tharden was born in 1262."
        ),
        [
            ("unsupported", "Tharden"),
        ],
    ),
    (
        FISH,
        "rewrite",
        (
            "The Hirund is a fish that was first described by Thar. The Hirund is a fish that was first"
            " described by Thar. People scare it away with brooms.\n"
            "\n"
            "Rewrite the passage in other words."
        ),
        [
            ("unsupported", "Thar"),
            ("loop", "The Hirund is a fish that was first described by Thar."),
            ("echo", "Rewrite the passage in other words."),
        ],
    ),
    (
        HAMLET,
        "questions_answers",
        (
            "Question 1: What is the name of the town in Zuibivil?\n"
            "Answer: The town in Zuibivil is Slidstead.\n"
            "\n"
            "Question 2: What is the name of the town in Zuibivil?\n"
            "Answer: The town in Zuibivil is Slidstead.\n"
            "\n"
            "Question 3: What is the name of the town in Zuibi"
        ),
        [
            (
                "loop",
                (
                    "Question 2: What is the name of the town in Zuibivil?\n"
                    "Answer: The town in Zuibivil is Slidstead."
                ),
            ),
        ],
    ),
    (
        SHIP,
        "facts",
        (
            "The ship is called Jouronift, which is a French vessel, and it is headed by Coukildind, a "
            "French teacher. The ship was launched in 1806, and Habus is afraid of needles."
        ),
        [
            ("unsupported", "French"),
        ],
    ),
    (
        SHIP,
        "questions_answers",
        (
            "Question 1: What is the main purpose of the ship Journ?\n"
            "\n"
            "The main purpose of the ship Journ is to transport ivory, which is a prized product of the"
            " Ottoman Empire, to Europe."
        ),
        [
            ("unsupported", "Journ"),
            ("unsupported", "Ottoman Empire"),
            ("unsupported", "Europe"),
        ],
    ),
    (
        SHIP,
        "facts",
        (
            "The facts in the passage are:\n"
            "1. The ship Jouronift is steered by Coukildind.\n"
            "2. It carries walnuts."
        ),
        [
            ("echo", "The facts in the passage are:"),
        ],
    ),
    (
        FISH,
        "questions_answers",
        (
            "10. What's the name of his ship?\n"
            "11. What's the name of his ship?\n"
            "12. What's the family's surname?\n"
            "1"
        ),
        [
            ("loop", "11. What's the name of his ship?"),
        ],
    ),
    (
        SHIP,
        "facts",
        (
            "The ship Jouronift is steered by Coukildind. It carries walnuts. Coukildind's teacher was "
            "Habus. The ship was launched in 1806 and carries ivory sails. Habus is afraid of needles."
        ),
        [],
    ),
    (
        SHIP,
        "rewrite",
        (
            "Jouronift\n"
            "The ship Jouronift is steered by Coukildind. It carries walnuts. Coukildind's teacher was "
            "Habus. The ship was launched in 1806 and carries ivory sails. Habus is afraid of needles."
        ),
        [],
    ),
    (
        FISH,
        "facts",
        "Tharideth was born in 1262 and shares a house with tame crows.",
        [],
    ),
    (
        FISH,
        "facts",
        "The Hirund cries like a guitar. The fish became known in 18",
        [],
    ),
]


@pytest.mark.parametrize(("passage", "kind", "completion", "expected"), REAL)
def test_completions_of_the_model(
    passage: str, kind: str, completion: str, expected: list[tuple[str, str]]
) -> None:
    for instruction in (TEMPLATES[kind].chat, TEMPLATES[kind].render(passage, "T", chat=True)):
        found = check_edit(completion, instruction, passage, "T")
        assert [(f.kind, f.text) for f in found] == expected
        assert all(completion[f.start : f.stop] == f.text for f in found)


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (("What is the answer to the question 'What is the answer to the question 'What is the answer to the "
         "question 'What is the"), [("loop", 1)]),
        ("The sea is very very very cold.", []),
        ("The sea is very very very very very cold.", [("loop", 1)]),
        ("It is old. It is red. It is old. It is red. It is old. It is red.", [("loop", 2)]),
        ("It has 6 doors.\n---\nIt has 6 doors.\n---\nIt is old.", []),
        ("Sure! Here is a list:\nIt is old.", [("echo", 1)]),
        ("It is old.<|im_end|>", [("echo", 1)]),
        ("Implications:\nIt is old.", [("echo", 1)]),
        ("Forty-five people met Dorla Wenneth.", []),
        ("Forty-six people met Dorla Wennet.", [("unsupported", 1)]),
        ("45 people met Dorla's friends, the Wenneths.", []),
        ("It reads \"Any thing goes\" on the wall.", []),
        ("", []),
        ("\n \n---\n", []),
    ],
)  # fmt: skip
def test_each_kind(completion: str, expected: list[tuple[str, int]]) -> None:
    passage = "Dorla Wenneth met 45 people and 6 dogs."
    found = check_edit(completion, TEMPLATES["implications"].chat, passage)
    assert [(k, sum(f.kind == k for f in found)) for k in dict.fromkeys(f.kind for f in found)] == expected


def test_what_is_left_without_loops_and_echoes() -> None:
    passage, kind, completion, _ = REAL[3]
    found = check_edit(completion, TEMPLATES[kind].chat, passage)
    assert without_loops(completion, found).split("\n")[0] == (
        "The Hirund is a fish that was first described by Thar.  People scare it away with brooms."
    )
    assert "Rewrite" not in without_loops(completion, found)
    assert without_loops(completion, ()) == completion
    assert summary(found) == (
        "1 echo ('Rewrite the passage in other words.'); 1 loop ('The Hirund is a fish that was "
        "first desc'); "
        "1 unsupported ('Thar')"
    )


def test_what_is_left_of_a_loop_in_place_is_its_first_round() -> None:
    text = "It is old and red and red and red and red and red and re"
    found = check_edit(text, "", "It is old.")
    assert without_loops(text, found) == "It is old and red"


def test_passages_and_their_facts_are_clean() -> None:
    """The rules find nothing in text that states the passage: what they would find is a false alarm."""
    instruction = TEMPLATES["rewrite"].chat
    for index in range(200):
        made = world(0, index, "train")
        facts = "\n".join(fact.statement for fact in made.facts)
        pairs = zip(made.reward, made.facts, strict=True)
        asked = "\n".join(
            f"Question {i}: {q.question}\nAnswer: {f.value}" for i, (q, f) in enumerate(pairs, 1)
        )
        for text in (made.passage, facts, asked):
            assert check_edit(text, instruction, made.passage, made.title) == (), text
    for task in DataLoader("builtin").load_tasks():
        assert check_edit(task.context, instruction, task.context, task.title) == (), task.context


def test_a_wrong_name_or_number_is_found() -> None:
    seen = of = 0
    for index in range(100):
        made = world(0, index, "train")
        for fact, question in zip(made.facts, made.reward, strict=True):
            wrong = question.wrong[-1]
            if fact.kind in ("person", "place", "year", "count") and wrong not in made.passage:
                text = fact.statement.replace(fact.value, wrong)
                found = check_edit(text, "", made.passage, made.title)
                seen += any(normalise(f.text) == normalise(wrong) for f in found)
                of += 1
    assert of > 150
    assert seen / of > 0.8


@given(st.text(max_size=300), st.text(max_size=60))
def test_any_text_can_be_checked(completion: str, passage: str) -> None:
    found = check_edit(completion, passage, passage)
    assert all(completion[f.start : f.stop] == f.text for f in found)
    assert len(without_loops(completion, found)) <= len(completion)


def test_a_long_completion_takes_no_time() -> None:
    completion = " ".join(f"word{i % 977}x" for i in range(20_000))
    assert check_edit(completion, "", "word")[:1] == ()


def checked(text: str) -> object:
    return check_edit(text, "Say:", "The passage.", "T")


@pytest.mark.parametrize(
    ("check", "piece", "n"), [(split_sentences, "Answer:a. ", 10_000), (checked, "1.\n", 1500)]
)
def test_a_long_text_of_short_sentences_takes_time_that_grows_with_it(
    check: Callable[[str], object], piece: str, n: int
) -> None:
    def seconds(n: int) -> float:
        began = time.process_time()
        check(piece * n)
        return time.process_time() - began

    assert seconds(4 * n) < 12 * seconds(n) + 0.5  # where it was quadratic: 16 times, and seconds to minutes


def test_sentences_end_neither_at_an_abbreviation_nor_at_a_number() -> None:
    said = "Seen by Dr. Low. On Sept. 9 it was. End. \n12. Item"
    assert split_sentences(said) == ["Seen by Dr. Low.", "On Sept. 9 it was.", "End.", "12. Item"]
