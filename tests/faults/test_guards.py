"""The guards that `mutants.py` takes away stand in the code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("mutants.py")


def test_every_guard_that_is_taken_away_is_there() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}name its new place in tests/faults/guards.py"
