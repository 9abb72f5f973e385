"""The pool under ten thousand schedules of trouble: each worker is a seeded script on a clock that jumps.

Scripts have slow starts, deaths before and inside a batch, messages that are lost or come twice, jobs that
kill whoever runs them, and workers that join and leave, some with notice. Whatever happens, every job has
exactly one outcome, and no more is done again than what was under way when something went wrong.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count

import pytest

from seal.batches import Batch, cut
from seal.errors import AdaptError
from seal.pool import Pool
from seal.records import AdaptJob, AdaptOutcome, TrainingConfig, TrainingSequence
from seal.workers.protocol import Began, Died, Done, Event, Outcome, Worker

TRAINING = TrainingConfig(epochs=1)


def jobs_of(n: int) -> list[AdaptJob]:
    return [AdaptJob(f"j{i}", (TrainingSequence((0,) * (1 + i * 7 % 5)),), TRAINING, (), i) for i in range(n)]


@dataclass
class World:
    """The clock, the dice, and what really happened."""

    dice: random.Random
    poison: frozenset[str] = frozenset()
    now: float = 0.0
    deaths_left: int = 3
    losses_left: int = 3
    computed: Counter[str] = field(default_factory=Counter)
    """How often each job was worked on to its end."""
    allowed: Counter[str] = field(default_factory=Counter)
    """How often it was under way when something went wrong,"""
    harmed_alone: Counter[str] = field(default_factory=Counter)
    """and how often that was inside a batch of its own."""
    plans: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    workers: list[ScriptedWorker] = field(default_factory=list)

    def chance(self, share: float) -> bool:
        return self.dice.random() < share

    def pause(self, seconds: float) -> None:
        """To the next moment at which anything happens."""
        times = [w.next_time for w in self.workers] + [at for at, _ in self.plans]
        later = [t for t in times if t > self.now]
        assert later, "everybody waits for nothing"
        self.now = min(later)
        due, self.plans = (
            [p for p in self.plans if p[0] <= self.now],
            [p for p in self.plans if p[0] > self.now],
        )
        for _, act in due:
            act()


class ScriptedWorker:
    """A worker whose every step is a throw of the world's dice."""

    def __init__(self, world: World, slots: int, ahead: int = 0) -> None:
        self.world, self.slots, self.ahead = world, slots, ahead
        self._busy_until = 0.0
        self._up_at: float | None = None
        self._said = False
        self._script: list[tuple[float, Event | str]] = []
        self.held: dict[int, Batch] = {}
        self._begun: set[int] = set()
        self._leaving = self._returns = False
        self.gone = False
        """Whether it has left, as it said it would."""
        world.workers.append(self)

    @property
    def next_time(self) -> float:
        coming = [at for at, _ in self._script]
        if self._up_at is not None:
            coming.append(self._up_at)
        return min((t for t in coming if t > self.world.now), default=float("inf"))

    @property
    def ready(self) -> bool:
        return self._up_at is not None and self._up_at <= self.world.now and not self._leaving

    def announce(self, returns: bool) -> None:
        """It is about to leave, and comes back in another place or not."""
        self._leaving, self._returns = True, returns

    def start(self) -> None:
        if self._up_at is None and not self.gone:
            self._up_at = self.world.now + self.world.dice.choice([0.0, 0.5, 20.0])

    def send(self, batch: Batch) -> None:
        assert self.ready
        assert len(self.held) < (1 + self.ahead if batch.alone else self.slots)
        world, dice = self.world, self.world.dice
        self.held[batch.number] = batch
        at = max(world.now, self._busy_until if batch.alone else 0.0) + dice.random()
        if world.deaths_left and world.chance(0.05):
            world.deaths_left -= 1
            self._script.append((at, Died("struck by lightning")))
            return
        self._script.append((at, f"began {batch.number}"))
        self._say(at, Began(batch.number), may_be_lost=True)
        dies_at = len(batch.jobs)
        if world.deaths_left and world.chance(0.1):
            world.deaths_left -= 1
            dies_at = dice.randrange(len(batch.jobs) + 1)
        for i, job in enumerate(batch.jobs):
            at += dice.random() * 3
            if i == dies_at or job.id in world.poison:
                left = job.id not in world.poison and world.chance(0.5)  # with its machine
                self._script.append((at, Died("killed by a job", innocent=left)))
                return
            self._script.append((at, job.id))
            self._say(at, Outcome(batch.number, AdaptOutcome(job.id)), may_be_lost=True)
        self._busy_until = at
        self._say(at, Done(batch.number))

    def _say(self, at: float, event: Event, may_be_lost: bool = False) -> None:
        world = self.world
        if may_be_lost and world.losses_left and world.chance(0.03):
            world.losses_left -= 1
            if isinstance(event, Outcome):
                self._begun.add(event.batch)
                self._harm(self.held[event.batch])
            return
        self._script.append((at, event))
        if world.chance(0.05):
            self._script.append((at + world.dice.random() * 5, event))

    def poll(self) -> list[Event]:
        due = sorted((x for x in self._script if x[0] <= self.world.now), key=lambda x: x[0])
        self._script = [x for x in self._script if x[0] > self.world.now]
        events: list[Event] = []
        for _, event in due:
            if isinstance(event, str) and event.startswith("began "):
                self._begun.add(int(event.removeprefix("began ")))
                continue
            if isinstance(event, str):
                self.world.computed[event] += 1
                continue
            events.append(event)
            if isinstance(event, Done):
                self.held.pop(event.batch, None)
            if isinstance(event, Died):
                self._fall(event.innocent)
                break
        if self._leaving and not self.held:
            self._fall()
            self._leaving, self.gone = False, not self._returns
            self._up_at = self.world.now + self.world.dice.choice([0.5, 20.0]) if self._returns else None
        return events

    def _fall(self, innocent: bool = False) -> None:
        for batch in self.held.values():
            self._harm(batch, innocent)
        self._script, self.held, self._up_at, self._busy_until = [], {}, None, 0.0

    def _harm(self, batch: Batch, innocent: bool = False) -> None:
        self.world.allowed.update(job.id for job in batch.jobs)
        if len(batch.jobs) == 1 and batch.number in self._begun and not innocent:
            self.world.harmed_alone[batch.jobs[0].id] += 1

    close = _fall


