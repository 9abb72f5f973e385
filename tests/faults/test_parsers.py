"""Parsers of what others wrote: mutations towards new lines of code; time that grows with the bytes."""

from __future__ import annotations

import contextlib
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import pytest

from seal.arc import serialise
from seal.arc.recipe import parse_recipe
from seal.config import load_config
from seal.data.loader import load_tasks
from seal.errors import SealError
from seal.remote import RemoteModel
from seal.self_edit import sequence_texts
from seal.self_edit_check import check_edit
from seal.serve.exchange import read_reply
from seal.serve.jobs import outcome_from_wire
from seal.thoughts import without_thoughts

GROUPS = ("basic", "size", "chain", "repeat")
RECIPE = {
    "data_generation": {f"use_{group}_augmentations": True for group in GROUPS},
    "training": {"strategy": "train_using_all_tokens", "learning_rate": 1e-4, "num_train_epochs": 2},
}
ASKED = {"id": "1", "question": "Q?", "answers": [{"text": "C", "answer_start": 0}], "is_impossible": False}
SQUAD = {"data": [{"title": "T", "paragraphs": [{"context": "C.", "qas": [ASKED]}]}]}
PASSAGE = {"title": "T", "context": "C.", "questions": [{"question": "Q?", "answer": "C", "also": ["D"]}]}
SAID = {"message": {"content": "yes", "reasoning": "x"}, "finish_reason": "stop"}
CHAT = {"choices": [SAID], "usage": {"prompt_tokens": 3}}
OUTCOME = {"job_id": "a", "baseline": [], "adapted": [], "losses": [1.0], "adapter": ""}


class Parser(NamedTuple):
    """One parser, what it is given by those who mean well, and pieces that are special to it."""

    parse: Callable[[str, Path], Any]
    good: list[str]
    pieces: list[str]


def file_of(read: Callable[[Path], Any], name: str) -> Callable[[str, Path], Any]:
    def parse(text: str, folder: Path) -> Any:
        file = folder / name
        file.write_bytes(text.encode("utf-8", "surrogatepass"))
        return read(file)

    return parse


def split(text: str, _: Path) -> Any:
    thoughtless = without_thoughts(text)
    check_edit(text, "Say:", "The passage.", "T")
    return thoughtless, [sequence_texts(text, "T", "C", newlines) for newlines in (True, False)]


def reply(text: str, _: Path) -> Any:
    found = read_reply(text.encode("utf-8", "surrogatepass"), "tcp://server")
    return outcome_from_wire(found["outcome"]) if "outcome" in found else found


def judged(text: str, _: Path) -> Any:
    remote = RemoteModel("m", "http://127.0.0.1:9", timeout=1.0)
    return remote._reply(text, "p", lambda choice: (choice.get("message") or {}).get("content"))


def grids(text: str, _: Path) -> Any:
    return serialise.parse(text, "compact"), serialise.parse(text, "official")


def recipe(text: str, _: Path) -> Any:
    return parse_recipe(text)


JSON = [
    "{", "}", "[", "]", '"', ":", ",", "\\", "null", "true", "-1", "1e999", "9" * 5000, "NaN", "\\ud800",
    "\x00", '{"a":',
]  # fmt: skip
YAML = [
    "&a ", "*a", "<<: ", "!!python/object/apply:os.system ", "- ", ": ", "\n", "\t", "|", "0x1f", "1_0",
    ".inf", "? ", "{", "[",
]  # fmt: skip
TEXT = ["---", "\n", "<think>", "</think>", "Question 1:", "Answer:", " ", "a. ", "1.", "A" * 40]
CONFIGS = ["seed: 3\ninner:\n  epochs: 2\n", "model_name: a\ndata_config: {path: x, options: {a: [1, 2]}}\n"]
COMPLETIONS = ["1. A.\n2. B.\n---\nC.", "Question 1: Q?\nAnswer: A", "<think>x</think>y"]
REPLIES = [json.dumps({"id": "a", "outcome": OUTCOME}), '{"id": "a", "error": "x", "code": "busy"}']
LINES = f"{json.dumps(PASSAGE)}\n{json.dumps(PASSAGE)}"
PARSERS = {
    "config": Parser(file_of(load_config, "c.yaml"), CONFIGS, YAML),
    "config in JSON": Parser(file_of(load_config, "c.json"), ['{"seed": 3, "inner": {"epochs": 2}}'], JSON),
    "passages": Parser(file_of(load_tasks, "d.json"), [json.dumps(SQUAD), json.dumps([PASSAGE])], JSON),
    "lines": Parser(file_of(load_tasks, "d.jsonl"), [LINES], [*JSON, "\n"]),
    "table": Parser(
        file_of(load_tasks, "d.csv"), ["title,context,question,answer\nT,C,Q,A\n"], list('",\n\r\x00;\t')
    ),
    "ARC recipe": Parser(recipe, [json.dumps(RECIPE), f"Sure: {json.dumps(RECIPE)} done"], JSON),
    "ARC grid": Parser(
        grids, ["[[1 2]\n [3 4]]", "[[0]]"], ["[", "]", " ", "\n", "9", "-1", "10", "a", "[["]
    ),
    "completion": Parser(split, COMPLETIONS, TEXT),
    "reply of a TTT server": Parser(reply, REPLIES, JSON),
    "reply of a judge": Parser(judged, [json.dumps(CHAT)], JSON),
}


