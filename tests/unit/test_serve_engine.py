"""The TTT server over the real engine: replies equal the in-process ones, whoever else shares the pass."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zmq

import ttt_in_process
from seal.domains.knowledge import KnowledgeIncorporation
from seal.engine import EngineSettings, inner_loop
from seal.graded import Graded
from seal.grading import LexicalGrader
from seal.inner.loop import LocalInnerLoop
from seal.pool import Pool
from seal.records import AdaptJob, Question, Task, TrainingConfig, TrainingSequence
from seal.serve import messages as m
from seal.serve.client import RemoteInnerLoop, TTTClient, remote_policy
from seal.serve.link import Link
from seal.serve.requests import Requests
from seal.serve.server import TTTServer
from seal.serve.settings import ServerSettings
from seal.workers.process import ProcessWorker

REPLY = {
    "baseline_accuracy",
    "adapter_accuracy",
    "adapter_gain",
    "baseline_texts",
    "adapter_texts",
    "baseline_correct",
    "adapter_correct",
    "gains",
}


def request(n: int, **changes: Any) -> dict[str, Any]:
    """A small job whose training makes the answer likely: the sequence is the question with its answer."""
    question, answer = f"What is {n}?", f"w{n}"
    return {
        "train_sequences": [f"Topic: Numbers\n{question}\nAnswer: {answer}\n"] * 2 + [f"number {n}"],
        "eval_questions": [
            {"title": "Numbers", "context": "", "question": question, "answer": answer},
            {"title": "Numbers", "context": "", "question": "Who?", "answer": "nobody"},
        ],
        "lora_rank": 4,
        "lora_alpha": 8,
        "finetune_epochs": 4,
        "finetune_lr": 0.02,
        **changes,
    }


@pytest.fixture(scope="module")
def loaded(tiny: Any) -> Any:
    return tiny()


@pytest.fixture(scope="module")
def address(loaded: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    adapters = tmp_path_factory.mktemp("adapters")
    settings = ServerSettings(port=0, adapters=adapters)
    server = TTTServer(Graded(LocalInnerLoop(loaded), LexicalGrader()), Requests(loaded), settings)
    ready: queue.SimpleQueue[str] = queue.SimpleQueue()
    thread = threading.Thread(target=server.run, args=(ready.put,), daemon=True)
    thread.start()
    yield ready.get(timeout=20)
    server.stop()
    thread.join(30)
    assert not thread.is_alive()


@pytest.mark.slow
def test_workers_share_the_queue_and_one_that_dies_costs_nobody_a_reply(tiny: Any) -> None:
    loaded = tiny()
    pool = inner_loop(loaded, EngineSettings(workers=2, slots=2), None)
    assert isinstance(pool, Pool)
    server = TTTServer(Graded(pool, LexicalGrader()), Requests(loaded), ServerSettings(port=0))
    ready: queue.SimpleQueue[str] = queue.SimpleQueue()
    thread = threading.Thread(target=server.run, args=(ready.put,), daemon=True)
    thread.start()
    client = TTTClient(Link(ready.get(timeout=20), silence_s=120))
    asked = [{**request(n), "seed": n} for n in range(24)]
    with ThreadPoolExecutor(6) as threads:
        replies = list(threads.map(client.ask, asked[:12]))
        (worker, _) = pool.workers
        assert isinstance(worker, ProcessWorker)
        assert worker.process is not None
        worker.process.kill()
        replies += threads.map(client.ask, asked[12:])
    assert replies == ttt_in_process.replies(tiny(), asked)
    server.stop()
    thread.join(30)
    assert not thread.is_alive()
    pool.close()


def test_a_plain_client_gets_through_twenty_requests(address: str) -> None:
    """A client written from the published interface alone: REQ, `send_json`, `recv_json`."""
    good = request(1)
    trained = [good, request(2), {**good, "lora_rank": 8, "lora_dropout": 0.1}, {**good, "batch_size": 2}]
    baseline = [{**good, "train_sequences": []}, {**good, "skip_training": True}]
    masked = {**good, "end_mask_substring": "Answer:"}
    unicode = request(3)
    unicode["train_sequences"] = ["Zürich 東京 🙂 \u202e \x00 e\u0301"]
    unicode["eval_questions"][0].update(title="Ü", question="東京?", answer="🙂x")
    empty = {**good, "eval_questions": []}
    nothing: dict[str, Any] = {"train_sequences": [], "eval_questions": []}
    garbage = [
        b"",
        b"{]",
        b"\xff",
        b"[]",
        b'"text"',
        b'{"train_sequences": 3}',
        b'{"lora_rank": 1e400}',
        b"{}",
    ]
    garbage += [b'{"train_sequences": ["a"], "finetune_epochs": 1000000}']
    mixed: list[Any] = [*trained, *baseline, masked, unicode, empty, nothing, *garbage, good]
    assert len(mixed) == 20
    with zmq.Context.instance().socket(zmq.REQ) as wire:
        wire.linger, wire.rcvtimeo = 0, 60_000
        wire.connect(address)
        replies = []
        for message in mixed:
            if isinstance(message, bytes):
                wire.send(message)
            else:
                wire.send_json(message)
            replies.append(wire.recv_json())
    for message, reply in zip(mixed, replies, strict=True):
        if isinstance(message, bytes):
            assert set(reply) == {"error", "code"}
            assert reply["error"].partition(": ")[0] in m.CODES.values()
            continue
        n = len(message["eval_questions"])
        assert set(reply) == REPLY
        lists = ("baseline_texts", "adapter_texts", "baseline_correct", "adapter_correct", "gains")
        assert {len(reply[name]) for name in lists} == {n}
        share = round(sum(reply["adapter_correct"]) / n, 4) if n else 0.0
        assert reply["adapter_accuracy"] == share
        assert reply["adapter_gain"] == round(share - reply["baseline_accuracy"], 4)
        pairs = zip(reply["adapter_correct"], reply["baseline_correct"], strict=True)
        assert reply["gains"] == [int(after) - int(before) for after, before in pairs]
    for reply in replies[4:6]:
        assert reply["adapter_texts"] == reply["baseline_texts"]
    assert replies[0]["adapter_texts"] != replies[0]["baseline_texts"]
    assert replies[6]["adapter_texts"] != replies[0]["adapter_texts"]


def test_clients_together_get_what_each_would_get_in_process(address: str, tiny: Any) -> None:
    asked = [request(n, lora_rank=2 + n % 3) | {"seed": n} for n in range(16)]

    def client(message: dict[str, Any]) -> Any:
        return TTTClient(Link(address)).command("ttt", seed=message["seed"], request=message)["reply"]

    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(client, asked))
    assert got == ttt_in_process.replies(tiny(), asked, together=False)
    assert any(reply["adapter_texts"] != reply["baseline_texts"] for reply in got)


def test_a_client_without_the_model_builds_the_same_jobs(address: str, loaded: Any) -> None:
    policy = remote_policy(Link(address))
    assert policy.version == loaded.version
    for text in ("Zürich 東京 🙂\nQuestion 1: why?", " x", "---"):
        assert policy.tokenizer(text)["input_ids"] == loaded.tokenizer(text)["input_ids"]
    task = Task("t", "A passage.", (Question("What?", "A passage"),), "T")
    mine, theirs = (KnowledgeIncorporation().eval_prompts(task, p.tokenizer) for p in (policy, loaded))
    assert mine == theirs


def test_remote_and_local_inner_loops_agree(address: str, loaded: Any, tiny: Any) -> None:
    maker = Requests(loaded)
    jobs = [maker.job(m.TTTRequest.model_validate(request(n)), f"j{n}", seed=n) for n in range(6)]
    jobs += [
        replace(jobs[0], id="base", sequences=()),
        AdaptJob("no evaluation prompts", jobs[0].sequences, TrainingConfig(rank=2, epochs=1), (), 1),
    ]
    local = {o.job_id: o for o in Graded(LocalInnerLoop(tiny()), LexicalGrader()).run(jobs)}
    remote = {o.job_id: o for o in RemoteInnerLoop(Link(address)).run(jobs)}
    assert local.keys() == remote.keys() == {job.id for job in jobs}
    for name, mine in local.items():
        theirs = remote[name]
        assert (theirs.error, theirs.adapter) == (mine.error, mine.adapter)
        assert [a.text for a in theirs.adapted] == [a.text for a in mine.adapted]
        assert [a.verdict for a in theirs.baseline] == [a.verdict for a in mine.baseline]
        assert theirs.losses == pytest.approx(mine.losses, abs=1e-5)
        pairs = zip(theirs.adapted, mine.adapted, strict=True)
        assert all(a.log_likelihood == pytest.approx(b.log_likelihood, abs=1e-3) for a, b in pairs)


def test_a_job_may_save_its_adapter_in_the_servers_folder_only(
    address: str, loaded: Any, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    job = AdaptJob("s", (TrainingSequence((5, 6, 7)),), TrainingConfig(rank=2, epochs=1), (), 1)
    folder = next(p for p in tmp_path_factory.getbasetemp().glob("adapters*") if p.is_dir())
    inside, outside = folder / "mine", tmp_path / "mine"
    (good,) = RemoteInnerLoop(Link(address)).run([replace(job, save_to=str(inside))])
    assert good.error is None
    assert json.loads((inside / "adapter_config.json").read_text())["r"] == 2
    for path in (outside, folder / ".." / "mine"):
        (bad,) = RemoteInnerLoop(Link(address)).run([replace(job, save_to=str(path))])
        assert bad.error is not None
        assert bad.error.message.startswith("Forbidden: ")
        assert not path.exists()


def test_malformed_requests_are_answered_at_once_while_the_engine_trains(address: str) -> None:
    link = Link(address)
    long = request(50, finetune_epochs=30, seed=1)
    long["train_sequences"] = [f"{'word ' * 20}{n}" for n in range(8)]
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(TTTClient(replace(link, silence_s=120)).ask, long)
        while not TTTClient(link).command("status")["running"]:
            time.sleep(0.01)
        for bad in (
            b"\x00",
            m.encode({**long, "lora_rank": 10**6}),
            m.encode({"train_sequences": ["\x00 "] * 30_000}),
        ):
            waits = []
            for _ in range(5):
                began = time.perf_counter()
                assert "error" in TTTClient(link).ask(bad)
                waits.append(time.perf_counter() - began)
            assert min(waits) < 0.1  # the quickest: a busy machine is no slow server
        assert TTTClient(link).command("status")["running"] == 1
        assert "adapter_accuracy" in training.result(timeout=120)
