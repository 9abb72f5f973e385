"""Workers on a Ray cluster, without Ray: the actors are scripts."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from seal.cluster.member import PING_S, SILENCE_S, Gone, RayWorker, batch_key
from seal.cluster.shipment import PART_BYTES, Shipment
from seal.cluster.slot import About
from seal.config import load_config
from seal.errors import AdaptError, ConfigError
from seal.pool import Pool
from seal.protocols import FollowUp
from seal.records import AdaptJob, AdaptOutcome, TrainingConfig, TrainingSequence
from seal.workers.process import WorkerModel, WorkerSetup
from seal.workers.protocol import Died

ABOUT = About("node-1", "host-1", "code", (), "cpu", 1)
SETUP = WorkerSetup(WorkerModel("m", "v1", "cpu", "float32"), 1, 2, 64)


def jobs_of(n: int) -> list[AdaptJob]:
    return [AdaptJob(f"j{i}", (TrainingSequence((i,)),), TrainingConfig(), (), i) for i in range(n)]


@dataclass
class ScriptedCall:
    says: deque[Any]
    done: bool = False

    def take(self) -> list[Any]:
        """One word at a time."""
        if not self.says:
            return []
        word = self.says.popleft()
        if isinstance(word, Gone):
            raise word
        return [word]


@dataclass
class ScriptedActor:
    """Does what it is asked; `deaths` tells on which batches, by number of batches so far, it ends."""

    crew: ScriptedCrew
    node: str
    has_policy: bool = True
    gone: Gone | None = None
    kept: dict[str, Any] = field(default_factory=dict)
    killed: bool = False
    answers_pings: bool = True

    def call(self, method: str, *arguments: Any) -> ScriptedCall:
        if self.killed:
            raise Gone("it was ended")
        return ScriptedCall(deque(self._says(method, *arguments)))

    def _says(self, method: str, *arguments: Any) -> list[Any]:
        crew = self.crew
        crew.calls.append((method, *arguments[1:]))
        if method == "hello":
            return [(replace(ABOUT, node=self.node), self.kept)]
        if method == "load":
            if not self.has_policy and len(arguments) < 2:
                return ["missing"]
            return ["up"] if self.has_policy else [123, "up"]
        if method == "ping":
            return [1] if self.answers_pings else []
        batch = arguments[0]
        crew.ran.append(tuple(job.id for job in batch.jobs))
        crew.ran_on.append(self.node)
        if self.node == crew.drained_at_work:
            crew.drained.add(self.node)
        if crew.poison & set(crew.ran[-1]):
            return ["began", Gone("killed by a job")]
        if crew.fates:
            began, gone = crew.fates.popleft()
            return [*(["began"] if began else []), gone]
        return ["began", tuple(AdaptOutcome(job.id) for job in batch.jobs)]

    def kill(self) -> None:
        self.killed = True


class ScriptedCrew:
    def __init__(self, **actor: Any) -> None:
        self.kept: dict[str, tuple[AdaptOutcome, ...]] = {}
        self.shipment = Shipment(lambda: Path("/nowhere"), lambda part: part)
        self.shipment._parts = object()  # type: ignore[assignment]
        self.made: list[ScriptedActor] = []
        self.left: list[object] = []
        self.calls: list[Any] = []
        self.ran: list[tuple[str, ...]] = []
        self.ran_on: list[str] = []
        self.drained_at_work, self.drained = "", set[str]()
        self.fates: deque[tuple[bool, Gone]] = deque()
        self.poison: set[str] = set()
        self.refuses: Gone | None = None
        self._actor = actor

    def actor(self, worker: object) -> ScriptedActor:
        self.made.append(ScriptedActor(self, f"n{len(self.made)}", **self._actor))
        return self.made[-1]

    def check(self, about: About) -> None:
        if self.refuses:
            raise self.refuses

    def leaving(self, node: str) -> bool:
        return node in self.drained

    def leave(self, worker: object) -> None:
        self.left.append(worker)


def run(crew: ScriptedCrew, n: int = 5, workers: int = 2, batch: int = 2) -> dict[str, AdaptOutcome]:
    pool = Pool([RayWorker(SETUP, crew) for _ in range(workers)], batch, pause=lambda _: None)
    outcomes = list(pool.run(jobs_of(n)))
    assert sorted(o.job_id for o in outcomes) == [f"j{i}" for i in range(n)]
    pool.close()
    assert all(actor.killed for actor in crew.made)
    assert len(crew.left) >= workers
    return {o.job_id: o for o in outcomes}


def test_every_job_is_done_once_and_nothing_is_left() -> None:
    crew = ScriptedCrew()
    run(crew)
    assert sorted(crew.ran) == [("j0", "j1"), ("j2", "j3"), ("j4",)]
    assert [c[0] for c in crew.calls].count("load") == 2


def test_a_policy_is_sent_only_where_it_is_missing() -> None:
    crew = ScriptedCrew(has_policy=False)
    run(crew, workers=1)
    loads = [c for c in crew.calls if c[0] == "load"]
    assert loads == [("load",), ("load", crew.shipment.parts())]


@pytest.mark.parametrize("began", [True, False])
def test_a_lost_actor_is_replaced_and_its_batch_done_again_whole(began: bool) -> None:
    crew = ScriptedCrew()
    crew.fates.append((began, Gone("killed")))
    found = run(crew)
    assert len(crew.made) == 3
    assert len(crew.ran) == 4
    assert len(set(crew.ran)) == 3
    assert not any(o.error for o in found.values())


def test_a_batch_that_was_sent_ahead_is_not_held_against() -> None:
    """Its actor ends again and again at the batches before it; it is begun once, and never split."""
    crew = ScriptedCrew()
    crew.poison = {"j0", "j1"}
    outcomes = run(crew, n=10, workers=1, batch=2)
    assert {name for name, o in outcomes.items() if o.error} == {"j0", "j1"}
    others = [jobs for jobs in crew.ran if not crew.poison & set(jobs)]
    assert all(len(jobs) == 2 for jobs in others)


def test_a_worker_whose_node_is_about_to_leave_ends_what_it_has_and_goes_elsewhere() -> None:
    crew = ScriptedCrew()
    crew.drained_at_work = "n0"
    run(crew, n=10)
    assert len(crew.ran) == len(set(crew.ran)) == 5, "nothing is done again"
    assert crew.ran_on.count("n0") == 1
    assert crew.ran_on.count("n2") >= 1, "the actor in its place"
    assert len(crew.made) == 3


def test_what_went_with_its_node_is_never_held_against_a_batch() -> None:
    """Two ends inside one batch would split it, and change its last bits."""
    crew = ScriptedCrew()
    crew.fates.extend([(True, Gone("its node has died", innocent=True))] * 4)
    run(crew)
    assert set(crew.ran) == {("j0", "j1"), ("j2", "j3"), ("j4",)}


def test_a_poisoned_job_is_set_aside_and_all_others_are_done() -> None:
    crew = ScriptedCrew()
    crew.poison = {"j2"}
    found = run(crew)
    assert [name for name, o in found.items() if o.error] == ["j2"]
    error = found["j2"].error
    assert error is not None
    assert error.message == "killed by a job"


def test_what_an_earlier_try_had_finished_is_not_done_again() -> None:
    crew = ScriptedCrew()
    jobs = jobs_of(5)
    from seal.batches import Batch

    done = tuple(AdaptOutcome(job.id, losses=(1.0,)) for job in jobs[:2])
    key = batch_key(Batch(7, tuple(jobs[:2])))
    crew._actor["kept"] = {key: done}
    found = run(crew)
    assert ("j0", "j1") not in crew.ran
    assert (found["j0"].losses, found["j2"].losses) == ((1.0,), ())


def test_a_batch_is_known_by_what_is_in_it() -> None:
    from seal.batches import Batch

    jobs = tuple(jobs_of(2))
    key = batch_key(Batch(1, jobs))
    assert key == batch_key(Batch(2, tuple(jobs_of(2))))
    assert key != batch_key(Batch(1, jobs[:1]))
    assert key != batch_key(Batch(1, (jobs[0], replace(jobs[1], seed=9))))
    assert key != batch_key(Batch(1, jobs, FollowUp(run, {"j0": 1})))  # type: ignore[arg-type]


def test_a_node_with_other_code_is_refused_for_good() -> None:
    crew = ScriptedCrew()
    crew.refuses = Gone("host-1 runs other code of seal", for_good=True)
    with pytest.raises(AdaptError, match="no worker of the inner loop can work: host-1 runs other code"):
        run(crew)


def test_an_actor_that_is_silent_counts_as_lost_with_its_node() -> None:
    now = [0.0]
    crew = ScriptedCrew(answers_pings=False)
    worker = RayWorker(SETUP, crew, clock=lambda: now[0])
    worker.start()
    now[0] = 10 * SILENCE_S  # it may wait for a node for as long as it takes
    while not worker.ready:
        assert worker.poll() == []
    now[0] += PING_S + 1
    assert worker.poll() == []
    now[0] += SILENCE_S + 1
    (event,) = worker.poll()
    assert event == Died(f"an actor has not answered for {SILENCE_S:.0f} s", innocent=True)
    assert (worker.ready, crew.made[0].killed) == (False, True)


def test_pings_that_are_answered_go_on() -> None:
    now = [0.0]
    crew = ScriptedCrew()
    worker = RayWorker(SETUP, crew, clock=lambda: now[0])
    worker.start()
    for _ in range(200):
        now[0] += PING_S / 2
        assert worker.poll() == []
    pings = [c for c in crew.calls if c[0] == "ping"]
    assert 40 <= len(pings) <= 101


def test_parts_of_a_policy_are_put_once_and_only_when_asked_for(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x" * (PART_BYTES + 5))
    (tmp_path / "config.json").write_text("{}")
    put: list[int] = []
    asked: list[int] = []

    def folder() -> Path:
        asked.append(1)
        return tmp_path

    def store(part: bytes) -> int:
        put.append(len(part))
        return len(put)

    shipment = Shipment(folder, store)
    assert (asked, put) == ([], [])
    first = shipment.parts()
    assert first is shipment.parts()
    assert first.files == (("config.json", (1,)), ("model.safetensors", (2, 3)))
    assert (asked, put) == ([1], [2, PART_BYTES, 5])


@pytest.mark.parametrize(
    ("inner", "backend"),
    [({}, "local"), ({"server": "tcp://127.0.0.1:1"}, "server"), ({"backend": "ray"}, "ray")],
)
def test_the_backend_is_named_or_follows_from_the_server(inner: dict[str, str], backend: str) -> None:
    assert load_config(preset="test", overrides={"inner": inner}).inner.backend == backend


@pytest.mark.parametrize(
    ("inner", "told"),
    [
        ({"backend": "server"}, "belong together"),
        ({"backend": "ray", "server": "tcp://127.0.0.1:1"}, "belong together"),
        ({"ray_address": "127.0.0.1:6379"}, "ray_address needs backend: ray"),
    ],
)
def test_a_backend_and_its_address_fit(inner: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load_config(preset="test", overrides={"inner": inner})


def test_only_a_server_can_follow_the_rounds() -> None:
    with pytest.raises(ConfigError, match="follow needs `base_url`"):
        load_config(preset="test", overrides={"generation.follow": "lora"})
