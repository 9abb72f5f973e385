"""Whole commands killed again and again: what was finished stays, and the end is the uninterrupted one's."""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from killed_commands import COMMANDS, TINY, ForkServer, Killer, Whole, opened, units
from seal.records import AdaptJob, AdaptOutcome
from seal.serve.client import RemoteInnerLoop
from seal.serve.link import Link
from seal.supervisor import free_port
from stub_ttt import job

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_are_killed_at_random_moments(
    name: str,
    server: ForkServer,
    tmp_path: Path,
    amount: Callable[[int], int],
    rng: random.Random,
    told: Callable[..., None],
) -> None:
    command, ends, slowest = COMMANDS[name], Counter[str](), 0.0
    life, seconds, whole, work = Whole.of(server, command, tmp_path / "whole", stub=True)
    wanted, episode = amount(command.kills), 0
    while ends.total() < wanted:
        killer = Killer(server, command, tmp_path / str(episode), stub=True)
        for _ in range(min(6, wanted - ends.total())):
            at_call = rng.random() < 0.7
            where = {"call": rng.randint(1, life.calls)} if at_call else {"after": rng.uniform(0, seconds)}
            if killer.live(**where).code == 0:
                break
            ends["at_a_change_of_a_file" if at_call else "at_a_moment"] += 1
        else:
            killer.go_on_to_the_end()
        killer.check(whole, work)
        slowest, episode = max(slowest, opened(killer.cwd)), episode + 1
        shutil.rmtree(killer.cwd)
    told(**ends, ready_again_after_s=slowest)
    left = list(server.scratch.glob("seal-*"))
    assert len(left) <= 1, "the next start takes the old ones"


@pytest.mark.parametrize("shift", [3600, -3600, 365 * 86400, -365 * 86400])
def test_clocks_have_no_part_in_results(
    shift: int, server: ForkServer, tmp_path: Path, rng: random.Random, told: Callable[..., None]
) -> None:
    """A run that is killed goes on under another clock, is killed again, and ends under the first one."""
    for name, command in COMMANDS.items():
        life, _, whole, work = Whole.of(server, command, tmp_path / name / "whole", stub=True)
        killer = Killer(server, command, tmp_path / name / "shifted", stub=True)
        killer.live(call=rng.randint(life.calls // 4, life.calls // 2))
        killer.live(call=rng.randint(1, life.calls // 2), clock=shift)
        killer.go_on_to_the_end()
        killer.check(whole, work)
    told(runs=len(COMMANDS))


def test_a_tiny_model_is_killed_inside_what_takes_long(
    server: ForkServer,
    tmp_path: Path,
    amount: Callable[[int], int],
    rng: random.Random,
    told: Callable[..., None],
) -> None:
    """In a training round, in the grading of an adapter, in the M-step, in the save of a policy."""
    lasts = {"train": 0.03, "grade": 0.001, "m-step": 0.5, "save": 0.05}
    command, ends, episode = COMMANDS["train"], Counter[str](), 0
    _, _, whole, work = Whole.of(server, command, tmp_path / "whole", stub=False)
    due = [place for place in lasts for _ in range(amount(40) // 4 + 1)]
    rng.shuffle(due)
    while due:
        killer = Killer(server, command, tmp_path / str(episode), stub=False)
        while due:
            place = due[-1]
            where = {"inside": [place, rng.randint(1, 2)], "delay": rng.uniform(0, lasts[place])}
            if killer.live(**where).code == 0:
                break
            ends[due.pop()] += 1
        else:
            killer.go_on_to_the_end()
        killer.check(whole, work)
        episode += 1
    told(**ends)


def test_a_server_is_killed_under_its_driver(
    server: ForkServer,
    tmp_path: Path,
    amount: Callable[[int], int],
    rng: random.Random,
    told: Callable[..., None],
) -> None:
    """`seal serve` with a store: every job once, no error, the answers of an undisturbed server."""
    port = free_port()
    serve = ["serve", "--model", "tiny-random-llama", "--port", str(port), "--workers", "1", *TINY]
    link = Link(f"tcp://127.0.0.1:{port}", silence_s=1.0, attempts=600, window=4)
    kills, wanted = 0, amount(40)

    def drive(jobs: Iterable[AdaptJob], into: list[AdaptOutcome]) -> threading.Thread:
        thread = threading.Thread(target=lambda: into.extend(RemoteInnerLoop(link).run(jobs)), daemon=True)
        thread.start()
        return thread

    def jobs() -> Iterator[AdaptJob]:
        n = 0
        while kills < wanted:
            n += 1
            time.sleep(0.02)
            yield job(n)

    found, expected = list[AdaptOutcome](), list[AdaptOutcome]()
    driver = drive(jobs(), found)
    while driver.is_alive():
        length = rng.uniform(0.5, 3.0) if kills < wanted else 20.0
        life = server.run([*serve, "--store", "store.sqlite"], tmp_path, stub=True, after=length)
        assert life.code == -9, (tmp_path / ".log").read_text()[-3000:]
        kills += 1
    trained = units(tmp_path)
    driver = drive([job(int(o.job_id[1:])) for o in found], expected)
    while driver.is_alive():
        server.run(serve, tmp_path, stub=True, after=20.0)
    answers = {o.job_id: [a.text for a in o.adapted] for o in expected}
    assert [o for o in found if o.error is not None] == []
    assert Counter(o.job_id for o in found) == Counter(list(answers)), "each once"
    assert {o.job_id: [a.text for a in o.adapted] for o in found} == answers
    assert trained <= len(found) + 4 * kills, "at most what was in flight is trained again"
    told(killed=kills)
