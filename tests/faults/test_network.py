"""Strangers at a server with keys, a connection that breaks, and four times more clients than it takes."""

from __future__ import annotations

import json
import random
import signal
import socket
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq

from byte_proxy import ByteProxy
from seal.errors import ServeError
from seal.records import AdaptOutcome
from seal.serve.client import RemoteInnerLoop, TTTClient
from seal.serve.jobs import job_to_wire
from seal.serve.link import Link
from seal.serve.security import KeyPair, make_keys, read_keys, read_public
from stub_ttt import Server, job

pytestmark = pytest.mark.slow

LONG = b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\0CURVE"
"""How a greeting of ZMTP 3 with CURVE begins."""


def pair() -> KeyPair:
    public, secret = zmq.curve_keypair()
    return KeyPair(public.decode(), secret.decode())


def test_no_stranger_is_heard(
    tmp_path: Path, amount: Callable[[int], int], rng: random.Random, told: Callable[..., None]
) -> None:
    """Wrong keys, a wrong server key, none, garbage, and connections that send a byte now and then."""
    secrets = {name: read_keys(make_keys(tmp_path, name)) for name in ("server", "user")}
    server_key = read_public(tmp_path / "server.key")
    (tmp_path / "allow").write_text(read_public(tmp_path / "user.key") + "\n")
    server = Server(tmp_path, "--keys", "server.key_secret", "--allow", "allow")
    server.start()
    user = TTTClient(Link(server.address, silence_s=30, server_key=server_key, keys=secrets["user"]))
    message = json.dumps({"v": 1, "id": "x", "cmd": "adapt", "job": job_to_wire(job(1))}).encode()
    count, garbage, slow, ends = amount(500), amount(2000), list[socket.socket](), Counter[str]()
    strangers: list[zmq.Socket[bytes]] = []
    context = zmq.Context()
    try:
        for _ in range(min(count, 50)):
            connection = socket.create_connection(("127.0.0.1", server.port))
            connection.sendall(LONG[:1])
            slow.append(connection)
        for n in range(count):
            keys = pair()
            stranger = context.socket(zmq.DEALER)
            stranger.linger = 0
            kind = ("wrong_key", "wrong_server_key", "no_key")[n % 3]
            if kind != "no_key":
                stranger.curve_serverkey = (
                    pair().public if kind == "wrong_server_key" else server_key
                ).encode()
                stranger.curve_publickey, stranger.curve_secretkey = (
                    keys.public.encode(),
                    keys.secret.encode(),
                )
            stranger.connect(server.address)
            stranger.send_multipart([b"", message])
            ends[kind] += 1
            strangers.append(stranger)
            if len(strangers) >= 25:
                time.sleep(0.1)
                assert not any(s.poll(0) for s in strangers), "no answer"
                while strangers:
                    strangers.pop().close()
            for at, connection in enumerate(slow):
                if rng.random() < 0.02:
                    with suppress(OSError):  # the server has hung up: a handshake has half a minute
                        connection.send(LONG[1 + at % 10 :][:1])
        for _ in range(garbage):
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.sendall(
                    rng.choice((rng.randbytes(100), LONG + bytes(52), b"GET / HTTP/1.1\r\n\r\n"))
                )
        status = user.command("status")
    finally:
        for each in (*slow, *strangers):
            each.close()
        context.term()
        server.end(signal.SIGTERM)
    assert (status["received"], status["refused"], status["trained"]) == (1, 0, 0), "the user's alone"
    assert not server.trained()
    told(**ends, garbage=garbage, slowloris=min(count, 50))


def test_a_connection_that_breaks_costs_nothing(
    tmp_path: Path, amount: Callable[[int], int], rng: random.Random, told: Callable[..., None]
) -> None:
    """Through a proxy that drops, delays, cuts and half-closes: each job once, and trained once."""
    server = Server(tmp_path)
    server.start()
    proxy, count, outcomes = ByteProxy(server.port, rng), amount(500), list[AdaptOutcome]()
    link = Link(f"tcp://127.0.0.1:{proxy.port}", silence_s=0.5, attempts=400, window=8)

    def drive() -> None:
        for n in range(0, count, 20):  # each run has a connection of its own
            outcomes.extend(RemoteInnerLoop(link).run([job(k) for k in range(n, min(n + 20, count))]))

    driver = threading.Thread(target=drive, daemon=True)
    driver.start()
    driver.join(240)
    server.end(signal.SIGTERM)
    proxy.close()
    assert [o for o in outcomes if o.error is not None] == []
    assert Counter(o.job_id for o in outcomes) == Counter(f"j{n}" for n in range(count))
    assert all(o.adapted[0].text == f"seed {o.job_id[1:]}" for o in outcomes)
    assert set(server.trained().values()) == {1}, "what was sent again is not trained again"
    told(jobs=count)
    told(**proxy.done)


