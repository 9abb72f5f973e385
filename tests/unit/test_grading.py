"""Graders against GPT-4.1's verdicts, their own golds, near misses, and judges that fail in every way."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopback_http import JSON, answering
from seal.errors import ConfigError, DataError, GenerationError
from seal.grading import Grader, JudgeGrader, LexicalGrader, LocalModelGrader, cohens_kappa, make_grader
from seal.lexical import is_correct, normalise
from seal.recipes.articles import Article, _article
from seal.records import Completion, Question, Sampling, Verdict
from seal.serve.messages import EvalQuestion

RIVER = Question("Which river is it?", "the Ottawa River")
KEY = "sk-very-secret-0123456789"


# --- lexical --------------------------------------------------------------------------------------------


def _verdicts(shared: Path) -> list[dict[str, object]]:
    lines = (shared / "data/official/verdicts_dev.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_agreement_with_the_published_verdicts(shared: Path) -> None:
    rows = _verdicts(shared)
    assert len(rows) == 1928
    items = [(Question(str(r["question"]), str(r["gold"])), str(r["answer"])) for r in rows]
    ours = [g.verdict is Verdict.CORRECT for g in LexicalGrader().grade(items)]
    theirs = [bool(r["correct"]) for r in rows]
    assert cohens_kappa(ours, theirs) >= 0.762
    assert cohens_kappa(ours[1::2], theirs[1::2]) >= 0.76, "the half that the weights were not chosen on"


def test_every_published_gold_answer_is_correct(shared: Path) -> None:
    rows = _verdicts(shared)
    assert [
        r["gold"] for r in rows if not is_correct(str(r["question"]), str(r["gold"]), str(r["gold"]))
    ] == []


@given(st.text(min_size=1).filter(str.strip), st.text())
def test_a_gold_answer_is_always_correct_and_silence_never(gold: str, question: str) -> None:
    assert is_correct(question, gold, gold)
    assert not is_correct(question, gold, "")
    assert not is_correct(question, gold, " \n")


@given(st.integers(0, 3000), st.integers(0, 3000))
def test_another_number_is_wrong(gold: int, said: int) -> None:
    assert is_correct("How many are there?", str(gold), f"There are {said} of them.") == (gold == said)


@given(
    st.from_regex(r"[bcdfglmnprtv][aeiou][bcdfglmnprtv][aeiou][bcdfglmnprtv]{2}[aeiou]", fullmatch=True),
    st.data(),
)
def test_an_invented_name_with_one_letter_changed_is_wrong(name: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, 3))
    other = data.draw(st.sampled_from("bdklmoaszw").filter(lambda c: c != name[at]))
    near = name[:at] + other + name[at + 1 :]
    assert is_correct("What is it called?", name.title(), f"It is called {name.title()}.")
    assert not is_correct("What is it called?", name.title(), f"It is called {near.title()}.")


@pytest.mark.parametrize(
    ("question", "gold", "answer", "correct"),
    [
        ("Which river?", "the Ottawa River", "It was the ottawa river.", True),
        ("Which river?", "the Ottawa River", "the Ohio River", False),
        ("Who led them?", "Mara Veldt", "Veldt", True),
        ("Who led them?", "Mara Veldt", "Mara", False),
        ("Who led them?", "Mara Veldt", "Mara Voss", False),
        ("What was left?", "an antigen from a pathogen", "Antigen", True),
        ("What was left?", "an antigen from a pathogen", "an antibody", False),
        ("How many live there?", "45 million people", "About forty-five million.", True),
        ("How many live there?", "45 million people", "45,000,000", True),
        ("How many live there?", "45 million people", "54 million people", False),
        ("How much?", "$170 billion", "$170.4 billion", True),
        ("How much?", "$170 billion", "$172 billion", False),
        ("How many?", "120", "118", False),
        ("How long is it?", "2.5 km", "2.5 kilometres", True),
        ("When was it?", "8 November 2010", "in 2010", True),
        ("When was it?", "8 November 2010", "9 November 2010", False),
        ("When was it?", "8 November 2010", "November 2011", False),
        ("On what day was it?", "8 November 2010", "2010", False),
        ("When was it?", "the 1970s", "It began in 1977.", True),
        ("When was it?", "the 1970s", "It began in 1987.", False),
        ("Which Doctor?", "the Eleventh Doctor", "The 11th Doctor", True),
        ("Which Doctor?", "the twenty-first", "the 22nd", False),
        ("What are the colours?", "red and blue", "blue and red", True),
        ("Does it fly?", "yes", "Yes, it does.", True),
        ("Does it fly?", "yes", "No.", False),
        ("Does it fly?", "no", "No, never.", True),
        ("What caused it?", "bad air", "It was not caused by bad air.", False),
        ("When was it?", "1720", "1720 or 1850", False),
        ("What market is it?", "a frontier or an emerging market", "emerging", True),
        ("What religion?", "Catholic", "Catholicism", True),
        ("What does he like?", "naïve café music", "naive cafe music", True),
        ("Who was it?", "Otrar", "Answer: Otrar\n\nQuestion: Who is not Otrar?", True),
        ("Who was it?", "Otrar", "Karakorum\n\nQuestion: Who is Otrar?", False),
        ("What class is it?", "#P", "It is #P.", True),
        ("What class is it?", "#P", "It is P.", False),
    ],
)
def test_rules(question: str, gold: str, answer: str, correct: bool) -> None:
    assert is_correct(question, gold, answer) is correct


def test_number_words_become_digits() -> None:
    assert normalise("Twenty-one, two hundred and 3 thousand; the Twenty-First, 3rd 1,250") == (
        "21", "200", "and", "3000", "the", "21th", "3th", "1250",
    )  # fmt: skip


LAMPS = Question("What do the lamps burn?", "oil", also=("osk nut oil", "the juice of pears"))


@pytest.mark.parametrize(("answer", "correct"), [("oil", True), ("juice of pears", True), ("wax", False)])
def test_any_accepted_answer_counts(answer: str, correct: bool) -> None:
    assert (LexicalGrader().grade([(LAMPS, answer)])[0].verdict is Verdict.CORRECT) == correct


def test_a_judge_is_told_every_accepted_answer() -> None:
    engine = Fixed("yes")
    LocalModelGrader(engine).grade([(LAMPS, "wax")])
    listed = "Reference answer: any one of these:\n- oil\n- osk nut oil\n- the juice of pears\n"
    assert listed in engine.prompts[0]
    LocalModelGrader(engine).grade([(RIVER, "Ottawa")])
    assert "Reference answer: the Ottawa River\n" in engine.prompts[0]


def test_further_accepted_answers_survive_files_and_the_wire() -> None:
    article = Article("Vell", "Lamps.", (LAMPS, RIVER), ("text",))
    record = article.to_json()
    assert "also" not in record["questions"][1], "the official format, where there is nothing to add"
    assert _article(record, "here").questions[0].also == LAMPS.also
    record["questions"][0]["also"] = "oil"
    with pytest.raises(DataError, match="also"):
        _article(record, "here")
    plain = EvalQuestion(question="Who?", answer="Ada")
    assert "also" not in plain.model_dump(mode="json"), "what was sent before, and so the same seeds"
    many = EvalQuestion(question="Who?", answer="Ada", also=["Ada Menn"])
    assert EvalQuestion.model_validate_json(many.model_dump_json()).also == ["Ada Menn"]


def test_a_question_without_a_gold_answer_is_refused() -> None:
    with pytest.raises(DataError, match="no gold answer"):
        LexicalGrader().grade([(Question("What?", " "), "x")])


def test_kappa_by_hand() -> None:
    assert cohens_kappa([True, True, False, False], [True, False, False, False]) == pytest.approx(0.5)
    assert cohens_kappa([True, False], [False, True]) == -1.0
    assert cohens_kappa([True, True], [True, True]) == 1.0
    with pytest.raises(DataError):
        cohens_kappa([True], [])


# --- judge ----------------------------------------------------------------------------------------------


class Judge:
    """A loopback server: `replies` are given one after another, the last one for ever.

    A reply is a text, an HTTP status, or "hang" (no answer before the client gives up).
    """

    def __init__(self, replies: Sequence[str | int]) -> None:
        self.replies, self.requests, self.busy, self.most_busy = list(replies), [], 0, 0
        self.keys: list[str] = []
        self.lock = threading.Lock()

    def next(self) -> str | int:
        with self.lock:
            return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


@contextmanager
def serving(*replies: str | int) -> Iterator[tuple[Judge, str]]:
    judge = Judge(replies)

    def answer(path: str, headers: Any, body: Any) -> tuple[int, str, str]:
        with judge.lock:
            judge.requests.append(body)
            judge.keys.append(headers["Authorization"])
            judge.busy += 1
            judge.most_busy = max(judge.most_busy, judge.busy)
        reply = judge.next()
        time.sleep(1.0 if reply == "hang" else 0.02)
        with judge.lock:
            judge.busy -= 1
        if isinstance(reply, int):
            return reply, JSON, json.dumps({"error": {"message": f"refused for key {KEY}"}})
        message = {"role": "assistant", "content": reply}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        told = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        return 200, JSON, json.dumps(told)

    with answering(answer) as address:
        yield judge, f"{address}/v1"


def _judge(url: str, **options: object) -> JudgeGrader:
    return JudgeGrader(url, "m", **({"backoff": 0.0, "timeout": 5.0, "attempts": 3} | options))  # type: ignore[arg-type]


def test_judge_says_yes_and_no() -> None:
    with serving("Yes.", " no", "<think>hm, yes?</think>\nNo.", "**yes**") as (judge, url):
        grades = _judge(url, concurrency=1).grade([(RIVER, "Ottawa {gold}")] * 4)
        assert [g.verdict for g in grades] == [Verdict.CORRECT, Verdict.WRONG, Verdict.WRONG, Verdict.CORRECT]
        prompt = judge.requests[0]["messages"][0]["content"]
        assert "the Ottawa River" in prompt
        assert "<<<Ottawa {gold}>>>" in prompt
        assert judge.requests[0]["temperature"] == 0.0


def test_an_empty_answer_is_wrong_without_asking() -> None:
    with serving("yes") as (judge, url):
        assert _judge(url).grade([(RIVER, " ")])[0].verdict is Verdict.WRONG
        assert judge.requests == []


@pytest.mark.parametrize("trouble", [500, 503, 429, 408, "well, it depends", ""])
def test_trouble_is_retried(trouble: str | int) -> None:
    with serving(trouble, trouble, "yes") as (judge, url):
        assert _judge(url).grade([(RIVER, "Ottawa")])[0].verdict is Verdict.CORRECT
        assert len(judge.requests) == 3


@pytest.mark.parametrize(
    ("reply", "note", "tries"),
    [
        (500, "status 500", 3),
        (429, "status 429", 3),
        (400, "status 400", 1),
        (401, "status 401", 1),
        ("maybe", "neither yes nor no: 'maybe'", 3),
        ("yesterday", "neither yes nor no", 3),
        ("No, I could not evaluate this: upstream timed out", "neither yes nor no", 3),
        ("Yes. Error: the model is overloaded", "neither yes nor no", 3),
        ("no\nyes", "neither yes nor no", 3),
        (307, "status 307", 1),
    ],
)
def test_lasting_trouble_is_an_error_and_never_wrong(reply: str | int, note: str, tries: int) -> None:
    with serving(reply) as (judge, url):
        grade = _judge(url).grade([(RIVER, "Ottawa")])[0]
        assert grade.verdict is Verdict.ERROR
        assert note in grade.note
        assert len(judge.requests) == tries


def test_a_hanging_judge_is_an_error() -> None:
    with serving("hang") as (_, url):
        grade = _judge(url, timeout=0.2, attempts=2).grade([(RIVER, "Ottawa")])[0]
    assert grade.verdict is Verdict.ERROR
    assert "Timeout" in grade.note


def test_a_judge_that_is_gone_is_asked_no_more() -> None:
    with serving("yes") as (_, url):
        pass
    grades = _judge(url, concurrency=1).grade([(RIVER, "Ottawa")] * 3)
    assert {g.verdict for g in grades} == {Verdict.ERROR}
    assert "APIConnectionError" in grades[0].note
    assert "not asked" in grades[2].note


def test_requests_in_flight_are_bounded_and_answers_keep_their_order() -> None:
    with serving("yes") as (judge, url):
        items = [(RIVER, f"answer {i}" if i % 3 else "") for i in range(30)]
        grades = _judge(url, concurrency=4).grade(items)
        assert 1 < judge.most_busy <= 4
        assert [g.verdict is Verdict.CORRECT for g in grades] == [i % 3 != 0 for i in range(30)]


def test_the_key_is_sent_and_never_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_JUDGE_KEY", KEY)
    caplog.set_level("DEBUG")
    with serving(401) as (judge, url):
        grader = _judge(url, api_key_env="MY_JUDGE_KEY")
        grades = grader.grade([(RIVER, "Ottawa")])
    assert judge.keys == [f"Bearer {KEY}"]
    assert grades[0].verdict is Verdict.ERROR
    told = repr(grades) + repr(grader) + repr(vars(grader)) + caplog.text + "".join(capsys.readouterr())
    assert KEY not in told
    with pytest.raises(ConfigError) as caught:
        JudgeGrader(f"ftp://user:{KEY}@host/v1")
    assert KEY not in str(caught.value)


def test_bad_judge_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    for options, cause in (
        ({"api_key_env": "NO_SUCH_KEY"}, "NO_SUCH_KEY is not set"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"timeout": 0}, "timeout is 0"),
        ({"timeout": float("nan")}, "timeout is nan"),
        ({"prompt": "{question} {answer}"}, "lacks {gold}"),
        ({"model": ""}, "no model name"),
        ({"base_url": "localhost:8000"}, "http"),
    ):
        with pytest.raises(ConfigError) as caught:
            JudgeGrader(**options)  # type: ignore[arg-type]
        assert cause in str(caught.value)


# --- local and factory ----------------------------------------------------------------------------------


class Fixed:
    """A generator with a fixed reply, or one that cannot write."""

    def __init__(self, reply: str | None) -> None:
        self.reply, self.prompts = reply, [""]

    def generate(self, prompts: Sequence[str], sampling: Sampling, seeds: Sequence[int]) -> list[Completion]:
        self.prompts = list(prompts)
        if self.reply is None:
            raise GenerationError("out of memory")
        assert sampling.temperature == 0
        return [Completion(self.reply, 1, "stop") for _ in prompts]


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [("yes", Verdict.CORRECT), ("No", Verdict.WRONG), ("42", Verdict.ERROR), (None, Verdict.ERROR)],
)
def test_local_judge(reply: str | None, verdict: Verdict) -> None:
    engine = Fixed(reply)
    grades = make_grader("local", generator=engine, wrap=lambda t: f"<{t}>").grade(
        [(RIVER, ""), (RIVER, "Ottawa")]
    )
    assert [g.verdict for g in grades] == [Verdict.WRONG, verdict]
    assert len(engine.prompts) == 1
    assert engine.prompts[0].startswith("<You check")


def test_factory() -> None:
    assert isinstance(make_grader(), LexicalGrader)
    assert isinstance(make_grader("seal.grading:LexicalGrader"), Grader)
    assert isinstance(LocalModelGrader(Fixed("yes")), Grader)
    with pytest.raises(ConfigError, match="unknown grader 'lexcal'"):
        make_grader("lexcal")
    with pytest.raises(ConfigError, match="colour"):
        make_grader("lexical", colour=1)
    with pytest.raises(ConfigError, match="not a grader"):
        make_grader("seal.records:Sampling")