def play(seed: int, *, only_notices: bool = False) -> None:
    """One schedule; `only_notices`: nothing goes wrong, but workers say that they leave, and leave."""
    dice = random.Random(seed)
    jobs = jobs_of(dice.randrange(1, 14))
    poison = frozenset({dice.choice(jobs).id} if dice.random() < 0.3 and not only_notices else ())
    world = World(dice, poison)
    if only_notices:
        world.deaths_left = world.losses_left = 0
    size = dice.choice([1, 2, 3, 4, 4, None])
    ahead = dice.choice([0, 1])
    workers = [ScriptedWorker(world, dice.randrange(1, 4), ahead) for _ in range(dice.randrange(1, 5))]

    def let_go(there: list[Worker]) -> None:
        there[:] = [w for w in there if not (isinstance(w, ScriptedWorker) and w.gone and not w.held)]

    pool = Pool(workers, size, world.pause, let_go)

    def leave(worker: ScriptedWorker) -> None:
        if worker not in pool.workers:
            return  # it had left before
        pool.workers.remove(worker)
        worker.close()

    for worker in workers[1:]:
        if world.chance(0.2) and not only_notices:
            world.plans.append((dice.random() * 20, lambda worker=worker: leave(worker)))  # type: ignore[misc]
    for _ in range(dice.choice([0, 0, 1, 2])):
        new = ScriptedWorker(world, dice.randrange(1, 4), ahead)
        world.plans.append((dice.random() * 20, lambda new=new: pool.workers.append(new)))  # type: ignore[misc]

    for worker in workers:
        if world.chance(0.9 if only_notices else 0.2):
            returns = worker is workers[0] or world.chance(0.5)
            world.plans.append((dice.random() * 20, partial(worker.announce, returns)))

    got: list[AdaptOutcome] = []

    def source() -> Iterator[AdaptJob | None]:
        for n, job in enumerate(jobs):
            while size is None and n > len(got) and world.chance(0.3):
                yield None
            yield job

    for outcome in pool.run(source()):
        got.append(outcome)  # noqa: PERF402 - the source looks at it meanwhile
    assert sorted(o.job_id for o in got) == sorted(job.id for job in jobs), seed
    for outcome in got:
        aside = outcome.error is not None
        assert aside or outcome.job_id not in poison, seed
        assert not aside or outcome.job_id in poison or world.harmed_alone[outcome.job_id] >= 2, seed
    for name, times in world.computed.items():
        assert times <= 1 + world.allowed[name], (seed, name)
    assert not any(worker.held for worker in pool.workers) or size is not None, seed


@pytest.mark.parametrize("thousand", range(10))
def test_a_thousand_schedules(thousand: int) -> None:
    for seed in range(1000 * thousand, 1000 * thousand + 1000):
        play(seed)


def test_nothing_is_done_again_for_who_says_that_it_leaves() -> None:
    """Nothing was under way when something went wrong, as nothing went wrong."""
    for seed in range(1000):
        play(seed, only_notices=True)


