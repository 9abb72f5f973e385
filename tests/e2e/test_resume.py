"""kill -9, then `seal resume`: a real process, killed by its id, ends with the uninterrupted results."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seal.run.journal import Journal

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
TRAIN = [sys.executable, str(ROOT / "train.py"), "--preset", "test", "--log-level", "INFO"]
#: Rewards that differ between a tiny random model's self-edits, in less time than the preset takes.
QUICK = [
    "reward=log_likelihood",
    "generation.max_new_tokens=16",
    "evaluation.max_new_tokens=4",
    "inner.epochs=1",
]
SEAL = [sys.executable, "-m", "seal"]
LIMIT_S = 120


def start(*command: str, log: Path) -> subprocess.Popen[bytes]:
    """A process of its own, in a group of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("ab") as out:
        return subprocess.Popen(command, stdout=out, stderr=out, env=environment, start_new_session=True)


def train(folder: Path) -> list[str]:
    return [*TRAIN, "--output-dir", str(folder), *(part for setting in QUICK for part in ("--set", setting))]


def kill_when(process: subprocess.Popen[bytes], moment: Callable[[], bool]) -> None:
    """End the process by SIGKILL at `moment`; it must not have ended by itself."""
    until = time.monotonic() + LIMIT_S
    while not moment():
        assert process.poll() is None, f"the run ended by itself with {process.returncode}"
        assert time.monotonic() < until, "the moment to kill at never came"
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(timeout=10) == -signal.SIGKILL


def lines(folder: Path) -> list[bytes]:
    try:
        return (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []


def whole_lines(folder: Path) -> list[bytes]:
    return [line for line in lines(folder) if line.endswith(b"\n")]


def results(folder: Path) -> dict[tuple[str, str], Any]:
    """All that a run found, timings aside, and the hashes of its checkpoints' files."""

    def untimed(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: untimed(v) for k, v in value.items() if k not in ("train_s", "answer_s")}
        return [untimed(v) for v in value] if isinstance(value, list) else value

    found = {
        (r.kind, r.key): untimed(r.data) for r in Journal.read(folder / "journal.jsonl") if r.kind != "phase"
    }
    for manifest in sorted(folder.glob("checkpoints/*/manifest.json")):
        found["manifest", manifest.parent.name] = json.loads(manifest.read_text())
    return found


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    process = start(*train(folder), log=folder.parent / "log")
    assert process.wait(timeout=LIMIT_S) == 0, (folder.parent / "log").read_text()
    return folder


@pytest.mark.slow
def test_killed_again_and_again(uninterrupted: Path, tmp_path: Path) -> None:
    """One run, killed among adapters and self-edits, in the M-step, and while saving its policy."""
    folder, log = tmp_path / "run", tmp_path / "log"
    rows = Journal.read(uninterrupted / "journal.jsonl")

    def after(kind: str, nth: int) -> int:
        return [row.n for row in rows if row.kind == kind][nth]

    def in_m_step(n: int) -> Callable[[], bool]:
        """The last reward of round `n` stands, and the new policy does not."""
        decided = [row.n for row in rows if row.kind == "result"][4 * n + 3]
        reached: list[float] = []

        def moment() -> bool:
            if not reached and len(whole_lines(folder)) >= decided:
                reached.append(time.monotonic())
            return bool(reached) and time.monotonic() - reached[0] > 0.3

        return moment

    def held(count: int) -> Callable[[], bool]:
        return lambda: len(whole_lines(folder)) >= count

    def staging() -> bool:
        """The second policy is being written beside its final place (or, on a busy machine, just was)."""
        return any((folder / "checkpoints").glob("*policy-2*"))

    moments = [
        held(after("trial", 2)),
        held(after("edit", 3)),
        in_m_step(0),
        held(after("trial", 8)),
        staging,
    ]
    command = train(folder)
    for moment in moments:
        before = whole_lines(folder)
        kill_when(start(*command, log=log), moment)
        assert whole_lines(folder)[: len(before)] == before, "nothing that was finished is touched again"
        command = [*SEAL, "resume", str(folder)]
    assert start(*command, log=log).wait(timeout=LIMIT_S) == 0, log.read_text()
    assert results(folder) == results(uninterrupted)
    assert not list((folder / "checkpoints").glob(".*")), "nothing half-written is left"
    assert "Traceback" not in log.read_text()


def test_a_second_process_is_refused_while_the_first_goes_on(uninterrupted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = start(*train(folder), log=tmp_path / "first")
    try:
        until = time.monotonic() + LIMIT_S
        while not whole_lines(folder):
            assert first.poll() is None
            assert time.monotonic() < until
            time.sleep(0.001)
        os.kill(first.pid, signal.SIGSTOP)  # it must not finish before the others have tried
        second = subprocess.run(
            [*SEAL, "resume", str(folder)], capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        assert second.returncode == 2
        assert second.stderr.startswith(f"error: {folder}: another process has this run open")
        assert second.stderr.count("\n") == 1
        third = subprocess.run(train(folder), capture_output=True, text=True, timeout=LIMIT_S, check=False)
        assert third.returncode == 2
        assert third.stderr.startswith(f"error: {folder}: holds a run already")
    finally:
        os.kill(first.pid, signal.SIGTERM)
        os.kill(first.pid, signal.SIGCONT)
        first.wait(timeout=LIMIT_S)
    assert first.wait(timeout=LIMIT_S) == 130
    assert f"seal resume {folder} continues" in (tmp_path / "first").read_text()
    done = subprocess.run(
        [*SEAL, "resume", str(folder)], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"results: {folder}"
    assert results(folder) == results(uninterrupted)
