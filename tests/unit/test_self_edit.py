"""Prompts, seeds and training sequences, the last against the official code's results."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seal.domains.base import BaseDomain
from seal.domains.knowledge import KnowledgeIncorporation
from seal.errors import ConfigError, DataError, GenerationError
from seal.models.load import load_model
from seal.records import Completion, Question, Sampling, Task
from seal.seeds import derive
from seal.self_edit import (
    FIXED,
    PAIRS,
    TEMPLATES,
    SelfEditGenerator,
    fixed_templates,
    resolve_template,
    sequence_texts,
)

TOKENIZER = load_model("tiny-random-llama").tokenizer
CHAT_TOKENIZER = load_model("tiny-random-qwen2").tokenizer
TASKS = [
    Task("a", "Anka is a river.", (Question("What is Anka?", "a river"),), "Anka"),
    Task("b", "Bor is a hill.", (Question("What is Bor?", "a hill"),), "Bor"),
]


class Echo:
    """A generator whose completion names its prompt and its seed."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], list[int]]] = []

    def generate(self, prompts: Sequence[str], sampling: Sampling, seeds: Sequence[int]) -> list[Completion]:
        self.calls.append((list(prompts), list(seeds)))
        return [Completion(f"{p[-9:]}|{s}", 7, "length") for p, s in zip(prompts, seeds, strict=True)]


# --- training sequences ---------------------------------------------------------------------------------


def test_all_official_completions_give_the_official_sequences(shared: Path) -> None:
    articles = json.loads((shared / "data/official/iter1_train.json").read_text())
    pinned = json.loads((shared / "data/official/sequences_iter1.json").read_text())
    assert len(pinned) == 250
    for pin in pinned:
        article = articles[pin["article"]]
        for split, key in ((False, "whole"), (True, "split")):
            made = sequence_texts(
                article["completions"][pin["completion"]], article["title"], article["context"], split
            )
            digest = hashlib.sha1(json.dumps(made, ensure_ascii=False).encode()).hexdigest()
            assert (len(made), digest) == (pin[key]["n"], pin[key]["sha1"]), (pin, key)


def test_official_questions_and_answers_split_before_every_question(shared: Path) -> None:
    run = json.loads((shared / "data/official/rank_iter0_prompt-self-qa.json").read_text())
    seen = 0
    for article in run["articles"]:
        for completion in article["completions"]:
            text = completion["text"]
            if "Answer:" not in text or "Question 2:" not in text:
                continue
            seen += 1
            made = sequence_texts(text, article["title"], article["context"], True)[:-1]
            assert all(s.startswith(f"{article['title']}\nQuestion ") for s in made)
            assert made[0].startswith(f"{article['title']}\nQuestion 1: ")
    assert seen == 24


@pytest.mark.parametrize(
    ("completion", "split", "expected"),
    [
        ("one\n\n two ", True, ["T\none", "T\ntwo", "T\nP"]),
        ("one\n\n two ", False, ["T\none\n\n two", "T\nP"]),
        ("one---two\nthree---", False, ["T\none", "T\ntwo\nthree", "T\nP"]),
        ("Here they are:\n1. one\n2. two", True, ["T\n1. one", "T\n2. two", "T\nP"]),
        ("Here they are:\n1. one", False, ["T\nHere they are:\n1. one", "T\nP"]),
        (
            "Who?\nAnswer: A\nQuestion 2: What?\nAnswer: B",
            True,
            ["T\nQuestion 1: Who?\nAnswer: A", "T\nQuestion 2: What?\nAnswer: B", "T\nP"],
        ),
        ("Question 3: Who?\nAnswer: A", True, ["T\nQuestion 3: Who?\nAnswer: A", "T\nP"]),
        ("Question 1: Who?\nNobody", True, ["T\nQuestion 1: Who?", "T\nNobody", "T\nP"]),
        ("", True, ["T\nP"]),
        (" \n---\n ", False, ["T\nP"]),
    ],
)
def test_rules_by_hand(completion: str, split: bool, expected: list[str]) -> None:
    assert sequence_texts(completion, "T", " P\n", split) == expected


def test_the_passage_and_the_title_can_be_left_out() -> None:
    assert sequence_texts("a\nb", "T", "P", True, include_passage=False) == ["T\na", "T\nb"]
    assert sequence_texts("a\nb", "", "P", True) == ["a", "b", "P"]


