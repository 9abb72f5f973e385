"""Takes every guard in `guards.py` away, one at a time, and sees whether its tests notice.

    python tests/faults/mutants.py                 all of them (about an hour on one core)
    python tests/faults/mutants.py --only journal  those whose name or file holds a word
    python tests/faults/mutants.py --every 10      every tenth
    python tests/faults/mutants.py --jobs 2        two at a time
    python tests/faults/mutants.py --check         only whether each still fits the code (a second)

It works on copies of `src` in a temporary folder. Exit code 1: a mutant survived, no longer fits, or its
tests fail without it.
"""

from __future__ import annotations

import argparse
import functools
import os
import queue
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).parent))
from guards import MUTANTS, Mutant

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 600
"""A mutant that makes its tests hang is caught by then."""


def misfits(source: Path) -> list[str]:
    """Mutants whose guard is not in the code exactly once, or whose tests are not there."""
    found = []
    for mutant in MUTANTS:
        count = (source / "seal" / mutant.file).read_text("utf-8").count(mutant.old)
        if count != 1:
            found.append(f"{mutant.name}: its guard stands {count} times in {mutant.file}")
        missing = [name for name in files(mutant) if not (ROOT / name).is_file()]
        found += [f"{mutant.name}: there is no {name}" for name in missing]
    return found


def files(mutant: Mutant) -> list[str]:
    return [f"tests/unit/{word}" for word in shlex.split(mutant.tests) if word.endswith(".py")]


def run(tests: str, source: Path) -> int:
    """Pytest's exit code for the tests of a mutant on the code in `source`; 124: they hang."""
    words = [f"tests/unit/{w}" if w.endswith(".py") else w for w in shlex.split(tests)]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", *words]
    environment = os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return 124
    return done.returncode


def failing(names: str, mutants: list[Mutant], source: Path) -> set[str]:
    """Tests in the files `names` that fail on the code as it is; tried together, so that it is quick."""
    words = [m.tests.partition(" -k ")[2].strip("'") for m in mutants]
    asked = dict.fromkeys(f"({each})" if each else "test" for each in words)
    if run(f"{names} -k {shlex.quote(' or '.join(asked))}", source) == 0:
        return set()
    return {tests for tests in dict.fromkeys(m.tests for m in mutants) if run(tests, source) != 0}


def play(mutant: Mutant, source: Path) -> str:
    """`caught` or `SURVIVED`."""
    file = source / "seal" / mutant.file
    whole = file.read_text("utf-8")
    file.write_text(whole.replace(mutant.old, mutant.new), "utf-8")
    try:
        code = run(mutant.tests, source)
    finally:
        file.write_text(whole, "utf-8")
    return "SURVIVED" if code == 0 else "caught"


def play_all(mutants: list[Mutant], jobs: int) -> dict[str, list[str]]:
    """Names of the mutants by how each ended; their tests are run on the whole code first."""
    ends: dict[str, list[str]] = {}
    copies: queue.SimpleQueue[Path] = queue.SimpleQueue()

    def with_copy(work: Callable[[Path], T]) -> T:
        source = copies.get()
        try:
            return work(source)
        finally:
            copies.put(source)

    def played(mutant: Mutant) -> None:
        began = time.monotonic()
        unknown = mutant.tests in bad
        end = "UNKNOWN: its tests fail without it" if unknown else with_copy(lambda s: play(mutant, s))
        ends.setdefault(end.partition(":")[0], []).append(mutant.name)
        done = sum(map(len, ends.values()))
        print(f"{done}/{len(mutants)} {end}: {mutant.name} ({time.monotonic() - began:.0f} s)", flush=True)

    with tempfile.TemporaryDirectory(prefix="seal-mutants-") as place, ThreadPoolExecutor(jobs) as pool:
        for n in range(jobs):
            copies.put(Path(shutil.copytree(ROOT / "src", Path(place) / str(n) / "src")))
        groups: dict[str, list[Mutant]] = {}
        for mutant in mutants:
            groups.setdefault(mutant.tests.partition(" -k ")[0], []).append(mutant)
        tried = [pool.submit(with_copy, functools.partial(failing, *group)) for group in groups.items()]
        bad = set().union(*(each.result() for each in tried))
        list(pool.map(played, mutants))
    return ends


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="word in the name or file of a mutant")
    parser.add_argument("--every", type=int, default=1, help="play every n-th")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    parser.add_argument("--check", action="store_true", help="play none")
    options = parser.parse_args()
    wrong = misfits(ROOT / "src")
    print("\n".join(wrong), end="\n" if wrong else "")
    chosen = [m for m in MUTANTS if options.only in m.name or options.only in m.file][:: options.every]
    if options.check or wrong:
        print(f"{len(MUTANTS)} mutants, {len(wrong)} of which do not fit")
        return bool(wrong)
    ends = play_all(chosen, options.jobs)
    print(", ".join(f"{len(names)} {end}" for end, names in ends.items()), f"of {len(chosen)}")
    return int(set(ends) != {"caught"})


if __name__ == "__main__":
    sys.exit(main())
