"""Generated data: official format, resumable, from the local engine or an OpenAI-compatible server."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loopback_http import JSON, answering
from seal import setup
from seal.errors import ConfigError, DataError, GenerationError, RunError
from seal.inner.loop import LocalGenerator
from seal.models.openai_generator import OpenAIGenerator
from seal.protocols import Generator
from seal.recipes import pipeline
from seal.recipes.articles import read_articles
from seal.recipes.make_data import check_counts, make_data
from seal.records import Completion, Sampling
from seal.report.history import read_history

SAMPLING = Sampling(temperature=1.0, top_p=0.95, max_new_tokens=8)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    records = [
        {
            "title": f"T{i}",
            "context": f"passage {i}",
            "questions": [{"question": f"q{i}?", "answer": f"a{i}"}],
        }
        for i in range(6)
    ]
    path = tmp_path / "squad.json"
    path.write_text(json.dumps(records))
    return path


@pytest.fixture
def make(dataset: Path, tmp_path: Path) -> Any:
    """`make-data` with 4 passages from the second on, 3 completions each, two asked for at once."""

    def made(
        generator: Generator,
        out: Path = tmp_path / "out" / "d.json",
        start: int = 1,
        batch: int = 2,
        **changes: Any,
    ) -> Path:
        config = pipeline.settings(
            "m", str(dataset), out, samples_per_iteration=3, generation__max_new_tokens=8, **changes
        )
        sampler = setup.edit_sampler(config, setup.make_domain(config, None), generator, None)
        with pipeline.open_run(config, pipeline.Step("make-data", str(out))) as run:
            return make_data(run, sampler, "m", out, start, 4, batch)

    return made


class Echo:
    """Writes prompt and seed; fails after `left` completions, as a killed or unreachable server would."""

    def __init__(self, left: int = 10**9) -> None:
        self.left, self.asked = left, 0

    def generate(self, prompts: Sequence[str], sampling: Sampling, seeds: Sequence[int]) -> list[Completion]:
        if self.left < len(prompts):
            raise GenerationError("the server is gone")
        self.left -= len(prompts)
        self.asked += len(prompts)
        return [Completion(f" {p} / {s} \n", 3, "stop") for p, s in zip(prompts, seeds, strict=True)]


def test_the_format_is_the_official_one(make: Any, shared: Path) -> None:
    out = make(Echo())
    official = json.loads((shared / "data/official/iter1_train.json").read_text())
    mine = json.loads(out.read_text())
    assert [record.keys() for record in mine] == [official[0].keys()] * 4
    assert mine[0]["questions"][0].keys() == official[0]["questions"][0].keys()
    meta = json.loads((shared / "data/official/iter1_train.json.meta").read_text())
    ours = json.loads(Path(f"{out}.meta").read_text())
    assert set(meta) <= set(ours)
    assert (ours["n"], ours["k"], ours["temperature"], ours["top_p"]) == (4, 3, 1.0, 0.95)
    articles = read_articles(shared / "data/official/iter1_train.json", 50, 5)
    assert sum(len(a.completions) for a in articles) == 250


def test_the_subset_is_the_official_shuffle(make: Any) -> None:
    import random

    order = [f"T{i}" for i in range(6)]
    random.Random(42).shuffle(order)
    articles = read_articles(make(Echo()))
    assert [a.title for a in articles] == order[1:5]
    assert all(text.startswith(a.prompt.strip()) for a in articles for text in a.completions)
    assert all(f"{a.title}\n{a.context}" in a.prompt for a in articles)


def test_an_interrupted_run_ends_as_an_uninterrupted_one(make: Any, tmp_path: Path) -> None:
    whole = make(Echo(), out=tmp_path / "whole.json")
    with pytest.raises(GenerationError):
        make(Echo(left=7))
    assert not (tmp_path / "out/d.json").exists()
    again = Echo()
    assert make(again).read_bytes() == whole.read_bytes()
    assert again.asked == 12 - 6
    assert make(Echo(left=0)) == tmp_path / "out/d.json"


def test_the_work_is_a_run_like_any_other(make: Any, tmp_path: Path) -> None:
    make(Echo())
    history = read_history(tmp_path / "out/d.run")
    assert len(history.edits) == 12
    assert history.rounds == [0]
    articles = read_articles(tmp_path / "out/d.json")
    assert [e.completion.strip() for e in history.edits.values()] == [
        c for a in articles for c in a.completions
    ]
    assert len({edit.seed for edit in history.edits.values()}) == 12


def test_other_settings_do_not_mix_with_unfinished_work(make: Any, tmp_path: Path) -> None:
    with pytest.raises(GenerationError):
        make(Echo(left=3))
    with pytest.raises(RunError, match="began with seed 42, now it is 1"):
        make(Echo(), seed=1)
    with pytest.raises(RunError, match=r"began with generation.temperature 1.0, now it is 0.5"):
        make(Echo(), generation__temperature=0.5)
    with pytest.raises(RunError, match="not those that the run began with"):
        make(Echo(), start=2)


def test_an_existing_file_is_not_overwritten(make: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    out = tmp_path / "out/d.json"
    out.write_text("mine")
    with pytest.raises(DataError, match="exists already"):
        make(Echo())
    assert out.read_text() == "mine"
    out.unlink()
    old = out.with_name("d.json.journal.jsonl")
    old.write_text("")
    with pytest.raises(RunError, match=r"d.json.journal.jsonl: the journal of an earlier version of seal"):
        make(Echo())


def test_counts_are_checked(make: Any, tmp_path: Path) -> None:
    out = make(Echo())
    check_counts(out, 4, 3)
    records = json.loads(out.read_text())
    records[2]["completions"].pop()
    out.write_text(json.dumps(records))
    for n, k in ((4, 3), (5, 3)):
        with pytest.raises(DataError, match="expected"):
            check_counts(out, n, k)
    with pytest.raises(DataError, match="3 were asked for"):
        read_articles(out, 4, 3)
    with pytest.raises(DataError, match="choose start"):
        make(Echo(), out=tmp_path / "x.json", start=4)


def test_an_empty_prompt_asks_for_nothing(make: Any) -> None:
    echo = Echo()
    articles = read_articles(make(echo, data_config__prompt_type="none"))
    assert echo.asked == 0
    assert {a.completions for a in articles} == {("", "", "")}


def test_the_local_engine_writes_the_same_again(make: Any, tiny: Any, tmp_path: Path) -> None:
    first = make(LocalGenerator(tiny()))
    second = make(LocalGenerator(tiny()), out=tmp_path / "b.json", batch=9)
    assert first.read_bytes() == second.read_bytes()
    assert len({c for a in read_articles(first) for c in a.completions}) == 12


@pytest.fixture
def server() -> Iterator[tuple[str, list[dict[str, Any]], list[int]]]:
    """An OpenAI-compatible server on loopback; `failures` are the statuses it answers with first."""
    seen: list[dict[str, Any]] = []
    failures: list[int] = []

    def answer(path: str, headers: Any, body: dict[str, Any]) -> tuple[int, str, str]:
        seen.append({"path": path, "auth": headers["authorization"], **body})
        if failures:
            return failures.pop(), JSON, json.dumps({"error": {"message": "no"}})
        choice: dict[str, Any] = {
            "index": 0,
            "finish_reason": "length" if body["max_tokens"] == 1 else "stop",
        }
        if "messages" in body:
            choice["message"] = {"role": "assistant", "content": f"to {body['messages'][0]['content']}"}
        else:
            choice["text"] = f"on from {body['prompt']}"
        usage = {"completion_tokens": 2, "prompt_tokens": 1, "total_tokens": 3}
        told = {"id": "1", "object": "x", "created": 0, "model": "m", "choices": [choice], "usage": usage}
        return 200, JSON, json.dumps(told)

    with answering(answer) as address:
        yield f"{address}/v1", seen, failures


def test_an_openai_compatible_server(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    url, seen, failures = server
    monkeypatch.setenv("SOME_KEY", "sesame")
    failures += [503, 429]
    chat = OpenAIGenerator("m", url, "chat", "SOME_KEY", concurrency=1, backoff=0.01)
    assert chat.generate(["a", "b"], SAMPLING, [1, 2**40]) == [
        Completion("to a", 2, "stop"),
        Completion("to b", 2, "stop"),
    ]
    assert [s["path"] for s in seen] == ["/v1/chat/completions"] * 4
    assert {s["auth"] for s in seen} == {"Bearer sesame"}
    assert [s["seed"] for s in seen[2:]] == [1, 2**40 % 2**31]
    plain = OpenAIGenerator("m", url, "completions", backoff=0.01)
    (done,) = plain.generate(["c"], replace(SAMPLING, max_new_tokens=1, stop=("\n",)), [3])
    assert done == Completion("on from c", 2, "length")
    assert (seen[-1]["stop"], seen[-1]["top_p"], seen[-1]["temperature"]) == (["\n"], 0.95, 1.0)


def test_a_server_that_stays_away_is_an_error_without_the_key(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, seen, failures = server
    monkeypatch.setenv("SOME_KEY", "sesame")
    failures += [500] * 9
    generator = OpenAIGenerator("m", url, "chat", "SOME_KEY", attempts=3, backoff=0.001)
    with pytest.raises(GenerationError, match="InternalServerError, status 500") as caught:
        generator.generate(["a"], SAMPLING, [1])
    assert "sesame" not in str(caught.value)
    assert len(seen) == 3
    failures[:] = [401]
    with pytest.raises(GenerationError, match="status 401"):
        generator.generate(["a"], SAMPLING, [1])
    assert len(seen) == 4
    monkeypatch.delenv("SOME_KEY")
    with pytest.raises(ConfigError, match="SOME_KEY"):
        OpenAIGenerator("m", url, "chat", "SOME_KEY")
    with pytest.raises(ConfigError, match="http"):
        OpenAIGenerator("m", "localhost:8000")
