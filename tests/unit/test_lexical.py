"""The grader's word rules: near misses in many languages one by one, properties, and hostile input."""

from __future__ import annotations

import json
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seal.lexical import is_correct, normalise, own_words
from seal.lexical.numbers import read_numeral
from seal.lexical.words import language

TABLE = Path(__file__).parents[1] / "data/near_misses.json"
ROWS: list[dict[str, str]] = json.loads(TABLE.read_text("utf-8"))


@pytest.mark.parametrize("row", ROWS, ids=lambda r: f"{r['language']}: {r['gold'][:20]} | {r['answer'][:20]}")
def test_near_miss(row: dict[str, str]) -> None:
    assert is_correct(row["question"], row["gold"], row["answer"]) is row["correct"]


def test_the_table_is_large_balanced_and_in_many_languages() -> None:
    counts = Counter(bool(r["correct"]) for r in ROWS)
    assert len(ROWS) >= 500
    assert len({r["language"] for r in ROWS}) >= 20
    assert 0.9 < counts[True] / counts[False] < 1.1
    assert len({(r["question"], r["gold"], r["answer"]) for r in ROWS}) == len(ROWS)


@pytest.mark.parametrize("wrap", ["{}", "{}.", " {}\n", "Answer: {}", "<think>Hm.</think>\n{}"])
def test_every_gold_answer_is_right(wrap: str) -> None:
    refused = [r for r in ROWS if not is_correct(r["question"], r["gold"], wrap.format(r["gold"]))]
    assert refused == []


@given(st.text(min_size=1).filter(str.strip), st.text(), st.text())
def test_any_text_is_graded(gold: str, question: str, answer: str) -> None:
    assert is_correct(question, gold, answer) in (True, False)
    assert is_correct(question, gold, gold)


@given(st.integers(-5000, 5000), st.integers(-5000, 5000))
def test_two_numbers_are_the_same_or_wrong(gold: int, said: int) -> None:
    assert is_correct("How much is it?", f"{gold:,}", f"It is {said}.") == (gold == said)


@given(st.integers(0, 99), st.integers(0, 99), st.sampled_from("-–:/"))
def test_order_counts_in_compounds(a: int, b: int, joiner: str) -> None:
    assert is_correct("Which is it?", f"{a}{joiner}{b}", f"{b}{joiner}{a}") == (a == b)


@given(st.decimals(1, 10**9, places=2), st.sampled_from([",", " ", "'", ""]))
def test_thousands_may_be_separated(value: Decimal, mark: str) -> None:
    text = f"{value:,.2f}".replace(",", mark)
    assert read_numeral(text, comma=False) == [value]
    assert read_numeral(text.translate(str.maketrans(",.", ".,")), comma=True) == [value]


@pytest.mark.parametrize(
    ("text", "comma", "values"),
    [
        ("1.000", False, "1000"), ("1.000", True, "1000"), ("1,000", False, "1000"), ("1.500", False, "1.5"),
        ("1.500", True, "1500"), ("1,500", True, "1.5"), ("0.125", True, "0.125"),
        ("1.234.567", False, "1234567"), ("1.234,5", False, "1234.5"), ("1,234.5", True, "1234.5"),
        ("12,34,567", False, "1234567"),
        ("8.11.2010", False, "8 11 2010"), ("1,2,3", False, "1 2 3"), ("3,5", False, "3.5"),
    ],
)  # fmt: skip
def test_separators(text: str, comma: bool, values: str) -> None:
    assert read_numeral(text, comma) == [Decimal(v) for v in values.split()]


@pytest.mark.parametrize(
    ("question", "english", "comma"),
    [
        ("What is the capital of France?", True, False), ("Was ist die Hauptstadt?", False, True),
        ("¿Cuántos años?", False, True), ("Où est-ce ?", False, True), ("Сколько?", False, True),
        ("首都是哪里？", False, False), ("", False, False), ("7?", False, False), ("Ai?", False, False),
        ("Wie is het?", False, True), ("Who was El Greco?", True, False), ("राजधानी क्या है?", False, False),
    ],
)  # fmt: skip
def test_language(question: str, english: bool, comma: bool) -> None:
    found = language(question)
    assert (found.english, found.comma) == (english, comma)


def test_only_the_answer_counts() -> None:
    assert own_words("<think>Paris?</think>Rome") == "Rome"
    assert own_words("Paris? No.</think> Rome") == "Rome"
    assert own_words("<think>Paris") == ""
    assert own_words("A: Rome\n\nQ: Paris?") == "Rome\n"
    assert own_words("A city: Rome") == "A city: Rome"


def test_number_words_become_digits() -> None:
    words = normalise("Two hundred and five, nineteen eighty-four, 3 million; minus 5 km, 1914-18, -7")
    assert words == ("205", "1984", "3000000", "minus", "5", "km", "1914", "18", "7")


HOSTILE = {
    "words": "word and other things ", "ones": "1 ", "nines": "9", "lines": "\n", "spaces": " ",
    "dashes": "-", "signs": "-1", "commas": "1,", "groups": "123 ", "han": "京", "numerals": "三",
    "tens": "十", "thai": "ก",
    "marks": "\u0301", "thoughts": "<think>", "dots": "a.", "quotes": "'s", "turns": "\nq ",
    "ranges": "1 to ", "slashes": "1/", "dollars": "$",
    "scales": "million ", "hundreds": "one hundred ", "romans": "XXX ", "units": "5 km", "per": "/km",
    "square": "square ", "hangul": "서울 ", "zero width": "\u200b", "powers": "⁸", "answers": "answer:" * 2,
}  # fmt: skip
GOLDS = (
    "the University of North Carolina",
    "5 km",
    "京",
    "24–10",
    "5 million dogs",
    "8 November 2010",
    "서울",
)


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE)
def test_hostile_answers_of_100_kb_are_graded_at_once(unit: str) -> None:
    answer = (unit * (100_000 // len(unit)))[:100_000]
    for gold in GOLDS:
        is_correct("What is it?", gold, "warm")
        start = time.process_time()
        is_correct("What is it?", gold, answer)
        assert time.process_time() - start < 0.5, "0.05 s on a quiet machine"


def test_both_ends_of_a_very_long_answer_are_read() -> None:
    filler = "and so on " * 10_000
    assert is_correct("Where is it?", "Paris", f"Paris {filler}")
    assert is_correct("Where is it?", "Paris", f"{filler} Paris")


def test_a_long_gold_answer_is_no_trouble() -> None:
    gold = " ".join(f"word{i}" for i in range(15_000))
    start = time.process_time()
    assert is_correct("What is it?", gold, gold + ".") in (True, False)
    assert time.process_time() - start < 5
