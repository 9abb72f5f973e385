"""The TTT server under load: equal replies at any number of clients, and memory that does not grow."""

from __future__ import annotations

import gc
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

import ttt_in_process
from seal.graded import Graded
from seal.grading import LexicalGrader
from seal.inner.loop import LocalInnerLoop
from seal.models.load import load_model
from seal.serve.client import TTTClient
from seal.serve.link import Link
from seal.serve.requests import Requests
from seal.serve.server import TTTServer
from seal.serve.settings import ServerSettings

pytestmark = pytest.mark.slow


def request(n: int, epochs: int) -> dict[str, Any]:
    """A job of the usual shape, small: sequences of some 50 tokens, a few short answers."""
    return {
        "train_sequences": [f"Topic {n}\nfact {i} about {n} is {'abcdefgh'[i]}{n}." for i in range(6)],
        "eval_questions": [
            {"title": f"Topic {n}", "context": "", "question": f"What is fact {i}?", "answer": f"x{n}"}
            for i in range(4)
        ],
        "lora_rank": 8,
        "finetune_epochs": epochs,
        "seed": n,
    }


@contextmanager
def serving(loaded: Any) -> Iterator[TTTClient]:
    server = TTTServer(
        Graded(LocalInnerLoop(loaded), LexicalGrader()), Requests(loaded), ServerSettings(port=0)
    )
    ready: queue.SimpleQueue[str] = queue.SimpleQueue()
    thread = threading.Thread(target=server.run, args=(ready.put,), daemon=True)
    thread.start()
    try:
        yield TTTClient(Link(ready.get(timeout=60), silence_s=240))
    finally:
        server.stop()
        thread.join(60)


def test_eight_clients_are_faster_than_one_and_get_the_same_replies(tiny: Any) -> None:
    requests = [request(n, 2) for n in range(64)]
    took: dict[int, float] = {}
    replies: dict[int, list[Any]] = {}
    for clients in (1, 8):
        with serving(tiny()) as client, ThreadPoolExecutor(clients) as pool:
            client.ask(request(999, 1))
            began = time.process_time()
            replies[clients] = list(pool.map(client.ask, requests))
            took[clients] = time.process_time() - began
    assert replies[1] == replies[8]

    assert ttt_in_process.replies(tiny(), requests) == replies[8]
    print(f"{len(requests)} requests one after another: {took[1]:.1f} CPU s; from 8 clients: {took[8]:.1f}")
    assert took[8] < took[1] / 1.5


def test_memory_stays_flat_over_500_requests() -> None:
    """In a process of its own: what other tests have left in this one would count."""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    command = [sys.executable, __file__]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=280, env=environment)
    # replies are kept for clients that ask again: about 1 KB each
    assert int(done.stdout) < 12 * 2**20


def grown() -> int:
    """Bytes that the last 350 of 500 requests have added to this process."""
    process = psutil.Process()
    loaded = load_model("tiny-random-llama", device="cpu", dtype="float32")
    with serving(loaded) as client, ThreadPoolExecutor(4) as pool:

        def some(first: int, n: int) -> int:
            replies = pool.map(
                client.ask, (request(i % 50, 1) | {"seed": i} for i in range(first, first + n))
            )
            assert all("adapter_accuracy" in reply for reply in replies)
            gc.collect()
            return process.memory_info().rss

        begun = some(0, 150)
        ended = some(150, 350)
        assert client.command("status")["trained"] == 500
    return ended - begun


if __name__ == "__main__":
    print(grown())