class Obedient:
    """A worker that does what it is sent at once, and tells the test what that was."""

    slots, ahead = 2, 0

    def __init__(self, log: list[tuple[str, ...]], name: str = "", dies: bool = False) -> None:
        self.log, self.name, self.dies, self.ready = log, name, dies, True
        self._events: list[Event] = []

    def start(self) -> None:
        self.ready = True

    def send(self, batch: Batch) -> None:
        self.log.append(tuple(job.id for job in batch.jobs))
        self._events.append(Began(batch.number))
        if self.dies:
            self._events.append(Died("out of memory"))
            return
        self._events += [Outcome(batch.number, AdaptOutcome(job.id)) for job in batch.jobs]
        self._events.append(Done(batch.number))

    def poll(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        self._events = []


def pool_of(*workers: Obedient, batch: int | None = 3) -> Pool:
    return Pool(workers, batch, pause=lambda _: None)


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_the_make_up_of_batches_does_not_depend_on_the_workers(n: int) -> None:
    log: list[tuple[str, ...]] = []
    jobs = jobs_of(11)
    assert len(list(pool_of(*(Obedient(log) for _ in range(n))).run(jobs))) == 11
    assert sorted(log) == sorted(tuple(job.id for job in batch) for batch in cut(jobs, 3))


def test_what_is_left_of_a_run_is_cut_as_the_whole_was() -> None:
    jobs = jobs_of(11)
    whole = cut(jobs, 3)
    left = [job for batch in (*whole[:1], *whole[2:]) for job in batch]
    assert cut(left, 3) == [*whole[:1], *whole[2:]]


def test_the_dearest_batch_goes_first() -> None:
    log: list[tuple[str, ...]] = []
    small, large = jobs_of(2)
    large = AdaptJob("large", large.sequences, TrainingConfig(epochs=100), (), 0)
    list(pool_of(Obedient(log), batch=1).run([small, large]))
    assert log == [("large",), ("j0",)]


def test_a_worker_far_away_is_sent_a_batch_ahead_while_there_are_plenty() -> None:
    most: list[int] = []

    class Far(Obedient):
        ahead = 1

        def poll(self) -> list[Event]:
            most.append(sum(isinstance(event, Began) for event in self._events))
            cut = next((i for i, event in enumerate(self._events) if isinstance(event, Done)), -1) + 1
            events, self._events = self._events[:cut], self._events[cut:]
            return events

    log: list[tuple[str, ...]] = []
    outcomes = list(Pool([Far(log), Far(log)], 1).run(jobs_of(9)))
    assert len(outcomes) == len(log) == 9
    assert max(most) == 2
    assert most[-2:] == [1, 0] or max(most[-4:]) == 1, "the last ones are pulled"


def test_single_jobs_are_taken_first_come_first_served_and_as_many_as_there_is_room_for() -> None:
    log: list[tuple[str, ...]] = []
    taken: list[str] = []

    def source() -> Iterator[AdaptJob]:
        for job in jobs_of(6):
            taken.append(job.id)
            yield job

    outcomes = pool_of(Obedient(log), batch=None).run(source())
    next(outcomes)
    assert taken == ["j0", "j1"]
    assert [o.job_id for o in outcomes] == [f"j{i}" for i in range(1, 6)]
    assert log == [(f"j{i}",) for i in range(6)]


def test_workers_that_end_as_fast_as_they_start_end_the_run() -> None:
    log: list[tuple[str, ...]] = []
    with pytest.raises(AdaptError, match="workers of the inner loop ended, one after the other: out of mem"):
        list(pool_of(Obedient(log, dies=True), Obedient(log, dies=True)).run(jobs_of(9)))


def test_a_worker_that_cannot_come_up_leaves_its_share_to_the_others() -> None:
    log: list[tuple[str, ...]] = []

    class Broken(Obedient):
        def start(self) -> None:
            self._events = [Died("no such model", for_good=True)]

    broken = Broken(log)
    broken.ready = False
    assert len(list(pool_of(broken, Obedient(log)).run(jobs_of(7)))) == 7
    with pytest.raises(AdaptError, match="no worker of the inner loop can work: no such model"):
        list(pool_of(broken).run(jobs_of(7)))


def test_a_batch_does_not_wait_for_a_worker_that_is_not_up() -> None:
    """It would rather not go back to the worker that ended while it had it, but there is no other."""
    log: list[tuple[str, ...]] = []

    class Once(Obedient):
        def send(self, batch: Batch) -> None:
            super().send(batch)
            self.dies = False

    class Pending(Obedient):
        def start(self) -> None:
            """There is no room for it yet."""

    pending, pauses = Pending(log), count()
    pending.ready = False

    def pause(seconds: float) -> None:
        assert next(pauses) < 100, "everybody waits for nothing"

    pool = Pool([Once(log, dies=True), pending], 2, pause)
    assert len(list(pool.run(jobs_of(4)))) == 4
    assert len(log) == 3
    assert set(log) == {("j0", "j1"), ("j2", "j3")}


def test_an_abandoned_run_closes_who_is_at_work() -> None:
    closed: list[str] = []

    class Slow(Obedient):
        def poll(self) -> list[Event]:
            events, self._events = self._events[:2], self._events[2:]
            return events

        def close(self) -> None:
            closed.append(self.name)

    run = pool_of(Slow([], "busy"), Obedient([], "idle"), batch=4).run(jobs_of(8))
    assert next(run).job_id
    run.close()
    assert closed == ["busy"]