@given(st.text(st.sampled_from("ab1.-: \n\tQuestionAnswer"), max_size=80), st.booleans())
def test_title_first_passage_last_nothing_lost(completion: str, split: bool) -> None:
    made = sequence_texts(completion, "T", "P", split)
    assert made[-1] == "T\nP"
    assert all(s.startswith("T\n") and s == s.rstrip() and len(s) > 2 for s in made)
    kept = "".join("".join(s.removeprefix("T\n").split()) for s in made[:-1])
    given_text = "".join(completion.replace("---", "").split())
    lines = [line for line in completion.replace("---", "\n").split("\n") if line.strip()]
    if split and len(lines) > 1 and lines[1].strip().startswith("1."):
        assert given_text.endswith(kept)  # only the announcement went
    else:
        assert kept.removeprefix("Question1:") == given_text.removeprefix("Question1:")


# --- templates ------------------------------------------------------------------------------------------


def test_base_prompts_end_where_the_completion_starts() -> None:
    prompt = TEMPLATES["implications"].render("The text.", "Title")
    assert prompt.endswith("\n\nPassage:\nTitle\nThe text.\n\nImplications:\n")
    assert TEMPLATES["self-qa"].render("The text.", "Title").endswith("\n\nQuestion 1:")
    assert "Passage:\nThe text." in TEMPLATES["facts"].render("The text.")


@pytest.mark.parametrize("name", sorted(set(TEMPLATES) - {"none"}))
@pytest.mark.parametrize("chat", [False, True])
def test_every_template_holds_passage_and_title_once(name: str, chat: bool) -> None:
    prompt = TEMPLATES[name].render("braces {x} stay", "A {title}", chat=chat)
    assert prompt.count("braces {x} stay") == 1
    assert prompt.count("A {title}") == 1


def test_a_template_can_be_replaced_and_added() -> None:
    mine = {"implications": "Say {context}", "haiku": {"chat": "Haiku on {title}: {context}"}}
    assert resolve_template("implications", mine).render("it") == "Say it"
    assert resolve_template("haiku", mine).render("it", "T", chat=True) == "Haiku on T: it"
    assert resolve_template("facts", mine) is TEMPLATES["facts"]


