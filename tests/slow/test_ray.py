"""The pool on real Ray, on loopback: same bits as here, whatever ends meanwhile, and nothing left behind."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from inner_contract import RECIPE, ask_on, job
from seal.batches import Batch
from seal.cluster.crew import RayCrew, RaySettings
from seal.cluster.member import RayWorker
from seal.cluster.session import Session
from seal.engine import EngineSettings, inner_loop
from seal.inner.loop import LocalInnerLoop
from seal.models.checkpoint import save_checkpoint
from seal.models.load import load_model
from seal.pool import Pool
from seal.protocols import FollowUp, InnerLoop
from seal.records import AdaptJob
from seal.workers.inprocess import InProcessWorker
from seal.workers.process import WorkerModel, WorkerSetup

if importlib.util.find_spec("ray") is None:  # whose import decides where it listens
    pytest.skip("ray is not installed", allow_module_level=True)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Ray's own sockets and logs
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def some_jobs(n: int = 12) -> list[AdaptJob]:
    return [job(f"n{i}", i, replace(RECIPE, epochs=1 + i % 4), n_rows=1 + i % 3) for i in range(n)]


def by_id(loop: InnerLoop, jobs: list[AdaptJob], follow_up: FollowUp | None = None) -> dict[str, Any]:
    return {o.job_id: untimed(o) for o in loop.run(jobs, follow_up)}


def untimed(outcome: Any) -> dict[str, Any]:
    return {**asdict(outcome), "timings": (outcome.timings.train_tokens, outcome.timings.answer_tokens)}


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    local = LocalInnerLoop(load_model("tiny-random-llama", device="cpu"), slots=2, token_budget=64)
    return by_id(Pool([InProcessWorker(local)], 2), some_jobs())


def programs() -> set[int]:
    """Programs that this process has started."""
    return {child.pid for child in psutil.Process().children(recursive=True)}


def test_a_cluster_of_its_own_gives_the_same_bits_and_leaves_nothing(
    expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    tests = str(Path(__file__).parents[1])  # where the second question's function lies
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (tests, os.environ.get("PYTHONPATH")))))
    before, folders, made_by = programs(), [], tempfile.mkdtemp

    def noted(*args: Any, **named: Any) -> str:
        folders.append(Path(made_by(*args, **named)))
        return str(folders[-1])

    monkeypatch.setattr(tempfile, "mkdtemp", noted)
    settings = EngineSettings(workers=2, slots=2, token_budget=64, ray=RaySettings("own"))
    loop = inner_loop(load_model("tiny-random-llama", device="cpu"), settings, 2)
    try:
        assert by_id(loop, some_jobs()) == expected
        assert loop.slots == 4
        listening = {
            c.laddr.ip
            for p in map(psutil.Process, programs() - before)
            for c in p.net_connections("inet")
            if c.status == psutil.CONN_LISTEN
        }
        assert listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
        asked = FollowUp(ask_on, {f"n{i}": "x" for i in range(12)})
        here = LocalInnerLoop(load_model("tiny-random-llama", device="cpu"), slots=2, token_budget=64)
        assert by_id(loop, some_jobs(), asked) == by_id(Pool([InProcessWorker(here)], 2), some_jobs(), asked)
    finally:
        loop.close()
    deadline = time.monotonic() + 60
    while programs() - before and time.monotonic() < deadline:
        time.sleep(0.2)
    assert programs() - before == set()
    assert any(folder.name.startswith("seal-ray-") for folder in folders)
    assert [folder for folder in folders if folder.exists()] == []


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A cluster of two nodes on this machine, with a cache each."""
    Session(None, 1, "first").close()  # Ray settles where it listens and who is let in when it first starts
    from ray.cluster_utils import Cluster

    os.environ["RAY_AUTH_MODE"] = "token"
    cluster = Cluster()
    caches = [tmp_path_factory.mktemp("cache") for _ in range(2)]
    for cache in caches:
        cluster.add_node(
            num_cpus=1,
            include_dashboard=False,
            node_ip_address="127.0.0.1",
            object_store_memory=80 * 2**20,
            env_vars={"SEAL_CACHE": str(cache)},
        )
    cluster.caches = caches
    yield cluster
    cluster.shutdown()


def crew_at(address: str, run: str, folder: Path, workers: int | None = None) -> RayCrew:
    """Of a policy whose name means nothing to the nodes."""
    loaded = load_model(str(folder), device="cpu")
    model = WorkerModel("nowhere", loaded.version, "cpu", "float32", prompts=loaded.contract.settings)
    return RayCrew(RaySettings(run, address, workers), WorkerSetup(model, 1, 2, 64), lambda: folder)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy") / "policy"
    loaded = load_model("tiny-random-llama", device="cpu")
    save_checkpoint(loaded.model, loaded.tokenizer, folder)
    return folder


