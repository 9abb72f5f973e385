"""Gaps by rule: names, numbers and last words."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import seal.setup
from seal.cloze import GAP, cloze_questions, gaps
from seal.config import load_config
from seal.data.invented import tasks, world, world_of
from seal.data.loader import DataLoader, load_tasks
from seal.errors import ConfigError, DataError
from seal.grading import LexicalGrader
from seal.records import Verdict
from seal.sentences import split_sentences


@pytest.mark.parametrize(
    ("passage", "answers"),
    [
        ("The Osk Marrow has crossed the Narrows since 1887.", ["Osk Marrow", "Narrows", "1887"]),
        ("Nobody pays a fare.", ["fare"]),
        ("It took sixty-three men and 1,200 rivets.", ["sixty-three", "1,200", "rivets"]),
        (
            "Glaxus governs Torholm. The town loves Glaxus's otters.",
            ["Glaxus", "Torholm", "Glaxus", "otters"],
        ),
        ("Dorla Wenneth built her.", ["Dorla Wenneth", "her"]),
        ("She met Dr. Wenneth of the U.S. navy!", ["Dr", "Wenneth", "U", "S", "navy"]),
        ("Hello.", []),
        ("", []),
        ("In 1902, then.", ["1902", "then"]),
        ("The first of two hundred men said: 'Who is it?'", ["two hundred", "it"]),
    ],
)
def test_gaps(passage: str, answers: list[str]) -> None:
    found = gaps(passage)
    assert [g.answer for g in found] == answers
    assert all(g.text.replace(GAP, g.answer) == g.sentence for g in found)


def test_a_gap_is_asked_in_words() -> None:
    (gap,) = gaps("Nobody pays a fare.")
    assert gap.question == "Fill in the missing word: Nobody pays a ____."


def test_most_facts_of_an_invented_world_are_gaps() -> None:
    shares = []
    for index in range(100):
        made = world(0, index, "train")
        answers = {g.answer for g in gaps(made.passage)}
        shares.append(sum(f.value in answers for f in made.facts) / len(made.facts))
    assert sum(shares) / len(shares) > 0.75


def test_questions_ask_once_every_other_gap_and_give_nothing_away() -> None:
    """Of the gaps Mirel, 1203, Bruno, 1407 and red; those of Glaxus and hat cannot be asked."""
    passage = "Glaxus met Mirel in 1203. Mirel met Bruno in 1407. A hat is no hat. It was red."
    made = cloze_questions(passage, "T")
    assert [q.answer for q in made] == ["Mirel", "Bruno", "red"]
    assert {q.title for q in made} == {"T"}
    assert {q.answer: q.wrong for q in made} == {"Mirel": ("Bruno",), "Bruno": ("Mirel",), "red": ("hat",)}
    assert made[0].question == "Fill in the missing word: Glaxus met ____ in 1203."


def test_without_others_of_its_kind_an_answer_is_ranked_against_any() -> None:
    (asked,) = cloze_questions("She met Mirel in 1203.")
    assert (asked.answer, asked.wrong) == ("Mirel", ("1203",))


def test_long_passages_are_asked_evenly() -> None:
    passage = " ".join(f"Of the year {year} nothing was ever said." for year in range(1100, 1199))
    made = cloze_questions(passage, most=5)  # 99 years, and "said" once behind the first
    assert [q.answer for q in made] == ["1100", "1119", "1139", "1159", "1179"]


def test_the_grader_tells_right_from_wrong() -> None:
    grader = LexicalGrader()
    asked = [q for t in DataLoader("builtin").load_tasks() for q in cloze_questions(t.context, t.title)]
    asked += [q for i in range(50) for q in cloze_questions(world(0, i, "val").passage)]
    assert len(asked) > 600
    right = grader.grade([(q, q.answer) for q in asked])
    wrong = grader.grade([(q, w) for q in asked for w in q.wrong])
    assert [q for q, v in zip(asked, right, strict=True) if v.verdict is not Verdict.CORRECT] == []
    assert [v for v in wrong if v.verdict is not Verdict.WRONG] == []


def test_passages_without_questions_are_asked_gaps(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# Torholm\n\nTorholm was founded by Mirel.")
    (tmp_path / "b.md").write_text("Hm.")
    with pytest.raises(DataError, match=r"no questions.*data_config.questions to fill"):
        load_tasks(tmp_path)
    with pytest.raises(DataError, match="no name, number or last word"):
        load_tasks(tmp_path, questions="fill")
    (task,) = load_tasks(tmp_path / "a.md", questions="fill")
    assert [q.answer for q in task.target] == ["Mirel"]
    with pytest.raises(ConfigError, match="own, fill, cloze or both"):
        load_tasks(tmp_path, questions="some")


def test_a_reward_without_labels_leaves_held_out_questions_alone() -> None:
    changes = {"data_config.dataset_name": "builtin", "data_config.questions": "cloze"}
    config = load_config(None, "test", changes)
    train, val = (seal.setup.load_tasks(config, split) for split in ("train", "val"))
    assert all(q.question.startswith("Fill in") for t in train for q in t.target)
    assert val == load_tasks("builtin", split="val")[: len(val)]


def test_a_task_can_ask_gaps_and_its_own_questions() -> None:
    """To compare rewards: gaps first, then what the data set asks."""
    options = {"data_config.options.ask": "both"}
    changes = {"data_config.dataset_name": "invented", "data_config.questions": "both"} | options
    config = load_config(None, "test", changes)
    train, val = (seal.setup.load_tasks(config, split) for split in ("train", "val"))
    for task in train:
        made = world_of(task.id)
        assert made
        cloze = cloze_questions(task.context, task.title)
        assert task.target == (*cloze, *made.reward, *made.test)
    assert val == tasks("val", len(val), ask="both")


@given(st.text(max_size=200))
def test_any_text_gives_gaps_that_fit(passage: str) -> None:
    for gap in gaps(passage):
        assert gap.answer
        assert gap.text.count(GAP) >= 1
        assert gap.sentence in split_sentences(passage)
    assert gaps(passage) == gaps(passage)
