"""Invented worlds: deterministic, disjoint, varied, short, and gradable without doubt."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from seal.config import load_config
from seal.data.invented import World, stated, tasks, world, world_of
from seal.data.invented.families import FAMILIES, family, pools
from seal.data.invented.names import STYLES, side
from seal.data.loader import DataLoader
from seal.errors import ConfigError
from seal.grading import LexicalGrader
from seal.lexical import is_correct, same_word
from seal.models.load import LoadedModel
from seal.setup import load_tasks, make_domain

N = 500


@pytest.fixture(scope="module")
def worlds() -> dict[str, list[World]]:
    """500 worlds of either split."""
    return {"train": [world(0, i, "train") for i in range(N)], "val": [world(0, i, "val") for i in range(N)]}


def test_equal_arguments_give_equal_worlds_and_others_do_not(worlds: dict[str, list[World]]) -> None:
    assert [world(0, i, "train") for i in range(30)] == worlds["train"][:30]
    assert len({w.passage for split in worlds.values() for w in split}) == 2 * N
    assert world(1, 0, "train").passage != world(0, 0, "train").passage


def test_a_world_stays_what_it_was() -> None:
    """Results name worlds by seed and index: a change of the grammar that moves them must be seen."""
    made = world(0, 0, "val")
    assert made.id == "invented-val-s0-f6-00000"
    assert made.passage == (
        "The Migigeep is a ship that signals with a zither in fog. It needs 49 hands on deck. The ship uses "
        "lanterns as ballast and first sailed in 1409. Its crew keep badgers for luck. Frozine built it."
    )


def test_no_name_of_training_occurs_in_a_held_out_world(worlds: dict[str, list[World]]) -> None:
    names = {split: {n for w in made for n in w.names} for split, made in worlds.items()}
    assert min(len(n) for n in names.values()) > 2 * N
    assert not names["train"] & names["val"]
    assert all(side(n) == split for split, of in names.items() for n in of)
    text = " ".join(w.passage for w in worlds["val"])
    assert not set(re.findall(r"\w+", text)) & {n for w in worlds["train"] for n in w.names}


def test_the_split_holds_for_every_seed() -> None:
    train = {n for seed in range(5) for i in range(20) for n in world(seed, i, "train").names}
    assert not train & {n for seed in range(5) for i in range(20) for n in world(seed, i, "val").names}


def test_hardly_any_two_passages_come_from_one_mould(worlds: dict[str, list[World]]) -> None:
    skeletons = [skeleton(w) for w in worlds["train"][:200]]
    assert len(set(skeletons)) == 200
    openings = [s.split(".")[0] for s in skeletons]
    assert len(set(openings)) > 150


def skeleton(made: World) -> str:
    """The passage without its names and values."""
    text = made.passage
    for word in sorted(
        {f.value for f in made.facts} | {f.subject for f in made.facts}, key=len, reverse=True
    ):
        text = re.sub(rf"\b{word}\b", "_", text)
    return text


def test_every_answer_stands_once_in_the_passage_and_not_in_its_question(
    worlds: dict[str, list[World]],
) -> None:
    for made in [*worlds["train"], *worlds["val"]]:
        values = [f.value for f in made.facts]
        assert len(values) == len(set(values)) == len(made.reward) == len(made.test) == 6
        subjects = {f.subject for f in made.facts}
        for fact, reward, test in zip(made.facts, made.reward, made.test, strict=True):
            assert reward.answer == test.answer == fact.value
            assert fact.sentence in made.passage
            assert fact.value in re.findall(r"\w+", fact.sentence)
            assert fact.value in fact.statement
            assert fact.subject in fact.statement
            assert fact.value in subjects or len(re.findall(rf"\b{fact.value}\b", made.passage)) == 1
            assert reward.question != test.question
            for question in (reward.question, test.question):
                assert not any(same_word(fact.value.lower(), w.lower()) for w in question.split())
                assert fact.subject in question
                assert "$" not in question


def test_the_grader_accepts_every_answer_and_rejects_every_wrong_one(worlds: dict[str, list[World]]) -> None:
    grader = LexicalGrader()
    for made in [*worlds["train"], *worlds["val"]]:
        for question in made.reward + made.test:
            assert len(set(question.wrong)) >= 4
            said = [question.answer, f"It is {question.answer}.", *question.wrong]
            verdicts = [v.verdict.value for v in grader.grade([(question, text) for text in said])]
            assert verdicts == ["correct", "correct"] + ["wrong"] * len(question.wrong)


def test_wrong_answers_are_of_the_right_type(worlds: dict[str, list[World]]) -> None:
    own = 0
    for made in worlds["train"]:
        for fact, question in zip(made.facts, made.reward, strict=True):
            own += any(w in made.passage for w in question.wrong)
            for wrong in question.wrong:
                if fact.kind in pools():
                    assert wrong in pools()[fact.kind]
                elif fact.kind in STYLES:
                    assert re.fullmatch("[A-Z][a-z]+", wrong)
                else:
                    assert len(wrong) == (4 if fact.kind == "year" else 2)
    assert own > N / 5


def test_passages_are_short(worlds: dict[str, list[World]], smollm: LoadedModel) -> None:
    made = worlds["train"] + worlds["val"]
    lengths = sorted(len(smollm.tokenizer(w.passage)["input_ids"]) for w in made)
    assert 40 <= lengths[0] < lengths[-1] <= 90
    assert 55 <= lengths[len(lengths) // 2] <= 70
    answers = [len(smollm.tokenizer(f" {f.value}")["input_ids"]) for w in made for f in w.facts]
    assert max(answers) <= 7
    assert {len(re.findall(r"\.(?: |$)", w.passage)) for w in made} <= {5, 6, 7}


@pytest.mark.parametrize("facts", [2, 20, 24])
def test_poorer_and_richer_worlds(facts: int) -> None:
    for index in range(20):
        made = world(3, index, "val", facts)
        assert len(made.facts) == len(made.reward) == len(made.test) == facts
        assert len({f.value for f in made.facts}) == facts
        assert stated(made.passage, made).coverage == 1


def test_the_tables_are_whole() -> None:
    """Every relation has several wordings, both kinds of questions, and a sentence that opens passages."""
    words = {w for pool in pools().values() for w in pool}
    for key in FAMILIES:
        for relation in family(key).relations:
            where = f"{key}.{relation.key}"
            assert relation.value in {*pools(), *STYLES, "year", "count"}, where
            assert min(len(relation.states), len(relation.asks), len(relation.tests)) >= 2, where
            assert any(re.fullmatch(r"\$S [^$]*\$V[^$]*", s) for s in relation.states), where
            assert all("$V" in s for s in relation.states), where
            assert all("$N" in q for q in relation.asks + relation.tests), where
            assert not set(relation.asks) & set(relation.tests), where
            for text in relation.states + relation.asks + relation.tests:
                assert not words & set(re.findall(r"\w+", text.lower())), f"{where}: {text}"
    for kind, pool in pools().items():
        for one in pool:
            assert not [w for w in pool if w != one and is_correct("", one, w)], f"{kind}: {one}"


# --- as tasks -------------------------------------------------------------------------------------------


def test_training_is_asked_reward_questions_and_held_out_tasks_test_questions() -> None:
    train, val = tasks("train", 2), tasks("val", 2)
    assert [t.target for t in train] == [world(0, i, "train").reward for i in range(2)]
    assert [t.target for t in val] == [world(0, i, "val").test for i in range(2)]
    assert tasks("val", 1, ask="reward")[0].target == world(0, 0, "val").reward
    made = world(0, 0, "val")
    assert tasks("val", 1, ask="both")[0].target == made.reward + made.test
    assert [world_of(t.id) for t in train + val] == [world(0, i, s) for s in ("train", "val") for i in (0, 1)]
    assert world_of("osk-marrow-1234") is None


def test_the_loader_gives_as_many_as_asked() -> None:
    assert len(DataLoader("invented", split="train").load_tasks()) == 24
    assert len(DataLoader("invented", split="val").load_tasks()) == 60
    loader = DataLoader("invented", split="train", max_samples=70, options={"seed": 9, "facts": 3})
    made = loader.load_tasks()
    assert (len(made), loader.report.questions) == (70, 210)
    assert made[0].id == "invented-train-s9-f3-00000"
    assert len(DataLoader("invented", max_samples=30).load_tasks()) == 30


def test_a_run_takes_its_worlds_from_the_settings() -> None:
    config = load_config(
        None,
        "test",
        {
            "data_config.dataset_name": "invented",
            "data_config.max_val_samples": 3,
            "data_config.options": {"seed": 4, "facts": 5, "append_eos": True},
        },
    )
    assert [t.id for t in load_tasks(config, "val")] == [f"invented-val-s4-f5-0000{i}" for i in range(3)]
    assert make_domain(config, None).append_eos  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "options", [{"seed": "x"}, {"facts": 1}, {"facts": 99}, {"ask": "neither"}, {"fact": 3}, {"seed": -1}]
)
def test_options_that_cannot_be_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        DataLoader("invented", split="train", options=options).load_tasks()


# --- facts in a text ------------------------------------------------------------------------------------

#: What the hand-made world is made from.
VILLAGE = world(0, 4, "train")


def hand_made() -> World:
    """A world of five facts, two of one type, one on a person whom another fact names."""
    facts = []
    for key, relation, value in [
        ("settlement", "founder", "Mirella"),
        ("settlement", "ruler", "Glaxus"),
        ("settlement", "roofs", "slate"),
        ("settlement", "households", "42"),
        ("person", "fear", "mirrors"),
    ]:
        rel = next(r for r in family(key).relations if r.key == relation)
        subject = "Torholm" if key == "settlement" else "Mirella"
        fact = replace(VILLAGE.facts[0], subject=subject, relation=relation, kind=rel.value)
        facts.append(replace(fact, value=value, cue=rel.cue))
    passage = (
        "Torholm is a village that was founded by Mirella. Glaxus governs it. It has roofs of slate. "
        "42 families live in Torholm. Mirella fears mirrors."
    )
    none = tuple(replace(VILLAGE.reward[0], wrong=()) for _ in facts)
    return replace(VILLAGE, title="Torholm", noun="village", passage=passage, facts=tuple(facts), reward=none)


@pytest.mark.parametrize(
    ("edit", "right", "wrong"),
    [
        ("", [], {}),
        ("Torholm was founded by Mirella.", ["founder"], {}),
        ("It was founded by Mirella and has slate roofs.", ["founder", "roofs"], {}),  # under the title
        ("The village is governed by Glaxus.\n- Torholm has 42 households.", ["ruler", "households"], {}),
        ("Torholm was founded by Glaxus.", [], {"founder": "Glaxus"}),
        ("Torholm was founded by Brunelka.", [], {"founder": "Brunelka"}),
        ("Torholm has 43 households.", [], {"households": "43"}),
        ("The roofs are made of copper.", [], {"roofs": "copper"}),
        ("Question 1: Who governs Torholm?\nAnswer: Glaxus", ["ruler"], {}),
        ("Question 1: Who governs Torholm? Answer: Mirella", [], {"ruler": "Mirella"}),
        ("Mirella is afraid of mirrors.", ["fear"], {}),
        ("Mirella is afraid of candles.", [], {"fear": "candles"}),
        ("Torholm was founded by Mirella, who fears mirrors.", ["founder", "fear"], {}),
        ("Mirella was kind. She feared mirrors.", ["fear"], {}),
        ("Slate is a stone. Many people like mirrors.", ["roofs"], {}),
        ("Everything is nice.\nThe people of Torholm are happy.", [], {}),
        ("Torholm was founded by Mirella and governed by Mirella.", ["founder"], {}),
    ],
)
def test_facts_are_found_in_hand_made_edits(edit: str, right: list[str], wrong: dict[str, str]) -> None:
    check = stated(edit, hand_made())
    assert [f.relation for f in check.stated] == right
    assert {w.fact.relation: w.said for w in check.wrong} == wrong
    assert check.coverage == len(right) / 5
    said = len(right) + len(wrong)
    assert check.faithfulness == (len(right) / said if said else None)


def test_every_passage_and_every_statement_states_its_facts(worlds: dict[str, list[World]]) -> None:
    for made in [*worlds["train"], *worlds["val"]]:
        whole = stated(made.passage, made)
        assert (whole.coverage, whole.wrong) == (1, ())
        assert stated("\n".join(f.statement for f in made.facts), made).coverage == 1


def test_a_wrong_value_in_a_statement_is_seen(worlds: dict[str, list[World]]) -> None:
    """Every statement with its value changed for a wrong answer: wrong in nine of ten, never stated."""
    seen = of = 0
    for made in worlds["train"][:200]:
        for fact, question in zip(made.facts, made.reward, strict=True):
            check = stated(fact.statement.replace(fact.value, question.wrong[-1]), made)
            assert fact not in check.stated
            seen += any(w.fact == fact for w in check.wrong)
            of += 1
    assert seen / of > 0.9
