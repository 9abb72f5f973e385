"""The front of the TTT server: what it answers, to whom and when, whatever the engine is doing.

The engine here is a small `InnerLoop` that the tests can hold and release; the real one is in
`test_serve_engine.py`.
"""

from __future__ import annotations

import json
import queue
import re
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zmq

from seal.errors import ConfigError, ServeError
from seal.protocols import FollowUp
from seal.records import (
    AdaptJob,
    AdaptOutcome,
    Answer,
    EvalPrompt,
    JobError,
    Question,
    Sampling,
    TrainingConfig,
    TrainingSequence,
    Verdict,
)
from seal.serve.client import RemoteInnerLoop, TTTClient
from seal.serve.engine_thread import EngineThread
from seal.serve.link import Link
from seal.serve.messages import Limits
from seal.serve.requests import Requests
from seal.serve.security import is_loopback, make_keys, read_allowed, read_keys, read_public
from seal.serve.server import TTTServer
from seal.serve.settings import ServerSettings
from seal.serve.store import Store

QUESTION = {"title": "T", "context": "C", "question": "Q?", "answer": "A"}
REQUEST = {"train_sequences": ["some text"], "eval_questions": [QUESTION]}


class HeldLoop:
    """Echoes what it was asked; holds every pass until `gate` is set."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.seen: list[list[AdaptJob]] = []
        self.poison = ""

    slots = 4

    def close(self) -> None:
        self.gate.set()

    def run(
        self, jobs: Iterable[AdaptJob | None], follow_up: FollowUp | None = None
    ) -> Iterator[AdaptOutcome]:
        taken: list[AdaptJob] = []
        self.seen.append(taken)
        for job in jobs:
            if job is None:
                break
            taken.append(job)
        assert self.gate.wait(20)
        for job in taken:
            if self.poison and any(
                self.poison in (p.question or Question("", "")).question for p in job.eval_prompts
            ):
                raise RuntimeError("the engine fell over")
            answers = tuple(
                Answer(
                    p.id, f"seed {job.seed}", 1, verdict=Verdict.CORRECT if job.sequences else Verdict.WRONG
                )
                for p in job.eval_prompts
            )
            yield AdaptOutcome(job.id, answers, answers if job.sequences else ())


@contextmanager
def serving(tiny: Any, inner: Any = None, **settings: Any) -> Iterator[tuple[str, HeldLoop, TTTServer]]:
    inner = inner or HeldLoop()
    store = settings.pop("store", None)
    server = TTTServer(inner, Requests(tiny()), ServerSettings(port=0, **settings), store, "tiny")
    ready: queue.SimpleQueue[str] = queue.SimpleQueue()
    thread = threading.Thread(target=server.run, args=(ready.put,), daemon=True)
    thread.start()
    try:
        yield ready.get(timeout=20), inner, server
    finally:
        inner.gate.set()
        server.stop()
        thread.join(20)
        assert not thread.is_alive()


@contextmanager
def plain(address: str, kind: int = zmq.REQ) -> Iterator[Any]:
    with zmq.Context.instance().socket(kind) as wire:
        wire.linger = 0
        wire.rcvtimeo = 20_000
        wire.connect(address)
        yield wire


def ask(address: str, message: Any) -> Any:
    with plain(address) as wire:
        wire.send(message if isinstance(message, bytes) else json.dumps(message).encode())
        return wire.recv_json()


def envelope(cmd: str, name: str = "x", **more: Any) -> bytes:
    return json.dumps({"v": 1, "id": name, "cmd": cmd, **more}).encode()


def until(condition: Any) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it did not happen within 10 s"
        time.sleep(0.005)


def test_a_repeat_trains_anew_with_its_own_seed_and_a_key_trains_once(tiny: Any) -> None:
    with serving(tiny) as (address, inner, _):
        texts = [ask(address, REQUEST)["adapter_texts"][0] for _ in range(3)]
        assert len(set(texts)) == 3
        keyed = [ask(address, {**REQUEST, "key": "k"}) for _ in range(3)]
        assert keyed[0] == keyed[1] == keyed[2]
        seeded = [ask(address, {**REQUEST, "seed": 5})["adapter_texts"] for _ in range(2)]
        assert seeded == [["seed 5"], ["seed 5"]]
        assert sum(map(len, inner.seen)) == 3 + 1 + 1
    with serving(tiny) as (address, _, _server):
        assert [ask(address, REQUEST)["adapter_texts"][0] for _ in range(3)] == texts


def test_a_key_with_other_content_is_refused_also_after_a_restart(tiny: Any, tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with serving(tiny, store=Store(path, "p")) as (address, _, _server):
        first = ask(address, {**REQUEST, "key": "k"})
    with serving(tiny, store=Store(path, "p")) as (address, inner, _server):
        assert ask(address, {**REQUEST, "key": "k"}) == first
        assert inner.seen == []
        other = {**REQUEST, "key": "k", "lora_rank": 4}
        assert ask(address, other)["error"].startswith("KeyConflict: ")
    with serving(tiny, store=Store(path, "another model")) as (address, inner, _server):
        assert ask(address, {**REQUEST, "key": "k"}) == first
        assert len(inner.seen) == 1


def test_malformed_and_over_limit_requests_are_answered_at_once_while_training(tiny: Any) -> None:
    limits = Limits(bytes=100_000, tokens=50, rank=64)
    with serving(tiny, limits=limits) as (address, inner, _), plain(address) as busy:
        inner.gate.clear()
        busy.send_json(REQUEST)
        until(lambda: inner.seen and inner.seen[0])
        for bad, kind in (
            (b"\x00garbage", "BadJSON"),
            ({**REQUEST, "lora_rank": -1}, "BadRequest"),
            ({**REQUEST, "lora_rank": 65}, "LimitExceeded"),
            ({"train_sequences": ["x" * 100_000]}, "LimitExceeded"),
            ({"train_sequences": ["word " * 40]}, "LimitExceeded"),
        ):
            assert ask(address, bad)["error"].startswith(kind + ": ")  # the gate is still shut
        inner.gate.set()
        assert busy.recv_json()["adapter_correct"] == [True]


def test_a_full_queue_says_busy_and_takes_work_again(tiny: Any) -> None:
    with serving(tiny, capacity=2) as (address, inner, _):
        inner.gate.clear()
        with plain(address) as a, plain(address) as b:
            a.send_json({**REQUEST, "seed": 1})
            b.send_json({**REQUEST, "seed": 2})
            until(
                lambda: (
                    ask(address, envelope("status"))["queued"] + ask(address, envelope("status"))["running"]
                    >= 2
                )
            )
            refused = ask(address, {**REQUEST, "seed": 3})
            assert refused["code"] == "busy"
            assert refused["error"].startswith("Busy: ")
            inner.gate.set()
            assert a.recv_json()["adapter_texts"] == ["seed 1"]
            assert b.recv_json()["adapter_texts"] == ["seed 2"]
        assert ask(address, {**REQUEST, "seed": 3})["adapter_texts"] == ["seed 3"]


def test_requests_of_several_clients_share_a_pass(tiny: Any) -> None:
    with serving(tiny) as (address, inner, _):
        inner.gate.clear()
        with plain(address) as first, plain(address, zmq.DEALER) as others:
            first.send_json({**REQUEST, "seed": 0})
            until(lambda: inner.seen and inner.seen[0])
            for seed in range(1, 6):
                others.send_multipart([b"", envelope("ttt", f"r{seed}", seed=seed, request=REQUEST)])
            until(lambda: ask(address, envelope("status"))["queued"] == 5)
            inner.gate.set()
            replies = {(r := json.loads(others.recv_multipart()[-1]))["id"]: r for _ in range(5)}
            first.recv_json()
        assert [len(jobs) for jobs in inner.seen] == [1, 5]
        assert {n: r["reply"]["adapter_texts"] for n, r in replies.items()} == {
            f"r{seed}": [f"seed {seed}"] for seed in range(1, 6)
        }


def test_beats_deadline_and_cancel(tiny: Any) -> None:
    with serving(tiny, heartbeat_s=0.02) as (address, inner, _), plain(address, zmq.DEALER) as dealer:
        inner.gate.clear()

        def next_of(kind: str) -> Any:
            while (reply := json.loads(dealer.recv_multipart()[-1]))["type"] != kind:
                pass
            return reply

        dealer.send_multipart([b"", envelope("ttt", "a", seed=1, request=REQUEST, progress=True)])
        until(lambda: inner.seen and inner.seen[0])
        assert next_of("progress")["state"] in ("queued", "running")
        dealer.send_multipart([b"", envelope("ttt", "b", seed=2, request=REQUEST, deadline_s=0.05)])
        late = next_of("error")
        assert (late["id"], late["code"]) == ("b", "deadline")
        dealer.send_multipart([b"", envelope("ttt", "c", seed=3, request=REQUEST, progress=True)])
        while (heartbeat := next_of("progress"))["id"] != "c":
            pass
        assert (heartbeat["state"], heartbeat["ahead"]) == ("queued", 1)
        assert ask(address, envelope("cancel", target="c"))["state"] == "queued"
        gone = next_of("error")
        assert (gone["id"], gone["code"]) == ("c", "cancelled")
        assert ask(address, envelope("cancel", target="c"))["code"] == "bad_request"
        inner.gate.set()
        assert next_of("result")["id"] == "a"
        assert [job.seed for jobs in inner.seen for job in jobs] == [1]


def test_a_request_sent_twice_on_one_connection_is_answered_once(tiny: Any) -> None:
    with serving(tiny) as (address, inner, _), plain(address, zmq.DEALER) as dealer:
        inner.gate.clear()
        for _ in range(3):
            dealer.send_multipart([b"", envelope("ttt", "a", seed=1, request=REQUEST)])
        until(lambda: ask(address, envelope("status"))["received"] >= 4)
        inner.gate.set()
        assert json.loads(dealer.recv_multipart()[-1])["type"] == "result"
        assert not dealer.poll(100)
        assert sum(map(len, inner.seen)) == 1


def test_a_job_that_fells_the_engine_fails_alone(tiny: Any) -> None:
    bad = {**REQUEST, "eval_questions": [{**QUESTION, "question": "poison"}]}
    with serving(tiny) as (address, inner, _), plain(address, zmq.DEALER) as dealer, plain(address) as first:
        inner.poison = "poison"
        inner.gate.clear()
        first.send_json({**REQUEST, "seed": 0})
        until(lambda: inner.seen and inner.seen[0])
        for name, request in (("a", REQUEST), ("bad", bad), ("b", REQUEST)):
            dealer.send_multipart(
                [b"", envelope("ttt", name, seed=len(name) + ord(name[0]), request=request)]
            )
        until(lambda: ask(address, envelope("status"))["queued"] == 3)
        inner.gate.set()
        replies = {(r := json.loads(dealer.recv_multipart()[-1]))["id"]: r for _ in range(3)}
        assert replies["a"]["type"] == replies["b"]["type"] == "result"
        assert replies["bad"]["error"] == "AdaptError: RuntimeError: the engine fell over"
        assert first.recv_json()["adapter_correct"] == [True]


def test_a_graders_outage_is_an_error_and_never_a_wrong_answer(tiny: Any) -> None:
    class Ungraded(HeldLoop):
        def run(
            self, jobs: Iterable[AdaptJob | None], follow_up: FollowUp | None = None
        ) -> Iterator[AdaptOutcome]:
            for outcome in super().run(jobs):
                failed = replace(outcome.adapted[0], verdict=Verdict.ERROR, note="the judge is away")
                yield replace(outcome, adapted=(failed,))

    with serving(tiny, Ungraded()) as (address, _, _server):
        assert ask(address, REQUEST)["error"] == "GradingError: an answer has no verdict: the judge is away"
        (outcome,) = RemoteInnerLoop(Link(address)).run([_job("j")])
        assert outcome.adapted[0].verdict is Verdict.ERROR
        assert ask(address, envelope("status"))["replies"] == 0  # asked again, it is graded again


def test_shutdown_finishes_what_runs_and_fails_what_waits(tiny: Any) -> None:
    with serving(tiny) as (address, inner, _), plain(address) as runs, plain(address) as waits:
        inner.gate.clear()
        runs.send_json({**REQUEST, "seed": 1})
        until(lambda: inner.seen and inner.seen[0])
        waits.send_json({**REQUEST, "seed": 2})
        until(lambda: ask(address, envelope("status"))["queued"] == 1)
        assert ask(address, {"cmd": "shutdown"}) == {"status": "bye"}
        assert waits.recv_json()["error"].startswith("ShuttingDown: ")
        inner.gate.set()
        assert runs.recv_json()["adapter_texts"] == ["seed 1"]


def test_shutdown_needs_the_right(tiny: Any) -> None:
    with serving(tiny, shutdown_token="secret") as (address, _, _server):
        for token in ({}, {"token": "Secret"}):
            assert ask(address, {"cmd": "shutdown", **token})["error"].startswith("Forbidden: ")
        assert ask(address, envelope("health"))["ok"] is True
        assert ask(address, {"cmd": "shutdown", "token": "secret"}) == {"status": "bye"}
    with serving(tiny, allow_shutdown=False) as (address, _, _server):
        assert ask(address, {"cmd": "shutdown"})["error"].startswith("Forbidden: ")


def test_only_loopback_without_keys(tiny: Any) -> None:
    assert [
        h for h in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "*", "10.0.0.1", "node1") if is_loopback(h)
    ] == [
        "127.0.0.1",
        "localhost",
        "::1",
    ]
    with pytest.raises(ConfigError, match="other machines"):
        TTTServer(HeldLoop(), Requests(tiny()), ServerSettings(host="0.0.0.0", port=0))


def test_curve_lets_in_who_is_on_the_list_and_only_an_admin_ends_the_server(
    tiny: Any, tmp_path: Path
) -> None:
    secrets = {name: make_keys(tmp_path, name) for name in ("server", "user", "admin", "stranger")}
    public = {name: read_public(tmp_path / f"{name}.key") for name in secrets}
    allow = tmp_path / "allow"
    allow.write_text(f"# who may ask\n{public['user']} # a colleague\n{public['admin']} admin\n")
    settings = {"keys": read_keys(secrets["server"]), "allowed": read_allowed(allow)}

    def client(name: str) -> TTTClient:
        keys = read_keys(secrets[name])
        return TTTClient(
            Link(address, silence_s=0.6 if name == "stranger" else 10, server_key=public["server"], keys=keys)
        )

    with serving(tiny, **settings) as (address, _, _server):
        with plain(address) as without:
            without.rcvtimeo = 600
            without.send_json({"v": 1, "id": "x", "cmd": "health"})
            with pytest.raises(zmq.Again):
                without.recv()
        with pytest.raises(ServeError, match="did not answer"):
            client("stranger").command("health")
        assert client("user").ask(REQUEST)["adapter_correct"] == [True]
        with pytest.raises(ServeError, match="Forbidden"):
            client("user").command("shutdown")
        assert client("admin").command("shutdown")["type"] == "bye"


def test_key_files_say_what_is_wrong_with_them(tmp_path: Path) -> None:
    secret = make_keys(tmp_path, "k")
    assert secret.stat().st_mode & 0o777 == 0o600
    assert read_keys(secret).secret not in repr(read_keys(secret))
    with pytest.raises(ConfigError, match="exists already"):
        make_keys(tmp_path, "k")
    secret.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_keys(secret)
    allow = tmp_path / "allow"
    allow.write_text("short admin\n")
    with pytest.raises(ConfigError, match="line 1"):
        read_allowed(allow)


def _job(name: str, **changes: Any) -> AdaptJob:
    eval_prompt = EvalPrompt("p0", (1, 2), Sampling(0.0, max_new_tokens=4), question=Question("Q", "A"))
    return replace(
        AdaptJob(name, (TrainingSequence((1, 2, 3)),), TrainingConfig(rank=2), (eval_prompt,), 9), **changes
    )


def test_the_remote_inner_loop_gives_one_outcome_a_job_under_the_jobs_own_id(tiny: Any) -> None:
    with serving(tiny, capacity=4) as (address, inner, _):
        loop = RemoteInnerLoop(Link(address, window=8))
        jobs = [_job(f"j{n}", seed=n) for n in range(20)]
        jobs += [
            _job("same", seed=3),
            _job("bad", sequences=(TrainingSequence((10**6, 1)),)),
            _job("save", save_to="/tmp/x"),
            _job("read", start_from="/tmp/x"),
        ]
        outcomes = {o.job_id: o for o in loop.run(jobs)}
        assert len(outcomes) == 24
        assert all(outcomes[f"j{n}"].adapted[0].text == f"seed {n}" for n in range(20))
        assert outcomes["same"] == replace(outcomes["j3"], job_id="same")
        assert outcomes["bad"].error is not None
        assert "vocabulary" in outcomes["bad"].error.message
        assert outcomes["save"].error is not None
        assert "adapter folder" in outcomes["save"].error.message
        assert outcomes["read"].error is not None
        assert "start_from '/tmp/x' is not inside" in outcomes["read"].error.message
        assert sum(map(len, inner.seen)) == 20


def test_an_oversized_job_fails_and_the_others_do_not(tiny: Any) -> None:
    with serving(tiny, limits=Limits(bytes=3_000)) as (address, _, _server):
        jobs = [
            _job("small"),
            _job("big", sequences=(TrainingSequence((1, 2)),) * 200),
            _job("small2", seed=1),
        ]
        outcomes = {o.job_id: o for o in RemoteInnerLoop(Link(address, silence_s=5)).run(jobs)}
        assert outcomes["small"].error is None
        assert outcomes["small2"].error is None
        assert outcomes["big"].error is not None
        assert "LimitExceeded" in outcomes["big"].error.message


def test_a_silent_server_is_an_error_for_every_job_and_not_an_endless_wait() -> None:
    with zmq.Context.instance().socket(zmq.ROUTER) as mute:
        mute.linger = 0
        port = mute.bind_to_random_port("tcp://127.0.0.1")
        loop = RemoteInnerLoop(Link(f"tcp://127.0.0.1:{port}", silence_s=0.15, attempts=2, window=1))
        outcomes = list(loop.run([_job("a"), _job("b")]))
    assert [o.job_id for o in outcomes] == ["a", "b"]
    assert all(isinstance(o.error, JobError) and "silent" in o.error.message for o in outcomes)


def test_a_lost_server_is_found_again_and_nothing_trains_twice(tiny: Any, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = tmp_path / "store.sqlite"

    def one(n: int) -> tuple[list[AdaptOutcome], int]:
        inner = HeldLoop()
        server = TTTServer(inner, Requests(tiny()), ServerSettings(port=port), Store(path, "p"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        got = []
        for outcome in running:
            got.append(outcome)
            if len(got) == n:
                break
        server.stop()
        thread.join(20)
        return got, sum(map(len, inner.seen))

    link = Link(f"tcp://127.0.0.1:{port}", silence_s=0.3, attempts=20, window=1)
    running = RemoteInnerLoop(link).run([_job(f"j{n}", seed=n) for n in range(6)])
    first, trained = one(3)
    rest, again = one(6)
    assert [o.job_id for o in first + rest] == [f"j{n}" for n in range(6)]
    assert trained + again == 6


def test_a_server_that_is_ended_and_started_again_costs_its_driver_nothing(tiny: Any, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    servers: list[tuple[TTTServer, threading.Thread, HeldLoop]] = []

    def start() -> HeldLoop:
        inner = HeldLoop()
        store = Store(tmp_path / "store.sqlite", "p")
        server = TTTServer(inner, Requests(tiny()), ServerSettings(port=port), store)
        servers.append((server, threading.Thread(target=server.run, daemon=True), inner))
        servers[-1][1].start()
        return inner

    def end() -> None:
        server, thread, inner = servers[-1]
        server.stop()
        inner.gate.set()
        thread.join(20)
        assert not thread.is_alive()

    inner = start()
    inner.gate.clear()  # one pass runs; what comes meanwhile waits, and is refused when the server ends
    outcomes: list[AdaptOutcome] = []
    jobs = [_job(f"j{n}", seed=n) for n in range(12)]
    link = Link(f"tcp://127.0.0.1:{port}", silence_s=0.5, attempts=60, window=6)
    driver = threading.Thread(target=lambda: outcomes.extend(RemoteInnerLoop(link).run(jobs)), daemon=True)
    driver.start()
    until(lambda: len(servers[-1][0].scheduler.pending) == 6)
    end()
    for _ in range(2):
        inner = start()
        until(lambda inner=inner: inner.seen or not driver.is_alive())
        end()
    start()
    driver.join(60)
    end()
    assert sorted(o.job_id for o in outcomes) == sorted(job.id for job in jobs)
    assert [o.error for o in outcomes] == [None] * 12
    assert sum(len(taken) for _, _, loop in servers for taken in loop.seen) == 12


def test_a_repeat_after_a_restart_is_a_new_one(tiny: Any, tmp_path: Path) -> None:
    texts = []
    for _ in range(2):
        with serving(tiny, store=Store(tmp_path / "store.sqlite", "p")) as (address, _, _server):
            texts += [ask(address, REQUEST)["adapter_texts"][0] for _ in range(2)]
    assert len(set(texts)) == 4


def test_a_damaged_reply_is_never_sent(tmp_path: Path) -> None:
    """Every twentieth bit of a store: the reply as it was, none at all, or a typed error."""
    path = tmp_path / "store.sqlite"
    store = Store(path, "p")
    store.put("k", "d", b"the reply " * 30)
    store.close()
    whole = path.read_bytes()
    found = {"same": 0, "none": 0, "error": 0}
    for bit in range(0, 8 * len(whole), 641):
        at = bit // 8
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << bit % 8)]) + whole[at + 1 :])
        try:
            store = Store(path, "p")
        except ServeError:
            found["error"] += 1
            continue
        try:
            body = store.get("k", "d")
            assert body in (None, b"the reply " * 30), bit
            found["none" if body is None else "same"] += 1
        except ServeError:
            found["error"] += 1
        finally:
            store.close()
    assert found["none"]
    assert found["error"]


def test_a_damaged_reply_is_forgotten_and_kept_anew(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.sqlite", "p")
    store.put("k", "d", b"good")
    store._db.execute("UPDATE kept SET body = ?", (b"evil",))
    assert store.get("k", "d") is None
    assert len(store) == 0
    store.put("k", "d", b"good")
    assert store.get("k", "d") == b"good"
    store.close()


def test_a_store_that_breaks_while_it_serves_is_an_error_for_the_request_alone(
    tiny: Any, tmp_path: Path
) -> None:
    store = Store(tmp_path / "store.sqlite", "p")
    with serving(tiny, store=store) as (address, _, _server):
        store._db.execute("DROP TABLE kept")
        assert "InternalError: the store" in ask(address, {**REQUEST, "key": "k"})["error"]
        assert ask(address, envelope("health"))["ok"]


def test_leaving_early_cancels_what_waits(tiny: Any) -> None:
    with serving(tiny) as (address, inner, _):
        inner.gate.clear()
        with plain(address) as first:
            first.send_json({**REQUEST, "seed": 77})
            until(lambda: inner.seen and inner.seen[0])
            running = RemoteInnerLoop(Link(address)).run([_job(f"j{n}", seed=n) for n in range(5)])
            stop = threading.Timer(0.4, inner.gate.set)
            stop.start()
            assert next(running).error is None
            running.close()
            until(lambda: ask(address, envelope("status"))["queued"] == 0)
            first.recv_json()


def test_a_waiting_client_is_told_now_and_then(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("seal.serve.exchange._TELL_S", 0.0)
    with serving(tiny, heartbeat_s=0.02) as (address, inner, _), caplog.at_level("INFO", "seal.serve"):
        inner.gate.clear()
        outcomes: list[AdaptOutcome] = []
        loop = RemoteInnerLoop(Link(address))
        thread = threading.Thread(target=lambda: outcomes.extend(loop.run([_job("a")])))
        thread.start()
        told = re.compile(r"1 under way at the server; one waits [\d.]+ s, running")
        until(lambda: any(map(told.search, caplog.messages)))
        inner.gate.set()
        thread.join(20)
    assert [(o.job_id, o.error) for o in outcomes] == [("a", None)]


def test_a_pass_waits_for_jobs_that_are_about_to_come() -> None:
    inner, outcomes = HeldLoop(), queue.SimpleQueue[AdaptOutcome]()
    asked: list[bool] = []

    def coming() -> bool:
        asked.append(len(asked) < 2)
        if len(asked) == 2:
            thread.put(AdaptJob("second", (), TrainingConfig(), (), 0))
        return asked[-1]

    thread = EngineThread(inner, lambda job_id: True, lambda job_id: None, outcomes.put, coming)
    thread.put(AdaptJob("first", (), TrainingConfig(), (), 0))
    thread.start()
    assert [outcomes.get(timeout=20).job_id for _ in range(2)] == ["first", "second"]
    thread.stop()
    assert [[job.id for job in taken] for taken in inner.seen] == [["first", "second"]]
    assert asked == [True, True, False]
