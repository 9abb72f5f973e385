"""A TTT server in a process of its own whose engine trains nothing.

    stub_server.py PORT STORE TRAINED [--keys FILE] [--allow FILE] [--capacity N]

It is the real front, queue and store. Every job that the engine begins is a line of the file TRAINED.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from seal.protocols import FollowUp
from seal.records import AdaptJob, AdaptOutcome, Answer, Verdict
from seal.serve.requests import Requests
from seal.serve.security import read_allowed, read_keys
from seal.serve.server import TTTServer
from seal.serve.settings import ServerSettings
from seal.serve.store import Store


class Stub:
    """Takes five milliseconds a job."""

    slots = 4

    def __init__(self, trained: Path) -> None:
        self.trained = os.open(trained, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def close(self) -> None: ...

    def run(
        self, jobs: Iterable[AdaptJob | None], follow_up: FollowUp | None = None
    ) -> Iterator[AdaptOutcome]:
        for job in jobs:
            if job is None:
                break
            os.write(self.trained, f"{job.seed}\n".encode())
            time.sleep(0.005)
            answer = Answer(job.eval_prompts[0].id, f"seed {job.seed}", 1, verdict=Verdict.CORRECT)
            yield AdaptOutcome(job.id, (answer,), (answer,))


class AnyTokens(Requests):
    """Jobs as they come, for a model that is not there."""

    def __init__(self) -> None:
        self.policy, self._vocabulary, self._window = "p", 100, 64


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("port", "store", "trained"):
        parser.add_argument(name)
    for name in ("--keys", "--allow"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--capacity", type=int, default=256)
    given = parser.parse_args()
    settings = ServerSettings(
        port=int(given.port),
        heartbeat_s=0.2,
        capacity=given.capacity,
        keys=given.keys and read_keys(given.keys),
        allowed=read_allowed(given.allow) if given.allow else {},
    )
    TTTServer(Stub(Path(given.trained)), AnyTokens(), settings, Store(given.store, "p")).run(
        lambda address: print(address, flush=True)
    )
