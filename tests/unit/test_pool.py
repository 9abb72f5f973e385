"""The pool over real engines: in this process and in others, by batches and job by job."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from inner_contract import RECIPE, InnerLoopContract, job, same_outcome
from seal.batches import Batch
from seal.engine import EngineSettings, default_workers, inner_loop
from seal.errors import AdaptError, ConfigError
from seal.graded import Graded
from seal.grading import Grader
from seal.inner.loop import LocalInnerLoop
from seal.models.load import LoadedModel, load_model
from seal.pool import Pool
from seal.protocols import FollowUp, InnerLoop
from seal.records import AdaptJob, AdaptOutcome
from seal.workers.inprocess import InProcessWorker
from seal.workers.process import ProcessWorker, WorkerModel, WorkerSetup
from seal.workers.protocol import Event
from seal.workers.sharing import shared


def fresh() -> LoadedModel:
    return load_model("tiny-random-llama", device="cpu")


def process(**changes: Any) -> ProcessWorker:
    model = WorkerModel("tiny-random-llama", fresh().version, "cpu", "float32", shared(fresh()))
    return ProcessWorker(WorkerSetup(replace(model, **changes), threads=1, slots=2, token_budget=64))


def untimed(outcome: AdaptOutcome) -> dict[str, Any]:
    """All of an outcome but its times, to be compared to the last bit."""
    return {**asdict(outcome), "timings": (outcome.timings.train_tokens, outcome.timings.answer_tokens)}


def by_id(loop: InnerLoop, jobs: list[AdaptJob], follow_up: FollowUp | None = None) -> dict[str, Any]:
    return {o.job_id: untimed(o) for o in loop.run(jobs, follow_up)}


class TestPoolOfThisProcess(InnerLoopContract):
    def open_loop(self, grader: Grader, folder: Path) -> Any:
        local = LocalInnerLoop(fresh(), slots=2, token_budget=64)
        return nullcontext(Graded(Pool([InProcessWorker(local)], 3), grader))


class _ProcessPool(InnerLoopContract):
    """Two worker processes, which serve all tests of a class."""

    engines = 2
    batch: int | None = 3
    workers: ClassVar[list[ProcessWorker]] = []

    @contextmanager
    def open_loop(self, grader: Grader, folder: Path) -> Iterator[InnerLoop]:
        if not self.workers:
            self.workers += [process(), process()]
        yield Graded(Pool(self.workers, self.batch), grader)

    @classmethod
    def teardown_class(cls) -> None:
        while cls.workers:
            worker = cls.workers.pop()
            ended = worker.process
            worker.close()
            assert ended is None or not ended.is_alive()


class TestPoolOfProcesses(_ProcessPool):
    pass


class TestPoolOfProcessesJobByJob(_ProcessPool):
    batch = None


@pytest.fixture(scope="module")
def pair() -> Iterator[list[ProcessWorker]]:
    workers = [process(), process()]
    yield workers
    for worker in workers:
        worker.close()


def some_jobs(n: int = 7) -> list[AdaptJob]:
    return [job(f"n{i}", i, replace(RECIPE, epochs=1 + i % 4), n_rows=1 + i % 3) for i in range(n)]


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    local = LocalInnerLoop(fresh(), slots=2, token_budget=64)
    return by_id(Pool([InProcessWorker(local)], 2), some_jobs())


def test_one_two_and_other_workers_give_the_same_to_the_last_bit(
    pair: list[ProcessWorker], expected: dict[str, Any]
) -> None:
    assert by_id(Pool(pair[:1], 2), some_jobs()) == expected
    assert by_id(Pool(pair, 2), some_jobs()) == expected
    local = InProcessWorker(LocalInnerLoop(fresh(), slots=2, token_budget=64))
    assert by_id(Pool([local, *pair], 2), some_jobs()) == expected


def test_a_killed_worker_costs_no_job_and_changes_no_number(
    pair: list[ProcessWorker], expected: dict[str, Any]
) -> None:
    found: dict[str, Any] = {}
    for outcome in Pool(pair, 2).run(some_jobs()):
        found[outcome.job_id] = untimed(outcome)
        if len(found) == 1 and pair[0].process is not None:
            os.kill(pair[0].process.pid or 0, signal.SIGKILL)
    assert found == expected


def test_an_engine_that_fails_in_one_job_sets_that_aside(expected: dict[str, Any]) -> None:
    class Fragile(LocalInnerLoop):
        def run(self, jobs: Any, follow_up: Any = None) -> Iterator[AdaptOutcome]:
            jobs = list(jobs)
            for outcome in super().run(jobs, follow_up):
                if any(j.id == "n3" for j in jobs):
                    raise MemoryError("no memory for n3")
                yield outcome

    local = Fragile(fresh(), slots=2, token_budget=64)
    found = {o.job_id: o for o in Pool([InProcessWorker(local)], 2).run(some_jobs())}
    assert set(found) == set(expected)
    error = found["n3"].error
    assert error is not None
    assert (error.border, error.message) == ("adapt", "MemoryError: no memory for n3")
    assert all(o.error is None for name, o in found.items() if name != "n3")
    for name in ("n0", "n1", "n4", "n5", "n6"):
        assert untimed(found[name]) == expected[name]


@pytest.mark.parametrize("kind", ["local", "process"])
def test_jobs_join_while_others_train_and_nobody_waits(kind: str, pair: list[ProcessWorker]) -> None:
    """A client that waits for its outcome before it asks again keeps its slot, and the long job goes on."""
    short, long = replace(RECIPE, epochs=2), replace(RECIPE, epochs=40)
    asked = ["first"]
    told: list[str] = []

    def source() -> Iterator[AdaptJob | None]:
        yield job("long", 9, long)
        while "third" not in told:
            yield job(asked.pop(), len(told), short) if asked else None

    loop: InnerLoop = Pool(pair[:1], None) if kind == "process" else LocalInnerLoop(fresh(), slots=2)
    outcomes = {}
    for outcome in loop.run(source()):
        outcomes[outcome.job_id] = outcome
        told.append(outcome.job_id)
        if len(told) < 3:
            asked.append(("second", "third")[len(told) - 1])
    assert told == ["first", "second", "third", "long"]
    alone = LocalInnerLoop(fresh())
    for i, name in enumerate(("first", "second", "third")):
        same_outcome(*alone.run([job(name, i, short)]), outcomes[name])
    same_outcome(*alone.run([job("long", 9, long)]), outcomes["long"])
    assert list(loop.run([None, job("never asked for")])) == []


def test_an_abandoned_run_leaves_nothing_for_the_next(
    pair: list[ProcessWorker], expected: dict[str, Any]
) -> None:
    run = Pool(pair, 2).run(some_jobs())
    next(run)
    run.close()
    assert by_id(Pool(pair, 2), some_jobs()) == expected


def test_a_worker_refuses_another_model() -> None:
    with pytest.raises(AdaptError, match="can work: tiny-random-llama holds another model now"):
        list(Pool([process(version="another", loaded=None)], 2).run([job("a"), job("b")]))


def test_what_cannot_go_to_another_process_is_refused_by_name(pair: list[ProcessWorker]) -> None:
    closure = FollowUp(lambda *_: (), {"a": 1})
    with pytest.raises(ConfigError, match="cannot be sent to another process"):
        list(Pool(pair, 2).run([job("a")], closure))


def test_weights_are_in_memory_that_workers_share(tiny: Any) -> None:
    """The worker is told a source that nobody could load."""
    loaded = tiny("llama")
    worker = process(source="nowhere", loaded=shared(loaded))
    assert all(p.is_shared() for p in loaded.model.parameters())
    (outcome,) = Pool([worker], 1).run([job("blue")])
    (here,) = LocalInnerLoop(loaded).run([job("blue")])
    worker.close()
    same_outcome(outcome, here)


def test_an_engine_is_built_in_one_place() -> None:
    loaded = fresh()
    assert default_workers(loaded) == 1, "a tiny model is through before a process has started"
    assert isinstance(inner_loop(loaded, EngineSettings(), None), LocalInnerLoop)
    two = inner_loop(loaded, EngineSettings(workers=2, slots=3), None)
    assert isinstance(two, Pool)
    assert two.slots == 6
    one = inner_loop(loaded, EngineSettings(slots=5), 4)
    assert isinstance(one, Pool)
    assert (one.slots, one.batch) == (5, 4)


def test_a_worker_says_nothing_before_it_is_up() -> None:
    worker = process()
    events: list[Event] = worker.poll()
    assert (events, worker.ready) == ([], False)
    worker.close()
    with pytest.raises(AssertionError):
        worker.send(Batch(0, (job("a"),)))
