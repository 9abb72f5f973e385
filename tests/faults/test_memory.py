"""Commands that get less memory than they need end with a line that says so, wherever it runs out."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

TRAIN = ["train", "--preset", "test", "--output-dir", "run", "--set", "inner.epochs=1"]


def test_memory_that_is_not_there(
    tmp_path: Path, amount: Callable[[int], int], rng: random.Random, told: Callable[..., None]
) -> None:
    """`ulimit -v`: as Python starts, in an import, in a model, in training."""
    ends = Counter[str]()
    for n in range(amount(20)):
        folder = tmp_path / str(n)
        folder.mkdir()
        kibibytes = int(2 ** rng.uniform(17, 21.2))
        done = subprocess.run(
            ["bash", "-c", f'ulimit -v {kibibytes}; exec "$@"', "bash", sys.executable, "-m", "seal", *TRAIN],
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        said = f"{kibibytes} KiB: {done.returncode} {done.stderr[-2000:]}"
        assert "Traceback" not in done.stderr, said
        if done.returncode in (0, 2):
            errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
            assert len(errors) == (done.returncode != 0), said
            assert all("memory" in line and "fewer inner.workers" in line for line in errors), said
            ends["enough" if done.returncode == 0 else "refused"] += 1
        else:  # the C library ends the process, or a C extension raises what says nothing
            assert done.stderr.strip(), said
            ends["ended_in_c"] += 1
    assert ends["ended_in_c"] <= 2 + ends.total() // 4
    told(**ends)