@pytest.mark.parametrize(
    ("template", "cause"),
    [
        ("no passage", "lacks {context}"),
        ("{context} {author}", "{author}"),
        ("{context} {0}", "{0}"),
        ("{context} {", "template 'x'"),
        ("{context!r}", "formats"),
        ("{context:>9}", "formats"),
        ({"base": "{context}", "tone": "dry"}, "give a text"),
        ({"base": 3}, "3"),
        ({}, "{}"),
    ],
)
def test_a_bad_template_is_refused(template: object, cause: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_template("x", {"x": template})
    assert cause in str(caught.value)


def test_an_unknown_prompt_type_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown prompt_type 'implicatons'.*implications"):
        resolve_template("implicatons")


# --- generation -----------------------------------------------------------------------------------------


def test_one_call_seeds_by_run_task_edit_and_iteration() -> None:
    engine = Echo()
    maker = SelfEditGenerator(engine, KnowledgeIncorporation(), TOKENIZER, Sampling(), run_seed=5)
    edits = maker.generate(TASKS, 3, "v1", iteration=2)
    assert [e.task_id for e in edits] == ["a"] * 3 + ["b"] * 3
    assert [e.seed for e in edits] == [derive(5, t, k, 2) for t in "ab" for k in range(3)]
    assert len(engine.calls) == 1
    assert engine.calls[0][1] == [e.seed for e in edits]
    assert len({e.id for e in edits}) == 6
    assert all(e.completion == f"{e.prompt[-9:]}|{e.seed}" and e.policy == "v1" for e in edits)
    assert (edits[0].n_tokens, edits[0].finish) == (7, "length")
    assert edits == maker.generate(TASKS, 3, "v1", iteration=2)
    other = maker.generate(TASKS, 3, "v1", iteration=3)
    assert not {e.seed for e in edits} & {e.seed for e in other}


def test_a_task_keeps_its_edits_whatever_it_is_drawn_with() -> None:
    maker = SelfEditGenerator(Echo(), KnowledgeIncorporation(), TOKENIZER, Sampling(), run_seed=5)
    both, alone = maker.generate(TASKS, 2, "v"), maker.generate(TASKS[1:], 2, "v")
    assert both[2:] == alone


def test_chat_models_are_asked_through_their_template() -> None:
    maker = SelfEditGenerator(Echo(), KnowledgeIncorporation("facts"), CHAT_TOKENIZER, Sampling())
    prompt = maker.generate(TASKS[:1], 1, "v")[0].prompt
    assert prompt == (
        f"<|im_start|>user\n{TEMPLATES['facts'].render('Anka is a river.', 'Anka', chat=True)}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_prompt_type_none_generates_nothing() -> None:
    engine = Echo()
    for tokenizer in (TOKENIZER, CHAT_TOKENIZER):
        maker = SelfEditGenerator(engine, KnowledgeIncorporation("none"), tokenizer, Sampling())
        assert [e.completion for e in maker.generate(TASKS, 1, "v")] == ["", ""]
    assert engine.calls == []


def test_a_domain_with_only_the_three_methods_is_asked_for_its_prompt() -> None:
    class Mine(BaseDomain):
        def create_self_edit_prompt(self, context: object) -> object:
            return None if context == "bad" else f"learn {context}"

        def evaluate(self, model: object, tokenizer: object, task: object) -> float:
            return 0.0

        def compute_reward(self, performance: float, task: object) -> float:
            return performance

    maker = SelfEditGenerator(Echo(), Mine(), TOKENIZER, Sampling())
    assert maker.generate([Task("x", 42, None)], 1, "v")[0].prompt == "learn 42"
    with pytest.raises(DataError, match="task 'y': Mine gave NoneType"):
        maker.generate([Task("y", "bad", None)], 1, "v")


def test_bad_requests_are_refused() -> None:
    class Short(Echo):
        def generate(self, *args: object) -> list[Completion]:
            return []

    maker = SelfEditGenerator(Short(), KnowledgeIncorporation(), TOKENIZER, Sampling())
    with pytest.raises(GenerationError, match="2 prompts gave 0"):
        maker.generate(TASKS, 1, "v")
    with pytest.raises(ConfigError, match="0 self-edits"):
        maker.generate(TASKS, 0, "v")
    with pytest.raises(DataError, match="same id"):
        maker.generate([TASKS[0], TASKS[0]], 1, "v")


def test_fixed_prompts_ask_of_pairs_of_names_in_the_passage() -> None:
    passage = "The mill of Tasp {old} was built by Ada Quell in 1690. Ada Quell sold it to Marn of Issk."
    templates = fixed_templates(passage, seed=3)
    assert templates[: len(FIXED)] == [TEMPLATES[name] for name in FIXED]
    related = [t.render(passage, "The mill") for t in templates[len(FIXED) :]]
    assert len(related) == len(set(related)) == PAIRS
    for text in related:
        first, second = re.findall(r"how (.*) and (.*) are related", text)[0]
        assert first != second
        assert {first, second} <= {"Tasp", "Ada Quell", "Marn", "Issk"}
        assert passage in text
    assert fixed_templates(passage, seed=3) == templates
    assert fixed_templates("It rained all day.", seed=3) == templates[: len(FIXED)]


def test_a_passage_of_one_name_and_braces_is_asked_about() -> None:
    (only,) = fixed_templates("It fell on {Tasp} and on Marn.", seed=0)[len(FIXED) :]
    assert "Tasp and Marn" in only.render("It fell on {Tasp} and on Marn.")


def test_joined_texts_are_trained_on_as_each_would_be() -> None:
    """Lines of one kind, questions of another; loops go, and what is nothing but a loop."""
    domain = KnowledgeIncorporation("facts")
    task = Task(
        "t", "Vell lies on the Osk. Its bridge is green.", (Question("Where?", "on the Osk"),), "Vell"
    )
    facts = "Vell lies on the Osk.\nIts bridge is green."
    asked = " Where does Vell lie?\nAnswer: on the Osk\nQuestion 2: What is green?\nAnswer: the bridge"
    loop = "<|im_end|>"
    joined = domain.joined(task, [asked, loop, facts])
    assert sequence_texts(joined, "Vell", task.context, split_newlines=True) == [
        "Vell\nQuestion 1: Where does Vell lie?\nAnswer: on the Osk",
        "Vell\nQuestion 2: What is green?\nAnswer: the bridge",
        "Vell\nVell lies on the Osk.",
        "Vell\nIts bridge is green.",
        f"Vell\n{task.context}",
    ]
    assert domain.joined(task, []) == ""
