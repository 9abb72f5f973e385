"""Faults are drawn from a seed and counted; `make test` injects a fiftieth, `make test-faults` all.

What passed in `make test-faults` is not run again on the same code, so that a run can be interrupted:
`SEAL_FAULTS_AGAIN=1` runs everything.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from killed_commands import ForkServer

ALL = bool(os.environ.get("SEAL_FAULTS"))
SEED = int(os.environ.get("SEAL_FAULTS_SEED", "0"))
ROOT = Path(__file__).parents[2]


@cache
def _passed_file() -> Path:
    """Names of the tests that passed, of this code with this seed."""
    files = sorted(file for place in ("src", "tests") for file in (ROOT / place).rglob("*.py"))
    code = hashlib.sha256(b"".join(file.read_bytes() for file in files) + str(SEED).encode())
    return ROOT / ".pytest_cache" / "faults" / code.hexdigest()[:16]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    file = _passed_file() if ALL and not os.environ.get("SEAL_FAULTS_AGAIN") else None
    if file is None or not file.is_file():
        return
    passed = set(file.read_text().splitlines())
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in passed])
    items[:] = [item for item in items if item.nodeid not in passed]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if not ALL or report.when != "call":
        return
    for name, text in report.user_properties:
        if name == "injected":
            print(f"\n{text}", flush=True)
    if report.passed and "PYTEST_XDIST_WORKER" not in os.environ:
        _passed_file().parent.mkdir(parents=True, exist_ok=True)
        with _passed_file().open("a") as file:
            file.write(f"{report.nodeid}\n")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if ALL and exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and _passed_file().is_file():
        print("\neverything has passed on this code")
        session.exitstatus = pytest.ExitCode.OK


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEAL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def amount() -> Callable[[int], int]:
    """How many of `full` injections this run makes."""
    return lambda full: full if ALL else max(2, full // 50)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Draws of this test alone, equal in every run with the same seed."""
    return random.Random(f"{SEED} {request.node.name}")


@pytest.fixture
def told(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Says what was injected and how it ended: `told(detected=3, same=2)`; a float is a measure beside it."""

    def tell(**counts: float) -> None:
        injected = sum(count for count in counts.values() if isinstance(count, int))
        shown = ", ".join(f"{name} {count}" for name, count in counts.items())
        text = f"{request.node.name} (seed {SEED}): {injected} injected: {shown}"
        request.node.user_properties.append(("injected", text))

    return tell


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """A process that runs commands in forks."""
    server = ForkServer(tmp_path_factory.mktemp("server"))
    yield server
    server.close()