def test_two_nodes_get_the_policy_once_each_and_a_killed_actor_changes_nothing(
    two_nodes: Any, policy: Path, expected: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="seal")  # whatever an earlier command set
    crew = crew_at(two_nodes.address, "two", policy)
    pool = Pool(crew.workers(), 2, attend=crew.attend)
    with closing(pool):
        found: dict[str, Any] = {}
        for outcome in pool.run(some_jobs()):
            found[outcome.job_id] = untimed(outcome)
            if len(found) == 1:
                victim = next(iter(pool.workers))
                (pid,) = _ask(victim, "ping")
                os.kill(pid, signal.SIGKILL)
        assert found == expected
        assert len(pool.workers) == 2, "one a CPU, found out while it runs"
        for cache in two_nodes.caches:
            assert [p.name for p in (cache / "policies").iterdir() if p.is_dir()] == [
                crew.setup.model.version
            ]
        fetched = [r.args[0] for r in caplog.records if "fetched the policy" in r.msg]
        assert len([mb for mb in fetched if mb]) == 2, fetched


def _ask(worker: Any, method: str) -> list[Any]:
    call, said = worker._actor.call(method), []
    while not said:
        said = call.take()
    return said


_DRIVER = """
import os, signal, sys
sys.path[:0] = {path!r}
from test_ray import crew_at, some_jobs
from seal.pool import Pool
from pathlib import Path
crew = crew_at({address!r}, "killed", Path({policy!r}), 2)
pool = Pool(crew.workers(), 2, attend=crew.attend)
for outcome in pool.run(some_jobs()):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_driver_that_was_killed_finds_its_actors_and_what_they_did(
    two_nodes: Any, policy: Path, expected: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    here = Path(__file__).parent
    script = _DRIVER.format(path=[str(here), str(here.parent)], address=two_nodes.address, policy=str(policy))
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    caplog.set_level("INFO", logger="seal")  # whatever an earlier command set
    crew = crew_at(two_nodes.address, "killed", policy, 2)
    pool = Pool(crew.workers(), 2, attend=crew.attend)
    with closing(pool):
        assert by_id(pool, some_jobs()) == expected
        assert any("2 workers of this run are still there" in r.getMessage() for r in caplog.records)
        assert "from what they had finished" in caplog.text


def test_a_node_that_leaves_takes_no_batch_with_it_and_one_that_joins_gets_work(
    two_nodes: Any, policy: Path, expected: dict[str, Any], tmp_path: Path
) -> None:
    crew = crew_at(two_nodes.address, "moving", policy)
    pool = Pool(crew.workers(), 2, attend=crew.attend)
    with closing(pool):
        found: dict[str, Any] = {}
        leaving = two_nodes.list_all_nodes()[-1]
        for outcome in pool.run(some_jobs()):
            if not found:
                two_nodes.remove_node(leaving, allow_graceful=False)
                two_nodes.add_node(
                    num_cpus=1, object_store_memory=80 * 2**20, env_vars={"SEAL_CACHE": str(tmp_path)}
                )
            found[outcome.job_id] = untimed(outcome)
        assert found == expected


def test_a_node_that_says_it_leaves_ends_its_batch_and_gets_no_other(
    two_nodes: Any,
    policy: Path,
    expected: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the command that an operator gives; Ray does the same for a node that is ended with notice."""
    caplog.set_level("INFO", logger="seal")
    monkeypatch.setattr("seal.cluster.crew._LOOK_S", 0.2)
    sent: list[tuple[str, tuple[str, ...]]] = []
    send = RayWorker.send

    def noted(self: RayWorker, batch: Batch) -> None:
        sent.append((self._node, tuple(job.id for job in batch.jobs)))
        send(self, batch)

    monkeypatch.setattr(RayWorker, "send", noted)
    crew = crew_at(two_nodes.address, "draining", policy)
    pool = Pool(crew.workers(), 2, attend=crew.attend)
    leaving, before = "", 0
    with closing(pool):
        for _ in range(3):
            found: dict[str, Any] = {}
            for outcome in pool.run(some_jobs()):
                if not leaving and len({node for node, _ in sent}) == 2:
                    leaving = sent[-1][0]
                    drain(two_nodes.address, leaving)
                    until = time.monotonic() + 60
                    while not crew.leaving(leaving) and time.monotonic() < until:
                        crew.attend(pool.workers)
                        time.sleep(0.05)
                    before = len(sent)
                found[outcome.job_id] = untimed(outcome)
            assert found == expected
    assert before
    assert leaving not in {node for node, _ in sent[before:]}
    assert len(sent) == 3 * 6, "nothing was done again"
    assert "is about to leave" in caplog.text
    assert "a worker ended" not in caplog.text


def drain(address: str, node: str) -> None:
    reason = ("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "maintenance")
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", address]
    command += ["--node-id", node, *reason, "--deadline-remaining-seconds", "600"]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
