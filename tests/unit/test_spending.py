"""What servers cost is counted over all tries of a run, and a budget ends it where it can go on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from loopback_http import JSON, answering
from seal.cli import main
from seal.errors import GenerationError, RunError
from seal.grading import JudgeGrader
from seal.models.openai_generator import OpenAIGenerator
from seal.records import Question, Sampling, Verdict
from seal.spending import Price, Purse, Spent

SAMPLING = Sampling(temperature=1.0, max_new_tokens=8)


@dataclass
class Server:
    """Answers every chat with yes, 10 tokens read and 5 written; without `usage` where `counts` is off."""

    url: str = ""
    requests: int = 0
    counts: bool = True

    def answer(self, path: str, _: object, asked: dict[str, Any]) -> tuple[int, str, str]:
        self.requests += 1
        message = {"role": "assistant", "content": "yes" if asked["model"] == "j" else "yes, it is"}
        told: dict[str, Any] = {"choices": [{"index": 0, "finish_reason": "stop", "message": message}]}
        if self.counts:
            told["usage"] = {"prompt_tokens": 10, "completion_tokens": 5}
        return 200, JSON, json.dumps(told)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    with answering(made.answer) as address:
        made.url = f"{address}/v1"
        yield made


def test_generators_and_judges_pay_from_one_purse(server: Server, tmp_path: Path) -> None:
    purse = Purse()
    purse.keep_in(tmp_path / "spending.json")
    writer = OpenAIGenerator("m", server.url, purse=purse, price=Price(2.0, 8.0))
    writer.generate(["a", "b", "c"], SAMPLING, [1, 2, 3])
    judge = JudgeGrader(server.url, "j", purse=purse, price=Price(1.0, 1.0))
    judge.grade([(Question("Who?", "Ada"), "Ada")] * 2)
    where = server.url.removeprefix("http://").removesuffix("/v1")
    assert purse.spent[f"m at {where}"] == Spent(3, 30, 15, pytest.approx(3 * (20 + 40) / 1e6))
    assert purse.spent[f"judge j at {where}"] == Spent(2, 20, 10, pytest.approx(2 * 15 / 1e6))
    purse.close()
    again = Purse()
    again.keep_in(tmp_path / "spending.json")
    assert again.spent == purse.spent


def test_a_budget_ends_what_is_asked_and_requests_under_way_are_all_that_goes_over(server: Server) -> None:
    purse = Purse(max_tokens=100)
    writer = OpenAIGenerator("m", server.url, purse=purse, concurrency=2)
    with pytest.raises(
        GenerationError, match=r"the budget of 100 tokens is spent: .* \(raise it: seal resume"
    ):
        writer.generate(["a"] * 50, SAMPLING, list(range(50)))
    assert 7 <= server.requests <= 8
    (grade,) = JudgeGrader(server.url, "j", purse=purse).grade([(Question("Who?", "Ada"), "Ada")])
    assert grade.verdict is Verdict.ERROR, "an empty purse is no wrong answer"
    assert "budget of 100 tokens" in grade.note


def test_what_a_server_does_not_count_is_estimated(server: Server) -> None:
    server.counts = False
    purse = Purse(max_cost=1.0)
    OpenAIGenerator("m", server.url, purse=purse).generate(["x" * 300], SAMPLING, [1])
    assert purse.total().read == 100
    assert purse.total().written > 3


def test_threads_lose_no_payment(tmp_path: Path) -> None:
    purse = Purse(max_cost=1e9)
    purse.keep_in(tmp_path / "s.json")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: purse.pay("m", Price(1e6, 0), 1, 2), range(2000)))
    purse.close()
    assert purse.total() == Spent(2000, 2000, 4000, 2000.0)
    assert json.loads((tmp_path / "s.json").read_text())["m"]["requests"] == 2000


def test_a_damaged_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"m": {"nonsense": 1}}')
    with pytest.raises(RunError, match=r"s\.json is damaged"):
        Purse().keep_in(tmp_path / "s.json")


def test_a_run_stops_at_its_budget_and_goes_on_with_a_higher_one(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("Vell", "Osk", "Averton", "Bexholm")
    passages = [
        {"title": n, "context": f"{n} has forty lamps.",
         "questions": [{"question": "How many?", "answer": "forty"}], "split": split}
        for n, split in zip(names, ("train", "train", "val", "val"), strict=True)
    ]  # fmt: skip
    (tmp_path / "p.json").write_text(json.dumps(passages))
    settings = {
        "data_config.dataset_name": "json",
        "data_config.path": str(tmp_path / "p.json"),
        "generation.base_url": server.url,
        "generation.model": "m",
        "generation.api": "chat",
        "generation.price": "[1000, 1000]",
        "inner.epochs": "1",
        "evaluation.max_new_tokens": "2",
        "budget.cost": "0.02",
    }
    sets = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    run = tmp_path / "run"
    code = main(["train", "--preset", "test", *sets, "--output-dir", str(run), "--max-iterations", "1"])
    assert code == 2
    told = capsys.readouterr().err
    assert "the budget of 0.02 is spent: " in told
    assert "--max-cost N" in told
    kept = (run / "journal.jsonl").read_text()
    assert main(["resume", str(run), "--max-cost", "1000"]) == 0
    rows = (run / "journal.jsonl").read_text()
    assert rows.startswith(kept)
    assert '"summary"' in rows
    spent = json.loads((run / "spending.json").read_text())
    (only,) = spent.values()
    assert only["requests"] == server.requests, "all tries together"
    assert only["cost"] == pytest.approx(server.requests * 15 * 1000 / 1e6)
