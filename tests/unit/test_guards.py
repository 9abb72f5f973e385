"""Every mutant of `tests/faults` still fits the code; that each is caught is what `make test-faults` says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_every_mutant_fits_the_code() -> None:
    script = Path(__file__).parents[1] / "faults" / "mutants.py"
    done = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[0]) >= 60
