"""Many workers as one `InnerLoop`: batches go out, outcomes come back, and no worker's end loses a job.

A run's jobs are cut into batches of fixed size, so a batch's numbers are the same to the last bit whoever
runs it and however many workers there are. Free workers pull the dearest batch first: at most a third longer
than the best plan there is (Graham 1969). A worker far away is sent its next batch ahead, while there are
plenty: not when another one might be idle for want of it. A batch whose worker ended is run again, whole, by
another. After two ends inside one batch it is split, and a job that is alone in its batch then is set aside
with an error. A worker that is about to leave ends what it has and gets nothing new.

A server's jobs come one at a time, join what a worker is at, and are taken first come, first served.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from seal.batches import Batch, cost, cut
from seal.errors import AdaptError
from seal.protocols import FollowUp
from seal.records import AdaptJob, AdaptOutcome, JobError
from seal.workers.protocol import Began, Died, Done, Event, Outcome, Worker

log = logging.getLogger(__name__)

#: Between two looks at workers that have nothing to tell.
_PAUSE_S = 0.01


class Pool:
    """`InnerLoop` over workers, each with the same model. One run at a time.

    Args:
        workers: may be added to and taken from during a run.
        batch: jobs in a batch; None: single jobs, which join what a worker is at.
        pause: waits for some seconds.
        attend: called with the workers before every look at them; may add some and take some away.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        batch: int | None,
        pause: Callable[[float], None] = time.sleep,
        attend: Callable[[list[Worker]], None] | None = None,
    ) -> None:
        self.workers = list(workers)
        self.batch, self._pause, self._attend = batch, pause, attend

    @property
    def slots(self) -> int:
        """Adapters trained at once, by all workers."""
        return sum(worker.slots for worker in self.workers)

    def run(
        self, jobs: Iterable[AdaptJob | None], follow_up: FollowUp | None = None
    ) -> Iterator[AdaptOutcome]:
        """See `InnerLoop.run`. Jobs of a pool with batches join at the end of what there was.

        Raises:
            AdaptError: no worker can come up, or they end as fast as they are started.
        """
        work = _Run(jobs, follow_up, self.batch)
        try:
            while not work.finished:
                quiet = True
                if self._attend is not None:
                    self._attend(self.workers)
                work.keep(self.workers)
                for worker in list(work.workers):
                    if not worker.ready:
                        worker.start()
                    work.assign(worker)
                    for event in worker.poll():
                        work.take(worker, event)
                        quiet = False
                yield from work.outcomes()
                if quiet and not work.finished:
                    self._pause(_PAUSE_S)
        finally:
            for worker in work.held:  # what they are still at belongs to nobody now
                worker.close()

    def close(self) -> None:
        """End the workers; the next run starts them again."""
        for worker in self.workers:
            worker.close()


@dataclass(eq=False, slots=True)
class _Work:
    """Jobs that are run together until each has its outcome."""

    jobs: tuple[AdaptJob, ...]
    missing: set[str]
    number: int = -1
    begun: bool = False
    deaths: int = 0
    avoid: Worker | None = None
    """Who ended while it had them."""

    @classmethod
    def of(cls, jobs: Sequence[AdaptJob]) -> _Work:
        return cls(tuple(jobs), {job.id for job in jobs})


