"""Jobs for a TTT server whose engine trains nothing, and that server in a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

from seal.records import AdaptJob, EvalPrompt, Question, Sampling, TrainingConfig, TrainingSequence

SCRIPT = Path(__file__).parent / "faults" / "stub_server.py"


def job(n: int) -> AdaptJob:
    prompt = EvalPrompt("p0", (1, 2), Sampling(0.0, max_new_tokens=4), question=Question("Q", "A"))
    return AdaptJob(f"j{n}", (TrainingSequence((1, 2, 3)),), TrainingConfig(rank=2), (prompt,), n)


class Server:
    """The stub on a port that stays the same."""

    def __init__(self, folder: Path, *options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder, self.process, self.options = folder, None, options
        self.address = f"tcp://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, str(SCRIPT), str(self.port), "store.sqlite", "trained", *self.options]
        self.process = subprocess.Popen(command, cwd=self.folder, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == self.address

    def end(self, number: signal.Signals) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)
        self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def trained(self) -> Counter[str]:
        """How often each job was begun, by its seed."""
        return Counter((self.folder / "trained").read_text().split())