ODD = '\x00\t"\\\xa0\U0001f600\ud800\ufeff'


def mutated(parser: Parser, corpus: list[str], rng: random.Random) -> str:
    text = rng.choice(corpus)
    for _ in range(rng.randint(1, 4)):
        at, end = sorted((rng.randint(0, len(text)), rng.randint(0, len(text))))
        match rng.randrange(5):
            case 0:
                text = text[:at] + rng.choice(parser.pieces) * rng.choice((1, 1, 3, 60)) + text[at:]
            case 1:
                text = text[:at] + text[min(end, at + 20) :]
            case 2:
                text = text[:at] + text[at : at + 50] * 2 + text[at + 50 :]
            case 3:
                other = rng.choice(corpus)
                text = text[:at] + other[rng.randint(0, len(other)) :]
            case _:
                text = text[:at] + rng.choice(ODD) + text[at + 1 :]
    return text[:20_000]


def covered(call: Callable[[], Any], seen: set[tuple[str, int]]) -> bool:
    """Whether `call` reached lines of seal that are not in `seen`; they are added."""
    fresh = False

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal fresh
        if "/seal/" not in frame.f_code.co_filename:
            return None
        place = frame.f_code.co_filename, frame.f_lineno
        if event == "line" and place not in seen:
            fresh = True
            seen.add(place)
        return trace

    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(None)
    return fresh


@pytest.mark.parametrize("name", PARSERS)
def test_what_is_no_such_text_is_an_error_of_ours(
    name: str, tmp_path: Path, amount: Callable[[int], int], rng: random.Random, told: Callable[..., None]
) -> None:
    parser, ends, worst = PARSERS[name], Counter[str](), 0.0
    corpus, seen = list(parser.good), set[tuple[str, int]]()
    for _ in range(amount(2000)):
        text, began = mutated(parser, corpus, rng), time.process_time()

        def attempt(text: str = text) -> None:
            try:
                parser.parse(text, tmp_path)
                ends["understood"] += 1
            except SealError:
                ends["refused"] += 1

        if covered(attempt, seen):
            corpus.append(text)
        worst = max(worst, time.process_time() - began)
    told(**ends, lines_of_code=float(len(seen)), worst_s=worst)
    assert worst < 10


@pytest.mark.parametrize("name", PARSERS)
def test_time_grows_with_the_bytes(
    name: str, tmp_path: Path, amount: Callable[[int], int], rng: random.Random
) -> None:
    """Four times the text, repeated from whatever pieces, takes about four times as long."""
    parser = PARSERS[name]

    def seconds(text: str) -> float:
        began = time.process_time()
        with contextlib.suppress(SealError):
            parser.parse(text, tmp_path)
        return time.process_time() - began

    pieces = [*parser.pieces, *(a + b for a in parser.pieces for b in parser.pieces if a != b)]
    for piece in rng.sample(pieces, min(len(pieces), amount(300))):
        small, large = (piece * (n // len(piece) + 1) for n in (15_000, 60_000))
        took = seconds(large)
        if took > 0.5:
            assert took < 4 * 3 * seconds(small) + 0.5, f"{piece!r} again and again"
