"""A server that is killed, ended, flooded with garbage and asked twice; a driver that goes on by itself."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import socket
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from seal.protocols import FollowUp
from seal.records import AdaptJob, AdaptOutcome
from seal.serve.client import RemoteInnerLoop, TTTClient
from seal.serve.jobs import job_to_wire
from seal.serve.link import Link
from seal.serve.requests import Requests
from seal.serve.server import TTTServer
from seal.serve.settings import ServerSettings
from seal.serve.store import Store
from stub_ttt import Server, job

WINDOW = 6


class Silent:
    """An engine that never ends anything."""

    slots = 4

    def close(self) -> None: ...

    def run(
        self, jobs: Iterable[AdaptJob | None], follow_up: FollowUp | None = None
    ) -> Iterator[AdaptOutcome]:
        for _ in jobs:
            pass
        yield from ()


class AnyTokens(Requests):
    """Jobs as they come, for a model that is not there."""

    def __init__(self) -> None:
        self.policy, self._vocabulary, self._window = "p", 100, 64


def test_a_driver_outlives_its_server(
    tmp_path: Path, amount: Callable[[int], int], rng: random.Random, told: Callable[..., None]
) -> None:
    server, ends, outcomes = Server(tmp_path), amount(100), list[AdaptOutcome]()
    server.start()
    jobs = [job(n) for n in range(60 * ends)]
    link = Link(server.address, silence_s=0.5, attempts=200, window=WINDOW)

    def drive() -> None:
        for outcome in RemoteInnerLoop(link).run(jobs):
            outcomes.append(outcome)

    driver = threading.Thread(target=drive, daemon=True)
    driver.start()
    killed = 0
    for turn in range(ends):
        until = time.monotonic() + 60
        while len(outcomes) < 30 * turn + 5 and time.monotonic() < until:
            time.sleep(0.005)
        time.sleep(rng.random() * 0.1)
        number = (signal.SIGKILL, signal.SIGTERM)[turn % 2]
        killed += number == signal.SIGKILL
        server.end(number)
        server.start()
    driver.join(120)
    server.end(signal.SIGTERM)
    assert [o for o in outcomes if o.error is not None] == []
    assert Counter(o.job_id for o in outcomes) == Counter(j.id for j in jobs), "each exactly once"
    assert all(o.adapted[0].text == f"seed {o.job_id[1:]}" for o in outcomes)
    again = sum(server.trained().values()) - len(jobs)
    assert 0 <= again <= WINDOW * killed, "at most what was in flight is trained again"
    told(killed=killed, ended=ends - killed)


def test_a_refusal_is_made_at_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    amount: Callable[[int], int],
    told: Callable[..., None],
) -> None:
    """The server's own part of it, from the message to the reply, whoever else wants its processor."""
    server = TTTServer(Silent(), AnyTokens(), ServerSettings(capacity=4), Store(tmp_path / "s", "p"))
    took, replies, count = list[float](), list[dict[str, Any]](), amount(5000)
    monkeypatch.setattr(server, "_send", lambda route, message: replies.append(message))

    async def flood() -> None:
        server.scheduler.open()
        for n in range(4 + count):
            message = {"v": 1, "id": f"m{n}", "cmd": "adapt", "job": job_to_wire(job(n))}
            began = time.thread_time()
            server._take((b"client",), json.dumps(message).encode(), "")
            took.append(time.thread_time() - began)

    asyncio.run(flood())
    server.scheduler.close()
    assert [reply["code"] for reply in replies] == ["busy"] * count
    assert statistics.median(took) < 0.005
    assert max(took) < 0.1
    told(refused=count, median_s=statistics.median(took), worst_s=max(took))


def test_duplicates_train_once(
    tmp_path: Path, amount: Callable[[int], int], rng: random.Random, told: Callable[..., None]
) -> None:
    server, count = Server(tmp_path), amount(500)
    server.start()
    replies: dict[int, set[str]] = {}
    try:
        for n in range(count):
            if n == count // 2:
                server.end(signal.SIGKILL)
                server.start()
            seed = rng.randrange(max(1, count // 10))
            message = {
                "v": 1,
                "id": f"m{n}",
                "cmd": "adapt",
                "job": job_to_wire(job(seed)),
                "key": f"k{seed}",
            }
            reply = TTTClient(Link(server.address)).ask(json.dumps(message).encode())
            reply["outcome"].pop("timings", None)
            replies.setdefault(seed, set()).add(json.dumps(reply["outcome"], sort_keys=True))
    finally:
        server.end(signal.SIGTERM)
    assert all(len(seen) == 1 for seen in replies.values()), "the same key has the same reply"
    assert set(server.trained().values()) == {1}
    told(asked=count)


def test_garbage_is_no_request(
    tmp_path: Path, amount: Callable[[int], int], rng: random.Random, told: Callable[..., None]
) -> None:
    """Bytes that are no ZMTP, half handshakes, silent connections: a request is answered meanwhile.

    Without keys a socket also speaks ZMTP 1.0, in which some random bytes are a frame: those are no JSON.
    """
    server, count, worst, idle = Server(tmp_path), amount(5000), 0.0, list[socket.socket]()
    server.start()
    client = TTTClient(Link(server.address, silence_s=20))
    try:
        for n in range(count):
            connection = socket.create_connection(("127.0.0.1", server.port))
            greeting = b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\0NULL" + bytes(48)
            with_what = (rng.randbytes(100), greeting[: rng.randrange(64)], b"GET / HTTP/1.1\r\n\r\n", b"")
            connection.sendall(rng.choice(with_what))
            idle.append(connection)
            if len(idle) > 100:
                idle.pop(rng.randrange(100)).close()
            if n % 100 == 0:
                began = time.monotonic()
                assert client.command("health")["ok"]
                worst = max(worst, time.monotonic() - began)
        status = client.command("status")
    finally:
        for connection in idle:
            connection.close()
        server.end(signal.SIGTERM)
    asked = len(range(0, count, 100)) + 1
    assert status["received"] - asked == status["refused"], "what was not asked by the client was refused"
    assert status["trained"] == status["queued"] == 0
    assert worst < 10
    told(refused_as_frames=status["refused"], no_message=count - status["refused"])
