"""Faults are drawn from a seed and counted; `make test` injects a fiftieth, `make test-faults` all."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

ALL = bool(os.environ.get("SEAL_FAULTS"))
SEED = int(os.environ.get("SEAL_FAULTS_SEED", "0"))


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
def told(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Says what was injected and how it ended: `told(detected=3, same=2)`; a float is a measure beside it."""

    def tell(**counts: float) -> None:
        if ALL:
            with capsys.disabled():
                injected = sum(count for count in counts.values() if isinstance(count, int))
                shown = ", ".join(f"{name} {count}" for name, count in counts.items())
                print(f"\n{request.node.name} (seed {SEED}): {injected} injected: {shown}", flush=True)

    return tell