def test_four_times_too_many_clients(
    tmp_path: Path, amount: Callable[[int], int], told: Callable[..., None]
) -> None:
    """64 clients at a server that takes 16 requests: refused at once, and neither memory nor files grow."""
    server, seconds = Server(tmp_path, "--capacity", "16"), amount(120)
    server.start()
    assert server.process is not None
    process = psutil.Process(server.process.pid)
    ends, waits, sizes = Counter[str](), list[float](), list[tuple[int, int]]()
    until, lock = time.monotonic() + seconds, threading.Lock()

    def ask(client: int) -> None:
        n = 0
        with zmq.Context.instance().socket(zmq.REQ) as connection:
            connection.linger = 0
            connection.connect(server.address)
            while time.monotonic() < until:
                n += 1
                wire = job_to_wire(job(client * 10**6 + n))
                message = {"v": 1, "id": f"{client}.{n}", "cmd": "adapt", "job": wire}
                began = time.monotonic()
                connection.send(json.dumps(message).encode())
                assert connection.poll(60_000)
                reply = json.loads(connection.recv())
                with lock:
                    ends[reply.get("code", reply["type"])] += 1
                    if reply.get("code") == "busy":
                        waits.append(time.monotonic() - began)
                if reply.get("code") == "busy":
                    time.sleep(0.2)

    clients = [threading.Thread(target=ask, args=(n,), daemon=True) for n in range(64)]
    for client in clients:
        client.start()
    while time.monotonic() < until:
        time.sleep(max(0.2, seconds / 20))
        sizes.append((process.memory_info().rss, process.num_fds()))
    for client in clients:
        client.join(90)
    status = TTTClient(Link(server.address)).command("status")
    server.end(signal.SIGTERM)
    told(**ends, median_refusal_s=statistics.median(waits), worst_refusal_s=max(waits))
    half = len(sizes) // 2
    assert status["queued"] == 0
    assert set(ends) == {"result", "busy"}
    assert ends["busy"] > 64
    assert statistics.median(waits) < 1
    assert sizes[-1][0] - sizes[half][0] < 2000 * ends["result"] + 20 * 2**20, "replies are kept, 1 KB each"
    assert max(fds for _, fds in sizes[half:]) <= max(fds for _, fds in sizes[: half + 1]) + 8


def test_what_is_no_reply_is_said(
    amount: Callable[[int], int], rng: random.Random, told: Callable[..., None]
) -> None:
    """A server that answers with anything but a reply ends a driver with a word, never as a bug."""
    bad = [b"", b"[]", b"7", b"null", b"{", b"\xff", b'{"id": 7}', b'{"id": {}}', b"[" * 5000, b"<html>"]
    count, ends = amount(200), Counter[str]()
    with zmq.Context.instance().socket(zmq.ROUTER) as front:
        front.linger = 0
        port = front.bind_to_random_port("tcp://127.0.0.1")
        link = Link(f"tcp://127.0.0.1:{port}", silence_s=20)
        for n in range(count):
            wrong = rng.choice(bad) if n % 2 else None

            def answer(wrong: bytes | None = wrong) -> None:
                asked: dict[str, Any] = {}
                while asked.get("cmd") != "adapt":  # between them the last one's cancellation
                    *head, raw = front.recv_multipart()
                    asked = json.loads(raw)
                name = asked["id"]
                odd = rng.choice(([], 7, {}, {"job_id": 1}, None, {"adapted": "x"}))
                front.send_multipart([*head, wrong or json.dumps({"id": name, "outcome": odd}).encode()])

            thread = threading.Thread(target=answer, daemon=True)
            thread.start()
            with pytest.raises(ServeError):
                list(RemoteInnerLoop(link).run([job(n)]))
            ends["no_reply" if wrong else "no_outcome"] += 1
            thread.join(20)
    told(**ends)
