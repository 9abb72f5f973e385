"""What every `InnerLoop` promises, whichever machine it runs on. A test class per implementation inherits it.

Models are `tiny-random-llama`, whose tokens 0 to 255 are bytes, so that jobs can be written as bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from seal.grading import Grade, Grader, LexicalGrader
from seal.protocols import FollowUp, InnerLoop
from seal.records import (
    AdaptJob,
    AdaptOutcome,
    Answer,
    EvalPrompt,
    Question,
    Sampling,
    TrainingConfig,
    TrainingSequence,
    Verdict,
)
from seal.schedule import total_steps

GREEDY = Sampling(temperature=0.0, max_new_tokens=3)
#: Enough steps for the tiny model to learn an answer by heart.
RECIPE = TrainingConfig(rank=4, alpha=8, learning_rate=0.02, epochs=12)


class LoggingGrader:
    """Counts what it grades in a file, so that a grader in another process can be counted; while a file
    `down` stands beside it, every grade is an error."""

    def __init__(self, folder: Path) -> None:
        self.log, self.down = folder / "graded", folder / "down"

    def grade(self, items: Sequence[tuple[Question, str]]) -> list[Grade]:
        with self.log.open("a") as log:
            log.write("".join(f"{question.question}\n" for question, _ in items))
        if self.down.exists():
            return [Grade(Verdict.ERROR, "the judge is out")] * len(items)
        return LexicalGrader().grade(items)

    def count(self, question: str) -> int:
        return self.log.read_text().splitlines().count(question)


def fact(name: str, answer: str = "yes") -> tuple[TrainingSequence, EvalPrompt]:
    """A row that teaches the answer to `name`, and the evaluation prompt that asks for it."""
    prompt, gold = f"Is it {name}? ".encode(), answer.encode()
    row = TrainingSequence(tuple(prompt + gold), ((len(prompt), len(prompt) + len(gold)),))
    return row, EvalPrompt(name, tuple(prompt), GREEDY, tuple(gold), Question(f"Is it {name}?", answer))


def job(name: str, seed: int = 1, recipe: TrainingConfig = RECIPE, n_rows: int = 2) -> AdaptJob:
    """Learn one fact, among filler, and be asked for it and for something else."""
    row, eval_prompt = fact(name)
    filler = [TrainingSequence(tuple(f"{i} times {name}".encode())) for i in range(n_rows - 1)]
    return AdaptJob(name, (row, *filler), recipe, (eval_prompt, fact("something else")[1]), seed)


def same_outcome(a: AdaptOutcome, b: AdaptOutcome) -> None:
    """Equal but for names, times and rounding."""
    assert a.error == b.error
    assert a.losses == pytest.approx(b.losses, abs=2e-4)
    for mine, theirs in ((a.baseline, b.baseline), (a.adapted, b.adapted)):
        assert [(x.prompt_id, x.text, x.verdict) for x in mine] == [
            (x.prompt_id, x.text, x.verdict) for x in theirs
        ]
        assert [x.log_likelihood for x in mine] == pytest.approx([x.log_likelihood for x in theirs], abs=2e-2)


def ask_on(letter: str, answers: Sequence[Answer], tokenizer: object) -> tuple[EvalPrompt, ...]:
    """Two more prompts, of what the job is about and what was answered first."""
    first = f"{letter}{answers[0].text}"
    return tuple(EvalPrompt(f"{first}{n}", tuple(f"{first} {n}".encode()), GREEDY) for n in (1, 2))


class InnerLoopContract:
    """Inherit as `TestSomething(InnerLoopContract)` and write `open_loop`."""

    #: Engines behind the loop; each keeps its own baselines.
    engines = 1
    asks_twice = True

    def open_loop(self, grader: Grader, folder: Path) -> AbstractContextManager[InnerLoop]:
        """A new loop over `tiny-random-llama` on the CPU that may save adapters in `folder`."""
        raise NotImplementedError

    @pytest.fixture
    def loop(self, tmp_path: Path) -> Iterator[InnerLoop]:
        with self.open_loop(LexicalGrader(), tmp_path) as loop:
            assert isinstance(loop, InnerLoop)
            yield loop

    def test_every_job_has_one_outcome(self, loop: InnerLoop) -> None:
        jobs = [
            job(f"n{i}", i, replace(RECIPE, rank=1 + i, epochs=1 + i), n_rows=1 + i % 3) for i in range(7)
        ]
        jobs += [
            replace(job("silent"), eval_prompts=()),
            replace(job("no rows"), sequences=()),
            job("no epochs", recipe=replace(RECIPE, epochs=0)),
            replace(job("no baseline"), baseline=False),
        ]
        outcomes = {o.job_id: o for o in loop.run(iter(jobs))}
        assert len(outcomes) == len(jobs)
        for j in jobs:
            outcome = outcomes[j.id]
            assert outcome.error is None
            assert len(outcome.losses) == (total_steps(len(j.sequences), j.training) if j.sequences else 0)
            names = [p.id for p in j.eval_prompts]
            assert [a.prompt_id for a in outcome.adapted] == names
            assert [a.prompt_id for a in outcome.baseline] == (names if j.baseline else [])
            assert outcome.timings.train_tokens == j.training.epochs * sum(len(r.ids) for r in j.sequences)
            assert outcome.timings.answer_tokens == sum(a.n_tokens for a in outcome.adapted)
            if not outcome.losses:
                assert outcome.adapted == outcome.baseline
        assert list(loop.run([])) == []

    def test_what_was_learnt_is_answered(self, loop: InnerLoop) -> None:
        (outcome,) = loop.run([job("blue")])
        before, after = outcome.baseline[0], outcome.adapted[0]
        assert (before.verdict, after.verdict) == (Verdict.WRONG, Verdict.CORRECT)
        assert after.text == "yes"
        assert (after.finish, after.n_tokens, after.reference_tokens) == ("length", 3, 3)
        assert before.log_likelihood is not None
        assert after.log_likelihood is not None
        assert before.log_likelihood < -8 < -1 < after.log_likelihood < 0
        assert outcome.losses[-1] < 0.5 < outcome.losses[0]

    def test_a_job_that_fails_stops_no_other(self, loop: InnerLoop, tmp_path: Path) -> None:
        good = [job("red", 3), job("green", 4)]
        long, eval_prompt = (5,) * 5000, job("x").eval_prompts[0]
        (tmp_path / "taken").mkdir()
        bad = {
            "row too long": replace(job("x"), sequences=(TrainingSequence(long),)),
            "nothing to learn": replace(job("x"), sequences=(TrainingSequence((5,)),)),
            "no such token": replace(job("x"), sequences=(TrainingSequence((5, 6, 999_999)),)),
            "no such layer": job("x", recipe=replace(RECIPE, targets=("nowhere",))),
            "diverges": job("x", recipe=replace(RECIPE, learning_rate=1e30)),
            "prompt too long": replace(job("x"), eval_prompts=(replace(eval_prompt, ids=long),)),
            "prompt of no such token": replace(
                job("x"), eval_prompts=(replace(eval_prompt, ids=(999_999,)),)
            ),
            "empty prompt": replace(job("x"), eval_prompts=(replace(eval_prompt, ids=()),)),
            "folder exists": replace(job("x"), save_to=str(tmp_path / "taken")),
        }
        mixed = [good[0], *(replace(j, id=name) for name, j in bad.items()), good[1]]
        outcomes = {o.job_id: o for o in loop.run(mixed)}
        assert set(outcomes) == {"red", "green", *bad}
        for name in bad:
            error = outcomes[name].error
            assert error is not None, name
            assert error.border
            assert "\n" not in error.message
            assert outcomes[name].adapted == ()
        for j in good:
            (alone,) = loop.run([j])
            same_outcome(outcomes[j.id], alone)

    def test_the_seed_fixes_the_outcome_and_the_company_does_not(self, tmp_path: Path) -> None:
        jobs = [job(f"n{i}", i, replace(RECIPE, dropout=0.1), n_rows=3) for i in range(5)]
        jobs.append(replace(job("n0", 99, replace(RECIPE, dropout=0.1), n_rows=3), id="other seed"))
        with self.open_loop(LexicalGrader(), tmp_path) as loop:
            first = {o.job_id: o for o in loop.run(jobs)}
        with self.open_loop(LexicalGrader(), tmp_path) as loop:
            second = {o.job_id: o for o in loop.run(jobs[::-1])}
        for name, outcome in first.items():
            same_outcome(outcome, second[name])
        gaps = [abs(a - b) for a, b in zip(first["n0"].losses, first["other seed"].losses, strict=True)]
        assert max(gaps) > 0.01

    def test_sampled_answers_depend_on_job_and_probe(self, loop: InnerLoop) -> None:
        warm = Sampling(temperature=1.0, max_new_tokens=12)
        eval_prompts = tuple(EvalPrompt(f"draw {i}", (70, 71, 72), warm) for i in range(3))
        base = replace(job("warm"), eval_prompts=eval_prompts)
        jobs = [base, replace(base, id="again"), replace(base, id="other", seed=2)]
        outcomes = {o.job_id: o for o in loop.run(jobs)}
        texts = {name: [a.text for a in o.adapted] for name, o in outcomes.items()}
        assert texts["warm"] == texts["again"]
        assert len(set(texts["warm"])) == len(set(texts["other"])) == 3
        assert not set(texts["warm"]) & set(texts["other"])
        baselines = [[a.text for a in o.baseline] for o in outcomes.values()]
        assert baselines[0] == baselines[1] == baselines[2]
        assert len(set(baselines[0])) == 3

    def test_a_baseline_is_answered_once(self, tmp_path: Path) -> None:
        grader = LoggingGrader(tmp_path)
        jobs = [job(f"n{i}", i) for i in range(6)]
        with self.open_loop(grader, tmp_path) as loop:
            outcomes = [o for segment in (jobs[:4], jobs[4:]) for o in loop.run(segment)]
        assert len({o.baseline[1] for o in outcomes}) == 1
        assert len(jobs) < grader.count("Is it something else?") <= len(jobs) + self.engines
        assert grader.count("Is it n0?") == 2

    def test_an_outage_is_an_error_and_is_not_remembered(self, tmp_path: Path) -> None:
        grader = LoggingGrader(tmp_path)
        with self.open_loop(grader, tmp_path) as loop:
            grader.down.touch()
            (out,) = loop.run([job("blue")])
            grader.down.unlink()
            (back,) = loop.run([job("blue")])
        assert out.error is None
        assert {(a.verdict, a.note) for a in (*out.baseline, *out.adapted)} == {
            (Verdict.ERROR, "the judge is out")
        }
        assert [a.text for a in out.adapted] == [a.text for a in back.adapted]
        assert [a.verdict for a in back.baseline] == [Verdict.WRONG, Verdict.WRONG]
        assert back.adapted[0].verdict is Verdict.CORRECT

    def test_a_question_that_cannot_be_graded_costs_no_other_job_its_verdict(self, loop: InnerLoop) -> None:
        """The job itself may be refused, or answered with that one verdict an error."""
        broken = job("blue")
        unknown = replace(broken.eval_prompts[1], question=Question("Is it unknown?", ""))
        jobs = [job("red"), replace(broken, eval_prompts=(broken.eval_prompts[0], unknown))]
        outcomes = {o.job_id: o for o in loop.run(jobs)}
        assert [a.verdict for a in outcomes["red"].baseline] == [Verdict.WRONG] * 2
        blue = outcomes["blue"]
        if blue.error is None:
            assert [a.verdict for a in blue.adapted] == [Verdict.CORRECT, Verdict.ERROR]
            assert "has no gold answer" in blue.adapted[1].note
        else:
            assert "has no gold answer" in blue.error.message

    def test_without_a_question_there_is_no_verdict(self, loop: InnerLoop) -> None:
        plain = job("blue")
        eval_prompts = tuple(replace(p, question=None, reference=()) for p in plain.eval_prompts)
        (outcome,) = loop.run([replace(plain, eval_prompts=eval_prompts)])
        for answer in (*outcome.baseline, *outcome.adapted):
            assert (answer.verdict, answer.log_likelihood, answer.reference_tokens) == (None, None, 0)

    def test_a_follow_up_is_asked_of_the_same_adapter(self, tmp_path: Path) -> None:
        """A function and data; its answers stand behind the first ones, each with its own job's."""
        if not self.asks_twice:
            pytest.skip("its adapters are asked once")
        jobs = [job(name, i) for i, name in enumerate(("red", "green", "blue"))]
        with self.open_loop(LexicalGrader(), tmp_path) as loop:
            follow_up = FollowUp(ask_on, {j.id: j.id[0].upper() for j in jobs})
            outcomes = {o.job_id: o for o in loop.run(jobs, follow_up)}
            plain = {o.job_id: o for o in loop.run(jobs)}
        for j in jobs:
            for asked, first in (
                (outcomes[j.id].baseline, plain[j.id].baseline),
                (outcomes[j.id].adapted, plain[j.id].adapted),
            ):
                assert [(a.text, a.verdict) for a in asked[:2]] == [(a.text, a.verdict) for a in first]
                start = f"{j.id[0].upper()}{asked[0].text}"
                assert [a.prompt_id for a in asked[2:]] == [f"{start}1", f"{start}2"]

    def test_an_adapter_is_saved_when_asked_for(self, loop: InnerLoop, tmp_path: Path) -> None:
        folder = tmp_path / "adapter"
        jobs = [
            replace(job("kept"), save_to=str(folder)),
            job("not kept"),
            replace(job("nothing to keep"), sequences=(), save_to=str(tmp_path / "none")),
        ]
        outcomes = {o.job_id: o for o in loop.run(jobs)}
        assert [outcomes[j.id].adapter for j in jobs] == [str(folder), "", ""]
        config = json.loads((folder / "adapter_config.json").read_text())
        assert (config["r"], config["lora_alpha"], config["peft_type"]) == (4, 8, "LORA")
        assert not (tmp_path / "none").exists()
