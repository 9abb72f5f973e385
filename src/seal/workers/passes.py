"""Batches through an inner loop, as events; the same for every worker that has an engine of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from seal.batches import Batch
from seal.protocols import InnerLoop
from seal.records import AdaptJob
from seal.workers.protocol import Began, Done, Event, Outcome


def run_batch(loop: InnerLoop, batch: Batch) -> Iterator[Event]:
    """A batch by itself."""
    yield Began(batch.number)
    for outcome in loop.run(batch.jobs, batch.follow_up):
        yield Outcome(batch.number, outcome)
    yield Done(batch.number)


def run_joined(loop: InnerLoop, first: Batch, more: Callable[[], Batch | None]) -> Iterator[Event]:
    """`first` and the batches that `more` gives while they are at work (None: none now), in one pass."""
    news: list[Event] = []
    open_jobs: dict[str, int] = {}
    left: dict[int, int] = {}
    about = dict(first.follow_up.about) if first.follow_up else {}

    def jobs() -> Iterator[AdaptJob | None]:
        batch: Batch | None = first
        while True:
            if batch is not None:
                about.update(batch.follow_up.about if batch.follow_up else {})
                news.append(Began(batch.number))
                left[batch.number] = len(batch.jobs)
                open_jobs.update({job.id: batch.number for job in batch.jobs})
                yield from batch.jobs
            else:
                yield None
            batch = more()

    follow_up = replace(first.follow_up, about=about) if first.follow_up else None
    for outcome in loop.run(jobs(), follow_up):
        yield from news
        news.clear()
        number = open_jobs.pop(outcome.job_id)
        yield Outcome(number, outcome)
        left[number] -= 1
        if not left[number]:
            yield Done(number)
