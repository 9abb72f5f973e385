"""Gaps by rule: names, numbers and last words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seal.cloze import GAP, gaps
from seal.data.invented import world
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


@given(st.text(max_size=200))
def test_any_text_gives_gaps_that_fit(passage: str) -> None:
    for gap in gaps(passage):
        assert gap.answer
        assert gap.text.count(GAP) >= 1
        assert gap.sentence in split_sentences(passage)
    assert gaps(passage) == gaps(passage)