class _Run:
    """The books of one run: what is to do, who has what, and what has come back."""

    def __init__(
        self, jobs: Iterable[AdaptJob | None], follow_up: FollowUp | None, batch: int | None
    ) -> None:
        self._source, self._follow_up, self._size = iter(jobs), follow_up, batch
        self._todo: list[_Work] = []
        self.held: dict[Worker, list[_Work]] = {}
        """Who has what, for workers that have something."""
        self.workers: list[Worker] = []
        """Who is still counted on."""
        self._lost: list[Worker] = []
        self._out: deque[AdaptOutcome] = deque()
        self._ended = False
        self._deaths, self._why = 0, ""
        """Ends in a row, without a batch done in between, and the last one's reason."""
        self._numbers = count()

    @property
    def finished(self) -> bool:
        """Whether there is nothing more to come. Asks for more jobs when nothing is at work."""
        if self._out or self._todo or self.held:
            return False
        if not self._ended and self._size is not None:
            self._read_batches()
        return self._ended and not self._todo

    def outcomes(self) -> Iterator[AdaptOutcome]:
        """What has come back since the last call."""
        while self._out:
            yield self._out.popleft()

    def keep(self, workers: Sequence[Worker]) -> None:
        """Count on these workers; what one had that has left is done again."""
        for worker in [w for w in self.held if w not in workers]:
            self._give_back(worker, blame=False)
        self.workers = [w for w in workers if w not in self._lost]
        if not self.workers:
            raise AdaptError(
                f"no worker of the inner loop can work: {self._why or 'there is none'}",
                "use fewer workers if memory ran out",
            )

    def assign(self, worker: Worker) -> None:
        """Give `worker` as much as it has room for."""
        while (
            worker.ready
            and len(self.held.get(worker, ())) < self._room(worker)
            and (work := self._next(worker))
        ):
            work.number, work.begun = next(self._numbers), False
            self.held.setdefault(worker, []).append(work)
            about = self._follow_up and self._follow_up.only(job.id for job in work.jobs)
            worker.send(Batch(work.number, work.jobs, about, alone=self._size is not None))

    def _room(self, worker: Worker) -> int:
        """How much `worker` may have, with what there is to do now."""
        if self._size is None:
            return worker.slots
        plenty = len(self._todo) >= 2 * len(self.workers)
        return 1 + worker.ahead * plenty

    def take(self, worker: Worker, event: Event) -> None:
        """Enter what a worker tells."""
        if isinstance(event, Died):
            self._end(worker, event)
            return
        mine = self.held.get(worker, [])
        work = next((w for w in mine if w.number == event.batch), None)
        if work is None:
            return  # said twice, or by a try that was given up
        match event:
            case Began():
                work.begun = True
            case Outcome():
                work.begun = True
                if event.outcome.job_id in work.missing:
                    work.missing.remove(event.outcome.job_id)
                    self._out.append(event.outcome)
            case Done():
                self._release(worker, work)
                self._deaths = 0
                if work.missing:
                    self._again(work, "a worker gave no outcome", blame=True)

    def _next(self, worker: Worker) -> _Work | None:
        if self._size is None and not self._todo:
            self._read_one()
        others = [w for w in self.workers if w is not worker and w.ready]
        for work in self._todo:
            if work.avoid is not worker or not others:
                self._todo.remove(work)
                return work
        return None

    def _read_one(self) -> None:
        job = next(self._source, None)
        if job is not None:
            self._todo.append(_Work.of([job]))
        elif not self.held and not self._out:  # who gets an outcome may ask for more
            self._ended = True

    def _read_batches(self) -> None:
        assert self._size is not None
        jobs: list[AdaptJob] = []
        for job in self._source:
            if job is None:
                break
            jobs.append(job)
        self._todo = [_Work.of(part) for part in cut(jobs, self._size)]
        self._todo.sort(key=lambda work: -sum(map(cost, work.jobs)))
        self._ended = not jobs

    def _release(self, worker: Worker, work: _Work) -> None:
        self.held[worker].remove(work)
        if not self.held[worker]:
            del self.held[worker]

    def _give_back(self, worker: Worker, *, blame: bool, why: str = "") -> None:
        for work in self.held.pop(worker, []):
            work.avoid = worker
            self._again(work, why, blame=blame and work.begun)

    def _again(self, work: _Work, why: str, *, blame: bool) -> None:
        """Put back what is not done: whole, in halves after two ends inside it, or not at all."""
        work.deaths += blame
        if not work.missing:
            return
        if work.deaths < 2:
            self._todo.append(work)
            return
        left = [job for job in work.jobs if job.id in work.missing]
        if len(work.jobs) == 1:
            log.error("job %s is set aside: %s", left[0].id, why)
            self._out.append(AdaptOutcome(left[0].id, error=JobError(AdaptError.border, why)))
            return
        half = -(-len(left) // 2)
        self._todo += [_Work.of(part) for part in (left[:half], left[half:]) if part]

    def _end(self, worker: Worker, event: Died) -> None:
        why = event.why.strip().partition("\n")[0][:300]  # a native trace may follow
        self._deaths, self._why = self._deaths + 1, why
        log.warning("a worker ended: %s", why)
        if event.for_good:
            self._lost.append(worker)
        # The search for one poisoned job in a batch takes two ends a halving.
        most = 2 * ((self._size or 1).bit_length() + 1) + len(self.workers)
        if self._deaths > most:
            raise AdaptError(
                f"{self._deaths} workers of the inner loop ended, one after the other: {why}",
                "use fewer workers or smaller batches if memory ran out",
            )
        self._give_back(worker, blame=not event.innocent, why=why)
