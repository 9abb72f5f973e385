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
from seal.errors import BudgetSpent, GenerationError, RunError
from seal.grading import JudgeGrader
from seal.models.openai_generator import OpenAIGenerator
from seal.records import Question, Sampling
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
    judge = JudgeGrader(server.url, "j", purse=purse)
    with pytest.raises(BudgetSpent, match="budget of 100 tokens"):
        judge.grade([(Question("Who?", "Ada"), "Ada")])


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


@pytest.fixture
def passages(tmp_path: Path) -> Path:
    """Two passages with a question each, and a completion each for `seal query`."""
    records = [
        {"title": n, "context": f"{n} has forty lamps.", "completions": [f"{n} is lit by forty lamps."],
         "questions": [{"question": "How many?", "answer": "forty"}]}
        for n in ("Vell", "Osk")
    ]  # fmt: skip
    (tmp_path / "p.json").write_text(json.dumps(records))
    return tmp_path / "p.json"


def test_a_query_ends_at_its_judges_budget_and_goes_on_by_itself_or_by_resume(
    server: Server, passages: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No answer is taken for one that could not be judged: the verdicts come when there is money again."""
    out = passages.with_name("out.json")
    judge = ["--grader", "judge", "--judge-url", server.url, "--judge-model", "j", "--price", "1000,1000"]
    tiny = ["--local", "tiny-random-llama", "--device", "cpu", "--lora-rank", "2", "--epochs", "1"]
    asked = ["query", "--data", str(passages), "--out", str(out), "--eval-times", "1", *tiny, *judge]
    assert main([*asked, "--max-cost", "0.01"]) == 2
    assert "the budget of 0.01 is spent" in capsys.readouterr().err
    run = out.with_suffix(".run")
    assert '"verdict": "error"' not in (run / "journal.jsonl").read_text()
    assert main(["resume", str(run), "--max-cost", "100"]) == 0
    assert out.exists()
    (only,) = json.loads((run / "spending.json").read_text()).values()
    assert only["requests"] == server.requests


def test_make_data_ends_at_its_budget_and_the_same_command_goes_on(
    server: Server, passages: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = passages.with_name("data.json")
    asked = ["make-data", str(passages), "--out", str(out), "--base-url", server.url, "--server-model", "m"]
    asked += ["--k", "2", "--batch", "1", "--concurrency", "1"]
    assert main([*asked, "--max-total-tokens", "30"]) == 2
    assert "the budget of 30 tokens is spent" in capsys.readouterr().err
    assert main([*asked, "--max-total-tokens", "1500"]) == 0
    assert len(json.loads(out.read_text())) == 2
    assert server.requests == 4, "a passage that was paid for is not asked again"


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--max-cost", "1"], "--max-cost needs prices"), (["--price", "1"], "--price is '1'")],
)
def test_budgets_that_mean_nothing_are_refused(
    options: list[str], said: str, passages: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["query", "--data", str(passages), "--out", str(passages.with_name("o.json")), *options]
    assert main([*asked, "--local", "tiny-random-llama", "--device", "cpu"]) == 2
    assert said in capsys.readouterr().err
