"""Two drivers on one run: one is stopped for a while, another takes over, and the first goes on."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from killed_commands import COMMANDS, ForkServer, Killer, Whole, outcome

pytestmark = pytest.mark.slow


def take_its_place(journal: Path) -> None:
    """What a hasty operator does: the lock file is deleted, and the journal (locked as well) copied over."""
    (journal.parent / f".{journal.name}.lock").unlink(missing_ok=True)
    shutil.copy(journal, journal.with_name("copy"))
    os.replace(journal.with_name("copy"), journal)


@pytest.mark.parametrize("careful", [True, False], ids=["with_its_lock", "without"])
def test_a_driver_that_was_stopped_goes_on_after_another_took_over(
    careful: bool,
    server: ForkServer,
    tmp_path: Path,
    amount: Callable[[int], int],
    rng: random.Random,
    told: Callable[..., None],
) -> None:
    command, ends = COMMANDS["train"], Counter[str]()
    _, seconds, whole, _ = Whole.of(server, command, tmp_path / "whole", stub=True)
    wanted = amount(20)
    for n in range(wanted):
        one = Killer(server, command, tmp_path / str(n), stub=True)
        stopped = one.live(stop=rng.uniform(0.1, 0.7) * seconds)
        if not stopped.pid:
            ends["was_over_before"] += 1
            continue
        if n == 0 and wanted == 20:
            time.sleep(60)
        ends[_second(one, stopped.pid, careful)] += 1
        assert outcome(one.cwd) == whole
        shutil.rmtree(one.cwd)
    told(**ends)


def _second(one: Killer, stopped: int, careful: bool) -> str:
    """Another driver comes, then the first one goes on; how that went."""
    asked = {"stub": True, "log": str(one.cwd.parent / "log"), "work": str(one.cwd.parent / "work")}
    if not one.journal.exists() or not (one.journal.parent / "config.yaml").exists():
        assert one.server.go_on(stopped).code == 0
        return "stopped_before_the_run"
    if careful:
        refused = one.server.run(["resume", one.command.folder], one.cwd, **asked)
        assert refused.code == 2
        assert one.server.go_on(stopped).code == 0
        return "second_refused"
    take_its_place(one.journal)
    over = one.server.run(["resume", one.command.folder], one.cwd, **asked)
    assert over.code == 0, Path(asked["log"]).read_text()[-2000:]
    finished = one.journal.read_bytes()
    first = one.server.go_on(stopped)
    assert one.journal.read_bytes() == finished, "nothing of the first one's lands"
    assert first.code in (0, 2), (one.cwd / ".log").read_text()[-2000:]
    return "first_refused" if first.code == 2 else "first_had_written_all"
